//! Game matches, challenges, ratings and blocks.

use std::time::Duration;

use domain::rating::unproven;
use event_log::clock::Clock;
use event_schemas::challenge::{
    ChallengeAccepted, ChallengeCreated, ChallengeEvent, ChallengePlacementFailed, ChallengePlacementStarted,
    Strength,
};
use event_schemas::envelope::Event;
use event_schemas::game_match::{AbandonReason, GameResult, MatchAbandoned, MatchResultReported, Side};
use event_schemas::ids::{ChallengeId, GameMatchId, Tenant};
use event_schemas::player::{PlayerBlocked, PlayerRated};
use event_schemas::rating::{Rating, RatingSource, Skill};
use event_schemas::sealed::SealedField;
use event_schemas::stream::StreamId;
use insta::assert_snapshot;
use serde_json::{Value, json};
use uuid::Uuid;
use web::caller::{Auth, Claims, Keys, Role, mint};

use super::fixture::{ReadApiFixture, acme, now, player, start};
use super::queues::MATCH;
use crate::server::Access;

const SECRET: &[u8] = b"a secret of at least thirty-two bytes";
pub(super) const CHALLENGE_ID: ChallengeId = ChallengeId(Uuid::from_u128(0xc1));

fn strength(points: u16) -> Strength {
    let rating = Rating::new(points).unwrap();
    Strength { rating, rating_source: RatingSource::Default, skill: unproven(rating), rating_call: None }
}

fn placing(attempt: u32) -> ChallengePlacementStarted {
    ChallengePlacementStarted {
        match_id: MATCH,
        attempt,
        strength: strength(1600),
        challenger_side: Side::First,
    }
}

impl ReadApiFixture {
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
            message: Some(self.seal(from, SealedField::ChallengeMessage(id), "opened: sealed").await),
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

    /// Players 1 and 2 are paired and playing.
    pub(super) async fn playing(&self) {
        self.queue(1, 1500, &["blitz"]).await;
        self.queue(2, 1540, &["blitz"]).await;
        self.pair([1500, 1540]).await;
        self.confirm().await;
    }
}

fn path_of(id: GameMatchId) -> String {
    format!("/v1/matchmaking/matches/{id}")
}

