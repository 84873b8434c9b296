//! The one rule about web pages of other origins, for requests that change something, streams and WebSockets.
//!
//! A browser sends such requests for any page, even without permission to read the response, and on an open server they
//! need no credentials. It says where they come from in `Origin` and `Sec-Fetch-Site`, which a page cannot change.

use poem::Request;
use poem::http::header;

use super::Cors;
use crate::problem::Problem;

/// Refuses the request of a web page of another origin, unless that origin is allowed. Clients that are not browsers send
/// neither header.
///
/// # Errors
/// 403.
pub(super) fn check(request: &Request, cors: &Cors) -> Result<(), Problem> {
    let site = request.headers().get("sec-fetch-site").map(|site| site.to_str().unwrap_or_default());
    let is_permitted = match request.headers().get(header::ORIGIN).map(|origin| origin.to_str()) {
        Some(Ok(origin)) => cors.allows(origin) || (is_own(origin, request) && site != Some("cross-site")),
        Some(Err(_)) => false,
        None => matches!(site, None | Some("same-origin" | "none")),
    };
    if is_permitted {
        return Ok(());
    }
    tracing::info!("refused the web page of another origin");
    Err(Problem::forbidden(
        "a web page of another origin may not do this; open the page from this server, or allow its origin with --cors-origins",
    ))
}

/// Whether the origin is this server, under the host of the request, or under the one that a proxy has replaced and
/// forwards. A page cannot set the headers of a proxy: the browser would first ask whether it may, and it may not.
fn is_own(origin: &str, request: &Request) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let own = normalized(scheme, authority);
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let forwarded = header("forwarded").into_iter().flat_map(|value| value.split([',', ';']));
    let forwarded = forwarded.filter_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        name.eq_ignore_ascii_case("host").then(|| value.trim_matches('"'))
    });
    let replaced = header("x-forwarded-host").into_iter().flat_map(|hosts| hosts.split(','));
    let host = header("host").or_else(|| request.uri().authority().map(|host| host.as_str()));
    host.into_iter().chain(replaced).chain(forwarded).any(|host| normalized(scheme, host.trim()) == own)
}

/// The host in lower case, without the default port of the scheme.
fn normalized(scheme: &str, authority: &str) -> String {
    let default_port = if scheme.eq_ignore_ascii_case("https") { ":443" } else { ":80" };
    let authority = authority.to_ascii_lowercase();
    authority.strip_suffix(default_port).map(str::to_owned).unwrap_or(authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_permitted(headers: &[(&str, &str)]) -> bool {
        let cors = Cors::new(&["https://console.example.org"]).unwrap();
        let request =
            headers.iter().fold(Request::builder(), |request, (name, value)| request.header(*name, *value));
        check(&request.finish(), &cors).is_ok()
    }

    #[test]
    fn client_that_is_not_a_browser_is_permitted() {
        assert!(is_permitted(&[("host", "127.0.0.1:8080")]));
    }

    #[test]
    fn page_of_this_server_is_permitted() {
        for (host, origin) in [
            ("127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("localhost", "http://localhost:80"),
            ("Match.example:443", "https://match.example"),
            ("[::1]:8080", "http://[::1]:8080"),
        ] {
            assert!(is_permitted(&[("host", host), ("origin", origin)]), "{origin}");
            assert!(is_permitted(&[("host", host), ("origin", origin), ("sec-fetch-site", "same-origin")]));
        }
        assert!(is_permitted(&[("host", "a"), ("sec-fetch-site", "none")]));
    }

    #[test]
    fn page_of_an_allowed_origin_is_permitted() {
        let origin = ("origin", "https://console.example.org");
        assert!(is_permitted(&[("host", "127.0.0.1:8080"), origin, ("sec-fetch-site", "cross-site")]));
    }

    #[test]
    fn page_of_another_origin_is_refused() {
        for origin in [
            "http://evil.example",
            "http://127.0.0.1:8081",
            "http://127.0.0.1",
            "https://127.0.0.1:8080.evil.example",
            "https://evil.console.example.org",
            "http://console.example.org",
            "null",
            "",
        ] {
            assert!(!is_permitted(&[("host", "127.0.0.1:8080"), ("origin", origin)]), "{origin}");
        }
        for site in ["cross-site", "same-site", "", "perhaps"] {
            assert!(!is_permitted(&[("host", "127.0.0.1:8080"), ("sec-fetch-site", site)]), "{site}");
        }
        let own = ("origin", "http://127.0.0.1:8080");
        assert!(!is_permitted(&[("host", "127.0.0.1:8080"), own, ("sec-fetch-site", "cross-site")]));
    }

    #[test]
    fn page_of_a_proxy_that_replaces_the_host_is_permitted() {
        let origin = ("origin", "https://match.example");
        for forwarded in [
            ("x-forwarded-host", "match.example"),
            ("x-forwarded-host", "match.example:443, inner.example"),
            ("forwarded", "for=10.0.0.1;host=\"match.example\";proto=https"),
        ] {
            assert!(is_permitted(&[("host", "backend:8080"), origin, forwarded]), "{forwarded:?}");
        }
        assert!(!is_permitted(&[("host", "backend:8080"), origin]));
        assert!(!is_permitted(&[("host", "backend:8080"), origin, ("x-forwarded-host", "other.example")]));
    }
}
