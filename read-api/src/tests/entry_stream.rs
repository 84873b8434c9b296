//! Queue entries as their players follow them: whole streams, frame by frame, and streams that were cut and resumed.

mod cuts;

use std::time::Duration;

use domain::pool::DEFAULTS;
use domain::rating::unproven;
use event_log::clock::Clock;
use event_schemas::envelope::Event;
use event_schemas::ids::{ChallengeId, MatchRecordId, Position};
use event_schemas::match_record::{
    AbandonReason, MatchAbandoned, MatchConfirmed, MatchPlayer, MatchProposed, MatchRecordEvent, Side,
};
use event_schemas::player::{
    FreedReason, PlayerEngaged, PlayerEvent, PlayerFreed, QueueEntryCancelled, QueueEntryExpired,
    QueueEntryMatched, QueueEntryReleased,
};
use event_schemas::rating::Rating;
use event_schemas::stream::StreamId;
use insta::assert_snapshot;
use serde_json::{Value, json};
use uuid::Uuid;
use web::caller::{Auth, Claims, Keys, Role, mint};

use super::queues::entry_id;
use super::reader::{Reader, Told};
use super::stage::{Stage, acme, now, player, start};
use crate::server::Access;
use crate::stream::FollowEntry;

const SECRET: &[u8] = b"a secret of at least thirty-two bytes";
const CHALLENGE: ChallengeId = ChallengeId(Uuid::from_u128(0xc1));
/// Whoever is met.
const OTHER: u128 = 77;

fn match_of(n: u128) -> MatchRecordId {
    MatchRecordId(Uuid::from_u128(0xa000 + n))
}

fn path(n: u128) -> String {
    format!("/v1/matchmaking/queue/{}/stream", entry_id(n))
}

impl Stage {
    async fn of_player(&self, n: u128, event: impl Into<PlayerEvent>) -> Position {
        self.append(StreamId::player(&acme(), player(n)), &[Event::Player(event.into())]).await
    }

    async fn of_match(
        &self,
        id: MatchRecordId,
        events: impl IntoIterator<Item = MatchRecordEvent>,
    ) -> Position {
        let events: Vec<Event> = events.into_iter().map(Event::MatchRecord).collect();
        self.append(StreamId::match_record(id), &events).await
    }

    pub(crate) async fn joined(&self, n: u128) -> Position {
        self.queue(n, 1500, &["blitz", "rapid"]).await;
        self.head()
    }

    fn proposal(&self, n: u128, id: MatchRecordId, challenge_id: Option<ChallengeId>) -> MatchProposed {
        let rating = Rating::new(1500).unwrap();
        let seat = |n: u128| MatchPlayer {
            subject_id: player(n),
            entry_id: challenge_id.is_none().then(|| entry_id(n)),
            queued_at: challenge_id.is_none().then(start),
            round: 0,
            rating,
            skill: unproven(rating),
        };
        let (pool_key, first, second) = ("blitz".parse().unwrap(), seat(OTHER), seat(n));
        MatchProposed { match_id: id, pool_key, challenge_id, first, second }
    }

    /// The player's entry is taken for the match.
    async fn taken(&self, n: u128, id: MatchRecordId) -> Position {
        self.of_match(id, [self.proposal(n, id, None).into()]).await;
        let matched = QueueEntryMatched {
            subject_id: player(n),
            entry_id: entry_id(n),
            match_id: id,
            pool_key: "blitz".parse().unwrap(),
            opponent: player(OTHER),
            side: Side::Second,
        };
        self.of_player(n, matched).await
    }

    fn confirmation(&self) -> MatchRecordEvent {
        let game_id = Some("game-1".parse().unwrap());
        MatchConfirmed { game_id, result_due_at: self.clock.now().after(Duration::from_secs(7200)) }.into()
    }

    async fn met(&self, id: MatchRecordId) -> Position {
        self.of_match(id, [self.confirmation()]).await
    }

    /// A challenge takes the player out of the queue; each time for the same match.
    pub(crate) async fn engaged(&self, n: u128, attempt: u32) -> Position {
        let engaged = PlayerEngaged {
            subject_id: player(n),
            match_id: match_of(n),
            attempt,
            challenge_id: CHALLENGE,
            pool_key: "rapid".parse().unwrap(),
            opponent: player(OTHER),
            left_entry: Some(entry_id(n)),
        };
        self.of_player(n, engaged).await
    }

