//! What a projection says about itself: where it is, how fast, and if it has stopped, why and what to do.

use std::sync::{Mutex, PoisonError};

use event_schemas::envelope::{EventType, Unreadable};
use event_schemas::ids::Position;
use event_schemas::time::Timestamp;
use serde::Serialize;

use crate::feed::{Behind, Feed, Item};
use crate::projection::Name;

/// Over how many seconds the speed is measured.
const RATE_WINDOW_SECONDS: f64 = 2.0;

/// One read model, as an operator sees it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProjectionStatus {
    pub name: &'static str,
    pub revision: u32,
    /// Which making of it is read; none while the first one is being built.
    pub generation: Option<u64>,
    #[serde(flatten)]
    pub state: State,
    /// Reads reflect everything up to here.
    pub position: Position,
    /// The durable end of the log.
    pub head: Position,
    /// How many positions it is behind.
    pub lag_events: u64,
    /// How long ago the first event was recorded that it does not reflect; 0 if it reflects all. While it is further behind
    /// than the server remembers: how long ago the last event was recorded that it does reflect.
    pub lag_seconds: f64,
    /// Events taken in lately, those included that do not concern it.
    pub events_per_second: f64,
    /// The making that is built beside the one that is read.
    pub rebuild: Option<RebuildStatus>,
}

/// What a projection is doing.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// On the way to the head that the log had when it started.
    CatchingUp(Progress),
    Live,
    Paused,
    /// It goes no further by itself.
    Stopped(Stop),
    /// The store failed; it is tried again by itself.
    Retrying(Stop),
}

/// How far something long is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Progress {
    pub at: Position,
    pub target: Position,
    /// From 0 to 1.
    pub fraction: f64,
    /// None until something has been done.
    pub eta_seconds: Option<f64>,
}

/// Why a projection went no further.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stop {
    /// The event that it could not apply, or the last position that it reached.
    pub position: Position,
    #[serde(serialize_with = "as_text", skip_serializing_if = "Option::is_none")]
    pub event_type: Option<EventType>,
    pub error: String,
    pub way_out: &'static str,
}

fn as_text<S: serde::Serializer>(event: &Option<EventType>, serializer: S) -> Result<S::Ok, S::Error> {
    match event {
        Some(event) => serializer.serialize_some(event.as_str()),
        None => serializer.serialize_none(),
    }
}

/// A making that is built beside the live one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RebuildStatus {
    pub generation: u64,
    pub progress: Progress,
    /// Why it was given up; the live one is untouched.
    pub failed: Option<Stop>,
}

impl Stop {
    pub(crate) fn at_event(item: &Item, error: &Unreadable) -> Self {
        Self {
            position: item.position,
            event_type: Some(item.event_type.clone()),
            error: error.to_string(),
            way_out: "run a version of matchbook that knows this event, then resume the projection",
        }
    }

    pub(crate) fn of_store(position: Position, error: String) -> Self {
        Self {
            position,
            event_type: None,
            error,
            way_out: "look at the disk of the data folder; it goes on by itself, and at once when resumed or rebuilt",
        }
    }

    pub(crate) fn of_log(position: Position, error: String) -> Self {
        Self { position, event_type: None, error, way_out: "see what the status says about the log" }
    }

    pub(crate) fn of_panic(position: Position) -> Self {
        Self {
            position,
            event_type: None,
            error: "the projection broke off at an event; the server's log has the details".to_owned(),
            way_out: "restart the server; if it happens again, report it with the server's log",
        }
    }
}

/// How far one projector is, and since when. Shared between the projector, which writes it, and the status.
#[derive(Debug)]
pub(crate) struct Pace {
    started_at: Timestamp,
    started_from: Position,
    pub(crate) at: Position,
    pub(crate) recorded_at: Timestamp,
    window_since: Timestamp,
    window_from: Position,
    per_second: f64,
}

impl Pace {
    pub(crate) fn start(from: Position, recorded_at: Timestamp, now: Timestamp) -> Self {
        Self {
            started_at: now,
            started_from: from,
            at: from,
            recorded_at,
            window_since: now,
            window_from: from,
            per_second: 0.0,
        }
    }

    pub(crate) fn moved(&mut self, at: Position, recorded_at: Timestamp, now: Timestamp) {
        self.at = at;
        self.recorded_at = recorded_at;
        let seconds = now.seconds_since(self.window_since);
        if seconds >= RATE_WINDOW_SECONDS {
            self.per_second = between(self.window_from, at) / seconds;
            self.window_since = now;
            self.window_from = at;
        }
    }

    /// Positions passed in a second; 0 once nothing has come for a while.
    pub(crate) fn per_second(&self, now: Timestamp) -> f64 {
        let seconds = now.seconds_since(self.window_since);
        if seconds >= RATE_WINDOW_SECONDS || self.per_second == 0.0 {
            return between(self.window_from, self.at) / seconds.max(RATE_WINDOW_SECONDS);
        }
        self.per_second
    }

    pub(crate) fn progress(&self, target: Position, now: Timestamp) -> Progress {
        let whole = between(Position::START, target);
        let done = between(self.started_from, self.at);
        let seconds = now.seconds_since(self.started_at);
        let left = between(self.at, target);
        Progress {
            at: self.at,
            target,
            fraction: if whole > 0.0 { (between(Position::START, self.at) / whole).min(1.0) } else { 1.0 },
            eta_seconds: (done > 0.0 && seconds > 0.0).then(|| left * seconds / done),
        }
    }
}

