//! The send queue of a stream and its rules, without tasks or clocks.
//!
//! - Progress is sent at most four times a second, always the newest. A change of state is never delayed or dropped, and
//!   replaces older queued progress, because the new state includes it.
//! - A subscriber more than 256 events or 1 MiB behind gets `lagged` and is disconnected. This event has no id, so that
//!   the subscriber resumes at its last event.
//! - A stream whose caller may not have it any more ends with `token_expired`, `key_revoked` or `replaced`.
//! - After the last update comes `stream_ended`, and the stream ends.
//! - A comment is sent after 15 s of silence, so that no proxy closes the connection as idle.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use event_schemas::ids::Position;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

/// The shortest time between two progress events.
pub const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// The time of silence after which a heartbeat comment is sent.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(15);

/// The limits of a subscriber's backlog, in events and bytes.
pub const BEHIND_EVENTS_MAX: usize = 256;
pub const BEHIND_BYTES_MAX: usize = 1 << 20;

/// Counter: updates made for streams, each for all of its subscribers.
pub const UPDATES: &str = "matchbook_http_stream_updates_total";

/// The approximate size up to which frames are written together.
const WRITE_BYTES: usize = 16 * 1024;

/// Subscribers wait about 3 s before they reconnect; spread, so that they do not all reconnect at once after a restart.
const RETRY_MS_MIN: u128 = 2_500;
const RETRY_MS_SPREAD: u128 = 1_001;

/// The stream has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stream has ended")]
pub struct Closed;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Progress,
    State,
    Last,
}

/// One event of a stream. Its data is serialised once, and shared by all clones.
#[derive(Clone, Debug)]
pub struct Update {
    kind: Kind,
    event: &'static str,
    id: Option<Position>,
    /// The members of the data, as JSON without the braces.
    members: Arc<str>,
}

impl Update {
    /// Progress. Only the newest of several within a quarter of a second is sent.
    pub fn progress(event: &'static str, id: Option<Position>, data: &impl Serialize) -> Self {
        Self::new(Kind::Progress, event, id, data)
    }

    /// A change of state. Always sent, and in order.
    pub fn state(event: &'static str, id: Option<Position>, data: &impl Serialize) -> Self {
        Self::new(Kind::State, event, id, data)
    }

    /// The last change of the stream's resource.
    pub fn last(event: &'static str, id: Option<Position>, data: &impl Serialize) -> Self {
        Self::new(Kind::Last, event, id, data)
    }

    pub fn id(&self) -> Option<Position> {
        self.id
    }

    pub fn is_progress(&self) -> bool {
        self.kind == Kind::Progress
    }

    pub fn is_last(&self) -> bool {
        self.kind == Kind::Last
    }

    fn new(kind: Kind, event: &'static str, id: Option<Position>, data: &impl Serialize) -> Self {
        let mut data = serde_json::to_value(data).unwrap_or(Value::Null);
        let members = match &mut data {
            Value::Object(members) => {
                for ours in ["event", "connection_id", "update_count"] {
                    members.remove(ours);
                }
                let text = data.to_string();
                text[1..text.len() - 1].to_owned()
            }
            Value::Null => String::new(),
            other => format!("\"data\":{other}"),
        };
        if is_counted(event) {
            metrics::counter!(UPDATES).increment(1);
        }
        Self { kind, event, id, members: members.into() }
    }

    fn bytes(&self) -> usize {
        self.members.len()
    }
}

/// Whether the event is one of the updates, rather than one about the connection.
fn is_counted(event: &str) -> bool {
    !matches!(event, "connected" | "lagged" | "stream_ended" | "token_expired" | "key_revoked" | "replaced")
}

/// An update as one connection sends it.
#[derive(Clone, Debug)]
pub struct SentUpdate {
    update: Update,
    connection: Uuid,
    update_count: u64,
}

impl SentUpdate {
    /// Appends the data: the shared members after those of the connection.
    pub fn write_data(&self, text: &mut String) {
        let Update { event, members, .. } = &self.update;
        let comma = if members.is_empty() { "" } else { "," };
        write!(
            text,
            r#"{{"event":"{event}","connection_id":"{}","update_count":{}{comma}{members}}}"#,
            self.connection, self.update_count
        )
        .expect("writing to a String cannot fail");
    }

    fn write_event(&self, text: &mut String) {
        write_line(text, "event", self.update.event);
        if let Some(id) = self.update.id {
            write_line(text, "id", &id.to_string());
        }
        text.push_str("data: ");
        self.write_data(text);
        text.push_str("\n\n");
    }
}

/// What a connection sends next.
#[derive(Clone, Debug)]
pub enum Outgoing {
    Update(SentUpdate),
    Heartbeat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// Queued updates are still sent.
    Ending,
    /// The subscriber has disconnected.
    Abandoned,
}

/// The send queue of one connection.
#[derive(Debug)]
pub struct SseQueue {
    connection: Uuid,
    phase: Phase,
    waiting: VecDeque<Update>,
    waiting_bytes: usize,
    /// The newest progress, until it may be sent.
    progress: Option<Update>,
    progress_sent_at: Option<Instant>,
    written_at: Instant,
    /// The number of progress events and changes sent so far.
    update_count: u64,
    is_started: bool,
}

