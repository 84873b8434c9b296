//! The questions that can be asked of `queues`.

use std::sync::Arc;

use domain::matchmaking::census::{Census, census};
use domain::matchmaking::queues::PoolLine;
use domain::matchmaking::standing::{Standing, standings};
use domain::matchmaking::statistics::Percentiles;
use domain::pool::DEFAULTS;
use event_log::clock::Clock;
use event_schemas::ids::{EntryId, PoolKey, Position, SubjectId, Tenant};
use event_schemas::pool::PoolSettings;
use event_schemas::time::Timestamp;
use tokio::sync::watch;

use super::hot::{Ends, Hot, QueueEntry};
use super::{Announcements, View, read, stored_entry};
use crate::generation::{Generation, QueryError, Slot};
use crate::projection::Name;
use crate::row::store_error;

/// From so many entries on, telling one of them how it stands is not done in passing: a few nanoseconds for each.
const MANY_TO_SEE: usize = 32_768;
/// The same of counting them all, which is slower.
const MANY_TO_COUNT: usize = 4_096;

/// An entry at an instant.
#[derive(Clone, Debug, PartialEq)]
pub struct EntryView {
    pub entry: QueueEntry,
    /// In each of its pools, by key.
    pub standings: Vec<Standing>,
    pub at: Timestamp,
    /// The answer reflects everything up to here, and nothing beyond unless the entry has ended.
    pub position: Position,
}

/// How a pool matches, and how many wait in it.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolView {
    pub settings: PoolSettings,
    /// Whether somebody said so; the pool has the defaults otherwise.
    pub is_configured: bool,
    pub waiting: usize,
    pub placing: usize,
    pub position: Position,
}

/// All that is counted in a pool.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolCount {
    pub tenant: Tenant,
    pub pool_key: PoolKey,
    pub settings: PoolSettings,
    pub is_configured: bool,
    pub placing: usize,
    pub census: Census,
    pub ends: Ends,
    /// The seconds that those waited who were matched lately.
    pub recent_waits: Option<Percentiles>,
    /// How many points apart those were who were matched lately.
    pub recent_gaps: Option<Percentiles>,
    /// All matches that ever were.
    pub matches: u64,
    pub matches_a_minute: u64,
}

/// All pools at an instant.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueCount {
    /// Entries; one in several pools counts once.
    pub waiting: usize,
    pub placing: usize,
    /// By tenant and key.
    pub pools: Vec<PoolCount>,
    pub at: Timestamp,
    pub position: Position,
}

/// The questions that can be asked of `queues`.
#[derive(Clone, Debug)]
pub struct Queues {
    pub(crate) slot: Arc<Slot<View>>,
    pub(crate) announcements: Announcements,
    pub(crate) clock: Clock,
}

