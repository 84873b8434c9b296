//! The responses to what is not a valid HTTP request, which no route receives.

use bytes::Bytes;
use hyper::body::Incoming;
use poem::http::header::HOST;
use poem::http::uri::Authority;
use poem::http::{HeaderMap, HeaderName, HeaderValue, Version};

use crate::problem::{Code, MEDIA_TYPE, Problem};
use crate::request::{REQUEST_ID, RequestId};

/// The problem in place of a response that hyper made, which is one that no layer has given an id.
pub(super) fn in_place_of(response: &[u8]) -> Option<Bytes> {
    let status = response.strip_prefix(b"HTTP/1.1 4").or_else(|| response.strip_prefix(b"HTTP/1.0 4"))?;
    let head = std::str::from_utf8(response).ok().filter(|head| head.ends_with("\r\n\r\n"))?;
    if head.contains(REQUEST_ID) || !head.contains("content-length: 0\r\n") {
        return None;
    }
    let problem = match status.get(..2)? {
        b"14" => Problem::new(Code::UriTooLong, "the request line is too long; shorten the URL"),
        b"31" => Problem::new(
            Code::HeadersTooLarge,
            "the headers are larger than 16 KiB; send fewer or shorter ones",
        ),
        b"00" => Problem::new(
            Code::InvalidRequest,
            "this is not a valid HTTP/1.1 request: its request line or one of its headers is malformed",
        ),
        _ => return None,
    };
    Some(response_of(&problem))
}

/// The response to a request whose header did not arrive in time.
pub(super) fn too_slow() -> Bytes {
    response_of(&Problem::new(Code::RequestTimeout, "the header did not arrive in time; nothing was done"))
}

/// A whole response, after which the connection is closed.
fn response_of(problem: &Problem) -> Bytes {
    let id = RequestId::of(&HeaderMap::new()).0;
    let status = problem.status();
    let body = problem.clone().request_id(&id).text();
    let reason = status.canonical_reason().unwrap_or_default();
    let head = format!(
        "HTTP/1.1 {} {reason}\r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {}\r\n{REQUEST_ID}: {id}\r\n\
         cache-control: no-store\r\nconnection: close\r\n\r\n",
        status.as_u16(),
        body.len(),
    );
    (head + &body).into()
}

/// The problem of a request without exactly one valid `Host`, which HTTP/1.1 requires.
pub(super) fn of_host(request: &hyper::Request<Incoming>) -> Option<Problem> {
    if request.version() != Version::HTTP_11 {
        return None;
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    let reason = match (hosts.next(), hosts.next()) {
        (None, _) => "is missing; HTTP/1.1 requires it",
        (Some(_), Some(_)) => "is given more than once",
        (Some(host), None) if host.is_empty() => return None,
        (Some(host), None) => match host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()) {
            Some(host) if !host.as_str().contains('@') => return None,
            _ => "is not a host name or address, with or without a port",
        },
    };
    let id = RequestId::of(request.headers()).0;
    let problem = Problem::invalid("Host", reason).request_id(&id);
    let id = HeaderValue::from_str(&id).expect("the characters of a request id are those of a header");
    Some(problem.header(HeaderName::from_static(REQUEST_ID), id))
}

/// Whether hyper refused the request before a route received it.
pub(super) fn is_refusal(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<hyper::Error>().is_some_and(|error| error.is_parse() || error.is_parse_too_large())
}

pub(super) fn is_timeout(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_timeout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_response_of_hyper_is_replaced() {
        let problem =
            in_place_of(b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\n\r\n");
        let problem = String::from_utf8(problem.unwrap().to_vec()).unwrap();
        assert!(problem.starts_with("HTTP/1.1 431 Request Header Fields Too Large\r\n"), "{problem}");
        assert!(problem.contains("\"code\":\"HEADERS_TOO_LARGE\""), "{problem}");
        for kept in [
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\nx-request-id: 1\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 400 Bad",
            "4",
        ] {
            assert_eq!(in_place_of(kept.as_bytes()), None, "{kept}");
        }
    }
}
