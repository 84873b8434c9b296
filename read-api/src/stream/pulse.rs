//! Wakes those who follow a job when something of it can be read anew, and nobody else.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use event_schemas::ids::{JobId, Tenant};
use projections::matching_summary::{Changed, Subject};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};

/// Who follows what. The numbers only tell that something has changed.
#[derive(Debug, Default)]
pub(crate) struct Pulses {
    jobs: Mutex<Followed<JobId>>,
    tenants: Mutex<Followed<Tenant>>,
}

#[derive(Debug)]
struct Followed<K>(HashMap<K, watch::Sender<u64>>);

impl<K> Default for Followed<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash> Followed<K> {
    fn follow(&mut self, key: K) -> watch::Receiver<u64> {
        self.0.entry(key).or_insert_with(|| watch::Sender::new(0)).subscribe()
    }

    fn wake(&mut self, key: &K) {
        if let Some(sender) = self.0.get(key) {
            sender.send_modify(|pulse| *pulse = pulse.wrapping_add(1));
            if sender.receiver_count() == 0 {
                self.0.remove(key);
            }
        }
    }

    fn wake_all(&mut self) {
        self.0.retain(|_, sender| sender.receiver_count() > 0);
        for sender in self.0.values() {
            sender.send_modify(|pulse| *pulse = pulse.wrapping_add(1));
        }
    }
}

impl Pulses {
    /// Starts to pass changes on. The task ends with the read models.
    pub(crate) fn start(changes: broadcast::Receiver<Changed>) -> Arc<Self> {
        let pulses = Arc::new(Self::default());
        tokio::spawn(pass_on(changes, Arc::clone(&pulses)));
        pulses
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
