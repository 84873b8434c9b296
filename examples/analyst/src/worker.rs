//! The worker's life: claim, work, hand in, and leave in order.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::analysis::{Bench, Unfinished, analyse};
use crate::api::{Api, Item, Refused};
use crate::fault::Fault;

/// The shortest pause between two heartbeats, whatever the server asks for.
const HEARTBEAT_MIN: Duration = Duration::from_millis(100);
const CLAIM_WAIT: Duration = Duration::from_secs(10);
/// A server that answers "nothing" at once, instead of waiting, is asked again after this.
const EMPTY_ANSWER_PAUSE: Duration = Duration::from_millis(250);
/// How long leaving may take.
const FAREWELL: Duration = Duration::from_secs(2);

/// Why a worker left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// No work came for as long as it was told to stay.
    Idle,
    Stopped,
    /// A fault asked for it to go away without a word.
    Vanished,
}

/// A process that takes analyses.
#[derive(Debug)]
pub struct Worker {
    pub api: Api,
    pub bench: Bench,
    /// Leave once no work has come for so long; without it, stay.
    pub until_idle: Option<Duration>,
}

/// What became of a piece of work.
enum Done {
    /// It was handed in, one way or another, or is no longer ours.
    With,
    Vanish,
}

impl Worker {
    /// Works until told to stop, idle for long enough, or refused for good.
    ///
    /// # Errors
    /// [`Refused`], if the server does not want this worker.
    pub async fn run(&self, stop: impl Future<Output = ()>) -> Result<Ended, Refused> {
        tokio::pin!(stop);
        let mut idle_since = Instant::now();
        let ended = loop {
            if self.until_idle.is_some_and(|until| idle_since.elapsed() >= until) {
                break Ended::Idle;
            }
            let left = self.until_idle.map_or(CLAIM_WAIT, |until| until.saturating_sub(idle_since.elapsed()));
            let asked_at = Instant::now();
            let item = tokio::select! {
                () = &mut stop => break Ended::Stopped,
                item = self.api.claim(left.min(CLAIM_WAIT)) => item?,
            };
            let Some(item) = item else {
                if asked_at.elapsed() < EMPTY_ANSWER_PAUSE {
                    tokio::time::sleep(EMPTY_ANSWER_PAUSE).await;
                }
                continue;
            };
            tokio::select! {
                () = &mut stop => {
                    let given_back = self.api.fail(&item.lease_id, "the worker is shutting down");
                    if tokio::time::timeout(FAREWELL, given_back).await.is_err() {
                        tracing::warn!(job = item.job_id, "not given back: its lease will run out");
                    }
                    break Ended::Stopped;
                }
                done = self.work_on(&item) => if matches!(done?, Done::Vanish) { return Ok(Ended::Vanished) },
            }
            idle_since = Instant::now();
        };
        let _ = tokio::time::timeout(FAREWELL, self.api.exit("no work is left, or told to stop")).await;
        Ok(ended)
    }

    async fn work_on(&self, item: &Item) -> Result<Done, Refused> {
        let started = Instant::now();
        tracing::info!(job = item.job_id, attempt = item.attempt, "taken");
        let result = tokio::select! {
            result = analyse(&self.api, &self.bench, item) => result,
            refused = self.keep(item) => Err(refused.into()),
        };
        let taken = match result {
            Ok(result) => {
                let found = result.get("highlights").and_then(Value::as_array).map_or(0, Vec::len);
                tracing::info!(
                    job = item.job_id,
                    highlights = found,
                    ms = started.elapsed().as_millis() as u64,
                    "done"
                );
                self.api.complete(&item.lease_id, result).await
            }
            Err(Unfinished::Fault(Fault::WorkerLost)) => return Ok(Done::Vanish),
            Err(Unfinished::Refused(refused)) if refused.is_lost_work() => {
                tracing::info!(job = item.job_id, %refused, "dropped");
                return Ok(Done::With);
            }
            Err(error) => {
                tracing::warn!(job = item.job_id, %error, "failed");
                match error.trouble() {
                    Some(trouble) => self.api.fail_of(&item.lease_id, trouble).await,
                    None => self.api.fail(&item.lease_id, &error.to_string()).await,
                }
            }
        };
        match taken {
            Err(refused) if !refused.is_lost_work() => Err(refused),
            _ => Ok(Done::With),
        }
    }

    /// Keeps the lease alive; ends only when that is refused.
    async fn keep(&self, item: &Item) -> Refused {
        let pause =
            Duration::try_from_secs_f64(item.heartbeat_seconds).unwrap_or_default().max(HEARTBEAT_MIN);
        loop {
            tokio::time::sleep(pause).await;
            if let Err(refused) = self.api.heartbeat(&item.lease_id).await {
                return refused;
            }
        }
    }
}