fn between(from: Position, to: Position) -> f64 {
    to.0.saturating_sub(from.0) as f64
}

/// What the runner is about; the rest of a status follows from positions and times.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Doing {
    CatchingUp,
    Live,
    Paused,
    Stopped(Stop),
    Retrying(Stop),
}

/// The status of one projection, kept by its runner.
#[derive(Debug)]
pub(crate) struct Board {
    name: Name,
    revision: u32,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    doing: Doing,
    generation: Option<u64>,
    pace: Pace,
    rebuild: Option<(u64, Pace, Option<Stop>)>,
}

impl Board {
    pub(crate) fn new(name: Name, revision: u32, now: Timestamp) -> Self {
        let pace = Pace::start(Position::START, Timestamp::EPOCH, now);
        let inner = Inner { doing: Doing::CatchingUp, generation: None, pace, rebuild: None };
        Self { name, revision, inner: Mutex::new(inner) }
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Inner> {
        // Every change is one assignment, so a panic elsewhere leaves nothing half done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn doing(&self, doing: Doing) {
        self.locked().doing = doing;
    }

    pub(crate) fn started(&self, from: Position, recorded_at: Timestamp, now: Timestamp) {
        self.locked().pace = Pace::start(from, recorded_at, now);
    }

    pub(crate) fn published(&self, generation: Option<u64>) {
        self.locked().generation = generation;
    }

    pub(crate) fn moved(&self, at: Position, recorded_at: Timestamp, now: Timestamp) {
        self.locked().pace.moved(at, recorded_at, now);
    }

    pub(crate) fn rebuild_started(&self, generation: u64, from: Position, now: Timestamp) {
        self.locked().rebuild = Some((generation, Pace::start(from, Timestamp::EPOCH, now), None));
    }

    pub(crate) fn rebuild_moved(&self, at: Position, recorded_at: Timestamp, now: Timestamp) {
        if let Some((_, pace, _)) = &mut self.locked().rebuild {
            pace.moved(at, recorded_at, now);
        }
    }

    pub(crate) fn rebuild_failed(&self, stop: Stop) {
        if let Some((_, _, failed)) = &mut self.locked().rebuild {
            *failed = Some(stop);
        }
    }

    pub(crate) fn rebuild_ended(&self) {
        self.locked().rebuild = None;
    }

    pub(crate) fn position(&self) -> Position {
        self.locked().pace.at
    }

    pub(crate) fn is_published(&self) -> bool {
        self.locked().generation.is_some()
    }

    pub(crate) fn status(&self, feed: &Feed, head: Position, now: Timestamp) -> ProjectionStatus {
        let inner = self.locked();
        let position = inner.pace.at;
        ProjectionStatus {
            name: self.name.as_str(),
            revision: self.revision,
            generation: inner.generation,
            state: match &inner.doing {
                Doing::CatchingUp => State::CatchingUp(inner.pace.progress(head, now)),
                Doing::Live => State::Live,
                Doing::Paused => State::Paused,
                Doing::Stopped(stop) => State::Stopped(stop.clone()),
                Doing::Retrying(stop) => State::Retrying(stop.clone()),
            },
            position,
            head,
            lag_events: head.0.saturating_sub(position.0),
            lag_seconds: lag_seconds(&inner.pace, feed.behind(position), now),
            events_per_second: inner.pace.per_second(now),
            rebuild: inner.rebuild.as_ref().map(|(generation, pace, failed)| RebuildStatus {
                generation: *generation,
                progress: pace.progress(head, now),
                failed: failed.clone(),
            }),
        }
    }
}

fn lag_seconds(pace: &Pace, behind: Behind, now: Timestamp) -> f64 {
    let since = match behind {
        Behind::No => return 0.0,
        Behind::Since(recorded_at) => recorded_at,
        // Before the first event there is no instant to count from but the start of this run.
        Behind::Far if pace.recorded_at == Timestamp::EPOCH => pace.started_at,
        Behind::Far => pace.recorded_at,
    };
    now.seconds_since(since).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * SECOND)
    }

    #[test]
    fn half_the_way_in_ten_seconds_takes_ten_more() {
        let mut pace = Pace::start(Position::START, Timestamp::EPOCH, at(100));
        pace.moved(Position(500), at(50), at(110));
        let progress = pace.progress(Position(1000), at(110));
        assert_eq!(progress.eta_seconds, Some(10.0));
        assert_eq!(progress.fraction, 0.5);
        assert_eq!(pace.per_second(at(110)), 50.0);
    }

    #[test]
    fn a_projector_without_work_is_not_said_to_be_fast() {
        let mut pace = Pace::start(Position::START, Timestamp::EPOCH, at(0));
        pace.moved(Position(500), at(0), at(10));
        assert_eq!(pace.per_second(at(1000)), 0.0);
    }

    #[test]
    fn the_lag_is_the_age_of_the_first_event_that_is_missing() {
        let pace = Pace::start(Position::START, at(40), at(41));
        assert_eq!(lag_seconds(&pace, Behind::No, at(100)), 0.0);
        assert_eq!(lag_seconds(&pace, Behind::Since(at(90)), at(100)), 10.0);
        assert_eq!(lag_seconds(&pace, Behind::Far, at(100)), 60.0);
    }
}
