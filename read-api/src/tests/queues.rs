//! Queue entries, pools and queue statistics.

use std::time::Duration;

use domain::pool::DEFAULTS;
use domain::rating::unproven;
use event_schemas::envelope::Event;
use event_schemas::game_match::{
    AbandonReason, GameMatchEvent, GameResult, MatchAbandoned, MatchConfirmed, MatchPlayer, MatchProposed,
    MatchResultReported, Side,
};
use event_schemas::ids::{ChallengeId, EntryId, GameMatchId, Tenant};
use event_schemas::player::{
    PlayerEvent, PlayerQueued, QueueEntryCancelled, QueueEntryMatched, QueueEntryReleased, QueuedPool,
};
use event_schemas::pool::{PoolConfigured, PoolSettings};
use event_schemas::rating::{Rating, RatingSource};
use event_schemas::sealed::SealedField;
use event_schemas::stream::StreamId;
use insta::assert_snapshot;
use serde_json::{Value, json};
use uuid::Uuid;

use super::fixture::{ReadApiFixture, TestResponse, acme, player};
use super::game_matches::CHALLENGE_ID;
use super::sse_reader::SseReader;

pub(super) const MATCH: GameMatchId = GameMatchId(Uuid::from_u128(0xa1));

pub(super) fn entry_id(n: u128) -> EntryId {
    EntryId(Uuid::from_u128(0xe00 + n))
}

impl ReadApiFixture {
    pub(super) async fn player_event(&self, n: u128, event: impl Into<PlayerEvent>) {
        self.append(StreamId::player(&acme(), player(n)), &[Event::Player(event.into())]).await;
    }

    pub(super) async fn match_event(&self, event: impl Into<GameMatchEvent>) {
        self.append(StreamId::game_match(MATCH), &[Event::GameMatch(event.into())]).await;
    }

    fn queued_event(&self, n: u128, rating: u16, pools: &[&str]) -> PlayerQueued {
        let rating = Rating::new(rating).unwrap();
        let pool = |key: &&str| QueuedPool {
            pool_key: key.parse().unwrap(),
            rating,
            rating_source: RatingSource::Token,
            skill: unproven(rating),
            side_balance: 0,
            rating_call: None,
        };
        PlayerQueued {
            subject_id: player(n),
            entry_id: entry_id(n),
            pools: pools.iter().map(pool).collect(),
            max_rating_gap: None,
            last_opponent: None,
            expires_at: self.clock.now().after(Duration::from_secs(600)),
            metadata: None,
        }
    }

    /// Player `n` joins with entry `n`; a second passes.
    pub(super) async fn queue(&self, n: u128, rating: u16, pools: &[&str]) {
        self.player_event(n, self.queued_event(n, rating, pools)).await;
    }

    pub(super) async fn cancel(&self, n: u128) {
        self.player_event(n, QueueEntryCancelled { subject_id: player(n), entry_id: entry_id(n) }).await;
    }

    /// Players 1 and 2 are paired.
    pub(super) async fn pair(&self, ratings: [u16; 2]) {
        let player_at = |n: u128| {
            let rating = Rating::new(ratings[n as usize - 1]).unwrap();
            let queued_at = Some(super::fixture::start().after(Duration::from_secs(n as u64 - 1)));
            let skill = unproven(rating);
            MatchPlayer {
                subject_id: player(n),
                entry_id: Some(entry_id(n)),
                queued_at,
                release_count: 0,
                rating,
                skill,
            }
        };
        let pool_key = "blitz".parse().unwrap();
        let (first, second) = (player_at(1), player_at(2));
        self.match_event(MatchProposed { match_id: MATCH, pool_key, challenge_id: None, first, second })
            .await;
        for (n, opponent, side) in [(1, 2, Side::First), (2, 1, Side::Second)] {
            let matched = QueueEntryMatched {
                subject_id: player(n),
                entry_id: entry_id(n),
                match_id: MATCH,
                pool_key: "blitz".parse().unwrap(),
                opponent: player(opponent),
                side,
            };
            self.player_event(n, matched).await;
        }
    }

    pub(super) async fn confirm(&self) {
        let result_due_at = self.clock.now().after(Duration::from_secs(7200));
        self.match_event(MatchConfirmed { game_id: None, result_due_at }).await;
    }

