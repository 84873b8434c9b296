//! A circuit breaker: leaves a service alone that fails too often, and asks carefully whether it is back.
//!
//! Invariants: it opens only on enough calls, of which enough failed; while it is open nobody calls; after that only a few
//! probes call until all of them have succeeded; each opening in a row lasts twice as long, up to a limit. A call counts
//! where it began: one that began before an opening says nothing about the time after it.
//!
//! Pure: the instant comes in with every question. Work that is refused is parked, not failed.

use std::collections::VecDeque;
use std::time::Duration;

use event_schemas::time::Timestamp;

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How many of the latest calls count.
    pub calls_max: usize,
    /// Fewer calls than this say nothing.
    pub calls_min: usize,
    /// It opens when at least this share of the calls failed, in percent.
    pub failed_percent: usize,
    /// How long it stays open the first time.
    pub open_first: Duration,
    /// Each further time in a row it stays open twice as long, up to this.
    pub open_max: Duration,
    /// How many calls in a row must succeed before it closes; no more than these are let through at once.
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

/// Whether the service is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Closed,
    /// Nobody calls before this instant.
    Open {
        until: Timestamp,
    },
    /// A few calls find out whether the service is back.
    Probing,
}

/// How a call went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The service answered, be it a refusal.
    Succeeded,
    /// It could not be reached, did not answer in time, or said that it failed.
    Failed,
    /// Nobody knows, because the caller was stopped.
    Unknown,
}

/// The right to one call; its outcome is reported with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a call that is let through is reported, or a probe is lost"]
pub struct Permit {
    era: u64,
}

/// Nobody calls now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the service failed too often and is left alone until {until}")]
pub struct Parked {
    /// When it is worth asking again.
    pub until: Timestamp,
}

/// How long whoever finds all probes taken waits before asking again.
const PROBED_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The breaker of one service.
#[derive(Clone, Debug)]
pub struct Breaker {
    settings: Settings,
    /// Raised by every change of phase, so that late reports are known.
    era: u64,
    /// How often it has opened in a row.
    openings: u32,
    inner: Inner,
}

#[derive(Clone, Debug)]
enum Inner {
    /// Whether each of the latest calls failed, oldest first.
    Closed(VecDeque<bool>),
    Open {
        until: Timestamp,
    },
    Probing {
        out: u32,
        succeeded: u32,
    },
}

impl Breaker {
    /// Closed, and without a past.
    pub fn new(settings: Settings) -> Self {
        Self { settings, era: 0, openings: 0, inner: Inner::Closed(VecDeque::new()) }
    }

    pub fn phase(&self, now: Timestamp) -> Phase {
        match self.inner {
            Inner::Closed(_) => Phase::Closed,
            Inner::Open { until } if now < until => Phase::Open { until },
            Inner::Open { .. } | Inner::Probing { .. } => Phase::Probing,
        }
    }

    /// How often it has opened since it was last closed.
    pub fn openings(&self) -> u32 {
        self.openings
    }

    /// Asks whether to call now.
    ///
    /// # Errors
    /// Until when the work is to be parked.
    pub fn ask(&mut self, now: Timestamp) -> Result<Permit, Parked> {
        if let Inner::Open { until } = self.inner {
            if now < until {
                return Err(Parked { until });
            }
            self.turn(Inner::Probing { out: 0, succeeded: 0 });
        }
        if let Inner::Probing { out, succeeded } = &mut self.inner {
            if *out + *succeeded >= self.settings.probes {
                return Err(Parked { until: now.after(PROBED_AGAIN_AFTER) });
            }
            *out += 1;
        }
        Ok(Permit { era: self.era })
    }

    /// Tells how the call went that was let through with `permit`.
    pub fn report(&mut self, permit: Permit, outcome: Outcome, now: Timestamp) {
        if permit.era != self.era {
            return;
        }
        let settings = self.settings;
        match (&mut self.inner, outcome) {
            (Inner::Closed(_) | Inner::Open { .. }, Outcome::Unknown) => {}
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
            (Inner::Probing { out, .. }, Outcome::Unknown) => *out = out.saturating_sub(1),
            (Inner::Probing { out, succeeded }, Outcome::Succeeded) => {
                *out = out.saturating_sub(1);
                *succeeded += 1;
                if *succeeded >= settings.probes {
                    self.openings = 0;
                    self.turn(Inner::Closed(VecDeque::new()));
                }
            }
            (Inner::Probing { .. }, Outcome::Failed) => self.open(now),
            // Calls are only let through in the other phases, and an opening begins a new era.
            (Inner::Open { .. }, Outcome::Succeeded | Outcome::Failed) => {}
        }
    }

    fn open(&mut self, now: Timestamp) {
        let doubled = self.settings.open_first.saturating_mul(2_u32.saturating_pow(self.openings));
        let until = now.after(doubled.min(self.settings.open_max));
        self.openings = self.openings.saturating_add(1);
        self.turn(Inner::Open { until });
    }

