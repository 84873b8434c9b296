//! Streams of queue entries: whole streams, event by event, and streams that were interrupted and resumed.

mod reconnects;

use std::time::Duration;

use domain::pool::DEFAULTS;
use domain::rating::unproven;
use event_log::clock::Clock;
use event_schemas::envelope::Event;
use event_schemas::game_match::{
    AbandonReason, GameMatchEvent, MatchAbandoned, MatchConfirmed, MatchPlayer, MatchProposed, Side,
};
use event_schemas::ids::{ChallengeId, GameMatchId, Position};
use event_schemas::player::{
    PlayerEvent, PlayerReleased, PlayerReserved, QueueEntryCancelled, QueueEntryExpired, QueueEntryMatched,
    QueueEntryReleased, ReleaseReason,
};
use event_schemas::rating::Rating;
use event_schemas::stream::StreamId;
use insta::assert_snapshot;
use serde_json::{Value, json};
use uuid::Uuid;
use web::caller::{Auth, Claims, Keys, Role, mint};

use super::fixture::{ReadApiFixture, acme, now, player, start};
use super::queues::entry_id;
use super::sse_reader::{ReceivedEvent, SseReader};
use crate::server::Access;
use crate::stream::QueueEntryFollower;

const SECRET: &[u8] = b"a secret of at least thirty-two bytes";
const CHALLENGE: ChallengeId = ChallengeId(Uuid::from_u128(0xc1));
/// The opponent.
const OPPONENT: u128 = 77;

fn match_of(n: u128) -> GameMatchId {
    GameMatchId(Uuid::from_u128(0xa000 + n))
}

pub(super) fn path(n: u128) -> String {
    format!("/v1/matchmaking/queue/{}/stream", entry_id(n))
}

impl ReadApiFixture {
    async fn append_player_event(&self, n: u128, event: impl Into<PlayerEvent>) -> Position {
        self.append(StreamId::player(&acme(), player(n)), &[Event::Player(event.into())]).await
    }

    async fn append_match_events(
        &self,
        id: GameMatchId,
        events: impl IntoIterator<Item = GameMatchEvent>,
    ) -> Position {
        let events: Vec<Event> = events.into_iter().map(Event::GameMatch).collect();
        self.append(StreamId::game_match(id), &events).await
    }

    pub(crate) async fn joined(&self, n: u128) -> Position {
        self.queue(n, 1500, &["blitz", "rapid"]).await;
        self.head()
    }

    fn proposal(&self, n: u128, id: GameMatchId, challenge_id: Option<ChallengeId>) -> MatchProposed {
        let rating = Rating::new(1500).unwrap();
        let player_at = |n: u128| MatchPlayer {
            subject_id: player(n),
            entry_id: challenge_id.is_none().then(|| entry_id(n)),
            queued_at: challenge_id.is_none().then(start),
            release_count: 0,
            rating,
            skill: unproven(rating),
        };
        let (pool_key, first, second) = ("blitz".parse().unwrap(), player_at(OPPONENT), player_at(n));
        MatchProposed { match_id: id, pool_key, challenge_id, first, second }
    }

    /// The queue reserves the player's entry for the match.
    async fn reserved(&self, n: u128, id: GameMatchId) -> Position {
        self.append_match_events(id, [self.proposal(n, id, None).into()]).await;
        let matched = QueueEntryMatched {
            subject_id: player(n),
            entry_id: entry_id(n),
            match_id: id,
            pool_key: "blitz".parse().unwrap(),
            opponent: player(OPPONENT),
            side: Side::Second,
        };
        self.append_player_event(n, matched).await
    }

    fn confirmation(&self) -> GameMatchEvent {
        let game_id = Some("game-1".parse().unwrap());
        MatchConfirmed { game_id, result_due_at: self.clock.now().after(Duration::from_secs(7200)) }.into()
    }

    async fn confirmed(&self, id: GameMatchId) -> Position {
        self.append_match_events(id, [self.confirmation()]).await
    }

    /// A challenge reserves the player, each time for the same match.
    pub(crate) async fn reserved_by_challenge(&self, n: u128, attempt: u32) -> Position {
        let reserved = PlayerReserved {
            subject_id: player(n),
            match_id: match_of(n),
            attempt,
            challenge_id: CHALLENGE,
            pool_key: "rapid".parse().unwrap(),
            opponent: player(OPPONENT),
            left_entry: Some(entry_id(n)),
        };
        self.append_player_event(n, reserved).await
    }

