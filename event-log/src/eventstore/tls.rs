//! What the client library would panic at, looked at before: certificates, keys, and who provides the cryptography.

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::url::ClusterUrl;

/// Why no secure connection can be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsFault {
    #[error(
        "the certificates in {file} (tlsCaFile) cannot be used: {reason}; it holds PEM certificates of those who sign the cluster's"
    )]
    Authority { file: String, reason: String },
    #[error(
        "the certificates of this system cannot be used: {0}; name a PEM file by tlsCaFile in the URL, or by the variable SSL_CERT_FILE"
    )]
    System(String),
    #[error(
        "the client's certificate {file} (userCertFile) or its key (userKeyFile) cannot be used: {reason}"
    )]
    Client { file: String, reason: String },
    /// The client library insists on being first, once in the life of a process.
    #[error(
        "another part of this program has chosen the cryptography before the client of the cluster could; open the log before anything else uses TLS"
    )]
    Provider,
}

/// Whether the client library will find what it needs.
pub(super) fn check(url: &ClusterUrl) -> Result<(), TlsFault> {
    if !url.tls() {
        return Ok(());
    }
    let roots = match url.option("tlscafile") {
        Some(file) => {
            of_file(file).map_err(|reason| TlsFault::Authority { file: file.to_owned(), reason })?
        }
        None => of_system().map_err(TlsFault::System)?,
    };
    if let Some((file, key)) = url.option("usercertfile").zip(url.option("userkeyfile")) {
        client(roots, file, key).map_err(|reason| TlsFault::Client { file: file.to_owned(), reason })?;
    }
    Ok(())
}

fn of_file(file: &str) -> Result<RootCertStore, String> {
    roots(certificates(file)?)
}

fn of_system() -> Result<RootCertStore, String> {
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

fn client(roots: RootCertStore, certificate: &str, key: &str) -> Result<(), String> {
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

    fn with(options: &str) -> Result<(), TlsFault> {
        check(&format!("esdb://localhost?{options}").parse().unwrap())
    }

    #[test]
    fn files_that_hold_no_certificate_are_named() {
        let empty = tempfile::NamedTempFile::new().unwrap();
        let broken = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&broken, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        for file in [empty.path(), broken.path(), std::path::Path::new("/nonexistent")] {
            let fault = with(&format!("tlsCaFile={}", file.display())).unwrap_err();
            assert!(fault.to_string().contains(&file.display().to_string()), "{fault}");
            // Without TLS nobody looks at it.
            assert_eq!(with(&format!("tls=false&tlsCaFile={}", file.display())), Ok(()));
        }
    }
}
