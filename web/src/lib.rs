//! The HTTP layer that the write routes of `commands` and the read routes of `read-api` share.
//!
//! It does not depend on the domain, the log or the read models. From the contract it uses ids, positions, timestamps and
//! idempotency keys.
//!
//! A route has one shape: caller and parameters → one call → [`Json`](json::Json) or a [`Problem`](problem::Problem).
//!
//! ```
//! use event_schemas::ids::{JobId, Position};
//! use poem_openapi::param::{Header, Path, Query};
//! use poem_openapi::{Object, OpenApi, OpenApiService};
//! use schemars::JsonSchema;
//! use serde::Serialize;
//! use web::caller::{Auth, Caller, Now, Role};
//! use web::etag::Cached;
//! use web::idempotency::{IdempotencyKey, idempotency};
//! use web::json::{Created, Json};
//! use web::paging::{Cursor, Limit, Page};
//! use web::problem::Problem;
//! use web::routes::Routes;
//! use web::schema::Api;
//! use web::serve::{Settings, layers};
//! use web::value::{ApiPosition, UuidParam};
//!
//! #[derive(Object)]
//! struct CreateJob {
//!     job_id: Option<UuidParam<JobId>>,
//!     #[oai(validator(min_length = 1, max_length = 200))]
//!     name: String,
//! }
//!
//! #[derive(Serialize, JsonSchema)]
//! struct Job {
//!     id: JobId,
//!     name: String,
//!     position: Position,
//! }
//!
//! struct Jobs;
//!
//! #[OpenApi]
//! impl Jobs {
//!     /// Create a job
//!     #[oai(path = "/jobs", method = "post", operation_id = "create_job")]
//!     async fn create(
//!         &self,
//!         caller: Caller,
//!         #[oai(name = "Idempotency-Key")] key: Header<Option<IdempotencyKey>>,
//!         request: Json<CreateJob>,
//!     ) -> Result<Created<Api<Job>>, Problem> {
//!         caller.require(Role::User | Role::Service | Role::Admin)?;
//!         let _idempotency = key.0.map(|key| idempotency(&caller, "POST /jobs", &key, &request.0));
//!         let id = request.0.job_id.map_or_else(|| JobId(uuid::Uuid::now_v7()), |id| *id);
//!         // … the command …
//!         let job = Job { id, name: request.0.name, position: Position(1) };
//!         Ok(Created { location: format!("/jobs/{}", job.id), body: Api(job) })
//!     }
//!
//!     /// Get a job
//!     #[oai(path = "/jobs/:job_id", method = "get", operation_id = "read_job")]
//!     async fn read(
//!         &self,
//!         _caller: Caller,
//!         job_id: Path<String>,
//!         #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
//!         #[oai(name = "X-Min-Position")] _min_position: Header<Option<ApiPosition>>,
//!     ) -> Result<Cached<Job>, Problem> {
//!         let id = web::path::job_id(&job_id)?;
//!         let job = Job { id, name: "a".into(), position: Position(1) };
//!         Ok(Cached::without(&job, &["position"], if_none_match.0.as_deref()))
//!     }
//!
//!     /// List jobs, newest first
//!     #[oai(path = "/jobs", method = "get", operation_id = "list_jobs")]
//!     async fn list(
//!         &self,
//!         caller: Caller,
//!         #[oai(default)] limit: Query<Limit>,
//!         cursor: Query<Option<Cursor>>,
//!     ) -> Result<Json<Api<Page<Job>>>, Problem> {
//!         let list = format!("jobs/{}", caller.tenant);
//!         let _after: Option<JobId> = cursor.0.map(|cursor| cursor.key(&list)).transpose()?;
//!         let jobs = Vec::new(); // … up to `limit.get() + 1` jobs after it …
//!         Ok(Json(Api(Page::of(jobs, limit.0, &list, |job: &Job| job.id))))
//!     }
//! }
//!
//! let service = OpenApiService::new(Jobs, "Jobs", "1.0");
//! let document = web::openapi::document(&service.spec()).unwrap();
//! let settings = Settings::new(Auth::open(Now::system()), Routes::from_document(&document));
//! let endpoint = layers(service, settings);
//! # let _ = endpoint;
//! ```
//!
//! Other responses: [`Created`](json::Created) is 201, [`Accepted`](json::Accepted) 202, [`Cached`](etag::Cached) 200 or
//! 304, [`sse::StreamResponse`] a stream. [`Batch`](json::Batch) reads a request of many items as an array or NDJSON.
//! Poem's own extractors work as well: [`TraceParent`](request::TraceParent), and
//! [`Authenticated`](caller::Authenticated) for the caller of a WebSocket.
//!
//! [`server::run`] serves an endpoint until a [`shutdown`]; [`Routes::limits`](routes::Routes::limits) gives bulk paths a
//! larger body and long polls no deadline.
//!
//! Requests are objects of poem-openapi, because their validators are their schema. Answers are types that serde and schemars
//! describe, beside the code that computes them; [`schema`] brings their schemas into the document.
//!
//! Rules that keep the OpenAPI document true:
//! - Ids in paths are `Path<String>` parsed by [`path`], so that a text that is not a UUID is 404.
//! - Numbers have a `minimum`, text a `max_length`, lists a `max_items` (`#[oai(validator(...))]`): a body is validated
//!   against its schema before a route receives it, and every body that the schema allows must be accepted. For the same
//!   reason no request object uses `deny_unknown_fields`: the document cannot express it.
//! - A `GET` returns neither 409 nor 422; [`openapi::document`] removes them.

pub mod caller;
mod durations;
pub mod etag;
pub mod http_client;
pub mod idempotency;
pub mod json;
pub mod negotiation;
pub mod openapi;
pub mod paging;
pub mod path;
pub mod problem;
pub mod progress;
pub mod request;
pub mod routes;
pub mod schema;
pub mod serve;
pub mod server;
pub mod shutdown;
pub mod sse;
pub mod stream_permit;
pub mod tag;
pub mod value;
