//! Puts those who wait together.
//!
//! Its state is a fold of its own, so that a pass over a large pool holds nobody up. It acts once it has caught up, when
//! something changed in a pool, and when the pool's timer says that two may meet; it never ticks. Whoever is being placed
//! is held aside until the fold shows what came of it.

use futures_util::FutureExt;
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use domain::matchmaking::obligations::Unfinished;
use domain::matchmaking::queues::{PoolId, Queues, propose};
use event_log::{EventLog, Filter, Page, ReadError};
use event_schemas::envelope::{Actor, Envelope, Recorded};
use event_schemas::ids::{EntryId, Position};
use event_schemas::match_record::MatchProposed;
use event_schemas::time::Timestamp;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::AGAIN_AFTER;
use crate::execute::LoadError;
use crate::matchmaking::{Chain, Matchmaking, prefixes};

const NAME: &str = "matchmaker";

/// How many matches are being placed at once. Each waits for the log a few times, so that many share one sync.
const PLACING_MAX: usize = 1_024;
/// So many entries pick in a pass before others get their turn: a few milliseconds' worth.
const STEP_ENTRIES: usize = 8_192;

/// Runs until the server shuts down, or the log cannot be read any more.
pub(crate) async fn run(matchmaking: Matchmaking) {
    let before_start = *matchmaking.log().head().borrow();
    let mut events = matchmaking.log().subscribe(Position::START, Filter::StreamPrefixes(prefixes()));
    let mut floor = Floor::new(matchmaking);
    let mut placing = FuturesUnordered::new();
    loop {
        if events.position() >= before_start {
            floor.put_together().await;
            while placing.len() < floor.room()
                && let Some(found) = floor.found.pop_front()
            {
                placing.push(place_aside(floor.matchmaking.clone(), found));
            }
        }
        let next = floor.next_at();
        tokio::select! {
            biased;
            Some(done) = placing.next(), if !placing.is_empty() => floor.settle(done),
            page = events.next() => {
                if let Err(error) = floor.read(page) {
                    tracing::error!(%error, "the matchmaker puts nobody together any more");
                    return;
                }
            }
            () = floor.matchmaking.clock().sleep_until(next.unwrap_or(FAR)), if next.is_some() => {}
        }
    }
}

/// Later than any timer. Never waited for: without a timer the branch is off.
const FAR: Timestamp = Timestamp::from_micros(i64::MAX);

/// Two who were found for each other.
struct Found {
    pool: PoolId,
    proposed: MatchProposed,
    chain: Chain,
}