impl Queues {
    /// The tenant's entry as it stands now, or as it ended. Touches no disk unless it has ended. O(those who wait in its
    /// pools) while it searches.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn entry(&self, tenant: &Tenant, id: EntryId) -> Result<Option<EntryView>, QueryError> {
        let generation = self.slot.live()?;
        let now = self.clock.now();
        let found =
            look(&generation, MANY_TO_SEE, move |hot| hot.entry(id).map(|entry| view(hot, entry, now)))
                .await?;
        let found = match found {
            Some(found) => Some(found),
            None => {
                let position = generation.position();
                let ended = stored_entry(&generation.db, id).await;
                let ended = ended.map_err(|error| store_error(Name::Queues, error))?;
                let nowhere = Hot::default();
                ended.map(|entry| EntryView { position, ..view(&nowhere, entry, now) })
            }
        };
        Ok(found.filter(|found| found.entry.entry.tenant == *tenant))
    }

    /// The player's entry that waits or is taken for a match, if there is one.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn entry_of(
        &self,
        tenant: &Tenant,
        player: SubjectId,
    ) -> Result<Option<EntryView>, QueryError> {
        let (tenant, now) = (tenant.clone(), self.clock.now());
        let own = move |hot: &Hot| {
            let own = hot.queues.entry_of(player).filter(|entry| entry.tenant == tenant)?;
            Some(view(hot, hot.entry(own.queued.entry_id)?, now))
        };
        look(&self.slot.live()?, MANY_TO_SEE, own).await
    }

    /// How a pool of the tenant's matches. Every key names a pool.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub fn pool(&self, tenant: &Tenant, key: &PoolKey) -> Result<PoolView, QueryError> {
        let generation = self.slot.live()?;
        let hot = read(&generation.view);
        let pool = hot.queues.pool(&(tenant.clone(), key.clone()));
        Ok(PoolView {
            settings: pool.map_or(DEFAULTS, |pool| *pool.settings()),
            is_configured: pool.is_some_and(PoolLine::is_configured),
            waiting: pool.map_or(0, |pool| pool.line().len()),
            placing: pool.map_or(0, PoolLine::placing),
            position: hot.position,
        })
    }

    /// All pools of one tenant, or of all. O(those who wait).
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn count(&self, tenant: Option<&Tenant>) -> Result<QueueCount, QueryError> {
        let (tenant, now) = (tenant.cloned(), self.clock.now());
        look(&self.slot.live()?, MANY_TO_COUNT, move |hot| count(hot, tenant.as_ref(), now)).await
    }

    /// Up to where everything is taken in.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub fn position(&self) -> Result<Position, QueryError> {
        Ok(read(&self.slot.live()?.view).position)
    }

    /// The position of the last event that changed a tenant's queues, or any; none since this process began.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub fn changed_at(&self, tenant: Option<&Tenant>) -> Result<Option<Position>, QueryError> {
        let generation = self.slot.live()?;
        Ok(read(&generation.view).changed_at(tenant))
    }

    /// Wakes whoever waits for a change of any queue.
    pub fn changes(&self) -> watch::Receiver<Position> {
        self.announcements.0.subscribe()
    }
}

/// Looks at the queues. Where `many` wait that takes a while, for which others on this thread need not wait.
async fn look<T: Send + 'static>(
    generation: &Arc<Generation<View>>,
    many: usize,
    look: impl FnOnce(&Hot) -> T + Send + 'static,
) -> Result<T, QueryError> {
    {
        let hot = read(&generation.view);
        if hot.queues.entries().len() < many {
            return Ok(look(&hot));
        }
    }
    let view = Arc::clone(&generation.view);
    let looked = tokio::task::spawn_blocking(move || look(&read(&view))).await;
    looked.map_err(|source| QueryError::BrokenOff { name: Name::Queues, source })
}

fn view(hot: &Hot, entry: QueueEntry, at: Timestamp) -> EntryView {
    let standings = standings(&hot.queues, &entry.entry, at);
    EntryView { entry, standings, at, position: hot.position }
}

fn count(hot: &Hot, tenant: Option<&Tenant>, at: Timestamp) -> QueueCount {
    let is_wanted = |of: &Tenant| tenant.is_none_or(|tenant| tenant == of);
    let (mut waiting, mut placing) = (0, 0);
    for entry in hot.queues.entries().filter(|entry| is_wanted(&entry.tenant)) {
        match entry.taken_for {
            Some(_) => placing += 1,
            None => waiting += 1,
        }
    }
    let pools = hot.queues.pools().filter(|((of, _), _)| is_wanted(of));
    let pools = pools.map(|(id, pool)| PoolCount {
        tenant: id.0.clone(),
        pool_key: id.1.clone(),
        settings: *pool.settings(),
        is_configured: pool.is_configured(),
        placing: pool.placing(),
        census: census(pool, at),
        ends: hot.ends(id),
        recent_waits: pool.recent().waits(),
        recent_gaps: pool.recent().gaps(),
        matches: pool.recent().matches(),
        matches_a_minute: pool.recent().matches_a_minute(at),
    });
    QueueCount { waiting, placing, pools: pools.collect(), at, position: hot.position }
}
