//! The query of a request, before a route parses its parameters.

use std::collections::HashSet;

use percent_encoding::percent_decode_str;
use poem::Request;
use poem::http::Uri;

use crate::problem::Problem;
use crate::routes::Route;

/// The parameter that stands for a header which browsers send empty if they have received no id.
const RESUME_AFTER: &str = "last_event_id";

/// The parameters of streams, which also those take that need none of them: a client reconnects to any stream alike.
const OF_STREAMS: [&str; 2] = ["ticket", RESUME_AFTER];

/// Monitors add parameters of their own.
const NOT_CHECKED: [&str; 3] = ["/live", "/ready", "/health"];

/// The names of the parameters, decoded.
fn names(query: &str) -> impl Iterator<Item = String> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let name = pair.split('=').next().unwrap_or_default().replace('+', " ");
        percent_decode_str(&name).decode_utf8_lossy().into_owned()
    })
}

/// Refuses a parameter that the operation does not have: a filter with a misspelt name would return everything.
///
/// # Errors
/// 400 with the name of the parameter, and those that the operation has.
pub(super) fn check_names(request: &Request, route: &Route) -> Result<(), Problem> {
    let Some(known) = route.parameters(request.method()) else { return Ok(()) };
    let is_known =
        |name: &String| known.contains(name) || (route.is_stream && OF_STREAMS.contains(&name.as_str()));
    let unknown = names(request.uri().query().unwrap_or_default()).find(|name| !is_known(name));
    let Some(name) = unknown.filter(|_| !NOT_CHECKED.contains(&&*route.template)) else { return Ok(()) };
    let reason = match known {
        [] => "is not a parameter of this operation, which has none in its query".to_owned(),
        known => format!("is not a parameter of this operation, which has: {}", known.join(", ")),
    };
    Err(Problem::invalid(name, reason))
}

/// Refuses a parameter that is given twice: a route would take the first one, and a client may have meant the other. Removes
/// an empty id of a last event, which stands for none.
///
/// # Errors
/// 400 with the name of the parameter.
pub(super) fn check(request: &mut Request) -> Result<(), Problem> {
    let Some(query) = request.uri().query() else { return Ok(()) };
    let mut given = HashSet::new();
    for name in names(query) {
        if !given.insert(name.clone()) {
            return Err(Problem::invalid(name, "is given more than once"));
        }
    }
    if given.contains(RESUME_AFTER) {
        let is_empty = |pair: &&str| pair.strip_suffix('=').unwrap_or(pair) == RESUME_AFTER;
        let kept: Vec<&str> = query.split('&').filter(|pair| !is_empty(pair)).collect();
        let target = format!("{}?{}", request.uri().path(), kept.join("&"));
        if let Ok(target) = target.parse::<Uri>() {
            *request.uri_mut() = target;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use poem::http::Method;

    use super::*;
    use crate::routes::Routes;

    fn checked(target: &str) -> Result<String, String> {
        let mut request = Request::builder().uri(target.parse().unwrap()).finish();
        match check(&mut request) {
            Ok(()) => Ok(request.uri().to_string()),
            Err(problem) => Err(problem.errors[0].field.clone()),
        }
    }

    #[test]
    fn parameter_that_is_given_twice_is_refused() {
        for target in ["/jobs", "/jobs?limit=1&q=limit", "/jobs?a[0]=1&a[1]=2", "/jobs?&&"] {
            assert_eq!(checked(target), Ok(target.to_owned()));
        }
        for target in ["/jobs?limit=1&limit=abc", "/jobs?limit&limit", "/jobs?limit=1&q=a&%6Cimit=1"] {
            assert_eq!(checked(target), Err("limit".to_owned()), "{target}");
        }
    }

    #[test]
    fn unknown_parameter_is_refused_with_the_known_ones() {
        let parameters = serde_json::json!([
            {"name": "limit", "in": "query"}, {"name": "status", "in": "query"}, {"name": "id", "in": "path"},
        ]);
        let stream = serde_json::json!({"200": {"content": {(crate::routes::STREAM): {}}}});
        let document = serde_json::json!({"paths": {
            "/jobs": {"get": {"parameters": parameters}, "post": {}},
            "/jobs/{id}/stream": {"get": {"responses": stream}},
            "/health": {"get": {}},
        }});
        let routes = Routes::from_document(&document).with("/", &[Method::GET]);
        let checked = |method: Method, target: &str| {
            let request = Request::builder().method(method).uri(target.parse().unwrap()).finish();
            let route = routes.find(request.uri().path()).unwrap();
            check_names(&request, route).map_err(|problem| problem.errors[0].field.clone())
        };
        for target in [
            "/jobs?limit=1&st%61tus=x",
            "/jobs",
            "/jobs?",
            "/jobs/7/stream?ticket=t&last_event_id=7",
            "/?x",
            "/health?x",
        ] {
            assert_eq!(checked(Method::GET, target), Ok(()), "{target}");
        }
        assert_eq!(checked(Method::HEAD, "/jobs?limit=1"), Ok(()));
        for (method, target, name) in [
            (Method::GET, "/jobs?limit=1&state=x", "state"),
            (Method::HEAD, "/jobs?Limit=1", "Limit"),
            (Method::GET, "/jobs?id=7", "id"),
            (Method::GET, "/jobs?a+b", "a b"),
            (Method::POST, "/jobs?limit=1", "limit"),
            (Method::GET, "/jobs?ticket=t", "ticket"),
            (Method::GET, "/jobs/7/stream?limit=1", "limit"),
        ] {
            assert_eq!(checked(method, target), Err(name.to_owned()), "{target}");
        }
        let request = Request::builder().uri("/jobs?state=x".parse().unwrap()).finish();
        let refused = check_names(&request, routes.find("/jobs").unwrap()).unwrap_err();
        assert!(refused.errors[0].reason.ends_with("which has: limit, status"), "{refused:?}");
    }

    #[test]
    fn empty_id_of_a_last_event_is_none() {
        assert_eq!(checked("/s?last_event_id=&ticket=t"), Ok("/s?ticket=t".to_owned()));
        assert_eq!(checked("/s?last_event_id"), Ok("/s?".to_owned()));
        assert_eq!(checked("/s?last_event_id=7"), Ok("/s?last_event_id=7".to_owned()));
    }
}
