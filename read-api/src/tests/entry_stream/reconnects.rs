//! Streams that are interrupted at any point and resumed.

use event_schemas::game_match::AbandonReason;
use event_schemas::ids::Position;
use event_schemas::player::{PlayerBlocked, QueueEntryCancelled, QueueEntryExpired};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::super::fixture::{ReadApiFixture, player};
use super::super::queues::entry_id;
use super::super::sse_reader::{ReceivedEvent, SseReader};
use super::{match_of, path, with_ids};

/// A change of an entry, or an unrelated event.
#[derive(Clone, Copy, Debug)]
enum EntryStep {
    /// A match by the queue that fails.
    MatchFails,
    /// A match by a challenge that is accepted this many times and fails.
    ChallengeFails(u32),
    /// An event of the player that does not concern the entry.
    Unrelated,
}

#[derive(Clone, Copy, Debug)]
enum EntryEnd {
    Matched,
    MatchedByChallenge,
    Cancelled,
    Expired,
}

fn step() -> impl Strategy<Value = EntryStep> {
    prop_oneof![
        Just(EntryStep::MatchFails),
        (1..3_u32).prop_map(EntryStep::ChallengeFails),
        Just(EntryStep::Unrelated)
    ]
}

fn end() -> impl Strategy<Value = EntryEnd> {
    proptest::sample::select(vec![
        EntryEnd::Matched,
        EntryEnd::MatchedByChallenge,
        EntryEnd::Cancelled,
        EntryEnd::Expired,
    ])
}

#[derive(Clone, Copy, Debug)]
enum Reconnect {
    None,
    BeforeChange,
    AfterChange,
}

fn reconnect() -> impl Strategy<Value = Reconnect> {
    proptest::sample::select(vec![Reconnect::None, Reconnect::BeforeChange, Reconnect::AfterChange])
}

/// A client that stays connected, and one that is disconnected now and then.
struct Clients<'a> {
    fixture: &'a ReadApiFixture,
    connected: (SseReader, Vec<ReceivedEvent>),
    reconnecting: (SseReader, Vec<ReceivedEvent>),
    reconnects: std::vec::IntoIter<Reconnect>,
    expected: Vec<(&'static str, u64)>,
}

impl Clients<'_> {
    /// Waits until both clients have received the change at the position.
    async fn expect(&mut self, event: &'static str, position: Position) {
        self.expected.push((event, position.0));
        for (client, received) in [&mut self.connected, &mut self.reconnecting] {
            loop {
                let next = client.next().await.expect("the stream ended early");
                received.push(next);
                if received.last().is_some_and(|event| event.id == Some(position.0)) {
                    break;
                }
            }
        }
    }

    /// May disconnect the second client here, to reconnect before or after the next change.
    async fn maybe_reconnect(&mut self, change: impl AsyncFnOnce(&ReadApiFixture)) {
        let last = self.reconnecting.1.iter().rev().find_map(|event| event.id);
        let reopen = || async { SseReader::open_at(self.fixture, &path(1), last).await.unwrap() };
        match self.reconnects.next().unwrap_or(Reconnect::None) {
            Reconnect::None => change(self.fixture).await,
            Reconnect::BeforeChange => {
                self.reconnecting.0 = reopen().await;
                change(self.fixture).await;
            }
            Reconnect::AfterChange => {
                change(self.fixture).await;
                self.reconnecting.0 = reopen().await;
            }
        }
    }
}

