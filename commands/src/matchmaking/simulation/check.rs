//! What must hold of every history.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use event_schemas::challenge::ChallengeEvent;
use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{EntryId, GameId, MatchRecordId, SubjectId};
use event_schemas::match_record::{GameResult, MatchRecordEvent};
use event_schemas::player::{FreedReason, PlayerEvent};

/// Where a player is, as the log tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Place {
    #[default]
    Free,
    Waiting(EntryId),
    Taken(MatchRecordId),
}

/// A history as far as it was looked at, and what must hold of what comes next.
struct Checked<'a> {
    seed: u64,
    games: &'a HashMap<MatchRecordId, GameId>,
    places: HashMap<SubjectId, Place>,
    playing: HashMap<SubjectId, MatchRecordId>,
    pairs: HashMap<MatchRecordId, [SubjectId; 2]>,
    results: BTreeMap<MatchRecordId, GameResult>,
    rated: Vec<(MatchRecordId, SubjectId)>,
    entries: BTreeSet<EntryId>,
    figures: Figures,
}

/// Looks at a whole history, at whose end everybody has come to rest.
pub(crate) fn check(seed: u64, events: &[Envelope], games: &HashMap<MatchRecordId, GameId>) -> Figures {
    let mut checked = Checked {
        seed,
        games,
        places: HashMap::new(),
        playing: HashMap::new(),
        pairs: HashMap::new(),
        results: BTreeMap::new(),
        rated: Vec::new(),
        entries: BTreeSet::new(),
        figures: Figures::default(),
    };
    for envelope in events {
        match &envelope.event {
            Event::Player(event) => checked.player(event, envelope),
            Event::MatchRecord(event) => checked.match_record(event, envelope),
            Event::Challenge(ChallengeEvent::ChallengeAccepted(_)) => checked.figures.accepted += 1,
            _ => {}
        }
    }
    checked.end()
}

impl Checked<'_> {
    fn context(&self, envelope: &Envelope) -> String {
        format!("seed {}, position {}: {:?}", self.seed, envelope.position, envelope.event)
    }

    /// They are where they must be, and go elsewhere.
    fn moves(&mut self, subject: SubjectId, from: Place, to: Place, envelope: &Envelope) {
        let place = self.places.insert(subject, to).unwrap_or_default();
        assert_eq!(place, from, "{}", self.context(envelope));
    }

    fn player(&mut self, event: &PlayerEvent, envelope: &Envelope) {
        match event {
            PlayerEvent::PlayerQueued(event) => {
                let entry = event.entry_id;
                self.moves(event.subject_id, Place::Free, Place::Waiting(entry), envelope);
                assert!(self.entries.insert(entry), "an entry began twice: {}", self.context(envelope));
            }
            PlayerEvent::QueueEntryCancelled(event) => {
                self.moves(event.subject_id, Place::Waiting(event.entry_id), Place::Free, envelope);
            }
            PlayerEvent::QueueEntryExpired(event) => {
                self.moves(event.subject_id, Place::Waiting(event.entry_id), Place::Free, envelope);
            }
            PlayerEvent::QueueEntryMatched(event) => {
                let taken = Place::Taken(event.match_id);
                self.moves(event.subject_id, Place::Waiting(event.entry_id), taken, envelope);
            }
            PlayerEvent::PlayerEngaged(event) => {
                self.figures.engaged += 1;
                let place = self.places.insert(event.subject_id, Place::Taken(event.match_id));
                // A later attempt of the same challenge takes over whom an earlier one had not let go yet.
                let was_taken = matches!(place, Some(Place::Taken(other)) if other != event.match_id);
                assert!(!was_taken, "engaged out of another match: {}", self.context(envelope));
            }
            PlayerEvent::QueueEntryReleased(event) => {
                self.figures.released += 1;
                let plays = self.playing.contains_key(&event.subject_id);
                assert!(!plays, "a player was taken out of a game: {}", self.context(envelope));
                self.places.insert(event.subject_id, Place::Waiting(event.entry_id));
            }
            PlayerEvent::PlayerFreed(event) => {
                let game = self.playing.remove(&event.subject_id);
                let expected = (event.reason != FreedReason::Abandoned).then_some(event.match_id);
                assert_eq!(game, expected, "{}", self.context(envelope));
                self.moves(event.subject_id, Place::Taken(event.match_id), Place::Free, envelope);
            }
            PlayerEvent::PlayerRated(event) => self.rated.push((event.match_id, event.subject_id)),
            _ => {}
        }
    }

    fn match_record(&mut self, event: &MatchRecordEvent, envelope: &Envelope) {
        let id = envelope.stream.match_record_id().unwrap();
        match event {
            MatchRecordEvent::MatchProposed(event) => {
                let players = [&event.first, &event.second];
                self.pairs.insert(id, players.map(|player| player.subject_id));
                for entry in players.into_iter().filter_map(|player| player.entry_id) {
                    assert!(self.entries.contains(&entry), "{}", self.context(envelope));
                }
            }
            MatchRecordEvent::MatchConfirmed(event) => {
                assert_eq!(event.game_id.as_ref(), self.games.get(&id), "{}", self.context(envelope));
                for player in self.pairs[&id] {
                    let place = self.places.get(&player).copied().unwrap_or_default();
                    assert_eq!(
                        place,
                        Place::Taken(id),
                        "who plays was taken for it: {}",
                        self.context(envelope)
                    );
                    let other = self.playing.insert(player, id);
                    assert_eq!(other, None, "two games at once: {}", self.context(envelope));
                }
                self.figures.confirmed += 1;
            }
            MatchRecordEvent::MatchAbandoned(_) => self.figures.abandoned += 1,
            MatchRecordEvent::MatchResultReported(event) => {
                let earlier = self.results.insert(id, event.result);
                assert_eq!(earlier, None, "a result counted twice: {}", self.context(envelope));
            }
            _ => {}
        }
    }

    fn end(self) -> Figures {
        let Self { seed, playing, places, results, rated, .. } = self;
        assert!(playing.is_empty(), "seed {seed}: games that never ended: {playing:?}");
        let stuck: Vec<_> = places.iter().filter(|(_, place)| **place != Place::Free).collect();
        assert!(stuck.is_empty(), "seed {seed}: players who are somewhere for ever: {stuck:?}");
        for (id, result) in &results {
            let ratings = rated.iter().filter(|(of, _)| of == id).count();
            let expected = if *result == GameResult::Aborted { 0 } else { 2 };
            assert_eq!(ratings, expected, "seed {seed}: ratings of {id}");
        }
        self.figures
    }
}

/// What happened at all: a simulation in which nothing happens proves nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) confirmed: u64,
    pub(crate) abandoned: u64,
    pub(crate) released: u64,
    pub(crate) engaged: u64,
    pub(crate) accepted: u64,
}
