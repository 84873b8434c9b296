//! Reports image matches, in batches, and attaches their evidence.

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::decider::Decider;
use domain::image_matching::shard::{Action, Command, ImageMatchShardDecider, Refusal};
use domain::job::JobAvailability;
use event_schemas::envelope::{Cause, Idempotency};
use event_schemas::ids::{FrameId, ImageId, ImageMatchId, JobId, Position, ProductId, VideoId};
use event_schemas::image_match::{IMAGE_MATCH_SHARDS, MatchFound};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use futures_util::future::try_join_all;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use poem_openapi::param::Path;
use poem_openapi::{Object, OpenApi};
use schemars::JsonSchema;
use serde::Serialize;
use web::json::{Batch, Json};
use web::problem::Problem;
use web::progress::RequestProgress;
use web::schema::Api;
use web::tag::Tag;
use web::value::{ApiTimestamp, LooseTextId, ScoreValue, TextId};

use crate::engine::batch_parts::BatchParts;
use crate::engine::command_context::occurred_at;
use crate::engine::execute::{CachedStream, ExecuteError, Executed};
use crate::engine::idempotency::KeyStatus;
use crate::engine::problem;
use crate::engine::write_request::{Workers, WriteRequest};
use crate::jobs::Jobs;

/// A product image that was found in a frame.
#[derive(Debug, Object)]
#[oai(example)]
struct NewMatch {
    /// The reporter's own id, derived from image and frame, so that repeated work reports the same match.
    match_id: TextId<ImageMatchId>,
    product_id: LooseTextId<ProductId>,
    video_id: LooseTextId<VideoId>,
    img_id: TextId<ImageId>,
    frame_id: TextId<FrameId>,
    score: ScoreValue,
    /// The path of a picture that shows the match.
    #[oai(validator(min_length = 1, max_length = 1024))]
    evidence_path: Option<String>,
    /// The time at which it was found. Default: now.
    occurred_at: Option<ApiTimestamp>,
}

impl poem_openapi::types::Example for NewMatch {
    fn example() -> Self {
        let text = "an example's ids are short texts";
        Self {
            match_id: TextId("hedge-1:garden:f012".parse().expect(text)),
            product_id: LooseTextId("hedge".parse().expect(text)),
            video_id: LooseTextId("garden".parse().expect(text)),
            img_id: TextId("hedge-1".parse().expect(text)),
            frame_id: TextId("f012".parse().expect(text)),
            score: ScoreValue(event_schemas::ids::Score::new(0.87).expect("lies between 0 and 1")),
            evidence_path: Some("evidence/hedge-1-f012.jpg".to_owned()),
            occurred_at: None,
        }
    }
}

/// The result of a batch of matches.
#[derive(Debug, Serialize, JsonSchema)]
struct MatchesReported {
    /// The number of new matches.
    accepted: u64,
    /// The number of known matches, in the job or repeated in the batch; their first report counts.
    duplicates: u64,
    position: Position,
}

/// The evidence of a match.
#[derive(Debug, Object)]
#[oai(example)]
struct AttachEvidence {
    #[oai(validator(min_length = 1, max_length = 1024))]
    evidence_path: String,
}

impl poem_openapi::types::Example for AttachEvidence {
    fn example() -> Self {
        Self { evidence_path: "evidence/hedge-1-f012.jpg".to_owned() }
    }
}

/// A match with its evidence.
#[derive(Debug, Serialize, JsonSchema)]
struct EvidenceAttached {
    job_id: JobId,
    match_id: ImageMatchId,
    evidence_path: String,
    position: Position,
}

/// The write routes of image matches.
#[derive(Clone, Debug)]
pub struct MatchesCommands(pub(super) Arc<Jobs>);

#[OpenApi(tag = "Tag::Matching")]
impl MatchesCommands {
    /// Report matches
    ///
    /// Up to 10,000 in a JSON array, or one per line as NDJSON. A match with a known id is skipped and counted as a
    /// duplicate.
    #[oai(path = "/jobs/:job_id/matches", method = "post", operation_id = "report_matches")]
    async fn report(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Workers>,
        job_id: Path<String>,
        body: Batch<NewMatch>,
    ) -> Result<Json<Api<MatchesReported>>, Problem> {
        let job = web::path::job_id(&job_id)?;
        let Batch(matches) = body;
        let (commands, execution) = (self.clone(), request.execution.clone());
        let reporting = async move { commands.report_items(&request, job, matches).await }.boxed();
        // It ends in any case, so that the key stays locked until all shards are in the log, even if the caller
        // disconnects.
        execution.run(reporting).await
    }

