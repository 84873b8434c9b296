//! After restarts, kills, damaged files and a change of the log, the rows equal those of a clean replay.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use event_schemas::failure::FailureCode;
use event_schemas::ids::Position;
use event_schemas::job::Phase;
use event_schemas::stream::StreamId;
use event_schemas::worker::WorkerEnd;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::catalogue;
use super::history::{
    self, History, attached, claimed, completed, exited, failed_and_retried, found, frames, images, job,
    lost, match_id, progress, registered, request_completed, requested, returned, tenant, worker,
};
use super::match_history::MatchHistory;
use super::postgres::is_read_store;
use super::queue_history::{QUEUE_ACTIONS, QueueHistory};
use super::test_store::{TestStore, cases};
use super::{TIMEOUT, open, reach};
use crate::status::ReportedState;
use crate::{Name, ReadModels, ReadStore, Settings};

impl ReadModels {
    /// Ends all tasks where they are, as a kill of the process would.
    pub(super) async fn kill(self) {
        self.0.feed_task.abort();
        for runner in self.0.runners.values() {
            let task = runner.task.lock().unwrap_or_else(PoisonError::into_inner).take();
            task.unwrap().abort();
        }
        // Each task holds its tracker until it has ended.
        let has_ended =
            |runner: &crate::starter::RunnerHandle| std::sync::Arc::strong_count(&runner.tracker) == 1;
        super::until(async || self.0.runners.values().all(has_ended)).await;
    }
}

/// All rows after the read models have caught up.
async fn rows_after_catch_up(store: &TestStore, history: &History) -> BTreeMap<String, Vec<String>> {
    let models = open(store, history).await;
    reach(&models, history.head()).await;
    // An interrupted rebuild is resumed and finished.
    super::until(async || models.status().iter().all(|status| status.rebuild.is_none())).await;
    models.shutdown().await;
    store.dump().await
}

pub(super) async fn clean_replay(history: &History) -> BTreeMap<String, Vec<String>> {
    rows_after_catch_up(&TestStore::new(), history).await
}

/// The number of actions on jobs and workers. Higher numbers are actions on players.
const JOB_ACTIONS: u8 = 13;

/// An action on a job, a worker or a player, or an operation on the process.
#[derive(Clone, Copy, Debug)]
enum Operation {
    Act { action: u8, job: u8, n: u8 },
    MatchAct { action: u8, of: u8, n: u8 },
    CatalogueAct { action: u8, of: u8, n: u8 },
    Shutdown,
    Kill,
    Rebuild(Name),
    CatchUp,
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        18 => (0..JOB_ACTIONS + QUEUE_ACTIONS, 1..4_u8, 0..6_u8).prop_map(|(action, job, n)| Operation::Act { action, job, n }),
        12 => (0..17_u8, 1..4_u8, 0..4_u8).prop_map(|(action, of, n)| Operation::MatchAct { action, of, n }),
        12 => (0..catalogue::ACTIONS, 1..4_u8, 0..4_u8).prop_map(|(action, of, n)| Operation::CatalogueAct { action, of, n }),
        1 => Just(Operation::Shutdown),
        1 => Just(Operation::Kill),
        1 => proptest::sample::select(Name::ALL.to_vec()).prop_map(Operation::Rebuild),
        1 => Just(Operation::CatchUp),
    ]
}

/// The state after all appended events, so that only events that the deciders allow are appended.
#[derive(Default)]
pub(super) struct World {
    created: BTreeMap<u8, Phase>,
    /// The requests of each job, and whether they are completed.
    requests: BTreeMap<(u8, u8), bool>,
    /// The matches of each job, and whether they have evidence.
    found: BTreeMap<(u8, u8), bool>,
    workers: BTreeMap<u8, bool>,
    queue_history: QueueHistory,
    counter: u32,
}

