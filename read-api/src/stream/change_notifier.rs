//! Notifies the streams of a job, tenant, player, match or user when new data can be read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use event_log::{EventLog, Filter, Log, Subscription};
use event_schemas::ids::{JobId, Tenant};
use event_schemas::stream::{Category, StreamId};
use futures_util::FutureExt;
use projections::matching_summary::{ChangeScope, SummaryChange};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};

/// The delay before a failed read of the log is retried.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The categories whose streams are subjects.
const NOTIFIED_CATEGORIES: [Category; 3] = [Category::Player, Category::GameMatch, Category::User];

/// The event that is of a user's stream and changes nothing that a stream of the user shows. With notifications of it,
/// each list that a stream sends would lead to another one.
const SERVED_LIST: &str = "ListServed";

/// What a notification is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    Job(JobId),
    Tenant(Tenant),
    Stream(StreamId),
}

/// The subjects with subscribers.
#[derive(Debug)]
pub(crate) struct ChangeNotifier(Mutex<Subjects>);

/// The values are versions, which only show that something has changed.
#[derive(Debug)]
struct Subjects {
    senders: HashMap<Subject, watch::Sender<u64>>,
    /// The number of subjects at which those without subscribers are removed.
    sweep_at: usize,
}

/// The smallest number of subjects that is swept.
const SWEEP_MIN: usize = 1024;

impl Default for Subjects {
    fn default() -> Self {
        Self { senders: HashMap::new(), sweep_at: SWEEP_MIN }
    }
}

impl Subjects {
    fn subscribe(&mut self, subject: Subject) -> watch::Receiver<u64> {
        if self.senders.len() >= self.sweep_at {
            self.senders.retain(|_, sender| sender.receiver_count() > 0);
            // Twice the current number, so that the amortized cost of a sweep is constant.
            self.sweep_at = SWEEP_MIN.max(2 * self.senders.len());
        }
        self.senders.entry(subject).or_insert_with(|| watch::Sender::new(0)).subscribe()
    }

    fn notify(&mut self, subject: &Subject) {
        if let Some(sender) = self.senders.get(subject) {
            sender.send_modify(|version| *version = version.wrapping_add(1));
            if sender.receiver_count() == 0 {
                self.senders.remove(subject);
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
        let notifier = Arc::new(Self(Mutex::default()));
        tokio::spawn(forward_changes(changes, Arc::clone(&notifier)).boxed());
        // From here on, not from the first time that the task runs.
        let prefixes = NOTIFIED_CATEGORIES.map(|category| category.stream_prefix().to_owned());
        let events = log.subscribe(*log.head().borrow(), Filter::StreamPrefixes(prefixes.into()));
        tokio::spawn(watch_streams(log, events, Arc::clone(&notifier)).boxed());
        notifier
    }

    /// Subscribes to the stream of a player, a match or a user. A notification means that the new events can be read.
    pub(crate) fn stream(&self, stream: StreamId) -> watch::Receiver<u64> {
        self.subjects().subscribe(Subject::Stream(stream))
    }

    pub(crate) fn job(&self, job: JobId) -> watch::Receiver<u64> {
        self.subjects().subscribe(Subject::Job(job))
    }

    pub(crate) fn tenant(&self, tenant: &Tenant) -> watch::Receiver<u64> {
        self.subjects().subscribe(Subject::Tenant(tenant.clone()))
    }

    fn subjects(&self) -> MutexGuard<'_, Subjects> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn forward_changes(mut changes: broadcast::Receiver<SummaryChange>, notifier: Arc<ChangeNotifier>) {
    loop {
        match changes.recv().await {
            Ok(SummaryChange { scope: ChangeScope::Job(job), .. }) => {
                notifier.subjects().notify(&Subject::Job(job));
            }
            Ok(SummaryChange { scope: ChangeScope::Workers(tenant), .. }) => {
                notifier.subjects().notify(&Subject::Tenant(tenant));
            }
            // It is not known which changes were lost, so all subscribers are notified.
            Err(RecvError::Lagged(_)) => notifier.subjects().notify_all(),
            Err(RecvError::Closed) => return,
        }
    }
}

async fn watch_streams(log: Log, mut events: Subscription, notifier: Arc<ChangeNotifier>) {
    loop {
        match events.next().await {
            Ok(page) => {
                let mut subjects = notifier.subjects();
                let changes =
                    page.events.into_iter().filter(|event| event.event_type.as_str() != SERVED_LIST);
                changes.for_each(|event| subjects.notify(&Subject::Stream(event.stream)));
            }
            Err(error) => {
                // The subscribers get the error when they read.
                notifier.subjects().notify_all();
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
    use uuid::Uuid;

    use super::*;

    #[test]
    fn unused_subjects_are_removed_others_are_notified() {
        let subject = |n: usize| Subject::Job(JobId(Uuid::from_u128(n as u128)));
        let mut subjects = Subjects::default();
        let mut kept = subjects.subscribe(subject(0));
        for n in 1..10 * SWEEP_MIN {
            drop(subjects.subscribe(subject(n)));
        }
        assert!(subjects.senders.len() <= SWEEP_MIN, "{}", subjects.senders.len());
        subjects.notify(&subject(0));
        assert!(kept.has_changed().unwrap());
        kept.mark_unchanged();
        subjects.notify(&subject(1));
        assert!(!kept.has_changed().unwrap());
    }
}