    /// The match of a challenge is recorded at once, when its game was created.
    pub(crate) async fn confirmed_by_challenge(&self, n: u128) -> Position {
        let proposal = self.proposal(n, match_of(n), Some(CHALLENGE));
        self.append_match_events(match_of(n), [proposal.into(), self.confirmation()]).await
    }

    /// The match that the entry was reserved for failed.
    pub(crate) async fn released(&self, n: u128, reason: AbandonReason) -> Position {
        self.released_from(n, match_of(n), reason).await
    }

    async fn released_from(&self, n: u128, match_id: GameMatchId, reason: AbandonReason) -> Position {
        let eligible_at = self.clock.now().after(Duration::from_secs(1));
        let (subject_id, entry_id) = (player(n), entry_id(n));
        self.append_player_event(
            n,
            QueueEntryReleased { subject_id, entry_id, match_id, reason, eligible_at },
        )
        .await
    }

    async fn match_failed(&self, n: u128, id: GameMatchId) -> Position {
        let (reason, eligible_at) = (AbandonReason::GameServiceFailed, self.clock.now());
        self.append_match_events(id, [MatchAbandoned { reason, detail: None, eligible_at }.into()]).await;
        self.released_from(n, id, reason).await
    }

    /// The events that a client of the entry's stream receives from `last` to the end.
    async fn received(&self, n: u128, last: Option<u64>) -> Vec<ReceivedEvent> {
        // This read waits for the read model.
        self.get("/v1/matchmaking/active").await;
        SseReader::open_at(self, &path(n), last).await.unwrap().rest().await
    }
}

/// Opens the entry's stream as a trusted caller.
pub(crate) async fn open_stream(fixture: &ReadApiFixture, n: u128) -> QueueEntryFollower {
    fixture.get("/v1/matchmaking/active").await;
    let caller = web::caller::Caller {
        tenant: acme(),
        user: None,
        roles: Role::Service.into(),
        ratings: Default::default(),
        via: web::caller::Credential::Token,
        expires_at: None,
    };
    QueueEntryFollower::open(&fixture.api, &caller, entry_id(n), None).await.unwrap().unwrap()
}

/// The event without the members that depend on the connection.
fn without_connection(received: &ReceivedEvent) -> (String, Option<u64>, Value) {
    let mut data = received.data.clone();
    for member in ["connection_id", "update_count"] {
        data.as_object_mut().unwrap().remove(member);
    }
    (received.name.clone(), received.id, data)
}

fn format_events(all: &[ReceivedEvent]) -> String {
    let text = |received: &ReceivedEvent| {
        let (name, id, data) = without_connection(received);
        format!("{name} {id:?}\n{data:#}")
    };
    all.iter().map(text).collect::<Vec<_>>().join("\n")
}

fn with_ids(all: &[ReceivedEvent]) -> Vec<(String, Option<u64>, Value)> {
    all.iter().filter(|received| received.id.is_some()).map(without_connection).collect()
}

#[tokio::test]
async fn client_receives_every_change_from_queueing_to_match() {
    let fixture = ReadApiFixture::open().await;
    fixture.joined(1).await;
    fixture.get("/v1/matchmaking/active").await;
    let mut reader = SseReader::open_at(&fixture, &path(1), None).await.unwrap();
    let mut all = vec![reader.skip_to("connected").await, reader.skip_to("searching").await];
    fixture.reserved(1, match_of(1)).await;
    all.push(reader.skip_to("placing").await);
    fixture.match_failed(1, match_of(1)).await;
    all.push(reader.skip_to("searching").await);
    fixture.reserved(1, match_of(2)).await;
    all.push(reader.skip_to("placing").await);
    fixture.confirmed(match_of(2)).await;
    all.extend(reader.rest().await);
    assert_snapshot!(format_events(&all));
}

#[tokio::test]
async fn challenge_reserves_the_entry_and_releases_it_on_failure() {
    let fixture = ReadApiFixture::open().await;
    fixture.joined(1).await;
    fixture.reserved_by_challenge(1, 1).await;
    fixture.released(1, AbandonReason::PlayerUnavailable).await;
    fixture.reserved_by_challenge(1, 2).await;
    // Retried while both players are still reserved: nothing changes for the entry.
    fixture.reserved_by_challenge(1, 3).await;
    fixture.confirmed_by_challenge(1).await;
    let released =
        PlayerReleased { subject_id: player(1), match_id: match_of(1), reason: ReleaseReason::Expired };
    fixture.append_player_event(1, released).await;
    assert_snapshot!(format_events(&fixture.received(1, Some(0)).await));
}

