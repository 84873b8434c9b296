//! The recorded players of a pool, paired again with other settings.
//!
//! Each entry joins when it joined, and leaves when its player cancelled it, left for another pool or a challenge, or joined again;
//! otherwise it waits until it expires by the other settings. What is assumed: the same players join at the same times, whatever
//! happened to them before, and each match takes place. The pairings are made by the same passes and timers as on the server.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use event_schemas::envelope::{Envelope, Event};
use event_schemas::game_match::{GameMatchEvent, MatchProposed};
use event_schemas::ids::{EntryId, GameMatchId, PoolKey, Position, SubjectId};
use event_schemas::player::{PlayerEvent, PlayerQueued};
use event_schemas::pool::{PoolEvent, PoolSettings};
use event_schemas::time::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{REPLAYED_MAX, Spread, TooLong};
use crate::matchmaking::pass::PairingPass;
use crate::matchmaking::timer::next_pairing;
use crate::matchmaking::{Blocks, QueueKey, WaitingEntry};
use crate::pool;

/// What is assumed about the players.
pub const ASSUMPTION: &str =
    "the same players join at the same times, whatever happened to them before, and each match takes place";

/// What became of the entries of a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "WhatIfPoolOutcomes")]
pub struct PoolOutcomes {
    pub matches: u64,
    /// The number of entries that left without a match: cancelled, or for another pool or a challenge.
    pub left: u64,
    /// The number of entries that expired.
    pub expired: u64,
    /// The number of entries that still wait at the end.
    pub waiting: u64,
    /// The waiting times of matched entries, in seconds; null without a match.
    pub wait_seconds: Option<Spread>,
    /// The rating distances of the matches.
    pub rating_distance: Option<Spread>,
}

/// The entries of a pool as recorded, and with other settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "WhatIfPoolComparison")]
pub struct PoolComparison {
    /// The number of entries that joined.
    pub joined: u64,
    pub recorded: PoolOutcomes,
    pub other: PoolOutcomes,
}

/// What happens in the pool at an instant, whatever its settings are.
#[derive(Clone, Debug)]
enum Happening {
    Joined(Box<WaitingEntry>),
    Left(EntryId),
    Blocked(SubjectId, SubjectId),
    Unblocked(SubjectId, SubjectId),
}

/// How a recorded entry ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Left,
    Expired,
    Matched,
}

/// The fold of the events of a tenant's players, matches and pools, for one pool.
#[derive(Clone, Debug)]
pub struct PoolHistory {
    pool_key: PoolKey,
    /// Entries that join after this position count.
    after: Position,
    /// The settings that were in force last.
    settings: PoolSettings,
    happenings: Vec<(Timestamp, Happening)>,
    entries: HashMap<EntryId, Option<End>>,
    proposed: HashMap<GameMatchId, MatchProposed>,
    recorded: PoolOutcomes,
    waits: Vec<f64>,
    distances: Vec<f64>,
    until: Timestamp,
}

fn waiting_entry(queued: &PlayerQueued, envelope: &Envelope, pool_key: &PoolKey) -> Option<WaitingEntry> {
    let pool = queued.pools.iter().find(|pool| pool.pool_key == *pool_key)?;
    let at = envelope.metadata.occurred_at;
    Some(WaitingEntry {
        entry_id: queued.entry_id,
        player: queued.subject_id,
        queued_at: at,
        eligible_at: at,
        expires_at: queued.expires_at,
        rating: pool.rating,
        skill: pool.skill,
        max_rating_gap: queued.max_rating_gap,
        last_opponent: queued.last_opponent,
        side_balance: pool.side_balance,
        release_count: 0,
        searching_since_event: envelope.id,
    })
}

impl PoolHistory {
    pub fn new(pool_key: PoolKey, after: Position) -> Self {
        Self {
            pool_key,
            after,
            settings: pool::DEFAULTS,
            happenings: Vec::new(),
            entries: HashMap::new(),
            proposed: HashMap::new(),
            recorded: PoolOutcomes::default(),
            waits: Vec::new(),
            distances: Vec::new(),
            until: Timestamp::EPOCH,
        }
    }

    /// The settings that were in force at the end.
    pub fn settings(&self) -> PoolSettings {
        self.settings
    }

