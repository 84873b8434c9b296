//! The rules of a stream, without tasks or clocks.
//!
//! - Progress is told at most four times a second, always the newest; a change of state is never held back nor dropped,
//!   and takes an older progress that still waits with it, as the new state says it all.
//! - A reader more than 256 events or 1 MiB behind is told `lagged` and let go. That event has no id, so that the reader
//!   comes back to where it was.
//! - After the last update comes `stream_ended`, and the end.
//! - A connection that hears nothing for 15 s hears a comment, so that nobody on the way takes it for dead.

use std::collections::VecDeque;
use std::fmt::Write;
use std::time::{Duration, Instant};

use bytes::Bytes;
use event_schemas::ids::Position;
use poem_openapi::types::ToJSON;
use serde_json::Value;
use uuid::Uuid;

/// Between two tellings of progress.
pub const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// Between two signs of life.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(15);

/// How far a reader may be behind.
pub const BEHIND_EVENTS_MAX: usize = 256;
pub const BEHIND_BYTES_MAX: usize = 1 << 20;

/// Frames are written together up to about this size.
const WRITE_BYTES: usize = 16 * 1024;

/// Readers wait about 3 s before they come back; spread, so that they do not all come at once after a restart.
const RETRY_MS_MIN: u128 = 2_500;
const RETRY_MS_SPREAD: u128 = 1_001;

/// The stream is at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stream is at its end")]
pub struct Closed;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Progress,
    State,
    Last,
}

/// One event of a stream.
#[derive(Clone, Debug)]
pub struct Update {
    kind: Kind,
    event: &'static str,
    id: Option<Position>,
    /// The members of the data, as JSON without the braces.
    members: String,
}

impl Update {
    /// Something moved. Of several in a quarter of a second the newest is sent.
    pub fn progress(event: &'static str, id: Option<Position>, data: &impl ToJSON) -> Self {
        Self::new(Kind::Progress, event, id, data)
    }

    /// Something changed. Always sent, and in order.
    pub fn state(event: &'static str, id: Option<Position>, data: &impl ToJSON) -> Self {
        Self::new(Kind::State, event, id, data)
    }

    /// The last change of what the stream is about.
    pub fn last(event: &'static str, id: Option<Position>, data: &impl ToJSON) -> Self {
        Self::new(Kind::Last, event, id, data)
    }

    fn new(kind: Kind, event: &'static str, id: Option<Position>, data: &impl ToJSON) -> Self {
        let mut data = data.to_json().unwrap_or(Value::Null);
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
        Self { kind, event, id, members }
    }

    fn bytes(&self) -> usize {
        self.members.len()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// What waits is still sent.
    Ending,
    /// Nobody reads any more.
    Abandoned,
}

/// What one connection has still to be told.
#[derive(Debug)]
pub struct Outbox {
    connection: Uuid,
    phase: Phase,
    waiting: VecDeque<Update>,
    waiting_bytes: usize,
    /// The newest progress, until it may be told.
    progress: Option<Update>,
    progress_told_at: Option<Instant>,
    written_at: Instant,
    /// Progress and changes told so far.
    update_count: u64,
    begun: bool,
}

impl Outbox {
    /// Opens with `connected`, which carries `data`.
    pub fn new(connection: Uuid, data: &impl ToJSON, now: Instant) -> Self {
        let connected = Update::state("connected", None, data);
        Self {
            connection,
            phase: Phase::Open,
            waiting_bytes: connected.bytes(),
            waiting: VecDeque::from([connected]),
            progress: None,
            progress_told_at: None,
            written_at: now,
            update_count: 0,
            begun: false,
        }
    }

    /// Takes what just happened.
    ///
    /// # Errors
    /// If the stream is at its end, or this made it so, as the reader is too far behind.
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
            self.waiting.clear();
            self.waiting_bytes = 0;
            self.enqueue(Update::state("lagged", None, &Value::Null));
            self.phase = Phase::Ending;
            return Err(Closed);
        }
        Ok(())
    }

    /// Takes what happened earlier. Progress of the past is told like a change, as there is no newer one to wait for.
    ///
    /// # Errors
    /// If the stream is at its end.
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

    /// Whether a replay may go on: half of what a reader may be behind is left for what happens meanwhile.
    pub fn has_room(&self) -> bool {
        self.waiting.len() < BEHIND_EVENTS_MAX / 2 && self.waiting_bytes < BEHIND_BYTES_MAX / 2
    }

    /// Nothing more will come; what waits is still sent.
    pub fn close(&mut self) {
        if self.phase == Phase::Open {
            let newest = self.progress.take();
            self.waiting.extend(newest);
            self.phase = Phase::Ending;
        }
    }

    /// Nobody reads any more.
    pub fn abandon(&mut self) {
        self.phase = Phase::Abandoned;
    }

    pub fn is_closed(&self) -> bool {
        self.phase != Phase::Open
    }

    /// At its end, with nothing left to write.
    pub fn is_finished(&self) -> bool {
        self.is_closed() && self.waiting.is_empty()
    }

    /// When there may be something to write without anything happening.
    pub fn wake_at(&self) -> Instant {
        let heartbeat = self.written_at + HEARTBEAT_EVERY;
        match (&self.progress, self.progress_told_at) {
            (Some(_), Some(told_at)) => heartbeat.min(told_at + PROGRESS_EVERY),
            (Some(_), None) => self.written_at,
            (None, _) => heartbeat,
        }
    }

    /// What is to be written at `now`.
    pub fn pop(&mut self, now: Instant) -> Option<Bytes> {
        let mut text = String::new();
        if !self.begun {
            self.begun = true;
            let spread = self.connection.as_u128() % RETRY_MS_SPREAD;
            write_line(&mut text, "retry", &(RETRY_MS_MIN + spread).to_string());
        }
        while text.len() < WRITE_BYTES
            && let Some(update) = self.waiting.pop_front()
        {
            self.waiting_bytes -= update.bytes().min(self.waiting_bytes);
            self.write(&mut text, &update);
        }
        let may_tell = self.progress_told_at.is_none_or(|told_at| now >= told_at + PROGRESS_EVERY);
        if self.waiting.is_empty()
            && may_tell
            && let Some(progress) = self.progress.take()
        {
            self.progress_told_at = Some(now);
            self.write(&mut text, &progress);
        }
        if text.is_empty() && now >= self.written_at + HEARTBEAT_EVERY && !self.is_closed() {
            text.push_str(":\n\n");
        }
        if text.is_empty() {
            return None;
        }
        self.written_at = now;
        Some(text.into())
    }

    fn write(&mut self, text: &mut String, update: &Update) {
        let told = !matches!(update.event, "connected" | "lagged" | "stream_ended");
        self.update_count += u64::from(told);
        write_line(text, "event", update.event);
        if let Some(id) = update.id {
            write_line(text, "id", &id.to_string());
        }
        let comma = if update.members.is_empty() { "" } else { "," };
        let data = format!(
            r#"{{"event":"{}","connection_id":"{}","update_count":{}{comma}{}}}"#,
            update.event, self.connection, self.update_count, update.members
        );
        write_line(text, "data", &data);
        text.push('\n');
    }
}

/// JSON as serde writes it holds no line break, and neither do names and numbers.
fn write_line(text: &mut String, field: &str, value: &str) {
    writeln!(text, "{field}: {value}").expect("writing to a String cannot fail");
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
