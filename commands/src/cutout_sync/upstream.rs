//! The client of the system that cutouts come from.
//!
//! `GET {url}?tenant=…&limit=…&sort=id&page=…` returns `{"items": [{"id", "image_url", "predicted_upc"}], "has_more", "total",
//! "next_cursor"}`; after an answer with a `next_cursor`, `cursor=…` replaces `page=…`. `docs/cutouts.md` describes it. Every
//! call has a timeout, follows no redirect and reads a bounded response.

use std::fmt;
use std::time::Duration;

use event_schemas::cutout::CutoutId;
use event_schemas::ids::Tenant;
use reqwest::header::{AUTHORIZATION, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, Url};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::engine::http::{self, TransportError};

pub use crate::engine::http::InvalidService;

/// The longest page that is read, in bytes.
const PAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The most items of a page; a longer one does not keep to the limit that was asked for.
const ITEMS_MAX: usize = 10_000;

/// The longest token of a further page, in bytes.
const CURSOR_BYTES_MAX: usize = 4_096;

/// The address, the credentials and the pages of the upstream.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    pub url: String,
    /// Sent as `Authorization: Bearer …`.
    pub token: Option<String>,
    /// The number of cutouts that are asked for at a time.
    pub page_size: u32,
    /// The timeout of one call, including its response.
    pub timeout: Duration,
}

/// The token is not shown, and the address may contain a password.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { page_size, timeout, .. } = self;
        f.debug_struct("Settings")
            .field("page_size", page_size)
            .field("timeout", timeout)
            .finish_non_exhaustive()
    }
}

/// The next page to ask for, and what the pages before it contained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// The number of the page, from 1.
    pub(crate) page: u64,
    /// The token of the page, which takes precedence over its number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cursor: Option<String>,
    /// The greatest id so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) after: Option<CutoutId>,
}

impl Place {
    pub(crate) const START: Self = Self { page: 1, cursor: None, after: None };
}

/// A page of the upstream. Its items are checked one by one, so that a wrong one does not spoil the others.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Page {
    pub(crate) items: Vec<Value>,
    /// The number of all cutouts.
    #[serde(default)]
    pub(crate) total: Option<u64>,
    #[serde(default)]
    has_more: Option<bool>,
    #[serde(default)]
    pub(crate) next_cursor: Option<String>,
}

impl Page {
    /// # Errors
    /// If it is not a page. The text contains nothing that the upstream has sent.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, CallError> {
        let corrupt =
            |reason: &str| CallError::Failed(format!("the response of the cutout upstream {reason}"));
        let page: Self = web::json::parse_strictly(body)
            .map_err(|_| corrupt("is not a page: it must have `items`, and `has_more` or `next_cursor`"))?;
        if page.has_more.is_none() && page.next_cursor.is_none() {
            return Err(corrupt("says neither `has_more` nor `next_cursor`"));
        }
        if page.items.len() > ITEMS_MAX {
            return Err(corrupt("has too many items"));
        }
        if page.next_cursor.as_ref().is_some_and(|cursor| cursor.len() > CURSOR_BYTES_MAX) {
            return Err(corrupt("has too long a `next_cursor`"));
        }
        Ok(page)
    }

    pub(crate) fn has_more(&self) -> bool {
        self.has_more.unwrap_or(self.next_cursor.is_some())
    }
}

/// The reason why a call returned no page. The texts contain nothing that the upstream has sent, and no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallError {
    /// The upstream did not respond, reported a failure, or returned no page: the same call may succeed.
    #[error("{0}")]
    Failed(String),
    /// The upstream limits the rate of calls; the delay that it asks for, in seconds.
    #[error("the cutout upstream limits the rate of calls (429 Too Many Requests)")]
    RateLimited(Option<u32>),
    /// The token of the page is not valid any more.
    #[error("the cutout upstream does not accept its page token any more")]
    CursorExpired,
    /// The upstream refuses the request, and would refuse it again.
    #[error("{0}")]
    Refused(String),
}

/// Where pages of cutouts come from.
pub(crate) trait PageSource: Send + Sync {
    /// Reads a page once.
    fn page(&self, tenant: &Tenant, place: &Place) -> impl Future<Output = Result<Page, CallError>> + Send;
}

/// A client of the upstream. Cheap to clone; clones share connections.
#[derive(Clone, Debug)]
pub struct CutoutUpstream {
    client: Client,
    base: Url,
    authorization: Option<HeaderValue>,
    page_size: u32,
}

impl CutoutUpstream {
    /// # Errors
    /// [`InvalidService`] if the address or the token is not valid.
    pub fn new(settings: &Settings) -> Result<Self, InvalidService> {
        let base = http::address(&settings.url)?;
        let client = http::client(&base, settings.timeout)?;
        let authorization = settings.token.as_ref().map(|token| {
            let mut value =
                HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| InvalidService::Token)?;
            value.set_sensitive(true);
            Ok::<_, InvalidService>(value)
        });
        Ok(Self { client, base, authorization: authorization.transpose()?, page_size: settings.page_size })
    }

    fn url(&self, tenant: &Tenant, place: &Place) -> Url {
        let mut url = self.base.clone();
        let mut query = url.query_pairs_mut();
        query.append_pair("tenant", tenant.as_str());
        query.append_pair("limit", &self.page_size.to_string()).append_pair("sort", "id");
        match &place.cursor {
            Some(cursor) => query.append_pair("cursor", cursor),
            None => query.append_pair("page", &place.page.to_string()),
        };
        drop(query);
        url
    }
}

impl PageSource for CutoutUpstream {
    async fn page(&self, tenant: &Tenant, place: &Place) -> Result<Page, CallError> {
        let mut request = self.client.get(self.url(tenant, place));
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let response = request.send().await.map_err(|error| failed(error.into()))?;
        if response.status().is_success() {
            let body = http::read_at_most(response, PAGE_BYTES_MAX).await.map_err(failed)?;
            return Page::parse(&body);
        }
        Err(refusal(&response, place))
    }
}

fn failed(error: TransportError) -> CallError {
    let class = match error {
        TransportError::Late => "timeout",
        TransportError::Unreachable => "connection refused",
        TransportError::Broken => "connection reset",
        TransportError::TooLong => "invalid response",
    };
    CallError::Failed(format!("{class}: the cutout upstream {error}"))
}

/// What a response without a page means.
fn refusal(response: &Response, place: &Place) -> CallError {
    let status = response.status();
    let responded = format!("the cutout upstream responded {status}");
    match status {
        StatusCode::TOO_MANY_REQUESTS => {
            let seconds =
                response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            CallError::RateLimited(seconds)
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => CallError::Refused(format!(
            "authentication failed: {responded}; set a valid token with --cutouts-token-file or MATCHBOOK_CUTOUTS_TOKEN"
        )),
        StatusCode::BAD_REQUEST
        | StatusCode::NOT_FOUND
        | StatusCode::CONFLICT
        | StatusCode::GONE
        | StatusCode::UNPROCESSABLE_ENTITY
            if place.cursor.is_some() =>
        {
            CallError::CursorExpired
        }
        // These statuses mean that the call came too early, not that the request is refused.
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY => CallError::Failed(responded),
        status if status.is_server_error() => CallError::Failed(responded),
        _ => CallError::Refused(format!("invalid URL: {responded}; check the setting --cutouts-upstream")),
    }
}
