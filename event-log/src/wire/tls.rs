//! The certificate that the server shows to its clients.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Where the server's certificate and its key are: PEM files, read when the server starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The server's certificate first, then those that it is signed by.
    pub certificates: PathBuf,
    pub key: PathBuf,
}

/// The files hold nothing to show.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the certificate or its key in {} cannot be used: {reason}; both are PEM files, and belong together", file.display())]
pub struct NotAnIdentity {
    file: PathBuf,
    reason: String,
}

impl Identity {
    /// What agrees with a client on the encryption.
    pub(super) fn acceptor(&self) -> Result<TlsAcceptor, NotAnIdentity> {
        let certificates: Vec<_> = CertificateDer::pem_file_iter(&self.certificates)
            .and_then(Iterator::collect)
            .map_err(|error| unusable(&self.certificates, &error))?;
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|error| unusable(&self.key, &error))?;
        // Named here, not installed for the whole process: the client of a cluster insists on installing its own.
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(certificates, key))
            .map_err(|error| unusable(&self.certificates, &error))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

fn unusable(file: &Path, error: &dyn std::error::Error) -> NotAnIdentity {
    NotAnIdentity { file: file.to_owned(), reason: error.to_string() }
}
