//! The common parts of all calls: an address that is checked when it is configured, a timeout, no redirects, and short
//! responses.

use std::time::Duration;

use reqwest::{Client, Response, Url};
use web::http_client;

/// The timeout of a connection attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest response that is read, in bytes.
const RESPONSE_BYTES_MAX: usize = 64 * 1024;

/// The reason why an external service cannot be used as configured.
#[derive(Debug, thiserror::Error)]
pub enum InvalidService {
    /// The address is not shown, because it may contain a password.
    #[error("the address must have the form http://host:port or https://host:port")]
    Address,
    #[error("the token contains letters that an HTTP header cannot have; check its file")]
    Token,
    #[error("the HTTP client cannot be created: {0}")]
    Client(#[from] reqwest::Error),
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// The reason why there is no response. The texts are predicates of the service and contain no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TransportError {
    #[error("did not respond in time")]
    Late,
    #[error("cannot be reached")]
    Unreachable,
    #[error("closed the connection")]
    Broken,
    #[error("sent too long a response")]
    TooLong,
}

impl From<reqwest::Error> for TransportError {
    fn from(error: reqwest::Error) -> Self {
        if error.is_timeout() {
            Self::Late
        } else if error.is_connect() {
            Self::Unreachable
        } else {
            Self::Broken
        }
    }
}

/// An address that paths can be added to.
pub(crate) fn address(text: &str) -> Result<Url, InvalidService> {
    http_client::address(text).ok_or(InvalidService::Address)
}

/// A client of this address whose calls, with their responses, end within `timeout`.
pub(crate) fn client(address: &Url, timeout: Duration) -> Result<Client, InvalidService> {
    let builder = http_client::builder(address)?.connect_timeout(CONNECT_TIMEOUT).timeout(timeout);
    Ok(builder.redirect(reqwest::redirect::Policy::none()).build()?)
}

/// Reads the whole of a short response.
pub(crate) async fn read(response: Response) -> Result<Vec<u8>, TransportError> {
    read_at_most(response, RESPONSE_BYTES_MAX).await
}

/// Reads the whole of a response of at most `max` bytes.
pub(crate) async fn read_at_most(mut response: Response, max: usize) -> Result<Vec<u8>, TransportError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > max {
            return Err(TransportError::TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
