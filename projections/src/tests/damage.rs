//! A changed byte, a changed row or a lost table is never answered: the read model is rebuilt automatically.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use event_schemas::stream::StreamId;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::history::{History, job, registered, tenant, worker};
use super::match_history::subject;
use super::postgres::is_read_store;
use super::queue_history::entry_id;
use super::recovery::some_history;
use super::test_store::TestStore;
use super::{open, reach};
use crate::challenge::Direction;
use crate::image_match::{ImageMatchFilter, ImageMatchOrder};
use crate::job::JobFilter;
use crate::{Name, QueryError, ReadModels, SqlError};

/// What all read models answer.
async fn answers(models: &ReadModels) -> Result<Vec<String>, QueryError> {
    let (tenant, mut all) = (tenant(), Vec::new());
    all.push(format!("{:?}", models.jobs().list(&tenant, &JobFilter::default(), None, 100).await?));
    for n in 1..4 {
        all.push(format!("{:?}", models.jobs().get(&tenant, job(n)).await?));
        let (filter, order) = (ImageMatchFilter::default(), ImageMatchOrder::default());
        all.push(format!("{:?}", models.image_matches().list(job(n), &filter, order, None, 100).await?));
        all.push(format!("{:?}", models.matching_summary().summary(&tenant, job(n)).await?));
    }
    all.push(format!("{:?}", models.game_matches().list_all(&tenant, None, None, 100).await?));
    for n in 0..6 {
        for direction in [Direction::Incoming, Direction::Outgoing] {
            let challenges =
                models.challenges().list(&tenant, subject(n), direction, None, None, 100).await?;
            all.push(format!("{:?}", challenges.items));
        }
        all.push(format!("{:?}", models.players().ratings(&tenant, subject(n), None, 100).await?));
        all.push(format!("{:?}", models.players().blocks(&tenant, subject(n), None, 100).await?));
        all.push(format!("{:?}", models.queues().entry(&tenant, entry_id(n.into())).await?));
    }
    all.push(format!("{:?}", models.queues().count(None).await?));
    all.push(format!("{:?}", models.retries().classes(&tenant).await?));
    all.push(format!("{:?}", models.workers().list(&tenant, None, 100).await?.items));
    Ok(all)
}

/// Asks until the read models answer, which may not take an operator.
async fn answers_after_healing(models: &ReadModels) -> Vec<String> {
    let waited = tokio::time::timeout(super::TIMEOUT, async {
        loop {
            match answers(models).await {
                Ok(answers) => return answers,
                Err(QueryError::Building { .. } | QueryError::InvalidRow { .. }) => {}
                Err(QueryError::Storage { source: SqlError::Damaged(_), .. }) => {}
                Err(error) => panic!("{error}"),
            }
            tokio::task::yield_now().await;
        }
    });
    waited.await.expect("the read model was not rebuilt in time")
}

/// A closed store, so that the rows are in the files, with the answers of its read models.
async fn closed_store(history: &History) -> (TestStore, Vec<String>) {
    let store = TestStore::new();
    let models = open(&store, history).await;
    reach(&models, history.head()).await;
    let expected = answers(&models).await.unwrap();
    models.shutdown().await;
    (store, expected)
}

/// The files with rows. The memory that connections share is not one: the next start makes it again.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| !path.to_str().unwrap().ends_with("-shm") && path.metadata().unwrap().len() > 0);
    files.sort();
    files
}

/// A random byte of a random file is changed while no server runs, or below a running one.
#[derive(Clone, Debug)]
struct Flip {
    file: prop::sample::Index,
    byte: prop::sample::Index,
    bits: u8,
    while_running: bool,
}

fn flip() -> impl Strategy<Value = Flip> {
    let parts = (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1..=u8::MAX, any::<bool>());
    parts.prop_map(|(file, byte, bits, while_running)| Flip { file, byte, bits, while_running })
}

fn apply(flip: &Flip, folder: &Path) -> PathBuf {
    let files = files(folder);
    let path = files[flip.file.index(files.len())].clone();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let at = flip.byte.index(file.metadata().unwrap().len() as usize) as u64;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ flip.bits], at).unwrap();
    path
}