    /// Applies the next event of any stream of the tenant; ignores other categories.
    pub fn apply(&mut self, envelope: &Envelope) {
        let at = envelope.metadata.occurred_at;
        self.until = self.until.max(at);
        match &envelope.event {
            Event::Player(event) => self.apply_player(event, envelope),
            Event::Pool(PoolEvent::PoolConfigured(configured)) if configured.pool_key == self.pool_key => {
                self.settings = configured.settings;
            }
            Event::GameMatch(GameMatchEvent::MatchProposed(proposed)) => {
                self.proposed.insert(proposed.match_id, proposed.clone());
            }
            Event::GameMatch(GameMatchEvent::MatchAbandoned(_)) => drop(self.take_proposed(envelope)),
            Event::GameMatch(GameMatchEvent::MatchConfirmed(_)) => {
                if let Some(proposed) = self.take_proposed(envelope) {
                    self.confirm(&proposed, at);
                }
            }
            _ => {}
        }
    }

    fn take_proposed(&mut self, envelope: &Envelope) -> Option<MatchProposed> {
        self.proposed.remove(&envelope.stream.game_match_id()?)
    }

    fn apply_player(&mut self, event: &PlayerEvent, envelope: &Envelope) {
        let at = envelope.metadata.occurred_at;
        match event {
            PlayerEvent::PlayerQueued(queued) if envelope.position > self.after => {
                if let Some(entry) = waiting_entry(queued, envelope, &self.pool_key)
                    && self.entries.len() <= REPLAYED_MAX
                {
                    self.entries.insert(entry.entry_id, None);
                    self.happenings.push((at, Happening::Joined(Box::new(entry))));
                }
            }
            PlayerEvent::QueueEntryCancelled(event) => self.leave(event.entry_id, at),
            PlayerEvent::QueueEntryExpired(event) => drop(self.end(event.entry_id, End::Expired)),
            PlayerEvent::PlayerReserved(event) => {
                if let Some(entry) = event.left_entry {
                    self.leave(entry, at);
                }
            }
            PlayerEvent::PlayerBlocked(event) => {
                self.happenings.push((at, Happening::Blocked(event.subject_id, event.blocked)));
            }
            PlayerEvent::PlayerUnblocked(event) => {
                self.happenings.push((at, Happening::Unblocked(event.subject_id, event.unblocked)));
            }
            _ => {}
        }
    }

    /// The entry, if it has not ended yet.
    fn end(&mut self, entry: EntryId, how: End) -> Option<EntryId> {
        let end = self.entries.get_mut(&entry).filter(|end| end.is_none())?;
        *end = Some(how);
        Some(entry)
    }

    fn leave(&mut self, entry: EntryId, at: Timestamp) {
        if let Some(entry) = self.end(entry, End::Left) {
            self.happenings.push((at, Happening::Left(entry)));
        }
    }

    /// A match that took place, in this pool or another one. Waiting ends when the match is confirmed, as in the statistics of the
    /// server.
    fn confirm(&mut self, proposed: &MatchProposed, at: Timestamp) {
        let players = [&proposed.first, &proposed.second];
        let entries = players.map(|player| player.entry_id);
        if proposed.pool_key != self.pool_key || proposed.challenge_id.is_some() {
            entries.into_iter().flatten().for_each(|entry| self.leave(entry, at));
            return;
        }
        let mut counts = false;
        for (player, entry) in players.iter().zip(entries) {
            if entry.is_some_and(|entry| self.end(entry, End::Matched).is_some()) {
                counts = true;
                self.waits.extend(player.queued_at.map(|queued| at.since(queued).as_secs_f64()));
            }
        }
        if counts {
            self.recorded.matches += 1;
            self.distances.push(proposed.first.rating.distance(proposed.second.rating).into());
        }
    }

    /// Pairs the entries again with these settings, until it is cancelled.
    ///
    /// # Errors
    /// If there are too many.
    pub fn replay(
        self,
        settings: &PoolSettings,
        is_cancelled: impl Fn() -> bool,
    ) -> Result<PoolComparison, TooLong> {
        if self.entries.len() > REPLAYED_MAX {
            return Err(TooLong("entries"));
        }
        let ended = |how: Option<End>| self.entries.values().filter(|end| **end == how).count() as u64;
        let joined = self.entries.len() as u64;
        let recorded = PoolOutcomes {
            left: ended(Some(End::Left)),
            expired: ended(Some(End::Expired)),
            waiting: ended(None),
            wait_seconds: Spread::of(self.waits),
            rating_distance: Spread::of(self.distances),
            ..self.recorded
        };
        let mut happenings = self.happenings;
        // Streams are merged in the order in which the log accepted their events, which is not quite that of their times.
        happenings.sort_by_key(|(at, _)| *at);
        let other = Simulation::new(settings).run(happenings, self.until, is_cancelled);
        Ok(PoolComparison { joined, recorded, other })
    }
}

