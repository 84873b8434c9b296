//! Everything that is known of a person, and what was shown to them, as one document.

use std::sync::Arc;

use bytes::Bytes;
use event_log::{EventLog, Filter, Log};
use event_schemas::challenge::ChallengeEvent;
use event_schemas::envelope::{Event, Recorded};
use event_schemas::ids::{Position, SubjectId, Tenant, UserId};
use event_schemas::loose_id::LooseId;
use event_schemas::player::PlayerEvent;
use event_schemas::sealed::{Sealed, SealedField};
use event_schemas::time::Timestamp;
use event_schemas::user::UserEvent;
use futures_util::{Stream, stream};
use poem::http::StatusCode;
use poem::{Body, IntoResponse, Response};
use poem_openapi::param::{Path, Query};
use poem_openapi::registry::{MetaMediaType, MetaResponse, MetaResponses, Registry};
use poem_openapi::types::Type;
use poem_openapi::{ApiResponse, OpenApi};
use projections::Name;
use schemars::JsonSchema;
use serde::Serialize;
use web::caller::{ALL_TENANTS, Caller, Role};
use web::path;
use web::problem::Problem;
use web::schema::Api;
use web::shutdown::Shutdown;

use super::Tag;
use super::history::EventDto;
use super::player::PlayerRating;
use super::user_profile::Profile;
use crate::ReadApi;
use crate::errors::from_query_error;
use crate::min_position::MinPosition;
use crate::subjects::SubjectDirectory;

const JSON: &str = "application/json";

/// The number of events that are read from the log at a time.
const CHUNK_EVENTS: usize = 1000;

/// The most ratings, one for each pool.
const RATINGS_MAX: u32 = 500;

/// What is known of a person.
#[derive(Debug, Serialize, JsonSchema)]
pub struct SubjectReport {
    user_id: LooseId,
    /// The id under which the log knows the person.
    subject_id: SubjectId,
    generated_at: Timestamp,
    /// Log position up to which the report is complete.
    position: Position,
    /// The interests that follow from the interactions; null without any.
    profile: Option<Profile>,
    /// The ratings that follow from the results of matches.
    ratings: Vec<PlayerRating>,
    /// The events that name the person, in the order of the log: what they did, what they were shown, and what others did
    /// with them. The last member, because they are sent while the log is read.
    events: Vec<ReportedEvent>,
}

/// An event that names the person.
#[derive(Debug, Serialize, JsonSchema)]
struct ReportedEvent {
    #[serde(flatten)]
    event: EventDto,
    /// The text of its sealed field: a query, the metadata of a queue entry, or the message of a challenge.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

/// A report, which is sent while the log is read.
#[derive(Debug)]
pub struct ReportResponse(Body);

impl IntoResponse for ReportResponse {
    fn into_response(self) -> Response {
        Response::builder().content_type(JSON).header("cache-control", "no-store").body(self.0)
    }
}

impl ApiResponse for ReportResponse {
    fn meta() -> MetaResponses {
        let schema = Api::<SubjectReport>::schema_ref();
        MetaResponses {
            responses: vec![MetaResponse {
                description: "OK",
                status: Some(StatusCode::OK.as_u16()),
                status_range: None,
                content: vec![MetaMediaType { content_type: JSON, schema }],
                headers: vec![],
            }],
        }
    }