    fn turn(&mut self, inner: Inner) {
        self.era += 1;
        self.inner = inner;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::at;

    fn call(breaker: &mut Breaker, outcome: Outcome, second: f64) {
        let permit = breaker.ask(at(second)).unwrap();
        breaker.report(permit, outcome, at(second));
    }

    /// Open since `second`.
    fn opened(second: f64) -> Breaker {
        let mut breaker = Breaker::new(Settings::default());
        (0..10).for_each(|_| call(&mut breaker, Outcome::Failed, second));
        breaker
    }

    #[test]
    fn nine_failures_say_nothing_and_the_tenth_opens_it_for_30_seconds() {
        let mut breaker = Breaker::new(Settings::default());
        (0..9).for_each(|_| call(&mut breaker, Outcome::Failed, 0.0));
        assert_eq!(breaker.phase(at(0.0)), Phase::Closed);
        call(&mut breaker, Outcome::Failed, 0.0);
        assert_eq!(breaker.phase(at(29.9)), Phase::Open { until: at(30.0) });
        assert_eq!(breaker.ask(at(29.9)), Err(Parked { until: at(30.0) }));
        assert_eq!(breaker.phase(at(30.0)), Phase::Probing);
    }

    #[test]
    fn half_of_the_last_twenty_calls_open_it_and_older_ones_are_forgotten() {
        let mut breaker = Breaker::new(Settings::default());
        (0..11).for_each(|_| call(&mut breaker, Outcome::Succeeded, 0.0));
        (0..9).for_each(|_| call(&mut breaker, Outcome::Failed, 0.0));
        assert_eq!(breaker.phase(at(0.0)), Phase::Closed, "9 of 20 failed");
        call(&mut breaker, Outcome::Failed, 0.0);
        assert_eq!(breaker.phase(at(0.0)), Phase::Open { until: at(30.0) }, "10 of the last 20 failed");
        assert_eq!(breaker.openings(), 1);
    }

    #[test]
    fn the_twentieth_call_from_the_end_counts_and_the_one_before_does_not() {
        let outcomes = |before: &[Outcome]| {
            let mut breaker = Breaker::new(Settings::default());
            before.iter().for_each(|outcome| call(&mut breaker, *outcome, 0.0));
            (0..10).for_each(|_| call(&mut breaker, Outcome::Succeeded, 0.0));
            (0..9).for_each(|_| call(&mut breaker, Outcome::Failed, 0.0));
            breaker.phase(at(0.0))
        };
        assert_eq!(outcomes(&[Outcome::Failed]), Phase::Open { until: at(30.0) });
        assert_eq!(outcomes(&[Outcome::Failed, Outcome::Succeeded]), Phase::Closed);
    }

    #[test]
    fn three_probes_that_succeed_close_it() {
        let mut breaker = opened(0.0);
        let probes: Vec<Permit> = (0..3).map(|_| breaker.ask(at(30.0)).unwrap()).collect();
        assert_eq!(breaker.ask(at(30.0)), Err(Parked { until: at(31.0) }), "no more than three at once");
        for probe in probes {
            assert_eq!(breaker.phase(at(30.0)), Phase::Probing);
            breaker.report(probe, Outcome::Succeeded, at(30.0));
        }
        assert_eq!((breaker.phase(at(30.0)), breaker.openings()), (Phase::Closed, 0));
    }

    #[test]
    fn a_probe_that_fails_opens_it_twice_as_long_up_to_five_minutes() {
        let mut breaker = opened(0.0);
        let mut now = 30.0;
        for open in [60.0, 120.0, 240.0, 300.0, 300.0] {
            call(&mut breaker, Outcome::Failed, now);
            assert_eq!(breaker.phase(at(now)), Phase::Open { until: at(now + open) });
            now += open;
        }
    }

    #[test]
    fn a_probe_whose_caller_was_stopped_is_given_out_again() {
        let mut breaker = opened(0.0);
        let probes: Vec<Permit> = (0..3).map(|_| breaker.ask(at(30.0)).unwrap()).collect();
        breaker.report(probes[0], Outcome::Unknown, at(30.0));
        assert!(breaker.ask(at(30.0)).is_ok());
    }

    #[test]
    fn a_call_that_began_before_the_opening_says_nothing_afterwards() {
        let mut breaker = Breaker::new(Settings::default());
        let late: Vec<Permit> = (0..4).map(|_| breaker.ask(at(0.0)).unwrap()).collect();
        (0..10).for_each(|_| call(&mut breaker, Outcome::Failed, 0.0));
        breaker.report(late[0], Outcome::Failed, at(1.0));
        assert_eq!(breaker.phase(at(1.0)), Phase::Open { until: at(30.0) });
        let _probe = breaker.ask(at(30.0)).unwrap();
        for late in &late[1..] {
            breaker.report(*late, Outcome::Succeeded, at(30.0));
        }
        assert_eq!(breaker.phase(at(30.0)), Phase::Probing, "none of the three was a probe");
    }
}