/// A placing on a task of its own, which ends when it is dropped: whatever was begun is taken up at the next start.
struct Task(JoinHandle<Done>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Places on a task of its own, so that all processors share the work; without a runtime, as in a simulation, right here.
async fn place_aside(matchmaking: Matchmaking, found: Found) -> Done {
    // What is known of it even if its task breaks off: then the reconciler has to look.
    let entries = [found.proposed.first.entry_id, found.proposed.second.entry_id];
    let broken = Done { pool: found.pool.clone(), entries, position: None };
    let place = place(matchmaking, found);
    match Handle::try_current() {
        Ok(runtime) => {
            let mut task = Task(runtime.spawn(place.boxed()));
            (&mut task.0).await.unwrap_or(broken)
        }
        Err(_) => place.await,
    }
}

/// What came of a placing.
struct Done {
    pool: PoolId,
    entries: [Option<EntryId>; 2],
    /// Where the fold must be to show it; none if the log failed, and the reconciler has to look.
    position: Option<Position>,
}

/// Brings a match as far as it goes.
async fn place(matchmaking: Matchmaking, found: Found) -> Done {
    let Found { pool, proposed, chain } = found;
    let entries = [proposed.first.entry_id, proposed.second.entry_id];
    let match_id = proposed.match_id;
    let Some(_driving) = matchmaking.drive(Unfinished::Match(match_id)) else {
        // The reconciler is at it.
        matchmaking.clock().sleep(AGAIN_AFTER).await;
        return Done { pool, entries, position: None };
    };
    match matchmaking.place(proposed, &chain).await {
        Ok(placed) => {
            metrics::counter!("matchbook_matches_placed_total").increment(1);
            Done { pool, entries, position: Some(placed.position) }
        }
        Err(error) => {
            tracing::warn!(%match_id, %error, "a match could not be placed; it is brought to its end later");
            matchmaking.clock().sleep(AGAIN_AFTER).await;
            Done { pool, entries, position: None }
        }
    }
}

/// All pools, and who is on the way out of them.
struct Floor {
    matchmaking: Matchmaking,
    queues: Queues,
    position: Position,
    /// Entries that were found, until the fold shows what came of it.
    held: HashSet<EntryId>,
    settling: Vec<(Position, Done)>,
    /// Pools to look at again although no event changed them.
    again: BTreeSet<PoolId>,
    /// When the next two of a pool may meet.
    timers: BTreeMap<PoolId, Timestamp>,
    found: VecDeque<Found>,
}

impl Floor {
    fn new(matchmaking: Matchmaking) -> Self {
        Self {
            matchmaking,
            queues: Queues::default(),
            position: Position::START,
            held: HashSet::new(),
            settling: Vec::new(),
            again: BTreeSet::new(),
            timers: BTreeMap::new(),
            found: VecDeque::new(),
        }
    }

    fn read(&mut self, page: Result<Page, ReadError>) -> Result<(), LoadError> {
        let page = page?;
        let events: Result<Vec<Envelope>, _> = page.events.iter().map(Recorded::decode).collect();
        self.take_in(&events?, page.next);
        Ok(())
    }

    fn take_in(&mut self, events: &[Envelope], next: Position) {
        events.iter().for_each(|envelope| self.queues.apply(envelope));
        self.position = next;
        let settled = self.settling.extract_if(.., |(position, _)| *position <= next);
        for (_, done) in settled {
            done.entries.iter().flatten().for_each(|entry| {
                self.held.remove(entry);
            });
            self.again.insert(done.pool);
        }
    }

    /// Whoever was placed is held until the fold shows what came of it.
    fn settle(&mut self, done: Done) {
        let position = done.position.unwrap_or(self.position);
        self.settling.push((position, done));
        self.take_in(&[], self.position);
    }

    /// How many matches may be placed at once.
    fn room(&self) -> usize {
        self.matchmaking.desk().room().map_or(0, |room| room.min(PLACING_MAX))
    }

    /// Whether so many were found already that more of them help nobody.
    fn is_full(&self) -> bool {
        self.found.len() >= PLACING_MAX
    }

    /// When there is something to do although nothing happens.
    fn next_at(&self) -> Option<Timestamp> {
        if self.is_full() {
            // Timers stand as they were until some of those who were found are placed.
            return self.matchmaking.desk().room().err();
        }
        let open_again = self.matchmaking.desk().room().err();
        match open_again {
            // While no games are made nobody is put together, whatever timers say.
            Some(until) => {
                (!self.found.is_empty() || !self.timers.is_empty() || !self.again.is_empty()).then_some(until)
            }
            None => self.timers.values().min().copied(),
        }
    }

    /// A pass over every pool that changed, or whose timer has come.
    async fn put_together(&mut self) {
        self.again.append(&mut self.queues.take_changed());
        // Those who were found and not placed yet go first.
        if self.room() == 0 || self.is_full() {
            return;
        }
        let now = self.matchmaking.clock().now();
        let due = self.timers.iter().filter(|(_, at)| **at <= now).map(|(pool, _)| pool.clone());
        let due: Vec<PoolId> = due.collect();
        self.again.extend(due);
        for pool in std::mem::take(&mut self.again) {
            self.pass(&pool, now).await;
        }
    }

    async fn pass(&mut self, id: &PoolId, now: Timestamp) {
        let Some(pool) = self.queues.pool(id) else { return };
        let held = &mut self.held;
        let mut pass = pool.pass(self.queues.blocks(), now, |entry| held.contains(&entry));
        let mut taken = Vec::new();
        while !pass.is_done() {
            for pair in pass.step(STEP_ENTRIES) {
                // The later of the two is who made it happen.
                let Some(entry) = self.queues.entry(pair.partner.entry_id) else { continue };
                taken.extend([pair.seed.entry_id, pair.partner.entry_id]);
                let (tenant, pool_key) = id.clone();
                let chain = Chain {
                    tenant,
                    correlation_id: entry.correlation_id,
                    event_id: Some(pair.partner.turn),
                    actor: Actor::System(NAME.parse().expect("the name of a process is a short text")),
                    traceparent: None,
                };
                self.found.push_back(Found { pool: id.clone(), proposed: propose(&pool_key, &pair), chain });
            }
            if !pass.is_done() {
                tokio::task::yield_now().await;
            }
        }
        drop(pass);
        held.extend(taken);
        match pool.next_meeting(self.queues.blocks(), now, |entry| held.contains(&entry)) {
            Some(next) => self.timers.insert(id.clone(), next),
            None => self.timers.remove(id),
        };
    }
}
