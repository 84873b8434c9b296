//! The status of a projection: its position and speed, and after a failure the error and the remedy.

mod view;

use std::sync::{Mutex, PoisonError};

use event_schemas::envelope::Unreadable;
use event_schemas::ids::Position;
use event_schemas::time::Timestamp;

use crate::feed::{Feed, FeedItem, Lag};
use crate::projection::Name;

pub use view::{Condition, Failure, LagState, Progress, ProjectionStatus, RebuildStatus, ReportedState};

/// The window over which the speed is measured.
const RATE_WINDOW_SECONDS: f64 = 2.0;

impl Failure {
    pub(crate) fn undecodable(item: &FeedItem, error: &Unreadable) -> Self {
        Self {
            position: item.position,
            event_type: Some(item.event_type.to_string()),
            error: error.to_string(),
            remedy: "run a version of matchbook that knows this event, then resume the projection".into(),
        }
    }

    pub(crate) fn storage(position: Position, error: String) -> Self {
        Self {
            position,
            event_type: None,
            error,
            remedy: "check the disk of the data folder, or the database; the projection retries automatically, and at once when resumed or rebuilt".into(),
        }
    }

    pub(crate) fn damage(position: Position, error: String) -> Self {
        Self {
            position,
            event_type: None,
            error,
            remedy:
                "wait: it is being rebuilt from the log; if it happens again, check the disk or the database"
                    .into(),
        }
    }

    pub(crate) fn log(position: Position, error: String) -> Self {
        Self { position, event_type: None, error, remedy: "check the log in the server's status".into() }
    }

    pub(crate) fn panicked(position: Position) -> Self {
        Self {
            position,
            event_type: None,
            error: "the projection panicked at an event; see the server's log for details".to_owned(),
            remedy: "restart the server; if it happens again, report it with the server's log".into(),
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
    /// Why the live generation is being replaced, or none is live: the last one is damaged.
    damage: Option<Failure>,
}

impl StatusTracker {
    pub(crate) fn new(name: Name, revision: u32, now: Timestamp) -> Self {
        let meter = ProgressMeter::start(Position::START, Timestamp::EPOCH, now);
        let inner = Inner {
            state: ProjectionState::CatchingUp,
            generation: None,
            meter,
            rebuild: None,
            damage: None,
        };
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

    /// A generation is live, so it is no longer being built. Both change at once: otherwise a reader could see the new
    /// generation and its rebuild.
    pub(crate) fn published(&self, generation: u64) {
        let mut inner = self.locked();
        inner.generation = Some(generation);
        inner.damage = None;
        inner.rebuild.take_if(|(built, _, _)| *built == generation);
    }

    /// No generation is live.
    pub(crate) fn unpublished(&self) {
        self.locked().generation = None;
    }

    /// The live generation is damaged, which the status shows until another one is live.
    pub(crate) fn damaged(&self, error: String) {
        let mut inner = self.locked();
        inner.damage = Some(Failure::damage(inner.meter.at, error));
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

    /// The status, which the reader judges by the settings for the lag.
    pub(crate) fn status(&self, feed: &Feed, head: Position, now: Timestamp) -> ProjectionStatus {
        let inner = self.locked();
        let position = inner.meter.at;
        let (state, progress, stop) = match &inner.state {
            ProjectionState::CatchingUp => {
                (ReportedState::CatchingUp, Some(inner.meter.progress(head, now)), inner.damage.clone())
            }
            ProjectionState::Live => (ReportedState::Live, None, inner.damage.clone()),
            ProjectionState::Paused => (ReportedState::Paused, None, None),
            ProjectionState::Stopped(failure) => (ReportedState::Stopped, None, Some(failure.clone())),
            ProjectionState::Retrying(failure) => (ReportedState::Retrying, None, Some(failure.clone())),
        };
        ProjectionStatus {
            name: self.name.as_str().to_owned(),
            revision: self.revision,
            generation: inner.generation,
            state,
            position,
            head,
            lag_events: head.0.saturating_sub(position.0),
            lag_state: LagState::Ok,
            lag_seconds: lag_seconds(&inner.meter, feed.lag(position), now),
            events_per_second: inner.meter.per_second(now),
            progress,
            stop,
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
