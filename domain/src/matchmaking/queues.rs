//! All queue entries by pool: a fold of the events of players, pools and matches.
//!
//! Events of different players commute, so the order in which streams are merged does not change the queues.

pub mod snapshot;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use event_schemas::envelope::{Envelope, Event};
use event_schemas::game_match::{GameMatchEvent, MatchPlayer, MatchProposed, Side};
use event_schemas::ids::{
    CorrelationId, EntryId, EventId, GameMatchId, PoolKey, Revision, SubjectId, Tenant,
};
use event_schemas::player::{PlayerEvent, PlayerQueued, ReleaseReason};
use event_schemas::pool::{PoolEvent, PoolSettings};
use event_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::explanation::{Explanation, explain};
use super::pass::{Pairing, PairingPass};
use super::statistics::RecentMatches;
use super::timer::next_pairing;
use super::waiting_queue::WaitingQueue;
use super::{Blocks, WaitingEntry};
use crate::pool;

/// The key of a tenant's pool.
pub type PoolId = (Tenant, PoolKey);

/// An entry, from joining to leaving.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub tenant: Tenant,
    pub queued: Arc<PlayerQueued>,
    pub queued_at: Timestamp,
    /// The revision of its first event in its player's stream.
    pub first_revision: Revision,
    pub eligible_at: Timestamp,
    pub release_count: u32,
    /// The event since which it searches.
    pub searching_since_event: EventId,
    /// The correlation id of its first event.
    pub correlation_id: CorrelationId,
    /// The match for which it is reserved; none while it searches.
    pub reserved_for: Option<GameMatchId>,
}

/// The queue of one pool.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pool {
    settings: Option<PoolSettings>,
    queue: WaitingQueue,
    /// The number of entries in the pool that are reserved for a match whose game is being created.
    placing: usize,
    recent: RecentMatches,
}

/// All pools of all tenants.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Queues {
    entries: HashMap<EntryId, Entry>,
    /// The entry of each player who has one.
    players: HashMap<SubjectId, EntryId>,
    pools: BTreeMap<PoolId, Pool>,
    blocks: Blocks,
    /// Matches that are neither confirmed nor abandoned yet.
    proposed: HashMap<GameMatchId, (Tenant, MatchProposed)>,
    /// Pools in which a new pairing may be possible since the last pass.
    changed: BTreeSet<PoolId>,
}

impl Pool {
    /// The pool's current settings.
    pub fn settings(&self) -> &PoolSettings {
        self.settings.as_ref().unwrap_or(&pool::DEFAULTS)
    }

    /// Whether the pool was configured; otherwise it has the defaults.
    pub fn is_configured(&self) -> bool {
        self.settings.is_some()
    }

    /// The searching entries, in queue order.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = &WaitingEntry> {
        self.queue.iter()
    }

    pub fn placing(&self) -> usize {
        self.placing
    }

    pub fn recent(&self) -> &RecentMatches {
        &self.recent
    }

    /// Explains the search of one entry. O(queue), a few nanoseconds per entry.
    pub fn explain(&self, of: &WaitingEntry, blocks: &Blocks, now: Timestamp) -> Explanation {
        explain(of, &self.queue, self.settings(), blocks, now)
    }

    /// A pass over the searching entries, except those that `held` selects.
    pub fn pass<'a>(
        &'a self,
        blocks: &'a Blocks,
        now: Timestamp,
        held: impl Fn(EntryId) -> bool,
    ) -> PairingPass<'a> {
        let entries = self.entries().filter(|waiting| !held(waiting.entry_id));
        PairingPass::new(entries, self.settings(), blocks, now)
    }

    /// The next time at which two of the searching entries that are not expired at `now` can be paired,
    /// except those that `held` selects.
    pub fn next_pairing(
        &self,
        blocks: &Blocks,
        now: Timestamp,
        held: impl Fn(EntryId) -> bool,
    ) -> Option<Timestamp> {
        let entries = self.entries().filter(|waiting| !held(waiting.entry_id));
        next_pairing(entries, self.settings(), blocks, now)
    }
}

impl Queues {
    /// Applies the next event of any stream, in position order; ignores other categories.
    pub fn apply(&mut self, envelope: &Envelope) {
        match &envelope.event {
            Event::Player(event) => self.apply_player(event, envelope),
            Event::Pool(PoolEvent::PoolConfigured(configured)) => {
                let id = (envelope.metadata.tenant.clone(), configured.pool_key.clone());
                self.pools.entry(id.clone()).or_default().settings = Some(configured.settings);
                self.changed.insert(id);
            }
            Event::GameMatch(event) => self.apply_match(event, envelope),
            _ => {}
        }
    }

    pub fn entry(&self, id: EntryId) -> Option<&Entry> {
        self.entries.get(&id)
    }

