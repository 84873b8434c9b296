//! A match as one of its players sees it.

use serde_json::Value;

use crate::api::Answer;

/// A match as one of its players sees it.
#[derive(Debug, Default, PartialEq)]
pub struct Seats<'a> {
    pub side: Option<&'a str>,
    pub opponent: Option<&'a str>,
    before: Option<f64>,
    after: Option<f64>,
}

impl<'a> Seats<'a> {
    pub fn of(answer: &'a Answer, user: &str) -> Self {
        let players = answer.body.pointer("/players").and_then(Value::as_array);
        let mut seats = Self::default();
        for player in players.into_iter().flatten() {
            let text = |member: &str| player.get(member).and_then(Value::as_str);
            if text("user_id") == Some(user) {
                let points = |member: &str| player.get(member).and_then(Value::as_f64);
                seats.side = text("side");
                (seats.before, seats.after) = (points("rating_before"), points("rating_after"));
            } else {
                seats.opponent = text("user_id");
            }
        }
        seats
    }

    pub fn result(&self, result: Option<&str>) -> &'static str {
        match result {
            Some("draw") => "draws",
            Some("aborted") | None => "is aborted",
            result if result == self.side => "wins",
            Some(_) => "loses",
        }
    }

    /// As `1512 (+12)`; nothing while no rating has moved.
    pub fn rating(&self) -> Option<String> {
        let (before, after) = (self.before?, self.after?);
        Some(format!("{after:.0} ({:+.0})", after - before))
    }
}

#[cfg(test)]
mod tests {
    use reqwest::StatusCode;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_match_is_told_as_its_player_sees_it() {
        let body = json!({"result": "second", "players": [
            {"user_id": "ada", "side": "first", "rating_before": 1500.0, "rating_after": 1491.6},
            {"user_id": "ben", "side": "second", "rating_before": 1480.0, "rating_after": 1489.0},
        ]});
        let answer = Answer { status: StatusCode::OK, body };
        let told = |user: &str| {
            let seats = Seats::of(&answer, user);
            let result = seats.result(answer.text("/result"));
            (seats.opponent.unwrap().to_owned(), result, seats.rating().unwrap())
        };
        assert_eq!(told("ada"), ("ben".to_owned(), "loses", "1492 (-8)".to_owned()));
        assert_eq!(told("ben"), ("ada".to_owned(), "wins", "1489 (+9)".to_owned()));
    }
}