impl World {
    pub(super) async fn act(&mut self, history: &History, action: u8, of: u8, n: u8) {
        self.counter += 1;
        if let Some(action) = action.checked_sub(JOB_ACTIONS) {
            return self.queue_history.act(history, action, n).await;
        }
        let id = job(u128::from(of));
        let number = u32::from(n);
        let Some(phase) = self.created.get(&of).copied() else {
            self.created.insert(of, Phase::Queued);
            history.job_created(id, Some("some job")).await;
            return;
        };
        let matching = StreamId::image_matching(id);
        match action {
            0 => {
                history.append(matching, &[images("hedge", self.counter * 10, number + 1)]).await;
            }
            1 => {
                let more = u64::from(self.counter);
                history.append(matching, &[frames(&format!("clip-{n}"), more)]).await;
            }
            2 if !self.requests.contains_key(&(of, n)) => {
                self.requests.insert((of, n), false);
                history.append(matching, &[requested(number, 100)]).await;
            }
            3 if self.requests.get(&(of, n)) == Some(&false) => {
                let until = history.clock.now();
                history.append(matching, &[claimed(number, 1, until), progress(number, number.into())]).await;
            }
            4 if self.requests.get(&(of, n)) == Some(&false) => {
                self.requests.insert((of, n), true);
                history.append(matching, &[progress(number, 9), request_completed(number, 100)]).await;
            }
            5 | 6 if !self.found.contains_key(&(of, n)) => {
                let path = (action == 6).then_some("evidence/0.jpg");
                self.found.insert((of, n), path.is_some());
                let event = found(number, f64::from(n) / 7.0, path);
                history.append(StreamId::image_match(id, &match_id(number)), &[event]).await;
            }
            7 => {
                if let Some(has) = self.found.get_mut(&(of, n)) {
                    let event = attached(number, &format!("evidence/{}.jpg", self.counter), *has);
                    *has = true;
                    history.append(StreamId::image_match(id, &match_id(number)), &[event]).await;
                }
            }
            8 => {
                let next = match phase {
                    Phase::Queued => Phase::Matching,
                    Phase::Matching => Phase::Completed,
                    _ => return,
                };
                self.created.insert(of, next);
                let event = if next == Phase::Completed {
                    completed(phase)
                } else {
                    history::phase_changed(phase, next)
                };
                history.append(StreamId::job(id), &[event]).await;
            }
            9 | 10 => self.worker(history, n).await,
            11 | 12 if matches!(phase, Phase::Queued | Phase::Matching) => {
                self.created.insert(of, Phase::Queued);
                let code = [FailureCode::NetworkTimeout, FailureCode::OutOfMemory][usize::from(n % 2)];
                history.append(StreamId::job(id), &failed_and_retried(code, history.clock.now())).await;
            }
            _ => {}
        }
    }

    async fn worker(&mut self, history: &History, n: u8) {
        let number = u32::from(n);
        let present = self.workers.get(&n).copied();
        let event = match (present, self.counter % 2) {
            (None, _) => registered(number),
            (Some(false), _) => returned(number),
            (Some(true), 0) => lost(number, history.clock.now()),
            (Some(true), _) => exited(number, WorkerEnd::OutOfMemory),
        };
        self.workers.insert(n, present != Some(true));
        history.append(StreamId::worker(&tenant(), &worker(number)), &[event]).await;
    }
}

async fn survive(operations: &[Operation]) -> Result<(), TestCaseError> {
    let (store, history, mut world) = (TestStore::new(), History::new(), World::default());
    let mut match_history = MatchHistory::default();
    let mut models = open(&store, &history).await;
    for operation in operations {
        match *operation {
            Operation::Act { action, job, n } => world.act(&history, action, job, n).await,
            Operation::MatchAct { action, of, n } => match_history.act(&history, action, of, n).await,
            Operation::CatalogueAct { action, of, n } => catalogue::act(&history, action, of, n).await,
            Operation::CatchUp => reach(&models, history.head()).await,
            Operation::Rebuild(name) => drop(models.rebuild(name).await.unwrap()),
            Operation::Shutdown => {
                models.shutdown().await;
                models = open(&store, &history).await;
            }
            Operation::Kill => {
                models.kill().await;
                models = open(&store, &history).await;
            }
        }
    }
    models.kill().await;
    prop_assert_eq!(rows_after_catch_up(&store, &history).await, clean_replay(&history).await);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(32), ..ProptestConfig::default() })]

    #[test]
    fn restarts_kills_and_rebuilds_yield_rows_of_clean_replay(
        operations in proptest::collection::vec(operation(), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(survive(&operations))?;
    }
}

pub(super) async fn some_history() -> History {
    let (history, mut world, mut match_history) = (History::new(), World::default(), MatchHistory::default());
    for n in 0..120_u8 {
        world.act(&history, n % 11, n % 3 + 1, n / 11 % 6).await;
        world.act(&history, JOB_ACTIONS + n % QUEUE_ACTIONS * 7 % QUEUE_ACTIONS, 1, n % 6).await;
        match_history.act(&history, n % 17, n % 3 + 1, n / 17 % 4).await;
        catalogue::act(&history, n % catalogue::ACTIONS, n % 3 + 1, n / 12 % 4).await;
    }
    history
}

/// Makes inserts into a table fail.
async fn break_table(models: &ReadModels, table: &str) {
    run(
        models,
        if is_read_store() {
            format!("ALTER TABLE {table} ADD CONSTRAINT fault CHECK (FALSE) NOT VALID")
        } else {
            format!(
                "CREATE TRIGGER fault BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'injected'); END"
            )
        },
    )
    .await;
}