    /// All entries that wait or are reserved for a match, in no order.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = &Entry> {
        self.entries.values()
    }

    /// The entry of a player who waits or is reserved for a match.
    pub fn entry_of(&self, player: SubjectId) -> Option<&Entry> {
        self.entries.get(self.players.get(&player)?)
    }

    pub fn pool(&self, id: &PoolId) -> Option<&Pool> {
        self.pools.get(id)
    }

    /// All pools that were ever configured or joined, by tenant and key.
    pub fn pools(&self) -> impl Iterator<Item = (&PoolId, &Pool)> {
        self.pools.iter()
    }

    pub fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    /// The entry in the queue of one of its pools, if it searches there.
    pub fn waiting(&self, id: EntryId, pool: &PoolKey) -> Option<&WaitingEntry> {
        let entry = self.entries.get(&id)?;
        self.pools.get(&(entry.tenant.clone(), pool.clone()))?.queue.get(&(entry.queued_at, id))
    }

    /// The number of searching entries over all pools; an entry in several pools counts once.
    pub fn searching(&self) -> usize {
        self.entries.values().filter(|entry| entry.reserved_for.is_none()).count()
    }

    /// Takes the pools that changed since the last call so that a new pairing may be possible.
    pub fn take_changed(&mut self) -> BTreeSet<PoolId> {
        std::mem::take(&mut self.changed)
    }

    fn apply_player(&mut self, event: &PlayerEvent, envelope: &Envelope) {
        match event {
            PlayerEvent::PlayerQueued(queued) => {
                let at = envelope.metadata.occurred_at;
                let entry = Entry {
                    tenant: envelope.metadata.tenant.clone(),
                    queued: Arc::new(queued.clone()),
                    queued_at: at,
                    first_revision: envelope.revision,
                    eligible_at: at,
                    release_count: 0,
                    searching_since_event: envelope.id,
                    correlation_id: envelope.metadata.correlation_id,
                    reserved_for: None,
                };
                self.enqueue(&entry);
                self.players.insert(queued.subject_id, queued.entry_id);
                self.entries.insert(queued.entry_id, entry);
            }
            PlayerEvent::QueueEntryCancelled(event) => self.remove(event.entry_id),
            PlayerEvent::QueueEntryExpired(event) => self.remove(event.entry_id),
            PlayerEvent::QueueEntryMatched(event) => self.reserve(event.entry_id, event.match_id),
            PlayerEvent::PlayerReserved(event) => {
                if let Some(entry) = event.left_entry {
                    self.reserve(entry, event.match_id);
                }
            }
            PlayerEvent::QueueEntryReleased(event) => {
                if let Some(entry) = self.entries.get_mut(&event.entry_id) {
                    let was_reserved = entry.reserved_for.take().is_some();
                    entry.release_count += 1;
                    entry.eligible_at = entry.queued_at.max(event.eligible_at);
                    entry.searching_since_event = envelope.id;
                    let entry = entry.clone();
                    if was_reserved {
                        self.count_placing(&entry, -1);
                    }
                    self.enqueue(&entry);
                }
            }
            PlayerEvent::PlayerReleased(event) if event.reason != ReleaseReason::Abandoned => {
                if let Some(entry) = self.players.get(&event.subject_id).copied() {
                    self.remove(entry);
                }
            }
            PlayerEvent::PlayerBlocked(event) => self.blocks.add(event.subject_id, event.blocked),
            PlayerEvent::PlayerUnblocked(event) => {
                self.blocks.remove(event.subject_id, event.unblocked);
                if let Some(entry) = self.entry_of(event.subject_id) {
                    let pools = entry.queued.pools.iter();
                    let pools: Vec<_> =
                        pools.map(|pool| (entry.tenant.clone(), pool.pool_key.clone())).collect();
                    self.changed.extend(pools);
                }
            }
            PlayerEvent::PlayerReleased(_) | PlayerEvent::PlayerRated(_) => {}
        }
    }

    fn apply_match(&mut self, event: &GameMatchEvent, envelope: &Envelope) {
        let id = envelope.stream.game_match_id();
        match event {
            GameMatchEvent::MatchProposed(proposed) => {
                let tenant = envelope.metadata.tenant.clone();
                self.proposed.insert(proposed.match_id, (tenant, proposed.clone()));
            }
            GameMatchEvent::MatchConfirmed(_) => {
                if let Some((tenant, proposed)) = id.and_then(|id| self.proposed.remove(&id)) {
                    self.confirm(tenant, &proposed, envelope.metadata.occurred_at);
                }
            }
            GameMatchEvent::MatchAbandoned(_) => {
                id.and_then(|id| self.proposed.remove(&id));
            }
            GameMatchEvent::MatchResultReported(_) | GameMatchEvent::MatchExpired(_) => {}
        }
    }

    /// Confirmed players no longer wait, and are never released back into the queue.
    fn confirm(&mut self, tenant: Tenant, proposed: &MatchProposed, at: Timestamp) {
        let players = [&proposed.first, &proposed.second];
        if let [Some(first), Some(second)] = players.map(|player| player.queued_at) {
            let [one, other] = [at.since(first), at.since(second)];
            let recent = &mut self.pools.entry((tenant, proposed.pool_key.clone())).or_default().recent;
            recent.add(at, [(proposed.first.rating, one), (proposed.second.rating, other)]);
        }
        for entry in players.map(|player| self.entry_in(player)).into_iter().flatten() {
            self.remove(entry);
        }
    }

    /// The entry with which a player is in a match, if any.
    fn entry_in(&self, player: &MatchPlayer) -> Option<EntryId> {
        player.entry_id.or_else(|| self.players.get(&player.subject_id).copied())
    }

    fn enqueue(&mut self, entry: &Entry) {
        for pool in &entry.queued.pools {
            let waiting = WaitingEntry {
                entry_id: entry.queued.entry_id,
                player: entry.queued.subject_id,
                queued_at: entry.queued_at,
                eligible_at: entry.eligible_at,
                expires_at: entry.queued.expires_at,
                rating: pool.rating,
                skill: pool.skill,
                max_rating_gap: entry.queued.max_rating_gap,
                last_opponent: entry.queued.last_opponent,
                side_balance: pool.side_balance,
                release_count: entry.release_count,
                searching_since_event: entry.searching_since_event,
            };
            let id = (entry.tenant.clone(), pool.pool_key.clone());
            self.pools.entry(id.clone()).or_default().queue.insert(waiting);
            self.changed.insert(id);
        }
    }

    fn dequeue(&mut self, entry: &Entry) {
        let key = (entry.queued_at, entry.queued.entry_id);
        for pool in &entry.queued.pools {
            if let Some(pool) = self.pools.get_mut(&(entry.tenant.clone(), pool.pool_key.clone())) {
                pool.queue.remove(&key);
            }
        }
    }

    fn reserve(&mut self, id: EntryId, match_id: GameMatchId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let was_free = entry.reserved_for.replace(match_id).is_none();
        let entry = entry.clone();
        if was_free {
            self.dequeue(&entry);
            self.count_placing(&entry, 1);
        }
    }

    fn remove(&mut self, id: EntryId) {
        let Some(entry) = self.entries.remove(&id) else { return };
        if self.players.get(&entry.queued.subject_id) == Some(&id) {
            self.players.remove(&entry.queued.subject_id);
        }
        if entry.reserved_for.is_some() {
            self.count_placing(&entry, -1);
        } else {
            self.dequeue(&entry);
        }
    }

    fn count_placing(&mut self, entry: &Entry, by: isize) {
        for pool in &entry.queued.pools {
            if let Some(pool) = self.pools.get_mut(&(entry.tenant.clone(), pool.pool_key.clone())) {
                pool.placing = pool.placing.saturating_add_signed(by);
            }
        }
    }
}

