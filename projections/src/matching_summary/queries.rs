//! The queries of `matching_summary`.

use std::sync::Arc;
use std::time::Duration;

use domain::image_matching::blockers::Thresholds;
use domain::image_matching::percentile::AmbiguousPercentile;
use domain::image_matching::summary::{NoSummary, Summary, summarise};
use event_log::clock::Clock;
use event_log::{EventLog, Log};
use event_schemas::ids::{JobId, Position, Tenant};
use event_schemas::time::Timestamp;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::fold_cache::{CountedFold, FoldCache, FoldedJob};
use super::replay::{self, ReplayBase, ReplayError, UpTo};
use super::{SNAPSHOT_BEFORE, SummaryChange, SummaryChanges, View, read, read_fold, stored_fold, write};
use crate::follower::Control;
use crate::generation::{Generation, QueryError, Slot, wait_for};
use crate::image_match::ImageMatches;
use crate::projection::Name;
use crate::sql::Statement;

/// The time that a forced refresh waits for the projector, to compare with it.
const COMPARE_TIMEOUT: Duration = Duration::from_secs(2);
/// The time that a query waits for the projector of `matches` before it reads the scores from the log.
const SCORES_TIMEOUT: Duration = Duration::from_millis(500);

/// A summary cannot be computed.
#[derive(Debug, thiserror::Error)]
pub enum SummaryError {
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// The fold and the log disagree about the scores that decide a percentile.
    #[error(
        "the scores from {from} to {to} differ from the counted ones; refresh the summary with force_refresh=true"
    )]
    ScoresMismatch { from: f64, to: f64 },
}

/// The use of snapshots in a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Snapshots {
    /// Start from the latest snapshot.
    Use,
    /// Fold every event.
    Ignore,
}

/// The source of the scores that resolve an ambiguous percentile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScoresFrom {
    /// The rows of `matches`, or the log while they are behind.
    ReadModel,
    Log,
}

/// A job that was replayed from the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Replayed {
    pub folded: FoldedJob,
    /// The instant for which its summary is computed.
    pub instant: Timestamp,
}

/// The queries of `matching_summary`.
#[derive(Clone, Debug)]
pub struct MatchingSummary {
    pub(crate) slot: Arc<Slot<View>>,
    pub(crate) controls: mpsc::Sender<Control>,
    pub(crate) shared: SummaryChanges,
    pub(crate) log: Log,
    pub(crate) clock: Clock,
    pub(crate) image_matches: ImageMatches,
}

