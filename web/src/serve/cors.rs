//! Cross-origin requests (CORS). No origin is allowed unless configured.

use poem::http::{HeaderMap, HeaderValue, Method, Uri, header};
use poem::{Request, Response};

/// The request headers that a page may send.
const ALLOW_HEADERS: &str = "authorization, content-type, idempotency-key, if-none-match, last-event-id, traceparent, x-api-key, x-min-position, x-request-id, x-tenant, x-user";

/// The response headers that a page may read.
const EXPOSE_HEADERS: &str = "allow, content-range, etag, location, ratelimit, ratelimit-policy, retry-after, www-authenticate, x-request-id";

/// The time that browsers cache the response to a preflight, in seconds.
const MAX_AGE: &str = "600";

/// The text is not a valid origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a valid origin; write it as browsers do: https://console.example.org, without a path")]
pub struct InvalidOrigin(pub String);

/// The allowed origins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cors {
    origins: Vec<String>,
}

impl Cors {
    /// # Errors
    /// If one is not an `http` or `https` origin. `*` is refused: with credentials, browsers ignore it.
    pub fn new<O: AsRef<str>>(origins: &[O]) -> Result<Self, InvalidOrigin> {
        let origins = origins.iter().map(|origin| checked(origin.as_ref())).collect::<Result<_, _>>()?;
        Ok(Self { origins })
    }

    /// Whether pages of this origin may call the API.
    pub(super) fn allows(&self, origin: &str) -> bool {
        self.origins.iter().any(|allowed| allowed == origin)
    }

    fn allowed<'a>(&self, origin: Option<&'a str>) -> Option<&'a str> {
        origin.filter(|origin| self.allows(origin))
    }

    /// Adds the headers of every response.
    pub(super) fn add(&self, response: &mut Response, origin: Option<&str>) {
        if self.origins.is_empty() {
            return;
        }
        let headers = response.headers_mut();
        headers.append(header::VARY, HeaderValue::from_static("origin"));
        if let Some(value) = self.allowed(origin).and_then(|origin| HeaderValue::from_str(origin).ok()) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, value);
            set(headers, header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSE_HEADERS);
        }
    }

    /// Adds the headers of the response to a preflight.
    pub(super) fn preflight(
        &self,
        response: &mut Response,
        request: &Request,
        origin: Option<&str>,
        allow: HeaderValue,
    ) {
        let is_preflight = request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        if is_preflight && request.method() == Method::OPTIONS && self.allowed(origin).is_some() {
            let headers = response.headers_mut();
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, allow);
            set(headers, header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOW_HEADERS);
            set(headers, header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        }
    }
}

fn set(headers: &mut HeaderMap, name: header::HeaderName, value: &'static str) {
    headers.insert(name, HeaderValue::from_static(value));
}

fn checked(origin: &str) -> Result<String, InvalidOrigin> {
    let refused = || InvalidOrigin(origin.to_owned());
    let uri: Uri = origin.parse().map_err(|_| refused())?;
    let (Some("http" | "https"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(refused());
    };
    let is_canonical = origin == format!("{}://{authority}", uri.scheme_str().unwrap_or_default());
    if is_canonical { Ok(origin.to_owned()) } else { Err(refused()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origin_is_a_scheme_and_a_host() {
        assert!(Cors::new(&["https://console.example.org", "http://localhost:5173"]).is_ok());
        for refused in ["*", "null", "example.org", "https://example.org/", "ftp://example.org"] {
            assert_eq!(Cors::new(&[refused]), Err(InvalidOrigin(refused.into())), "{refused}");
        }
    }
}
