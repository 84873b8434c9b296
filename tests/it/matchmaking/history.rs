//! The history of players and matches in the log, folded without any code of the server.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// The state of a player.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum PlayerState {
    #[default]
    Idle,
    Searching(String),
    /// The match and the queue entry.
    InMatch(String, String),
}

/// The fold of all events. Applying an event that contradicts the earlier ones panics.
#[derive(Debug, Default)]
pub(super) struct History {
    player_states: BTreeMap<String, PlayerState>,
    /// The two players of each proposed match.
    proposed: BTreeMap<String, [String; 2]>,
    pub(super) abandoned: BTreeSet<String>,
    /// The game of each confirmed match.
    pub(super) games: BTreeMap<String, String>,
    pub(super) queued: BTreeSet<String>,
    pub(super) cancelled: BTreeSet<String>,
    pub(super) released: usize,
}

impl History {
    pub(super) fn of(events: &[Value]) -> Self {
        let mut history = Self::default();
        events.iter().for_each(|event| history.apply(event));
        history
    }

    pub(super) fn player_states(&self) -> impl Iterator<Item = &PlayerState> {
        self.player_states.values()
    }

    fn apply(&mut self, event: &Value) {
        let data = &event["data"];
        let text = |member: &str| data[member].as_str().unwrap_or_default().to_owned();
        let in_match = || event["stream"].as_str().unwrap().trim_start_matches("match_record-").to_owned();
        let (entry, of_match) = (text("entry_id"), text("match_id"));
        let searching = PlayerState::Searching(entry.clone());
        match event["type"].as_str().unwrap() {
            "PlayerQueued" => {
                assert!(self.queued.insert(entry), "an entry is created once: {event}");
                self.transition(event, |state| *state == PlayerState::Idle, searching);
            }
            "QueueEntryCancelled" => {
                self.cancelled.insert(entry);
                self.transition(event, |state| *state == searching, PlayerState::Idle);
            }
            "QueueEntryMatched" => {
                self.transition(event, |state| *state == searching, PlayerState::InMatch(of_match, entry));
            }
            "QueueEntryReleased" => {
                self.released += 1;
                assert!(self.abandoned.contains(&of_match), "only by an abandoned match: {event}");
                self.transition(event, |state| *state == PlayerState::InMatch(of_match, entry), searching);
            }
            "PlayerReleased" => {
                assert!(self.games.contains_key(&of_match), "only after a game: {event}");
                let held =
                    |state: &PlayerState| matches!(state, PlayerState::InMatch(held, _) if *held == of_match);
                self.transition(event, held, PlayerState::Idle);
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
                    let state = &self.player_states[player];
                    assert!(
                        matches!(state, PlayerState::InMatch(held, _) if *held == id),
                        "{state:?}: {event}"
                    );
                }
                assert!(self.games.insert(id, text("game_id")).is_none(), "confirmed once: {event}");
            }
            "MatchAbandoned" => {
                let id = in_match();
                assert!(!self.games.contains_key(&id), "not after its confirmation: {event}");
                self.abandoned.insert(id);
            }
            _ => {}
        }
    }

    fn transition(&mut self, event: &Value, from: impl FnOnce(&PlayerState) -> bool, to: PlayerState) {
        let player = event["data"]["subject_id"].as_str().unwrap();
        let state = self.player_states.entry(player.to_owned()).or_default();
        assert!(from(state), "the player was {state:?}: {event}");
        *state = to;
    }
}
