//! Restarts, kills, damaged files, other logs: the rows come to what one clean replay gives.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::PoisonError;

use event_schemas::failure::FailureCode;
use event_schemas::ids::Position;
use event_schemas::job::Phase;
use event_schemas::stream::StreamId;
use event_schemas::worker::WorkerEnd;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::history::{
    self, History, attached, claimed, completed, exited, failed_and_retried, found, frames, images, job,
    lost, match_id, progress, registered, request_completed, requested, returned, tenant, worker,
};
use super::lobby::{HAPPENINGS, Lobby};
use super::meetings::Meetings;
use super::{open, reach};
use crate::sql::{Db, dump};
use crate::status::State;
use crate::{Name, ReadModels, Settings};

const TABLES: [(&str, &[&str]); 9] = [
    ("challenges", &["checkpoint", "challenges"]),
    ("jobs", &["checkpoint", "jobs", "job_parts"]),
    ("match_records", &["checkpoint", "match_records"]),
    ("matches", &["checkpoint", "matches"]),
    ("matching_summary", &["checkpoint", "summaries", "presences", "snapshots"]),
    ("players", &["checkpoint", "ratings", "blocks"]),
    ("queues", &["checkpoint", "queue_entries", "pools", "blocks", "proposed_matches"]),
    ("retries", &["checkpoint", "retries", "retried_jobs"]),
    ("workers", &["checkpoint", "workers"]),
];

impl ReadModels {
    /// Ends all tasks where they are, as a kill of the process would.
    pub(super) async fn kill(self) {
        self.0.feed_task.abort();
        for handle in self.0.handles.values() {
            let task = handle.task.lock().unwrap_or_else(PoisonError::into_inner).take();
            task.unwrap().abort();
        }
        // Each task has a hand on the board until it is gone.
        let is_gone = |handle: &crate::Handle| std::sync::Arc::strong_count(&handle.board) == 1;
        super::until(async || self.0.handles.values().all(is_gone)).await;
    }
}

/// All rows of all tables, from the files of models that were shut down.
async fn dump_all(folder: &Path) -> BTreeMap<String, Vec<String>> {
    let mut all = BTreeMap::new();
    for (model, tables) in TABLES {
        let files: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "sqlite"))
            .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&format!("{model}.")))
            .collect();
        assert_eq!(files.len(), 1, "{files:?}");
        let db = Db::open(&files[0], &[]).await.unwrap();
        for table in tables {
            all.insert(format!("{model}.{table}"), dump(&db, table).await.unwrap());
        }
        db.close().await;
    }
    all
}

/// What the models hold once they have caught up with everything.
async fn settled(folder: &tempfile::TempDir, history: &History) -> BTreeMap<String, Vec<String>> {
    let models = open(folder, history).await;
    reach(&models, history.head()).await;
    // A rebuild that was broken off goes on, and ends.
    super::until(async || models.status().iter().all(|status| status.rebuild.is_none())).await;
    models.shutdown().await;
    dump_all(folder.path()).await
}

async fn clean_replay(history: &History) -> BTreeMap<String, Vec<String>> {
    settled(&tempfile::tempdir().unwrap(), history).await
}

/// What happens to jobs and workers; above it, what happens to players.
const JOB_HAPPENINGS: u8 = 13;

/// Something that happens to a job, a worker or a player, or to the process.
#[derive(Clone, Copy, Debug)]
enum Step {
    Happens { what: u8, job: u8, n: u8 },
    Meets { what: u8, of: u8, n: u8 },
    Shutdown,
    Kill,
    Rebuild(Name),
    CatchUp,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        18 => (0..JOB_HAPPENINGS + HAPPENINGS, 1..4_u8, 0..6_u8).prop_map(|(what, job, n)| Step::Happens { what, job, n }),
        12 => (0..17_u8, 1..4_u8, 0..4_u8).prop_map(|(what, of, n)| Step::Meets { what, of, n }),
        1 => Just(Step::Shutdown),
        1 => Just(Step::Kill),
        1 => proptest::sample::select(Name::ALL.to_vec()).prop_map(Step::Rebuild),
        1 => Just(Step::CatchUp),
    ]
}

/// What has happened so far, so that nothing happens that no decider would let happen.
#[derive(Default)]
pub(super) struct World {
    created: BTreeMap<u8, Phase>,
    /// By job and request, whether it is completed.
    requests: BTreeMap<(u8, u8), bool>,
    /// By job and match, whether it has evidence.
    found: BTreeMap<(u8, u8), bool>,
    workers: BTreeMap<u8, bool>,
    lobby: Lobby,
    counter: u32,
}

