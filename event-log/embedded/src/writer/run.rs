//! The writer's thread and its waits.

use std::collections::VecDeque;
use std::thread;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::{mpsc, oneshot};

use super::{AppendRequest, Import, Writer, WriterMessage};
use crate::disk::Lock;
use crate::maintenance::NEXT_SEGMENT_FILE;
use crate::shutdown::Stopped;
use event_log::AppendError;

/// The longest time that a group waits for the callers of the previous group to append again.
const GATHER_MAX: Duration = Duration::from_millis(1);
/// The time without appends after which a mark confirms the last group.
pub(crate) const QUIET: Duration = Duration::from_secs(1);

/// A group stops waiting after about this time without a further append.
const GATHER_STEP: Duration = Duration::from_micros(20);

impl Writer {
    /// Runs until the log is closed or its last clone is dropped, or the disk fails.
    pub(crate) fn run(mut self, queue: mpsc::Receiver<WriterMessage>, lock: Lock) {
        let mut inbox = Inbox::new(queue, self.limits.group_appends_max);
        let mut requests = VecDeque::new();
        while self.shutdown.stopped().is_none() {
            inbox.wait(&mut requests);
            while !requests.is_empty() && self.shutdown.stopped().is_none() {
                let started = Instant::now();
                let gather = |requests: &mut VecDeque<AppendRequest>, taken| {
                    started.elapsed() < GATHER_MAX && inbox.gather(requests, taken)
                };
                let answers = self.commit(&mut requests, gather);
                inbox.in_flight = answers.len() + requests.len() + inbox.queue.len();
                answers.send();
            }
            for import in inbox.imports.drain(..) {
                if self.shutdown.stopped().is_none() {
                    self.import(import);
                }
            }
            for answer in inbox.flushes.drain(..) {
                // A cancelled caller needs no answer.
                let _ = answer.send(());
            }
            if inbox.closing {
                self.mark_or_stop();
            } else if std::mem::take(&mut inbox.mark_due) {
                self.mark_if_quiet();
            }
            if inbox.closing {
                self.shutdown.stop(Stopped::Closed);
            }
        }
        inbox.queue.close();
        let reason = "the log has stopped".to_owned();
        while inbox.drain(&mut requests) {}
        for request in requests {
            // A cancelled caller needs no answer.
            let _ = request.answer.send(Err(AppendError::Closed { reason: reason.clone() }));
        }
        self.maintenance.join();
        // The next start preallocates it again.
        let _ = self.disk.remove(NEXT_SEGMENT_FILE);
        drop(lock);
    }

    /// Writes a mark after a time without appends, so that later damage to the last group is not mistaken for an incomplete
    /// write.
    pub(crate) fn mark_if_quiet(&mut self) {
        if self.written.elapsed() >= QUIET {
            self.mark_or_stop();
        } else {
            self.sync_head_or_stop();
            self.maintenance.schedule_mark();
        }
    }

    pub(crate) fn mark_or_stop(&mut self) {
        if self.shutdown.stopped().is_none()
            && let Err(fault) = self.mark()
        {
            self.shutdown.fail(&fault.to_string());
        }
        self.sync_head_or_stop();
    }

    fn sync_head_or_stop(&mut self) {
        if self.shutdown.stopped().is_none()
            && let Err(fault) = self.head_file.sync()
        {
            self.shutdown.fail(&fault.to_string());
        }
    }
}

/// The messages that the writer has received and not processed yet.
#[derive(Debug)]
struct Inbox {
    queue: mpsc::Receiver<WriterMessage>,
    messages: Vec<WriterMessage>,
    messages_max: usize,
    /// The number of appends in flight when the last group was answered.
    in_flight: usize,
    imports: Vec<Import>,
    /// The replies to send when all previously enqueued appends are committed or refused.
    flushes: Vec<oneshot::Sender<()>>,
    closing: bool,
    mark_due: bool,
}

impl Inbox {
    fn new(queue: mpsc::Receiver<WriterMessage>, messages_max: usize) -> Self {
        Self {
            queue,
            messages: Vec::new(),
            messages_max,
            in_flight: 0,
            imports: Vec::new(),
            flushes: Vec::new(),
            closing: false,
            mark_due: false,
        }
    }

    /// Waits for a message and receives all that are queued. When the log is closing, receives all that are left.
    fn wait(&mut self, requests: &mut VecDeque<AppendRequest>) {
        let received = self.queue.blocking_recv_many(&mut self.messages, self.messages_max);
        self.closing |= received == 0;
        self.sort(requests);
        if self.closing {
            self.queue.close();
            while self.drain(requests) {}
        }
    }

    /// Waits for further appends to the group. Callers often append again as soon as they have an answer. Without this wait,
    /// half of them would wait for two syncs, so the group waits briefly for as many as there were. Returns false when none
    /// arrives.
    fn gather(&mut self, requests: &mut VecDeque<AppendRequest>, taken: usize) -> bool {
        if self.closing || taken >= self.in_flight {
            return false;
        }
        self.drain(requests) || {
            thread::sleep(GATHER_STEP);
            self.drain(requests)
        }
    }

    /// Receives the queued messages without waiting. Returns false if there are none.
    fn drain(&mut self, requests: &mut VecDeque<AppendRequest>) -> bool {
        let received = self.queue.recv_many(&mut self.messages, self.messages_max).now_or_never();
        self.sort(requests);
        received.is_some_and(|received| received > 0)
    }

    fn sort(&mut self, requests: &mut VecDeque<AppendRequest>) {
        for message in self.messages.drain(..) {
            match message {
                WriterMessage::Append(request) => requests.push_back(request),
                WriterMessage::Import(import) => self.imports.push(import),
                WriterMessage::Flush(answer) => self.flushes.push(answer),
                WriterMessage::Mark => self.mark_due = true,
                WriterMessage::Close => self.closing = true,
            }
        }
    }
}