#[tokio::test]
async fn late_client_gets_current_state_finished_client_gets_204() {
    let fixture = ReadApiFixture::open().await;
    fixture.joined(1).await;
    fixture.reserved(1, match_of(1)).await;
    let end = fixture.confirmed(match_of(1)).await;
    let events = fixture.received(1, None).await;
    assert_eq!(super::sse_reader::event_names(&events), ["connected", "matched", "stream_ended"]);
    assert_eq!(events[1].id, Some(end.0));
    assert_eq!(SseReader::open_at(&fixture, &path(1), Some(end.0)).await.err(), Some(204));
    // A position beyond the head is ignored.
    assert_eq!(fixture.received(1, Some(end.0 + 100)).await.len(), 3);
}

#[tokio::test]
async fn cancellation_and_expiry_end_the_stream() {
    let fixture = ReadApiFixture::open().await;
    fixture.joined(1).await;
    fixture
        .append_player_event(1, QueueEntryCancelled { subject_id: player(1), entry_id: entry_id(1) })
        .await;
    // Events of the next entry are not sent.
    fixture.joined(2).await;
    fixture.append_player_event(2, QueueEntryExpired { subject_id: player(2), entry_id: entry_id(2) }).await;
    for (n, end) in [(1, "cancelled"), (2, "expired")] {
        let events = fixture.received(n, Some(0)).await;
        assert_eq!(super::sse_reader::event_names(&events), ["connected", "searching", end, "stream_ended"]);
        assert_eq!(events[2].data["waited_seconds"], 1.0);
    }
}

#[tokio::test]
async fn widening_window_is_sent() {
    let fixture = ReadApiFixture::open().await;
    fixture.joined(1).await;
    fixture.queue(2, 1620, &["blitz"]).await;
    fixture.get("/v1/matchmaking/active").await;
    let mut reader = SseReader::open_at(&fixture, &path(1), None).await.unwrap();
    reader.skip_to("connected").await;
    assert!(reader.skip_to("searching").await.id.is_some());
    let first = reader.skip_to("searching").await;
    let window = |received: &ReceivedEvent| {
        (received.id, received.data["window"].clone(), received.data["candidates"].clone())
    };
    assert_eq!(window(&first), (None, json!(DEFAULTS.window), json!(0)));
    fixture.clock.advance(Duration::from_secs(10));
    let wider = reader.skip_to("searching").await;
    assert_eq!(window(&wider), (None, json!(DEFAULTS.window + DEFAULTS.widen_by), json!(1)));
}

#[tokio::test]
async fn entry_is_visible_to_its_player_and_trusted_callers() {
    let keys =
        |clock: &Clock| Auth::with_keys(Keys::default().secret(SECRET).unwrap(), Vec::new(), now(clock));
    let fixture = ReadApiFixture::with(keys, Access::Keys, Vec::new()).await;
    fixture.joined(1).await;
    fixture
        .append_player_event(1, QueueEntryCancelled { subject_id: player(1), entry_id: entry_id(1) })
        .await;
    let status = async |tenant: &str, user: &str, role: Role| {
        let tenant = tenant.parse().unwrap();
        let claims = Claims::new(&tenant, user, role.into(), start(), Duration::from_secs(3600));
        let token = format!("Bearer {}", mint(SECRET, &claims).unwrap());
        fixture.get_with(&path(1), &[("Authorization", &token)]).await.status
    };
    assert_eq!(status("default", "player-1", Role::User).await, 200);
    assert_eq!(status("default", "player-2", Role::User).await, 404);
    assert_eq!(status("default", "unknown", Role::User).await, 404);
    assert_eq!(status("default", "backend", Role::Service).await, 200);
    assert_eq!(status("default", "player-1", Role::Worker).await, 403);
    assert_eq!(status("other", "player-1", Role::User).await, 404);
}

#[tokio::test]
async fn named_user_on_open_server_streams_only_own_entry() {
    let fixture = ReadApiFixture::open().await;
    fixture.joined(1).await;
    fixture
        .append_player_event(1, QueueEntryCancelled { subject_id: player(1), entry_id: entry_id(1) })
        .await;
    assert_eq!(fixture.as_player(1, &path(1)).await.status, 200);
    assert_eq!(fixture.as_player(2, &path(1)).await.status, 404);
    assert_eq!(fixture.get(&path(1)).await.status, 200);
}
