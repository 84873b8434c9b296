//! What a matching job has to compare, and how far that is.

use domain::job::Standing;
use domain::matching::{Action, Command, Refusal, TotalsField};
use event_schemas::envelope::Cause;
use event_schemas::ids::{FrameId, ImageId, JobId, LeaseId, Position, ProductId, RequestId, VideoId};
use event_schemas::matching::{Frames, MatchRequested, ProductImage, Totals, VideoFrame};
use event_schemas::stream::StreamId;
use poem_openapi::param::{Header, Path};
use poem_openapi::types::{Example, ParseFromJSON, ToJSON};
use poem_openapi::{Object, OpenApi};
use web::caller::Caller;
use web::idempotency::IdempotencyKey;
use web::json::{Batch, Json};
use web::problem::Problem;
use web::request::TraceParent;
use web::value::{At, Key, Pos, Text, Uid};
use web::vocabulary::Tag;

use super::{keyed, reporters};
use crate::execute::Executed;
use crate::{Commands, refusal};

/// An image of a product.
#[derive(Debug, Object)]
struct NewImage {
    img_id: Text<ImageId>,
    /// Where a worker finds it.
    #[oai(validator(min_length = 1, max_length = 2048))]
    url: Option<String>,
}

/// A product with images to look for. Those that it has already are passed over.
#[derive(Debug, Object)]
#[oai(example)]
struct NewProduct {
    product_id: Key<ProductId>,
    #[oai(validator(max_items = 10000))]
    images: Vec<NewImage>,
}

impl Example for NewProduct {
    fn example() -> Self {
        let image =
            NewImage { img_id: Text(id("hedge-1")), url: Some("file:///images/hedge-1.jpg".to_owned()) };
        Self { product_id: Key(id("hedge")), images: vec![image] }
    }
}

/// A frame of a video.
#[derive(Debug, Object)]
struct NewFrame {
    frame_id: Text<FrameId>,
    /// Where in the video it is.
    #[oai(validator(maximum(value = "9007199254740991")))]
    timestamp_ms: Option<u64>,
}

/// A video to look in: its frames, or how many there are.
#[derive(Debug, Object)]
#[oai(example)]
struct NewVideo {
    video_id: Key<VideoId>,
    /// Frames on top of those named before.
    #[oai(validator(max_items = 100000))]
    frames: Option<Vec<NewFrame>>,
    /// How many frames there are, if they have no names.
    #[oai(validator(maximum(value = "9007199254740991")))]
    frame_count: Option<u64>,
}

impl Example for NewVideo {
    fn example() -> Self {
        let frame = NewFrame { frame_id: Text(id("f000")), timestamp_ms: Some(0) };
        Self { video_id: Key(id("garden")), frames: Some(vec![frame]), frame_count: None }
    }
}

/// A product to be matched against a video by one worker.
#[derive(Debug, Object)]
#[oai(example)]
struct NewRequest {
    request_id: Text<RequestId>,
    product_id: Key<ProductId>,
    video_id: Key<VideoId>,
    /// How many pairs of image and frame there are to compare.
    #[oai(validator(maximum(value = "9007199254740991")))]
    candidates: u64,
}

impl Example for NewRequest {
    fn example() -> Self {
        Self {
            request_id: Text(id("hedge:garden")),
            product_id: Key(id("hedge")),
            video_id: Key(id("garden")),
            candidates: 66,
        }
    }
}

/// How far a request is: its totals so far, so that a repeated or late report never counts twice.
#[derive(Debug, Object)]
#[oai(example)]
struct NewProgress {
    request_id: Text<RequestId>,
    /// The lease under which the request was claimed. Needed while one is in force.
    lease_id: Option<Uid<LeaseId>>,
    #[oai(validator(maximum(value = "9007199254740991")))]
    candidates_processed: u64,
    #[oai(validator(maximum(value = "9007199254740991")))]
    vector_pass_done: u64,
    #[oai(validator(maximum(value = "9007199254740991")))]
    ransac_checked: u64,
    /// Whether the request is done with these totals.
    completed: Option<bool>,
    /// When it was so; now, unless said otherwise.
    occurred_at: Option<At>,
}

