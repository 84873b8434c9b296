//! A job's history: its timeline and its events. Both are read from the log, so they are never behind.

use std::sync::Arc;

use domain::image_matching::summary::JobFold;
use domain::job::timeline::{PhasePeriod, Timeline, TimelineError, timeline};
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
use web::value::{ApiPosition, ApiTimestamp, TextId, UuidParam};

use super::Tag;
use super::job::{Attempt, ClassifiedErrorDto, RUNNING_TIMES, Status};
use crate::ReadApi;
use crate::errors::{from_read_error, no_such_job};
use crate::job_events::{JobEventReader, JobEventsCursor};
use crate::min_position::MinPosition;
use web::enums::{JobKind, Phase};

/// An event with its metadata.
#[derive(Clone, Debug, Object)]
#[oai(rename = "Event", skip_serializing_if_is_none)]
pub struct EventDto {
    pub id: UuidParam<EventId>,
    #[oai(rename = "type")]
    pub event_type: String,
    pub schema_version: u16,
    pub stream: String,
    /// The position in its stream, from 0.
    pub revision: u64,
    /// The position in the log.
    pub position: ApiPosition,
    /// When it happened, according to its producer.
    pub occurred_at: ApiTimestamp,
    /// When the log accepted it.
    pub recorded_at: ApiTimestamp,
    pub tenant: String,
    /// `subject:<id>`, `worker:<id>`, `service:<id>` or `system:<process>`.
    pub actor: String,
    /// The first command of the chain.
    pub correlation_id: UuidParam<CorrelationId>,
    /// The command or event that caused it.
    pub causation_id: Uuid,
    /// The subject of personal data, if it contains any.
    pub subject: Option<UuidParam<SubjectId>>,
    pub idempotency: Option<IdempotencyDto>,
    pub traceparent: Option<String>,
    /// The payload, valid by the JSON Schema of its type and version.
    pub data: Any<Value>,
}

/// The idempotency key of a command and the hash of its body.
#[derive(Clone, Debug, Object)]
#[oai(rename = "EventIdempotency")]
pub struct IdempotencyDto {
    pub key: Uuid,
    pub body: String,
}

/// A stay in a phase.
#[derive(Clone, Debug, Object)]
#[oai(rename = "TimelinePhase")]
pub struct TimelinePhaseDto {
    pub phase: Phase,
    pub attempt: u32,
    pub started_at: ApiTimestamp,
    /// Null while the job is in it.
    pub ended_at: Option<ApiTimestamp>,
    /// Until now, while the job is in it.
    pub duration_seconds: f64,
}

/// An error and its time.
#[derive(Clone, Debug, Object)]
#[oai(rename = "TimelineError")]
pub struct TimelineErrorDto {
    pub at: ApiTimestamp,
    /// The attempt of the job, or of the request if there is one.
    pub attempt: u32,
    /// The match request that failed; null if the whole job did.
    pub request_id: Option<TextId<RequestId>>,
    pub error: ClassifiedErrorDto,
}

/// A job's timeline.
#[derive(Clone, Debug, Object)]
#[oai(rename = "Timeline")]
pub struct TimelineDto {
    pub job_id: UuidParam<JobId>,
    pub kind: JobKind,
    pub phase: Phase,
    pub status: Status,
    pub attempt: u32,
    pub created_at: ApiTimestamp,
    /// Null until the job ends.
    pub ended_at: Option<ApiTimestamp>,
    /// Every stay in a phase, in order, without the final phases.
    pub phases: Vec<TimelinePhaseDto>,
    pub attempts: Vec<Attempt>,
    /// The errors in order: of whole attempts, and the latest of failed match requests.
    pub errors: Vec<TimelineErrorDto>,
    /// The log position that the response reflects.
    pub position: ApiPosition,
}

impl From<PhasePeriod> for TimelinePhaseDto {
    fn from(period: PhasePeriod) -> Self {
        Self {
            phase: period.phase.into(),
            attempt: period.attempt,
            started_at: ApiTimestamp(period.started_at),
            ended_at: period.ended_at.map(ApiTimestamp),
            duration_seconds: period.duration_seconds,
        }
    }
}

impl From<TimelineError> for TimelineErrorDto {
    fn from(failure: TimelineError) -> Self {
        Self {
            at: ApiTimestamp(failure.at),
            attempt: failure.attempt,
            request_id: failure.request_id.map(TextId),
            error: failure.error.into(),
        }
    }
}

