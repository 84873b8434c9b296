//! Jobs of any kind: the list, and one.

use std::sync::Arc;

use event_schemas::failure::ClassifiedError;
use event_schemas::ids::{JobId, VideoId, WorkerId};
use event_schemas::job::JobSource;
use poem_openapi::param::{Header, Path, Query};
use poem_openapi::types::Any;
use poem_openapi::{Enum, Object, OpenApi};
use projections::Name;
use projections::job::{JobCounters, JobCursor, JobError, JobFilter, JobStatus, JobView, StageProgress};
use serde_json::{Map, Value};
use web::caller::Caller;
use web::etag::Cached;
use web::paging::{Cursor, Limit, Page};
use web::path;
use web::problem::Problem;
use web::value::{At, Pos, Text, Uid};

use super::Tag;
use crate::ReadApi;
use crate::answer::{no_such_job, unanswered};
use web::vocabulary::{FailureCategory, JobKind, Phase, failure_code};

/// Where a job stands, in the words that all kinds share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename = "JobStatus", rename_all = "snake_case", remote = "JobStatus")]
pub enum Status {
    Pending,
    Running,
    Completed,
    Failed,
    Cancelled,
}

impl From<domain::job::history::Status> for Status {
    fn from(status: domain::job::history::Status) -> Self {
        use domain::job::history::Status as Folded;
        match status {
            Folded::Pending => Self::Pending,
            Folded::Running => Self::Running,
            Folded::Completed => Self::Completed,
            Folded::Failed => Self::Failed,
            Folded::Cancelled => Self::Cancelled,
        }
    }
}

/// What has been counted of a job.
#[derive(Clone, Debug, Object)]
#[oai(rename = "JobCounters")]
pub struct Counters {
    pub product_images: u64,
    pub video_frames: u64,
    pub match_requests: u64,
    pub match_requests_completed: u64,
    /// Product images × video frames.
    pub candidates_total: u64,
    /// Those that workers reported as processed.
    pub candidates_processed: u64,
    pub matches_found: u64,
    pub matches_with_evidence: u64,
}

/// How far the phase is that the job is in, as its worker said last.
#[derive(Clone, Debug, Object)]
#[oai(rename = "StageProgress")]
pub struct Stage {
    pub stage: Phase,
    /// From 0 to 1.
    pub fraction: f64,
    pub items_done: Option<u64>,
    pub items_total: Option<u64>,
}

/// A recognised error.
#[derive(Clone, Debug, Object)]
#[oai(rename = "ClassifiedError")]
pub struct ErrorObject {
    pub code: String,
    pub category: FailureCategory,
    /// What was reported, word for word.
    pub message: String,
    /// A sentence for whoever asked for the work.
    pub user_message: String,
    pub suggested_actions: Vec<String>,
    pub retryable: bool,
    pub retry_after_seconds: Option<u32>,
    /// What to quote when asking for help.
    pub support_reference: String,
}

/// An attempt that failed.
#[derive(Clone, Debug, Object)]
#[oai(rename = "JobError")]
pub struct FailedAttempt {
    pub attempt: u32,
    pub at: At,
    pub error: ErrorObject,
}

/// The video that a job is about.
#[derive(Clone, Debug, Object)]
#[oai(rename = "JobSource")]
pub struct Source {
    pub video_id: Text<VideoId>,
    pub url: String,
}

/// A job.
#[derive(Clone, Debug, Object)]
pub struct Job {
    pub id: Uid<JobId>,
    pub job_id: Uid<JobId>,
    pub kind: JobKind,
    pub name: Option<String>,
    /// The caller's own notes on the job.
    pub metadata: Any<Map<String, Value>>,
    pub source: Option<Source>,
    pub phase: Phase,
    pub status: Status,
    /// From 1; a retry raises it.
    pub attempt: u32,
    pub created_at: At,
    /// When the work itself last began: matching, or the first stage of another kind.
    pub started_at: Option<At>,
    /// When it completed, failed or was cancelled.
    pub ended_at: Option<At>,
    /// The greatest instant that any of its events gives.
    pub last_event_at: At,
    /// The next attempt does not start before.
    pub retry_due_at: Option<At>,
    /// Whether it is no longer tried again by itself.
    pub quarantined: bool,
    /// Who has the job as a whole.
    pub worker_id: Option<Text<WorkerId>>,
    pub progress: Option<Stage>,
    pub result: Option<Any<Value>>,
    /// The latest failures, oldest first.
    pub errors: Vec<FailedAttempt>,
    pub counters: Counters,
    /// Of the latest event.
    pub position: Pos,
}

impl From<JobCounters> for Counters {
    fn from(counters: JobCounters) -> Self {
        Self {
            product_images: counters.product_images,
            video_frames: counters.video_frames,
            match_requests: counters.match_requests,
            match_requests_completed: counters.match_requests_completed,
            candidates_total: counters.candidates_total(),
            candidates_processed: counters.candidates_processed,
            matches_found: counters.matches_found,
            matches_with_evidence: counters.matches_with_evidence,
        }
    }
}

