//! A PostgreSQL server that crashes, is down at the start, or is used by two servers.

use event_schemas::ids::Position;

use super::history::{History, job, tenant};
use super::postgres::PostgresServer;
use super::test_store::TestStore;
use super::{TIMEOUT, open, reach, until};
use crate::generation::QueryError;
use crate::sql::Batch;
use crate::status::ReportedState;
use crate::{Name, ReadModels, SqlError};

/// Advances the clock, so that retries are due, until all read models reflect the position.
async fn reach_after_retries(models: &ReadModels, history: &History, position: Position) {
    until(async || {
        history.clock.advance(std::time::Duration::from_secs(5));
        models.wait_for(&Name::ALL, position, std::time::Duration::from_millis(100)).await.is_ok()
    })
    .await;
}

fn are_retrying(models: &ReadModels) -> bool {
    models.status().iter().any(|status| {
        let failure = status.stop.as_ref().filter(|_| status.state == ReportedState::Retrying);
        failure.is_some_and(|failure| failure.error.contains("cannot be reached"))
    })
}

#[tokio::test]
async fn lost_connections_heal_without_loss() {
    let (server, history) = (PostgresServer::start(), History::new());
    let store = TestStore::of(server.database());
    let models = open(&store, &history).await;
    let position = history.job_created(job(1), None).await;
    reach(&models, position).await;
    server.crash();
    let read = models.jobs().get(&tenant(), job(1)).await;
    assert!(matches!(read, Err(QueryError::Storage { source: SqlError::Unavailable(_), .. })), "{read:?}");
    let position = history.job_created(job(2), None).await;
    until(async || are_retrying(&models)).await;
    assert!(server.resume());
    reach_after_retries(&models, &history, position).await;
    for n in 1..=2 {
        assert!(models.jobs().get(&tenant(), job(n)).await.unwrap().is_some());
    }
    models.shutdown().await;
    let rows = store.dump().await;
    let fresh = TestStore::postgres();
    let models = open(&fresh, &history).await;
    reach(&models, history.head()).await;
    models.shutdown().await;
    assert_eq!(rows, fresh.dump().await);
}

#[tokio::test]
async fn server_starts_while_database_is_down() {
    let (server, history) = (PostgresServer::start(), History::new());
    let store = TestStore::of(server.database());
    let position = history.job_created(job(1), None).await;
    server.crash();
    let models = open(&store, &history).await;
    assert!(models.ready().is_err());
    assert!(are_retrying(&models));
    assert!(server.resume());
    reach_after_retries(&models, &history, position).await;
    assert!(models.ready().is_ok());
}

#[tokio::test]
async fn second_server_on_same_database_is_refused() {
    let (store, history) = (TestStore::postgres(), History::new());
    let models = open(&store, &history).await;
    let position = history.job_created(job(1), None).await;
    reach(&models, position).await;
    let other = History::new();
    let second = ReadModels::open(store.settings(), other.log(), other.clock.clone()).await.unwrap_err();
    assert!(second.to_string().contains("give each server its own database"), "{second}");
    let position = history.job_created(job(2), None).await;
    models.wait_for(&Name::ALL, position, TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn writer_that_lost_its_term_is_refused() {
    let (store, history) = (TestStore::postgres(), History::new());
    let models = open(&store, &history).await;
    reach(&models, history.job_created(job(1), None).await).await;
    models.shutdown().await;
    let generations = store.generations(Name::Jobs);
    let number = generations.numbers().await.unwrap()[0];
    let one = generations.open(number, &[]).await.unwrap();
    one.write(Batch::default()).await.unwrap();
    // Its connection ends while it is idle, and another writer comes and goes before it connects again.
    one.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()")
        .await
        .unwrap();
    let other = generations.open(number, &[]).await.unwrap();
    other.write(Batch::default()).await.unwrap();
    other.close().await;
    let refused = one.write(Batch::default()).await;
    assert!(matches!(refused, Err(SqlError::InUse(_))), "{refused:?}");
    // After it was opened again, with the rows of the other, it is the writer.
    one.close().await;
    let again = generations.open(number, &[]).await.unwrap();
    again.write(Batch::default()).await.unwrap();
}
