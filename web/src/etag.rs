//! `ETag` and `If-None-Match`, for everything that is polled.
//!
//! A route takes `#[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>` and answers
//! `Result<Cached<T>, Problem>`: 304 without a body while the caller's copy is the newest.

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use poem::http::{StatusCode, header};
use poem::{IntoResponse, Response};
use poem_openapi::ApiResponse;
use poem_openapi::registry::{MetaHeader, MetaResponse, MetaResponses, Registry};
use poem_openapi::types::{ToJSON, Type};
use serde_json::Value;

use crate::json;

/// Kept by the one who asked, and asked about each time.
const CACHE_CONTROL: &str = "private, no-cache";

/// An answer with an `ETag`: 200, or 304 where the caller has it already.
#[derive(Clone, Debug)]
pub struct Cached<T> {
    etag: String,
    /// None if the caller has it already.
    body: Option<String>,
    kind: std::marker::PhantomData<fn() -> T>,
}

impl<T: ToJSON> Cached<T> {
    /// The tag is strong: the answers are equal to the byte.
    pub fn new(body: &T, if_none_match: Option<&str>) -> Self {
        Self::without(body, &[], if_none_match)
    }

    /// The tag leaves `members` out wherever they stand, as `position`, which moves without anything else moving. Such a
    /// tag is weak: it calls two answers equal that differ there.
    pub fn without(body: &T, members: &[&str], if_none_match: Option<&str>) -> Self {
        let mut value = body.to_json().unwrap_or(Value::Null);
        let text = value.to_string();
        let etag = if members.is_empty() {
            format!("\"{}\"", hash(text.as_bytes()))
        } else {
            leave_out(&mut value, members);
            format!("W/\"{}\"", hash(value.to_string().as_bytes()))
        };
        let known = if_none_match.is_some_and(|tags| matches(tags, &etag));
        Self { etag, body: (!known).then_some(text), kind: std::marker::PhantomData }
    }
}

fn leave_out(value: &mut Value, members: &[&str]) {
    match value {
        Value::Object(value) => {
            value.retain(|member, _| !members.contains(&member.as_str()));
            value.values_mut().for_each(|value| leave_out(value, members));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| leave_out(item, members)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn hash(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(&digest::digest(&digest::SHA256, bytes).as_ref()[..16])
}

/// Whether a list of tags, as in `If-None-Match`, holds `etag`. Strong and weak tags of one text are equal here.
pub fn matches(if_none_match: &str, etag: &str) -> bool {
    fn opaque(tag: &str) -> &str {
        tag.strip_prefix("W/").unwrap_or(tag)
    }
    // Our tags hold no comma, so that a foreign one that does cannot be taken for ours.
    if_none_match.split(',').map(str::trim).any(|tag| tag == "*" || opaque(tag) == opaque(etag))
}

impl<T: ToJSON> IntoResponse for Cached<T> {
    fn into_response(self) -> Response {
        let response =
            Response::builder().header(header::ETAG, self.etag).header(header::CACHE_CONTROL, CACHE_CONTROL);
        match self.body {
            Some(body) => response.content_type("application/json").body(body),
            None => response.status(StatusCode::NOT_MODIFIED).finish(),
        }
    }
}

impl<T: ToJSON> ApiResponse for Cached<T> {
    fn meta() -> MetaResponses {
        let header = |name: &str, description: &str| MetaHeader {
            name: name.into(),
            description: Some(description.into()),
            required: false,
            deprecated: false,
            schema: String::schema_ref(),
        };
        let headers = || {
            vec![
                header("ETAG", "Send it as If-None-Match to get 304 while nothing changed."),
                header("CACHE-CONTROL", CACHE_CONTROL),
            ]
        };
        let unchanged = MetaResponse {
            description: "The caller has the newest answer already",
            status: Some(304),
            status_range: None,
            content: vec![],
            headers: headers(),
        };
        MetaResponses { responses: vec![json::meta::<T>(200, "As asked for", headers()), unchanged] }
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

#[cfg(test)]
mod tests {
    use poem_openapi::Object;

    use super::*;

    #[derive(Object)]
    struct Summary {
        found: u32,
        position: u64,
    }

    fn status(found: u32, position: u64, if_none_match: &str) -> StatusCode {
        Cached::without(&Summary { found, position }, &["position"], Some(if_none_match))
            .into_response()
            .status()
    }

    #[test]
    fn an_answer_that_differs_only_in_what_is_left_out_is_not_sent_again() {
        let first = Cached::without(&Summary { found: 1, position: 1 }, &["position"], None);
        assert_eq!(status(1, 2, &first.etag), StatusCode::NOT_MODIFIED);
        assert_eq!(status(2, 2, &first.etag), StatusCode::OK);
    }

    #[test]
    fn the_newest_answer_is_not_sent_again() {
        let first = Cached::new(&Summary { found: 1, position: 1 }, None);
        assert!(first.etag.starts_with('"') && first.etag.ends_with('"'));
        let tag = first.etag.clone();
        let response = Cached::new(&Summary { found: 1, position: 1 }, Some(&tag)).into_response();
        assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(response.header("etag"), Some(tag.as_str()));
        let response = Cached::new(&Summary { found: 1, position: 2 }, Some(&tag)).into_response();
        assert_eq!(
            (response.status(), response.header("cache-control")),
            (StatusCode::OK, Some(CACHE_CONTROL))
        );
    }

    #[test]
    fn a_tag_is_found_in_a_list_weak_or_not_and_under_a_star() {
        for tags in ["\"a\"", "W/\"a\"", "\"b\", \"a\"", "*", " \"b\" ,W/\"a\""] {
            assert!(matches(tags, "\"a\""), "{tags}");
        }
        for tags in ["", "a", "\"b\"", "\"ab\"", "\"A\""] {
            assert!(!matches(tags, "\"a\""), "{tags}");
        }
    }
}
