//! The queues after restarts equal those of an uninterrupted process and of a replay.

use event_log::{EventLog, Filter};
use event_schemas::ids::{EntryId, Position};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::history::History;
use super::queue_history::{QUEUE_ACTIONS, QueueHistory, entry_id, player, queued, tenant_of};
use super::test_store::{TestStore, cases};
use super::{open, reach};
use crate::ReadModels;
use crate::queue::{EntryStatus, EntryView, QueueCount};

/// The results of all queries.
#[derive(Debug, PartialEq)]
pub(super) struct Answers {
    count: QueueCount,
    entries: Vec<Option<EntryView>>,
    of_players: Vec<Option<EntryId>>,
}

pub(super) async fn answers(models: &ReadModels, entries: u32) -> Answers {
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
    Answers { count: queues.count(None).await.unwrap(), entries: views, of_players }
}

/// The numbers of cancelled and expired entries, counted by event type.
async fn count_ends_by_type(history: &History) -> [usize; 2] {
    let page = history.log().read_all(Position::START, &Filter::All, usize::MAX).await.unwrap();
    let count = |name: &str| page.events.iter().filter(|event| event.event_type.as_str() == name).count();
    [count("QueueEntryCancelled"), count("QueueEntryExpired")]
}

#[derive(Clone, Copy, Debug)]
enum Operation {
    Act(u8, u8),
    Shutdown,
    Kill,
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        12 => (0..QUEUE_ACTIONS, 0..6_u8).prop_map(|(action, n)| Operation::Act(action, n)),
        1 => Just(Operation::Shutdown),
        1 => Just(Operation::Kill),
    ]
}

async fn agree(operations: &[Operation]) -> Result<(), TestCaseError> {
    let (history, mut queue_history) = (History::new(), QueueHistory::default());
    let (store, other) = (TestStore::new(), TestStore::new());
    let (mut models, steady) = (open(&store, &history).await, open(&other, &history).await);
    for operation in operations {
        match *operation {
            Operation::Act(action, n) => {
                queue_history.act(&history, action, n).await;
                continue;
            }
            Operation::Shutdown => {
                reach(&models, history.head()).await;
                models.shutdown().await;
            }
            Operation::Kill => models.kill().await,
        }
        models = open(&store, &history).await;
        reach(&models, history.head()).await;
        reach(&steady, history.head()).await;
        let now = answers(&models, queue_history.entries).await;
        prop_assert_eq!(&now, &answers(&steady, queue_history.entries).await);
        let fresh = TestStore::new();
        let replayed = open(&fresh, &history).await;
        reach(&replayed, history.head()).await;
        prop_assert_eq!(&now, &answers(&replayed, queue_history.entries).await);
        let ended = |status| {
            let entries = now.entries.iter().flatten();
            entries.filter(|view| view.entry.status == status).count()
        };
        let counted = [ended(EntryStatus::Cancelled), ended(EntryStatus::Expired)];
        prop_assert_eq!(counted, count_ends_by_type(&history).await);
        prop_assert_eq!(ended(EntryStatus::Searching), now.count.waiting);
        prop_assert_eq!(ended(EntryStatus::Placing), now.count.placing);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(24), ..ProptestConfig::default() })]

    #[test]
    fn restarted_queues_equal_uninterrupted_and_replayed_ones(
        operations in proptest::collection::vec(operation(), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(agree(&operations))?;
    }
}

#[tokio::test]
async fn ended_entry_is_same_before_and_after_its_row_is_stored() {
    let (store, history, mut queue_history) = (TestStore::new(), History::new(), QueueHistory::default());
    let models = open(&store, &history).await;
    for action in [0, 5] {
        queue_history.act(&history, action, 1).await;
    }
    reach(&models, history.head()).await;
    let before_restart = models.queues().entry(&tenant_of(1), entry_id(1)).await.unwrap().unwrap();
    assert_eq!(before_restart.entry.status, EntryStatus::Cancelled);
    assert!(before_restart.entry.ended_at.is_some() && before_restart.pool_statuses[0].search.is_none());
    models.shutdown().await;
    let models = open(&store, &history).await;
    reach(&models, history.head()).await;
    let after_restart = models.queues().entry(&tenant_of(1), entry_id(1)).await.unwrap().unwrap();
    assert_eq!(after_restart, before_restart);
    assert_eq!(
        models.queues().entry(&tenant_of(5), entry_id(1)).await.unwrap(),
        None,
        "it belongs to another tenant"
    );
}

#[tokio::test]
async fn window_and_place_depend_only_on_events_and_time() {
    let (store, history, mut queue_history) = (TestStore::new(), History::new(), QueueHistory::default());
    let models = open(&store, &history).await;
    for n in [0, 4] {
        queue_history.act(&history, 0, n).await;
    }
    reach(&models, history.head()).await;
    // The second entry is one second old, and its rating is 160 points from that of the first.
    for (more, window, in_window) in [(0, 100, 0), (8, 100, 0), (1, 125, 0), (20, 175, 1)] {
        history.clock.advance(std::time::Duration::from_secs(more));
        let view = models.queues().entry(&tenant_of(4), entry_id(2)).await.unwrap().unwrap();
        let search = view.pool_statuses[0].search.as_ref().unwrap();
        let explanation = &search.explanation;
        let found = (explanation.window, explanation.in_window, explanation.place_in_line);
        assert_eq!(found, (window, in_window, 2), "at {}", view.at);
    }
}

#[tokio::test]
async fn twenty_thousand_queue_entries_survive_a_restart() {
    let (store, history) = (TestStore::new(), History::new());
    let now = history.clock.now();
    let waiting = 20_000;
    for first in (1..=waiting).step_by(1_000) {
        let events: Vec<_> = (first..first + 1_000)
            .map(|n| event_schemas::envelope::Event::Player(queued(2, n, &["blitz"], now).into()))
            .collect();
        let stream = event_schemas::stream::StreamId::player(&tenant_of(2), player(2));
        history.append(stream, &events).await;
    }
    let models = open(&store, &history).await;
    reach(&models, history.head()).await;
    let before = models.queues().count(None).await.unwrap();
    assert_eq!((before.waiting, before.pools[0].stats.sample.len()), (20_000, 500));
    models.shutdown().await;
    let models = open(&store, &history).await;
    reach(&models, history.head()).await;
    assert_eq!(models.queues().count(None).await.unwrap(), before);
    let last = models.queues().entry(&tenant_of(2), entry_id(waiting)).await.unwrap().unwrap();
    assert_eq!(last.pool_statuses[0].search.as_ref().unwrap().explanation.place_in_line, 20_000);
}
