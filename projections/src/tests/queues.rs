//! The queues: they answer the same however often the process is started anew, and what a replay answers.

use event_log::{EventLog, Filter};
use event_schemas::ids::{EntryId, Position};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::history::History;
use super::lobby::{HAPPENINGS, Lobby, entry_id, player, queued, tenant_of};
use super::{open, reach};
use crate::ReadModels;
use crate::queue::{EntryStatus, EntryView, QueueCount};

/// All that can be asked.
#[derive(Debug, PartialEq)]
struct Told {
    count: QueueCount,
    entries: Vec<Option<EntryView>>,
    of_players: Vec<Option<EntryId>>,
}

async fn told(models: &ReadModels, entries: u32) -> Told {
    let queues = models.queues();
    let mut views = Vec::new();
    for n in 1..=entries {
        for tenant in [tenant_of(0), tenant_of(5)] {
            views.push(queues.entry(&tenant, entry_id(n)).await.unwrap());
        }
    }
    let mut of_players = Vec::new();
    for n in 0..6 {
        let view = queues.entry_of(&tenant_of(n), player(n)).await.unwrap();
        of_players.push(view.map(|view| view.entry.entry.queued.entry_id));
    }
    Told { count: queues.count(None).await.unwrap(), entries: views, of_players }
}

/// How many of all entries stand where, from nothing but the names of the events about them.
async fn by_plain_counting(history: &History) -> [usize; 2] {
    let page = history.log().read_all(Position::START, &Filter::All, usize::MAX).await.unwrap();
    let count = |name: &str| page.events.iter().filter(|event| event.event_type.as_str() == name).count();
    [count("QueueEntryCancelled"), count("QueueEntryExpired")]
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Happens(u8, u8),
    Shutdown,
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0..HAPPENINGS, 0..6_u8).prop_map(|(what, n)| Step::Happens(what, n)),
        1 => Just(Step::Shutdown),
        1 => Just(Step::Kill),
    ]
}

async fn agree(steps: &[Step]) -> Result<(), TestCaseError> {
    let (history, mut lobby) = (History::new(), Lobby::default());
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut models, steady) = (open(&folder, &history).await, open(&other, &history).await);
    for step in steps {
        match *step {
            Step::Happens(what, n) => {
                lobby.happen(&history, what, n).await;
                continue;
            }
            Step::Shutdown => {
                reach(&models, history.head()).await;
                models.shutdown().await;
            }
            Step::Kill => models.kill().await,
        }
        models = open(&folder, &history).await;
        reach(&models, history.head()).await;
        reach(&steady, history.head()).await;
        let now = told(&models, lobby.entries).await;
        prop_assert_eq!(&now, &told(&steady, lobby.entries).await);
        let fresh = tempfile::tempdir().unwrap();
        let replayed = open(&fresh, &history).await;
        reach(&replayed, history.head()).await;
        prop_assert_eq!(&now, &told(&replayed, lobby.entries).await);
        let ended = |status| {
            let entries = now.entries.iter().flatten();
            entries.filter(|view| view.entry.status == status).count()
        };
        let counted = [ended(EntryStatus::Cancelled), ended(EntryStatus::Expired)];
        prop_assert_eq!(counted, by_plain_counting(&history).await);
        prop_assert_eq!(ended(EntryStatus::Searching), now.count.waiting);
        prop_assert_eq!(ended(EntryStatus::Placing), now.count.placing);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn queues_that_were_started_anew_answer_as_those_that_went_on_and_as_a_replay(
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(agree(&steps))?;
    }
}

#[tokio::test]
async fn an_entry_is_told_as_it_ended_before_and_after_its_row_is_written() {
    let (folder, history, mut lobby) = (tempfile::tempdir().unwrap(), History::new(), Lobby::default());
    let models = open(&folder, &history).await;
    for what in [0, 5] {
        lobby.happen(&history, what, 1).await;
    }
    reach(&models, history.head()).await;
    let at_once = models.queues().entry(&tenant_of(1), entry_id(1)).await.unwrap().unwrap();
    assert_eq!(at_once.entry.status, EntryStatus::Cancelled);
    assert!(at_once.entry.ended_at.is_some() && at_once.standings[0].search.is_none());
    models.shutdown().await;
    let models = open(&folder, &history).await;
    reach(&models, history.head()).await;
    let later = models.queues().entry(&tenant_of(1), entry_id(1)).await.unwrap().unwrap();
    assert_eq!(later, at_once);
    assert_eq!(models.queues().entry(&tenant_of(5), entry_id(1)).await.unwrap(), None, "another tenant's");
}

#[tokio::test]
async fn window_and_place_are_functions_of_the_events_and_the_instant() {
    let (folder, history, mut lobby) = (tempfile::tempdir().unwrap(), History::new(), Lobby::default());
    let models = open(&folder, &history).await;
    for n in [0, 4] {
        lobby.happen(&history, 0, n).await;
    }
    reach(&models, history.head()).await;
    // The second came a second ago, and is 160 points away from the first.
    for (more, window, in_window) in [(0, 100, 0), (8, 100, 0), (1, 125, 0), (20, 175, 1)] {
        history.clock.advance(std::time::Duration::from_secs(more));
        let view = models.queues().entry(&tenant_of(4), entry_id(2)).await.unwrap().unwrap();
        let search = view.standings[0].search.as_ref().unwrap();
        let explanation = &search.explanation;
        let told = (explanation.window, explanation.in_window, explanation.place_in_line);
        assert_eq!(told, (window, in_window, 2), "at {}", view.at);
    }
}

#[tokio::test]
async fn twenty_thousand_who_wait_are_there_again_after_a_restart() {
    let (folder, history) = (tempfile::tempdir().unwrap(), History::new());
    let now = history.clock.now();
    let waiting = 20_000;
    for first in (1..=waiting).step_by(1_000) {
        let events: Vec<_> = (first..first + 1_000)
            .map(|n| event_schemas::envelope::Event::Player(queued(2, n, &["blitz"], now).into()))
            .collect();
        let stream = event_schemas::stream::StreamId::player(&tenant_of(2), player(2));
        history.append(stream, &events).await;
    }
    let models = open(&folder, &history).await;
    reach(&models, history.head()).await;
    let before = models.queues().count(None).await.unwrap();
    assert_eq!((before.waiting, before.pools[0].census.sample.len()), (20_000, 500));
    models.shutdown().await;
    let models = open(&folder, &history).await;
    reach(&models, history.head()).await;
    assert_eq!(models.queues().count(None).await.unwrap(), before);
    let last = models.queues().entry(&tenant_of(2), entry_id(waiting)).await.unwrap().unwrap();
    assert_eq!(last.standings[0].search.as_ref().unwrap().explanation.place_in_line, 20_000);
}