impl Example for NewProgress {
    fn example() -> Self {
        Self {
            request_id: Text(id("hedge:garden")),
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

/// What became of a batch that is taken as a whole.
#[derive(Debug, Object)]
struct BatchTaken {
    /// How many items the batch had. What was known already is among them, and was not recorded again.
    accepted: u64,
    position: Pos,
}

/// Commands about what a job has to compare.
#[derive(Clone, Debug)]
pub struct MatchingCommands(pub(super) Commands);

#[OpenApi(tag = "Tag::Matching")]
impl MatchingCommands {
    /// Register products and their images
    #[oai(path = "/jobs/:job_id/products", method = "post", operation_id = "register_products")]
    async fn products(
        &self,
        caller: Caller,
        trace: TraceParent,
        #[oai(name = "Idempotency-Key")] key: Header<Option<IdempotencyKey>>,
        job_id: Path<String>,
        body: Batch<NewProduct>,
    ) -> Result<Json<BatchTaken>, Problem> {
        let register = |_, new: NewProduct| {
            let image = |new: NewImage| ProductImage { img_id: new.img_id.0, url: new.url };
            let images = new.images.into_iter().map(image).collect();
            Ok((Action::RegisterImages { product_id: new.product_id.0, images }, None))
        };
        self.0.batch("products", caller, trace, key.0, &job_id, body.0, register).await
    }

    /// Register videos and their frames
    #[oai(path = "/jobs/:job_id/videos", method = "post", operation_id = "register_videos")]
    async fn videos(
        &self,
        caller: Caller,
        trace: TraceParent,
        #[oai(name = "Idempotency-Key")] key: Header<Option<IdempotencyKey>>,
        job_id: Path<String>,
        body: Batch<NewVideo>,
    ) -> Result<Json<BatchTaken>, Problem> {
        let register = |index, new: NewVideo| {
            let frame =
                |new: NewFrame| VideoFrame { frame_id: new.frame_id.0, timestamp_ms: new.timestamp_ms };
            let frames = match (new.frames, new.frame_count) {
                (Some(frames), None) => Frames::Listed(frames.into_iter().map(frame).collect()),
                (None, Some(count)) => Frames::Counted(count),
                (None, None) => {
                    let reason = "is missing, and so is `frame_count`; one of both is needed";
                    return Err(Problem::invalid(format!("body[{index}].frames"), reason));
                }
                (Some(_), Some(_)) => {
                    let reason = "frames are either named in `frames` or counted in `frame_count`";
                    return Err(Problem::unprocessable(format!("body[{index}].frames"), reason));
                }
            };
            Ok((Action::RegisterFrames { video_id: new.video_id.0, frames }, None))
        };
        self.0.batch("videos", caller, trace, key.0, &job_id, body.0, register).await
    }

    /// Issue match requests
    ///
    /// Each is claimed by a worker, longest waiting first.
    #[oai(path = "/jobs/:job_id/match-requests", method = "post", operation_id = "issue_match_requests")]
    async fn requests(
        &self,
        caller: Caller,
        trace: TraceParent,
        #[oai(name = "Idempotency-Key")] key: Header<Option<IdempotencyKey>>,
        job_id: Path<String>,
        body: Batch<NewRequest>,
    ) -> Result<Json<BatchTaken>, Problem> {
        let request = |_, new: NewRequest| {
            let request = MatchRequested {
                request_id: new.request_id.0,
                product_id: new.product_id.0,
                video_id: new.video_id.0,
                candidates: new.candidates,
            };
            Ok((Action::Request(request), None))
        };
        self.0.batch("match-requests", caller, trace, key.0, &job_id, body.0, request).await
    }

    /// Report how far match requests are
    ///
    /// Totals so far, under the request's lease: what is repeated or late counts once, what comes under another lease is
    /// 409.
    #[oai(path = "/jobs/:job_id/match-progress", method = "post", operation_id = "report_match_progress")]
    async fn progress(
        &self,
        caller: Caller,
        trace: TraceParent,
        #[oai(name = "Idempotency-Key")] key: Header<Option<IdempotencyKey>>,
        job_id: Path<String>,
        body: Batch<NewProgress>,
    ) -> Result<Json<BatchTaken>, Problem> {
        let tenant = caller.tenant.clone();
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
        let taken = self.0.batch("match-progress", caller, trace, key.0, &job_id, body.0, report).await?;
        // Whoever reports is alive.
        leases.iter().for_each(|lease| self.0.alive(&tenant, **lease));
        Ok(taken)
    }
}

impl Commands {
    /// Carries out a batch on a job's matching, as a whole or not at all.
    #[expect(clippy::too_many_arguments, reason = "these are a route's parameters, passed on as they came")]
    async fn batch<T>(
        &self,
        route: &str,
        caller: Caller,
        trace: TraceParent,
        key: Option<IdempotencyKey>,
        job_id: &str,
        items: Vec<T>,
        action: impl Fn(usize, T) -> Result<(Action, Option<At>), Problem>,
    ) -> Result<Json<BatchTaken>, Problem>
    where
        T: ParseFromJSON + ToJSON,
    {
        caller.require(reporters())?;
        let job = web::path::job_id(job_id)?;
        let seen = self.job(&caller.tenant, job).await?;
        let (standing, accepted) = (seen.standing, items.len() as u64);
        let idempotency = keyed(&caller, "POST", &format!("/jobs/{job}/{route}"), key, &items);
        let commands = items.into_iter().enumerate().map(|(index, item)| {
            let (action, said) = action(index, item)?;
            let at = self.occurred(said, || format!("body[{index}].occurred_at"))?;
            Ok(Command { job: standing, at, action })
        });
        let commands = commands.collect::<Result<Vec<_>, Problem>>()?;
        let cause = self.cause(&caller, trace, idempotency).await?;
        let executed = self.carry_out(job, standing, &cause, &commands).await?;
        // Where nothing was ever recorded, all is to be seen from where the job stands.
        let position = match executed.position {
            Position::START => seen.position,
            position => position,
        };
        Ok(Json(BatchTaken { accepted, position: position.into() }))
    }

    async fn carry_out(
        &self,
        job: JobId,
        standing: Standing,
        cause: &Cause,
        commands: &[Command],
    ) -> Result<Executed, Problem> {
        if commands.is_empty()
            && let Standing::Ended(phase) = standing
        {
            // An empty batch is refused like any other, so that a worker learns of the end.
            return Err(Problem::conflict(Refusal::JobEnded(phase).to_string()));
        }
        let executed = self.0.matchings.execute_all(&StreamId::matching(job), cause, commands).await;
        executed.map_err(|error| refusal::batch(error, field))
    }
}

/// Which field of an item a refusal is about.
fn field(refusal: &Refusal) -> Option<&'static str> {
    match refusal {
        Refusal::TooMany { field: TotalsField::CandidatesProcessed, .. } => Some("candidates_processed"),
        Refusal::TooMany { field: TotalsField::VectorPassDone, .. } => Some("vector_pass_done"),
        Refusal::TooMany { field: TotalsField::RansacChecked, .. } => Some("ransac_checked"),
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
