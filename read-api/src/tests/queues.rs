//! Who waits, as players and as those who run the server read it.

use std::time::Duration;

use domain::pool::DEFAULTS;
use domain::rating::unproven;
use event_schemas::envelope::Event;
use event_schemas::ids::{ChallengeId, EntryId, MatchRecordId, Tenant};
use event_schemas::match_record::{
    AbandonReason, GameResult, MatchAbandoned, MatchConfirmed, MatchPlayer, MatchProposed, MatchRecordEvent,
    MatchResultReported, Side,
};
use event_schemas::player::{
    PlayerEvent, PlayerQueued, QueueEntryCancelled, QueueEntryMatched, QueueEntryReleased, QueuedPool,
};
use event_schemas::pool::{PoolConfigured, PoolSettings};
use event_schemas::rating::{Rating, RatingSource};
use event_schemas::sealed::Sealed;
use event_schemas::stream::StreamId;
use insta::assert_snapshot;
use serde_json::{Value, json};
use uuid::Uuid;

use super::meetings::OURS;
use super::reader::Reader;
use super::stage::{Answer, Stage, acme, player};

pub(super) const MATCH: MatchRecordId = MatchRecordId(Uuid::from_u128(0xa1));

pub(super) fn entry_id(n: u128) -> EntryId {
    EntryId(Uuid::from_u128(0xe00 + n))
}

impl Stage {
    pub(super) async fn player_event(&self, n: u128, event: impl Into<PlayerEvent>) {
        self.append(StreamId::player(&acme(), player(n)), &[Event::Player(event.into())]).await;
    }

    pub(super) async fn match_event(&self, event: impl Into<MatchRecordEvent>) {
        self.append(StreamId::match_record(MATCH), &[Event::MatchRecord(event.into())]).await;
    }

