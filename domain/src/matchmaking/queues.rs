//! Everyone who waits, by pool: a fold of the events of players, pools and matches.
//!
//! Events of different players commute, so the order in which streams are merged does not matter to who waits.

pub mod pieces;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{
    CorrelationId, EntryId, EventId, MatchRecordId, PoolKey, Revision, SubjectId, Tenant,
};
use event_schemas::match_record::{MatchPlayer, MatchProposed, MatchRecordEvent, Side};
use event_schemas::player::{FreedReason, PlayerEvent, PlayerQueued};
use event_schemas::pool::{PoolEvent, PoolSettings};
use event_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::explanation::{Explanation, explain};
use super::line::Line;
use super::pass::{Pair, Pass};
use super::statistics::Recent;
use super::timer::next_meeting;
use super::{Blocks, Waiting};
use crate::pool;

/// A pool of a tenant's.
pub type PoolId = (Tenant, PoolKey);

/// An entry, from joining to leaving.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub tenant: Tenant,
    pub queued: Arc<PlayerQueued>,
    pub queued_at: Timestamp,
    /// Where in its player's stream it begins.
    pub begins_at: Revision,
    pub eligible_at: Timestamp,
    pub round: u32,
    /// Since which event it searches.
    pub turn: EventId,
    /// The chain of causes that it began with.
    pub correlation_id: CorrelationId,
    /// The match it is taken for; none while it searches.
    pub taken_for: Option<MatchRecordId>,
}

/// One pool.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PoolLine {
    settings: Option<PoolSettings>,
    line: Line,
    /// How many entries of the pool are taken for a match whose game is being made.
    placing: usize,
    recent: Recent,
}

/// All pools of all tenants.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Queues {
    entries: HashMap<EntryId, Entry>,
    /// The entry of each player who has one.
    players: HashMap<SubjectId, EntryId>,
    pools: BTreeMap<PoolId, PoolLine>,
    blocks: Blocks,
    /// Matches of which it is not decided yet whether a game comes.
    proposed: HashMap<MatchRecordId, (Tenant, MatchProposed)>,
    /// Pools in which somebody may meet since they were last looked at.
    changed: BTreeSet<PoolId>,
}

impl PoolLine {
    /// What holds in the pool.
    pub fn settings(&self) -> &PoolSettings {
        self.settings.as_ref().unwrap_or(&pool::DEFAULTS)
    }

    /// Whether somebody said how the pool matches; it has the defaults otherwise.
    pub fn is_configured(&self) -> bool {
        self.settings.is_some()
    }

    /// Those who search, in line order.
    pub fn line(&self) -> impl ExactSizeIterator<Item = &Waiting> {
        self.line.iter()
    }

    pub fn placing(&self) -> usize {
        self.placing
    }

    pub fn recent(&self) -> &Recent {
        &self.recent
    }

    /// What one of those who search sees of the others. O(line), in little time for each.
    pub fn explain(&self, of: &Waiting, blocks: &Blocks, now: Timestamp) -> Explanation {
        explain(of, &self.line, self.settings(), blocks, now)
    }

    /// A pass over those who search, except those who are `held`.
    pub fn pass<'a>(
        &'a self,
        blocks: &'a Blocks,
        now: Timestamp,
        held: impl Fn(EntryId) -> bool,
    ) -> Pass<'a> {
        let line = self.line().filter(|waiting| !held(waiting.entry_id));
        Pass::new(line, self.settings(), blocks, now)
    }

    /// When the next two of those who search and are not over `now` may meet, except those who are `held`.
    pub fn next_meeting(
        &self,
        blocks: &Blocks,
        now: Timestamp,
        held: impl Fn(EntryId) -> bool,
    ) -> Option<Timestamp> {
        let line = self.line().filter(|waiting| !held(waiting.entry_id));
        next_meeting(line, self.settings(), blocks, now)
    }
}

impl Queues {
    /// Takes in the next event of any stream, in position order; those of other categories say nothing here.
    pub fn apply(&mut self, envelope: &Envelope) {
        match &envelope.event {
            Event::Player(event) => self.apply_player(event, envelope),
            Event::Pool(PoolEvent::PoolConfigured(configured)) => {
                let id = (envelope.metadata.tenant.clone(), configured.pool_key.clone());
                self.pools.entry(id.clone()).or_default().settings = Some(configured.settings);
                self.changed.insert(id);
            }
            Event::MatchRecord(event) => self.apply_match(event, envelope),
            _ => {}
        }
    }

    pub fn entry(&self, id: EntryId) -> Option<&Entry> {
        self.entries.get(&id)
    }