impl World {
    pub(super) async fn happen(&mut self, history: &History, what: u8, of: u8, n: u8) {
        self.counter += 1;
        if let Some(what) = what.checked_sub(JOB_HAPPENINGS) {
            return self.lobby.happen(history, what, n).await;
        }
        let id = job(u128::from(of));
        let number = u32::from(n);
        let Some(phase) = self.created.get(&of).copied() else {
            self.created.insert(of, Phase::Queued);
            history.job_created(id, Some("some job")).await;
            return;
        };
        let matching = StreamId::matching(id);
        match what {
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
                let path = (what == 6).then_some("evidence/0.jpg");
                self.found.insert((of, n), path.is_some());
                let event = found(number, f64::from(n) / 7.0, path);
                history.append(StreamId::matches(id, &match_id(number)), &[event]).await;
            }
            7 => {
                if let Some(has) = self.found.get_mut(&(of, n)) {
                    let event = attached(number, &format!("evidence/{}.jpg", self.counter), *has);
                    *has = true;
                    history.append(StreamId::matches(id, &match_id(number)), &[event]).await;
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

async fn survive(steps: &[Step]) -> Result<(), TestCaseError> {
    let (folder, history, mut world) = (tempfile::tempdir().unwrap(), History::new(), World::default());
    let mut meetings = Meetings::default();
    let mut models = open(&folder, &history).await;
    for step in steps {
        match *step {
            Step::Happens { what, job, n } => world.happen(&history, what, job, n).await,
            Step::Meets { what, of, n } => meetings.happen(&history, what, of, n).await,
            Step::CatchUp => reach(&models, history.head()).await,
            Step::Rebuild(name) => drop(models.rebuild(name).await.unwrap()),
            Step::Shutdown => {
                models.shutdown().await;
                models = open(&folder, &history).await;
            }
            Step::Kill => {
                models.kill().await;
                models = open(&folder, &history).await;
            }
        }
    }
    models.kill().await;
    prop_assert_eq!(settled(&folder, &history).await, clean_replay(&history).await);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn after_any_mix_of_restarts_kills_and_rebuilds_the_rows_are_those_of_one_clean_replay(
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(survive(&steps))?;
    }
}

async fn some_history() -> History {
    let (history, mut world, mut meetings) = (History::new(), World::default(), Meetings::default());
    for n in 0..120_u8 {
        world.happen(&history, n % 11, n % 3 + 1, n / 11 % 6).await;
        world.happen(&history, JOB_HAPPENINGS + n % HAPPENINGS * 7 % HAPPENINGS, 1, n % 6).await;
        meetings.happen(&history, n % 17, n % 3 + 1, n / 17 % 4).await;
    }
    history
}

/// Makes one statement on a table fail, as a full disk would.
async fn break_table(models: &ReadModels, table: &str) {
    let db = &models.0.jobs.slot.live().unwrap();
    let mut tx = db.db.begin().await.unwrap();
    tx.run(&format!(
        "CREATE TRIGGER fault BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'injected'); END"
    ))
    .await
    .unwrap();
    tx.commit().await.unwrap();
}

async fn mend(models: &ReadModels) {
    let db = &models.0.jobs.slot.live().unwrap();
    let mut tx = db.db.begin().await.unwrap();
    tx.run("DROP TRIGGER fault").await.unwrap();
    tx.commit().await.unwrap();
}

fn state(models: &ReadModels, name: Name) -> State {
    models.status().into_iter().find(|status| status.name == name.as_str()).unwrap().state
}

#[tokio::test]
async fn a_failure_between_two_statements_leaves_neither_rows_nor_checkpoint() {
    for table in ["jobs", "job_parts", "checkpoint"] {
        let (folder, history) = (tempfile::tempdir().unwrap(), History::new());
        let models = open(&folder, &history).await;
        let before = history.job_created(job(1), None).await;
        reach(&models, before).await;
        break_table(&models, table).await;
        let events = [frames("clip", 33), requested(1, 99), progress(1, 9)];
        let position = history.append(StreamId::matching(job(1)), &events).await;
        // The others do not care.
        let others = [Name::Matches, Name::Workers, Name::MatchingSummary, Name::Queues];
        models.wait_for(&others, position, super::SOON).await.unwrap();
        super::until(async || matches!(state(&models, Name::Jobs), State::Retrying(_))).await;
        let (view, _) = models.jobs().get(&tenant(), job(1)).await.unwrap().unwrap();
        assert_eq!(view.counters.video_frames, 0, "{table}");
        mend(&models).await;
        models.resume(Name::Jobs).await.unwrap();
        reach(&models, position).await;
        models.shutdown().await;
        assert_eq!(dump_all(folder.path()).await, clean_replay(&history).await, "{table}");
    }
}

#[tokio::test]
async fn a_checkpoint_beyond_the_head_or_of_another_log_is_not_gone_on_from() {
    let folder = tempfile::tempdir().unwrap();
    let long = some_history().await;
    settled(&folder, &long).await;
    // A restored backup, or another folder of events: a log with another id and a lower head.
    let short = History::new();
    short.job_created(job(7), None).await;
    assert_eq!(settled(&folder, &short).await, clean_replay(&short).await);
}

#[tokio::test]
async fn a_damaged_file_is_made_again() {
    let (folder, history) = (tempfile::tempdir().unwrap(), some_history().await);
    let expected = settled(&folder, &history).await;
    let file = folder.path().join("jobs.1.sqlite");
    let mut bytes = std::fs::read(&file).unwrap();
    for page in bytes.chunks_mut(4096).skip(1) {
        page[..64].fill(0xff);
    }
    std::fs::write(&file, &bytes).unwrap();
    assert_eq!(settled(&folder, &history).await, expected);
    std::fs::write(&file, "this is no database").unwrap();
    assert_eq!(settled(&folder, &history).await, expected);
}

#[tokio::test]
async fn deleted_files_are_made_again_at_the_next_start() {
    let (folder, history) = (tempfile::tempdir().unwrap(), some_history().await);
    let expected = settled(&folder, &history).await;
    assert_eq!(crate::delete_files(folder.path(), &Name::ALL).unwrap(), 9);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    assert_eq!(settled(&folder, &history).await, expected);
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let history = History::new();
    let settings = Settings { folder: file.join("models") };
    let error = ReadModels::open(settings, history.log(), history.clock.clone()).await.unwrap_err();
    assert!(error.to_string().contains("file/models"), "{error}");
    assert_eq!(history.head(), Position::START);
}
