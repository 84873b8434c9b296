//! The background processes of all systems: the one place that knows them all.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::jobs::processes::{lease_expiry, retry, worker_timeout};
use crate::jobs::{Jobs, scheduler};
use crate::matchmaking::{Matchmaking, expiry, matchmaker, reconciler};
use crate::subjects::{Subjects, erasure};

/// A process, which runs until the server shuts down or the log cannot be read any more.
type Process = BoxFuture<'static, ()>;

/// The work board's reader, and the processes that act on the board.
pub(crate) fn of_jobs(jobs: &Arc<Jobs>) -> [Process; 4] {
    [
        scheduler::follow(jobs.clone()).boxed(),
        lease_expiry::run(jobs.clone()).boxed(),
        worker_timeout::run(jobs.clone()).boxed(),
        retry::run(jobs.clone()).boxed(),
    ]
}

/// The completion of erasures.
pub(crate) fn of_subjects(subjects: &Arc<Subjects>) -> Process {
    erasure::run(subjects.clone()).boxed()
}

/// The matchmaker, which reads the log for all of them, the reconciler, and the expiry.
pub(crate) fn of_matchmaking(matchmaking: &Arc<Matchmaking>) -> [Process; 3] {
    let processes = [
        matchmaker::run(matchmaking.clone()).boxed(),
        reconciler::run(matchmaking.clone()).boxed(),
        expiry::run(matchmaking.clone()).boxed(),
    ];
    processes.map(|process| {
        let matchmaking = matchmaking.clone();
        let until_stopped = async move {
            process.await;
            matchmaking.stop();
        };
        until_stopped.boxed()
    })
}