fn ids(page: &Value) -> Vec<&str> {
    page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn match_has_its_players_and_their_ratings_after_the_result() {
    let fixture = ReadApiFixture::open().await;
    fixture.playing().await;
    let playing = fixture.as_player(1, &path_of(MATCH)).await.json();
    assert_eq!((&playing["status"], &playing["ended_at"]), (&json!("playing"), &Value::Null));
    fixture.match_event(MatchResultReported { result: GameResult::First }).await;
    fixture.rated(1, 1590.25).await;
    fixture.rated(2, 1452.75).await;
    assert_snapshot!(fixture.as_player(1, &path_of(MATCH)).await.snapshot());
}

#[tokio::test]
async fn abandoned_match_has_its_reason_without_a_subject_id() {
    let fixture = ReadApiFixture::open().await;
    fixture.queue(1, 1500, &["blitz"]).await;
    fixture.queue(2, 1540, &["blitz"]).await;
    fixture.pair([1500, 1540]).await;
    let (reason, eligible_at) = (AbandonReason::PlayerUnavailable, fixture.clock.now());
    let detail = Some(player(2).to_string());
    fixture.match_event(MatchAbandoned { reason, detail, eligible_at }).await;
    assert_snapshot!(fixture.as_player(1, &path_of(MATCH)).await.snapshot());
}

#[tokio::test]
async fn match_is_visible_to_its_players_and_trusted_callers() {
    let keys =
        |clock: &Clock| Auth::with_keys(Keys::default().secret(SECRET).unwrap(), Vec::new(), now(clock));
    let fixture = ReadApiFixture::with(keys, Access::Keys, Vec::new()).await;
    fixture.playing().await;
    fixture.challenge(CHALLENGE_ID, 1, 2).await;
    let other: Tenant = "other".parse().unwrap();
    let status = async |tenant: &Tenant, user: &str, role: Role, path: &str| {
        let claims = Claims::new(tenant, user, role.into(), start(), Duration::from_secs(3600));
        let token = format!("Bearer {}", mint(SECRET, &claims).unwrap());
        fixture.get_with(path, &[("Authorization", &token)]).await.status
    };
    for path in [path_of(MATCH), format!("/v1/matchmaking/challenges/{CHALLENGE_ID}")] {
        assert_eq!(status(&acme(), "player-1", Role::User, &path).await, 200);
        assert_eq!(status(&acme(), "player-2", Role::User, &path).await, 200);
        assert_eq!(status(&acme(), "player-3", Role::User, &path).await, 404);
        assert_eq!(status(&acme(), "unknown", Role::User, &path).await, 404);
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
        assert_eq!(status(&acme(), "unknown", Role::User, &path).await, 200, "{list}");
        assert_eq!(status(&acme(), "worker-1", Role::Worker, &path).await, 403, "{list}");
    }
}

#[tokio::test]
async fn unknown_match_or_challenge_gets_404() {
    let fixture = ReadApiFixture::open().await;
    for path in ["matches/42", "matches/00000000-0000-0000-0000-000000000042", "challenges/42"] {
        assert_eq!(fixture.as_player(1, &format!("/v1/matchmaking/{path}")).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn lists_are_filtered_by_status_and_cursors_belong_to_a_list() {
    let fixture = ReadApiFixture::open().await;
    fixture.playing().await;
    let page = fixture.as_player(2, "/v1/matchmaking/matches").await.json();
    assert_eq!((ids(&page), &page["next_cursor"]), (vec![MATCH.to_string().as_str()], &Value::Null));
    let finished = fixture.as_player(2, "/v1/matchmaking/matches?status=finished").await.json();
    assert!(ids(&finished).is_empty());
    assert!(ids(&fixture.as_player(3, "/v1/matchmaking/matches").await.json()).is_empty());
    assert_eq!(fixture.as_player(2, "/v1/matchmaking/matches?status=lost").await.status, 400);
    let all = fixture.as_player(3, "/internal/matches?status=playing&limit=1").await.json();
    assert_eq!(ids(&all), ids(&page), "all matches of the tenant");
    for n in 2..=4 {
        fixture.challenge(ChallengeId(Uuid::from_u128(n)), 1, n).await;
    }
    let path = "/v1/matchmaking/challenges/outgoing?limit=2";
    let first = fixture.as_player(1, path).await.json();
    let next = format!("{path}&cursor={}", first["next_cursor"].as_str().unwrap());
    let second = fixture.as_player(1, &next).await.json();
    assert_eq!((ids(&first).len(), ids(&second).len(), &second["next_cursor"]), (2, 1, &Value::Null));
    assert_eq!(fixture.as_player(2, &next).await.status, 400);
}

#[tokio::test]
async fn challenge_has_its_message_and_progress() {
    let fixture = ReadApiFixture::open().await;
    fixture.challenge(CHALLENGE_ID, 1, 2).await;
    fixture.challenge_event(CHALLENGE_ID, placing(1)).await;
    let path = format!("/v1/matchmaking/challenges/{CHALLENGE_ID}");
    let accepted = fixture.as_player(2, &path).await.json();
    assert_eq!((&accepted["status"], &accepted["placing"]), (&json!("pending"), &json!(true)));
    let (match_id, reason) = (MATCH, AbandonReason::GameServiceFailed);
    let detail = Some("503".to_owned());
    fixture.challenge_event(CHALLENGE_ID, ChallengePlacementFailed { match_id, reason, detail }).await;
    assert_snapshot!("failed_once", fixture.as_player(1, &path).await.snapshot());
    fixture.challenge_event(CHALLENGE_ID, placing(2)).await;
    let game_id = Some("game-1".parse().unwrap());
    fixture.challenge_event(CHALLENGE_ID, ChallengeAccepted { match_id, game_id }).await;
    assert_snapshot!("accepted", fixture.as_player(1, &path).await.snapshot());
}

#[tokio::test]
async fn unanswered_challenge_expires_for_both_players() {
    let fixture = ReadApiFixture::open().await;
    fixture.challenge(CHALLENGE_ID, 1, 2).await;
    let incoming = "/v1/matchmaking/challenges/incoming?status=pending";
    let before = fixture.as_player(2, incoming).await;
    assert_eq!(ids(&before.json()), [CHALLENGE_ID.to_string()]);
    assert!(ids(&fixture.as_player(1, incoming).await.json()).is_empty());
    fixture.clock.advance(Duration::from_secs(300));
    let etag = before.header("etag").to_owned();
    let after = fixture.get_with(incoming, &[("X-User", "player-2"), ("If-None-Match", &etag)]).await;
    assert_eq!((after.status, ids(&after.json()).len()), (200, 0));
    let outgoing = fixture.as_player(1, "/v1/matchmaking/challenges/outgoing").await.json();
    let shown = &outgoing["items"][0];
    assert_eq!((&shown["status"], &shown["ended_at"]), (&json!("expired"), &shown["expires_at"]));
}

#[tokio::test]
async fn erased_users_have_no_id_and_no_message() {
    let fixture = ReadApiFixture::open().await;
    fixture.challenge(CHALLENGE_ID, 900, 2).await;
    let path = format!("/v1/matchmaking/challenges/{CHALLENGE_ID}");
    let shown = fixture.as_player(2, &path).await.json();
    assert_eq!((&shown["challenger_id"], &shown["message"]), (&Value::Null, &Value::Null));
    assert_eq!(shown["opponent_id"], "player-2");
    for blocked in [900, 3] {
        fixture.player_event(2, PlayerBlocked { subject_id: player(2), blocked: player(blocked) }).await;
    }
    assert_snapshot!(fixture.as_player(2, "/v1/matchmaking/blocks").await.snapshot());
}

#[tokio::test]
async fn ratings_are_listed_by_pool() {
    let fixture = ReadApiFixture::open().await;
    fixture.playing().await;
    fixture.rated(1, 1590.25).await;
    let first = fixture.as_player(1, "/v1/matchmaking/ratings").await;
    assert_snapshot!(first.snapshot());
    let headers = [("X-User", "player-1"), ("If-None-Match", first.header("etag"))];
    assert_eq!(fixture.get_with("/v1/matchmaking/ratings", &headers).await.status, 304);
}

#[tokio::test]
async fn players_see_no_opponent_or_error_of_a_failed_match() {
    let keys =
        |clock: &Clock| Auth::with_keys(Keys::default().secret(SECRET).unwrap(), Vec::new(), now(clock));
    let fixture = ReadApiFixture::with(keys, Access::Keys, Vec::new()).await;
    fixture.queue(1, 1500, &["blitz"]).await;
    fixture.queue(2, 1540, &["blitz"]).await;
    fixture.pair([1500, 1540]).await;
    let read = async |user: &str, role: Role, path: &str| {
        let claims = Claims::new(&acme(), user, role.into(), start(), Duration::from_secs(3600));
        let token = format!("Bearer {}", mint(SECRET, &claims).unwrap());
        fixture.get_with(path, &[("Authorization", &token)]).await.json()
    };
    let players = async |user: &str, role: Role| {
        let found = read(user, role, &path_of(MATCH)).await;
        let named = |player: &Value| player["user_id"].as_str().map(str::to_owned);
        let players: Vec<_> = found["players"].as_array().unwrap().iter().map(named).collect();
        (players, found["detail"].as_str().map(str::to_owned))
    };
    let (one, two) = (Some("player-1".to_owned()), Some("player-2".to_owned()));
    assert_eq!(players("player-1", Role::User).await, (vec![one.clone(), None], None), "while placing");
    let (reason, eligible_at) = (AbandonReason::GameServiceFailed, fixture.clock.now());
    let detail = Some("the game service responded 500: Traceback".to_owned());
    fixture.match_event(MatchAbandoned { reason, detail: detail.clone(), eligible_at }).await;
    assert_eq!(players("player-1", Role::User).await, (vec![one.clone(), None], None));
    assert_eq!(players("player-2", Role::User).await, (vec![None, two.clone()], None));
    assert_eq!(players("operator", Role::Service).await, (vec![one, two], detail));
    for path in ["/v1/matchmaking/matches", "/v1/matchmaking/active"] {
        let text = read("player-1", Role::User, path).await.to_string();
        assert!(!text.contains("player-2") && !text.contains("Traceback"), "{path}: {text}");
    }
}
