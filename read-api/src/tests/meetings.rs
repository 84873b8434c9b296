//! Matches, challenges, ratings and blocks as players read them.

use std::time::Duration;

use domain::rating::unproven;
use event_log::clock::Clock;
use event_schemas::challenge::{
    ChallengeAccepted, ChallengeCreated, ChallengeEvent, ChallengePlacing, ChallengePlacingFailed, Strength,
};
use event_schemas::envelope::Event;
use event_schemas::ids::{ChallengeId, MatchRecordId, Tenant};
use event_schemas::match_record::{AbandonReason, GameResult, MatchAbandoned, MatchResultReported, Side};
use event_schemas::player::{PlayerBlocked, PlayerRated};
use event_schemas::rating::{Rating, RatingSource, Skill};
use event_schemas::sealed::Sealed;
use event_schemas::stream::StreamId;
use insta::assert_snapshot;
use serde_json::{Value, json};
use uuid::Uuid;
use web::caller::{Auth, Claims, Keys, Role, mint};

use super::queues::MATCH;
use super::stage::{Stage, acme, now, player, start};
use crate::server::Access;

const SECRET: &[u8] = b"a secret of at least thirty-two bytes";
pub(super) const OURS: ChallengeId = ChallengeId(Uuid::from_u128(0xc1));

fn strength(points: u16) -> Strength {
    let rating = Rating::new(points).unwrap();
    Strength { rating, rating_source: RatingSource::Default, skill: unproven(rating) }
}

fn placing(attempt: u32) -> ChallengePlacing {
    ChallengePlacing { match_id: MATCH, attempt, strength: strength(1600), challenger_side: Side::First }
}

impl Stage {
    async fn challenge_event(&self, id: ChallengeId, event: impl Into<ChallengeEvent>) {
        self.append(StreamId::challenge(id), &[Event::Challenge(event.into())]).await;
    }

    pub(super) async fn challenge(&self, id: ChallengeId, from: u128, to: u128) {
        let created = ChallengeCreated {
            challenge_id: id,
            pool_key: "blitz".parse().unwrap(),
            challenger: player(from),
            challenged: player(to),
            strength: strength(1500),
            expires_at: self.clock.now().after(Duration::from_secs(300)),
            message: Some(Sealed::from_base64("sealed".to_owned())),
        };
        self.challenge_event(id, created).await;
    }

    async fn rated(&self, n: u128, after: f64) {
        let before = Skill { rating: 1500.0, deviation: 350.0, volatility: 0.06 };
        let (subject_id, match_id) = (player(n), MATCH);
        let after = Skill { rating: after, deviation: 290.5, volatility: 0.06 };
        let pool_key = "blitz".parse().unwrap();
        self.player_event(n, PlayerRated { subject_id, match_id, pool_key, before, after }).await;
    }

    /// Players 1 and 2 have met, and their game has begun.
    pub(super) async fn playing(&self) {
        self.queue(1, 1500, &["blitz"]).await;
        self.queue(2, 1540, &["blitz"]).await;
        self.pair([1500, 1540]).await;
        self.confirm().await;
    }
}

fn path_of(id: MatchRecordId) -> String {
    format!("/v1/matchmaking/matches/{id}")
}

