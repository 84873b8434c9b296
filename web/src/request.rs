//! The request id and the trace context of a request.

use std::time::{SystemTime, UNIX_EPOCH};

use poem::http::HeaderMap;
use poem::{FromRequest, Request, RequestBody};
use uuid::Uuid;

/// The header of the request id, in requests and responses.
pub const REQUEST_ID: &str = "x-request-id";

const REQUEST_ID_MAX: usize = 128;

/// The id of one request in responses and logs: the caller's own id, if it is well-formed, or a new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(pub String);

impl RequestId {
    /// An id with characters that could forge a log line is replaced.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let is_well_formed = |id: &&str| {
            (1..=REQUEST_ID_MAX).contains(&id.len())
                && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(&byte))
        };
        match headers.get(REQUEST_ID).and_then(|value| value.to_str().ok()).filter(is_well_formed) {
            Some(id) => Self(id.to_owned()),
            None => Self(generated().to_string()),
        }
    }
}

/// A UUIDv7 that need not be hard to guess, so that a request costs no system call for randomness.
fn generated() -> Uuid {
    let millis = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let mut random = [0; 10];
    fastrand::fill(&mut random);
    uuid::Builder::from_unix_timestamp_millis(u64::try_from(millis).unwrap_or(u64::MAX), &random).into_uuid()
}

impl<'a> FromRequest<'a> for RequestId {
    async fn from_request(request: &'a Request, _: &mut RequestBody) -> poem::Result<Self> {
        Ok(request.data::<Self>().cloned().unwrap_or_else(|| Self::of(request.headers())))
    }
}

/// The `traceparent` header (W3C Trace Context), if there is one and it is well-formed. Commands store it with their events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceParent(pub Option<String>);

impl<'a> FromRequest<'a> for TraceParent {
    async fn from_request(request: &'a Request, _: &mut RequestBody) -> poem::Result<Self> {
        let header = request.header("traceparent").filter(|text| is_traceparent(text));
        Ok(Self(header.map(str::to_owned)))
    }
}

/// `00-<32 hex>-<16 hex>-<2 hex>`, lower case, neither id all zeros.
fn is_traceparent(text: &str) -> bool {
    let mut parts = text.split('-');
    let mut hex = |length: usize| {
        parts.next().filter(|part| {
            part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        })
    };
    let not_zero = |id: &str| id.bytes().any(|byte| byte != b'0');
    hex(2) == Some("00")
        && hex(32).is_some_and(not_zero)
        && hex(16).is_some_and(not_zero)
        && hex(2).is_some()
        && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(sent: &str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, sent.parse().unwrap());
        RequestId::of(&headers).0
    }

    #[test]
    fn well_formed_request_id_is_kept() {
        assert_eq!(id("abc-123"), "abc-123");
    }

    #[test]
    fn request_id_that_could_forge_a_log_line_is_replaced() {
        for sent in ["", "a b", "a\tlevel=error", "<script>", &"x".repeat(129)] {
            assert!(Uuid::parse_str(&id(sent)).is_ok(), "{sent}");
        }
    }

    #[test]
    fn only_a_well_formed_traceparent_is_accepted() {
        assert!(is_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
        for refused in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            assert!(!is_traceparent(refused), "{refused}");
        }
    }
}