impl MatchingSummary {
    /// The projector's fold of the job, if the job belongs to the tenant. Reads its row only if
    /// it is not cached.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn summary(&self, tenant: &Tenant, job: JobId) -> Result<Option<FoldedJob>, QueryError> {
        let generation = self.slot.live()?;
        Ok(live(&generation, job).await?.filter(|folded| belongs_to(folded, tenant)))
    }

    /// Subscribes to the changes that readers can see. A subscriber that lags loses changes, and must read the
    /// summaries again.
    pub fn changes(&self) -> broadcast::Receiver<SummaryChange> {
        self.shared.0.subscribe()
    }

    /// Replays the job from the log, if it existed then and belongs to the tenant. O(events of the job), or of those
    /// after the latest snapshot.
    ///
    /// # Errors
    /// [`SummaryError`] if the log cannot be read.
    pub async fn replay(
        &self,
        tenant: &Tenant,
        job: JobId,
        upto: UpTo,
        snapshots: Snapshots,
    ) -> Result<Option<Replayed>, SummaryError> {
        let head = *self.log.head().borrow();
        let position = match upto {
            UpTo::Head => head,
            UpTo::Position(position) => position.min(head),
            UpTo::Instant(instant) => self.log.position_at(instant).await.map_err(ReplayError::from)?,
        };
        if replay::tenant_of(&self.log, job, position).await?.as_ref() != Some(tenant) {
            return Ok(None);
        }
        let base = match snapshots {
            Snapshots::Use => self.snapshot(job, position).await,
            Snapshots::Ignore => ReplayBase::default(),
        };
        let (_, folded) = replay::replay_from(&self.log, job, tenant, base, position).await?;
        let instant = match upto {
            UpTo::Head => self.clock.now(),
            UpTo::Instant(instant) => instant,
            UpTo::Position(_) => {
                replay::recorded_at(&self.log, position).await?.unwrap_or(folded.fold.latest.recorded_at)
            }
        };
        Ok(Some(Replayed { folded, instant }))
    }

    /// The latest snapshot at or before the position. It only saves time, so after any error the
    /// replay starts from zero.
    async fn snapshot(&self, job: JobId, position: Position) -> ReplayBase {
        let Ok(generation) = self.slot.live() else { return ReplayBase::default() };
        let statement = Statement::new(SNAPSHOT_BEFORE).bind(job.0).bind(position.to_i64());
        match read_fold(&generation.db, statement).await {
            Ok(Some(base)) if base.counted.fold.latest.position == base.position => base,
            Ok(None) => ReplayBase::default(),
            Ok(Some(_)) => {
                tracing::warn!(%job, "a snapshot's fold is of another position than its row; the snapshot is ignored");
                ReplayBase::default()
            }
            Err(error) => {
                let error = generation.query_error(Name::MatchingSummary, error);
                tracing::warn!(%job, %error, "a snapshot cannot be read, and is ignored");
                ReplayBase::default()
            }
        }
    }

    /// Replays the job from all its events in the log, for now. If the projector's fold differs, the projector is asked
    /// to repair it; a reader never changes it.
    ///
    /// # Errors
    /// [`SummaryError`] if the log cannot be read.
    pub async fn refresh(&self, tenant: &Tenant, job: JobId) -> Result<Option<Replayed>, SummaryError> {
        let Some(replayed) = self.replay(tenant, job, UpTo::Head, Snapshots::Ignore).await? else {
            return Ok(None);
        };
        let position = replayed.folded.position;
        let mut reached = self.slot.watch();
        if wait_for(Name::MatchingSummary, &mut reached, position, COMPARE_TIMEOUT).await.is_err() {
            tracing::warn!(%job, %position, "the projector of summaries is behind and cannot be compared with the log");
            return Ok(Some(replayed));
        }
        let Ok(Some(current)) = self.summary(tenant, job).await else { return Ok(Some(replayed)) };
        // The projector may have advanced meanwhile: the replay continues to its position.
        let counted = CountedFold { fold: replayed.folded.fold, events: 0 };
        let base = ReplayBase { counted, position };
        let (_, folded) = replay::replay_from(&self.log, job, tenant, base, current.position).await?;
        if folded != current {
            tracing::error!(%job, position = %current.position, "a summary differs from its events");
            self.repair(job).await;
        }
        Ok(Some(Replayed { folded, instant: self.clock.now() }))
    }

    /// Asks the projector to replay the job and to replace its fold if it differs. Returns whether it did; none if the
    /// projector is not running or the replay failed.
    pub async fn repair(&self, job: JobId) -> Option<bool> {
        let (reply, differed) = oneshot::channel();
        self.controls.send(Control::Recheck(job, reply)).await.ok()?;
        differed.await.ok()
    }

    /// The summary of a fold at an instant; none before the job's creation. If the counts leave the 90th percentile
    /// ambiguous, the relevant scores are read.
    ///
    /// # Errors
    /// [`SummaryError`] if the scores cannot be read.
    pub async fn summarise(
        &self,
        job: JobId,
        folded: &FoldedJob,
        instant: Timestamp,
        thresholds: &Thresholds,
        scores: ScoresFrom,
    ) -> Result<Option<Summary>, SummaryError> {
        let FoldedJob { fold, presence, position } = folded;
        let ambiguous = match summarise(fold, presence, instant, thresholds, None) {
            Ok(summary) => return Ok(Some(summary)),
            Err(NoSummary::NoJob) => return Ok(None),
            Err(NoSummary::AmbiguousPercentile(ambiguous)) => ambiguous,
        };
        if scores == ScoresFrom::ReadModel
            && let Some(scores) = self.stored_scores(job, &ambiguous, *position).await
            && let Ok(summary) = summarise(fold, presence, instant, thresholds, Some(&scores))
        {
            return Ok(Some(summary));
        }
        let (from, to) = (ambiguous.from, ambiguous.to);
        let scores = replay::scores(&self.log, job, from..=to, *position).await?;
        summarise(fold, presence, instant, thresholds, Some(&scores))
            .map(Some)
            .map_err(|_| SummaryError::ScoresMismatch { from, to })
    }

    /// The relevant scores from the rows of `matches`; none if they are behind.
    async fn stored_scores(
        &self,
        job: JobId,
        ambiguous: &AmbiguousPercentile,
        upto: Position,
    ) -> Option<Vec<f64>> {
        wait_for(Name::ImageMatches, &mut self.image_matches.slot.watch(), upto, SCORES_TIMEOUT)
            .await
            .ok()?;
        self.image_matches.scores_in(job, ambiguous.from..=ambiguous.to, upto).await.ok()
    }
}

fn belongs_to(folded: &FoldedJob, tenant: &Tenant) -> bool {
    folded.fold.history.as_ref().is_some_and(|history| history.tenant == *tenant)
}

/// The job's fold in this generation, at the generation's position.
async fn live(generation: &Generation<View>, job: JobId) -> Result<Option<FoldedJob>, QueryError> {
    loop {
        let evictions = {
            let cache = read(&generation.view);
            if let Some(folded) = folded(&cache, job) {
                return Ok(Some(folded));
            }
            cache.evictions()
        };
        let counted = stored_fold(&generation.db, job)
            .await
            .map_err(|error| generation.query_error(Name::MatchingSummary, error))?;
        let mut cache = write(&generation.view);
        // The row is the job's current fold, unless the job was cached and evicted meanwhile.
        if cache.evictions() == evictions {
            if let Some(counted) = counted {
                cache.insert(job, counted);
            }
            let folded = folded(&cache, job);
            cache.evict();
            return Ok(folded);
        }
    }
}

fn folded(cache: &FoldCache, job: JobId) -> Option<FoldedJob> {
    let fold = Arc::clone(&cache.get(job)?.fold);
    let tenant = &fold.history.as_ref()?.tenant;
    Some(FoldedJob { presence: cache.presence(tenant), position: cache.position, fold })
}
