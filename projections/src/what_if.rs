//! Replays of a tenant's history for what another configuration would have done.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use domain::what_if::TooLong;
use domain::what_if::pool::PoolHistory;
use domain::what_if::ranking::{RankingComparison, RankingConfiguration, RankingReplay, ServedRankings};
use domain::what_if::retry::{RetryComparison, RetryPolicies, RetryReplay};
use event_log::EventLog;
use event_schemas::envelope::Envelope;
use event_schemas::ids::{PoolKey, Position, Tenant};
use event_schemas::stream::Category;

use crate::ReadModels;
use crate::matching_summary::{ReplayError, UpTo, for_each_event};

/// The part of the log that is replayed, and how far that is.
#[derive(Clone, Debug)]
pub struct Replayed {
    /// What happens up to this position only leads to the state at the start.
    pub after: Position,
    pub upto: Position,
    at: Arc<AtomicU64>,
    is_cancelled: Arc<AtomicBool>,
}

impl Replayed {
    pub fn new(after: Position, upto: Position) -> Self {
        Self { after, upto, at: Arc::default(), is_cancelled: Arc::default() }
    }

    /// The position of the last event that was read.
    pub fn at(&self) -> Position {
        Position(self.at.load(Ordering::Relaxed)).min(self.upto)
    }

    /// Ends the work on threads for blocking work, whose result is not needed any more.
    pub fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Relaxed);
    }

    pub fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::Relaxed)
    }

    fn reached(&self, position: Position) {
        self.at.store(position.0, Ordering::Relaxed);
    }
}

impl ReadModels {
    /// The position of a point of the log.
    ///
    /// # Errors
    /// [`ReplayError`] if the log cannot be read.
    pub async fn position(&self, of: UpTo) -> Result<Position, ReplayError> {
        let head = *self.0.log.head().borrow();
        Ok(match of {
            UpTo::Head => head,
            UpTo::Position(position) => position.min(head),
            UpTo::Instant(instant) => self.0.log.position_at(instant).await?.min(head),
        })
    }

    /// What happened in a pool of the tenant.
    ///
    /// # Errors
    /// [`ReplayError`] if the log cannot be read.
    pub async fn pool_history(
        &self,
        tenant: &Tenant,
        pool_key: PoolKey,
        replayed: &Replayed,
    ) -> Result<PoolHistory, ReplayError> {
        let history = PoolHistory::new(pool_key, replayed.after);
        self.replay(
            tenant,
            &[Category::Player, Category::GameMatch, Category::Pool],
            replayed,
            history,
            PoolHistory::apply,
        )
        .await
    }

    /// The failures of the tenant's jobs under other policies.
    ///
    /// # Errors
    /// [`ReplayError`] if the log cannot be read.
    pub async fn compare_retries(
        &self,
        tenant: &Tenant,
        policies: RetryPolicies,
        replayed: &Replayed,
    ) -> Result<RetryComparison, ReplayError> {
        let replay = RetryReplay::new(policies, replayed.after);
        let replay = self.replay(tenant, &[Category::Job], replayed, replay, RetryReplay::apply).await?;
        Ok(replay.finish())
    }

    /// The tenant's served lists with other weights. The log is read twice.
    ///
    /// # Errors
    /// [`ReplayError`] if the log cannot be read.
    pub async fn compare_rankings(
        &self,
        tenant: &Tenant,
        configuration: RankingConfiguration,
        replayed: &Replayed,
    ) -> Result<Result<RankingComparison, TooLong>, ReplayError> {
        let served = ServedRankings::new(configuration, replayed.after);
        // Fast, compared with making the lists again.
        let unseen = Replayed { at: Arc::default(), ..replayed.clone() };
        let served = self.replay(tenant, &[Category::User], &unseen, served, ServedRankings::apply).await?;
        let categories = [Category::Product, Category::User, Category::Merchandising];
        let replay = match served.replay(*self.search().settings()) {
            Ok(replay) => self.replay(tenant, &categories, replayed, replay, RankingReplay::apply).await?,
            Err(too_long) => return Ok(Err(too_long)),
        };
        let replayed = replayed.clone();
        let finish = move || replay.finish(|| replayed.is_cancelled());
        Ok(Ok(tokio::task::spawn_blocking(finish).await?))
    }

    /// Folds the tenant's events of some categories.
    async fn replay<S: Send + 'static>(
        &self,
        tenant: &Tenant,
        categories: &[Category],
        replayed: &Replayed,
        state: S,
        apply: fn(&mut S, &Envelope),
    ) -> Result<S, ReplayError> {
        let prefixes = categories.iter().map(|category| category.stream_prefix().to_owned()).collect();
        let (of, progress) = (tenant.clone(), replayed.clone());
        let each = move |state: &mut S, envelope: &Envelope| {
            if envelope.metadata.tenant == of && !progress.is_cancelled() {
                apply(state, envelope);
            }
            progress.reached(envelope.position);
        };
        let state =
            for_each_event(&self.0.log, prefixes, Position::START, replayed.upto, state, each).await?;
        replayed.reached(replayed.upto);
        Ok(state)
    }
}
