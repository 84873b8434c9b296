//! The writer's thread: what it waits for, and for how long.

use std::collections::VecDeque;
use std::thread;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::{mpsc, oneshot};

use super::{Import, Message, Request, Writer};
use crate::AppendError;
use crate::embedded::disk::Lock;
use crate::embedded::keeper::ROOM_NAME;
use crate::embedded::stop::Stopped;

/// The longest that a group waits for those who were just answered to append again.
const GATHER_MAX: Duration = Duration::from_millis(1);
/// How long nobody appends before the last group is marked as durable.
pub(in crate::embedded) const QUIET: Duration = Duration::from_secs(1);

/// A group that nobody has joined for about so long waits no longer.
const GATHER_STEP: Duration = Duration::from_micros(20);

impl Writer {
    /// Until it is told to close, nobody can append any more, or the disk fails.
    pub(in crate::embedded) fn run(mut self, queue: mpsc::Receiver<Message>, lock: Lock) {
        let mut inbox = Inbox::new(queue, self.limits.group_appends_max);
        let mut requests = VecDeque::new();
        while self.latch.stopped().is_none() {
            inbox.wait(&mut requests);
            while !requests.is_empty() && self.latch.stopped().is_none() {
                let started = Instant::now();
                let gather = |requests: &mut VecDeque<Request>, taken| {
                    started.elapsed() < GATHER_MAX && inbox.gather(requests, taken)
                };
                let answers = self.commit(&mut requests, gather);
                inbox.in_flight = answers.len() + requests.len() + inbox.queue.len();
                answers.give();
            }
            for import in inbox.imports.drain(..) {
                if self.latch.stopped().is_none() {
                    self.import(import);
                }
            }
            for answer in inbox.settling.drain(..) {
                // A caller that went away needs no answer.
                let _ = answer.send(());
            }
            if inbox.closing {
                self.mark_or_stop();
            } else if std::mem::take(&mut inbox.reminded) {
                self.mark_if_quiet();
            }
            if inbox.closing {
                self.latch.stop(Stopped::Closed);
            }
        }
        inbox.queue.close();
        let reason = "the log has stopped".to_owned();
        while inbox.take(&mut requests) {}
        for request in requests {
            // A caller that went away needs no answer.
            let _ = request.answer.send(Err(AppendError::Closed { reason: reason.clone() }));
        }
        self.keeper.end();
        // What room was left is made anew at the next start.
        let _ = self.disk.remove(ROOM_NAME);
        drop(lock);
    }

    /// Once nobody has appended for a while, damage to the last group is not to be taken for a write that was cut short.
    pub(in crate::embedded) fn mark_if_quiet(&mut self) {
        if self.written.elapsed() >= QUIET {
            self.mark_or_stop();
        } else {
            self.keeper.remind();
        }
    }

    pub(in crate::embedded) fn mark_or_stop(&mut self) {
        if self.latch.stopped().is_none()
            && let Err(fault) = self.mark()
        {
            self.latch.fail(&fault.to_string());
        }
    }
}

/// What comes in, and what is known of who sends it.
#[derive(Debug)]
struct Inbox {
    queue: mpsc::Receiver<Message>,
    messages: Vec<Message>,
    messages_max: usize,
    /// How many appends were on their way when answers were given last.
    in_flight: usize,
    imports: Vec<Import>,
    /// Those who want to know when all appends before theirs are decided.
    settling: Vec<oneshot::Sender<()>>,
    closing: bool,
    reminded: bool,
}

impl Inbox {
    fn new(queue: mpsc::Receiver<Message>, messages_max: usize) -> Self {
        Self {
            queue,
            messages: Vec::new(),
            messages_max,
            in_flight: 0,
            imports: Vec::new(),
            settling: Vec::new(),
            closing: false,
            reminded: false,
        }
    }

    /// Waits for a message, and takes all that are there. Once the log is to close, takes what is left.
    fn wait(&mut self, requests: &mut VecDeque<Request>) {
        let received = self.queue.blocking_recv_many(&mut self.messages, self.messages_max);
        self.closing |= received == 0;
        self.sort(requests);
        if self.closing {
            self.queue.close();
            while self.take(requests) {}
        }
    }

    /// Those who wait for an answer often append again as soon as they have it. If a group went without them, half of
    /// them would wait for two syncs, so it waits a moment for as many as there were. False once nobody comes.
    fn gather(&mut self, requests: &mut VecDeque<Request>, taken: usize) -> bool {
        if self.closing || taken >= self.in_flight {
            return false;
        }
        self.take(requests) || {
            thread::sleep(GATHER_STEP);
            self.take(requests)
        }
    }

    /// Takes what is there without waiting; false if that is nothing.
    fn take(&mut self, requests: &mut VecDeque<Request>) -> bool {
        let received = self.queue.recv_many(&mut self.messages, self.messages_max).now_or_never();
        self.sort(requests);
        received.is_some_and(|received| received > 0)
    }

    fn sort(&mut self, requests: &mut VecDeque<Request>) {
        for message in self.messages.drain(..) {
            match message {
                Message::Append(request) => requests.push_back(request),
                Message::Import(import) => self.imports.push(import),
                Message::Settle(answer) => self.settling.push(answer),
                Message::Mark => self.reminded = true,
                Message::Close => self.closing = true,
            }
        }
    }
}
