//! Wakes those who follow something when there is more of it to read, and nobody else.

use futures_util::FutureExt;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use event_log::{EventLog, Filter, Log};
use event_schemas::ids::{JobId, Tenant};
use event_schemas::stream::{Category, StreamId};
use projections::matching_summary::{Changed, Subject};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};

/// How long after the log could not be read it is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The categories whose streams are followed one by one.
const FOLLOWED: [Category; 2] = [Category::Player, Category::MatchRecord];

/// Who follows what. The numbers only tell that something has changed.
#[derive(Debug, Default)]
pub(crate) struct Pulses {
    jobs: Mutex<Followed<JobId>>,
    tenants: Mutex<Followed<Tenant>>,
    streams: Mutex<Followed<StreamId>>,
}

#[derive(Debug)]
struct Followed<K> {
    senders: HashMap<K, watch::Sender<u64>>,
    /// Once there are so many, those that nobody follows any more are let go.
    swept_at: usize,
}

/// So few are never swept.
const SWEPT_MIN: usize = 1024;

impl<K> Default for Followed<K> {
    fn default() -> Self {
        Self { senders: HashMap::new(), swept_at: SWEPT_MIN }
    }
}

impl<K: Eq + Hash> Followed<K> {
    fn follow(&mut self, key: K) -> watch::Receiver<u64> {
        if self.senders.len() >= self.swept_at {
            self.senders.retain(|_, sender| sender.receiver_count() > 0);
            // Twice as many as there are: so a sweep costs each newcomer little.
            self.swept_at = SWEPT_MIN.max(2 * self.senders.len());
        }
        self.senders.entry(key).or_insert_with(|| watch::Sender::new(0)).subscribe()
    }

    fn wake(&mut self, key: &K) {
        if let Some(sender) = self.senders.get(key) {
            sender.send_modify(|pulse| *pulse = pulse.wrapping_add(1));
            if sender.receiver_count() == 0 {
                self.senders.remove(key);
            }
        }
    }

    fn wake_all(&mut self) {
        self.senders.retain(|_, sender| sender.receiver_count() > 0);
        for sender in self.senders.values() {
            sender.send_modify(|pulse| *pulse = pulse.wrapping_add(1));
        }
    }
}

impl Pulses {
    /// Starts to pass changes on. The tasks end with the read models and the log.
    pub(crate) fn start(changes: broadcast::Receiver<Changed>, log: Log) -> Arc<Self> {
        let pulses = Arc::new(Self::default());
        tokio::spawn(pass_on(changes, Arc::clone(&pulses)).boxed());
        tokio::spawn(watch_streams(log, Arc::clone(&pulses)).boxed());
        pulses
    }

    /// Of a player or a match: it beats once what it beats for can be read.
    pub(crate) fn stream(&self, stream: StreamId) -> watch::Receiver<u64> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).follow(stream)
    }

    pub(crate) fn job(&self, job: JobId) -> watch::Receiver<u64> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).follow(job)
    }

    pub(crate) fn tenant(&self, tenant: &Tenant) -> watch::Receiver<u64> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner).follow(tenant.clone())
    }

    fn wake(&self, subject: &Subject) {
        match subject {
            Subject::Job(job) => self.jobs.lock().unwrap_or_else(PoisonError::into_inner).wake(job),
            Subject::Workers(tenant) => {
                self.tenants.lock().unwrap_or_else(PoisonError::into_inner).wake(tenant);
            }
        }
    }
}

async fn pass_on(mut changes: broadcast::Receiver<Changed>, pulses: Arc<Pulses>) {
    loop {
        match changes.recv().await {
            Ok(changed) => pulses.wake(&changed.what),
            // Which changes were lost is not known, so everybody looks again.
            Err(RecvError::Lagged(_)) => {
                pulses.jobs.lock().unwrap_or_else(PoisonError::into_inner).wake_all();
                pulses.tenants.lock().unwrap_or_else(PoisonError::into_inner).wake_all();
            }
            Err(RecvError::Closed) => return,
        }
    }
}

async fn watch_streams(log: Log, pulses: Arc<Pulses>) {
    let prefixes = FOLLOWED.map(|category| format!("{}-", category.as_str()));
    let mut events = log.subscribe(*log.head().borrow(), Filter::StreamPrefixes(prefixes.into()));
    loop {
        match events.next().await {
            Ok(page) => {
                let mut streams = pulses.streams.lock().unwrap_or_else(PoisonError::into_inner);
                page.events.iter().for_each(|event| streams.wake(&event.stream));
            }
            Err(error) => {
                // Whoever follows anything finds out by themselves.
                pulses.streams.lock().unwrap_or_else(PoisonError::into_inner).wake_all();
                if log.head().has_changed().is_err() {
                    return;
                }
                tracing::warn!(%error, "the log could not be followed; trying again");
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_follows_any_more_is_let_go_and_what_somebody_follows_is_woken() {
        let mut followed = Followed::default();
        let mut kept = followed.follow(0);
        for key in 1..10 * SWEPT_MIN {
            drop(followed.follow(key));
        }
        assert!(followed.senders.len() <= SWEPT_MIN, "{}", followed.senders.len());
        followed.wake(&0);
        assert!(kept.has_changed().unwrap());
        kept.mark_unchanged();
        followed.wake(&1);
        assert!(!kept.has_changed().unwrap());
    }
}
