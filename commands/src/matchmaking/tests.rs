use std::time::Duration;

use domain::matchmaking::queues::Queues;
use event_log::clock::{Clock, Ids};
use event_log::{EventLog, Filter, Log, MemoryLog};
use event_schemas::envelope::Event;
use event_schemas::game_match::GameMatchEvent;
use event_schemas::ids::{EntryId, Position};
use event_schemas::player::PlayerEvent;
use event_schemas::time::Timestamp;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::game_service::GameBackend;
use super::matchmaker::StoredFolds;
use super::simulation::players::{person, queue};
use super::*;
use crate::processes::of_matchmaking;

fn matchmaking(log: &MemoryLog, clock: &Clock) -> Arc<Matchmaking> {
    let game_service = GameServiceClient::new(GameBackend::None, clock.clone());
    let engine = Engine::simulated(Log::new(log.clone()), clock.clone(), Ids::sequence());
    Arc::new(Matchmaking::new(Arc::new(engine), game_service, Ratings::new(None, clock.clone())))
}

/// Waits for an event of this kind, and returns all events that were read.
async fn until(log: &MemoryLog, predicate: impl Fn(&Event) -> bool) -> Vec<Event> {
    let mut head = log.head();
    loop {
        let page = log.read_all(Position::START, &Filter::All, 1_000).await.unwrap();
        let events: Vec<Event> = page.events.iter().map(|event| event.decode().unwrap().event).collect();
        if events.iter().any(&predicate) {
            return events;
        }
        head.wait_for(|head| *head > page.next).await.unwrap();
    }
}

#[tokio::test]
async fn started_matchmaking_pairs_two_players_without_a_game() {
    let clock = Clock::manual(Timestamp::EPOCH);
    let log = MemoryLog::new(clock.clone());
    let matchmaking = matchmaking(&log, &clock);
    let tasks = of_matchmaking(&matchmaking).map(tokio::spawn);
    for n in 1..=2 {
        queue(matchmaking.clone(), person(n), EntryId(Uuid::from_u128(n.into())), 1_500.0, false).await;
    }
    let is_confirmed = |event: &Event| matches!(event, Event::GameMatch(GameMatchEvent::MatchConfirmed(_)));
    let events = until(&log, is_confirmed).await;
    let is_reservation = |event: &&Event| matches!(event, Event::Player(PlayerEvent::QueueEntryMatched(_)));
    assert_eq!(events.iter().filter(is_reservation).count(), 2);
    let Some(Event::GameMatch(GameMatchEvent::MatchConfirmed(confirmed))) =
        events.iter().find(|event| is_confirmed(event))
    else {
        panic!("{events:?}")
    };
    assert_eq!(confirmed.game_id, None);
    tasks.iter().for_each(JoinHandle::abort);
}

#[tokio::test]
async fn entry_overdue_at_start_expires_instead_of_pairing() {
    let clock = Clock::manual(Timestamp::EPOCH);
    let log = MemoryLog::new(clock.clone());
    let earlier = matchmaking(&log, &clock);
    for n in 1..=2 {
        queue(earlier.clone(), person(n), EntryId(Uuid::from_u128(n.into())), 1_500.0, false).await;
    }
    clock.advance(Duration::from_secs(601));
    let tasks = of_matchmaking(&matchmaking(&log, &clock)).map(tokio::spawn);
    let events = until(&log, |event| matches!(event, Event::Player(PlayerEvent::QueueEntryExpired(_)))).await;
    let is_match = |event: &Event| matches!(event, Event::GameMatch(_));
    assert!(!events.iter().any(is_match), "{events:?}");
    tasks.iter().for_each(JoinHandle::abort);
}

#[test]
fn restored_folds_equal_the_folds_of_all_events() {
    let history = crate::soak::history();
    let mut folds = vec![(Queues::default(), PendingSagas::default())];
    let mut busy = 0;
    for events in history.chunks(history.len() / 16) {
        for (queues, pending) in &mut folds {
            for event in events {
                queues.apply(event);
                pending.apply(event);
            }
            queues.take_changed();
        }
        let (queues, pending) = &folds[0];
        busy += pending.unfinished().count();
        let stored = StoredFolds {
            queues: queues.snapshot(),
            pending: pending.clone(),
            breakers: Vec::new(),
            rating_breakers: Vec::new(),
        };
        let stored = serde_json::to_vec(&stored).unwrap();
        let restored: StoredFolds = serde_json::from_slice(&stored).unwrap();
        folds.push((Queues::restore(restored.queues), restored.pending));
        assert!(folds.iter().all(|fold| *fold == folds[0]));
    }
    assert!(busy > 0, "the history has no unfinished saga at any of the cuts");
}
