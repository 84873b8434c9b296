//! The status of a projection: its position and speed, and after a failure the error and the remedy.

use std::sync::{Mutex, PoisonError};

use event_schemas::envelope::{EventType, Unreadable};
use event_schemas::ids::Position;
use event_schemas::time::Timestamp;
use serde::Serialize;

use crate::feed::{Feed, FeedItem, Lag};
use crate::projection::Name;

/// The window over which the speed is measured.
const RATE_WINDOW_SECONDS: f64 = 2.0;

/// The status of one read model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProjectionStatus {
    pub name: &'static str,
    pub revision: u32,
    /// The live generation; none while the first one is being built.
    pub generation: Option<u64>,
    #[serde(flatten)]
    pub state: ReportedState,
    /// Reads reflect everything up to here.
    pub position: Position,
    /// The durable end of the log.
    pub head: Position,
    /// The number of positions between the projection and the head.
    pub lag_events: u64,
    /// The age of the first event that the read model does not reflect; 0 if it reflects all. While it is further
    /// behind than the server remembers, the age of the last event that it reflects.
    pub lag_seconds: f64,
    /// The recent speed in positions per second, including events of other categories.
    pub events_per_second: f64,
    /// The generation under construction.
    pub rebuild: Option<RebuildStatus>,
}

/// The state of a projection, with its progress.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ReportedState {
    /// The projection is reading history.
    CatchingUp(Progress),
    Live,
    Paused,
    /// The projection does not continue automatically.
    Stopped(Failure),
    /// Its storage failed; it is retried automatically.
    Retrying(Failure),
}

/// The progress of a catch-up or a rebuild.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Progress {
    pub at: Position,
    pub target: Position,
    /// From 0 to 1.
    pub fraction: f64,
    /// None until the first event has been applied.
    pub eta_seconds: Option<f64>,
}

/// The reason why a projection stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// The position of the event that could not be applied, or the last position that was reached.
    pub position: Position,
    #[serde(serialize_with = "as_text", skip_serializing_if = "Option::is_none")]
    pub event_type: Option<EventType>,
    pub error: String,
    pub remedy: &'static str,
}

fn as_text<S: serde::Serializer>(event: &Option<EventType>, serializer: S) -> Result<S::Ok, S::Error> {
    match event {
        Some(event) => serializer.serialize_some(event.as_str()),
        None => serializer.serialize_none(),
    }
}

/// A generation under construction, alongside the live one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RebuildStatus {
    pub generation: u64,
    pub progress: Progress,
    /// The error that ended it; the live generation is unchanged.
    pub failed: Option<Failure>,
}

impl Failure {
    pub(crate) fn undecodable(item: &FeedItem, error: &Unreadable) -> Self {
        Self {
            position: item.position,
            event_type: Some(item.event_type.clone()),
            error: error.to_string(),
            remedy: "run a version of matchbook that knows this event, then resume the projection",
        }
    }

    pub(crate) fn storage(position: Position, error: String) -> Self {
        Self {
            position,
            event_type: None,
            error,
            remedy: "check the disk of the data folder, or the database; the projection retries automatically, and at once when resumed or rebuilt",
        }
    }

    pub(crate) fn log(position: Position, error: String) -> Self {
        Self { position, event_type: None, error, remedy: "check the log in the server's status" }
    }

    pub(crate) fn panicked(position: Position) -> Self {
        Self {
            position,
            event_type: None,
            error: "the projection panicked at an event; see the server's log for details".to_owned(),
            remedy: "restart the server; if it happens again, report it with the server's log",
        }
    }
}

/// Measures the progress and the speed of one projector.
#[derive(Debug)]
pub(crate) struct ProgressMeter {
    started_at: Timestamp,
    started_from: Position,
    pub(crate) at: Position,
    pub(crate) recorded_at: Timestamp,
    window_since: Timestamp,
    window_from: Position,
    per_second: f64,
}

impl ProgressMeter {
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

    pub(crate) fn advance(&mut self, at: Position, recorded_at: Timestamp, now: Timestamp) {
        self.at = at;
        self.recorded_at = recorded_at;
        let seconds = now.seconds_since(self.window_since);
        if seconds >= RATE_WINDOW_SECONDS {
            self.per_second = between(self.window_from, at) / seconds;
            self.window_since = now;
            self.window_from = at;
        }
    }

    /// The number of positions per second; 0 after a while without events.
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
        let remaining = between(self.at, target);
        Progress {
            at: self.at,
            target,
            fraction: if whole > 0.0 { (between(Position::START, self.at) / whole).min(1.0) } else { 1.0 },
            eta_seconds: (done > 0.0 && seconds > 0.0).then(|| remaining * seconds / done),
        }
    }
}

fn between(from: Position, to: Position) -> f64 {
    to.0.saturating_sub(from.0) as f64
}

/// The state that the runner sets; the rest of a status follows from positions and times.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ProjectionState {
    CatchingUp,
    Live,
    Paused,
    Stopped(Failure),
    Retrying(Failure),
}

/// Tracks the status of one projection. Its runner writes it.
#[derive(Debug)]
pub(crate) struct StatusTracker {
    name: Name,
    revision: u32,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: ProjectionState,
    generation: Option<u64>,
    meter: ProgressMeter,
    rebuild: Option<(u64, ProgressMeter, Option<Failure>)>,
}

