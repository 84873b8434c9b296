//! The common parts of all calls: an address that is checked when it is configured, a timeout, no redirects, and short
//! responses.

use std::time::Duration;

use reqwest::{Client, Response, Url};

/// The timeout of a connection attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest response that is read, in bytes.
const RESPONSE_BYTES_MAX: usize = 64 * 1024;

/// The reason why an external service cannot be used as configured.
#[derive(Debug, thiserror::Error)]
pub enum InvalidService {
    /// The address is not shown, because it may contain a password.
    #[error(
        "the address must have the form http://host:port; https is not supported, so put a proxy before a service that needs it"
    )]
    Address,
    #[error("the HTTP client cannot be created: {0}")]
    Client(reqwest::Error),
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
    // Checked before a path is added: `http://` alone would take the path for a host.
    let url = Url::parse(text).map_err(|_| InvalidService::Address)?;
    if url.scheme() == "http" && url.has_host() { Ok(url) } else { Err(InvalidService::Address) }
}

/// A client whose calls, with their responses, end within `timeout`.
pub(crate) fn client(timeout: Duration) -> Result<Client, InvalidService> {
    Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(timeout)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(InvalidService::Client)
}

/// Reads the whole of a short response.
pub(crate) async fn read(mut response: Response) -> Result<Vec<u8>, TransportError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > RESPONSE_BYTES_MAX {
            return Err(TransportError::TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