/// The id of the match of two entries: the same for every matchmaker that pairs them at the same release
/// counts.
fn match_id(pool_key: &PoolKey, pair: &Pairing<'_>) -> GameMatchId {
    let mut events = [pair.first.searching_since_event, pair.second.searching_since_event];
    events.sort_unstable();
    let mut name = events[1].0.as_bytes().to_vec();
    name.extend_from_slice(pool_key.as_str().as_bytes());
    GameMatchId(Uuid::new_v5(&events[0].0, &name))
}

/// The match of a pairing. The player who moved first less often moves first; if equal, the match id decides.
pub fn propose(pool_key: &PoolKey, pair: &Pairing<'_>) -> MatchProposed {
    let match_id = match_id(pool_key, pair);
    let mut players = [pair.first, pair.second];
    // The result must not depend on which entry picked the other.
    players.sort_by_key(|player| player.entry_id);
    if match_id.0.as_u128() & 1 == 1 {
        players.swap(0, 1);
    }
    players.sort_by_key(|player| player.side_balance);
    let [first, second] = players.map(|waiting| MatchPlayer {
        subject_id: waiting.player,
        entry_id: Some(waiting.entry_id),
        queued_at: Some(waiting.queued_at),
        release_count: waiting.release_count,
        rating: waiting.rating,
        skill: waiting.skill,
    });
    MatchProposed { match_id, pool_key: pool_key.clone(), challenge_id: None, first, second }
}

/// The player on this side of a match.
pub fn on_side(proposed: &MatchProposed, side: Side) -> &MatchPlayer {
    match side {
        Side::First => &proposed.first,
        Side::Second => &proposed.second,
    }
}
