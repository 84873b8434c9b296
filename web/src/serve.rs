//! The layers around all routes, in one place and one order.
//!
//! From the outside in: request id, span, metrics and access log; CORS and `OPTIONS`; response headers; compression; conversion of
//! errors and panics to problems; origin, caller and the caller's limits; deadline; body limit; then the routes.

mod access_log;
mod admission;
mod body;
mod compress;
mod cors;
mod headers;
mod observe;
mod origin;
mod query;
mod streams;

use std::any::Any;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use poem::endpoint::BoxEndpoint;
use poem::http::{Method, StatusCode, header};
use poem::{Endpoint, EndpointExt, IntoEndpoint, IntoResponse, Request, Response};
use tracing::Instrument;

use crate::caller::limits::{Callers, Quotas};
use crate::caller::strangers::Strangers;
use crate::caller::{Auth, CallerLimits};
use crate::problem::{Code, Problem};
use crate::progress::RequestProgress;
use crate::request::RequestId;
use crate::routes::{Route, RouteLimits, Routes};
use crate::server::ClientSide;
use access_log::Access;
use body::BodyBudget;

pub use crate::durations::{DURATION, DURATION_MAX, DURATION_MIN};
pub use cors::{Cors, InvalidOrigin};
pub use observe::ACTIVE;

/// The limits on the body size of a request, and on the time until its response starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub body_bytes: usize,
    pub bulk_body_bytes: usize,
    /// The most bytes of all bodies in flight; one caller gets up to half of them.
    pub bodies_in_flight_bytes: usize,
    pub deadline: Duration,
    pub bulk_deadline: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 1 << 20,
            bulk_body_bytes: 16 << 20,
            bodies_in_flight_bytes: 64 << 20,
            deadline: Duration::from_secs(10),
            bulk_deadline: Duration::from_secs(60),
        }
    }
}

impl Limits {
    fn body(&self, limits: RouteLimits) -> usize {
        match limits {
            RouteLimits::Default | RouteLimits::Costly | RouteLimits::LongPoll => self.body_bytes,
            RouteLimits::Bulk => self.bulk_body_bytes,
        }
    }

    fn deadline(&self, limits: RouteLimits) -> Option<Duration> {
        match limits {
            RouteLimits::Default => Some(self.deadline),
            RouteLimits::Bulk | RouteLimits::Costly => Some(self.bulk_deadline),
            RouteLimits::LongPoll => None,
        }
    }
}

/// The settings of the layers.
#[derive(Clone, Debug)]
pub struct Settings {
    pub auth: Auth,
    pub routes: Routes,
    pub limits: Limits,
    pub caller_limits: CallerLimits,
    pub cors: Cors,
}

impl Settings {
    /// Settings with the default limits of requests, without limits of callers, and without any allowed origin.
    pub fn new(auth: Auth, routes: Routes) -> Self {
        Self {
            auth,
            routes,
            limits: Limits::default(),
            caller_limits: CallerLimits::default(),
            cors: Cors::default(),
        }
    }
}

/// Wraps `endpoint` in all layers. It is boxed, so that the layers are compiled once, in this crate.
pub fn layers(endpoint: impl IntoEndpoint<Endpoint: 'static>, settings: Settings) -> Layers {
    let callers = Arc::new(Callers::new(settings.caller_limits));
    let bodies = BodyBudget::new(settings.limits.bodies_in_flight_bytes);
    Layers {
        endpoint: endpoint.map_to_response().boxed(),
        settings,
        callers,
        bodies,
        strangers: Strangers::default(),
    }
}

/// See [`layers`].
pub struct Layers {
    endpoint: BoxEndpoint<'static>,
    settings: Settings,
    callers: Arc<Callers>,
    bodies: BodyBudget,
    strangers: Strangers,
}

impl fmt::Debug for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layers").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Endpoint for Layers {
    type Output = Response;

    async fn call(&self, mut request: Request) -> poem::Result<Response> {
        let id = RequestId::of(request.headers());
        let route = self.settings.routes.find(request.uri().path());
        let observed = observe::RequestMetrics::start(request.method(), route);
        let span = observed.span(&id);
        let negotiation = NegotiationHeaders::of(&request);
        request.set_data(id.clone());
        request.set_data(self.settings.auth.clone());
        let address = request.remote_addr().as_socket_addr().map(|address| address.ip());
        let mut access = Access::start(&request, address);
        async {
            let mut quotas = Quotas::default();
            let mut response = match self.preflight(&request, route, &negotiation) {
                Some(response) => response,
                None => {
                    let outcome = self.guarded(request, route, &mut quotas, &mut access).await;
                    outcome.unwrap_or_else(|error| refuse(error, &id, route))
                }
            };
            if response.status() == StatusCode::UNAUTHORIZED {
                self.strangers.refused(address).await;
            }
            headers::add(&mut response, &id);
            response.headers_mut().extend(quotas.headers().into_iter().flatten());
            response = compress::apply(response, negotiation.accept_encoding.as_deref());
            self.settings.cors.add(&mut response, negotiation.origin.as_deref());
            access.end(response.status());
            observed.end(response.status());
            Ok(response)
        }
        .instrument(span)
        .await
    }
}