async fn check_flip(history: &History, clean: &Path, expected: &[String], flip: &Flip) {
    let store = TestStore::sqlite();
    let folder = store.folder().unwrap();
    for file in files(clean) {
        std::fs::copy(&file, folder.join(file.file_name().unwrap())).unwrap();
    }
    if !flip.while_running {
        apply(flip, folder);
    }
    let models = open(&store, history).await;
    reach(&models, history.head()).await;
    if flip.while_running {
        apply(flip, folder);
    }
    assert_eq!(answers_after_healing(&models).await, expected);
    models.shutdown().await;
}

#[test]
fn changed_byte_of_any_file_is_never_answered() {
    if is_read_store() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let history = runtime.block_on(some_history());
    let (store, expected) = runtime.block_on(closed_store(&history));
    let mut runner = TestRunner::new(Config { cases: 96, ..Config::default() });
    let checked = runner.run(&flip(), |flip| {
        runtime.block_on(check_flip(&history, store.folder().unwrap(), &expected, &flip));
        Ok(())
    });
    checked.unwrap();
}

#[tokio::test]
async fn damaged_pages_are_replaced_by_the_next_generation() {
    if is_read_store() {
        return;
    }
    let history = some_history().await;
    let (store, expected) = closed_store(&history).await;
    let models = open(&store, &history).await;
    reach(&models, history.head()).await;
    let path = store.folder().unwrap().join("jobs.1.sqlite");
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    for page in 0..file.metadata().unwrap().len() / 4096 {
        file.write_all_at(&[0xff], page * 4096 + 3000).unwrap();
    }
    let error = models.jobs().get(&tenant(), job(1)).await.unwrap_err();
    assert!(matches!(error, QueryError::Storage { source: SqlError::Damaged(_), .. }), "{error:?}");
    // What cannot be read is not answered, and the others are.
    assert_eq!(models.ready(), Ok(()));
    assert_eq!(answers_after_healing(&models).await, expected);
    super::until(async || store.numbers(Name::Jobs).await == [2]).await;
    let status = models.status().into_iter().find(|status| status.name == "jobs").unwrap();
    assert_eq!((status.generation, status.stop), (Some(2), None));
}

#[tokio::test]
async fn rows_that_need_many_pages_are_not_damage() {
    let history = History::new();
    let mut position = history.head();
    for n in 1..4 {
        position = history.job_created(job(n), Some(&"long".repeat(10_000))).await;
    }
    let (store, expected) = closed_store(&history).await;
    for _ in 0..2 {
        let models = open(&store, &history).await;
        models.wait_for(&Name::ALL, position, super::TIMEOUT).await.unwrap();
        assert_eq!(answers(&models).await.unwrap(), expected);
        models.shutdown().await;
    }
}

#[tokio::test]
async fn lost_parts_of_a_file_are_rebuilt_below_a_running_server() {
    if is_read_store() {
        return;
    }
    let history = some_history().await;
    let (store, expected) = closed_store(&history).await;
    for name in Name::STORED {
        let models = open(&store, &history).await;
        reach(&models, history.head()).await;
        let number = store.numbers(name).await[0];
        let path = store.folder().unwrap().join(format!("{name}.{number}.sqlite"));
        // The first page remains.
        OpenOptions::new().write(true).open(&path).unwrap().set_len(4096 + 100).unwrap();
        assert_eq!(answers_after_healing(&models).await, expected, "{name}");
        models.shutdown().await;
    }
}

/// Runs SQL in the live generation of some read models, as another program would.
async fn run(models: &ReadModels, name: Name, sql: &str) {
    let queries = &models.0.queries;
    let ran = match name {
        Name::Jobs => queries.jobs.slot.live().unwrap().db.run(sql).await,
        Name::ImageMatches => queries.image_matches.slot.live().unwrap().db.run(sql).await,
        Name::MatchingSummary => queries.matching_summary.slot.live().unwrap().db.run(sql).await,
        Name::Queues => queries.queues.slot.live().unwrap().db.run(sql).await,
        Name::Workers => queries.workers.slot.live().unwrap().db.run(sql).await,
        _ => panic!("not used by these tests"),
    };
    ran.unwrap();
}

