//! Tokens that an identity provider signs, whose keys the server fetches over https.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::KeyPair;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, crypto::aws_lc_rs};

use crate::support::certificates::Certificates;
use crate::support::server::Server;
use crate::support::wait_until;

/// Serves the body to all requests; the address.
async fn serve_over_https(certificates: &Certificates, body: String) -> String {
    let certificate = CertificateDer::from_pem_file(certificates.path("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(certificates.path("server.key")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let (acceptor, listener) =
        (TlsAcceptor::from(Arc::new(config)), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let address = format!("https://localhost:{}/keys", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        loop {
            let (connection, _) = listener.accept().await.unwrap();
            // A client that does not trust the certificate ends the handshake.
            let Ok(mut connection) = acceptor.accept(connection).await else { continue };
            let mut request = [0; 4096];
            let _ = connection.read(&mut request).await;
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _ = connection.write_all(format!("{head}{body}").as_bytes()).await;
            let _ = connection.shutdown().await;
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_a_trusted_identity_provider_are_fetched_over_https() {
    let (certificates, key) = (Certificates::new(), KeyPair::generate().unwrap());
    let (x, y) = key.public_key_raw()[1..].split_at(32);
    let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
    let keys = json!({"keys": [{"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": "one"}]});
    let url = serve_over_https(&certificates, keys.to_string()).await;
    let claims = json!({"sub": "ann", "roles": ["user"], "iss": "matchbook", "aud": "matchbook", "exp": 4_000_000_000_u64});
    let header = Header { kid: Some("one".to_owned()), ..Header::new(Algorithm::ES256) };
    let token =
        jsonwebtoken::encode(&header, &claims, &EncodingKey::from_ec_der(&key.serialize_der())).unwrap();
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str())];

    // This server does not trust the certificate.
    let mut server = Server::start(&[&format!("--jwks-url={url}")]).await;
    server.send(reqwest::Method::GET, "/jobs", &headers, None).await.problem(401);

    server.kill();
    server.restart_under(&["env".to_owned(), format!("SSL_CERT_FILE={}", certificates.path("ca.pem"))]).await;
    wait_until("the token is accepted", async || {
        server.send(reqwest::Method::GET, "/jobs", &headers, None).await.status == 200
    })
    .await;
}
