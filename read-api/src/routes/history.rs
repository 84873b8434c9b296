//! A job's past: its course for drawing, and its events. Both come straight from the log, so no read model can be behind.

use std::sync::Arc;

use domain::job::timeline::{PhaseStay, Timeline, TimelineError, timeline};
use domain::matching::summary::JobFold;
use event_log::EventLog;
use event_schemas::envelope::Recorded;
use event_schemas::ids::{CorrelationId, EventId, JobId, Position, RequestId, SubjectId};
use poem_openapi::param::{Header, Path, Query};
use poem_openapi::types::Any;
use poem_openapi::{Object, OpenApi};
use serde_json::Value;
use uuid::Uuid;
use web::caller::Caller;
use web::etag::Cached;
use web::paging::{Cursor, Limit, Page};
use web::path;
use web::problem::Problem;
use web::value::{At, Pos, Text, Uid};

use super::Tag;
use super::job::{Attempt, ErrorObject, RUNNING_TIMES, Status};
use crate::ReadApi;
use crate::answer::{MinPosition, no_such_job, unread};
use crate::history::{History, Place};
use web::vocabulary::{JobKind, Phase};

/// An event with all that is known about it.
#[derive(Clone, Debug, Object)]
#[oai(rename = "Event", skip_serializing_if_is_none)]
pub struct EventObject {
    pub id: Uid<EventId>,
    #[oai(rename = "type")]
    pub event_type: String,
    pub schema_version: u16,
    pub stream: String,
    /// Its place in the stream, from 0.
    pub revision: u64,
    /// Its place in the whole log.
    pub position: Pos,
    /// When it happened, as its producer says.
    pub occurred_at: At,
    /// When the log accepted it.
    pub recorded_at: At,
    pub tenant: String,
    /// `subject:<id>`, `worker:<id>`, `service:<id>` or `system:<process>`.
    pub actor: String,
    /// The first command of the chain.
    pub correlation_id: Uid<CorrelationId>,
    /// The command or event that caused it.
    pub causation_id: Uuid,
    /// Whose data it is, if a person's.
    pub subject: Option<Uid<SubjectId>>,
    pub idempotency: Option<IdempotencyObject>,
    pub traceparent: Option<String>,
    /// What happened, by the JSON Schema of its type and version.
    pub data: Any<Value>,
}

/// Under which key a command came, and the hash of its body.
#[derive(Clone, Debug, Object)]
#[oai(rename = "EventIdempotency")]
pub struct IdempotencyObject {
    pub key: Uuid,
    pub body: String,
}

/// A stay in a phase.
#[derive(Clone, Debug, Object)]
#[oai(rename = "TimelinePhase")]
pub struct StayObject {
    pub phase: Phase,
    pub attempt: u32,
    pub started_at: At,
    /// Null while the job is in it.
    pub ended_at: Option<At>,
    /// Up to now, while the job is in it.
    pub duration_seconds: f64,
}

/// What went wrong, and when.
#[derive(Clone, Debug, Object)]
#[oai(rename = "TimelineError")]
pub struct FailureObject {
    pub at: At,
    /// Of the job, or of the request if there is one.
    pub attempt: u32,
    /// The match request that failed; null where it was the whole job.
    pub request_id: Option<Text<RequestId>>,
    pub error: ErrorObject,
}

/// A job's course.
#[derive(Clone, Debug, Object)]
#[oai(rename = "Timeline")]
pub struct TimelineObject {
    pub job_id: Uid<JobId>,
    pub kind: JobKind,
    pub phase: Phase,
    pub status: Status,
    pub attempt: u32,
    pub created_at: At,
    /// Null while the job goes on.
    pub ended_at: Option<At>,
    /// Every stay in a phase, in order; the ends are no phases to stay in.
    pub phases: Vec<StayObject>,
    pub attempts: Vec<Attempt>,
    /// What went wrong, in order: whole attempts, and the latest of the requests that a worker could not do.
    pub errors: Vec<FailureObject>,
    /// The log position that the answer reflects.
    pub position: Pos,
}

impl From<PhaseStay> for StayObject {
    fn from(stay: PhaseStay) -> Self {
        Self {
            phase: stay.phase.into(),
            attempt: stay.attempt,
            started_at: At(stay.started_at),
            ended_at: stay.ended_at.map(At),
            duration_seconds: stay.duration_seconds,
        }
    }
}

impl From<TimelineError> for FailureObject {
    fn from(failure: TimelineError) -> Self {
        Self {
            at: At(failure.at),
            attempt: failure.attempt,
            request_id: failure.request_id.map(Text),
            error: failure.error.into(),
        }
    }
}