fn ids(page: &Value) -> Vec<&str> {
    page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_match_tells_who_plays_and_then_what_the_result_made_of_their_ratings() {
    let stage = Stage::open().await;
    stage.playing().await;
    let playing = stage.as_player(1, &path_of(MATCH)).await.json();
    assert_eq!((&playing["status"], &playing["ended_at"]), (&json!("playing"), &Value::Null));
    stage.match_event(MatchResultReported { result: GameResult::First }).await;
    stage.rated(1, 1590.25).await;
    stage.rated(2, 1452.75).await;
    assert_snapshot!(stage.as_player(1, &path_of(MATCH)).await.whole());
}

#[tokio::test]
async fn a_match_of_which_no_game_came_says_why_but_not_whose_subject_was_gone() {
    let stage = Stage::open().await;
    stage.queue(1, 1500, &["blitz"]).await;
    stage.queue(2, 1540, &["blitz"]).await;
    stage.pair([1500, 1540]).await;
    let (reason, eligible_at) = (AbandonReason::PlayerUnavailable, stage.clock.now());
    let detail = Some(player(2).to_string());
    stage.match_event(MatchAbandoned { reason, detail, eligible_at }).await;
    assert_snapshot!(stage.as_player(1, &path_of(MATCH)).await.whole());
}

#[tokio::test]
async fn a_match_is_there_for_its_players_and_for_trusted_callers_of_its_tenant() {
    let keys =
        |clock: &Clock| Auth::with_keys(Keys::default().secret(SECRET).unwrap(), Vec::new(), now(clock));
    let stage = Stage::with(keys, Access::Keys, Vec::new()).await;
    stage.playing().await;
    stage.challenge(OURS, 1, 2).await;
    let other: Tenant = "other".parse().unwrap();
    let status = async |tenant: &Tenant, user: &str, role: Role, path: &str| {
        let claims = Claims::new(tenant, user, role.into(), start(), Duration::from_secs(3600));
        let token = format!("Bearer {}", mint(SECRET, &claims).unwrap());
        stage.get_with(path, &[("Authorization", &token)]).await.status
    };
    for path in [path_of(MATCH), format!("/v1/matchmaking/challenges/{OURS}")] {
        assert_eq!(status(&acme(), "player-1", Role::User, &path).await, 200);
        assert_eq!(status(&acme(), "player-2", Role::User, &path).await, 200);
        assert_eq!(status(&acme(), "player-3", Role::User, &path).await, 404);
        assert_eq!(status(&acme(), "nobody", Role::User, &path).await, 404);
        assert_eq!(status(&acme(), "game-server", Role::Service, &path).await, 200);
        assert_eq!(status(&acme(), "worker-1", Role::Worker, &path).await, 403);
        assert_eq!(status(&other, "player-1", Role::User, &path).await, 404);
        assert_eq!(status(&other, "operator", Role::Admin, &path).await, 404);
    }
    for (role, expected) in [(Role::User, 403), (Role::Worker, 403), (Role::Service, 200), (Role::Admin, 200)]
    {
        assert_eq!(status(&acme(), "operator", role, "/internal/matches").await, expected, "{role:?}");
    }
    for list in ["matches", "challenges/incoming", "challenges/outgoing", "ratings", "blocks"] {
        let path = format!("/v1/matchmaking/{list}");
        assert_eq!(status(&acme(), "nobody", Role::User, &path).await, 200, "{list}");
        assert_eq!(status(&acme(), "worker-1", Role::Worker, &path).await, 403, "{list}");
    }
}

#[tokio::test]
async fn what_is_no_match_is_not_found() {
    let stage = Stage::open().await;
    for path in ["matches/42", "matches/00000000-0000-0000-0000-000000000042", "challenges/42"] {
        assert_eq!(stage.as_player(1, &format!("/v1/matchmaking/{path}")).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn a_player_lists_their_matches_by_status_and_whose_list_a_cursor_is_of_matters() {
    let stage = Stage::open().await;
    stage.playing().await;
    let page = stage.as_player(2, "/v1/matchmaking/matches").await.json();
    assert_eq!((ids(&page), &page["next_cursor"]), (vec![MATCH.to_string().as_str()], &Value::Null));
    let finished = stage.as_player(2, "/v1/matchmaking/matches?status=finished").await.json();
    assert!(ids(&finished).is_empty());
    assert!(ids(&stage.as_player(3, "/v1/matchmaking/matches").await.json()).is_empty());
    assert_eq!(stage.as_player(2, "/v1/matchmaking/matches?status=lost").await.status, 400);
    let all = stage.as_player(3, "/internal/matches?status=playing&limit=1").await.json();
    assert_eq!(ids(&all), ids(&page), "everybody's, for those who see them");
    for n in 2..=4 {
        stage.challenge(ChallengeId(Uuid::from_u128(n)), 1, n).await;
    }
    let path = "/v1/matchmaking/challenges/outgoing?limit=2";
    let first = stage.as_player(1, path).await.json();
    let next = format!("{path}&cursor={}", first["next_cursor"].as_str().unwrap());
    let second = stage.as_player(1, &next).await.json();
    assert_eq!((ids(&first).len(), ids(&second).len(), &second["next_cursor"]), (2, 1, &Value::Null));
    assert_eq!(stage.as_player(2, &next).await.status, 400);
}

#[tokio::test]
async fn a_challenge_says_what_its_challenger_wrote_and_how_far_it_is() {
    let stage = Stage::open().await;
    stage.challenge(OURS, 1, 2).await;
    stage.challenge_event(OURS, placing(1)).await;
    let path = format!("/v1/matchmaking/challenges/{OURS}");
    let accepted = stage.as_player(2, &path).await.json();
    assert_eq!((&accepted["status"], &accepted["placing"]), (&json!("pending"), &json!(true)));
    let (match_id, reason) = (MATCH, AbandonReason::GameServiceFailed);
    let detail = Some("503".to_owned());
    stage.challenge_event(OURS, ChallengePlacingFailed { match_id, reason, detail }).await;
    assert_snapshot!("failed_once", stage.as_player(1, &path).await.whole());
    stage.challenge_event(OURS, placing(2)).await;
    let game_id = Some("game-1".parse().unwrap());
    stage.challenge_event(OURS, ChallengeAccepted { match_id, game_id }).await;
    assert_snapshot!("accepted", stage.as_player(1, &path).await.whole());
}

#[tokio::test]
async fn a_challenge_that_nobody_answered_in_time_is_expired_for_both() {
    let stage = Stage::open().await;
    stage.challenge(OURS, 1, 2).await;
    let incoming = "/v1/matchmaking/challenges/incoming?status=pending";
    let before = stage.as_player(2, incoming).await;
    assert_eq!(ids(&before.json()), [OURS.to_string()]);
    assert!(ids(&stage.as_player(1, incoming).await.json()).is_empty());
    stage.clock.advance(Duration::from_secs(300));
    let etag = before.header("etag").to_owned();
    let after = stage.get_with(incoming, &[("X-User", "player-2"), ("If-None-Match", &etag)]).await;
    assert_eq!((after.status, ids(&after.json()).len()), (200, 0));
    let outgoing = stage.as_player(1, "/v1/matchmaking/challenges/outgoing").await.json();
    let shown = &outgoing["items"][0];
    assert_eq!((&shown["status"], &shown["ended_at"]), (&json!("expired"), &shown["expires_at"]));
}

#[tokio::test]
async fn who_was_erased_has_no_name_and_says_nothing_any_more() {
    let stage = Stage::open().await;
    stage.challenge(OURS, 900, 2).await;
    let path = format!("/v1/matchmaking/challenges/{OURS}");
    let shown = stage.as_player(2, &path).await.json();
    assert_eq!((&shown["challenger_id"], &shown["message"]), (&Value::Null, &Value::Null));
    assert_eq!(shown["opponent_id"], "player-2");
    for blocked in [900, 3] {
        stage.player_event(2, PlayerBlocked { subject_id: player(2), blocked: player(blocked) }).await;
    }
    assert_snapshot!(stage.as_player(2, "/v1/matchmaking/blocks").await.whole());
}

#[tokio::test]
async fn ratings_are_listed_by_pool() {
    let stage = Stage::open().await;
    stage.playing().await;
    stage.rated(1, 1590.25).await;
    let first = stage.as_player(1, "/v1/matchmaking/ratings").await;
    assert_snapshot!(first.whole());
    let headers = [("X-User", "player-1"), ("If-None-Match", first.header("etag"))];
    assert_eq!(stage.get_with("/v1/matchmaking/ratings", &headers).await.status, 304);
}
