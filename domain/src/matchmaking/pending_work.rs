//! Pending work: unfinished sagas left by a crash, players still reserved by matches that are over, and
//! entries, challenges and matches that expire.
//!
//! A fold of the events of players, matches and challenges. It names the streams that need attention, never
//! the action: the streams themselves decide it, so a saga that was finished elsewhere in the meantime costs
//! only a check.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use event_schemas::challenge::ChallengeEvent;
use event_schemas::envelope::{Envelope, Event};
use event_schemas::game_match::GameMatchEvent;
use event_schemas::ids::{ChallengeId, CorrelationId, EntryId, EventId, GameMatchId, SubjectId, Tenant};
use event_schemas::player::{PlayerEvent, ReleaseReason};
use event_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::challenge;

/// The event that made attention necessary, and its causal chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trigger {
    pub tenant: Tenant,
    pub event_id: EventId,
    pub correlation_id: CorrelationId,
    /// The time at which the log accepted it.
    pub since: Timestamp,
}

impl Trigger {
    fn of(envelope: &Envelope) -> Self {
        Self {
            tenant: envelope.metadata.tenant.clone(),
            event_id: envelope.id,
            correlation_id: envelope.metadata.correlation_id,
            since: envelope.recorded_at,
        }
    }
}

/// A saga to be finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum UnfinishedSaga {
    /// Proposed and not decided, or over while players are still reserved for it.
    Match(GameMatchId),
    /// Its game is being created, or created but not recorded, or players are still reserved although it
    /// failed.
    Challenge(ChallengeId),
}

/// An entry, challenge or match that expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Expiring {
    Entry(SubjectId, EntryId),
    Challenge(ChallengeId),
    /// A match without a result.
    Match(GameMatchId),
}

/// The stage of a saga.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum SagaStage {
    /// Not decided yet.
    Open,
    /// Nothing to do for now: confirmed, or pending.
    Settled,
    /// Over; its reserved players are to be released.
    Over,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct TrackedSaga {
    stage: SagaStage,
    reserved: BTreeSet<SubjectId>,
    trigger: Trigger,
}

/// All pending work.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PendingSagas {
    #[serde(with = "crate::map_as_list")]
    tracked: HashMap<UnfinishedSaga, TrackedSaga>,
    unfinished: BTreeSet<UnfinishedSaga>,
    #[serde(with = "crate::map_as_list")]
    due: BTreeMap<(Timestamp, Expiring), Trigger>,
    #[serde(with = "crate::map_as_list")]
    due_at: HashMap<Expiring, Timestamp>,
    /// The number of scheduled deadlines that belong to entries.
    searching: usize,
    /// The entry of each player who waits or is reserved for a match.
    entries: HashMap<SubjectId, EntryId>,
    /// The challenge that led to each match, while players may be reserved for it.
    challenges: HashMap<GameMatchId, ChallengeId>,
}

impl PendingSagas {
    /// Applies the next event of any stream, in position order; ignores other categories.
    pub fn apply(&mut self, envelope: &Envelope) {
        match &envelope.event {
            Event::Player(event) => self.apply_player(event, envelope),
            Event::GameMatch(event) => self.apply_match(event, envelope),
            Event::Challenge(event) => self.apply_challenge(event, envelope),
            _ => {}
        }
    }

    /// The unfinished sagas, with their triggers.
    pub fn unfinished(&self) -> impl Iterator<Item = (UnfinishedSaga, &Trigger)> {
        self.unfinished.iter().filter_map(|id| Some((*id, &self.tracked.get(id)?.trigger)))
    }

    /// The expired items, the earliest first, with their triggers.
    pub fn due(&self, now: Timestamp) -> impl Iterator<Item = (Expiring, &Trigger)> {
        self.due.iter().take_while(move |((at, _), _)| *at <= now).map(|((_, due), trigger)| (*due, trigger))
    }

