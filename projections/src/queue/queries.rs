//! The queries of `queues`.

use std::sync::Arc;

use domain::matchmaking::pool_stats::{PoolStats, pool_stats};
use domain::matchmaking::pool_status::{PoolStatus, pool_statuses};
use domain::matchmaking::queues::Pool;
use domain::matchmaking::statistics::Percentiles;
use domain::pool::DEFAULTS;
use event_log::clock::Clock;
use event_schemas::ids::{EntryId, PoolKey, Position, SubjectId, Tenant};
use event_schemas::pool::PoolSettings;
use event_schemas::time::Timestamp;
use tokio::sync::watch;

use super::live::{EntryOutcomes, LiveQueues, QueueEntry};
use super::{QueueChanges, View, read, stored_entry};
use crate::generation::{Generation, QueryError, Slot};
use crate::projection::Name;

/// From this number of queue entries, the view of one entry is computed on the blocking pool. It takes a few
/// nanoseconds per entry.
const OFFLOAD_VIEW_FROM: usize = 32_768;
/// From this number of queue entries, the statistics are computed on the blocking pool. They are slower.
const OFFLOAD_COUNT_FROM: usize = 4_096;

/// A queue entry at an instant.
#[derive(Clone, Debug, PartialEq)]
pub struct EntryView {
    pub entry: QueueEntry,
    /// The entry's status in each of its pools, by key.
    pub pool_statuses: Vec<PoolStatus>,
    pub at: Timestamp,
    /// The view reflects exactly the events up to this position; for an ended entry, possibly more.
    pub position: Position,
}

/// The settings of a pool, and the number of its entries.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolView {
    pub settings: PoolSettings,
    /// The pool has been configured; otherwise it has the default settings.
    pub is_configured: bool,
    pub waiting: usize,
    pub placing: usize,
    pub position: Position,
}

/// The statistics of a pool.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolCount {
    pub tenant: Tenant,
    pub pool_key: PoolKey,
    pub settings: PoolSettings,
    pub is_configured: bool,
    pub placing: usize,
    pub stats: PoolStats,
    pub outcomes: EntryOutcomes,
    /// The waiting times of recently matched entries, in seconds.
    pub recent_waits: Option<Percentiles>,
    /// The rating gaps of recent matches, in points.
    pub recent_gaps: Option<Percentiles>,
    /// The total number of matches.
    pub matches: u64,
    pub matches_a_minute: u64,
}

/// The statistics of all pools at an instant.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueCount {
    /// The number of waiting entries; one in several pools counts once.
    pub waiting: usize,
    pub placing: usize,
    /// Sorted by tenant and key.
    pub pools: Vec<PoolCount>,
    pub at: Timestamp,
    pub position: Position,
}

/// The queries of `queues`.
#[derive(Clone, Debug)]
pub struct Queues {
    pub(crate) slot: Arc<Slot<View>>,
    pub(crate) shared: QueueChanges,
    pub(crate) clock: Clock,
}

