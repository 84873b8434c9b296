//! What the log says of players and matches, by plain bookkeeping that shares no code with the server.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Where a player is.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Place {
    #[default]
    Free,
    Searching(String),
    /// In a match, with the entry that they waited in.
    Taken(String, String),
}

/// All that has happened; to take in an event that cannot follow on what was before fails.
#[derive(Debug, Default)]
pub(super) struct History {
    places: BTreeMap<String, Place>,
    /// The two players of each match that was proposed.
    proposed: BTreeMap<String, [String; 2]>,
    pub(super) abandoned: BTreeSet<String>,
    /// The game of each match that has one.
    pub(super) games: BTreeMap<String, String>,
    pub(super) queued: BTreeSet<String>,
    pub(super) cancelled: BTreeSet<String>,
    pub(super) released: usize,
}

impl History {
    pub(super) fn of(events: &[Value]) -> Self {
        let mut history = Self::default();
        events.iter().for_each(|event| history.take_in(event));
        history
    }

    pub(super) fn places(&self) -> impl Iterator<Item = &Place> {
        self.places.values()
    }

    fn take_in(&mut self, event: &Value) {
        let data = &event["data"];
        let text = |member: &str| data[member].as_str().unwrap_or_default().to_owned();
        let in_match = || event["stream"].as_str().unwrap().trim_start_matches("match_record-").to_owned();
        let (entry, of_match) = (text("entry_id"), text("match_id"));
        let searching = Place::Searching(entry.clone());
        match event["type"].as_str().unwrap() {
            "PlayerQueued" => {
                assert!(self.queued.insert(entry), "an entry is made once: {event}");
                self.moves(event, |place| *place == Place::Free, searching);
            }
            "QueueEntryCancelled" => {
                self.cancelled.insert(entry);
                self.moves(event, |place| *place == searching, Place::Free);
            }
            "QueueEntryMatched" => {
                self.moves(event, |place| *place == searching, Place::Taken(of_match, entry));
            }
            "QueueEntryReleased" => {
                self.released += 1;
                assert!(self.abandoned.contains(&of_match), "only of a match that came to nothing: {event}");
                self.moves(event, |place| *place == Place::Taken(of_match, entry), searching);
            }
            "PlayerFreed" => {
                assert!(self.games.contains_key(&of_match), "only from a game: {event}");
                let held = |place: &Place| matches!(place, Place::Taken(held, _) if *held == of_match);
                self.moves(event, held, Place::Free);
            }
            "MatchProposed" => {
                let player = |side: &str| data[side]["subject_id"].as_str().unwrap().to_owned();
                let players = ["first", "second"].map(player);
                assert_ne!(players[0], players[1]);
                self.proposed.insert(of_match, players);
            }
            "MatchConfirmed" => {
                let id = in_match();
                for player in &self.proposed[&id] {
                    let place = &self.places[player];
                    assert!(matches!(place, Place::Taken(held, _) if *held == id), "{place:?}: {event}");
                }
                assert!(self.games.insert(id, text("game_id")).is_none(), "confirmed once: {event}");
            }
            "MatchAbandoned" => {
                let id = in_match();
                assert!(!self.games.contains_key(&id), "not what was confirmed: {event}");
                self.abandoned.insert(id);
            }
            _ => {}
        }
    }

    fn moves(&mut self, event: &Value, from: impl FnOnce(&Place) -> bool, to: Place) {
        let player = event["data"]["subject_id"].as_str().unwrap();
        let place = self.places.entry(player.to_owned()).or_default();
        assert!(from(place), "the player was {place:?}: {event}");
        *place = to;
    }
}
