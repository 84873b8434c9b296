//! The query of a request, before a route parses its parameters.

use std::collections::HashSet;

use percent_encoding::percent_decode_str;
use poem::Request;
use poem::http::Uri;

use crate::problem::Problem;

/// The parameter that stands for a header which browsers send empty if they have received no id.
const RESUME_AFTER: &str = "last_event_id";

/// Refuses a parameter that is given twice: a route would take the first one, and a client may have meant the other. Removes
/// an empty id of a last event, which stands for none.
///
/// # Errors
/// 400 with the name of the parameter.
pub(super) fn check(request: &mut Request) -> Result<(), Problem> {
    let Some(query) = request.uri().query() else { return Ok(()) };
    let mut names = HashSet::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let name = pair.split('=').next().unwrap_or_default().replace('+', " ");
        let name = percent_decode_str(&name).decode_utf8_lossy().into_owned();
        if !names.insert(name.clone()) {
            return Err(Problem::invalid(name, "is given more than once"));
        }
    }
    if names.contains(RESUME_AFTER) {
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
    use super::*;

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
    fn empty_id_of_a_last_event_is_none() {
        assert_eq!(checked("/s?last_event_id=&ticket=t"), Ok("/s?ticket=t".to_owned()));
        assert_eq!(checked("/s?last_event_id"), Ok("/s?".to_owned()));
        assert_eq!(checked("/s?last_event_id=7"), Ok("/s?last_event_id=7".to_owned()));
    }
}