    /// The match of a challenge is recorded whole, once its game is there.
    pub(crate) async fn met_by_challenge(&self, n: u128) -> Position {
        let proposal = self.proposal(n, match_of(n), Some(CHALLENGE));
        self.of_match(match_of(n), [proposal.into(), self.confirmation()]).await
    }

    /// The match that the entry was taken for came to nothing.
    pub(crate) async fn let_go(&self, n: u128, reason: AbandonReason) -> Position {
        self.released(n, match_of(n), reason).await
    }

    async fn released(&self, n: u128, match_id: MatchRecordId, reason: AbandonReason) -> Position {
        let eligible_at = self.clock.now().after(Duration::from_secs(1));
        let (subject_id, entry_id) = (player(n), entry_id(n));
        self.of_player(n, QueueEntryReleased { subject_id, entry_id, match_id, reason, eligible_at }).await
    }

    async fn failed(&self, n: u128, id: MatchRecordId) -> Position {
        let (reason, eligible_at) = (AbandonReason::GameServiceFailed, self.clock.now());
        self.of_match(id, [MatchAbandoned { reason, detail: None, eligible_at }.into()]).await;
        self.released(n, id, reason).await
    }

    /// What a reader of the entry's stream is told from `last` on, to its end.
    async fn told(&self, n: u128, last: Option<u64>) -> Vec<Told> {
        // The read model has caught up with what was appended before.
        self.get("/v1/matchmaking/active").await;
        Reader::open_at(self, &path(n), last).await.unwrap().rest().await
    }
}

/// Someone who begins to follow the entry, as a trusted caller.
pub(crate) async fn follow(stage: &Stage, n: u128) -> FollowEntry {
    stage.get("/v1/matchmaking/active").await;
    let caller = web::caller::Caller {
        tenant: acme(),
        user: None,
        roles: Role::Service.into(),
        ratings: Default::default(),
        via: web::caller::Credential::Token,
    };
    FollowEntry::open(&stage.api, &caller, entry_id(n), None).await.unwrap().unwrap()
}

/// As it is told, without what is of the connection.
fn plain(told: &Told) -> (String, Option<u64>, Value) {
    let mut data = told.data.clone();
    for member in ["connection_id", "update_count"] {
        data.as_object_mut().unwrap().remove(member);
    }
    (told.event.clone(), told.id, data)
}

fn frames(all: &[Told]) -> String {
    let text = |told: &Told| {
        let (event, id, data) = plain(told);
        format!("{event} {id:?}\n{data:#}")
    };
    all.iter().map(text).collect::<Vec<_>>().join("\n")
}

fn with_ids(all: &[Told]) -> Vec<(String, Option<u64>, Value)> {
    all.iter().filter(|told| told.id.is_some()).map(plain).collect()
}

#[tokio::test]
async fn a_reader_is_told_every_change_from_joining_to_the_match() {
    let stage = Stage::open().await;
    stage.joined(1).await;
    stage.get("/v1/matchmaking/active").await;
    let mut reader = Reader::open_at(&stage, &path(1), None).await.unwrap();
    let mut all = vec![reader.skip_to("connected").await, reader.skip_to("searching").await];
    stage.taken(1, match_of(1)).await;
    all.push(reader.skip_to("placing").await);
    stage.failed(1, match_of(1)).await;
    all.push(reader.skip_to("searching").await);
    stage.taken(1, match_of(2)).await;
    all.push(reader.skip_to("placing").await);
    stage.met(match_of(2)).await;
    all.extend(reader.rest().await);
    assert_snapshot!(frames(&all));
}

#[tokio::test]
async fn a_challenge_takes_the_entry_along_and_brings_it_back_if_it_comes_to_nothing() {
    let stage = Stage::open().await;
    stage.joined(1).await;
    stage.engaged(1, 1).await;
    stage.let_go(1, AbandonReason::PlayerUnavailable).await;
    stage.engaged(1, 2).await;
    // Tried again while both are still held by it: nothing changes for the entry.
    stage.engaged(1, 3).await;
    stage.met_by_challenge(1).await;
    let freed = PlayerFreed { subject_id: player(1), match_id: match_of(1), reason: FreedReason::Expired };
    stage.of_player(1, freed).await;
    assert_snapshot!(frames(&stage.told(1, Some(0)).await));
}

