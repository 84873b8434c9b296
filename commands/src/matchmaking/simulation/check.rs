//! The invariants of every history.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use event_schemas::challenge::ChallengeEvent;
use event_schemas::envelope::{Envelope, Event};
use event_schemas::game_match::{GameMatchEvent, GameResult};
use event_schemas::ids::{EntryId, GameId, GameMatchId, SubjectId};
use event_schemas::player::{PlayerEvent, ReleaseReason};

/// The state of a player according to the log.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum PlayerState {
    #[default]
    Free,
    Waiting(EntryId),
    Reserved(GameMatchId),
}

/// Checks a history event by event.
struct HistoryChecker<'a> {
    seed: u64,
    games: &'a HashMap<GameMatchId, GameId>,
    states: HashMap<SubjectId, PlayerState>,
    playing: HashMap<SubjectId, GameMatchId>,
    pairs: HashMap<GameMatchId, [SubjectId; 2]>,
    results: BTreeMap<GameMatchId, GameResult>,
    rated: Vec<(GameMatchId, SubjectId)>,
    entries: BTreeSet<EntryId>,
    figures: Figures,
}

/// Checks a whole history, at whose end no player is active.
pub(crate) fn check(seed: u64, events: &[Envelope], games: &HashMap<GameMatchId, GameId>) -> Figures {
    let mut checker = HistoryChecker {
        seed,
        games,
        states: HashMap::new(),
        playing: HashMap::new(),
        pairs: HashMap::new(),
        results: BTreeMap::new(),
        rated: Vec::new(),
        entries: BTreeSet::new(),
        figures: Figures::default(),
    };
    for envelope in events {
        match &envelope.event {
            Event::Player(event) => checker.player(event, envelope),
            Event::GameMatch(event) => checker.game_match(event, envelope),
            Event::Challenge(ChallengeEvent::ChallengeAccepted(_)) => checker.figures.accepted += 1,
            _ => {}
        }
    }
    checker.end()
}

impl HistoryChecker<'_> {
    fn context(&self, envelope: &Envelope) -> String {
        format!("seed {}, position {}: {:?}", self.seed, envelope.position, envelope.event)
    }

    /// Checks the state of a player, and changes it.
    fn transition(&mut self, subject: SubjectId, from: PlayerState, to: PlayerState, envelope: &Envelope) {
        let state = self.states.insert(subject, to).unwrap_or_default();
        assert_eq!(state, from, "{}", self.context(envelope));
    }

    fn player(&mut self, event: &PlayerEvent, envelope: &Envelope) {
        match event {
            PlayerEvent::PlayerQueued(event) => {
                let entry = event.entry_id;
                self.transition(event.subject_id, PlayerState::Free, PlayerState::Waiting(entry), envelope);
                assert!(self.entries.insert(entry), "an entry was created twice: {}", self.context(envelope));
            }
            PlayerEvent::QueueEntryCancelled(event) => {
                self.transition(
                    event.subject_id,
                    PlayerState::Waiting(event.entry_id),
                    PlayerState::Free,
                    envelope,
                );
            }
            PlayerEvent::QueueEntryExpired(event) => {
                self.transition(
                    event.subject_id,
                    PlayerState::Waiting(event.entry_id),
                    PlayerState::Free,
                    envelope,
                );
            }
            PlayerEvent::QueueEntryMatched(event) => {
                let reserved = PlayerState::Reserved(event.match_id);
                self.transition(event.subject_id, PlayerState::Waiting(event.entry_id), reserved, envelope);
            }
            PlayerEvent::PlayerReserved(event) => {
                self.figures.reserved_by_challenge += 1;
                let state = self.states.insert(event.subject_id, PlayerState::Reserved(event.match_id));
                // A later attempt of the same challenge takes over players that an earlier attempt still holds.
                let was_reserved =
                    matches!(state, Some(PlayerState::Reserved(other)) if other != event.match_id);
                assert!(!was_reserved, "reserved while in another match: {}", self.context(envelope));
            }
            PlayerEvent::QueueEntryReleased(event) => {
                self.figures.released += 1;
                let plays = self.playing.contains_key(&event.subject_id);
                assert!(!plays, "a player was released from a running game: {}", self.context(envelope));
                self.states.insert(event.subject_id, PlayerState::Waiting(event.entry_id));
            }
            PlayerEvent::PlayerReleased(event) => {
                let game = self.playing.remove(&event.subject_id);
                let expected = (event.reason != ReleaseReason::Abandoned).then_some(event.match_id);
                assert_eq!(game, expected, "{}", self.context(envelope));
                self.transition(
                    event.subject_id,
                    PlayerState::Reserved(event.match_id),
                    PlayerState::Free,
                    envelope,
                );
            }
            PlayerEvent::PlayerRated(event) => self.rated.push((event.match_id, event.subject_id)),
            _ => {}
        }
    }

    fn game_match(&mut self, event: &GameMatchEvent, envelope: &Envelope) {
        let id = envelope.stream.game_match_id().unwrap();
        match event {
            GameMatchEvent::MatchProposed(event) => {
                let players = [&event.first, &event.second];
                self.pairs.insert(id, players.map(|player| player.subject_id));
                for entry in players.into_iter().filter_map(|player| player.entry_id) {
                    assert!(self.entries.contains(&entry), "{}", self.context(envelope));
                }
            }
            GameMatchEvent::MatchConfirmed(event) => {
                assert_eq!(event.game_id.as_ref(), self.games.get(&id), "{}", self.context(envelope));
                for player in self.pairs[&id] {
                    let state = self.states.get(&player).copied().unwrap_or_default();
                    assert_eq!(
                        state,
                        PlayerState::Reserved(id),
                        "a player was not reserved for the match: {}",
                        self.context(envelope)
                    );
                    let other = self.playing.insert(player, id);
                    assert_eq!(other, None, "two games at once: {}", self.context(envelope));
                }
                self.figures.confirmed += 1;
            }
            GameMatchEvent::MatchAbandoned(_) => self.figures.abandoned += 1,
            GameMatchEvent::MatchResultReported(event) => {
                let earlier = self.results.insert(id, event.result);
                assert_eq!(earlier, None, "a result counted twice: {}", self.context(envelope));
            }
            _ => {}
        }
    }

    fn end(self) -> Figures {
        let Self { seed, playing, states, results, rated, .. } = self;
        assert!(playing.is_empty(), "seed {seed}: games that never ended: {playing:?}");
        let stuck: Vec<_> = states.iter().filter(|(_, state)| **state != PlayerState::Free).collect();
        assert!(stuck.is_empty(), "seed {seed}: players who never became free: {stuck:?}");
        for (id, result) in &results {
            let ratings = rated.iter().filter(|(of, _)| of == id).count();
            let expected = if *result == GameResult::Aborted { 0 } else { 2 };
            assert_eq!(ratings, expected, "seed {seed}: ratings of {id}");
        }
        self.figures
    }
}

/// The counts of what happened: a simulation in which nothing happens proves nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) confirmed: u64,
    pub(crate) abandoned: u64,
    pub(crate) released: u64,
    pub(crate) reserved_by_challenge: u64,
    pub(crate) accepted: u64,
}