    /// Attach evidence to a match
    #[oai(
        path = "/jobs/:job_id/matches/:match_id/evidence",
        method = "put",
        operation_id = "attach_evidence"
    )]
    async fn attach(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Workers>,
        job_id: Path<String>,
        match_id: Path<String>,
        body: Json<AttachEvidence>,
    ) -> Result<Json<Api<EvidenceAttached>>, Problem> {
        let job = web::path::job_id(&job_id)?;
        let match_id: ImageMatchId = web::path::text("match_id", &match_id)?;
        let availability = self.0.job(&request.caller.tenant, job).await?.availability;
        let route = format!("PUT /jobs/{job}/matches/{match_id}/evidence");
        let cause = request.cause(&self.0.engine, &route, &body.0).await?;
        let evidence_path = body.0.evidence_path;
        let action = Action::AttachEvidence {
            match_id: match_id.clone(),
            evidence_path: evidence_path.clone(),
            at: self.0.engine.now(),
        };
        let stream = StreamId::image_match(job, &match_id);
        let executed =
            self.0.image_matches.execute(&stream, &cause, Command { job: availability, action }).await;
        let position = executed.map_err(problem::from_execute_error)?.position;
        Ok(Json(Api(EvidenceAttached { job_id: job, match_id, evidence_path, position })))
    }
}

type DatedMatch = (MatchFound, Timestamp);

fn dated_match(now: Timestamp, index: usize, new: NewMatch) -> Result<DatedMatch, Problem> {
    let at = occurred_at(new.occurred_at, now, || format!("body[{index}].occurred_at"))?;
    let found = MatchFound {
        match_id: new.match_id.0,
        product_id: new.product_id.0,
        video_id: new.video_id.0,
        img_id: new.img_id.0,
        frame_id: new.frame_id.0,
        score: *new.score,
        evidence_path: new.evidence_path,
    };
    Ok((found, at))
}

impl MatchesCommands {
    async fn report_items(
        &self,
        request: &WriteRequest<Workers>,
        job: JobId,
        matches: Vec<NewMatch>,
    ) -> Result<Json<Api<MatchesReported>>, Problem> {
        let job_ref = self.0.job(&request.caller.tenant, job).await?;
        let route = format!("POST /jobs/{job}/matches");
        let cause = request.cause_of_batch(&self.0.engine, &route, &matches).await?;
        let (count, now) = (matches.len(), self.0.engine.now());
        let matches = matches.into_iter().enumerate().map(|(index, new)| dated_match(now, index, new));
        let matches = matches.collect::<Result<Vec<_>, _>>()?;
        let (accepted, position) =
            self.report_matches(job, job_ref.availability, &cause, matches, &request.progress).await?;
        Ok(Json(Api(MatchesReported {
            accepted: accepted as u64,
            duplicates: count.saturating_sub(accepted) as u64,
            position: position.unwrap_or(job_ref.position),
        })))
    }

    /// Records the new matches, each in its shard. Returns their number, and the position from which the whole batch is
    /// visible; none for an empty batch.
    async fn report_matches(
        &self,
        job: JobId,
        availability: JobAvailability,
        cause: &Cause,
        matches: Vec<DatedMatch>,
        progress: &RequestProgress,
    ) -> Result<(usize, Option<Position>), Problem> {
        // A key belongs to the batch as a whole, so all shards are checked for it before the first write.
        let (_guard, known) = match cause.idempotency {
            Some(idempotency) => {
                let guard = self.0.engine.key_locks.acquire(idempotency.key).await;
                if let Some(earlier) = self.0.engine.earlier_answer(cause).await? {
                    return Ok((0, Some(earlier.position)));
                }
                (Some(guard), self.knows_batch_key(job, idempotency).await?)
            }
            None => (None, false),
        };
        if matches.is_empty()
            && let JobAvailability::Ended(phase) = availability
        {
            // An empty batch is refused like any other, so that a worker learns that the job has ended.
            return Err(Problem::conflict(Refusal::JobEnded(phase).to_string()));
        }
        let executed = self.report_shards(job, availability, cause, matches, known, progress).await?;
        let accepted = executed.iter().map(|executed| executed.events).sum();
        let new =
            executed.iter().filter(|executed| executed.events > 0).map(|executed| executed.position).max();
        let position = match new {
            Some(new) => Some(new),
            // No event carries the key. Without one, the batch is visible from the latest position of its shards.
            None => match self.0.engine.record_answer(cause, None).await? {
                Some(answer) => Some(answer.position),
                None => executed.iter().map(|executed| executed.position).max(),
            },
        };
        Ok((accepted, position))
    }

