//! The client of other HTTP services: of the game and rating services, of an identity provider, of a server.

use std::sync::Arc;

use reqwest::{Client, ClientBuilder, Url};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};

/// A builder of a client for this address. Over https it trusts the system's certificates, or those of `SSL_CERT_FILE`.
///
/// # Errors
/// If TLS cannot be set up.
pub fn builder(address: &Url) -> Result<ClientBuilder, rustls::Error> {
    let mut trusted = RootCertStore::empty();
    // They take milliseconds to load.
    if address.scheme() == "https" {
        let found = rustls_native_certs::load_native_certs();
        let (usable, _) = trusted.add_parsable_certificates(found.certs);
        if usable == 0 {
            tracing::warn!(errors = ?found.errors, "no certificate authority is trusted; install the package ca-certificates, or set SSL_CERT_FILE");
        }
    }
    // The provider of the process is for the client of EventStoreDB to choose: it fails if there is one.
    let tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(trusted)
        .with_no_client_auth();
    Ok(Client::builder().use_preconfigured_tls(tls))
}

/// An address over http or https that paths can be added to, or None for another text.
pub fn address(text: &str) -> Option<Url> {
    // Checked before a path is added: `http://` alone would take the path for a host.
    Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}
