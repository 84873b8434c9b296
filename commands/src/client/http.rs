//! What all calls have in common: an address that is checked when it is set, a time limit, no redirects, short answers.

use std::time::Duration;

use reqwest::{Client, Response, Url};

/// The longest wait for a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// The longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Why a service that is not ours cannot be used as it is set.
#[derive(Debug, thiserror::Error)]
pub enum InvalidService {
    /// It is not shown, as there may be a password in it.
    #[error(
        "the address must be as http://host:port; https is not spoken, so put a proxy before a service that asks for it"
    )]
    Address,
    #[error("the HTTP client cannot be made: {0}")]
    Client(reqwest::Error),
}

/// Why there is no answer, said of the service in words that name no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoAnswer {
    #[error("did not answer in time")]
    Late,
    #[error("cannot be reached")]
    Unreachable,
    #[error("broke the connection")]
    Broken,
    #[error("answers at too great a length")]
    TooLong,
}

impl From<reqwest::Error> for NoAnswer {
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
pub(super) fn address(text: &str) -> Result<Url, InvalidService> {
    // Looked at before anything is added to it: `http://` alone would take the path for a host.
    let url = Url::parse(text).map_err(|_| InvalidService::Address)?;
    if url.scheme() == "http" && url.has_host() { Ok(url) } else { Err(InvalidService::Address) }
}

/// A client whose every call ends within `timeout`, its answer read.
pub(super) fn client(timeout: Duration) -> Result<Client, InvalidService> {
    Client::builder()
        .connect_timeout(CONNECT_WITHIN)
        .timeout(timeout)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(InvalidService::Client)
}

/// The whole of a short answer.
pub(super) async fn read(mut answer: Response) -> Result<Vec<u8>, NoAnswer> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(NoAnswer::TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