    /// Records the new matches in all shards.
    ///
    /// # Errors
    /// The problem of the shards that failed. It names the items that are recorded.
    async fn report_shards(
        &self,
        job: JobId,
        availability: JobAvailability,
        cause: &Cause,
        matches: Vec<DatedMatch>,
        known: bool,
        progress: &RequestProgress,
    ) -> Result<Vec<Executed>, Problem> {
        let count = matches.len();
        let mut shards: BTreeMap<u8, (Vec<u32>, Vec<DatedMatch>)> = BTreeMap::new();
        for (item, dated) in (0..).zip(matches) {
            let (items, matches) = shards.entry(dated.0.match_id.shard()).or_default();
            items.push(item);
            matches.push(dated);
        }
        let shards = shards.into_iter().map(|(shard, (items, matches))| async move {
            let stream = StreamId::image_match_shard(job, shard);
            let ids: Vec<_> = matches.iter().map(|(found, _)| found.match_id.clone()).collect();
            let command = Command { job: availability, action: Action::Report(matches) };
            (self.report_shard(&stream, cause, &command, known).await, stream, items, ids)
        });
        let (mut all, mut parts) = (Vec::new(), BatchParts::of_request(progress, (0..).take(count)));
        let mut executing: FuturesUnordered<_> = shards.collect();
        // All of them run to their end, also after a failure, so that no append is in progress after the response.
        while let Some((executed, stream, items, ids)) = executing.next().await {
            match executed {
                Ok(executed) => {
                    parts.recorded(items, executed.position);
                    all.push(executed);
                }
                Err(error) => {
                    let contained = |folded: &CachedStream<ImageMatchShardDecider>| {
                        let contained = ids.iter().map(|id| folded.state.contains(id));
                        (contained.collect(), folded.position())
                    };
                    let contained = self.0.image_matches.query(&stream, contained).await;
                    let (is_begun, error) = error.into_rest();
                    parts.failed(items, problem::from_execute_error(error), is_begun, contained);
                }
            }
        }
        let accepted: usize = all.iter().map(|executed| executed.events).sum();
        metrics::counter!("matchbook_matches_accepted_total").increment(accepted as u64);
        parts.into_problem().map_or(Ok(all), Err)
    }

    /// Records the new matches of one shard. `known` is true if another shard has events of the same batch: then the
    /// batch was answered before, and a shard without any new match is answered as then, although the job may have ended
    /// since.
    async fn report_shard(
        &self,
        stream: &StreamId,
        cause: &Cause,
        command: &Command,
        known: bool,
    ) -> Result<Executed, ExecuteError<Refusal>> {
        let shards = &self.0.image_matches;
        let executed = shards.execute_part(stream, cause, command).await;
        if !known || !matches!(executed, Err(ExecuteError::Refused(_))) {
            return executed;
        }
        let while_open = Command { job: JobAvailability::Open, ..command.clone() };
        let nothing_new = |folded: &CachedStream<ImageMatchShardDecider>| {
            let events = ImageMatchShardDecider::decide(&while_open, &folded.state).ok()?;
            let nothing = Executed { events: 0, position: folded.position(), repeated: true };
            events.is_empty().then_some(nothing)
        };
        shards.query(stream, nothing_new).await?.map_or(executed, Ok)
    }

    /// True if events of an earlier batch with the same key are in a shard.
    ///
    /// # Errors
    /// 422 if the earlier batch had other matches.
    async fn knows_batch_key(&self, job: JobId, idempotency: Idempotency) -> Result<bool, Problem> {
        let shards = (0..IMAGE_MATCH_SHARDS).map(|shard| async move {
            self.0
                .image_matches
                .query(&StreamId::image_match_shard(job, shard), |folded| folded.key_status(idempotency))
                .await
        });
        let statuses = try_join_all(shards).await.map_err(problem::from_load_error)?;
        if statuses.contains(&KeyStatus::BodyMismatch) {
            return Err(Problem::idempotency_key_reused());
        }
        Ok(statuses.iter().any(|status| *status != KeyStatus::Unused))
    }
}
