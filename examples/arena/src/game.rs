//! The games by their matches: creating a game is idempotent by the match id.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The most finished games that are kept.
const FINISHED_MAX: usize = 10_000;

/// The side of a player: who moves first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    First,
    Second,
}

/// The result of a game.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    First,
    Second,
    Draw,
    Aborted,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Player {
    pub user_id: String,
    pub rating: f64,
    pub side: Side,
}

/// A request of Matchbook to create a game.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct CreateGame {
    pub match_id: Uuid,
    pub tenant: String,
    pub pool_key: String,
    pub players: [Player; 2],
}

/// The state of a game.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Playing,
    /// It is over; its result is being reported to Matchbook.
    Reporting,
    /// Matchbook has accepted the result.
    Reported,
    /// Matchbook has rejected the result.
    Rejected,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Game {
    pub game_id: String,
    pub match_id: Uuid,
    pub tenant: String,
    pub pool_key: String,
    pub players: [Player; 2],
    pub state: State,
    /// None while the game is running.
    pub result: Option<Outcome>,
}

/// Why a request is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidGame {
    #[error("one player must have the side first, the other second")]
    Sides,
    #[error("a player cannot play against itself")]
    SelfPlay,
}

impl CreateGame {
    /// The players with the sides first and second.
    ///
    /// # Errors
    /// [`InvalidGame`].
    pub fn sides(&self) -> Result<(&str, &str), InvalidGame> {
        let [one, other] = &self.players;
        if one.user_id == other.user_id {
            return Err(InvalidGame::SelfPlay);
        }
        match (one.side, other.side) {
            (Side::First, Side::Second) => Ok((&one.user_id, &other.user_id)),
            (Side::Second, Side::First) => Ok((&other.user_id, &one.user_id)),
            _ => Err(InvalidGame::Sides),
        }
    }

    /// The game id is derived from the match id, so that it is the same after a restart of the game server.
    fn game_id(&self) -> String {
        format!("game-{}", Uuid::new_v5(&self.match_id, b"game"))
    }
}

/// The outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Creation {
    New,
    /// The game exists already.
    Existing,
    /// The game exists and is over, and its result was rejected.
    Rejected,
}

/// All games of a server, by their matches.
#[derive(Debug, Default)]
pub struct Games {
    table: Mutex<GameTable>,
}

#[derive(Debug, Default)]
struct GameTable {
    games: HashMap<Uuid, Game>,
    /// The finished games, in the order in which they ended.
    finished: VecDeque<Uuid>,
}

impl Games {
    /// Creates the game of a match, unless it exists.
    pub fn create(&self, request: &CreateGame) -> (String, Creation) {
        let mut table = self.lock();
        if let Some(game) = table.games.get_mut(&request.match_id) {
            let creation =
                if game.state == State::Rejected { Creation::Rejected } else { Creation::Existing };
            if creation == Creation::Rejected {
                game.state = State::Reporting;
            }
            return (game.game_id.clone(), creation);
        }
        let game = Game {
            game_id: request.game_id(),
            match_id: request.match_id,
            tenant: request.tenant.clone(),
            pool_key: request.pool_key.clone(),
            players: request.players.clone(),
            state: State::Playing,
            result: None,
        };
        let id = game.game_id.clone();
        table.games.insert(request.match_id, game);
        (id, Creation::New)
    }

    /// Ends a running game. Returns false if it is over already.
    pub fn end(&self, match_id: Uuid, result: Outcome) -> bool {
        let mut table = self.lock();
        let Some(game) = table.games.get_mut(&match_id).filter(|game| game.state == State::Playing) else {
            return false;
        };
        (game.state, game.result) = (State::Reporting, Some(result));
        table.finished.push_back(match_id);
        while table.finished.len() > FINISHED_MAX {
            if let Some(oldest) = table.finished.pop_front() {
                table.games.remove(&oldest);
            }
        }
        true
    }

    /// Records whether Matchbook accepted the result.
    pub fn reported(&self, match_id: Uuid, is_accepted: bool) {
        if let Some(game) = self.lock().games.get_mut(&match_id) {
            game.state = if is_accepted { State::Reported } else { State::Rejected };
        }
    }

    pub fn get(&self, match_id: Uuid) -> Option<Game> {
        self.lock().games.get(&match_id).cloned()
    }

    pub fn all(&self) -> Vec<Game> {
        self.lock().games.values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, GameTable> {
        // A panic cannot leave the table inconsistent.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn player(user: &str, side: Side) -> Player {
        Player { user_id: user.to_owned(), rating: 1500.0, side }
    }

    fn order(number: u128) -> CreateGame {
        CreateGame {
            match_id: Uuid::from_u128(number),
            tenant: "acme".to_owned(),
            pool_key: "blitz".to_owned(),
            players: [player("ben", Side::Second), player("ada", Side::First)],
        }
    }

    #[test]
    fn match_has_one_game() {
        let games = Games::default();
        let (id, creation) = games.create(&order(1));
        assert_eq!((games.create(&order(1)), creation), ((id.clone(), Creation::Existing), Creation::New));
        assert_ne!(games.create(&order(2)).0, id);
        assert_eq!(Games::default().create(&order(1)).0, id, "also after a restart");
    }

    #[test]
    fn game_ends_once() {
        let games = Games::default();
        games.create(&order(1));
        assert!(games.end(Uuid::from_u128(1), Outcome::Draw));
        assert!(!games.end(Uuid::from_u128(1), Outcome::First));
        assert_eq!(games.get(Uuid::from_u128(1)).unwrap().result, Some(Outcome::Draw));
    }

    #[test]
    fn rejected_result_is_reported_again_after_a_new_request() {
        let games = Games::default();
        games.create(&order(1));
        games.end(Uuid::from_u128(1), Outcome::Draw);
        games.reported(Uuid::from_u128(1), false);
        assert_eq!(games.create(&order(1)).1, Creation::Rejected);
        assert_eq!(games.create(&order(1)).1, Creation::Existing, "it is being reported");
    }

    #[test]
    fn players_must_have_different_sides() {
        assert_eq!(order(1).sides(), Ok(("ada", "ben")));
        let mut wrong = order(1);
        wrong.players[0].side = Side::First;
        assert_eq!(wrong.sides(), Err(InvalidGame::Sides));
        let mut alone = order(1);
        alone.players[0].user_id = "ada".to_owned();
        assert_eq!(alone.sides(), Err(InvalidGame::SelfPlay));
    }

    #[test]
    fn old_finished_games_are_evicted() {
        let games = Games::default();
        games.create(&order(0));
        for number in 1..=u128::try_from(FINISHED_MAX).unwrap() + 1 {
            games.create(&order(number));
            games.end(Uuid::from_u128(number), Outcome::Draw);
        }
        assert!(games.get(Uuid::from_u128(0)).is_some());
        assert!(games.get(Uuid::from_u128(1)).is_none());
        assert_eq!(games.all().len(), FINISHED_MAX + 1);
    }
}
