//! The matchmaker: pairs queued players.
//!
//! It reads the log for all of matchmaking, and keeps the queues, which no other task waits for, and the pending work. A pass
//! runs after catch-up, when a pool
//! has changed, and when a pool's timer fires because two players may be paired; it does not poll. Entries that are
//! being placed are reserved until the fold includes the outcome.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use domain::breaker::Breaker;
use domain::matchmaking::pending_work::{PendingSagas, UnfinishedSaga};
use domain::matchmaking::queues::snapshot::Snapshot;
use domain::matchmaking::queues::{PoolId, Queues, propose};
use event_log::{EventLog, Filter, Page, ReadError};
use event_schemas::envelope::{Actor, Envelope, Recorded};
use event_schemas::game_match::MatchProposed;
use event_schemas::ids::{EntryId, Position, Tenant};
use event_schemas::time::Timestamp;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::{Matchmaking, RETRY_DELAY, stream_prefixes};
use crate::engine::command_context::CommandContext;
use crate::engine::execute::LoadError;
use crate::engine::snapshot::Checkpoint;

const NAME: &str = "matchmaker";

/// The number of concurrent placements. Each waits for the log a few times, so that many share one sync.
const PLACING_MAX: usize = 1_024;
/// The number of entries that a pass handles before it yields: a few milliseconds of work.
const STEP_ENTRIES: usize = 8_192;

/// Runs until the server shuts down, or the log cannot be read any more.
pub(crate) async fn run(matchmaking: Arc<Matchmaking>) {
    let before_start = *matchmaking.engine.log.head().borrow();
    let mut requested = matchmaking.snapshots.requested();
    let loaded = matchmaking.snapshots.load::<StoredFolds>().await;
    let mut writer = matchmaking.snapshots.writer(loaded.as_ref().map(|(_, checkpoint)| *checkpoint));
    let mut matchmaker = Matchmaker::new(matchmaking.clone(), loaded);
    let filter = Filter::StreamPrefixes(stream_prefixes());
    let mut events = matchmaking.engine.log.subscribe(matchmaker.position, filter);
    let mut placing = FuturesUnordered::new();
    let mut is_live = false;
    loop {
        if events.position() >= before_start {
            if !is_live {
                is_live = true;
                matchmaking.go_live();
            }
            matchmaker.run_pairing().await;
            while placing.len() < PLACING_MAX
                && let Some(pending) = matchmaker.next_placement()
            {
                placing.push(spawn_placement(matchmaker.matchmaking.clone(), pending));
            }
        }
        let next = matchmaker.next_pass_at();
        tokio::select! {
            biased;
            Some(done) = requested.recv() => {
                writer.answer(done, matchmaker.checkpoint, matchmaker.snapshot()).await;
            }
            Some(outcome) = placing.next(), if !placing.is_empty() => matchmaker.placement_finished(outcome),
            page = events.next() => {
                if let Err(error) = matchmaker.read(page) {
                    tracing::error!(%error, "matchmaking cannot read the log and has stopped");
                    return;
                }
                if writer.is_due(matchmaker.checkpoint) {
                    writer.write(matchmaker.checkpoint, matchmaker.snapshot()).await;
                }
            }
            () = matchmaker.matchmaking.engine.clock.sleep_until(next.unwrap_or(NEVER)), if next.is_some() => {}
        }
    }
}

/// Later than any timer. Never awaited: without a timer the branch is disabled.
const NEVER: Timestamp = Timestamp::from_micros(i64::MAX);

/// A proposed match that is to be placed.
struct PendingMatch {
    pool: PoolId,
    proposed: MatchProposed,
    context: CommandContext,
}

/// A placement on a task of its own, which is aborted when this is dropped: the next start resumes it.
struct PlacementTask(JoinHandle<PlacementOutcome>);

impl Drop for PlacementTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Places a match on a task of its own, so that all processors share the work; without a runtime, as in a simulation,
/// on the current task.
async fn spawn_placement(matchmaking: Arc<Matchmaking>, pending: PendingMatch) -> PlacementOutcome {
    // The outcome if the task is aborted: then the reconciler completes the saga.
    let entries = [pending.proposed.first.entry_id, pending.proposed.second.entry_id];
    let aborted = PlacementOutcome { pool: pending.pool.clone(), entries, position: None };
    let place = place_match(matchmaking, pending);
    match Handle::try_current() {
        Ok(runtime) => {
            let mut task = PlacementTask(runtime.spawn(place.boxed()));
            (&mut task.0).await.unwrap_or(aborted)
        }
        Err(_) => place.await,
    }
}