    pub(super) async fn as_player(&self, n: u128, path: &str) -> TestResponse {
        self.get_with(path, &[("X-User", &format!("player-{n}"))]).await
    }

    async fn own_entry(&self, n: u128) -> TestResponse {
        self.as_player(n, &format!("/v1/matchmaking/queue/{}", entry_id(n))).await
    }
}

#[tokio::test]
async fn searching_entry_has_window_and_no_match_reason() {
    let fixture = ReadApiFixture::open().await;
    fixture.queue(1, 1500, &["blitz"]).await;
    fixture.queue(2, 1540, &["blitz"]).await;
    fixture.pair([1500, 1540]).await;
    fixture.confirm().await;
    fixture.queue(3, 1500, &["blitz"]).await;
    fixture.queue(4, 1760, &["blitz"]).await;
    fixture.queue(5, 4000, &["blitz"]).await;
    fixture.queue(6, 1620, &["blitz", "rapid"]).await;
    fixture.clock.advance(Duration::from_secs(5));
    assert_snapshot!(fixture.own_entry(6).await.snapshot());
}

#[tokio::test]
async fn entry_has_match_when_placing_and_opponent_when_matched() {
    let fixture = ReadApiFixture::open().await;
    fixture.queue(1, 1500, &["blitz"]).await;
    fixture.queue(2, 1540, &["blitz"]).await;
    fixture.pair([1500, 1540]).await;
    let placing = fixture.own_entry(1).await.json();
    assert_eq!((&placing["status"], &placing["side"]), (&json!("placing"), &json!("first")));
    assert_eq!((&placing["match_id"], &placing["opponent_id"]), (&json!(MATCH.0.to_string()), &Value::Null));
    assert_eq!((&placing["window"], &placing["pools"][0]["window"]), (&Value::Null, &Value::Null));
    fixture.confirm().await;
    assert_snapshot!(fixture.own_entry(2).await.snapshot());
}

#[tokio::test]
async fn released_entry_searches_again_and_keeps_its_waiting_time() {
    let fixture = ReadApiFixture::open().await;
    fixture.queue(1, 1500, &["blitz"]).await;
    fixture.queue(2, 1540, &["blitz"]).await;
    fixture.pair([1500, 1540]).await;
    let (reason, eligible_at) = (AbandonReason::GameServiceFailed, fixture.clock.now());
    fixture.match_event(MatchAbandoned { reason, detail: None, eligible_at }).await;
    let (subject_id, entry_id) = (player(1), entry_id(1));
    let released = QueueEntryReleased { subject_id, entry_id, match_id: MATCH, reason, eligible_at };
    fixture.player_event(1, released).await;
    let entry = fixture.own_entry(1).await.json();
    assert_eq!((&entry["status"], &entry["match_id"]), (&json!("searching"), &Value::Null));
    assert_eq!((&entry["waited_seconds"], &entry["place_in_line"]), (&json!(7.0), &json!(1)));
}

#[tokio::test]
async fn waiting_time_ends_with_the_entry() {
    let fixture = ReadApiFixture::open().await;
    fixture.queue(1, 1500, &["blitz"]).await;
    fixture.cancel(1).await;
    fixture.clock.advance(Duration::from_secs(90));
    let entry = fixture.own_entry(1).await.json();
    assert_eq!((&entry["status"], &entry["waited_seconds"]), (&json!("cancelled"), &json!(1.0)));
    assert_eq!(entry["ended_at"], "2026-11-20T10:00:01.000000Z");
    assert_eq!(entry["pools"][0]["rating"], 1500);
}

#[tokio::test]
async fn entry_of_another_player_gets_404() {
    let fixture = ReadApiFixture::open().await;
    fixture.queue(1, 1500, &["blitz"]).await;
    let path = format!("/v1/matchmaking/queue/{}", entry_id(1));
    assert_eq!(fixture.as_player(1, &path).await.status, 200);
    assert_eq!(fixture.as_player(2, &path).await.status, 404);
    assert_eq!(fixture.get_with(&path, &[("X-User", "unknown")]).await.status, 404);
    let theirs = [("X-User", "player-1"), ("X-Tenant", "other")];
    assert_eq!(fixture.get_with(&path, &theirs).await.status, 404);
    assert_eq!(fixture.get_with("/v1/matchmaking/active", &theirs).await.json()["entry"], Value::Null);
    assert_eq!(fixture.as_player(1, "/v1/matchmaking/queue/entry-1").await.status, 404);
    let unknown = format!("/v1/matchmaking/queue/{}", entry_id(2));
    assert_eq!(fixture.as_player(1, &unknown).await.status, 404);
}

