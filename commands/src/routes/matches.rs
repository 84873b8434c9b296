//! What was found: matches, in batches, and their evidence.

use futures_util::FutureExt;
use std::collections::BTreeMap;

use domain::job::Standing;
use domain::matching::found::{Action, Command, Refusal};
use event_schemas::envelope::{Cause, Idempotency};
use event_schemas::ids::{FrameId, ImageId, JobId, MatchId, Position, ProductId, VideoId};
use event_schemas::matching::MatchFound;
use event_schemas::stream::{MATCH_SHARDS, StreamId};
use event_schemas::time::Timestamp;
use futures_util::future::try_join_all;
use poem_openapi::param::{Header, Path};
use poem_openapi::{Object, OpenApi};
use web::caller::Caller;
use web::idempotency::IdempotencyKey;
use web::json::{Batch, Json};
use web::problem::Problem;
use web::request::TraceParent;
use web::value::{At, Key, Pos, Text, Uid, Unit};
use web::vocabulary::Tag;

use super::{keyed, reporters};
use crate::Commands;
use crate::execute::Executed;
use crate::idempotency::Seen;
use crate::refusal;

/// A product image that was found in a frame.
#[derive(Debug, Object)]
#[oai(example)]
struct NewMatch {
    /// The reporter's own id, derived from image and frame, so that redone work names the same match.
    match_id: Text<MatchId>,
    product_id: Key<ProductId>,
    video_id: Key<VideoId>,
    img_id: Text<ImageId>,
    frame_id: Text<FrameId>,
    score: Unit,
    /// Where a picture shows the match.
    #[oai(validator(min_length = 1, max_length = 1024))]
    evidence_path: Option<String>,
    /// When it was found; now, unless said otherwise.
    occurred_at: Option<At>,
}

impl poem_openapi::types::Example for NewMatch {
    fn example() -> Self {
        let text = "an example's ids are short texts";
        Self {
            match_id: Text("hedge-1:garden:f012".parse().expect(text)),
            product_id: Key("hedge".parse().expect(text)),
            video_id: Key("garden".parse().expect(text)),
            img_id: Text("hedge-1".parse().expect(text)),
            frame_id: Text("f012".parse().expect(text)),
            score: Unit(event_schemas::ids::Score::new(0.87).expect("lies between 0 and 1")),
            evidence_path: Some("evidence/hedge-1-f012.jpg".to_owned()),
            occurred_at: None,
        }
    }
}

/// What became of a batch of matches.
#[derive(Debug, Object)]
struct MatchesTaken {
    /// Matches that were not known before.
    accepted: u64,
    /// Matches that were, in the job or twice in the batch; their first report holds.
    duplicates: u64,
    position: Pos,
}

/// Where a picture shows a match.
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
#[derive(Debug, Object)]
struct EvidenceAttached {
    job_id: Uid<JobId>,
    match_id: Text<MatchId>,
    evidence_path: String,
    position: Pos,
}

/// Commands about what was found.
#[derive(Clone, Debug)]
pub struct MatchesCommands(pub(super) Commands);

#[OpenApi(tag = "Tag::Matching")]
impl MatchesCommands {
    /// Report matches
    ///
    /// Up to 10,000 in a JSON array, or one a line as NDJSON. A match whose id was seen before is passed over and counted
    /// as a duplicate.
    #[oai(path = "/jobs/:job_id/matches", method = "post", operation_id = "report_matches")]
    async fn report(
        &self,
        caller: Caller,
        trace: TraceParent,
        #[oai(name = "Idempotency-Key")] key: Header<Option<IdempotencyKey>>,
        job_id: Path<String>,
        body: Batch<NewMatch>,
    ) -> Result<Json<MatchesTaken>, Problem> {
        caller.require(reporters())?;
        let job = web::path::job_id(&job_id)?;
        let seen = self.0.job(&caller.tenant, job).await?;
        let Batch(matches) = body;
        let idempotency = keyed(&caller, "POST", &format!("/jobs/{job}/matches"), key.0, &matches);
        let cause = self.0.cause(&caller, trace, idempotency).await?;
        let count = matches.len();
        let matches = matches.into_iter().enumerate().map(|(index, new)| self.0.found(index, new));
        let matches = matches.collect::<Result<Vec<_>, _>>()?;
        // On a task of its own, so that the key is held until all shards are in the log, even if the caller goes away.
        let commands = self.0.clone();
        let reporting = tokio::spawn(
            async move { commands.report_matches(job, seen.standing, &cause, matches).await }.boxed(),
        );
        let (accepted, position) = reporting.await.map_err(|error| Problem::internal(&error))??;
        Ok(Json(MatchesTaken {
            accepted: accepted as u64,
            duplicates: count.saturating_sub(accepted) as u64,
            position: position.unwrap_or(seen.position).into(),
        }))
    }

