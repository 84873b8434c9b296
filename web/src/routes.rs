//! The table of routes, for the `Allow` header, the limits of a path, and the names of routes in metrics.
//!
//! poem does not expose its own routing table, so this one is built from the OpenAPI document, and by hand for paths that
//! are not in it.

use std::collections::HashMap;
use std::sync::Arc;

use poem::http::{HeaderValue, Method};
use serde_json::Value;

use crate::durations::Durations;

/// The media type of server-sent events.
pub(crate) const STREAM: &str = "text/event-stream";

/// The class of limits on body size and duration that applies to a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RouteLimits {
    #[default]
    Default,
    /// Batch requests: a larger body and a longer deadline.
    Bulk,
    /// Reads that are computed from the log: a longer deadline.
    Costly,
    /// Long polls and WebSockets: no deadline.
    LongPoll,
}

/// The table has no such path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no route has the path {0}; write it as in the OpenAPI document")]
pub struct UnknownRoute(pub String);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Parameter,
}

/// One path and its methods.
#[derive(Clone, Debug)]
pub struct Route {
    /// As in the OpenAPI document: `/jobs/{job_id}`.
    pub template: Arc<str>,
    pub limits: RouteLimits,
    /// Whether its GET opens a stream of server-sent events.
    pub(crate) is_stream: bool,
    pub(crate) durations: Durations,
    segments: Vec<Segment>,
    /// A path such as `/console/*`, which serves everything below it.
    open_ended: bool,
    methods: Vec<Method>,
    /// The names of the query's parameters, of methods that the document describes.
    parameters: HashMap<Method, Vec<String>>,
}

impl Route {
    fn new(template: &str) -> Self {
        let open_ended = template.ends_with("/*");
        let fixed = template.strip_suffix("/*").unwrap_or(template);
        let segments = split(fixed)
            .map(|segment| {
                if segment.starts_with(':') || segment.contains('{') {
                    Segment::Parameter
                } else {
                    Segment::Literal(segment.to_owned())
                }
            })
            .collect();
        Self {
            template: template.into(),
            limits: RouteLimits::Default,
            is_stream: false,
            durations: Durations::default(),
            segments,
            open_ended,
            methods: Vec::new(),
            parameters: HashMap::new(),
        }
    }

    fn matches(&self, path: &[&str]) -> bool {
        let length_fits = if self.open_ended {
            path.len() >= self.segments.len()
        } else {
            path.len() == self.segments.len()
        };
        length_fits
            && self.segments.iter().zip(path).all(|(segment, part)| match segment {
                Segment::Literal(literal) => literal == part,
                Segment::Parameter => !part.is_empty(),
            })
    }

    /// The sort key of a route. Literal parts come first, from the left: `/jobs/stats` comes before `/jobs/{id}`.
    fn specificity(&self) -> Vec<bool> {
        self.segments.iter().map(|segment| *segment == Segment::Parameter).collect()
    }

    /// The names of the parameters that the query of a request may have; none if the document does not say so.
    pub(crate) fn parameters(&self, method: &Method) -> Option<&[String]> {
        let method = if *method == Method::HEAD { &Method::GET } else { method };
        self.parameters.get(method).map(Vec::as_slice)
    }

    /// The value of the `Allow` header.
    pub fn allow(&self) -> HeaderValue {
        let mut methods: Vec<&str> = self.methods.iter().map(Method::as_str).collect();
        if methods.contains(&"GET") {
            methods.push("HEAD");
        }
        methods.push("OPTIONS");
        methods.sort_unstable();
        methods.dedup();
        HeaderValue::from_str(&methods.join(", ")).expect("method names are tokens")
    }
}

/// All routes of a server.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    by_length: HashMap<usize, Vec<Route>>,
    open_ended: Vec<Route>,
}

impl Routes {
    /// The operations of an OpenAPI document.
    pub fn from_document(document: &Value) -> Self {
        let paths = document["paths"].as_object().into_iter().flatten();
        paths.fold(Self::default(), |routes, (template, operations)| {
            let methods = operations.as_object().into_iter().flat_map(|operations| operations.keys());
            let methods: Vec<Method> =
                methods.filter_map(|method| method.to_ascii_uppercase().parse().ok()).collect();
            let mut routes = routes.with(template, &methods);
            if let Some(route) = routes.of_template(template) {
                route.is_stream = !operations["get"]["responses"]["200"]["content"][STREAM].is_null();
                for method in methods {
                    let operation = &operations[method.as_str().to_ascii_lowercase()];
                    route.parameters.insert(method, query_parameters(operation));
                }
            }
            routes
        })
    }

