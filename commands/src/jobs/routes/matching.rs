//! Registers the images, frames and requests of a matching job, and reports the progress of its requests.

use std::sync::Arc;

use domain::decider::Decider;
use domain::image_matching::{Action, Command, ImageMatchingDecider, Refusal, TotalsField};
use domain::job::JobAvailability;
use event_schemas::envelope::Cause;
use event_schemas::ids::{FrameId, ImageId, JobId, LeaseId, Position, ProductId, RequestId, VideoId};
use event_schemas::image_match::{Frames, MatchRequested, ProductImage, Totals, VideoFrame};
use event_schemas::stream::StreamId;
use futures_util::FutureExt;
use poem_openapi::param::Path;
use poem_openapi::types::{Example, ParseFromJSON, ToJSON};
use poem_openapi::{Object, OpenApi};
use schemars::JsonSchema;
use serde::Serialize;
use web::json::{Batch, Json};
use web::problem::Problem;
use web::schema::Api;
use web::tag::Tag;
use web::value::{ApiTimestamp, LooseTextId, TextId, UuidParam};

use crate::engine::batch_parts::BatchParts;
use crate::engine::execute::{CachedStream, ExecuteError, Executed};
use crate::engine::problem;
use crate::engine::write_request::{Workers, WriteRequest};
use crate::jobs::Jobs;

/// An image of a product.
#[derive(Debug, Object)]
struct NewImage {
    img_id: TextId<ImageId>,
    /// The location from which a worker loads it.
    #[oai(validator(min_length = 1, max_length = 2048))]
    url: Option<String>,
}

/// A product with images to look for. Known images are ignored.
#[derive(Debug, Object)]
#[oai(example)]
struct NewProduct {
    product_id: LooseTextId<ProductId>,
    #[oai(validator(max_items = 10000))]
    images: Vec<NewImage>,
}

impl Example for NewProduct {
    fn example() -> Self {
        let image =
            NewImage { img_id: TextId(id("hedge-1")), url: Some("file:///images/hedge-1.jpg".to_owned()) };
        Self { product_id: LooseTextId(id("hedge")), images: vec![image] }
    }
}

/// A frame of a video.
#[derive(Debug, Object)]
struct NewFrame {
    frame_id: TextId<FrameId>,
    /// The time of the frame in the video.
    #[oai(validator(maximum(value = "9007199254740991")))]
    timestamp_ms: Option<u64>,
}

/// A video to search: its frames, or their number.
#[derive(Debug, Object)]
#[oai(example)]
struct NewVideo {
    video_id: LooseTextId<VideoId>,
    /// Frames in addition to those that are registered already.
    #[oai(validator(max_items = 100000))]
    frames: Option<Vec<NewFrame>>,
    /// The number of frames, if they have no ids.
    #[oai(validator(maximum(value = "9007199254740991")))]
    frame_count: Option<u64>,
}

impl Example for NewVideo {
    fn example() -> Self {
        let frame = NewFrame { frame_id: TextId(id("f000")), timestamp_ms: Some(0) };
        Self { video_id: LooseTextId(id("garden")), frames: Some(vec![frame]), frame_count: None }
    }
}

/// A product to be matched against a video by one worker.
#[derive(Debug, Object)]
#[oai(example)]
struct NewRequest {
    request_id: TextId<RequestId>,
    product_id: LooseTextId<ProductId>,
    video_id: LooseTextId<VideoId>,
    /// The number of pairs of image and frame to compare.
    #[oai(validator(maximum(value = "9007199254740991")))]
    candidates: u64,
}

impl Example for NewRequest {
    fn example() -> Self {
        Self {
            request_id: TextId(id("hedge:garden")),
            product_id: LooseTextId(id("hedge")),
            video_id: LooseTextId(id("garden")),
            candidates: 66,
        }
    }
}

/// The progress of a request: its totals so far, so that a repeated or late report never counts twice.
#[derive(Debug, Object)]
#[oai(example)]
struct NewProgress {
    request_id: TextId<RequestId>,
    /// The lease under which the request was claimed. Required while a lease is open.
    lease_id: Option<UuidParam<LeaseId>>,
    #[oai(validator(maximum(value = "9007199254740991")))]
    candidates_processed: u64,
    #[oai(validator(maximum(value = "9007199254740991")))]
    vector_pass_done: u64,
    #[oai(validator(maximum(value = "9007199254740991")))]
    ransac_checked: u64,
    /// True if the request is completed with these totals.
    completed: Option<bool>,
    /// The time of these totals. Default: now.
    occurred_at: Option<ApiTimestamp>,
}

impl Example for NewProgress {
    fn example() -> Self {
        Self {
            request_id: TextId(id("hedge:garden")),
            lease_id: None,
            candidates_processed: 33,
            vector_pass_done: 33,
            ransac_checked: 12,
            completed: Some(false),
            occurred_at: None,
        }
    }
}