impl StatusTracker {
    pub(crate) fn new(name: Name, revision: u32, now: Timestamp) -> Self {
        let meter = ProgressMeter::start(Position::START, Timestamp::EPOCH, now);
        let inner = Inner { state: ProjectionState::CatchingUp, generation: None, meter, rebuild: None };
        Self { name, revision, inner: Mutex::new(inner) }
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Inner> {
        // Every change is one assignment, so a panic elsewhere leaves no partial change.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_state(&self, state: ProjectionState) {
        self.locked().state = state;
    }

    pub(crate) fn started(&self, from: Position, recorded_at: Timestamp, now: Timestamp) {
        self.locked().meter = ProgressMeter::start(from, recorded_at, now);
    }

    pub(crate) fn set_generation(&self, generation: Option<u64>) {
        self.locked().generation = generation;
    }

    pub(crate) fn advance(&self, at: Position, recorded_at: Timestamp, now: Timestamp) {
        self.locked().meter.advance(at, recorded_at, now);
    }

    pub(crate) fn rebuild_started(&self, generation: u64, from: Position, now: Timestamp) {
        self.locked().rebuild = Some((generation, ProgressMeter::start(from, Timestamp::EPOCH, now), None));
    }

    pub(crate) fn rebuild_advanced(&self, at: Position, recorded_at: Timestamp, now: Timestamp) {
        if let Some((_, meter, _)) = &mut self.locked().rebuild {
            meter.advance(at, recorded_at, now);
        }
    }

    pub(crate) fn rebuild_failed(&self, failure: Failure) {
        if let Some((_, _, failed)) = &mut self.locked().rebuild {
            *failed = Some(failure);
        }
    }

    /// Forgets a rebuild that is not continued. The error of a failed one stays.
    pub(crate) fn rebuild_abandoned(&self) {
        self.locked().rebuild.take_if(|(_, _, failed)| failed.is_none());
    }

    pub(crate) fn rebuild_finished(&self) {
        self.locked().rebuild = None;
    }

    pub(crate) fn position(&self) -> Position {
        self.locked().meter.at
    }

    /// Reports whether the projection has caught up once, and has not stopped since.
    pub(crate) fn is_live(&self) -> bool {
        self.locked().state == ProjectionState::Live
    }

    pub(crate) fn is_published(&self) -> bool {
        self.locked().generation.is_some()
    }

    pub(crate) fn status(&self, feed: &Feed, head: Position, now: Timestamp) -> ProjectionStatus {
        let inner = self.locked();
        let position = inner.meter.at;
        ProjectionStatus {
            name: self.name.as_str(),
            revision: self.revision,
            generation: inner.generation,
            state: match &inner.state {
                ProjectionState::CatchingUp => ReportedState::CatchingUp(inner.meter.progress(head, now)),
                ProjectionState::Live => ReportedState::Live,
                ProjectionState::Paused => ReportedState::Paused,
                ProjectionState::Stopped(failure) => ReportedState::Stopped(failure.clone()),
                ProjectionState::Retrying(failure) => ReportedState::Retrying(failure.clone()),
            },
            position,
            head,
            lag_events: head.0.saturating_sub(position.0),
            lag_seconds: lag_seconds(&inner.meter, feed.lag(position), now),
            events_per_second: inner.meter.per_second(now),
            rebuild: inner.rebuild.as_ref().map(|(generation, meter, failed)| RebuildStatus {
                generation: *generation,
                progress: meter.progress(head, now),
                failed: failed.clone(),
            }),
        }
    }
}

fn lag_seconds(meter: &ProgressMeter, lag: Lag, now: Timestamp) -> f64 {
    let since = match lag {
        Lag::None => return 0.0,
        Lag::Since(recorded_at) => recorded_at,
        // Before the first event of this run, only the start of the run is known.
        Lag::Unknown if meter.recorded_at == Timestamp::EPOCH => meter.started_at,
        Lag::Unknown => meter.recorded_at,
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
    fn half_the_events_in_ten_seconds_leave_an_eta_of_ten() {
        let mut meter = ProgressMeter::start(Position::START, Timestamp::EPOCH, at(100));
        meter.advance(Position(500), at(50), at(110));
        let progress = meter.progress(Position(1000), at(110));
        assert_eq!(progress.eta_seconds, Some(10.0));
        assert_eq!(progress.fraction, 0.5);
        assert_eq!(meter.per_second(at(110)), 50.0);
    }

    #[test]
    fn idle_projector_has_a_rate_of_zero() {
        let mut meter = ProgressMeter::start(Position::START, Timestamp::EPOCH, at(0));
        meter.advance(Position(500), at(0), at(10));
        assert_eq!(meter.per_second(at(1000)), 0.0);
    }

    #[test]
    fn lag_is_the_age_of_the_first_missing_event() {
        let meter = ProgressMeter::start(Position::START, at(40), at(41));
        assert_eq!(lag_seconds(&meter, Lag::None, at(100)), 0.0);
        assert_eq!(lag_seconds(&meter, Lag::Since(at(90)), at(100)), 10.0);
        assert_eq!(lag_seconds(&meter, Lag::Unknown, at(100)), 60.0);
    }
}
