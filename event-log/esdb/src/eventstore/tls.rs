//! Checks before connecting what the client library would panic at: certificates, keys, and the cryptography provider.

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::url::ClusterUrl;

/// An error that prevents a TLS connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    #[error(
        "the certificates in {file} (tlsCaFile) cannot be used: {reason}; the file must hold the PEM certificates of the authority that signed the cluster's"
    )]
    Authority { file: String, reason: String },
    #[error(
        "the certificates of this system cannot be used: {0}; name a PEM file with tlsCaFile in the URL, or in the variable SSL_CERT_FILE"
    )]
    System(String),
    #[error(
        "the client's certificate {file} (userCertFile) or its key (userKeyFile) cannot be used: {reason}"
    )]
    Client { file: String, reason: String },
    /// The client library must install its provider first, once per process.
    #[error(
        "another part of this program installed a cryptography provider before the client of the cluster; open the log before anything else uses TLS"
    )]
    Provider,
}

/// Checks that the client library will be able to load the certificates and keys that the URL names.
pub(super) fn check(url: &ClusterUrl) -> Result<(), TlsError> {
    if !url.tls() {
        return Ok(());
    }
    let roots = match url.option("tlscafile") {
        Some(file) => {
            roots_from_file(file).map_err(|reason| TlsError::Authority { file: file.to_owned(), reason })?
        }
        None => system_roots().map_err(TlsError::System)?,
    };
    if let Some((file, key)) = url.option("usercertfile").zip(url.option("userkeyfile")) {
        check_client_certificate(roots, file, key)
            .map_err(|reason| TlsError::Client { file: file.to_owned(), reason })?;
    }
    Ok(())
}

fn roots_from_file(file: &str) -> Result<RootCertStore, String> {
    roots(certificates(file)?)
}

fn system_roots() -> Result<RootCertStore, String> {
    let loaded = rustls_native_certs::load_native_certs();
    if let Some(error) = loaded.errors.first() {
        return Err(error.to_string());
    }
    roots(loaded.certs)
}

fn certificates(file: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(file).map_err(|error| error.to_string())?;
    read.collect::<Result<_, _>>().map_err(|error| error.to_string())
}

fn roots(certificates: Vec<CertificateDer<'static>>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() { Err("there are none".to_owned()) } else { Ok(roots) }
}

fn check_client_certificate(roots: RootCertStore, certificate: &str, key: &str) -> Result<(), String> {
    let chain = certificates(certificate)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| error.to_string())?;
    ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .map(|config| config.with_root_certificates(roots))
        .and_then(|config| config.with_client_auth_cert(chain, key))
        .map(|_| ())
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_options(options: &str) -> Result<(), TlsError> {
        check(&format!("esdb://localhost?{options}").parse().unwrap())
    }

    #[test]
    fn a_file_without_certificates_is_named_in_the_error() {
        let empty = tempfile::NamedTempFile::new().unwrap();
        let broken = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&broken, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        for file in [empty.path(), broken.path(), std::path::Path::new("/nonexistent")] {
            let error = check_options(&format!("tlsCaFile={}", file.display())).unwrap_err();
            assert!(error.to_string().contains(&file.display().to_string()), "{error}");
            // Without TLS the file is not read.
            assert_eq!(check_options(&format!("tls=false&tlsCaFile={}", file.display())), Ok(()));
        }
    }
}