#[tokio::test]
async fn whoever_comes_late_is_told_how_the_entry_stands_and_whoever_has_seen_the_end_nothing() {
    let stage = Stage::open().await;
    stage.joined(1).await;
    stage.taken(1, match_of(1)).await;
    let end = stage.met(match_of(1)).await;
    let told = stage.told(1, None).await;
    assert_eq!(super::reader::names(&told), ["connected", "matched", "stream_ended"]);
    assert_eq!(told[1].id, Some(end.0));
    assert_eq!(Reader::open_at(&stage, &path(1), Some(end.0)).await.err(), Some(204));
    // A position that this log has not come to says nothing about what was seen.
    assert_eq!(stage.told(1, Some(end.0 + 100)).await.len(), 3);
}

#[tokio::test]
async fn a_cancelled_and_an_expired_entry_end_their_streams() {
    let stage = Stage::open().await;
    stage.joined(1).await;
    stage.of_player(1, QueueEntryCancelled { subject_id: player(1), entry_id: entry_id(1) }).await;
    // What becomes of the next entry is not told of this one.
    stage.joined(2).await;
    stage.of_player(2, QueueEntryExpired { subject_id: player(2), entry_id: entry_id(2) }).await;
    for (n, end) in [(1, "cancelled"), (2, "expired")] {
        let told = stage.told(n, Some(0)).await;
        assert_eq!(super::reader::names(&told), ["connected", "searching", end, "stream_ended"]);
        assert_eq!(told[2].data["waited_seconds"], 1.0);
    }
}

#[tokio::test]
async fn as_the_window_widens_a_reader_is_told_how_far_it_reaches() {
    let stage = Stage::open().await;
    stage.joined(1).await;
    stage.queue(2, 1620, &["blitz"]).await;
    stage.get("/v1/matchmaking/active").await;
    let mut reader = Reader::open_at(&stage, &path(1), None).await.unwrap();
    reader.skip_to("connected").await;
    assert!(reader.skip_to("searching").await.id.is_some());
    let first = reader.skip_to("searching").await;
    let reach = |told: &Told| (told.id, told.data["window"].clone(), told.data["candidates"].clone());
    assert_eq!(reach(&first), (None, json!(DEFAULTS.window), json!(0)));
    stage.clock.advance(Duration::from_secs(10));
    let wider = reader.skip_to("searching").await;
    assert_eq!(reach(&wider), (None, json!(DEFAULTS.window + DEFAULTS.widen_by), json!(1)));
}

#[tokio::test]
async fn an_entry_is_there_for_its_player_and_for_trusted_callers_of_its_tenant() {
    let keys =
        |clock: &Clock| Auth::with_keys(Keys::default().secret(SECRET).unwrap(), Vec::new(), now(clock));
    let stage = Stage::with(keys, Access::Keys, Vec::new()).await;
    stage.joined(1).await;
    stage.of_player(1, QueueEntryCancelled { subject_id: player(1), entry_id: entry_id(1) }).await;
    let status = async |tenant: &str, user: &str, role: Role| {
        let tenant = tenant.parse().unwrap();
        let claims = Claims::new(&tenant, user, role.into(), start(), Duration::from_secs(3600));
        let token = format!("Bearer {}", mint(SECRET, &claims).unwrap());
        stage.get_with(&path(1), &[("Authorization", &token)]).await.status
    };
    assert_eq!(status("default", "player-1", Role::User).await, 200);
    assert_eq!(status("default", "player-2", Role::User).await, 404);
    assert_eq!(status("default", "nobody", Role::User).await, 404);
    assert_eq!(status("default", "backend", Role::Service).await, 200);
    assert_eq!(status("default", "player-1", Role::Worker).await, 403);
    assert_eq!(status("other", "player-1", Role::User).await, 404);
}

#[tokio::test]
async fn on_an_open_server_who_says_who_they_are_follows_their_own_entry_only() {
    let stage = Stage::open().await;
    stage.joined(1).await;
    stage.of_player(1, QueueEntryCancelled { subject_id: player(1), entry_id: entry_id(1) }).await;
    assert_eq!(stage.as_player(1, &path(1)).await.status, 200);
    assert_eq!(stage.as_player(2, &path(1)).await.status, 404);
    assert_eq!(stage.get(&path(1)).await.status, 200);
}
