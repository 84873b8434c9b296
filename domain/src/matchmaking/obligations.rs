//! What is begun and not finished: proposals left by a crash, players held by matches that are over, and what falls due.
//!
//! A fold of the events of players, matches and challenges. It says where somebody must look, never what is to be done:
//! that is decided by the streams themselves, so an obligation that another has met meanwhile costs a look.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use event_schemas::challenge::ChallengeEvent;
use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{ChallengeId, CorrelationId, EntryId, EventId, MatchRecordId, SubjectId, Tenant};
use event_schemas::match_record::MatchRecordEvent;
use event_schemas::player::{FreedReason, PlayerEvent};
use event_schemas::time::Timestamp;

use crate::challenge;

/// The event that made it necessary to look, and the chain of causes that it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    pub tenant: Tenant,
    pub event_id: EventId,
    pub correlation_id: CorrelationId,
    /// When the log accepted it.
    pub since: Timestamp,
}

impl Reason {
    fn of(envelope: &Envelope) -> Self {
        Self {
            tenant: envelope.metadata.tenant.clone(),
            event_id: envelope.id,
            correlation_id: envelope.metadata.correlation_id,
            since: envelope.recorded_at,
        }
    }
}

/// A thing that somebody must bring to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unfinished {
    /// Proposed and not decided, or over while it still holds players.
    Match(MatchRecordId),
    /// Its game is being made, or is made and not recorded, or it holds players for nothing.
    Challenge(ChallengeId),
}

/// A thing that ends by itself at an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Due {
    Entry(SubjectId, EntryId),
    Challenge(ChallengeId),
    /// A match without a result.
    Match(MatchRecordId),
}

/// How far a match, or a challenge, is as far as obligations go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Somebody has to decide it.
    Open,
    /// It is as it is to be for now: confirmed, or pending.
    Settled,
    /// Whoever it holds is to be let go.
    Over,
}

#[derive(Clone, Debug, PartialEq)]
struct Tracked {
    stage: Stage,
    held: BTreeSet<SubjectId>,
    reason: Reason,
}

/// All that is left to do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Obligations {
    tracked: HashMap<Unfinished, Tracked>,
    unfinished: BTreeSet<Unfinished>,
    due: BTreeMap<(Timestamp, Due), Reason>,
    due_at: HashMap<Due, Timestamp>,
    /// How many of those that fall due are entries.
    searching: usize,
    /// The entry of each player who waits or is taken for a match.
    entries: HashMap<SubjectId, EntryId>,
    /// The challenge of each match that one led to, while somebody may be held by it.
    challenges: HashMap<MatchRecordId, ChallengeId>,
}

impl Obligations {
    /// Takes in the next event of any stream, in position order; those of other categories say nothing here.
    pub fn apply(&mut self, envelope: &Envelope) {
        match &envelope.event {
            Event::Player(event) => self.apply_player(event, envelope),
            Event::MatchRecord(event) => self.apply_match(event, envelope),
            Event::Challenge(event) => self.apply_challenge(event, envelope),
            _ => {}
        }
    }

    /// What somebody must bring to its end, and why.
    pub fn unfinished(&self) -> impl Iterator<Item = (Unfinished, &Reason)> {
        self.unfinished.iter().filter_map(|id| Some((*id, &self.tracked.get(id)?.reason)))
    }

    /// What has fallen due, the earliest first, and why it is waited for.
    pub fn due(&self, now: Timestamp) -> impl Iterator<Item = (Due, &Reason)> {
        self.due.iter().take_while(move |((at, _), _)| *at <= now).map(|((_, due), reason)| (*due, reason))
    }