#[tokio::test]
async fn current_activity_has_entry_and_match() {
    let fixture = ReadApiFixture::open().await;
    let active = async |n| fixture.as_player(n, "/v1/matchmaking/active").await.json();
    let idle = json!({"entry": null, "match": null, "challenges": [], "position": 0});
    assert_eq!(active(1).await, idle);
    fixture.queue(1, 1500, &["blitz"]).await;
    assert_eq!(active(1).await["entry"], fixture.own_entry(1).await.json());
    fixture.queue(2, 1540, &["blitz"]).await;
    fixture.pair([1500, 1540]).await;
    let placing = active(1).await;
    assert_eq!(
        (&placing["entry"]["status"], &placing["match"]["status"]),
        (&json!("placing"), &json!("placing"))
    );
    fixture.confirm().await;
    let playing = active(1).await;
    let read = fixture.as_player(1, &format!("/v1/matchmaking/matches/{MATCH}")).await.json();
    assert_eq!((&playing["entry"], &playing["match"]), (&Value::Null, &read));
    fixture.match_event(MatchResultReported { result: GameResult::Draw }).await;
    let over = active(1).await;
    assert_eq!((&over["entry"], &over["match"]), (&Value::Null, &Value::Null));
}

#[tokio::test]
async fn current_activity_has_challenges_of_both_players_only() {
    let fixture = ReadApiFixture::open().await;
    fixture.challenge(CHALLENGE_ID, 1, 2).await;
    fixture.challenge(ChallengeId(Uuid::from_u128(0xc2)), 2, 3).await;
    let challenges = async |n| {
        let active = fixture.as_player(n, "/v1/matchmaking/active").await.json();
        let id = |challenge: &Value| {
            challenge["id"].as_str().unwrap().rsplit_once('-').unwrap().1[10..].to_owned()
        };
        active["challenges"].as_array().unwrap().iter().map(id).collect::<Vec<_>>()
    };
    assert_eq!(challenges(1).await, ["c1"]);
    assert_eq!(challenges(2).await, ["c1", "c2"], "incoming challenges come first");
    assert_eq!(challenges(4).await, [""; 0]);
    fixture.clock.advance(Duration::from_secs(300));
    assert_eq!(challenges(2).await, [""; 0]);
}

