//! A circuit breaker: stops calls to a service that fails too often, and probes carefully whether it has
//! recovered.
//!
//! Invariants: it opens only after a minimum number of calls of which enough failed; while it is open there
//! are no calls; when half-open, only a few probes are sent until all of them have succeeded; each
//! consecutive opening lasts twice as long, up to a limit. A call counts for the epoch in which it started: a
//! call from before an opening does not count after it.
//!
//! Pure: the current time is an argument. Refused work is postponed, not failed.

use std::collections::VecDeque;
use std::time::Duration;

use event_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

/// The thresholds and durations of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The number of latest calls that count.
    pub calls_max: usize,
    /// The minimum number of calls before it can open.
    pub calls_min: usize,
    /// The share of failed calls at which it opens, in percent.
    pub failed_percent: usize,
    /// The duration of the first opening.
    pub open_first: Duration,
    /// The maximum duration; each consecutive opening lasts twice as long, up to this.
    pub open_max: Duration,
    /// The number of consecutive successful calls needed to close it; also the maximum number of calls in
    /// flight when half-open.
    pub probes: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            calls_max: 20,
            calls_min: 10,
            failed_percent: 50,
            open_first: Duration::from_secs(30),
            open_max: Duration::from_secs(5 * 60),
            probes: 3,
        }
    }
}

/// The state of the circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CircuitState {
    Closed,
    /// No calls before this time.
    Open {
        until: Timestamp,
    },
    /// A few calls probe whether the service has recovered.
    HalfOpen,
}

/// The outcome of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Succeeded,
    /// The service answered that it limits our rate, or rejects our credentials: it works, but that does not
    /// show that calls succeed.
    Refused,
    /// The service was unreachable, timed out, or reported a failure of its own.
    Failed,
    /// Not known, because the caller was stopped.
    Unknown,
}

/// The permission for one call; its outcome is reported with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[must_use = "the outcome of an allowed call must be reported, or a probe is lost"]
pub struct Permit {
    epoch: u64,
}

/// No calls are allowed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many calls of the service failed; its circuit breaker is open until {until}")]
pub struct CircuitOpen {
    /// The earliest time at which a call may be allowed.
    pub until: Timestamp,
}