fn id<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("an example's ids are short texts")
}

/// The result of a batch that is accepted as a whole.
#[derive(Debug, Serialize, JsonSchema)]
struct BatchAccepted {
    /// The number of items in the batch, including known ones, which were not recorded again.
    accepted: u64,
    position: Position,
}

/// The write routes of matching jobs.
#[derive(Clone, Debug)]
pub struct MatchingCommands(pub(super) Arc<Jobs>);

#[OpenApi(tag = "Tag::Matching")]
impl MatchingCommands {
    /// Register products and their images
    #[oai(path = "/jobs/:job_id/products", method = "post", operation_id = "register_products")]
    async fn products(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Workers>,
        job_id: Path<String>,
        body: Batch<NewProduct>,
    ) -> Result<Json<Api<BatchAccepted>>, Problem> {
        let register = |_, new: NewProduct| {
            let image = |new: NewImage| ProductImage { img_id: new.img_id.0, url: new.url };
            let images = new.images.into_iter().map(image).collect();
            Ok((Action::RegisterImages { product_id: new.product_id.0, images }, None))
        };
        self.batch("products", request, job_id.0, body.0, register).await
    }

    /// Register videos and their frames
    #[oai(path = "/jobs/:job_id/videos", method = "post", operation_id = "register_videos")]
    async fn videos(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Workers>,
        job_id: Path<String>,
        body: Batch<NewVideo>,
    ) -> Result<Json<Api<BatchAccepted>>, Problem> {
        let register = |index, new: NewVideo| {
            let frame =
                |new: NewFrame| VideoFrame { frame_id: new.frame_id.0, timestamp_ms: new.timestamp_ms };
            let frames = match (new.frames, new.frame_count) {
                (Some(frames), None) => Frames::Listed(frames.into_iter().map(frame).collect()),
                (None, Some(count)) => Frames::Counted(count),
                (None, None) => {
                    let reason = "is missing, and so is `frame_count`; one of the two is required";
                    return Err(Problem::invalid(format!("body[{index}].frames"), reason));
                }
                (Some(_), Some(_)) => {
                    let reason = "frames are either listed in `frames` or counted in `frame_count`";
                    return Err(Problem::unprocessable(format!("body[{index}].frames"), reason));
                }
            };
            Ok((Action::RegisterFrames { video_id: new.video_id.0, frames }, None))
        };
        self.batch("videos", request, job_id.0, body.0, register).await
    }

    /// Issue match requests
    ///
    /// Workers claim them, oldest first.
    #[oai(path = "/jobs/:job_id/match-requests", method = "post", operation_id = "issue_match_requests")]
    async fn requests(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Workers>,
        job_id: Path<String>,
        body: Batch<NewRequest>,
    ) -> Result<Json<Api<BatchAccepted>>, Problem> {
        let issue = |_, new: NewRequest| {
            let request = MatchRequested {
                request_id: new.request_id.0,
                product_id: new.product_id.0,
                video_id: new.video_id.0,
                candidates: new.candidates,
            };
            Ok((Action::Request(request), None))
        };
        self.batch("match-requests", request, job_id.0, body.0, issue).await
    }

    /// Report the progress of match requests
    ///
    /// Totals so far, under the request's lease. A repeated or late report counts once; a report under another lease is
    /// refused with 409.
    #[oai(path = "/jobs/:job_id/match-progress", method = "post", operation_id = "report_match_progress")]
    async fn progress(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Workers>,
        job_id: Path<String>,
        body: Batch<NewProgress>,
    ) -> Result<Json<Api<BatchAccepted>>, Problem> {
        let tenant = request.caller.tenant.clone();
        let leases: Vec<_> = body.0.iter().filter_map(|new| new.lease_id).collect();
        let report = |_, new: NewProgress| {
            let report = Action::Report {
                request_id: new.request_id.0,
                lease_id: new.lease_id.map(|lease| *lease),
                totals: Totals {
                    candidates_processed: new.candidates_processed,
                    vector_pass_done: new.vector_pass_done,
                    ransac_checked: new.ransac_checked,
                },
                completed: new.completed.unwrap_or(false),
            };
            Ok((report, new.occurred_at))
        };
        let accepted = self.batch("match-progress", request, job_id.0, body.0, report).await?;
        // A report counts as a heartbeat.
        leases.iter().for_each(|lease| self.0.heartbeat_by_report(&tenant, **lease));
        Ok(accepted)
    }
}

