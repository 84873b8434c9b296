//! A server that only reads answers like the one that maintains the read models, through rebuilds and restarts.

use std::time::Duration;

use event_schemas::ids::Position;
use event_schemas::job::Phase;

use super::history::{History, job, tenant};
use super::queue_history::{QUEUE_ACTIONS, QueueHistory};
use super::queues::answers;
use super::test_store::TestStore;
use super::{TIMEOUT, open, reach, until};
use crate::status::ReportedState;
use crate::{ControlError, Name, ReadModels, Settings};

async fn open_replica(store: &TestStore, history: &History) -> ReadModels {
    let settings = Settings { read_only: true, ..store.settings() };
    ReadModels::open(settings, history.log(), history.clock.clone()).await.unwrap()
}

/// Advances the clock, so that both look at the database again, until all read models reflect the position.
async fn follow(replica: &ReadModels, history: &History, position: Position) {
    until(async || {
        history.clock.advance(Duration::from_millis(200));
        replica.wait_for(&Name::ALL, position, Duration::from_millis(20)).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn replica_answers_like_the_writer_through_rebuilds() {
    let (store, history) = (TestStore::postgres(), History::new());
    let mut queue_history = QueueHistory::default();
    let mut writer = open(&store, &history).await;
    let replica = open_replica(&store, &history).await;
    for round in 0..6_u8 {
        history.job_created(job(u128::from(round)), Some("Hedges")).await;
        history.phase(job(u128::from(round)), Phase::Queued, Phase::Matching).await;
        history.found(job(u128::from(round / 2)), u32::from(round), 0.5).await;
        for n in 0..12 {
            queue_history.act(&history, (n * 5 + round) % QUEUE_ACTIONS, n % 6).await;
        }
        reach(&writer, history.head()).await;
        follow(&replica, &history, history.head()).await;
        assert_eq!(
            answers(&replica, queue_history.entries).await,
            answers(&writer, queue_history.entries).await
        );
        for n in 0..=round {
            let id = job(u128::from(n));
            assert_eq!(
                replica.matching_summary().summary(&tenant(), id).await.unwrap(),
                writer.matching_summary().summary(&tenant(), id).await.unwrap()
            );
            let [one, other] = [&replica, &writer].map(ReadModels::jobs);
            let (one, other) =
                (one.get(&tenant(), id).await.unwrap(), other.get(&tenant(), id).await.unwrap());
            assert_eq!(one.map(|job| job.1), other.map(|job| job.1));
        }
        match round % 3 {
            0 => {}
            1 => {
                for name in Name::STORED {
                    let number = writer.rebuild(name).await.unwrap();
                    // The old generation is removed when the replica has left it.
                    until(async || {
                        history.clock.advance(Duration::from_millis(200));
                        store.numbers(name).await == [number]
                    })
                    .await;
                }
            }
            _ => {
                writer.shutdown().await;
                writer = open(&store, &history).await;
            }
        }
    }
}

#[tokio::test]
async fn replica_waits_for_a_writer_and_refuses_to_rebuild() {
    let (store, history) = (TestStore::postgres(), History::new());
    let position = history.job_created(job(1), None).await;
    let replica = open_replica(&store, &history).await;
    until(async || {
        let status = replica.status();
        // The search has no rows: each server builds its own.
        status.iter().filter(|status| status.name != Name::Search.as_str()).all(|status| {
            status.state == ReportedState::Retrying
                && status.stop.as_ref().is_some_and(|stop| stop.error.contains("no other server has built"))
        })
    })
    .await;
    assert!(replica.ready().is_err());
    assert!(matches!(replica.rebuild(Name::Jobs).await, Err(ControlError::ReadOnly)));
    let writer = open(&store, &history).await;
    reach(&writer, position).await;
    follow(&replica, &history, position).await;
    assert_eq!(replica.ready(), Ok(()));
    // It has no part in the end of the writer.
    writer.shutdown().await;
    assert!(replica.jobs().get(&tenant(), job(1)).await.unwrap().is_some());
    tokio::time::timeout(TIMEOUT, replica.shutdown()).await.unwrap();
    let numbers = store.numbers(Name::Jobs).await;
    assert_eq!(numbers.len(), 1);
}