async fn repair_table(models: &ReadModels, table: &str) {
    run(
        models,
        if is_read_store() {
            format!("ALTER TABLE {table} DROP CONSTRAINT fault")
        } else {
            "DROP TRIGGER fault".to_owned()
        },
    )
    .await;
}

/// Runs SQL in the live generation of the jobs, which may be closed for writing.
async fn run(models: &ReadModels, sql: String) {
    let generation = models.0.queries.jobs.slot.live().unwrap();
    generation.db.run(&sql).await.unwrap();
}

fn state(models: &ReadModels, name: Name) -> ReportedState {
    models.status().into_iter().find(|status| status.name == name.as_str()).unwrap().state
}

#[tokio::test]
async fn failed_statement_leaves_neither_rows_nor_checkpoint() {
    for table in ["jobs", "job_parts", "projection_checkpoint"] {
        let (store, history) = (TestStore::new(), History::new());
        let models = open(&store, &history).await;
        let before = history.job_created(job(1), None).await;
        reach(&models, before).await;
        break_table(&models, table).await;
        let events = [frames("clip", 33), requested(1, 99), progress(1, 9)];
        let position = history.append(StreamId::image_matching(job(1)), &events).await;
        // The other projections are not affected.
        let others = [Name::ImageMatches, Name::Workers, Name::MatchingSummary, Name::Queues];
        models.wait_for(&others, position, TIMEOUT).await.unwrap();
        super::until(async || state(&models, Name::Jobs) == ReportedState::Retrying).await;
        let (view, _) = models.jobs().get(&tenant(), job(1)).await.unwrap().unwrap();
        assert_eq!(view.counters.video_frames, 0, "{table}");
        repair_table(&models, table).await;
        models.resume(Name::Jobs).await.unwrap();
        reach(&models, position).await;
        models.shutdown().await;
        assert_eq!(store.dump().await, clean_replay(&history).await, "{table}");
    }
}

#[tokio::test]
async fn checkpoint_of_other_log_causes_rebuild() {
    let store = TestStore::new();
    let long = some_history().await;
    rows_after_catch_up(&store, &long).await;
    // A log with another id and a lower head, as after a restore from a backup.
    let short = History::new();
    short.job_created(job(7), None).await;
    assert_eq!(rows_after_catch_up(&store, &short).await, clean_replay(&short).await);
}

#[tokio::test]
async fn damaged_generation_is_rebuilt() {
    let (store, history) = (TestStore::new(), some_history().await);
    let expected = rows_after_catch_up(&store, &history).await;
    match store.folder() {
        Some(folder) => {
            let file = folder.join("jobs.1.sqlite");
            let mut bytes = std::fs::read(&file).unwrap();
            for page in bytes.chunks_mut(4096).skip(1) {
                page[..64].fill(0xff);
            }
            std::fs::write(&file, &bytes).unwrap();
            assert_eq!(rows_after_catch_up(&store, &history).await, expected);
            std::fs::write(&file, "this is not a database").unwrap();
        }
        None => {
            let models = open(&store, &history).await;
            reach(&models, history.head()).await;
            run(&models, "DROP TABLE job_parts CASCADE".to_owned()).await;
            let position = history.append(StreamId::image_matching(job(1)), &[frames("damaged", 33)]).await;
            super::until(async || models.wait_for(&[Name::Jobs], position, TIMEOUT).await.is_ok()).await;
            models.shutdown().await;
            assert_eq!(store.dump().await, clean_replay(&history).await);
            return;
        }
    }
    assert_eq!(rows_after_catch_up(&store, &history).await, expected);
}

#[tokio::test]
async fn deleted_generations_are_rebuilt_at_next_start() {
    let (store, history) = (TestStore::new(), some_history().await);
    let expected = rows_after_catch_up(&store, &history).await;
    store.clear().await;
    assert_eq!(rows_after_catch_up(&store, &history).await, expected);
}

#[tokio::test]
async fn error_names_folder_that_cannot_be_created() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let history = History::new();
    let settings = Settings {
        store: ReadStore::Folder(file.join("models")),
        read_only: false,
        answer_cache_bytes: 0,
        vectors: None,
        encoder: None,
        recommend: domain::recommend::settings::Settings::default(),
    };
    let error = ReadModels::open(settings, history.log(), history.clock.clone()).await.unwrap_err();
    assert!(error.to_string().contains("file/models"), "{error}");
    assert_eq!(history.head(), Position::START);
}
