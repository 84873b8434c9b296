//! The process that crashes, and the world around it, whose tasks send it requests.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use event_log::clock::Clock;
use event_schemas::time::Timestamp;
use tokio::sync::oneshot;

use super::record::{Acknowledged, Record};
use crate::jobs::Jobs;
use crate::matchmaking::Matchmaking;
use crate::matchmaking::simulation::world::Rng;

pub(super) type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The process that crashes.
#[derive(Clone)]
pub(super) struct Process {
    pub(super) jobs: Arc<Jobs>,
    pub(super) matchmaking: Arc<Matchmaking>,
}

/// The state that all tasks around the process share.
#[derive(Clone)]
pub(super) struct World {
    pub(super) clock: Clock,
    pub(super) seed: u64,
    /// The end of the load.
    end: Timestamp,
    pub(super) record: Arc<Mutex<Record>>,
    pub(super) connection: Arc<Mutex<Connection>>,
}

/// The connection to the process, while it runs.
#[derive(Default)]
pub(super) struct Connection {
    pub(super) process: Option<Process>,
    pub(super) requests: Vec<Task>,
}

impl World {
    pub(super) fn new(clock: Clock, seed: u64, end: Timestamp) -> Self {
        Self { clock, seed, end, record: Arc::default(), connection: Arc::default() }
    }

    /// Sends a request to the process. None if it is down, or crashes before it responds: then the outcome is unknown.
    pub(super) async fn ask<T, F>(&self, request: impl FnOnce(Process) -> F) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (reply, response) = oneshot::channel();
        {
            let mut connection = self.connection.lock().unwrap();
            let request = request(connection.process.clone()?);
            connection.requests.push(Box::pin(async move {
                let _ = reply.send(request.await);
            }));
        }
        response.await.ok()
    }

    pub(super) fn acknowledge(&self, what: Acknowledged) {
        self.record.lock().unwrap().acknowledged.push(what);
    }

    pub(super) async fn sleep(&self, rng: &mut Rng, from: u64, to: u64) {
        // Not in whole seconds, so that instants differ.
        let millis = from * 1_000 + rng.below((to - from) * 1_000);
        self.clock.sleep(Duration::from_millis(millis)).await;
    }

    /// True while the load lasts.
    pub(super) fn is_open(&self) -> bool {
        self.clock.now() < self.end
    }
}
