//! The baseline that stores nothing: the cost of appenders, queue and replies alone.
//!
//! Its queue, its thread and its replies are built like those of the log.

use std::thread;

use event_schemas::envelope::NewEvent;
use event_schemas::stream::StreamId;
use tokio::sync::{mpsc, oneshot};

use super::stores::stopped;
use matchbook::failure::Failure;

struct Append {
    stream: StreamId,
    events: Vec<NewEvent>,
    answer: oneshot::Sender<()>,
}

#[derive(Clone)]
pub(super) struct Nothing {
    queue: mpsc::Sender<Append>,
}

impl Nothing {
    pub(super) fn start() -> Result<Self, Failure> {
        let (queue, mut appends) = mpsc::channel(16_384);
        let answer_all = move || {
            let mut group: Vec<Append> = Vec::new();
            while appends.blocking_recv_many(&mut group, 16_384) > 0 {
                for Append { stream, events, answer } in group.drain(..) {
                    drop((stream, events));
                    // The caller may have given up.
                    let _ = answer.send(());
                }
            }
        };
        let thread = thread::Builder::new().name("nothing".to_owned()).spawn(answer_all);
        thread.map_err(|error| Failure::Failed(format!("cannot start a thread: {error}")))?;
        Ok(Self { queue })
    }

    pub(super) async fn append(&self, stream: StreamId, events: Vec<NewEvent>) -> Result<(), Failure> {
        let (answer, answered) = oneshot::channel();
        self.queue.send(Append { stream, events, answer }).await.map_err(|_| stopped("nothing"))?;
        answered.await.map_err(|_| stopped("nothing"))
    }
}