    fn register(registry: &mut Registry) {
        Api::<SubjectReport>::register(registry);
    }
}

/// Routes for what is known of a person.
#[derive(Clone, Debug)]
pub struct SubjectReportRoutes {
    pub(crate) api: Arc<ReadApi>,
}

#[OpenApi(tag = "Tag::Audit")]
impl SubjectReportRoutes {
    /// Report everything that is known of a user
    ///
    /// One document with the user's profile, their ratings, and all events that name them, with the lists of products that
    /// were shown to them; their sealed texts are opened. It is sent while the log is read. Needs the role `auditor` or
    /// `admin` of the tenant, or of the tenant `*`.
    #[oai(path = "/audit/subjects/:user_id/report", method = "get", operation_id = "report_user")]
    async fn report(
        &self,
        caller: Caller,
        user_id: Path<String>,
        /// The user's tenant. Only credentials of all tenants may name another than their own, and must name one.
        #[oai(validator(max_length = 64))]
        tenant: Query<Option<String>>,
    ) -> Result<ReportResponse, Problem> {
        caller.require(Role::Auditor | Role::Admin)?;
        let user_id: UserId = path::user_id(&user_id)?;
        let tenant = caller.tenant_or_own(tenant.0.as_deref())?;
        let known = self.api.server.subjects.subject(&tenant, &user_id).await?;
        let no_such_user = || Problem::not_found("no such user; one who was erased is not known any more");
        let subject = known.ok_or_else(no_such_user)?;
        let position = self.api.head();
        let models = [Name::Users, Name::Products, Name::Players, Name::Search];
        self.api.wait_for_models(&models, MinPosition(Some(position))).await?;
        let ratings = self.api.models.players().ratings(&tenant, subject, None, RATINGS_MAX).await;
        let (ratings, _) = ratings.map_err(|error| from_query_error(&error))?;
        let report = SubjectReport {
            user_id: (&user_id).into(),
            subject_id: subject,
            generated_at: self.api.clock.now(),
            position,
            profile: self.api.profile_of(&tenant, &user_id, subject).await?,
            ratings: ratings.into_iter().map(PlayerRating::from).collect(),
            events: Vec::new(),
        };
        let events = ReportedEvents {
            log: self.api.log.clone(),
            subjects: self.api.server.subjects.clone(),
            shutdown: self.api.shutdown.clone(),
            tenant,
            subject,
            after: Position::START,
            last: position,
            has_written: false,
        };
        let report = serde_json::to_string(&report).map_err(|error| Problem::internal(&error))?;
        Ok(ReportResponse(Body::from_bytes_stream(with_events(&report, events))))
    }
}

/// The events of a report, a chunk of the log at a time.
struct ReportedEvents {
    log: Log,
    subjects: SubjectDirectory,
    shutdown: Shutdown,
    tenant: Tenant,
    subject: SubjectId,
    after: Position,
    last: Position,
    has_written: bool,
}

/// The report with its events. Its last member is their list, which is empty.
fn with_events(report: &str, events: ReportedEvents) -> impl Stream<Item = std::io::Result<Bytes>> + use<> {
    const END: &str = "]}";
    let start = report.strip_suffix(END).unwrap_or(report).to_owned();
    stream::try_unfold((Some(start), Some(events)), async |(start, events)| {
        if let Some(start) = start {
            return Ok(Some((Bytes::from(start), (None, events))));
        }
        let Some(mut events) = events else { return Ok(None) };
        if events.after >= events.last {
            return Ok(Some((Bytes::from_static(END.as_bytes()), (None, None))));
        }
        let text = events.next().await.map_err(std::io::Error::other)?;
        Ok(Some((Bytes::from(text), (None, Some(events)))))
    })
}

impl ReportedEvents {
    /// The next events that name the person.
    async fn next(&mut self) -> Result<String, Problem> {
        let page = tokio::select! {
            biased;
            page = self.log.read_all(self.after, &Filter::All, CHUNK_EVENTS) => page,
            // A report must not look complete if it was cut short.
            () = self.shutdown.requested() => return Err(Problem::internal(&"the server is stopping")),
        };
        let page = page.map_err(|error| Problem::internal(&error))?;
        let mut text = String::new();
        for event in page.events.iter().take_while(|event| event.position <= self.last) {
            if !self.names_the_person(event)? {
                continue;
            }
            if std::mem::replace(&mut self.has_written, true) {
                text.push(',');
            }
            let opened = self.open(event).await?;
            let reported = ReportedEvent { event: EventDto::new(event)?, text: opened };
            let reported = serde_json::to_string(&reported).map_err(|error| Problem::internal(&error))?;
            text.push_str(&reported);
        }
        self.after = if page.at_head { self.last } else { page.next };
        Ok(text)
    }

    /// Whether the event is of the tenant and names the person, in its stream, its metadata or its data.
    fn names_the_person(&self, event: &Recorded) -> Result<bool, Problem> {
        let id = self.subject.to_string();
        let has = |bytes: &[u8]| bytes.windows(id.len()).any(|window| window == id.as_bytes());
        if !event.stream.is_reserved() || !(has(&event.data) || has(&event.metadata)) {
            return Ok(false);
        }
        // The id is random, so that it is there only if it names the person. Admins of all tenants act in the others.
        let metadata = event.metadata().map_err(|error| Problem::internal(&error))?;
        Ok(metadata.tenant == self.tenant || self.tenant.as_str() == ALL_TENANTS)
    }

    /// Opens the sealed field of an event, if it has one.
    async fn open(&self, event: &Recorded) -> Result<Option<String>, Problem> {
        let envelope = event.decode().map_err(|error| Problem::internal(&error))?;
        let Some((of, field, sealed)) = sealed_field(&envelope.event) else { return Ok(None) };
        self.subjects.unseal(&envelope.metadata.tenant, of, field, sealed).await
    }
}

/// The sealed field of an event, and whose key opens it.
fn sealed_field(event: &Event) -> Option<(SubjectId, SealedField, &Sealed)> {
    match event {
        Event::User(UserEvent::ListServed(list)) => {
            Some((list.subject_id, SealedField::ListQuery(list.list_id), list.query.as_ref()?))
        }
        Event::Player(PlayerEvent::PlayerQueued(queued)) => {
            let field = SealedField::QueueMetadata(queued.entry_id);
            Some((queued.subject_id, field, queued.metadata.as_ref()?))
        }
        Event::Challenge(ChallengeEvent::ChallengeCreated(created)) => {
            let field = SealedField::ChallengeMessage(created.challenge_id);
            Some((created.challenger, field, created.message.as_ref()?))
        }
        _ => None,
    }
}