#[tokio::test]
async fn dropped_tables_are_rebuilt_below_a_running_server() {
    let history = some_history().await;
    let (store, expected) = closed_store(&history).await;
    for (name, table) in [(Name::Jobs, "jobs"), (Name::ImageMatches, "matches"), (Name::Workers, "workers")] {
        let models = open(&store, &history).await;
        reach(&models, history.head()).await;
        let cascade = if is_read_store() { " CASCADE" } else { "" };
        run(&models, name, &format!("DROP TABLE {table}{cascade}")).await;
        assert_eq!(answers_after_healing(&models).await, expected, "{table}");
        models.shutdown().await;
    }
}

/// Changes by another program, which no read may answer, neither at once nor after the next start.
const FOREIGN_CHANGES: &[(Name, &str)] = &[
    (Name::Jobs, "UPDATE jobs SET overview = replace(overview, 'some job', 'other job')"),
    (Name::Jobs, "UPDATE jobs SET created_at = created_at + 1"),
    (Name::Jobs, "DELETE FROM jobs WHERE created_at = (SELECT min(created_at) FROM jobs)"),
    (Name::Jobs, "DELETE FROM jobs"),
    (Name::Jobs, "UPDATE projection_checkpoint SET position = position - 1"),
    (Name::ImageMatches, "UPDATE matches SET score = score / 2"),
    (
        Name::ImageMatches,
        "INSERT INTO matches (position, job_id, match_id, product_id, video_id, img_id, frame_id, score, occurred_at) \
         SELECT 900000, job_id, 'm-9', product_id, video_id, img_id, frame_id, score, occurred_at FROM matches LIMIT 1",
    ),
    (Name::MatchingSummary, "UPDATE summaries SET fold = replace(fold, '1', '2')"),
    (Name::Queues, "UPDATE queue_entries SET entry = replace(entry, '1', '2')"),
    (Name::Workers, "UPDATE workers SET worker = replace(worker, '1', '2')"),
];

/// Changes rows as another program would: in SQLite without the layer that checks the pages.
async fn change(store: &TestStore, models: &ReadModels, name: Name, sql: &str) {
    let Some(folder) = store.folder() else { return run(models, name, sql).await };
    let number = store.numbers(name).await[0];
    let other = rusqlite::Connection::open(folder.join(format!("{name}.{number}.sqlite"))).unwrap();
    other.execute_batch(sql).unwrap();
}

#[tokio::test]
async fn rows_that_another_program_changes_are_never_answered() {
    let history = some_history().await;
    let clean = TestStore::sqlite();
    let reference = open(&clean, &history).await;
    reach(&reference, history.head()).await;
    for store in [TestStore::sqlite(), TestStore::postgres()] {
        let mut models = open(&store, &history).await;
        reach(&models, history.head()).await;
        for (name, sql) in FOREIGN_CHANGES {
            // A read model that is damaged again at once is rebuilt later.
            history.clock.advance(Duration::from_secs(61));
            let expected = answers(&reference).await.unwrap();
            change(&store, &models, *name, sql).await;
            assert_eq!(answers_after_healing(&models).await, expected, "{sql}");
            // A change that no read has met is met by the next start.
            change(&store, &models, *name, sql).await;
            models.shutdown().await;
            models = open(&store, &history).await;
            reach(&models, history.head()).await;
            assert_eq!(answers_after_healing(&models).await, expected, "{sql}, after a restart");
        }
        models.shutdown().await;
    }
}

#[tokio::test]
async fn damage_that_the_projection_meets_is_rebuilt_as_well() {
    let history = some_history().await;
    let (store, _) = closed_store(&history).await;
    let models = open(&store, &history).await;
    reach(&models, history.head()).await;
    let cascade = if is_read_store() { " CASCADE" } else { "" };
    run(&models, Name::Workers, &format!("DROP TABLE workers{cascade}")).await;
    let stream = StreamId::worker(&tenant(), &worker(77));
    reach(&models, history.append(stream, &[registered(77)]).await).await;
    let workers = models.workers().list(&tenant(), None, 100).await.unwrap().items;
    assert!(workers.iter().any(|found| found.worker_id == worker(77)), "{workers:?}");
}
