//! A match from the view of one of its players.

use serde_json::Value;

use crate::api::ApiResponse;

/// A match from the view of one of its players.
#[derive(Debug, Default, PartialEq)]
pub struct PlayerView<'a> {
    pub side: Option<&'a str>,
    pub opponent: Option<&'a str>,
    before: Option<f64>,
    after: Option<f64>,
}

impl<'a> PlayerView<'a> {
    pub fn of(answer: &'a ApiResponse, user: &str) -> Self {
        let players = answer.body.pointer("/players").and_then(Value::as_array);
        let mut view = Self::default();
        for player in players.into_iter().flatten() {
            let text = |member: &str| player.get(member).and_then(Value::as_str);
            if text("user_id") == Some(user) {
                let points = |member: &str| player.get(member).and_then(Value::as_f64);
                view.side = text("side");
                (view.before, view.after) = (points("rating_before"), points("rating_after"));
            } else {
                view.opponent = text("user_id");
            }
        }
        view
    }

    pub fn result(&self, result: Option<&str>) -> &'static str {
        match result {
            Some("draw") => "draws",
            Some("aborted") | None => "is aborted",
            result if result == self.side => "wins",
            Some(_) => "loses",
        }
    }

    /// The new rating and its change, such as `1512 (+12)`; none while it is unchanged.
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
    fn view_has_result_and_rating_of_the_player() {
        let body = json!({"result": "second", "players": [
            {"user_id": "ada", "side": "first", "rating_before": 1500.0, "rating_after": 1491.6},
            {"user_id": "ben", "side": "second", "rating_before": 1480.0, "rating_after": 1489.0},
        ]});
        let answer = ApiResponse { status: StatusCode::OK, body };
        let view_of = |user: &str| {
            let view = PlayerView::of(&answer, user);
            let result = view.result(answer.text("/result"));
            (view.opponent.unwrap().to_owned(), result, view.rating().unwrap())
        };
        assert_eq!(view_of("ada"), ("ben".to_owned(), "loses", "1492 (-8)".to_owned()));
        assert_eq!(view_of("ben"), ("ada".to_owned(), "wins", "1489 (+9)".to_owned()));
    }
}