async fn check_reconnects(
    steps: &[EntryStep],
    end: EntryEnd,
    reconnects: Vec<Reconnect>,
) -> Result<(), TestCaseError> {
    let fixture = ReadApiFixture::open().await;
    let joined = fixture.joined(1).await;
    fixture.get("/v1/matchmaking/active").await;
    let open = || async { SseReader::open_at(&fixture, &path(1), Some(0)).await.unwrap() };
    let mut clients = Clients {
        fixture: &fixture,
        connected: (open().await, Vec::new()),
        reconnecting: (open().await, Vec::new()),
        reconnects: reconnects.into_iter(),
        expected: Vec::new(),
    };
    clients.expect("searching", joined).await;
    let mut matches = 100..;
    for step in steps {
        match *step {
            EntryStep::MatchFails => {
                let id = match_of(matches.next().unwrap());
                clients
                    .maybe_reconnect(async |fixture| {
                        fixture.reserved(1, id).await;
                    })
                    .await;
                clients.expect("placing", fixture.head()).await;
                clients
                    .maybe_reconnect(async |fixture| {
                        fixture.match_failed(1, id).await;
                    })
                    .await;
                clients.expect("searching", fixture.head()).await;
            }
            EntryStep::ChallengeFails(times) => {
                clients
                    .maybe_reconnect(async |fixture| {
                        fixture.reserved_by_challenge(1, 1).await;
                    })
                    .await;
                clients.expect("placing", fixture.head()).await;
                for attempt in 1..times {
                    fixture.reserved_by_challenge(1, attempt + 1).await;
                }
                let reason = AbandonReason::GameServiceParked;
                clients
                    .maybe_reconnect(async |fixture| {
                        fixture.released(1, reason).await;
                    })
                    .await;
                clients.expect("searching", fixture.head()).await;
            }
            EntryStep::Unrelated => {
                let blocked = player(fixture.head().0.into());
                fixture.append_player_event(1, PlayerBlocked { subject_id: player(1), blocked }).await;
            }
        }
    }
    let (subject_id, entry_id, id) = (player(1), entry_id(1), match_of(99));
    match end {
        EntryEnd::Cancelled => {
            let cancelled = QueueEntryCancelled { subject_id, entry_id };
            clients
                .maybe_reconnect(async |fixture| {
                    fixture.append_player_event(1, cancelled).await;
                })
                .await;
            clients.expect("cancelled", fixture.head()).await;
        }
        EntryEnd::Expired => {
            let expired = QueueEntryExpired { subject_id, entry_id };
            clients
                .maybe_reconnect(async |fixture| {
                    fixture.append_player_event(1, expired).await;
                })
                .await;
            clients.expect("expired", fixture.head()).await;
        }
        EntryEnd::Matched => {
            clients
                .maybe_reconnect(async |fixture| {
                    fixture.reserved(1, id).await;
                })
                .await;
            clients.expect("placing", fixture.head()).await;
            clients
                .maybe_reconnect(async |fixture| {
                    fixture.confirmed(id).await;
                })
                .await;
            clients.expect("matched", fixture.head()).await;
        }
        EntryEnd::MatchedByChallenge => {
            clients
                .maybe_reconnect(async |fixture| {
                    fixture.reserved_by_challenge(1, 9).await;
                })
                .await;
            clients.expect("placing", fixture.head()).await;
            clients
                .maybe_reconnect(async |fixture| {
                    fixture.confirmed_by_challenge(1).await;
                })
                .await;
            clients.expect("matched", fixture.head()).await;
        }
    }
    let (client, mut connected) = clients.connected;
    connected.extend(client.rest().await);
    let (client, mut reconnecting) = clients.reconnecting;
    reconnecting.extend(client.rest().await);
    let names: Vec<(String, u64)> =
        connected.iter().filter_map(|event| Some((event.name.clone(), event.id?))).collect();
    let expected: Vec<(String, u64)> =
        clients.expected.iter().map(|(event, id)| ((*event).to_owned(), *id)).collect();
    prop_assert_eq!(&names, &expected);
    prop_assert_eq!(with_ids(&reconnecting), with_ids(&connected));
    // A later client receives the same from every id.
    let all = with_ids(&connected);
    for (index, (_, id, _)) in all.iter().enumerate().take(all.len() - 1) {
        prop_assert_eq!(with_ids(&fixture.received(1, *id).await), &all[index + 1..]);
    }
    prop_assert_eq!(SseReader::open_at(&fixture, &path(1), all.last().unwrap().1).await.err(), Some(204));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn resumed_stream_equals_uninterrupted_stream(
        steps in proptest::collection::vec(step(), 0..8),
        end in end(),
        reconnects in proptest::collection::vec(reconnect(), 0..20),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(check_reconnects(&steps, end, reconnects))?;
    }
}
