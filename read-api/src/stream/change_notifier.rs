//! Notifies the streams of a job, tenant, player or match when new data can be read.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use event_log::{EventLog, Filter, Log};
use event_schemas::ids::{JobId, Tenant};
use event_schemas::stream::{Category, StreamId};
use futures_util::FutureExt;
use projections::matching_summary::{ChangeScope, SummaryChange};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};

/// The delay before a failed read of the log is retried.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The categories with one topic per stream.
const NOTIFIED_CATEGORIES: [Category; 2] = [Category::Player, Category::GameMatch];

/// The topics and their subscribers. The values are versions, which only show that something has changed.
#[derive(Debug, Default)]
pub(crate) struct ChangeNotifier {
    jobs: Mutex<Topics<JobId>>,
    tenants: Mutex<Topics<Tenant>>,
    streams: Mutex<Topics<StreamId>>,
}

#[derive(Debug)]
struct Topics<K> {
    senders: HashMap<K, watch::Sender<u64>>,
    /// The number of topics at which those without subscribers are removed.
    sweep_at: usize,
}

/// The smallest number of topics that is swept.
const SWEEP_MIN: usize = 1024;

impl<K> Default for Topics<K> {
    fn default() -> Self {
        Self { senders: HashMap::new(), sweep_at: SWEEP_MIN }
    }
}

impl<K: Eq + Hash> Topics<K> {
    fn subscribe(&mut self, key: K) -> watch::Receiver<u64> {
        if self.senders.len() >= self.sweep_at {
            self.senders.retain(|_, sender| sender.receiver_count() > 0);
            // Twice the current number, so that the amortized cost of a sweep is constant.
            self.sweep_at = SWEEP_MIN.max(2 * self.senders.len());
        }
        self.senders.entry(key).or_insert_with(|| watch::Sender::new(0)).subscribe()
    }

    fn notify(&mut self, key: &K) {
        if let Some(sender) = self.senders.get(key) {
            sender.send_modify(|version| *version = version.wrapping_add(1));
            if sender.receiver_count() == 0 {
                self.senders.remove(key);
            }
        }
    }

    fn notify_all(&mut self) {
        self.senders.retain(|_, sender| sender.receiver_count() > 0);
        for sender in self.senders.values() {
            sender.send_modify(|version| *version = version.wrapping_add(1));
        }
    }
}

impl ChangeNotifier {
    /// Starts the tasks that forward changes. They end with the read models and the log.
    pub(crate) fn start(changes: broadcast::Receiver<SummaryChange>, log: Log) -> Arc<Self> {
        let notifier = Arc::new(Self::default());
        tokio::spawn(forward_changes(changes, Arc::clone(&notifier)).boxed());
        tokio::spawn(watch_streams(log, Arc::clone(&notifier)).boxed());
        notifier
    }

    /// Subscribes to the stream of a player or a match. A notification means that the new events can be read.
    pub(crate) fn stream(&self, stream: StreamId) -> watch::Receiver<u64> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).subscribe(stream)
    }

    pub(crate) fn job(&self, job: JobId) -> watch::Receiver<u64> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).subscribe(job)
    }

    pub(crate) fn tenant(&self, tenant: &Tenant) -> watch::Receiver<u64> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner).subscribe(tenant.clone())
    }

    fn notify(&self, subject: &ChangeScope) {
        match subject {
            ChangeScope::Job(job) => self.jobs.lock().unwrap_or_else(PoisonError::into_inner).notify(job),
            ChangeScope::Workers(tenant) => {
                self.tenants.lock().unwrap_or_else(PoisonError::into_inner).notify(tenant);
            }
        }
    }
}

async fn forward_changes(mut changes: broadcast::Receiver<SummaryChange>, notifier: Arc<ChangeNotifier>) {
    loop {
        match changes.recv().await {
            Ok(changed) => notifier.notify(&changed.scope),
            // It is not known which changes were lost, so all subscribers are notified.
            Err(RecvError::Lagged(_)) => {
                notifier.jobs.lock().unwrap_or_else(PoisonError::into_inner).notify_all();
                notifier.tenants.lock().unwrap_or_else(PoisonError::into_inner).notify_all();
            }
            Err(RecvError::Closed) => return,
        }
    }
}

async fn watch_streams(log: Log, notifier: Arc<ChangeNotifier>) {
    let prefixes = NOTIFIED_CATEGORIES.map(|category| category.stream_prefix().to_owned());
    let mut events = log.subscribe(*log.head().borrow(), Filter::StreamPrefixes(prefixes.into()));
    loop {
        match events.next().await {
            Ok(page) => {
                let mut streams = notifier.streams.lock().unwrap_or_else(PoisonError::into_inner);
                page.events.iter().for_each(|event| streams.notify(&event.stream));
            }
            Err(error) => {
                // The subscribers get the error when they read.
                notifier.streams.lock().unwrap_or_else(PoisonError::into_inner).notify_all();
                if log.head().has_changed().is_err() {
                    return;
                }
                tracing::warn!(%error, "the log subscription failed and is retried");
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_without_subscribers_are_removed_others_are_notified() {
        let mut topics = Topics::default();
        let mut kept = topics.subscribe(0);
        for key in 1..10 * SWEEP_MIN {
            drop(topics.subscribe(key));
        }
        assert!(topics.senders.len() <= SWEEP_MIN, "{}", topics.senders.len());
        topics.notify(&0);
        assert!(kept.has_changed().unwrap());
        kept.mark_unchanged();
        topics.notify(&1);
        assert!(!kept.has_changed().unwrap());
    }
}
