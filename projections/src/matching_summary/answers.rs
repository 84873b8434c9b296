//! The questions that can be asked of `matching_summary`.

use std::sync::Arc;
use std::time::Duration;

use domain::matching::blockers::Thresholds;
use domain::matching::percentile::Undecided;
use domain::matching::summary::{NoSummary, Summary, summarise};
use event_log::clock::Clock;
use event_log::{EventLog, Log};
use event_schemas::ids::{JobId, Position, Tenant};
use event_schemas::time::Timestamp;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::hot::{CountedFold, Folded};
use super::refold::{self, Base, RefoldError, UpTo};
use super::{Announcements, Changed, Repair, SNAPSHOT_BEFORE, View, read, stored, stored_fold, write};
use crate::found_match::Matches;
use crate::generation::{Generation, QueryError, Slot, wait_for};
use crate::projection::Name;
use crate::row::store_error;
use crate::sql::Statement;

/// How long a forced refresh waits for the projector, to compare with it.
const COMPARE_WITHIN: Duration = Duration::from_secs(2);
/// How long the projector of the matches is waited for before the log is asked for scores.
const SCORES_WITHIN: Duration = Duration::from_millis(500);

/// Why a summary cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum SummaryError {
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error(transparent)]
    Refold(#[from] RefoldError),
    /// The fold and the log disagree about the scores that decide a percentile.
    #[error("the scores from {from} to {to} are not those that were counted; refresh the summary by force")]
    Scores { from: f64, to: f64 },
}

/// Whether a fold of the past may begin at a fold that was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Snapshots {
    Use,
    /// Every event is folded.
    Ignore,
}

/// Where scores come from if the counts of a fold leave a percentile open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScoresFrom {
    /// The rows of `matches`, or the log if they are behind.
    ReadModel,
    Log,
}

/// A job folded anew.
#[derive(Clone, Debug, PartialEq)]
pub struct Refolded {
    pub folded: Folded,
    /// The instant for which a summary of it is to be made.
    pub instant: Timestamp,
}

/// The questions that can be asked of `matching_summary`.
#[derive(Clone, Debug)]
pub struct MatchingSummary {
    pub(crate) slot: Arc<Slot<View>>,
    pub(crate) requests: mpsc::Sender<Repair>,
    pub(crate) announcements: Announcements,
    pub(crate) log: Log,
    pub(crate) clock: Clock,
    pub(crate) matches: Matches,
}

