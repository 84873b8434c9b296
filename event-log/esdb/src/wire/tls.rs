//! The TLS certificate of the server.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The PEM files of the server's certificate and key, which are read at the start of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsIdentity {
    /// The server's certificate first, then the chain that signed it.
    pub certificates: PathBuf,
    pub key: PathBuf,
}

/// The certificate or the key cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the certificate or its key in {} cannot be used: {reason}; both must be PEM files that belong together", file.display())]
pub struct InvalidTlsIdentity {
    file: PathBuf,
    reason: String,
}

impl TlsIdentity {
    /// The acceptor for TLS connections.
    pub(super) fn acceptor(&self) -> Result<TlsAcceptor, InvalidTlsIdentity> {
        let certificates: Vec<_> = CertificateDer::pem_file_iter(&self.certificates)
            .and_then(Iterator::collect)
            .map_err(|error| unusable(&self.certificates, &error))?;
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|error| unusable(&self.key, &error))?;
        // Not installed for the whole process, because the client of a cluster must install its own.
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(certificates, key))
            .map_err(|error| unusable(&self.certificates, &error))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

fn unusable(file: &Path, error: &dyn std::error::Error) -> InvalidTlsIdentity {
    InvalidTlsIdentity { file: file.to_owned(), reason: error.to_string() }
}