    /// Attach evidence to a match
    #[oai(
        path = "/jobs/:job_id/matches/:match_id/evidence",
        method = "put",
        operation_id = "attach_evidence"
    )]
    async fn attach(
        &self,
        caller: Caller,
        trace: TraceParent,
        #[oai(name = "Idempotency-Key")] key: Header<Option<IdempotencyKey>>,
        job_id: Path<String>,
        match_id: Path<String>,
        body: Json<AttachEvidence>,
    ) -> Result<Json<EvidenceAttached>, Problem> {
        caller.require(reporters())?;
        let job = web::path::job_id(&job_id)?;
        let match_id: MatchId = web::path::text("match_id", &match_id)?;
        let standing = self.0.job(&caller.tenant, job).await?.standing;
        let path = format!("/jobs/{job}/matches/{match_id}/evidence");
        let idempotency = keyed(&caller, "PUT", &path, key.0, &body.0);
        let cause = self.0.cause(&caller, trace, idempotency).await?;
        let evidence_path = body.0.evidence_path;
        let action = Action::AttachEvidence {
            match_id: match_id.clone(),
            evidence_path: evidence_path.clone(),
            at: self.0.0.clock.now(),
        };
        let stream = StreamId::matches(job, &match_id);
        let executed = self.0.0.found.execute(&stream, &cause, Command { job: standing, action }).await;
        let position = executed.map_err(refusal::single)?.position.into();
        Ok(Json(EvidenceAttached { job_id: job.into(), match_id: match_id.into(), evidence_path, position }))
    }
}

type Dated = (MatchFound, Timestamp);

impl Commands {
    fn found(&self, index: usize, new: NewMatch) -> Result<Dated, Problem> {
        let at = self.occurred(new.occurred_at, || format!("body[{index}].occurred_at"))?;
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

    /// Records the matches that are new, each in its shard. Answers how many they were, and from which position on all of
    /// the batch is to be seen; none for an empty batch.
    async fn report_matches(
        &self,
        job: JobId,
        standing: Standing,
        cause: &Cause,
        matches: Vec<Dated>,
    ) -> Result<(usize, Option<Position>), Problem> {
        // A key counts for the batch as a whole, so all shards are asked whether they know it before one is written to.
        let _turn = match cause.idempotency {
            Some(asked) => {
                let turn = self.0.keys.hold(asked.key).await;
                self.refuse_reused(job, asked).await?;
                Some(turn)
            }
            None => None,
        };
        if matches.is_empty()
            && let Standing::Ended(phase) = standing
        {
            // An empty batch is refused like any other, so that a worker learns of the end.
            return Err(Problem::conflict(Refusal::JobEnded(phase).to_string()));
        }
        let mut shards: BTreeMap<StreamId, Vec<Dated>> = BTreeMap::new();
        for dated in matches {
            shards.entry(StreamId::matches(job, &dated.0.match_id)).or_default().push(dated);
        }
        let shards = shards.into_iter().map(|(stream, matches)| async move {
            let command = Command { job: standing, action: Action::Report(matches) };
            self.0.found.execute(&stream, cause, command).await
        });
        let executed: Vec<Executed> = try_join_all(shards).await.map_err(refusal::single)?;
        let accepted = executed.iter().map(|executed| executed.events).sum();
        let new =
            executed.iter().filter(|executed| executed.events > 0).map(|executed| executed.position).max();
        // Where there is nothing new, all is to be seen from where the shards stand.
        let position = new.or_else(|| executed.iter().map(|executed| executed.position).max());
        metrics::counter!("matchbook_matches_accepted_total").increment(accepted as u64);
        Ok((accepted, position))
    }

    async fn refuse_reused(&self, job: JobId, asked: Idempotency) -> Result<(), Problem> {
        let shards = (0..MATCH_SHARDS).map(|shard| async move {
            self.0.found.look(&StreamId::match_shard(job, shard), |folded| folded.seen(asked)).await
        });
        let seen = try_join_all(shards).await.map_err(refusal::unreadable)?;
        if seen.contains(&Seen::OtherBody) { Err(Problem::idempotency_key_reused()) } else { Ok(()) }
    }
}