/// The outcome of a placement.
struct PlacementOutcome {
    pool: PoolId,
    entries: [Option<EntryId>; 2],
    /// The position at which the fold includes it; none if the log failed, and the reconciler completes the saga.
    position: Option<Position>,
}

/// Places a match.
async fn place_match(matchmaking: Arc<Matchmaking>, pending: PendingMatch) -> PlacementOutcome {
    let PendingMatch { pool, proposed, context } = pending;
    let entries = [proposed.first.entry_id, proposed.second.entry_id];
    let match_id = proposed.match_id;
    let Some(_saga) = matchmaking.try_lock(UnfinishedSaga::Match(match_id)) else {
        // The reconciler is running this saga.
        matchmaking.engine.clock.sleep(RETRY_DELAY).await;
        return PlacementOutcome { pool, entries, position: None };
    };
    match matchmaking.place_match(proposed, &context).await {
        Ok(outcome) => {
            metrics::counter!("matchbook_matches_placed_total").increment(1);
            PlacementOutcome { pool, entries, position: Some(outcome.position) }
        }
        Err(error) => {
            tracing::warn!(%match_id, %error, "a match could not be placed; the reconciler completes it");
            matchmaking.engine.clock.sleep(RETRY_DELAY).await;
            PlacementOutcome { pool, entries, position: None }
        }
    }
}

/// The stored form of the folds.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredFolds {
    pub(super) queues: Snapshot,
    pub(super) pending: PendingSagas,
    /// The circuit breakers of the game service.
    pub(super) breakers: Vec<(Tenant, Breaker)>,
    /// The circuit breakers of the rating service.
    pub(super) rating_breakers: Vec<(Tenant, Breaker)>,
}

/// All pools, with the entries that are being placed.
struct Matchmaker {
    matchmaking: Arc<Matchmaking>,
    queues: Queues,
    position: Position,
    checkpoint: Option<Checkpoint>,
    /// The paired entries, until the fold includes the outcome.
    reserved: HashSet<EntryId>,
    awaiting_projection: Vec<(Position, PlacementOutcome)>,
    /// The pools that need a pass.
    dirty_pools: BTreeSet<PoolId>,
    /// The time at which the next two players of a pool may be paired.
    timers: BTreeMap<PoolId, Timestamp>,
    pending: VecDeque<PendingMatch>,
    /// The number of matches of each tenant that are being placed.
    placing: HashMap<Tenant, usize>,
}

impl Matchmaker {
    fn new(matchmaking: Arc<Matchmaking>, loaded: Option<(StoredFolds, Checkpoint)>) -> Self {
        let checkpoint = loaded.as_ref().map(|(_, checkpoint)| *checkpoint);
        let position = checkpoint.map_or(Position::START, |checkpoint| checkpoint.position);
        let mut queues = Queues::default();
        if let Some((folds, _)) = loaded {
            queues = Queues::restore(folds.queues);
            matchmaking.restore(folds.pending, position);
            matchmaking.game_service.restore(folds.breakers);
            matchmaking.ratings.restore(folds.rating_breakers);
        }
        Self {
            matchmaking,
            // Every pool needs a first pass.
            dirty_pools: queues.pools().map(|(id, _)| id.clone()).collect(),
            queues,
            position,
            checkpoint,
            reserved: HashSet::new(),
            awaiting_projection: Vec::new(),
            timers: BTreeMap::new(),
            pending: VecDeque::new(),
            placing: HashMap::new(),
        }
    }

    fn read(&mut self, page: Result<Page, ReadError>) -> Result<(), LoadError> {
        let page = page?;
        let events: Result<Vec<Envelope>, _> = page.events.iter().map(Recorded::decode).collect();
        let events = events?;
        self.apply(&events, page.next);
        self.matchmaking.apply(&events, page.next);
        self.checkpoint = page.events.last().map(Checkpoint::from).or(self.checkpoint);
        Ok(())
    }

    fn apply(&mut self, events: &[Envelope], next: Position) {
        events.iter().for_each(|envelope| self.queues.apply(envelope));
        self.position = next;
        let applied = self.awaiting_projection.extract_if(.., |(position, _)| *position <= next);
        for (_, outcome) in applied {
            outcome.entries.iter().flatten().for_each(|entry| {
                self.reserved.remove(entry);
            });
            self.dirty_pools.insert(outcome.pool);
        }
    }