impl From<StageProgress> for Stage {
    fn from(progress: StageProgress) -> Self {
        Self {
            stage: progress.stage.into(),
            fraction: progress.fraction,
            items_done: progress.items_done,
            items_total: progress.items_total,
        }
    }
}

impl From<ClassifiedError> for ErrorObject {
    fn from(error: ClassifiedError) -> Self {
        Self {
            code: failure_code(error.code),
            category: error.category.into(),
            message: error.message,
            user_message: error.user_message,
            suggested_actions: error.suggested_actions,
            retryable: error.retryable,
            retry_after_seconds: error.retry_after_seconds,
            support_reference: error.support_reference,
        }
    }
}

impl From<JobError> for FailedAttempt {
    fn from(failed: JobError) -> Self {
        Self { attempt: failed.attempt, at: At(failed.at), error: failed.error.into() }
    }
}

impl From<JobSource> for Source {
    fn from(source: JobSource) -> Self {
        match source {
            JobSource::Video { video_id, url } => Self { video_id: Text(video_id), url },
        }
    }
}

impl From<JobView> for Job {
    fn from(job: JobView) -> Self {
        Self {
            id: Uid(job.job_id),
            job_id: Uid(job.job_id),
            kind: job.kind.into(),
            name: job.name,
            metadata: Any(job.metadata),
            source: job.source.map(Into::into),
            phase: job.phase.into(),
            status: job.status.into(),
            attempt: job.attempt,
            created_at: At(job.created_at),
            started_at: job.started_at.map(At),
            ended_at: job.ended_at.map(At),
            last_event_at: At(job.last_event_at),
            retry_due_at: job.retry_due_at.map(At),
            quarantined: job.quarantined.is_some(),
            worker_id: job.worker_id.map(Text),
            progress: job.progress.map(Into::into),
            result: job.result.map(Any),
            errors: job.errors.into_iter().map(Into::into).collect(),
            counters: job.counters.into(),
            position: Pos(job.position),
        }
    }
}

/// Routes over jobs.
#[derive(Clone, Debug)]
pub struct JobRoutes {
    pub(crate) api: Arc<ReadApi>,
}

#[OpenApi(tag = "Tag::Jobs")]
impl JobRoutes {
    /// The tenant's jobs, the newest first
    #[oai(path = "/jobs", method = "get", operation_id = "list_jobs")]
    #[allow(clippy::too_many_arguments, reason = "each is a parameter of the operation")]
    async fn list(
        &self,
        caller: Caller,
        status: Query<Option<Status>>,
        phase: Query<Option<Phase>>,
        kind: Query<Option<JobKind>>,
        /// Created then or later
        since: Query<Option<At>>,
        /// A part of the name or of the id, in small or capital letters
        #[oai(validator(max_length = 200))]
        q: Query<Option<String>>,
        #[oai(default)] limit: Query<Limit>,
        cursor: Query<Option<Cursor>>,
        #[oai(name = "X-Min-Position")] min_position: Header<Option<Pos>>,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<Page<Job>>, Problem> {
        self.api.models_reached(&[Name::Jobs, Name::MatchingSummary], min_position.0).await?;
        let filter = JobFilter {
            status: status.0.map(Into::into),
            phase: phase.0.map(Into::into),
            kind: kind.0.map(Into::into),
            since: since.0.map(|At(since)| since),
            search: q.0.filter(|q| !q.is_empty()),
        };
        let page = self.page(&caller, &filter, limit.0, cursor.0.as_ref()).await?;
        Ok(Cached::new(&page, if_none_match.as_deref()))
    }

    /// One job
    #[oai(path = "/jobs/:job_id", method = "get", operation_id = "read_job")]
    async fn read(
        &self,
        caller: Caller,
        job_id: Path<String>,
        #[oai(name = "X-Min-Position")] min_position: Header<Option<Pos>>,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<Job>, Problem> {
        let id = path::job_id(&job_id)?;
        self.api.models_reached(&[Name::Jobs, Name::MatchingSummary], min_position.0).await?;
        let found = self.api.models.jobs().get(&caller.tenant, id).await;
        let (job, _) = found.map_err(|error| unanswered(&error))?.ok_or_else(no_such_job)?;
        Ok(Cached::new(&Job::from(job), if_none_match.as_deref()))
    }
}

impl JobRoutes {
    async fn page(
        &self,
        caller: &Caller,
        filter: &JobFilter,
        limit: Limit,
        cursor: Option<&Cursor>,
    ) -> Result<Page<Job>, Problem> {
        let list = format!("jobs {filter:?}");
        let after: Option<JobCursor> = cursor.map(|cursor| cursor.key(&list)).transpose()?;
        let page = self.api.models.jobs().list(&caller.tenant, filter, after, limit.get() as u32).await;
        let page = page.map_err(|error| unanswered(&error))?;
        let items = page.items.into_iter().map(Job::from).collect();
        Ok(Page { items, next_cursor: page.next.map(|next| Cursor::new(&list, &next).to_string()) })
    }
}