impl TimelineObject {
    fn new(timeline: Timeline, position: Position) -> Self {
        Self {
            job_id: Uid(timeline.job_id),
            kind: timeline.kind.into(),
            phase: timeline.phase.into(),
            status: timeline.status.into(),
            attempt: timeline.attempt,
            created_at: At(timeline.created_at),
            ended_at: timeline.ended_at.map(At),
            phases: timeline.phases.into_iter().map(Into::into).collect(),
            attempts: timeline.attempts.into_iter().map(Into::into).collect(),
            errors: timeline.errors.into_iter().map(Into::into).collect(),
            position: Pos(position),
        }
    }
}

impl EventObject {
    pub(crate) fn new(event: &Recorded) -> Result<Self, Problem> {
        let metadata = event.metadata().map_err(|error| Problem::internal(&error))?;
        let data = serde_json::from_slice(&event.data).map_err(|error| Problem::internal(&error))?;
        Ok(Self {
            id: Uid(event.id),
            event_type: event.event_type.as_str().to_owned(),
            schema_version: metadata.schema_version,
            stream: event.stream.as_str().to_owned(),
            revision: event.revision.0,
            position: Pos(event.position),
            occurred_at: At(metadata.occurred_at),
            recorded_at: At(event.recorded_at),
            tenant: metadata.tenant.to_string(),
            actor: metadata.actor.to_string(),
            correlation_id: Uid(metadata.correlation_id),
            causation_id: metadata.causation_id,
            subject: metadata.subject.map(Uid),
            idempotency: metadata.idempotency.map(|idempotency| IdempotencyObject {
                key: idempotency.key,
                body: format!("{:032x}", u128::from_be_bytes(idempotency.body.0)),
            }),
            traceparent: metadata.traceparent,
            data: Any(data),
        })
    }
}

/// Routes over a job's past.
#[derive(Clone, Debug)]
pub struct HistoryRoutes {
    pub(crate) api: Arc<ReadApi>,
}

#[OpenApi(tag = "Tag::Jobs")]
impl HistoryRoutes {
    /// A job's phases, attempts and errors, made for drawing.
    #[oai(path = "/jobs/:job_id/timeline", method = "get", operation_id = "read_job_timeline")]
    async fn timeline(
        &self,
        caller: Caller,
        job_id: Path<String>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<TimelineObject>, Problem> {
        let job = path::job_id(&job_id)?;
        self.api.log_reached(min).await?;
        self.api.check_tenant(&caller.tenant, job).await?;
        let (timeline, position) = self.course(job).await?;
        Ok(Cached::without(&TimelineObject::new(timeline, position), RUNNING_TIMES, if_none_match.as_deref()))
    }

    /// A job's events, oldest first: those of all its streams in the log's order.
    #[oai(path = "/jobs/:job_id/events", method = "get", operation_id = "list_job_events")]
    async fn events(
        &self,
        caller: Caller,
        job_id: Path<String>,
        #[oai(default)] limit: Query<Limit>,
        cursor: Query<Option<Cursor>>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<Page<EventObject>>, Problem> {
        let job = path::job_id(&job_id)?;
        self.api.log_reached(min).await?;
        self.api.check_tenant(&caller.tenant, job).await?;
        let page = self.page(job, limit.0, cursor.0.as_ref()).await?;
        Ok(Cached::new(&page, if_none_match.as_deref()))
    }
}

impl HistoryRoutes {
    /// The course of the job, with the position up to which it was read.
    async fn course(&self, job: JobId) -> Result<(Timeline, Position), Problem> {
        let mut history = History::course(&self.api.log, job);
        let mut fold = JobFold::default();
        while let Some(event) = history.next().await.map_err(|error| unread(&error))? {
            fold.apply(&event.decode().map_err(|error| Problem::internal(&error))?);
        }
        let timeline = timeline(&fold, self.api.clock.now()).ok_or_else(no_such_job)?;
        Ok((timeline, fold.latest.position))
    }

    async fn page(
        &self,
        job: JobId,
        limit: Limit,
        cursor: Option<&Cursor>,
    ) -> Result<Page<EventObject>, Problem> {
        // Places of before a restore are not those of now.
        let list = format!("events of {job} in epoch {}", self.api.log.identity().epoch);
        let place = match cursor {
            Some(cursor) => {
                let text: String = cursor.key(&list)?;
                Place::from_text(&text)
                    .ok_or_else(|| Problem::invalid("cursor", "is damaged; begin again without"))?
            }
            None => Place::default(),
        };
        let mut history = History::from(&self.api.log, job, place);
        let mut items = Vec::new();
        while items.len() < limit.get()
            && let Some(event) = history.next().await.map_err(|error| unread(&error))?
        {
            items.push(EventObject::new(&event)?);
        }
        let place = history.place();
        let more = history.next().await.map_err(|error| unread(&error))?.is_some();
        let next_cursor = more.then(|| Cursor::new(&list, &place.to_text()).to_string());
        Ok(Page { items, next_cursor })
    }
}
