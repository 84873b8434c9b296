//! What a write route reads of a request before its body: the caller, the trace context and the idempotency key.
//!
//! A caller without the route's role is refused before the body is read.

use std::marker::PhantomData;

use event_schemas::envelope::{Cause, Idempotency};
use event_schemas::ids::SubjectId;
use poem::http::header::CONTENT_LENGTH;
use poem::{FromRequest, Request, RequestBody};
use poem_openapi::param::Header;
use poem_openapi::registry::{MetaParamIn, MetaSchemaRef, Registry};
use poem_openapi::types::ToJSON;
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};
use web::caller::{Caller, Role, Roles, Share};
use web::idempotency::{IdempotencyKey, idempotency, idempotency_of_batch};
use web::problem::Problem;
use web::progress::RequestProgress;
use web::request::TraceParent;

use super::Engine;
use super::execution::Execution;

/// The callers that may use a route.
pub(crate) trait Permitted: Send + Sync {
    fn roles() -> Roles;
}

/// Users, and the services and admins that act for them.
#[derive(Debug)]
pub(crate) struct Users;

/// Workers, and the services that do work.
#[derive(Debug)]
pub(crate) struct Workers;

/// The services of a tenant, and its admins.
#[derive(Debug)]
pub(crate) struct Services;

#[derive(Debug)]
pub(crate) struct Admins;

impl Permitted for Users {
    fn roles() -> Roles {
        Role::User | Role::Service | Role::Admin
    }
}

impl Permitted for Workers {
    fn roles() -> Roles {
        Role::Worker | Role::Service
    }
}

impl Permitted for Services {
    fn roles() -> Roles {
        Role::Service | Role::Admin
    }
}

impl Permitted for Admins {
    fn roles() -> Roles {
        Role::Admin.into()
    }
}

/// A request of a permitted caller, without an idempotency key: it is a heartbeat, or part of a [`WriteRequest`].
#[derive(Debug)]
pub(crate) struct CallerOf<P> {
    pub(crate) caller: Caller,
    trace: TraceParent,
    permitted: PhantomData<P>,
}

impl<P> CallerOf<P> {
    /// The cause of a command without an idempotency key.
    ///
    /// # Errors
    /// If the vault cannot return the caller's subject.
    pub(crate) async fn cause(self, engine: &Engine) -> Result<Cause, Problem> {
        engine.cause(&self.caller, self.trace, None).await
    }
}

impl<'a, P: Permitted> ApiExtractor<'a> for CallerOf<P> {
    const TYPES: &'static [ApiExtractorType] = <Caller as ApiExtractor<'a>>::TYPES;

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        <Caller as ApiExtractor<'a>>::register(registry);
    }

    fn security_schemes() -> Vec<&'static str> {
        <Caller as ApiExtractor<'a>>::security_schemes()
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let caller = <Caller as ApiExtractor>::from_request(request, body, options).await?;
        caller.require(P::roles())?;
        let trace = <TraceParent as FromRequest>::from_request(request, body).await?;
        Ok(Self { caller, trace, permitted: PhantomData })
    }
}

/// A request of a permitted caller, which may have an idempotency key.
#[derive(Debug)]
pub(crate) struct WriteRequest<P> {
    pub(crate) caller: Caller,
    pub(crate) execution: Execution,
    /// What of it is recorded so far.
    pub(crate) progress: RequestProgress,
    trace: TraceParent,
    key: Option<IdempotencyKey>,
    permitted: PhantomData<P>,
}

/// A command with a shorter body takes a few milliseconds.
const LARGE_BYTES: u64 = 64 * 1024;

impl<P> WriteRequest<P> {
    /// Whether the request has an idempotency key.
    pub(crate) fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// The idempotency of the command. `route` is its method and path; the path contains the resource, so that a key
    /// belongs to one resource only.
    fn idempotency(&self, route: &str, body: &impl ToJSON) -> Option<Idempotency> {
        self.key.as_ref().map(|key| idempotency(&self.caller, route, key, body))
    }

    /// The cause of the command; see [`Self::idempotency`].
    ///
    /// # Errors
    /// If the vault cannot return the caller's subject.
    pub(crate) async fn cause(
        &self,
        engine: &Engine,
        route: &str,
        body: &impl ToJSON,
    ) -> Result<Cause, Problem> {
        engine.cause(&self.caller, self.trace.clone(), self.idempotency(route, body)).await
    }

    /// The cause of a batch.
    ///
    /// # Errors
    /// As [`Self::cause`].
    pub(crate) async fn cause_of_batch(
        &self,
        engine: &Engine,
        route: &str,
        items: &[impl ToJSON],
    ) -> Result<Cause, Problem> {
        let key = self.key.as_ref();
        let idempotency = key.map(|key| idempotency_of_batch(&self.caller, route, key, items));
        engine.cause(&self.caller, self.trace.clone(), idempotency).await
    }

    /// The cause of a command about a person.
    ///
    /// # Errors
    /// As [`Self::cause`].
    pub(crate) async fn cause_about(
        &self,
        subject: SubjectId,
        engine: &Engine,
        route: &str,
        body: &impl ToJSON,
    ) -> Result<Cause, Problem> {
        Ok(Cause { subject: Some(subject), ..self.cause(engine, route, body).await? })
    }
}

type KeyHeader = Header<Option<IdempotencyKey>>;

impl<'a, P: Permitted> ApiExtractor<'a> for WriteRequest<P> {
    const TYPES: &'static [ApiExtractorType] =
        &[ApiExtractorType::SecurityScheme, ApiExtractorType::Parameter];

    type ParamType = <KeyHeader as ApiExtractor<'a>>::ParamType;
    type ParamRawType = <KeyHeader as ApiExtractor<'a>>::ParamRawType;

    fn register(registry: &mut Registry) {
        <CallerOf<P> as ApiExtractor<'a>>::register(registry);
        <KeyHeader as ApiExtractor<'a>>::register(registry);
    }

    fn security_schemes() -> Vec<&'static str> {
        <CallerOf<P> as ApiExtractor<'a>>::security_schemes()
    }

    fn param_in() -> Option<MetaParamIn> {
        <KeyHeader as ApiExtractor<'a>>::param_in()
    }

    fn param_schema_ref() -> Option<MetaSchemaRef> {
        <KeyHeader as ApiExtractor<'a>>::param_schema_ref()
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        options: ExtractParamOptions<Self::ParamType>,
    ) -> poem::Result<Self> {
        let caller = CallerOf::<P>::from_request(request, body, ExtractParamOptions::default()).await?;
        let CallerOf { caller, trace, permitted } = caller;
        let key = <KeyHeader as ApiExtractor>::from_request(request, body, options).await?.0;
        let length: Option<u64> = request.header(CONTENT_LENGTH).and_then(|length| length.parse().ok());
        let is_large = length.is_none_or(|length| length > LARGE_BYTES);
        let progress = <RequestProgress as FromRequest>::from_request(request, body).await?;
        let share = <Share as FromRequest>::from_request(request, body).await?;
        Ok(Self { caller, execution: Execution { is_large, share }, progress, trace, key, permitted })
    }
}