impl MatchingSummary {
    /// The job's fold as the projector has it, if the job is this tenant's. Touches no disk while the job is hot; one
    /// that was not touched for long is read from its row.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn summary(&self, tenant: &Tenant, job: JobId) -> Result<Option<Folded>, QueryError> {
        let generation = self.slot.live()?;
        Ok(live(&generation, job).await?.filter(|folded| is_of(folded, tenant)))
    }

    /// Tells of every change that readers can see. A listener that lags loses changes, and reads again what it shows.
    pub fn changes(&self) -> broadcast::Receiver<Changed> {
        self.announcements.0.subscribe()
    }

    /// The job folded from the log, if it was this tenant's job then. O(events of the job), or of those behind the
    /// latest snapshot.
    ///
    /// # Errors
    /// [`SummaryError`] if the log cannot be read.
    pub async fn refold(
        &self,
        tenant: &Tenant,
        job: JobId,
        upto: UpTo,
        snapshots: Snapshots,
    ) -> Result<Option<Refolded>, SummaryError> {
        let head = *self.log.head().borrow();
        let position = match upto {
            UpTo::Head => head,
            UpTo::Position(position) => position.min(head),
            UpTo::Instant(instant) => self.log.position_at(instant).await.map_err(RefoldError::from)?,
        };
        if refold::tenant_of(&self.log, job, position).await?.as_ref() != Some(tenant) {
            return Ok(None);
        }
        let base = match snapshots {
            Snapshots::Use => self.snapshot(job, position).await,
            Snapshots::Ignore => Base::default(),
        };
        let (_, folded) = refold::fold_on(&self.log, job, tenant, base, position).await?;
        let instant = match upto {
            UpTo::Head => self.clock.now(),
            UpTo::Instant(instant) => instant,
            UpTo::Position(_) => {
                refold::recorded_at(&self.log, position).await?.unwrap_or(folded.fold.latest.recorded_at)
            }
        };
        Ok(Some(Refolded { folded, instant }))
    }

    /// The latest fold that was kept at or before the position. It only saves time, so whatever is wrong with it, the
    /// start will do.
    async fn snapshot(&self, job: JobId, position: Position) -> Base {
        let Ok(generation) = self.slot.live() else { return Base::default() };
        let statement = Statement::new(SNAPSHOT_BEFORE).bind(job.0).bind(position.to_i64());
        match stored(&generation.db, statement).await {
            Ok(Some(base)) if base.counted.fold.latest.position == base.position => base,
            Ok(None) => Base::default(),
            Ok(Some(_)) => {
                tracing::warn!(%job, "a snapshot is of another position than it says, and is passed over");
                Base::default()
            }
            Err(error) => {
                tracing::warn!(%job, %error, "a snapshot cannot be read, and is passed over");
                Base::default()
            }
        }
    }

    /// The job folded from all its events in the log, for now. If the projector holds another fold, it is asked to
    /// repair that; a reader never does.
    ///
    /// # Errors
    /// [`SummaryError`] if the log cannot be read.
    pub async fn refresh(&self, tenant: &Tenant, job: JobId) -> Result<Option<Refolded>, SummaryError> {
        let Some(refolded) = self.refold(tenant, job, UpTo::Head, Snapshots::Ignore).await? else {
            return Ok(None);
        };
        let position = refolded.folded.position;
        let mut there = self.slot.watch();
        if wait_for(Name::MatchingSummary, &mut there, position, COMPARE_WITHIN).await.is_err() {
            tracing::warn!(%job, %position, "the projector of summaries is behind, so that it cannot be compared with the log");
            return Ok(Some(refolded));
        }
        let Ok(Some(held)) = self.summary(tenant, job).await else { return Ok(Some(refolded)) };
        // The projector may have gone further meanwhile: then so does this fold.
        let counted = CountedFold { fold: refolded.folded.fold, events: 0 };
        let base = Base { counted, position };
        let (_, folded) = refold::fold_on(&self.log, job, tenant, base, held.position).await?;
        if folded != held {
            tracing::error!(%job, position = %held.position, "a summary is not what its events say");
            self.repair(job).await;
        }
        Ok(Some(Refolded { folded, instant: self.clock.now() }))
    }

    /// Lets the projector fold the job anew, and put that in the place of what it holds. Answers whether they differed;
    /// none if the projector does not run, or could not.
    pub async fn repair(&self, job: JobId) -> Option<bool> {
        let (differed, answer) = oneshot::channel();
        self.requests.send(Repair { job, differed }).await.ok()?;
        answer.await.ok()
    }

    /// The summary of a fold at an instant; none before the job's creation. Where the counts leave the 90th percentile
    /// open, the scores in question are looked up.
    ///
    /// # Errors
    /// [`SummaryError`] if they are looked up and cannot be had.
    pub async fn summarise(
        &self,
        job: JobId,
        folded: &Folded,
        instant: Timestamp,
        thresholds: &Thresholds,
        scores: ScoresFrom,
    ) -> Result<Option<Summary>, SummaryError> {
        let Folded { fold, presence, position } = folded;
        let undecided = match summarise(fold, presence, instant, thresholds, None) {
            Ok(summary) => return Ok(Some(summary)),
            Err(NoSummary::NoJob) => return Ok(None),
            Err(NoSummary::Undecided(undecided)) => undecided,
        };
        if scores == ScoresFrom::ReadModel
            && let Some(scores) = self.stored_scores(job, &undecided, *position).await
            && let Ok(summary) = summarise(fold, presence, instant, thresholds, Some(&scores))
        {
            return Ok(Some(summary));
        }
        let (from, to) = (undecided.from, undecided.to);
        let scores = refold::scores(&self.log, job, from..=to, *position).await?;
        summarise(fold, presence, instant, thresholds, Some(&scores))
            .map(Some)
            .map_err(|_| SummaryError::Scores { from, to })
    }

    /// The scores in question from the rows of `matches`; none if they are not there yet.
    async fn stored_scores(&self, job: JobId, undecided: &Undecided, upto: Position) -> Option<Vec<f64>> {
        wait_for(Name::Matches, &mut self.matches.slot.watch(), upto, SCORES_WITHIN).await.ok()?;
        self.matches.scores_in(job, undecided.from..=undecided.to, upto).await.ok()
    }
}

fn is_of(folded: &Folded, tenant: &Tenant) -> bool {
    folded.fold.history.as_ref().is_some_and(|history| history.tenant == *tenant)
}

/// The job's fold in this generation, at the position at which the generation is.
async fn live(generation: &Generation<View>, job: JobId) -> Result<Option<Folded>, QueryError> {
    loop {
        let let_go = {
            let hot = read(&generation.view);
            if let Some(folded) = folded(&hot, job) {
                return Ok(Some(folded));
            }
            hot.let_go()
        };
        let counted = stored_fold(&generation.db, job)
            .await
            .map_err(|error| store_error(Name::MatchingSummary, error))?;
        let mut hot = write(&generation.view);
        // The row is the job's fold of this moment, unless the job came into memory and left it again meanwhile.
        if hot.let_go() == let_go {
            if let Some(counted) = counted {
                hot.keep(job, counted);
            }
            let folded = folded(&hot, job);
            hot.shrink();
            return Ok(folded);
        }
    }
}

fn folded(hot: &super::Hot, job: JobId) -> Option<Folded> {
    let fold = Arc::clone(&hot.get(job)?.fold);
    let tenant = &fold.history.as_ref()?.tenant;
    Some(Folded { presence: hot.presence(tenant), position: hot.position, fold })
}