/// A pool in simulated time.
struct Simulation<'a> {
    settings: &'a PoolSettings,
    queue: BTreeMap<QueueKey, WaitingEntry>,
    keys: HashMap<EntryId, QueueKey>,
    players: HashMap<SubjectId, QueueKey>,
    expiries: BTreeSet<(Timestamp, QueueKey)>,
    blocks: Blocks,
    outcomes: PoolOutcomes,
    waits: Vec<f64>,
    distances: Vec<f64>,
}

impl<'a> Simulation<'a> {
    fn new(settings: &'a PoolSettings) -> Self {
        Self {
            settings,
            queue: BTreeMap::new(),
            keys: HashMap::new(),
            players: HashMap::new(),
            expiries: BTreeSet::new(),
            blocks: Blocks::default(),
            outcomes: PoolOutcomes::default(),
            waits: Vec::new(),
            distances: Vec::new(),
        }
    }

    fn run(
        mut self,
        happenings: Vec<(Timestamp, Happening)>,
        until: Timestamp,
        is_cancelled: impl Fn() -> bool,
    ) -> PoolOutcomes {
        let mut now = Timestamp::EPOCH;
        for (at, happening) in happenings {
            if is_cancelled() {
                break;
            }
            self.advance(now, at, false);
            now = at;
            self.happen(happening);
        }
        self.advance(now, until, true);
        PoolOutcomes {
            waiting: self.queue.len() as u64,
            wait_seconds: Spread::of(self.waits),
            rating_distance: Spread::of(self.distances),
            ..self.outcomes
        }
    }

    /// Makes all pairings from one instant to another, and those of the last instant if nothing else happens at it.
    fn advance(&mut self, mut now: Timestamp, until: Timestamp, inclusive: bool) {
        loop {
            self.expire(now);
            let due = next_pairing(self.queue.values(), self.settings, &self.blocks, now);
            let Some(due) = due.map(|due| due.max(now)) else { break };
            if due > until || (due == until && !inclusive) {
                break;
            }
            now = due;
            self.expire(now);
            self.pair(now);
        }
        self.expire(until);
    }

    fn pair(&mut self, now: Timestamp) {
        let pass = PairingPass::new(self.queue.values(), self.settings, &self.blocks, now);
        let pairs: Vec<_> = pass.finish().iter().map(|pair| [pair.first.key(), pair.second.key()]).collect();
        for pair in pairs {
            let [Some(first), Some(second)] = pair.map(|key| self.remove(&key)) else { continue };
            self.outcomes.matches += 1;
            self.waits.extend([&first, &second].map(|entry| now.since(entry.queued_at).as_secs_f64()));
            self.distances.push(first.rating.distance(second.rating).into());
        }
    }

    fn expire(&mut self, now: Timestamp) {
        while let Some((_, key)) = self.expiries.first().filter(|(at, _)| *at <= now).copied() {
            self.remove(&key);
            self.outcomes.expired += 1;
        }
    }

    fn remove(&mut self, key: &QueueKey) -> Option<WaitingEntry> {
        let entry = self.queue.remove(key)?;
        self.expiries.remove(&(entry.expires_at, *key));
        self.keys.remove(&entry.entry_id);
        if self.players.get(&entry.player) == Some(key) {
            self.players.remove(&entry.player);
        }
        Some(entry)
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Joined(mut entry) => {
                // An entry of the player that is matched in the log, and waits here.
                if let Some(earlier) = self.players.get(&entry.player).copied() {
                    self.remove(&earlier);
                    self.outcomes.left += 1;
                }
                let term = Duration::from_secs(self.settings.entry_expires_after_seconds.into());
                entry.expires_at = entry.queued_at.after(term);
                let key = entry.key();
                self.keys.insert(entry.entry_id, key);
                self.players.insert(entry.player, key);
                self.expiries.insert((entry.expires_at, key));
                self.queue.insert(key, *entry);
            }
            Happening::Left(entry) => {
                if let Some(key) = self.keys.get(&entry).copied() {
                    self.remove(&key);
                    self.outcomes.left += 1;
                }
            }
            Happening::Blocked(by, other) => self.blocks.add(by, other),
            Happening::Unblocked(by, other) => self.blocks.remove(by, other),
        }
    }
}

#[cfg(test)]
mod tests;
