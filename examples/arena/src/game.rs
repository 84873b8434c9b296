//! Games, and the one of each match: asking again for the same match gives the same game.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Games that are over are forgotten beyond so many.
const KEPT_MAX: usize = 10_000;

/// Who moves first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    First,
    Second,
}

/// How a game ended.
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

/// What Matchbook asks for.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Order {
    pub match_id: Uuid,
    pub tenant: String,
    pub pool_key: String,
    pub players: [Player; 2],
}

/// Where a game stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Playing,
    /// It is over; its result is on its way to Matchbook.
    Reporting,
    /// Matchbook has the result.
    Reported,
    /// Matchbook did not want the result.
    Unwanted,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Game {
    pub game_id: String,
    pub match_id: Uuid,
    pub tenant: String,
    pub pool_key: String,
    pub players: [Player; 2],
    pub state: State,
    /// None while it is played.
    pub result: Option<Outcome>,
}

/// Why an order cannot be played.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAGame {
    #[error("one of the players moves first, the other second")]
    Sides,
    #[error("nobody plays against themselves")]
    Oneself,
}

impl Order {
    /// Who moves first, and who second.
    ///
    /// # Errors
    /// [`NotAGame`].
    pub fn sides(&self) -> Result<(&str, &str), NotAGame> {
        let [one, other] = &self.players;
        if one.user_id == other.user_id {
            return Err(NotAGame::Oneself);
        }
        match (one.side, other.side) {
            (Side::First, Side::Second) => Ok((&one.user_id, &other.user_id)),
            (Side::Second, Side::First) => Ok((&other.user_id, &one.user_id)),
            _ => Err(NotAGame::Sides),
        }
    }

    /// The game's id follows from the match's, so that even a game server that was started anew gives the same.
    fn game_id(&self) -> String {
        format!("game-{}", Uuid::new_v5(&self.match_id, b"game"))
    }
}

/// What came of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    New,
    /// It is there already.
    Again,
    /// It is there, it is over, and its result had not been wanted.
    Unwanted,
}

/// All games of a server, by their matches.
#[derive(Debug, Default)]
pub struct Games {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    games: HashMap<Uuid, Game>,
    /// Games that are over, in the order in which they ended.
    over: VecDeque<Uuid>,
}

impl Games {
    /// Makes the game of a match, unless it is there.
    pub fn make(&self, order: &Order) -> (String, Made) {
        let mut kept = self.lock();
        if let Some(game) = kept.games.get_mut(&order.match_id) {
            let made = if game.state == State::Unwanted { Made::Unwanted } else { Made::Again };
            if made == Made::Unwanted {
                game.state = State::Reporting;
            }
            return (game.game_id.clone(), made);
        }
        let game = Game {
            game_id: order.game_id(),
            match_id: order.match_id,
            tenant: order.tenant.clone(),
            pool_key: order.pool_key.clone(),
            players: order.players.clone(),
            state: State::Playing,
            result: None,
        };
        let id = game.game_id.clone();
        kept.games.insert(order.match_id, game);
        (id, Made::New)
    }

    /// Ends a game that is played. False if it is over already.
    pub fn end(&self, match_id: Uuid, result: Outcome) -> bool {
        let mut kept = self.lock();
        let Some(game) = kept.games.get_mut(&match_id).filter(|game| game.state == State::Playing) else {
            return false;
        };
        (game.state, game.result) = (State::Reporting, Some(result));
        kept.over.push_back(match_id);
        while kept.over.len() > KEPT_MAX {
            if let Some(oldest) = kept.over.pop_front() {
                kept.games.remove(&oldest);
            }
        }
        true
    }

    /// What Matchbook said to the result.
    pub fn reported(&self, match_id: Uuid, wanted: bool) {
        if let Some(game) = self.lock().games.get_mut(&match_id) {
            game.state = if wanted { State::Reported } else { State::Unwanted };
        }
    }

    pub fn get(&self, match_id: Uuid) -> Option<Game> {
        self.lock().games.get(&match_id).cloned()
    }

    pub fn all(&self) -> Vec<Game> {
        self.lock().games.values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Nothing in here can panic halfway through a change.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn player(user: &str, side: Side) -> Player {
        Player { user_id: user.to_owned(), rating: 1500.0, side }
    }

    fn order(number: u128) -> Order {
        Order {
            match_id: Uuid::from_u128(number),
            tenant: "acme".to_owned(),
            pool_key: "blitz".to_owned(),
            players: [player("ben", Side::Second), player("ada", Side::First)],
        }
    }

    #[test]
    fn a_match_has_one_game_however_often_it_is_asked_for() {
        let games = Games::default();
        let (id, made) = games.make(&order(1));
        assert_eq!((games.make(&order(1)), made), ((id.clone(), Made::Again), Made::New));
        assert_ne!(games.make(&order(2)).0, id);
        assert_eq!(Games::default().make(&order(1)).0, id, "also on a server that was started anew");
    }

    #[test]
    fn a_game_ends_once() {
        let games = Games::default();
        games.make(&order(1));
        assert!(games.end(Uuid::from_u128(1), Outcome::Draw));
        assert!(!games.end(Uuid::from_u128(1), Outcome::First));
        assert_eq!(games.get(Uuid::from_u128(1)).unwrap().result, Some(Outcome::Draw));
    }

    #[test]
    fn a_result_that_was_not_wanted_is_reported_again_once_the_game_is_asked_for_again() {
        let games = Games::default();
        games.make(&order(1));
        games.end(Uuid::from_u128(1), Outcome::Draw);
        games.reported(Uuid::from_u128(1), false);
        assert_eq!(games.make(&order(1)).1, Made::Unwanted);
        assert_eq!(games.make(&order(1)).1, Made::Again, "it is on its way");
    }

    #[test]
    fn one_moves_first_and_the_other_second() {
        assert_eq!(order(1).sides(), Ok(("ada", "ben")));
        let mut wrong = order(1);
        wrong.players[0].side = Side::First;
        assert_eq!(wrong.sides(), Err(NotAGame::Sides));
        let mut alone = order(1);
        alone.players[0].user_id = "ada".to_owned();
        assert_eq!(alone.sides(), Err(NotAGame::Oneself));
    }

    #[test]
    fn old_games_are_forgotten_and_those_that_are_played_are_not() {
        let games = Games::default();
        games.make(&order(0));
        for number in 1..=u128::try_from(KEPT_MAX).unwrap() + 1 {
            games.make(&order(number));
            games.end(Uuid::from_u128(number), Outcome::Draw);
        }
        assert!(games.get(Uuid::from_u128(0)).is_some());
        assert!(games.get(Uuid::from_u128(1)).is_none());
        assert_eq!(games.all().len(), KEPT_MAX + 1);
    }
}
