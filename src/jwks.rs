//! Fetches the keys of the identity provider (JWKS), and follows their rotation.

use std::time::Duration;

use reqwest::{Client, Url};
use web::caller::{Auth, Jwks};
use web::http_client;

use crate::failure::Failure;

/// The interval at which the keys are fetched, if no token asks for them earlier.
const REFRESH_EVERY: Duration = Duration::from_secs(60);

/// The timeout of a call, with its response.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The longest response that is read, in bytes.
const RESPONSE_BYTES_MAX: usize = 256 * 1024;

/// The address of the keys.
#[derive(Debug)]
pub(crate) struct JwksClient {
    http: Client,
    url: Url,
}

impl JwksClient {
    /// # Errors
    /// An address that cannot be used.
    pub(crate) fn new(url: &str) -> Result<Self, Failure> {
        let refused = |reason: &dyn std::fmt::Display| Failure::Usage(format!("--jwks-url: {reason}"));
        let url = http_client::address(url)
            .ok_or_else(|| refused(&"the address must have the form https://host:port/path, or http://"))?;
        let http = http_client::builder(&url).map_err(|error| refused(&error))?;
        let http = http.timeout(TIMEOUT).redirect(reqwest::redirect::Policy::none()).build();
        Ok(Self { http: http.map_err(|error| refused(&error))?, url })
    }

    /// Fetches the keys as long as the server runs: at once, every minute, and when a token names a key that is not known.
    pub(crate) async fn follow(self, auth: Auth) {
        loop {
            let keys = self.fetch().await;
            if let Err(error) = &keys {
                tracing::warn!(%error, url = %self.url, "cannot fetch the keys of tokens; the previous ones stay valid");
            }
            auth.set_jwks(keys.ok());
            // A token may ask earlier.
            let _ = tokio::time::timeout(REFRESH_EVERY, auth.jwks_wanted()).await;
        }
    }

    async fn fetch(&self) -> Result<Jwks, String> {
        let response =
            self.http.get(self.url.clone()).send().await.and_then(reqwest::Response::error_for_status);
        let mut response = response.map_err(|error| error.without_url().to_string())?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| error.without_url().to_string())? {
            if body.len() + chunk.len() > RESPONSE_BYTES_MAX {
                return Err(format!("the response is longer than {RESPONSE_BYTES_MAX} bytes"));
            }
            body.extend_from_slice(&chunk);
        }
        Jwks::parse(&body).map_err(|error| error.to_string())
    }
}
