//! `ETag` and `If-None-Match`, for every polled resource.
//!
//! A route takes `#[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>` and returns
//! `Result<Cached<T>, Problem>`: 304 without a body while the caller's copy is current.

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use poem::http::{HeaderValue, StatusCode, header};
use poem::{IntoResponse, Response};
use poem_openapi::ApiResponse;
use poem_openapi::registry::{MetaHeader, MetaResponse, MetaResponses, Registry};
use poem_openapi::types::Type;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::json;
use crate::schema::{self, Api};

/// The caller may store the response, and must revalidate it each time.
const CACHE_CONTROL: &str = "private, no-cache";

/// A body and its tag. A route may keep it, to respond to several callers with the same bytes.
#[derive(Clone, Debug)]
pub struct Rendered {
    etag: HeaderValue,
    body: Bytes,
}

impl Rendered {
    /// With a strong tag: equal tags mean equal bytes.
    fn new(body: &impl Serialize) -> Self {
        let text = write(body);
        Self { etag: tag("", text.as_bytes()), body: text.into() }
    }

    /// With a tag that ignores `members` at any depth, such as `position`, which changes without any other change. Such a
    /// tag is weak: two responses that differ only in these members have the same tag.
    pub fn without(body: &impl Serialize, members: &[&str]) -> Self {
        let mut value = serde_json::to_value(body).unwrap_or(Value::Null);
        let text = value.to_string();
        remove_members(&mut value, members);
        Self { etag: tag("W/", value.to_string().as_bytes()), body: text.into() }
    }

    /// The same tag with a body that differs only in ignored members.
    pub fn with_body(&self, body: &impl Serialize) -> Self {
        Self { etag: self.etag.clone(), body: write(body).into() }
    }
}

/// The JSON of a body; its members are in the order of their names, as in [`Rendered::without`].
fn write(body: &impl Serialize) -> String {
    serde_json::to_value(body).unwrap_or(Value::Null).to_string()
}

/// A response with an `ETag`: 200, or 304 if the caller has the current one.
#[derive(Clone, Debug)]
pub struct Cached<T> {
    etag: HeaderValue,
    /// None if the caller has the current one.
    body: Option<Bytes>,
    kind: std::marker::PhantomData<fn() -> T>,
}

impl<T: Serialize> Cached<T> {
    /// See [`Rendered::new`].
    pub fn new(body: &T, if_none_match: Option<&str>) -> Self {
        Self::rendered(Rendered::new(body), if_none_match)
    }

    /// See [`Rendered::without`].
    pub fn without(body: &T, members: &[&str], if_none_match: Option<&str>) -> Self {
        Self::rendered(Rendered::without(body, members), if_none_match)
    }

    /// A rendered `T`.
    pub fn rendered(Rendered { etag, body }: Rendered, if_none_match: Option<&str>) -> Self {
        let known = if_none_match.is_some_and(|tags| matches(tags, etag.to_str().unwrap_or_default()));
        Self { etag, body: (!known).then_some(body), kind: std::marker::PhantomData }
    }
}

fn remove_members(value: &mut Value, members: &[&str]) {
    match value {
        Value::Object(value) => {
            value.retain(|member, _| !members.contains(&member.as_str()));
            value.values_mut().for_each(|value| remove_members(value, members));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| remove_members(item, members)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn tag(prefix: &str, bytes: &[u8]) -> HeaderValue {
    let hash = URL_SAFE_NO_PAD.encode(&digest::digest(&digest::SHA256, bytes).as_ref()[..16]);
    HeaderValue::from_str(&format!("{prefix}\"{hash}\"")).expect("base64url is printable ASCII")
}

/// Whether a list of tags, as in `If-None-Match`, contains `etag`. Strong and weak tags of the same text are equal here.
pub fn matches(if_none_match: &str, etag: &str) -> bool {
    fn opaque(tag: &str) -> &str {
        tag.strip_prefix("W/").unwrap_or(tag)
    }
    // Our tags contain no comma, so that a foreign tag with one never equals ours.
    if_none_match.split(',').map(str::trim).any(|tag| tag == "*" || opaque(tag) == opaque(etag))
}

impl<T> IntoResponse for Cached<T> {
    fn into_response(self) -> Response {
        let response =
            Response::builder().header(header::ETAG, self.etag).header(header::CACHE_CONTROL, CACHE_CONTROL);
        match self.body {
            Some(body) => response.content_type("application/json").body(body),
            None => response.status(StatusCode::NOT_MODIFIED).finish(),
        }
    }
}

impl<T: JsonSchema + Send + Sync> ApiResponse for Cached<T> {
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
                header("ETAG", "Send it as If-None-Match to get 304 while nothing has changed."),
                header("CACHE-CONTROL", CACHE_CONTROL),
            ]
        };
        let unchanged = MetaResponse {
            description: "Not modified",
            status: Some(304),
            status_range: None,
            content: vec![],
            headers: headers(),
        };
        MetaResponses { responses: vec![json::meta::<Api<T>>(200, "OK", headers()), unchanged] }
    }

    fn register(registry: &mut Registry) {
        schema::register::<T>(registry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, JsonSchema)]
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
    fn change_of_an_ignored_member_only_is_not_modified() {
        let first = Cached::without(&Summary { found: 1, position: 1 }, &["position"], None);
        let tag = first.etag.to_str().unwrap();
        assert_eq!(status(1, 2, tag), StatusCode::NOT_MODIFIED);
        assert_eq!(status(2, 2, tag), StatusCode::OK);
    }

    #[test]
    fn current_response_is_not_sent_again() {
        let first = Cached::new(&Summary { found: 1, position: 1 }, None);
        let tag = first.etag.to_str().unwrap().to_owned();
        assert!(tag.starts_with('"') && tag.ends_with('"'));
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
    fn tag_matches_in_a_list_weak_or_strong_and_star() {
        for tags in ["\"a\"", "W/\"a\"", "\"b\", \"a\"", "*", " \"b\" ,W/\"a\""] {
            assert!(matches(tags, "\"a\""), "{tags}");
        }
        for tags in ["", "a", "\"b\"", "\"ab\"", "\"A\""] {
            assert!(!matches(tags, "\"a\""), "{tags}");
        }
    }
}