#[tokio::test]
async fn entry_has_its_metadata() {
    let fixture = ReadApiFixture::open().await;
    let field = SealedField::QueueMetadata(entry_id(1));
    let metadata = Some(fixture.seal(1, field, r#"{"opened": "notes"}"#).await);
    fixture.player_event(1, PlayerQueued { metadata, ..fixture.queued_event(1, 1500, &["blitz"]) }).await;
    assert_eq!(fixture.own_entry(1).await.json()["metadata"], json!({"opened": "notes"}));
}

#[tokio::test]
async fn entry_gets_304_until_its_window_widens() {
    let fixture = ReadApiFixture::open().await;
    fixture.queue(1, 1500, &["blitz"]).await;
    let path = format!("/v1/matchmaking/queue/{}", entry_id(1));
    let first = fixture.own_entry(1).await;
    let again = [("X-User", "player-1"), ("If-None-Match", first.header("etag"))];
    fixture.clock.advance(Duration::from_secs(8));
    assert_eq!(fixture.get_with(&path, &again).await.status, 304);
    fixture.clock.advance(Duration::from_secs(1));
    let wider = fixture.get_with(&path, &again).await;
    assert_eq!((wider.status, &wider.json()["window"]), (200, &json!(125)));
}

#[tokio::test]
async fn unconfigured_pool_has_default_settings() {
    let fixture = ReadApiFixture::open().await;
    assert_snapshot!(fixture.get("/internal/pools/blitz").await.snapshot());
    let pool_key = "blitz".parse().unwrap();
    let configured = PoolConfigured { pool_key, settings: PoolSettings { window: 40, ..DEFAULTS } };
    let stream = StreamId::pool(&acme(), &configured.pool_key);
    fixture.append(stream, &[Event::Pool(configured.into())]).await;
    fixture.queue(1, 1500, &["blitz"]).await;
    let pool = fixture.get("/internal/pools/blitz").await.json();
    assert_eq!((&pool["configured"], &pool["settings"]["window"]), (&json!(true), &json!(40)));
    assert_eq!(pool["waiting"], 1);
    let theirs = fixture.get_with("/internal/pools/blitz", &[("X-Tenant", "other")]).await.json();
    assert_eq!((&theirs["configured"], &theirs["waiting"]), (&json!(false), &json!(0)));
}

#[tokio::test]
async fn summary_has_waits_ratings_and_match_quality() {
    let fixture = ReadApiFixture::open().await;
    fixture.queue(1, 1500, &["blitz"]).await;
    fixture.queue(2, 1540, &["blitz"]).await;
    fixture.queue(3, 1660, &["blitz", "rapid"]).await;
    fixture.queue(4, 2100, &["blitz"]).await;
    fixture.pair([1500, 1540]).await;
    fixture.confirm().await;
    fixture.queue(5, 2110, &["blitz"]).await;
    fixture.cancel(4).await;
    assert_snapshot!(fixture.get("/internal/queues/summary").await.snapshot());
}

#[tokio::test]
async fn tenant_sees_own_queues_star_sees_all() {
    let fixture = ReadApiFixture::open().await;
    fixture.queue(1, 1500, &["blitz"]).await;
    let other: Tenant = "other".parse().unwrap();
    let theirs = [Event::Player(fixture.queued_event(2, 1500, &["rapid"]).into())];
    fixture.append_for(&other, StreamId::player(&other, player(2)), &theirs).await;
    let pools = async |tenant: &str| {
        let summary = fixture.get_with("/internal/queues/summary", &[("X-Tenant", tenant)]).await.json();
        let pool = |pool: &Value| format!("{} {}", pool["tenant"], pool["pool_key"]).replace('"', "");
        summary["pools"].as_array().unwrap().iter().map(pool).collect::<Vec<_>>()
    };
    assert_eq!(pools("default").await, ["default blitz"]);
    assert_eq!(pools("other").await, ["other rapid"]);
    assert_eq!(pools("unknown").await, [""; 0]);
    assert_eq!(pools("*").await, ["default blitz", "other rapid"]);
}

#[tokio::test]
async fn unchanged_summary_gets_304() {
    let fixture = ReadApiFixture::open().await;
    fixture.queue(1, 1500, &["blitz"]).await;
    let first = fixture.get("/internal/queues/summary").await;
    fixture.clock.advance(Duration::from_secs(60));
    let again = [("If-None-Match", first.header("etag"))];
    assert_eq!(fixture.get_with("/internal/queues/summary", &again).await.status, 304);
    fixture.cancel(1).await;
    assert_eq!(fixture.get_with("/internal/queues/summary", &again).await.status, 200);
}

#[tokio::test]
async fn queue_stream_sends_current_state_and_every_change() {
    let fixture = ReadApiFixture::open().await;
    fixture.queue(1, 1500, &["blitz"]).await;
    let polled = fixture.get("/internal/queues/summary").await.json();
    let mut reader = SseReader::open_at(&fixture, "/internal/queues/stream", None).await.unwrap();
    let first = reader.skip_to("summary").await;
    assert_eq!((first.id, &first.data["pools"]), (polled["position"].as_u64(), &polled["pools"]));
    fixture.queue(2, 1900, &["blitz"]).await;
    while reader.skip_to("summary").await.data["waiting"] != 2 {}
    fixture.cancel(1).await;
    fixture.cancel(2).await;
    let last = loop {
        let update = reader.skip_to("summary").await;
        if update.data["waiting"] == 0 {
            break update;
        }
    };
    assert_eq!(last.data["pools"][0]["by_status"]["cancelled"], 2);
}

#[tokio::test]
async fn queue_stream_sends_growing_waits() {
    let fixture = ReadApiFixture::open().await;
    fixture.queue(1, 1500, &["blitz"]).await;
    fixture.get("/internal/queues/summary").await;
    let mut reader = SseReader::open_at(&fixture, "/internal/queues/stream", None).await.unwrap();
    assert_eq!(reader.skip_to("summary").await.data["pools"][0]["oldest_wait_seconds"], 1.0);
    fixture.clock.advance(Duration::from_secs(30));
    while reader.skip_to("summary").await.data["pools"][0]["oldest_wait_seconds"] != 31.0 {}
}
