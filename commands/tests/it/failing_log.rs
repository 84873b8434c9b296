use std::sync::{Arc, Mutex};

use event_log::clock::Clock;
use event_log::{
    AppendError, Appended, EventLog, Expected, Filter, Identity, ImportError, Log, MemoryLog, Page, ReadError,
};
use event_schemas::envelope::{NewEvent, Recorded};
use event_schemas::ids::{Position, Revision};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use tokio::sync::watch;

use crate::support::TestApp;

/// How appends fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Full,
    Unreachable,
    /// The first one is recorded or not, its confirmation is lost, and the others find no log.
    Lost {
        recorded: bool,
    },
}

/// A log in memory of which all appends fail after a number of successful ones, until it is mended.
#[derive(Clone)]
pub(crate) struct FailingLog {
    log: MemoryLog,
    /// The number of appends that still succeed, and the fault after them.
    plan: Arc<Mutex<Option<(usize, Fault)>>>,
}

impl FailingLog {
    /// A server over such a log.
    pub(crate) async fn server() -> (TestApp, Self) {
        let clock = Clock::manual("2026-11-20T10:00:00Z".parse().unwrap());
        let log = Self { log: MemoryLog::new(clock.clone()), plan: Arc::default() };
        (TestApp::over(Log::new(log.clone()), clock).await, log)
    }

    pub(crate) fn fail_after(&self, successes: usize, fault: Fault) {
        *self.plan.lock().unwrap() = Some((successes, fault));
    }

    pub(crate) fn mend(&self) {
        *self.plan.lock().unwrap() = None;
    }

    /// The fault of the next append.
    fn next_fault(&self) -> Option<Fault> {
        let mut plan = self.plan.lock().unwrap();
        let (successes, fault) = plan.as_mut()?;
        if *successes > 0 {
            *successes -= 1;
            return None;
        }
        let now = *fault;
        if let Fault::Lost { .. } = now {
            *fault = Fault::Unreachable;
        }
        Some(now)
    }
}

impl EventLog for FailingLog {
    async fn append(
        &self,
        stream: &StreamId,
        expected: Expected,
        events: Vec<NewEvent>,
    ) -> Result<Appended, AppendError> {
        match self.next_fault() {
            None => self.log.append(stream, expected, events).await,
            Some(Fault::Full) => Err(AppendError::Full { free_bytes: 0, reserve_bytes: 1 }),
            Some(Fault::Unreachable) => {
                Err(AppendError::Unavailable { reason: "it is unplugged".to_owned() })
            }
            Some(Fault::Lost { recorded }) => {
                if recorded {
                    self.log.append(stream, expected, events).await.unwrap();
                }
                Err(AppendError::Unknown { reason: "it was unplugged".to_owned() })
            }
        }
    }

    async fn read_stream(
        &self,
        stream: &StreamId,
        from: Revision,
        events_max: usize,
    ) -> Result<Vec<Recorded>, ReadError> {
        self.log.read_stream(stream, from, events_max).await
    }

    async fn read_all(&self, after: Position, filter: &Filter, events_max: usize) -> Result<Page, ReadError> {
        self.log.read_all(after, filter, events_max).await
    }

    async fn position_at(&self, at: Timestamp) -> Result<Position, ReadError> {
        self.log.position_at(at).await
    }

    fn head(&self) -> watch::Receiver<Position> {
        self.log.head()
    }

    fn identity(&self) -> Identity {
        self.log.identity()
    }

    async fn import(&self, events: Vec<Recorded>) -> Result<(), ImportError> {
        self.log.import(events).await
    }

    async fn close(&self) {}
}
