//! A circuit breaker in front of a service, shared by all of its callers.

use std::sync::{Mutex, MutexGuard, PoisonError};

use domain::breaker::{self, Breaker, CircuitOpen, CircuitState, Outcome, Permit};
use event_log::clock::Clock;

/// The circuit breaker of one service.
#[derive(Debug)]
pub(crate) struct CircuitBreaker {
    breaker: Mutex<Breaker>,
    clock: Clock,
}

impl CircuitBreaker {
    /// A closed breaker.
    pub(crate) fn new(clock: Clock) -> Self {
        Self { breaker: Mutex::new(Breaker::new(breaker::Settings::default())), clock }
    }

    /// Requests a permit for a call now.
    ///
    /// # Errors
    /// The time until which the breaker is open.
    pub(crate) fn acquire(&self) -> Result<BreakerPermit<'_>, CircuitOpen> {
        let permit = self.breaker().acquire(self.clock.now())?;
        Ok(BreakerPermit { breaker: self, permit: Some(permit) })
    }

    /// The state of the breaker, and the number of times in a row that it opened.
    pub(crate) fn state(&self) -> (CircuitState, u32) {
        let breaker = self.breaker();
        (breaker.state(self.clock.now()), breaker.openings())
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        // Each change of a breaker is one step.
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The permit for one call. If it is dropped without an outcome, as when the caller is cancelled, the outcome counts as
/// unknown.
#[derive(Debug)]
pub(crate) struct BreakerPermit<'a> {
    breaker: &'a CircuitBreaker,
    permit: Option<Permit>,
}

impl BreakerPermit<'_> {
    /// Reports the outcome of the call.
    pub(crate) fn report(mut self, outcome: Outcome) {
        self.finish(outcome);
    }

    fn finish(&mut self, outcome: Outcome) {
        if let Some(permit) = self.permit.take() {
            self.breaker.breaker().report(permit, outcome, self.breaker.clock.now());
        }
    }
}

impl Drop for BreakerPermit<'_> {
    fn drop(&mut self) {
        self.finish(Outcome::Unknown);
    }
}