    fn snapshot(&self) -> impl FnOnce() -> serde_json::Result<Vec<u8>> + Send + use<> {
        let pending = self.matchmaking.pending().clone();
        let breakers = self.matchmaking.game_service.snapshot();
        let rating_breakers = self.matchmaking.ratings.snapshot();
        let folds = StoredFolds { queues: self.queues.snapshot(), pending, breakers, rating_breakers };
        move || serde_json::to_vec(&folds)
    }

    /// Keeps the entries of a placement reserved until the fold includes the outcome.
    fn placement_finished(&mut self, outcome: PlacementOutcome) {
        let position = outcome.position.unwrap_or(self.position);
        if let Some(placing) = self.placing.get_mut(&outcome.pool.0) {
            *placing = placing.saturating_sub(1);
        }
        self.placing.retain(|_, placing| *placing > 0);
        self.awaiting_projection.push((position, outcome));
        self.apply(&[], self.position);
    }

    /// The first pending match whose tenant's circuit breaker allows another call of the game service.
    fn next_placement(&mut self) -> Option<PendingMatch> {
        let games = &self.matchmaking.game_service;
        let is_allowed = |tenant: &Tenant| {
            let placing = self.placing.get(tenant).copied().unwrap_or_default();
            games.capacity(tenant).is_ok_and(|capacity| placing < capacity)
        };
        let first = self.pending.iter().position(|pending| is_allowed(&pending.pool.0))?;
        let pending = self.pending.remove(first)?;
        *self.placing.entry(pending.pool.0.clone()).or_default() += 1;
        Some(pending)
    }

    /// True if there are enough pending matches.
    fn is_full(&self) -> bool {
        self.pending.len() >= PLACING_MAX
    }

    /// The time of the next pass without a new event.
    fn next_pass_at(&self) -> Option<Timestamp> {
        // While no games can be created no players of the tenant are paired, whatever the timers are.
        let parked = self.matchmaking.game_service.parked_tenants();
        let until = |pool: &PoolId| parked.get(&pool.0).copied();
        let pending = self.pending.iter().filter_map(|pending| until(&pending.pool));
        if self.is_full() {
            // Timers do not matter until some of the pending matches are placed.
            return pending.min();
        }
        let timers = self.timers.iter().map(|(pool, at)| until(pool).unwrap_or(*at));
        timers.chain(self.dirty_pools.iter().filter_map(until)).chain(pending).min()
    }

    /// Runs a pass over every pool that has changed, or whose timer has fired.
    async fn run_pairing(&mut self) {
        self.dirty_pools.append(&mut self.queues.take_changed());
        // The pending matches go first.
        if self.is_full() {
            return;
        }
        let now = self.matchmaking.engine.now();
        let due = self.timers.iter().filter(|(_, at)| **at <= now).map(|(pool, _)| pool.clone());
        let due: Vec<PoolId> = due.collect();
        self.dirty_pools.extend(due);
        let parked = self.matchmaking.game_service.parked_tenants();
        for pool in std::mem::take(&mut self.dirty_pools) {
            if parked.contains_key(&pool.0) {
                self.dirty_pools.insert(pool);
            } else {
                self.pass(&pool, now).await;
            }
        }
    }

    async fn pass(&mut self, id: &PoolId, now: Timestamp) {
        let Some(pool) = self.queues.pool(id) else { return };
        let reserved = &mut self.reserved;
        let mut pass = pool.pass(self.queues.blocks(), now, |entry| reserved.contains(&entry));
        let mut paired = Vec::new();
        while !pass.is_done() {
            for pairing in pass.step(STEP_ENTRIES) {
                // The later of the two entries caused the pairing.
                let Some(entry) = self.queues.entry(pairing.second.entry_id) else { continue };
                paired.extend([pairing.first.entry_id, pairing.second.entry_id]);
                let (tenant, pool_key) = id.clone();
                let context = CommandContext {
                    tenant,
                    correlation_id: entry.correlation_id,
                    event_id: Some(pairing.second.searching_since_event),
                    actor: Actor::System(NAME.parse().expect("a process name is a short text")),
                    traceparent: None,
                };
                self.pending.push_back(PendingMatch {
                    pool: id.clone(),
                    proposed: propose(&pool_key, &pairing),
                    context,
                });
            }
            if !pass.is_done() {
                tokio::task::yield_now().await;
            }
        }
        drop(pass);
        reserved.extend(paired);
        match pool.next_pairing(self.queues.blocks(), now, |entry| reserved.contains(&entry)) {
            Some(next) => self.timers.insert(id.clone(), next),
            None => self.timers.remove(id),
        };
    }
}
