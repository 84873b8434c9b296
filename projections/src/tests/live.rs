//! The thread of the live read models, and the small transactions on it.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use rusqlite::Connection;
use tokio::sync::oneshot;

use super::history::{History, job};
use super::test_store::TestStore;
use super::{TIMEOUT, open, reach, until};
use crate::Name;
use crate::live_thread::LiveThread;
use crate::sql::sqlite::SqliteFile;
use crate::sql::{Batch, Db, GenerationStore, Statement};

#[tokio::test]
async fn panic_on_the_live_thread_reaches_the_caller() {
    let thread = LiveThread::start().unwrap();
    let panicking = thread.run(async { panic!("injected by the test") });
    assert!(AssertUnwindSafe(panicking).catch_unwind().await.is_err());
    assert_eq!(thread.run(async { 1 }).await, 1);
}

#[tokio::test]
async fn task_on_the_live_thread_ends_with_its_caller() {
    let thread = LiveThread::start().unwrap();
    let (held, mut released) = oneshot::channel::<()>();
    let caller = tokio::spawn(async move {
        thread
            .run(async move {
                let _held = held;
                std::future::pending::<()>().await;
            })
            .await;
    });
    tokio::task::yield_now().await;
    assert_eq!((&mut released).now_or_never(), None);
    caller.abort();
    assert!(released.await.is_err());
}

#[tokio::test]
async fn locked_file_delays_only_its_own_read_model() {
    let (store, history) = (TestStore::sqlite(), History::new());
    let models = open(&store, &history).await;
    reach(&models, history.job_created(job(1), None).await).await;
    let file = store.folder().unwrap().join("jobs.1.sqlite");
    let other = Connection::open(file).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let position = history.job_created(job(2), None).await;
    let others = Name::ALL.into_iter().filter(|name| *name != Name::Jobs).collect::<Vec<_>>();
    models.wait_for(&others, position, TIMEOUT).await.unwrap();
    other.execute_batch("ROLLBACK").unwrap();
    until(async || {
        // On a slow machine the transaction was given up, and is retried later.
        history.clock.advance(Duration::from_secs(5));
        models.wait_for(&Name::ALL, position, Duration::from_millis(100)).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn small_transactions_keep_the_write_ahead_log_short() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rows.sqlite");
    let create = "CREATE TABLE IF NOT EXISTS rows (id INTEGER PRIMARY KEY, value BIGINT)";
    let rows = Db::new(GenerationStore::File(SqliteFile::open(&file, vec![create]).await.unwrap()));
    let thread = LiveThread::start().unwrap();
    let written = thread.run(async move {
        for number in 0..12_000_i64 {
            let mut batch = Batch::default();
            let insert = "INSERT INTO rows (id, value) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET value = excluded.value";
            batch.add(Statement::new(insert).bind(number % 3).bind(number));
            rows.write(batch).await.unwrap();
        }
        rows
    });
    let rows = written.await;
    // Each transaction appends a page of 4 KB.
    assert!(std::fs::metadata(folder.path().join("rows.sqlite-wal")).unwrap().len() < 40_000_000);
    rows.close().await;
}