    fn wish(&self, n: u128, rating: u16, pools: &[&str]) -> PlayerQueued {
        let rating = Rating::new(rating).unwrap();
        let pool = |key: &&str| QueuedPool {
            pool_key: key.parse().unwrap(),
            rating,
            rating_source: RatingSource::Token,
            skill: unproven(rating),
            side_balance: 0,
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

    /// Player `n` joins with their entry `n`; a second passes.
    pub(super) async fn queue(&self, n: u128, rating: u16, pools: &[&str]) {
        self.player_event(n, self.wish(n, rating, pools)).await;
    }

    pub(super) async fn cancel(&self, n: u128) {
        self.player_event(n, QueueEntryCancelled { subject_id: player(n), entry_id: entry_id(n) }).await;
    }

    /// Players 1 and 2 are taken for the match.
    pub(super) async fn pair(&self, ratings: [u16; 2]) {
        let seat = |n: u128| {
            let rating = Rating::new(ratings[n as usize - 1]).unwrap();
            let queued_at = Some(super::stage::start().after(Duration::from_secs(n as u64 - 1)));
            let skill = unproven(rating);
            MatchPlayer {
                subject_id: player(n),
                entry_id: Some(entry_id(n)),
                queued_at,
                round: 0,
                rating,
                skill,
            }
        };
        let pool_key = "blitz".parse().unwrap();
        let (first, second) = (seat(1), seat(2));
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

    pub(super) async fn as_player(&self, n: u128, path: &str) -> Answer {
        self.get_with(path, &[("X-User", &format!("player-{n}"))]).await
    }

    async fn own_entry(&self, n: u128) -> Answer {
        self.as_player(n, &format!("/v1/matchmaking/queue/{}", entry_id(n))).await
    }
}

#[tokio::test]
async fn a_player_reads_how_far_the_search_is_and_why_nobody_was_found() {
    let stage = Stage::open().await;
    stage.queue(1, 1500, &["blitz"]).await;
    stage.queue(2, 1540, &["blitz"]).await;
    stage.pair([1500, 1540]).await;
    stage.confirm().await;
    stage.queue(3, 1500, &["blitz"]).await;
    stage.queue(4, 1760, &["blitz"]).await;
    stage.queue(5, 4000, &["blitz"]).await;
    stage.queue(6, 1620, &["blitz", "rapid"]).await;
    stage.clock.advance(Duration::from_secs(5));
    assert_snapshot!(stage.own_entry(6).await.whole());
}

#[tokio::test]
async fn a_player_reads_the_match_at_once_and_the_opponent_once_the_game_is_there() {
    let stage = Stage::open().await;
    stage.queue(1, 1500, &["blitz"]).await;
    stage.queue(2, 1540, &["blitz"]).await;
    stage.pair([1500, 1540]).await;
    let placing = stage.own_entry(1).await.json();
    assert_eq!((&placing["status"], &placing["side"]), (&json!("placing"), &json!("first")));
    assert_eq!((&placing["match_id"], &placing["opponent_id"]), (&json!(MATCH.0.to_string()), &Value::Null));
    assert_eq!((&placing["window"], &placing["pools"][0]["window"]), (&Value::Null, &Value::Null));
    stage.confirm().await;
    assert_snapshot!(stage.own_entry(2).await.whole());
}

#[tokio::test]
async fn an_entry_whose_game_could_not_be_made_searches_on_and_has_waited_since_it_was_queued() {
    let stage = Stage::open().await;
    stage.queue(1, 1500, &["blitz"]).await;
    stage.queue(2, 1540, &["blitz"]).await;
    stage.pair([1500, 1540]).await;
    let (reason, eligible_at) = (AbandonReason::GameServiceFailed, stage.clock.now());
    stage.match_event(MatchAbandoned { reason, detail: None, eligible_at }).await;
    let (subject_id, entry_id) = (player(1), entry_id(1));
    let released = QueueEntryReleased { subject_id, entry_id, match_id: MATCH, reason, eligible_at };
    stage.player_event(1, released).await;
    let entry = stage.own_entry(1).await.json();
    assert_eq!((&entry["status"], &entry["match_id"]), (&json!("searching"), &Value::Null));
    assert_eq!((&entry["waited_seconds"], &entry["place_in_line"]), (&json!(7.0), &json!(1)));
}

#[tokio::test]
async fn a_wait_ends_with_its_entry() {
    let stage = Stage::open().await;
    stage.queue(1, 1500, &["blitz"]).await;
    stage.cancel(1).await;
    stage.clock.advance(Duration::from_secs(90));
    let entry = stage.own_entry(1).await.json();
    assert_eq!((&entry["status"], &entry["waited_seconds"]), (&json!("cancelled"), &json!(1.0)));
    assert_eq!(entry["ended_at"], "2026-11-20T10:00:01.000000Z");
    assert_eq!(entry["pools"][0]["rating"], 1500);
}

#[tokio::test]
async fn anothers_entry_is_not_there() {
    let stage = Stage::open().await;
    stage.queue(1, 1500, &["blitz"]).await;
    let path = format!("/v1/matchmaking/queue/{}", entry_id(1));
    assert_eq!(stage.as_player(1, &path).await.status, 200);
    assert_eq!(stage.as_player(2, &path).await.status, 404);
    assert_eq!(stage.get_with(&path, &[("X-User", "nobody")]).await.status, 404);
    let theirs = [("X-User", "player-1"), ("X-Tenant", "other")];
    assert_eq!(stage.get_with(&path, &theirs).await.status, 404);
    assert_eq!(stage.get_with("/v1/matchmaking/active", &theirs).await.json()["entry"], Value::Null);
    assert_eq!(stage.as_player(1, "/v1/matchmaking/queue/entry-1").await.status, 404);
    let unknown = format!("/v1/matchmaking/queue/{}", entry_id(2));
    assert_eq!(stage.as_player(1, &unknown).await.status, 404);
}

#[tokio::test]
async fn a_player_reads_what_they_are_in() {
    let stage = Stage::open().await;
    let active = async |n| stage.as_player(n, "/v1/matchmaking/active").await.json();
    let free = json!({"entry": null, "match": null, "challenges": [], "position": 0});
    assert_eq!(active(1).await, free);
    stage.queue(1, 1500, &["blitz"]).await;
    assert_eq!(active(1).await["entry"], stage.own_entry(1).await.json());
    stage.queue(2, 1540, &["blitz"]).await;
    stage.pair([1500, 1540]).await;
    let placing = active(1).await;
    assert_eq!(
        (&placing["entry"]["status"], &placing["match"]["status"]),
        (&json!("placing"), &json!("placing"))
    );
    stage.confirm().await;
    let playing = active(1).await;
    let read = stage.as_player(1, &format!("/v1/matchmaking/matches/{MATCH}")).await.json();
    assert_eq!((&playing["entry"], &playing["match"]), (&Value::Null, &read));
    stage.match_event(MatchResultReported { result: GameResult::Draw }).await;
    let over = active(1).await;
    assert_eq!((&over["entry"], &over["match"]), (&Value::Null, &Value::Null));
}

#[tokio::test]
async fn open_challenges_are_told_to_both_and_to_nobody_else() {
    let stage = Stage::open().await;
    stage.challenge(OURS, 1, 2).await;
    stage.challenge(ChallengeId(Uuid::from_u128(0xc2)), 2, 3).await;
    let challenges = async |n| {
        let active = stage.as_player(n, "/v1/matchmaking/active").await.json();
        let id = |challenge: &Value| {
            challenge["id"].as_str().unwrap().rsplit_once('-').unwrap().1[10..].to_owned()
        };
        active["challenges"].as_array().unwrap().iter().map(id).collect::<Vec<_>>()
    };
    assert_eq!(challenges(1).await, ["c1"]);
    assert_eq!(challenges(2).await, ["c1", "c2"], "whom they were asked by comes first");
    assert_eq!(challenges(4).await, [""; 0]);
    stage.clock.advance(Duration::from_secs(300));
    assert_eq!(challenges(2).await, [""; 0]);
}

#[tokio::test]
async fn a_player_reads_their_own_notes_as_long_as_they_are_remembered() {
    let stage = Stage::open().await;
    let metadata = Some(Sealed::from_base64("notes".to_owned()));
    stage.player_event(1, PlayerQueued { metadata, ..stage.wish(1, 1500, &["blitz"]) }).await;
    assert_eq!(stage.own_entry(1).await.json()["metadata"], json!({"opened": "notes"}));
}

#[tokio::test]
async fn an_unchanged_entry_is_not_sent_again_until_its_window_widens() {
    let stage = Stage::open().await;
    stage.queue(1, 1500, &["blitz"]).await;
    let path = format!("/v1/matchmaking/queue/{}", entry_id(1));
    let first = stage.own_entry(1).await;
    let again = [("X-User", "player-1"), ("If-None-Match", first.header("etag"))];
    stage.clock.advance(Duration::from_secs(8));
    assert_eq!(stage.get_with(&path, &again).await.status, 304);
    stage.clock.advance(Duration::from_secs(1));
    let wider = stage.get_with(&path, &again).await;
    assert_eq!((wider.status, &wider.json()["window"]), (200, &json!(125)));
}

#[tokio::test]
async fn a_pool_has_the_defaults_until_it_is_configured() {
    let stage = Stage::open().await;
    assert_snapshot!(stage.get("/internal/pools/blitz").await.whole());
    let pool_key = "blitz".parse().unwrap();
    let configured = PoolConfigured { pool_key, settings: PoolSettings { window: 40, ..DEFAULTS } };
    let stream = StreamId::pool(&acme(), &configured.pool_key);
    stage.append(stream, &[Event::Pool(configured.into())]).await;
    stage.queue(1, 1500, &["blitz"]).await;
    let pool = stage.get("/internal/pools/blitz").await.json();
    assert_eq!((&pool["configured"], &pool["settings"]["window"]), (&json!(true), &json!(40)));
    assert_eq!(pool["waiting"], 1);
    let theirs = stage.get_with("/internal/pools/blitz", &[("X-Tenant", "other")]).await.json();
    assert_eq!((&theirs["configured"], &theirs["waiting"]), (&json!(false), &json!(0)));
}

#[tokio::test]
async fn the_summary_tells_who_waits_how_long_and_what_matches_were_like() {
    let stage = Stage::open().await;
    stage.queue(1, 1500, &["blitz"]).await;
    stage.queue(2, 1540, &["blitz"]).await;
    stage.queue(3, 1660, &["blitz", "rapid"]).await;
    stage.queue(4, 2100, &["blitz"]).await;
    stage.pair([1500, 1540]).await;
    stage.confirm().await;
    stage.queue(5, 2110, &["blitz"]).await;
    stage.cancel(4).await;
    assert_snapshot!(stage.get("/internal/queues/summary").await.whole());
}

#[tokio::test]
async fn a_tenant_sees_its_own_queues_and_the_star_sees_all() {
    let stage = Stage::open().await;
    stage.queue(1, 1500, &["blitz"]).await;
    let other: Tenant = "other".parse().unwrap();
    let theirs = [Event::Player(stage.wish(2, 1500, &["rapid"]).into())];
    stage.append_for(&other, StreamId::player(&other, player(2)), &theirs).await;
    let pools = async |tenant: &str| {
        let summary = stage.get_with("/internal/queues/summary", &[("X-Tenant", tenant)]).await.json();
        let pool = |pool: &Value| format!("{} {}", pool["tenant"], pool["pool_key"]).replace('"', "");
        summary["pools"].as_array().unwrap().iter().map(pool).collect::<Vec<_>>()
    };
    assert_eq!(pools("default").await, ["default blitz"]);
    assert_eq!(pools("other").await, ["other rapid"]);
    assert_eq!(pools("nobody").await, [""; 0]);
    assert_eq!(pools("*").await, ["default blitz", "other rapid"]);
}

#[tokio::test]
async fn an_unchanged_summary_is_not_sent_again() {
    let stage = Stage::open().await;
    stage.queue(1, 1500, &["blitz"]).await;
    let first = stage.get("/internal/queues/summary").await;
    stage.clock.advance(Duration::from_secs(60));
    let again = [("If-None-Match", first.header("etag"))];
    assert_eq!(stage.get_with("/internal/queues/summary", &again).await.status, 304);
    stage.cancel(1).await;
    assert_eq!(stage.get_with("/internal/queues/summary", &again).await.status, 200);
}

#[tokio::test]
async fn whoever_follows_the_queues_is_told_how_they_stand_and_every_change() {
    let stage = Stage::open().await;
    stage.queue(1, 1500, &["blitz"]).await;
    let polled = stage.get("/internal/queues/summary").await.json();
    let mut reader = Reader::open_at(&stage, "/internal/queues/stream", None).await.unwrap();
    let first = reader.skip_to("summary").await;
    assert_eq!((first.id, &first.data["pools"]), (polled["position"].as_u64(), &polled["pools"]));
    stage.queue(2, 1900, &["blitz"]).await;
    while reader.skip_to("summary").await.data["waiting"] != 2 {}
    stage.cancel(1).await;
    stage.cancel(2).await;
    let last = loop {
        let told = reader.skip_to("summary").await;
        if told.data["waiting"] == 0 {
            break told;
        }
    };
    assert_eq!(last.data["pools"][0]["by_status"]["cancelled"], 2);
}

#[tokio::test]
async fn waits_are_told_as_they_grow() {
    let stage = Stage::open().await;
    stage.queue(1, 1500, &["blitz"]).await;
    stage.get("/internal/queues/summary").await;
    let mut reader = Reader::open_at(&stage, "/internal/queues/stream", None).await.unwrap();
    assert_eq!(reader.skip_to("summary").await.data["pools"][0]["oldest_wait_seconds"], 1.0);
    stage.clock.advance(Duration::from_secs(30));
    while reader.skip_to("summary").await.data["pools"][0]["oldest_wait_seconds"] != 31.0 {}
}