impl Queues {
    /// The tenant's entry in its current or last state. Reads the disk only if it has ended. O(entries of its pools)
    /// while it searches.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn entry(&self, tenant: &Tenant, id: EntryId) -> Result<Option<EntryView>, QueryError> {
        let generation = self.slot.live()?;
        let now = self.clock.now();
        let found = query(&generation, OFFLOAD_VIEW_FROM, move |live| {
            live.entry(id).map(|entry| view(live, entry, now))
        })
        .await?;
        let found = match found {
            Some(found) => Some(found),
            None => {
                let position = generation.position();
                let ended = stored_entry(&generation.db, id).await;
                let ended = ended.map_err(|error| generation.query_error(Name::Queues, error))?;
                let empty = LiveQueues::default();
                ended.map(|entry| EntryView { position, ..view(&empty, entry, now) })
            }
        };
        Ok(found.filter(|found| found.entry.entry.tenant == *tenant))
    }

    /// The player's entry that waits or is reserved for a match, if there is one.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn entry_of(
        &self,
        tenant: &Tenant,
        player: SubjectId,
    ) -> Result<Option<EntryView>, QueryError> {
        let (tenant, now) = (tenant.clone(), self.clock.now());
        let own = move |live: &LiveQueues| {
            let own = live.queues.entry_of(player).filter(|entry| entry.tenant == tenant)?;
            Some(view(live, live.entry(own.queued.entry_id)?, now))
        };
        query(&self.slot.live()?, OFFLOAD_VIEW_FROM, own).await
    }

    /// A pool of the tenant. Every key is the key of a pool: unknown ones have the default settings.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub fn pool(&self, tenant: &Tenant, key: &PoolKey) -> Result<PoolView, QueryError> {
        let generation = self.slot.live()?;
        let live = read(&generation.view);
        let pool = live.queues.pool(&(tenant.clone(), key.clone()));
        Ok(PoolView {
            settings: pool.map_or(DEFAULTS, |pool| *pool.settings()),
            is_configured: pool.is_some_and(Pool::is_configured),
            waiting: pool.map_or(0, |pool| pool.entries().len()),
            placing: pool.map_or(0, Pool::placing),
            position: live.position,
        })
    }

    /// The statistics of all pools of one tenant, or of all tenants. O(entries).
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn count(&self, tenant: Option<&Tenant>) -> Result<QueueCount, QueryError> {
        let (tenant, now) = (tenant.cloned(), self.clock.now());
        query(&self.slot.live()?, OFFLOAD_COUNT_FROM, move |live| count(live, tenant.as_ref(), now)).await
    }

    /// The position up to which all events are applied.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub fn position(&self) -> Result<Position, QueryError> {
        Ok(read(&self.slot.live()?.view).position)
    }

    /// The position of the last event that changed the tenant's queues, or any queue; none without a change since this
    /// process started.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub fn changed_at(&self, tenant: Option<&Tenant>) -> Result<Option<Position>, QueryError> {
        let generation = self.slot.live()?;
        Ok(read(&generation.view).changed_at(tenant))
    }

    /// Notifies subscribers of changes of any queue.
    pub fn changes(&self) -> watch::Receiver<Position> {
        self.shared.0.subscribe()
    }
}

/// Runs a query on the queues. With `offload_from` entries or more it takes a while, and runs on the blocking pool.
async fn query<T: Send + 'static>(
    generation: &Arc<Generation<View>>,
    offload_from: usize,
    query: impl FnOnce(&LiveQueues) -> T + Send + 'static,
) -> Result<T, QueryError> {
    {
        let live = read(&generation.view);
        if live.queues.entries().len() < offload_from {
            return Ok(query(&live));
        }
    }
    let view = Arc::clone(&generation.view);
    let result = tokio::task::spawn_blocking(move || query(&read(&view))).await;
    result.map_err(|source| QueryError::Panicked { name: Name::Queues, source })
}

fn view(live: &LiveQueues, entry: QueueEntry, at: Timestamp) -> EntryView {
    let pool_statuses = pool_statuses(&live.queues, &entry.entry, at);
    EntryView { entry, pool_statuses, at, position: live.position }
}

fn count(live: &LiveQueues, tenant: Option<&Tenant>, at: Timestamp) -> QueueCount {
    let is_wanted = |of: &Tenant| tenant.is_none_or(|tenant| tenant == of);
    let (mut waiting, mut placing) = (0, 0);
    for entry in live.queues.entries().filter(|entry| is_wanted(&entry.tenant)) {
        match entry.reserved_for {
            Some(_) => placing += 1,
            None => waiting += 1,
        }
    }
    let pools = live.queues.pools().filter(|((of, _), _)| is_wanted(of));
    let pools = pools.map(|(id, pool)| PoolCount {
        tenant: id.0.clone(),
        pool_key: id.1.clone(),
        settings: *pool.settings(),
        is_configured: pool.is_configured(),
        placing: pool.placing(),
        stats: pool_stats(pool, at),
        outcomes: live.outcomes(id),
        recent_waits: pool.recent().waits(),
        recent_gaps: pool.recent().gaps(),
        matches: pool.recent().matches(),
        matches_a_minute: pool.recent().matches_a_minute(at),
    });
    QueueCount { waiting, placing, pools: pools.collect(), at, position: live.position }
}