    /// Everyone who waits or is taken for a match, in no order.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = &Entry> {
        self.entries.values()
    }

    /// The entry of a player who waits or is taken for a match.
    pub fn entry_of(&self, player: SubjectId) -> Option<&Entry> {
        self.entries.get(self.players.get(&player)?)
    }

    pub fn pool(&self, id: &PoolId) -> Option<&PoolLine> {
        self.pools.get(id)
    }

    /// All pools that were ever configured or waited in, by tenant and key.
    pub fn pools(&self) -> impl Iterator<Item = (&PoolId, &PoolLine)> {
        self.pools.iter()
    }

    pub fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    /// The entry as it stands in one of its pools, if it searches there.
    pub fn waiting(&self, id: EntryId, pool: &PoolKey) -> Option<&Waiting> {
        let entry = self.entries.get(&id)?;
        self.pools.get(&(entry.tenant.clone(), pool.clone()))?.line.get(&(entry.queued_at, id))
    }

    /// How many entries search, over all pools; one in several pools counts once.
    pub fn searching(&self) -> usize {
        self.entries.values().filter(|entry| entry.taken_for.is_none()).count()
    }

    /// The pools that changed so that somebody may meet there, since this was last asked.
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
                    begins_at: envelope.revision,
                    eligible_at: at,
                    round: 0,
                    turn: envelope.id,
                    correlation_id: envelope.metadata.correlation_id,
                    taken_for: None,
                };
                self.line_up(&entry);
                self.players.insert(queued.subject_id, queued.entry_id);
                self.entries.insert(queued.entry_id, entry);
            }
            PlayerEvent::QueueEntryCancelled(event) => self.remove(event.entry_id),
            PlayerEvent::QueueEntryExpired(event) => self.remove(event.entry_id),
            PlayerEvent::QueueEntryMatched(event) => self.take(event.entry_id, event.match_id),
            PlayerEvent::PlayerEngaged(event) => {
                if let Some(entry) = event.left_entry {
                    self.take(entry, event.match_id);
                }
            }
            PlayerEvent::QueueEntryReleased(event) => {
                if let Some(entry) = self.entries.get_mut(&event.entry_id) {
                    let was_taken = entry.taken_for.take().is_some();
                    entry.round += 1;
                    entry.eligible_at = entry.queued_at.max(event.eligible_at);
                    entry.turn = envelope.id;
                    let entry = entry.clone();
                    if was_taken {
                        self.count_placing(&entry, -1);
                    }
                    self.line_up(&entry);
                }
            }
            PlayerEvent::PlayerFreed(event) if event.reason != FreedReason::Abandoned => {
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
            PlayerEvent::PlayerFreed(_) | PlayerEvent::PlayerRated(_) => {}
        }
    }

    fn apply_match(&mut self, event: &MatchRecordEvent, envelope: &Envelope) {
        let id = envelope.stream.match_record_id();
        match event {
            MatchRecordEvent::MatchProposed(proposed) => {
                let tenant = envelope.metadata.tenant.clone();
                self.proposed.insert(proposed.match_id, (tenant, proposed.clone()));
            }
            MatchRecordEvent::MatchConfirmed(_) => {
                if let Some((tenant, proposed)) = id.and_then(|id| self.proposed.remove(&id)) {
                    self.confirm(tenant, &proposed, envelope.metadata.occurred_at);
                }
            }
            MatchRecordEvent::MatchAbandoned(_) => {
                id.and_then(|id| self.proposed.remove(&id));
            }
            MatchRecordEvent::MatchResultReported(_) | MatchRecordEvent::MatchExpired(_) => {}
        }
    }

    /// Those who play do not wait, and can never be released any more.
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

    /// With which entry a player is in a match, if with any.
    fn entry_in(&self, player: &MatchPlayer) -> Option<EntryId> {
        player.entry_id.or_else(|| self.players.get(&player.subject_id).copied())
    }

    fn line_up(&mut self, entry: &Entry) {
        for pool in &entry.queued.pools {
            let waiting = Waiting {
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
                round: entry.round,
                turn: entry.turn,
            };
            let id = (entry.tenant.clone(), pool.pool_key.clone());
            self.pools.entry(id.clone()).or_default().line.insert(waiting);
            self.changed.insert(id);
        }
    }

    fn step_out(&mut self, entry: &Entry) {
        let place = (entry.queued_at, entry.queued.entry_id);
        for pool in &entry.queued.pools {
            if let Some(pool) = self.pools.get_mut(&(entry.tenant.clone(), pool.pool_key.clone())) {
                pool.line.remove(&place);
            }
        }
    }

    fn take(&mut self, id: EntryId, match_id: MatchRecordId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let was_free = entry.taken_for.replace(match_id).is_none();
        let entry = entry.clone();
        if was_free {
            self.step_out(&entry);
            self.count_placing(&entry, 1);
        }
    }

    fn remove(&mut self, id: EntryId) {
        let Some(entry) = self.entries.remove(&id) else { return };
        if self.players.get(&entry.queued.subject_id) == Some(&id) {
            self.players.remove(&entry.queued.subject_id);
        }
        if entry.taken_for.is_some() {
            self.count_placing(&entry, -1);
        } else {
            self.step_out(&entry);
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

/// The id of the match of two entries: whoever finds the two in the same rounds finds the same match.
fn match_id(pool_key: &PoolKey, pair: &Pair<'_>) -> MatchRecordId {
    let mut turns = [pair.seed.turn, pair.partner.turn];
    turns.sort_unstable();
    let mut name = turns[1].0.as_bytes().to_vec();
    name.extend_from_slice(pool_key.as_str().as_bytes());
    MatchRecordId(Uuid::new_v5(&turns[0].0, &name))
}

/// The match of a pair. Who was the first less often moves first; between equals the match id draws.
pub fn propose(pool_key: &PoolKey, pair: &Pair<'_>) -> MatchProposed {
    let match_id = match_id(pool_key, pair);
    let mut players = [pair.seed, pair.partner];
    // The draw must not depend on who picked whom.
    players.sort_by_key(|player| player.entry_id);
    if match_id.0.as_u128() & 1 == 1 {
        players.swap(0, 1);
    }
    players.sort_by_key(|player| player.side_balance);
    let [first, second] = players.map(|waiting| MatchPlayer {
        subject_id: waiting.player,
        entry_id: Some(waiting.entry_id),
        queued_at: Some(waiting.queued_at),
        round: waiting.round,
        rating: waiting.rating,
        skill: waiting.skill,
    });
    MatchProposed { match_id, pool_key: pool_key.clone(), challenge_id: None, first, second }
}

/// The player on a side of a match.
pub fn on_side(proposed: &MatchProposed, side: Side) -> &MatchPlayer {
    match side {
        Side::First => &proposed.first,
        Side::Second => &proposed.second,
    }
}