    /// When the next thing falls due.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.due.keys().next().map(|(at, _)| *at)
    }

    /// How many instants are waited for.
    pub fn waiting(&self) -> usize {
        self.due.len()
    }

    /// How many entries search, over all pools and tenants.
    pub fn searching(&self) -> usize {
        self.searching
    }

    fn apply_player(&mut self, event: &PlayerEvent, envelope: &Envelope) {
        match event {
            PlayerEvent::PlayerQueued(event) => {
                self.entries.insert(event.subject_id, event.entry_id);
                let due = Due::Entry(event.subject_id, event.entry_id);
                self.wait_for(due, event.expires_at, Reason::of(envelope));
            }
            PlayerEvent::QueueEntryCancelled(event) => {
                self.forget_entry(event.subject_id);
            }
            PlayerEvent::QueueEntryExpired(event) => {
                self.forget_entry(event.subject_id);
            }
            PlayerEvent::QueueEntryMatched(event) => {
                self.suspend(Due::Entry(event.subject_id, event.entry_id));
                self.hold(Unfinished::Match(event.match_id), event.subject_id, envelope);
            }
            PlayerEvent::PlayerEngaged(event) => {
                if let Some(entry) = event.left_entry {
                    self.suspend(Due::Entry(event.subject_id, entry));
                }
                self.challenges.insert(event.match_id, event.challenge_id);
                self.hold(Unfinished::Challenge(event.challenge_id), event.subject_id, envelope);
            }
            PlayerEvent::QueueEntryReleased(event) => {
                self.resume(Due::Entry(event.subject_id, event.entry_id), envelope);
                self.let_go(event.match_id, event.subject_id);
            }
            PlayerEvent::PlayerFreed(event) => {
                if event.reason != FreedReason::Abandoned {
                    self.forget_entry(event.subject_id);
                }
                self.let_go(event.match_id, event.subject_id);
            }
            PlayerEvent::PlayerRated(_) | PlayerEvent::PlayerBlocked(_) | PlayerEvent::PlayerUnblocked(_) => {
            }
        }
    }

    fn apply_match(&mut self, event: &MatchRecordEvent, envelope: &Envelope) {
        let Some(id) = envelope.stream.match_record_id() else { return };
        let this = Unfinished::Match(id);
        match event {
            MatchRecordEvent::MatchProposed(_) => self.turn(this, Stage::Open, envelope),
            MatchRecordEvent::MatchConfirmed(confirmed) => {
                self.wait_for(Due::Match(id), confirmed.result_due_at, Reason::of(envelope));
                self.turn(this, Stage::Settled, envelope);
                // Whoever the challenge held is now the match's.
                if let Some(challenge) = self.challenges.remove(&id)
                    && let Some(tracked) = self.tracked.remove(&Unfinished::Challenge(challenge))
                {
                    self.unfinished.remove(&Unfinished::Challenge(challenge));
                    tracked.held.into_iter().for_each(|player| self.hold(this, player, envelope));
                }
            }
            MatchRecordEvent::MatchAbandoned(_) => self.turn(this, Stage::Over, envelope),
            MatchRecordEvent::MatchResultReported(_) | MatchRecordEvent::MatchExpired(_) => {
                self.forget_due(Due::Match(id));
                self.turn(this, Stage::Over, envelope);
            }
        }
    }

    fn apply_challenge(&mut self, event: &ChallengeEvent, envelope: &Envelope) {
        let Some(id) = envelope.stream.challenge_id() else { return };
        let this = Unfinished::Challenge(id);
        match event {
            ChallengeEvent::ChallengeCreated(created) => {
                self.wait_for(Due::Challenge(id), created.expires_at, Reason::of(envelope));
            }
            ChallengeEvent::ChallengePlacing(placing) => {
                self.suspend(Due::Challenge(id));
                self.challenges.insert(placing.match_id, id);
                self.turn(this, Stage::Open, envelope);
            }
            ChallengeEvent::ChallengePlacingFailed(_) => {
                self.resume(Due::Challenge(id), envelope);
                self.turn(this, Stage::Over, envelope);
            }
            // The match is still to be recorded, which is what ends the challenge's obligations.
            ChallengeEvent::ChallengeAccepted(_) => {
                self.forget_due(Due::Challenge(id));
                self.turn(this, Stage::Open, envelope);
            }
            ChallengeEvent::ChallengeDeclined(_)
            | ChallengeEvent::ChallengeCancelled(_)
            | ChallengeEvent::ChallengeExpired(_) => {
                self.forget_due(Due::Challenge(id));
                self.turn(this, Stage::Over, envelope);
            }
        }
    }

    fn turn(&mut self, id: Unfinished, stage: Stage, envelope: &Envelope) {
        let reason = Reason::of(envelope);
        let tracked = self.tracked.entry(id).or_insert_with(|| Tracked {
            stage,
            held: BTreeSet::new(),
            reason: reason.clone(),
        });
        tracked.stage = stage;
        tracked.reason = reason;
        self.assess(id);
    }

    /// A player whom something holds that nobody knows any more is held by something that is over.
    fn hold(&mut self, id: Unfinished, player: SubjectId, envelope: &Envelope) {
        let tracked = self.tracked.entry(id).or_insert_with(|| Tracked {
            stage: Stage::Over,
            held: BTreeSet::new(),
            reason: Reason::of(envelope),
        });
        tracked.held.insert(player);
        if tracked.stage == Stage::Over {
            tracked.reason = Reason::of(envelope);
        }
        self.assess(id);
    }

    fn let_go(&mut self, id: MatchRecordId, player: SubjectId) {
        let challenge = self.challenges.get(&id).copied().map(Unfinished::Challenge);
        for id in challenge.into_iter().chain([Unfinished::Match(id)]) {
            if let Some(tracked) = self.tracked.get_mut(&id) {
                tracked.held.remove(&player);
                self.assess(id);
            }
        }
    }

    fn assess(&mut self, id: Unfinished) {
        let Some(tracked) = self.tracked.get(&id) else { return };
        match (tracked.stage, tracked.held.is_empty()) {
            (Stage::Open, _) | (Stage::Over, false) => {
                self.unfinished.insert(id);
            }
            (Stage::Settled, _) => {
                self.unfinished.remove(&id);
            }
            (Stage::Over, true) => {
                self.unfinished.remove(&id);
                self.tracked.remove(&id);
                if let Unfinished::Challenge(challenge) = id {
                    self.challenges.remove(&challenge::match_id(challenge));
                }
            }
        }
    }

    fn forget_entry(&mut self, player: SubjectId) {
        if let Some(entry) = self.entries.remove(&player) {
            self.forget_due(Due::Entry(player, entry));
        }
    }

    fn wait_for(&mut self, due: Due, at: Timestamp, reason: Reason) {
        self.forget_due(due);
        self.due_at.insert(due, at);
        self.arm(due, at, reason);
    }

    /// It does not fall due for now; its instant is remembered.
    fn suspend(&mut self, due: Due) {
        if let Some(at) = self.due_at.get(&due).copied() {
            self.disarm(due, at);
        }
    }

    fn resume(&mut self, due: Due, envelope: &Envelope) {
        if let Some(at) = self.due_at.get(&due).copied() {
            self.arm(due, at, Reason::of(envelope));
        }
    }

    fn forget_due(&mut self, due: Due) {
        if let Some(at) = self.due_at.remove(&due) {
            self.disarm(due, at);
        }
    }

    fn arm(&mut self, due: Due, at: Timestamp, reason: Reason) {
        let is_new = self.due.insert((at, due), reason).is_none();
        if is_new && matches!(due, Due::Entry(..)) {
            self.searching += 1;
        }
    }

    fn disarm(&mut self, due: Due, at: Timestamp) {
        let was_there = self.due.remove(&(at, due)).is_some();
        if was_there && matches!(due, Due::Entry(..)) {
            self.searching -= 1;
        }
    }
}