    /// The next deadline.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.due.keys().next().map(|(at, _)| *at)
    }

    /// The number of deadlines.
    pub fn deadline_count(&self) -> usize {
        self.due.len()
    }

    /// The number of entries that search, over all pools and tenants.
    pub fn searching(&self) -> usize {
        self.searching
    }

    fn apply_player(&mut self, event: &PlayerEvent, envelope: &Envelope) {
        match event {
            PlayerEvent::PlayerQueued(event) => {
                self.entries.insert(event.subject_id, event.entry_id);
                let due = Expiring::Entry(event.subject_id, event.entry_id);
                self.schedule(due, event.expires_at, Trigger::of(envelope));
            }
            PlayerEvent::QueueEntryCancelled(event) => {
                self.remove_entry(event.subject_id);
            }
            PlayerEvent::QueueEntryExpired(event) => {
                self.remove_entry(event.subject_id);
            }
            PlayerEvent::QueueEntryMatched(event) => {
                self.suspend(Expiring::Entry(event.subject_id, event.entry_id));
                self.reserve(UnfinishedSaga::Match(event.match_id), event.subject_id, envelope);
            }
            PlayerEvent::PlayerReserved(event) => {
                if let Some(entry) = event.left_entry {
                    self.suspend(Expiring::Entry(event.subject_id, entry));
                }
                self.challenges.insert(event.match_id, event.challenge_id);
                self.reserve(UnfinishedSaga::Challenge(event.challenge_id), event.subject_id, envelope);
            }
            PlayerEvent::QueueEntryReleased(event) => {
                self.resume(Expiring::Entry(event.subject_id, event.entry_id), envelope);
                self.release(event.match_id, event.subject_id);
            }
            PlayerEvent::PlayerReleased(event) => {
                if event.reason != ReleaseReason::Abandoned {
                    self.remove_entry(event.subject_id);
                }
                self.release(event.match_id, event.subject_id);
            }
            PlayerEvent::PlayerRated(_) | PlayerEvent::PlayerBlocked(_) | PlayerEvent::PlayerUnblocked(_) => {
            }
        }
    }

    fn apply_match(&mut self, event: &GameMatchEvent, envelope: &Envelope) {
        let Some(id) = envelope.stream.game_match_id() else { return };
        let this = UnfinishedSaga::Match(id);
        match event {
            GameMatchEvent::MatchProposed(_) => self.set_stage(this, SagaStage::Open, envelope),
            GameMatchEvent::MatchConfirmed(confirmed) => {
                self.schedule(Expiring::Match(id), confirmed.result_due_at, Trigger::of(envelope));
                self.set_stage(this, SagaStage::Settled, envelope);
                // The players reserved for the challenge are now reserved for the match.
                if let Some(challenge) = self.challenges.remove(&id)
                    && let Some(tracked) = self.tracked.remove(&UnfinishedSaga::Challenge(challenge))
                {
                    self.unfinished.remove(&UnfinishedSaga::Challenge(challenge));
                    tracked.reserved.into_iter().for_each(|player| self.reserve(this, player, envelope));
                }
            }
            GameMatchEvent::MatchAbandoned(_) => self.set_stage(this, SagaStage::Over, envelope),
            GameMatchEvent::MatchResultReported(_) | GameMatchEvent::MatchExpired(_) => {
                self.cancel(Expiring::Match(id));
                self.set_stage(this, SagaStage::Over, envelope);
            }
        }
    }

    fn apply_challenge(&mut self, event: &ChallengeEvent, envelope: &Envelope) {
        let Some(id) = envelope.stream.challenge_id() else { return };
        let this = UnfinishedSaga::Challenge(id);
        match event {
            ChallengeEvent::ChallengeCreated(created) => {
                self.schedule(Expiring::Challenge(id), created.expires_at, Trigger::of(envelope));
            }
            ChallengeEvent::ChallengePlacementStarted(placing) => {
                self.suspend(Expiring::Challenge(id));
                self.challenges.insert(placing.match_id, id);
                self.set_stage(this, SagaStage::Open, envelope);
            }
            ChallengeEvent::ChallengePlacementFailed(_) => {
                self.resume(Expiring::Challenge(id), envelope);
                self.set_stage(this, SagaStage::Over, envelope);
            }
            // The match is still to be recorded, which finishes the challenge's saga.
            ChallengeEvent::ChallengeAccepted(_) => {
                self.cancel(Expiring::Challenge(id));
                self.set_stage(this, SagaStage::Open, envelope);
            }
            ChallengeEvent::ChallengeDeclined(_)
            | ChallengeEvent::ChallengeCancelled(_)
            | ChallengeEvent::ChallengeExpired(_) => {
                self.cancel(Expiring::Challenge(id));
                self.set_stage(this, SagaStage::Over, envelope);
            }
        }
    }

    fn set_stage(&mut self, id: UnfinishedSaga, stage: SagaStage, envelope: &Envelope) {
        let trigger = Trigger::of(envelope);
        let tracked = self.tracked.entry(id).or_insert_with(|| TrackedSaga {
            stage,
            reserved: BTreeSet::new(),
            trigger: trigger.clone(),
        });
        tracked.stage = stage;
        tracked.trigger = trigger;
        self.update_unfinished(id);
    }

    /// A reservation for an unknown saga belongs to one that is over.
    fn reserve(&mut self, id: UnfinishedSaga, player: SubjectId, envelope: &Envelope) {
        let tracked = self.tracked.entry(id).or_insert_with(|| TrackedSaga {
            stage: SagaStage::Over,
            reserved: BTreeSet::new(),
            trigger: Trigger::of(envelope),
        });
        tracked.reserved.insert(player);
        if tracked.stage == SagaStage::Over {
            tracked.trigger = Trigger::of(envelope);
        }
        self.update_unfinished(id);
    }

    fn release(&mut self, id: GameMatchId, player: SubjectId) {
        let challenge = self.challenges.get(&id).copied().map(UnfinishedSaga::Challenge);
        for id in challenge.into_iter().chain([UnfinishedSaga::Match(id)]) {
            if let Some(tracked) = self.tracked.get_mut(&id) {
                tracked.reserved.remove(&player);
                self.update_unfinished(id);
            }
        }
    }

    fn update_unfinished(&mut self, id: UnfinishedSaga) {
        let Some(tracked) = self.tracked.get(&id) else { return };
        match (tracked.stage, tracked.reserved.is_empty()) {
            (SagaStage::Open, _) | (SagaStage::Over, false) => {
                self.unfinished.insert(id);
            }
            (SagaStage::Settled, _) => {
                self.unfinished.remove(&id);
            }
            (SagaStage::Over, true) => {
                self.unfinished.remove(&id);
                self.tracked.remove(&id);
                if let UnfinishedSaga::Challenge(challenge) = id {
                    self.challenges.remove(&challenge::match_id(challenge));
                }
            }
        }
    }

    fn remove_entry(&mut self, player: SubjectId) {
        if let Some(entry) = self.entries.remove(&player) {
            self.cancel(Expiring::Entry(player, entry));
        }
    }

    fn schedule(&mut self, due: Expiring, at: Timestamp, trigger: Trigger) {
        self.cancel(due);
        self.due_at.insert(due, at);
        self.set_deadline(due, at, trigger);
    }

    /// Suspends the deadline; its time is remembered.
    fn suspend(&mut self, due: Expiring) {
        if let Some(at) = self.due_at.get(&due).copied() {
            self.clear_deadline(due, at);
        }
    }

    fn resume(&mut self, due: Expiring, envelope: &Envelope) {
        if let Some(at) = self.due_at.get(&due).copied() {
            self.set_deadline(due, at, Trigger::of(envelope));
        }
    }

    fn cancel(&mut self, due: Expiring) {
        if let Some(at) = self.due_at.remove(&due) {
            self.clear_deadline(due, at);
        }
    }

    fn set_deadline(&mut self, due: Expiring, at: Timestamp, trigger: Trigger) {
        let is_new = self.due.insert((at, due), trigger).is_none();
        if is_new && matches!(due, Expiring::Entry(..)) {
            self.searching += 1;
        }
    }

    fn clear_deadline(&mut self, due: Expiring, at: Timestamp) {
        let was_there = self.due.remove(&(at, due)).is_some();
        if was_there && matches!(due, Expiring::Entry(..)) {
            self.searching -= 1;
        }
    }
}