/// The delay before the next try when all probes are in flight.
const PROBED_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The breaker of one service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Breaker {
    settings: Settings,
    /// Incremented by every transition, so that late reports are recognised.
    epoch: u64,
    /// The number of consecutive openings.
    openings: u32,
    inner: Inner,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Inner {
    /// Whether each of the latest calls failed, oldest first.
    Closed(VecDeque<bool>),
    Open {
        until: Timestamp,
    },
    HalfOpen {
        out: u32,
        succeeded: u32,
    },
}

impl Breaker {
    /// A closed breaker without any calls.
    pub fn new(settings: Settings) -> Self {
        Self { settings, epoch: 0, openings: 0, inner: Inner::Closed(VecDeque::new()) }
    }

    /// The breaker after a restart: no call is in flight any more.
    pub fn restarted(mut self) -> Self {
        if let Inner::HalfOpen { out, .. } = &mut self.inner {
            *out = 0;
            self.epoch += 1;
        }
        self
    }

    pub fn state(&self, now: Timestamp) -> CircuitState {
        match self.inner {
            Inner::Closed(_) => CircuitState::Closed,
            Inner::Open { until } if now < until => CircuitState::Open { until },
            Inner::Open { .. } | Inner::HalfOpen { .. } => CircuitState::HalfOpen,
        }
    }

    /// The number of openings since it was last closed.
    pub fn openings(&self) -> u32 {
        self.openings
    }

    /// Asks for the permission to call now.
    ///
    /// # Errors
    /// The time until which the work must be postponed.
    pub fn acquire(&mut self, now: Timestamp) -> Result<Permit, CircuitOpen> {
        if let Inner::Open { until } = self.inner {
            if now < until {
                return Err(CircuitOpen { until });
            }
            self.transition(Inner::HalfOpen { out: 0, succeeded: 0 });
        }
        if let Inner::HalfOpen { out, succeeded } = &mut self.inner {
            if *out + *succeeded >= self.settings.probes {
                return Err(CircuitOpen { until: now.after(PROBED_AGAIN_AFTER) });
            }
            *out += 1;
        }
        Ok(Permit { epoch: self.epoch })
    }

    /// Reports the outcome of the call that was allowed with `permit`.
    pub fn report(&mut self, permit: Permit, outcome: Outcome, now: Timestamp) {
        if permit.epoch != self.epoch {
            return;
        }
        let settings = self.settings;
        match (&mut self.inner, outcome) {
            (Inner::Closed(_), Outcome::Refused | Outcome::Unknown) => {}
            (Inner::Closed(calls), Outcome::Succeeded | Outcome::Failed) => {
                calls.push_back(outcome == Outcome::Failed);
                if calls.len() > settings.calls_max {
                    calls.pop_front();
                }
                let failed = calls.iter().filter(|failed| **failed).count();
                if calls.len() >= settings.calls_min && failed * 100 >= calls.len() * settings.failed_percent
                {
                    self.open(now);
                }
            }
            (Inner::HalfOpen { out, .. }, Outcome::Unknown) => *out = out.saturating_sub(1),
            // The probes ask whether the service answers again.
            (Inner::HalfOpen { out, succeeded }, Outcome::Succeeded | Outcome::Refused) => {
                *out = out.saturating_sub(1);
                *succeeded += 1;
                if *succeeded >= settings.probes {
                    self.openings = 0;
                    self.transition(Inner::Closed(VecDeque::new()));
                }
            }
            (Inner::HalfOpen { .. }, Outcome::Failed) => self.open(now),
            // Calls are only allowed in the other states, and an opening starts a new epoch.
            (Inner::Open { .. }, _) => {}
        }
    }

    fn open(&mut self, now: Timestamp) {
        let doubled = self.settings.open_first.saturating_mul(2_u32.saturating_pow(self.openings));
        let until = now.after(doubled.min(self.settings.open_max));
        self.openings = self.openings.saturating_add(1);
        self.transition(Inner::Open { until });
    }

    fn transition(&mut self, inner: Inner) {
        self.epoch += 1;
        self.inner = inner;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::at;

    fn call(breaker: &mut Breaker, outcome: Outcome, second: f64) {
        let permit = breaker.acquire(at(second)).unwrap();
        breaker.report(permit, outcome, at(second));
    }

    /// A breaker that opened at `second`.
    fn opened(second: f64) -> Breaker {
        let mut breaker = Breaker::new(Settings::default());
        (0..10).for_each(|_| call(&mut breaker, Outcome::Failed, second));
        breaker
    }

    #[test]
    fn tenth_failure_opens_it_for_30_seconds() {
        let mut breaker = Breaker::new(Settings::default());
        (0..9).for_each(|_| call(&mut breaker, Outcome::Failed, 0.0));
        assert_eq!(breaker.state(at(0.0)), CircuitState::Closed);
        call(&mut breaker, Outcome::Failed, 0.0);
        assert_eq!(breaker.state(at(29.9)), CircuitState::Open { until: at(30.0) });
        assert_eq!(breaker.acquire(at(29.9)), Err(CircuitOpen { until: at(30.0) }));
        assert_eq!(breaker.state(at(30.0)), CircuitState::HalfOpen);
    }

    #[test]
    fn half_of_the_last_20_calls_failing_opens_it() {
        let mut breaker = Breaker::new(Settings::default());
        (0..11).for_each(|_| call(&mut breaker, Outcome::Succeeded, 0.0));
        (0..9).for_each(|_| call(&mut breaker, Outcome::Failed, 0.0));
        assert_eq!(breaker.state(at(0.0)), CircuitState::Closed, "9 of 20 failed");
        call(&mut breaker, Outcome::Failed, 0.0);
        assert_eq!(
            breaker.state(at(0.0)),
            CircuitState::Open { until: at(30.0) },
            "10 of the last 20 failed"
        );
        assert_eq!(breaker.openings(), 1);
    }

    #[test]
    fn only_the_last_20_calls_count() {
        let outcomes = |before: &[Outcome]| {
            let mut breaker = Breaker::new(Settings::default());
            before.iter().for_each(|outcome| call(&mut breaker, *outcome, 0.0));
            (0..10).for_each(|_| call(&mut breaker, Outcome::Succeeded, 0.0));
            (0..9).for_each(|_| call(&mut breaker, Outcome::Failed, 0.0));
            breaker.state(at(0.0))
        };
        assert_eq!(outcomes(&[Outcome::Failed]), CircuitState::Open { until: at(30.0) });
        assert_eq!(outcomes(&[Outcome::Failed, Outcome::Succeeded]), CircuitState::Closed);
    }

    #[test]
    fn three_successful_probes_close_it() {
        let mut breaker = opened(0.0);
        let probes: Vec<Permit> = (0..3).map(|_| breaker.acquire(at(30.0)).unwrap()).collect();
        assert_eq!(
            breaker.acquire(at(30.0)),
            Err(CircuitOpen { until: at(31.0) }),
            "no more than three at once"
        );
        for probe in probes {
            assert_eq!(breaker.state(at(30.0)), CircuitState::HalfOpen);
            breaker.report(probe, Outcome::Succeeded, at(30.0));
        }
        assert_eq!((breaker.state(at(30.0)), breaker.openings()), (CircuitState::Closed, 0));
    }

    #[test]
    fn failed_probe_doubles_the_open_time_up_to_five_minutes() {
        let mut breaker = opened(0.0);
        let mut now = 30.0;
        for open in [60.0, 120.0, 240.0, 300.0, 300.0] {
            call(&mut breaker, Outcome::Failed, now);
            assert_eq!(breaker.state(at(now)), CircuitState::Open { until: at(now + open) });
            now += open;
        }
    }

    #[test]
    fn probe_of_a_stopped_caller_is_available_again() {
        let mut breaker = opened(0.0);
        let probes: Vec<Permit> = (0..3).map(|_| breaker.acquire(at(30.0)).unwrap()).collect();
        breaker.report(probes[0], Outcome::Unknown, at(30.0));
        assert!(breaker.acquire(at(30.0)).is_ok());
    }

    #[test]
    fn refused_calls_do_not_count_but_pass_as_probes() {
        let mut breaker = Breaker::new(Settings::default());
        (0..9).for_each(|_| call(&mut breaker, Outcome::Failed, 0.0));
        (0..30).for_each(|_| call(&mut breaker, Outcome::Refused, 0.0));
        assert_eq!(breaker.state(at(0.0)), CircuitState::Closed);
        call(&mut breaker, Outcome::Failed, 0.0);
        assert_eq!(breaker.state(at(0.0)), CircuitState::Open { until: at(30.0) }, "ten of ten that count");
        (0..3).for_each(|_| call(&mut breaker, Outcome::Refused, 30.0));
        assert_eq!(breaker.state(at(30.0)), CircuitState::Closed);
    }

    #[test]
    fn call_from_before_the_opening_does_not_count() {
        let mut breaker = Breaker::new(Settings::default());
        let late: Vec<Permit> = (0..4).map(|_| breaker.acquire(at(0.0)).unwrap()).collect();
        (0..10).for_each(|_| call(&mut breaker, Outcome::Failed, 0.0));
        breaker.report(late[0], Outcome::Failed, at(1.0));
        assert_eq!(breaker.state(at(1.0)), CircuitState::Open { until: at(30.0) });
        let _probe = breaker.acquire(at(30.0)).unwrap();
        for late in &late[1..] {
            breaker.report(*late, Outcome::Succeeded, at(30.0));
        }
        assert_eq!(breaker.state(at(30.0)), CircuitState::HalfOpen, "none of the three was a probe");
    }
}