impl SseQueue {
    /// A queue with the event `connected`, which contains `data`.
    pub fn new(connection: Uuid, data: &impl Serialize, now: Instant) -> Self {
        let connected = Update::state("connected", None, data);
        Self {
            connection,
            phase: Phase::Open,
            waiting_bytes: connected.bytes(),
            waiting: VecDeque::from([connected]),
            progress: None,
            progress_sent_at: None,
            written_at: now,
            update_count: 0,
            is_started: false,
        }
    }

    /// Enqueues a new update.
    ///
    /// # Errors
    /// If the stream has ended, or ends now because the subscriber is too far behind.
    pub fn push(&mut self, update: Update) -> Result<(), Closed> {
        if self.phase != Phase::Open {
            return Err(Closed);
        }
        if update.kind == Kind::Progress {
            self.progress = Some(update);
            return Ok(());
        }
        self.enqueue(update);
        if self.waiting.len() > BEHIND_EVENTS_MAX || self.waiting_bytes > BEHIND_BYTES_MAX {
            self.end("lagged");
            return Err(Closed);
        }
        Ok(())
    }

    /// Ends the stream with one last event about the connection, in the place of what is queued. It has no id, so that
    /// the subscriber resumes at its last event.
    pub fn end(&mut self, event: &'static str) {
        if self.phase == Phase::Abandoned {
            return;
        }
        self.waiting.clear();
        self.waiting_bytes = 0;
        self.enqueue(Update::state(event, None, &Value::Null));
        self.phase = Phase::Ending;
    }

    /// Enqueues an earlier update. Past progress is sent like a change, because there is no newer one to wait for.
    ///
    /// # Errors
    /// If the stream has ended.
    pub fn push_replayed(&mut self, update: Update) -> Result<(), Closed> {
        if self.phase != Phase::Open {
            return Err(Closed);
        }
        self.enqueue(update);
        Ok(())
    }

    fn enqueue(&mut self, update: Update) {
        self.progress = None;
        let last = update.kind == Kind::Last;
        self.waiting_bytes += update.bytes();
        self.waiting.push_back(update);
        if last {
            self.phase = Phase::Ending;
            self.waiting.push_back(Update::state("stream_ended", None, &Value::Null));
        }
    }

    /// Whether a replay may continue: half of the allowed backlog is kept free for new updates.
    pub fn has_room(&self) -> bool {
        self.waiting.len() < BEHIND_EVENTS_MAX / 2 && self.waiting_bytes < BEHIND_BYTES_MAX / 2
    }

    /// Ends the stream; queued updates are still sent.
    pub fn close(&mut self) {
        if self.phase == Phase::Open {
            let newest = self.progress.take();
            self.waiting.extend(newest);
            self.phase = Phase::Ending;
        }
    }

    /// The subscriber has disconnected.
    pub fn abandon(&mut self) {
        self.phase = Phase::Abandoned;
    }

    pub fn is_closed(&self) -> bool {
        self.phase != Phase::Open
    }

    /// Whether progress is queued, and will be sent once it is due.
    pub fn has_progress(&self) -> bool {
        self.progress.is_some()
    }

    /// Whether the stream has ended and everything is written.
    pub fn is_finished(&self) -> bool {
        self.is_closed() && self.waiting.is_empty()
    }

    /// The time at which a heartbeat or delayed progress is due.
    pub fn wake_at(&self) -> Instant {
        let heartbeat = self.written_at + HEARTBEAT_EVERY;
        match (&self.progress, self.progress_sent_at) {
            (Some(_), Some(sent_at)) => heartbeat.min(sent_at + PROGRESS_EVERY),
            (Some(_), None) => self.written_at,
            (None, _) => heartbeat,
        }
    }

    /// What to send at `now`, if anything.
    pub fn next_outgoing(&mut self, now: Instant) -> Option<Outgoing> {
        let is_progress_due = self.progress_sent_at.is_none_or(|sent_at| now >= sent_at + PROGRESS_EVERY);
        let update = if let Some(update) = self.waiting.pop_front() {
            self.waiting_bytes -= update.bytes().min(self.waiting_bytes);
            update
        } else if is_progress_due && let Some(progress) = self.progress.take() {
            self.progress_sent_at = Some(now);
            progress
        } else if now >= self.written_at + HEARTBEAT_EVERY && !self.is_closed() {
            self.written_at = now;
            return Some(Outgoing::Heartbeat);
        } else {
            return None;
        };
        self.written_at = now;
        self.update_count += u64::from(is_counted(update.event));
        let (connection, update_count) = (self.connection, self.update_count);
        Some(Outgoing::Update(SentUpdate { update, connection, update_count }))
    }

    /// The bytes to write to a stream of server-sent events at `now`.
    pub fn pop(&mut self, now: Instant) -> Option<Bytes> {
        let mut text = String::new();
        if !self.is_started {
            self.is_started = true;
            let spread = self.connection.as_u128() % RETRY_MS_SPREAD;
            write_line(&mut text, "retry", &(RETRY_MS_MIN + spread).to_string());
        }
        while text.len() < WRITE_BYTES
            && let Some(outgoing) = self.next_outgoing(now)
        {
            match outgoing {
                Outgoing::Update(update) => update.write_event(&mut text),
                Outgoing::Heartbeat => text.push_str(":\n\n"),
            }
        }
        (!text.is_empty()).then(|| text.into())
    }
}

/// JSON from serde has no line breaks, and neither have names and numbers.
fn write_line(text: &mut String, field: &str, value: &str) {
    writeln!(text, "{field}: {value}").expect("writing to a String cannot fail");
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