    fn of_template(&mut self, template: &str) -> Option<&mut Route> {
        let mut all = self.by_length.values_mut().flatten().chain(&mut self.open_ended);
        all.find(|route| &*route.template == template)
    }

    /// Adds a path outside the document: `/docs`, `/jobs/{job_id}/matching/ws`, `/console/*`.
    #[must_use]
    pub fn with(mut self, template: &str, methods: &[Method]) -> Self {
        let new = Route::new(template);
        let routes = if new.open_ended {
            &mut self.open_ended
        } else {
            self.by_length.entry(new.segments.len()).or_default()
        };
        let at = match routes.iter().position(|route| route.segments == new.segments) {
            Some(at) => at,
            None => {
                let at = routes.partition_point(|route| route.specificity() <= new.specificity());
                routes.insert(at, new);
                at
            }
        };
        routes[at].methods.extend_from_slice(methods);
        self
    }

    /// Sets the limits of a path, written as in the document.
    ///
    /// # Errors
    /// If there is no such path.
    pub fn limits(mut self, template: &str, limits: RouteLimits) -> Result<Self, UnknownRoute> {
        match self.of_template(template) {
            Some(route) => {
                route.limits = limits;
                Ok(self)
            }
            None => Err(UnknownRoute(template.to_owned())),
        }
    }

    /// The route that serves a path.
    pub fn find(&self, path: &str) -> Option<&Route> {
        let parts: Vec<&str> = split(path).collect();
        let exact = self.by_length.get(&parts.len()).into_iter().flatten();
        exact.chain(&self.open_ended).find(|route| route.matches(&parts))
    }
}

/// The names of the parameters in the query of an operation.
fn query_parameters(operation: &Value) -> Vec<String> {
    let all = operation["parameters"].as_array().into_iter().flatten();
    let in_query = all.filter(|parameter| parameter["in"] == "query");
    in_query.filter_map(|parameter| parameter["name"].as_str().map(str::to_owned)).collect()
}

fn split(path: &str) -> impl Iterator<Item = &str> {
    path.strip_prefix('/').unwrap_or(path).split('/')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn routes() -> Routes {
        let document = json!({"paths": {
            "/jobs": {"get": {}, "post": {}},
            "/jobs/{job_id}": {"get": {}},
            "/jobs/stats": {"get": {}},
            "/jobs/{job_id}/matches": {"post": {}},
        }});
        Routes::from_document(&document).with("/console/*", &[Method::GET]).with("/", &[Method::GET])
    }

    fn template(path: &str) -> Option<String> {
        routes().find(path).map(|route| route.template.to_string())
    }

    #[test]
    fn literal_segment_wins_over_a_parameter() {
        assert_eq!(template("/jobs/stats").as_deref(), Some("/jobs/stats"));
        assert_eq!(template("/jobs/7").as_deref(), Some("/jobs/{job_id}"));
    }

    #[test]
    fn only_complete_paths_match() {
        for unknown in ["/job", "/jobs/", "/jobs/7/", "/jobs/7/matches/8", "/nothing"] {
            assert_eq!(template(unknown), None, "{unknown}");
        }
        assert_eq!(template("/").as_deref(), Some("/"));
        assert_eq!(template("/console/app/main.js").as_deref(), Some("/console/*"));
    }

    #[test]
    fn allow_adds_head_and_options() {
        assert_eq!(routes().find("/jobs").unwrap().allow(), "GET, HEAD, OPTIONS, POST");
        assert_eq!(routes().find("/jobs/7/matches").unwrap().allow(), "OPTIONS, POST");
    }

    #[test]
    fn limits_are_set_for_existing_paths_only() {
        let routes = routes().limits("/jobs/{job_id}/matches", RouteLimits::Bulk).unwrap();
        assert_eq!(routes.find("/jobs/7/matches").unwrap().limits, RouteLimits::Bulk);
        assert_eq!(
            routes.limits("/nothing", RouteLimits::Bulk).unwrap_err(),
            UnknownRoute("/nothing".into())
        );
    }
}
