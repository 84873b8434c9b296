//! A job's history: its timeline and its events. Both are read from the log, so they are never behind.

use std::sync::Arc;

use domain::image_matching::summary::JobFold;
use domain::job::timeline::{Timeline, timeline};
use event_log::EventLog;
use event_schemas::envelope::Recorded;
use event_schemas::ids::{CorrelationId, EventId, JobId, Position, SubjectId};
use event_schemas::time::Timestamp;
use poem_openapi::OpenApi;
use poem_openapi::param::{Header, Path, Query};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;
use web::caller::Caller;
use web::etag::Cached;
use web::paging::{Cursor, Limit, Page};
use web::path;
use web::problem::Problem;

use super::Tag;
use super::job::RUNNING_TIMES;
use crate::ReadApi;
use crate::errors::{from_read_error, no_such_job};
use crate::job_access::hide_messages;
use crate::job_events::{JobEventReader, JobEventsCursor};
use crate::min_position::MinPosition;

/// An event with its metadata.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Event")]
pub struct EventDto {
    pub id: EventId,
    #[serde(rename = "type")]
    pub event_type: String,
    pub schema_version: u16,
    pub stream: String,
    /// The position in its stream, from 0.
    pub revision: u64,
    /// The position in the log.
    pub position: Position,
    /// When it happened, according to its producer.
    pub occurred_at: Timestamp,
    /// When the log accepted it.
    pub recorded_at: Timestamp,
    pub tenant: String,
    /// `subject:<id>`, `worker:<id>`, `service:<id>` or `system:<process>`.
    pub actor: String,
    /// The first command of the chain.
    pub correlation_id: CorrelationId,
    /// The command or event that caused it.
    pub causation_id: Uuid,
    /// The subject of personal data, if it contains any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<SubjectId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idempotency: Option<IdempotencyDto>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// The payload, valid by the JSON Schema of its type and version.
    pub data: Value,
}

/// The idempotency key of a command and the hash of its body.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "EventIdempotency")]
pub struct IdempotencyDto {
    pub key: Uuid,
    pub body: String,
}

impl EventDto {
    pub(crate) fn new(event: &Recorded) -> Result<Self, Problem> {
        let metadata = event.metadata().map_err(|error| Problem::internal(&error))?;
        let data = serde_json::from_slice(&event.data).map_err(|error| Problem::internal(&error))?;
        Ok(Self {
            id: event.id,
            event_type: event.event_type.as_str().to_owned(),
            schema_version: metadata.schema_version,
            stream: event.stream.as_str().to_owned(),
            revision: event.revision.0,
            position: event.position,
            occurred_at: metadata.occurred_at,
            recorded_at: event.recorded_at,
            tenant: metadata.tenant.to_string(),
            actor: metadata.actor.to_string(),
            correlation_id: metadata.correlation_id,
            causation_id: metadata.causation_id,
            subject: metadata.subject,
            idempotency: metadata.idempotency.map(|idempotency| IdempotencyDto {
                key: idempotency.key,
                body: format!("{:032x}", u128::from_be_bytes(idempotency.body.0)),
            }),
            traceparent: metadata.traceparent,
            data,
        })
    }

    /// Hides the message of a worker, as [`hide_messages`] does. The data stays valid by its schema.
    fn hide_message(&mut self) {
        if let Some(message) = self.data.pointer_mut("/error/message") {
            *message = "only for the roles `service` and `admin`".into();
        }
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
    ) -> Result<Cached<Timeline>, Problem> {
        let job = path::job_id(&job_id)?;
        self.api.wait_for_log(min).await?;
        self.api.check_tenant(&caller.tenant, job).await?;
        let mut timeline = self.job_timeline(job).await?;
        hide_messages(&caller, timeline.errors_mut());
        Ok(Cached::without(&timeline, RUNNING_TIMES, if_none_match.as_deref()))
    }

    /// List a job's events, oldest first
    ///
    /// The events of all its streams, in the order of the log. The error messages of workers are only for the roles
    /// `service` and `admin`.
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
        let mut page = self.page(job, limit.0, cursor.0.as_ref()).await?;
        if !caller.can_access_others() {
            page.items.iter_mut().for_each(EventDto::hide_message);
        }
        Ok(Cached::new(&page, if_none_match.as_deref()))
    }
}

impl HistoryRoutes {
    async fn job_timeline(&self, job: JobId) -> Result<Timeline, Problem> {
        let mut reader = JobEventReader::without_matches(&self.api.log, job);
        let mut fold = JobFold::default();
        while let Some(event) = reader.next().await.map_err(|error| from_read_error(&error))? {
            fold.apply(&event.decode().map_err(|error| Problem::internal(&error))?);
        }
        timeline(&fold, self.api.clock.now()).ok_or_else(no_such_job)
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