impl MatchingCommands {
    /// Executes a batch on a job's matching. If an item is refused, the batch is.
    async fn batch<T>(
        &self,
        route: &'static str,
        request: WriteRequest<Workers>,
        job_id: String,
        items: Vec<T>,
        action: impl Fn(usize, T) -> Result<(Action, Option<ApiTimestamp>), Problem> + Send + 'static,
    ) -> Result<Json<Api<BatchAccepted>>, Problem>
    where
        T: ParseFromJSON + ToJSON + 'static,
    {
        let (commands, execution) = (self.clone(), request.execution.clone());
        let batch =
            async move { commands.execute_items(route, &request, &job_id, items, action).await }.boxed();
        execution.run(batch).await
    }

    async fn execute_items<T>(
        &self,
        route: &str,
        request: &WriteRequest<Workers>,
        job_id: &str,
        items: Vec<T>,
        action: impl Fn(usize, T) -> Result<(Action, Option<ApiTimestamp>), Problem>,
    ) -> Result<Json<Api<BatchAccepted>>, Problem>
    where
        T: ParseFromJSON + ToJSON,
    {
        let job = web::path::job_id(job_id)?;
        let job_ref = self.0.job(&request.caller.tenant, job).await?;
        let (availability, accepted) = (job_ref.availability, items.len() as u64);
        let route = format!("POST /jobs/{job}/{route}");
        let cause = request.cause_of_batch(&self.0.engine, &route, &items).await?;
        let commands = items.into_iter().enumerate().map(|(index, item)| {
            let (action, occurred_at) = action(index, item)?;
            let at =
                self.0.engine.occurred_at_or_now(occurred_at, || format!("body[{index}].occurred_at"))?;
            Ok(Command { job: availability, at, action })
        });
        let commands = commands.collect::<Result<Vec<_>, Problem>>()?;
        let executed = self.execute_batch(job, availability, &cause, &commands).await?;
        // If nothing was ever recorded, the batch is visible from the job's position.
        let position = match executed.position {
            Position::START => job_ref.position,
            position => position,
        };
        Ok(Json(Api(BatchAccepted { accepted, position })))
    }

    async fn execute_batch(
        &self,
        job: JobId,
        availability: JobAvailability,
        cause: &Cause,
        commands: &[Command],
    ) -> Result<Executed, Problem> {
        let stream = StreamId::image_matching(job);
        if commands.is_empty()
            && let JobAvailability::Ended(phase) = availability
        {
            let earlier = self.0.image_matchings.repeated(&stream, cause).await;
            // An empty batch is refused like any other, so that a worker learns that the job has ended.
            return earlier
                .map_err(problem::from_execute_error)?
                .ok_or_else(|| Problem::conflict(Refusal::JobEnded(phase).to_string()));
        }
        match self.0.image_matchings.execute_all(&stream, cause, commands).await {
            Ok(executed) => Ok(executed),
            Err(ExecuteError::Incomplete { error, .. }) => {
                Err(self.incomplete_batch(&stream, commands, problem::from_batch_error(*error, field)).await)
            }
            Err(error) => Err(problem::from_batch_error(error, field)),
        }
    }

    /// The problem of a batch that failed after its first events were recorded. An item is recorded if it would change
    /// nothing.
    async fn incomplete_batch(&self, stream: &StreamId, commands: &[Command], problem: Problem) -> Problem {
        let reflected = |folded: &CachedStream<ImageMatchingDecider>| {
            let reflected = commands.iter().map(|command| {
                let while_open = Command { job: JobAvailability::Open, ..command.clone() };
                let events = ImageMatchingDecider::decide(&while_open, &folded.state);
                events.is_ok_and(|events| events.is_empty())
            });
            (reflected.collect(), folded.position())
        };
        let reflected = self.0.image_matchings.query(stream, reflected).await;
        let mut parts = BatchParts::default();
        parts.failed((0..).take(commands.len()).collect(), problem.clone(), true, reflected);
        parts.into_problem().unwrap_or(problem)
    }
}

/// The member of an item that a refusal is about.
fn field(refusal: &Refusal) -> Option<&'static str> {
    match refusal {
        Refusal::TooMany { field: TotalsField::CandidatesProcessed, .. } => Some("candidates_processed"),
        Refusal::TooMany { field: TotalsField::VectorPassDone, .. } => Some("vector_pass_done"),
        Refusal::TooMany { field: TotalsField::RansacChecked, .. } => Some("ransac_checked"),
        Refusal::TooManyCandidates { field } => Some(field),
        Refusal::NoRequest(_)
        | Refusal::RequestExists(_)
        | Refusal::Completed(_)
        | Refusal::NotClaimable(_) => Some("request_id"),
        Refusal::LeaseLost | Refusal::LeaseReused => Some("lease_id"),
        Refusal::FramesListed(_) => Some("frame_count"),
        Refusal::FramesCounted(_) => Some("frames"),
        Refusal::NoJob | Refusal::JobEnded(_) => None,
    }
}