impl TimelineDto {
    fn new(timeline: Timeline, position: Position) -> Self {
        Self {
            job_id: UuidParam(timeline.job_id),
            kind: timeline.kind.into(),
            phase: timeline.phase.into(),
            status: timeline.status.into(),
            attempt: timeline.attempt,
            created_at: ApiTimestamp(timeline.created_at),
            ended_at: timeline.ended_at.map(ApiTimestamp),
            phases: timeline.phases.into_iter().map(Into::into).collect(),
            attempts: timeline.attempts.into_iter().map(Into::into).collect(),
            errors: timeline.errors.into_iter().map(Into::into).collect(),
            position: ApiPosition(position),
        }
    }
}

impl EventDto {
    pub(crate) fn new(event: &Recorded) -> Result<Self, Problem> {
        let metadata = event.metadata().map_err(|error| Problem::internal(&error))?;
        let data = serde_json::from_slice(&event.data).map_err(|error| Problem::internal(&error))?;
        Ok(Self {
            id: UuidParam(event.id),
            event_type: event.event_type.as_str().to_owned(),
            schema_version: metadata.schema_version,
            stream: event.stream.as_str().to_owned(),
            revision: event.revision.0,
            position: ApiPosition(event.position),
            occurred_at: ApiTimestamp(metadata.occurred_at),
            recorded_at: ApiTimestamp(event.recorded_at),
            tenant: metadata.tenant.to_string(),
            actor: metadata.actor.to_string(),
            correlation_id: UuidParam(metadata.correlation_id),
            causation_id: metadata.causation_id,
            subject: metadata.subject.map(UuidParam),
            idempotency: metadata.idempotency.map(|idempotency| IdempotencyDto {
                key: idempotency.key,
                body: format!("{:032x}", u128::from_be_bytes(idempotency.body.0)),
            }),
            traceparent: metadata.traceparent,
            data: Any(data),
        })
    }
}

/// Routes for a job's history.
#[derive(Clone, Debug)]
pub struct HistoryRoutes {
    pub(crate) api: Arc<ReadApi>,
}

#[OpenApi(tag = "Tag::Jobs")]
impl HistoryRoutes {
    /// Get a job's timeline
    ///
    /// Its phases, attempts and errors, in a form suited to drawing.
    #[oai(path = "/jobs/:job_id/timeline", method = "get", operation_id = "read_job_timeline")]
    async fn timeline(
        &self,
        caller: Caller,
        job_id: Path<String>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<TimelineDto>, Problem> {
        let job = path::job_id(&job_id)?;
        self.api.wait_for_log(min).await?;
        self.api.check_tenant(&caller.tenant, job).await?;
        let (timeline, position) = self.job_timeline(job).await?;
        Ok(Cached::without(&TimelineDto::new(timeline, position), RUNNING_TIMES, if_none_match.as_deref()))
    }

    /// List a job's events, oldest first
    ///
    /// The events of all its streams, in the order of the log.
    #[oai(path = "/jobs/:job_id/events", method = "get", operation_id = "list_job_events")]
    async fn events(
        &self,
        caller: Caller,
        job_id: Path<String>,
        #[oai(default)] limit: Query<Limit>,
        cursor: Query<Option<Cursor>>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<Page<EventDto>>, Problem> {
        let job = path::job_id(&job_id)?;
        self.api.wait_for_log(min).await?;
        self.api.check_tenant(&caller.tenant, job).await?;
        let page = self.page(job, limit.0, cursor.0.as_ref()).await?;
        Ok(Cached::new(&page, if_none_match.as_deref()))
    }
}

impl HistoryRoutes {
    /// The timeline of the job, with the position that it reflects.
    async fn job_timeline(&self, job: JobId) -> Result<(Timeline, Position), Problem> {
        let mut reader = JobEventReader::without_matches(&self.api.log, job);
        let mut fold = JobFold::default();
        while let Some(event) = reader.next().await.map_err(|error| from_read_error(&error))? {
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
    ) -> Result<Page<EventDto>, Problem> {
        // Cursors from before a restore are not valid: revisions may differ.
        let list = format!("events of {job} in epoch {}", self.api.log.identity().epoch);
        let position = match cursor {
            Some(cursor) => {
                let text: String = cursor.key(&list)?;
                JobEventsCursor::from_text(&text)
                    .ok_or_else(|| Problem::invalid("cursor", "is damaged; start again without a cursor"))?
            }
            None => JobEventsCursor::default(),
        };
        let mut reader = JobEventReader::resume(&self.api.log, job, position);
        let mut items = Vec::new();
        while items.len() < limit.get()
            && let Some(event) = reader.next().await.map_err(|error| from_read_error(&error))?
        {
            items.push(EventDto::new(&event)?);
        }
        let position = reader.cursor();
        let more = reader.next().await.map_err(|error| from_read_error(&error))?.is_some();
        let next_cursor = more.then(|| Cursor::new(&list, &position.to_text()).to_string());
        Ok(Page { items, next_cursor })
    }
}
