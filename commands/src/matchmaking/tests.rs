use std::time::Duration;

use event_log::{EventLog, Filter, Log, MemoryLog};
use event_schemas::envelope::Event;
use event_schemas::ids::{EntryId, Position};
use event_schemas::match_record::MatchRecordEvent;
use event_schemas::player::PlayerEvent;
use event_schemas::time::Timestamp;
use uuid::Uuid;

use super::games::{Desk, Maker};
use super::simulation::players::{person, queue};
use super::*;

fn matchmaking(log: &MemoryLog, clock: &Clock) -> Matchmaking {
    let desk = Desk::new(Maker::Nobody, clock.clone());
    Matchmaking::new(Log::Memory(log.clone()), clock.clone(), 1_000, desk)
}

/// Waits for an event of this kind, and gives all up to it.
async fn until(log: &MemoryLog, is_it: impl Fn(&Event) -> bool) -> Vec<Event> {
    let mut head = log.head();
    loop {
        let page = log.read_all(Position::START, &Filter::All, 1_000).await.unwrap();
        let events: Vec<Event> = page.events.iter().map(|event| event.decode().unwrap().event).collect();
        if events.iter().any(&is_it) {
            return events;
        }
        head.wait_for(|head| *head > page.next).await.unwrap();
    }
}

#[tokio::test]
async fn once_started_it_puts_two_who_wait_together_and_without_a_service_they_have_no_game() {
    let clock = Clock::manual(Timestamp::EPOCH);
    let log = MemoryLog::new(clock.clone());
    let matchmaking = matchmaking(&log, &clock);
    let tasks = matchmaking.start();
    for n in 1..=2 {
        queue(matchmaking.clone(), person(n), EntryId(Uuid::from_u128(n.into())), 1_500.0, false).await;
    }
    let is_confirmed =
        |event: &Event| matches!(event, Event::MatchRecord(MatchRecordEvent::MatchConfirmed(_)));
    let events = until(&log, is_confirmed).await;
    let taken = |event: &&Event| matches!(event, Event::Player(PlayerEvent::QueueEntryMatched(_)));
    assert_eq!(events.iter().filter(taken).count(), 2);
    let Some(Event::MatchRecord(MatchRecordEvent::MatchConfirmed(confirmed))) =
        events.iter().find(|event| is_confirmed(event))
    else {
        panic!("{events:?}")
    };
    assert_eq!(confirmed.game_id, None);
    tasks.iter().for_each(JoinHandle::abort);
}

#[tokio::test]
async fn an_entry_whose_time_is_over_at_the_start_ends_although_somebody_could_have_met_it() {
    let clock = Clock::manual(Timestamp::EPOCH);
    let log = MemoryLog::new(clock.clone());
    let before = matchmaking(&log, &clock);
    for n in 1..=2 {
        queue(before.clone(), person(n), EntryId(Uuid::from_u128(n.into())), 1_500.0, false).await;
    }
    clock.advance(Duration::from_secs(601));
    let tasks = matchmaking(&log, &clock).start();
    let events = until(&log, |event| matches!(event, Event::Player(PlayerEvent::QueueEntryExpired(_)))).await;
    let is_match = |event: &Event| matches!(event, Event::MatchRecord(_));
    assert!(!events.iter().any(is_match), "{events:?}");
    tasks.iter().for_each(JoinHandle::abort);
}