/// The request headers that affect the response, copied before the request is consumed.
struct NegotiationHeaders {
    origin: Option<String>,
    accept_encoding: Option<String>,
}

impl NegotiationHeaders {
    fn of(request: &Request) -> Self {
        let header =
            |name| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Self { origin: header(header::ORIGIN), accept_encoding: header(header::ACCEPT_ENCODING) }
    }
}

impl Layers {
    /// The response to `OPTIONS`, which the routes do not handle. An unknown path gets its 404 later.
    fn preflight(
        &self,
        request: &Request,
        route: Option<&Route>,
        negotiation: &NegotiationHeaders,
    ) -> Option<Response> {
        if request.method() != Method::OPTIONS {
            return None;
        }
        let allow = route?.allow();
        let mut response =
            Response::builder().status(StatusCode::NO_CONTENT).header(header::ALLOW, allow.clone()).finish();
        self.settings.cors.preflight(&mut response, request, negotiation.origin.as_deref(), allow);
        Some(response)
    }

    async fn guarded(
        &self,
        mut request: Request,
        route: Option<&Route>,
        quotas: &mut Quotas,
        access: &mut Access,
    ) -> poem::Result<Response> {
        let route_limits = route.map(|route| route.limits).unwrap_or_default();
        let limits = &self.settings.limits;
        headers::check(request.headers_mut())?;
        query::check(&mut request)?;
        let limit = limits.body(route_limits);
        self.settings.auth.prepare(&request).await;
        let admitted = self.admit(&mut request, route, quotas).and_then(|admitted| {
            body::check_headers(&request, limit)?;
            // Without credentials, a route says so first.
            if let Some(route) = route.filter(|_| admitted.has_caller()) {
                query::check_names(&request, route)?;
            }
            Ok(admitted)
        });
        access.identify(&request);
        let expects_continue = request.headers().contains_key(header::EXPECT);
        let body = body::limit(&mut request, limit, &self.bodies);
        let admission = match admitted {
            Ok(admission) => admission,
            Err(problem) => {
                body.discard(expects_continue).await;
                return Err(problem.into());
            }
        };
        let client = request.data::<ClientSide>().cloned().unwrap_or_default();
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        let is_costly = admission.is_costly;
        let turn = self.turn(&admission).await?;
        let progress = RequestProgress::default();
        request.set_data(progress.clone());
        let call = AssertUnwindSafe(self.endpoint.call(request)).catch_unwind();
        tokio::pin!(call);
        let mut call = admission.share.clone().of(call);
        let is_costly = is_costly && route_limits == RouteLimits::Default;
        let deadline = limits.deadline(if is_costly { RouteLimits::Costly } else { route_limits });
        let outcome = match tokio::time::timeout(deadline.unwrap_or(limits.deadline), &mut call).await {
            Ok(outcome) => outcome,
            // A long poll has no deadline, but its body has.
            Err(_) if deadline.is_none() && body.is_complete() => call.await,
            Err(_) => return Err(too_late(body.is_complete(), reads, &progress).into()),
        };
        drop(turn);
        let outcome = outcome.unwrap_or_else(|panic| Err(panicked(&*panic).into()));
        // A route refuses the caller before it reads the body.
        if outcome.is_err() {
            body.discard(expects_continue).await;
        }
        let response = self.start_stream(admission, outcome?)?;
        Ok(streams::end_with_client(response, client))
    }
}

fn too_late(body_arrived: bool, reads: bool, progress: &RequestProgress) -> Problem {
    if !body_arrived {
        return Problem::new(Code::RequestTimeout, "the body did not arrive in time; nothing was done");
    }
    tracing::error!("a request exceeded its deadline");
    if reads {
        Problem::unavailable("the request exceeded its deadline; the server is busy", Duration::from_secs(1))
    } else {
        progress.outcome_unknown()
    }
}

fn panicked(panic: &(dyn Any + Send)) -> Problem {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    Problem::internal(&format_args!("panic: {message}"))
}

/// The one place where an error is converted to a response.
fn refuse(error: poem::Error, id: &RequestId, route: Option<&Route>) -> Response {
    if error.is_from_response() {
        return error.into_response();
    }
    let mut problem = Problem::from_error(error).request_id(&id.0);
    if let (Code::MethodNotAllowed, Some(route)) = (problem.code, route) {
        problem = problem.header(header::ALLOW, route.allow());
    }
    problem.into_response()
}

#[cfg(test)]
mod deadline_tests;
#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
