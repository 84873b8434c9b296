//! A breaker in front of a service, shared by all who call it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use domain::breaker::{self, Breaker, Outcome, Parked, Permit, Phase};
use event_log::clock::Clock;

/// The breaker of one service.
#[derive(Debug)]
pub(crate) struct Guard {
    breaker: Mutex<Breaker>,
    clock: Clock,
}

impl Guard {
    /// Closed.
    pub(crate) fn new(clock: Clock) -> Self {
        Self { breaker: Mutex::new(Breaker::new(breaker::Settings::default())), clock }
    }

    /// Asks whether to call now.
    ///
    /// # Errors
    /// Until when the service is left alone.
    pub(crate) fn ask(&self) -> Result<Call<'_>, Parked> {
        let permit = self.breaker().ask(self.clock.now())?;
        Ok(Call { guard: self, permit: Some(permit) })
    }

    /// How the service stands, and how often it was left alone in a row.
    pub(crate) fn standing(&self) -> (Phase, u32) {
        let breaker = self.breaker();
        (breaker.phase(self.clock.now()), breaker.openings())
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        // Each change of a breaker is one step.
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to one call. If it is dropped before its outcome is told, as when the caller is stopped, nobody knows how the
/// call went.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    guard: &'a Guard,
    permit: Option<Permit>,
}

impl Call<'_> {
    /// Tells how the call went.
    pub(crate) fn tell(mut self, outcome: Outcome) {
        self.report(outcome);
    }

    fn report(&mut self, outcome: Outcome) {
        if let Some(permit) = self.permit.take() {
            self.guard.breaker().report(permit, outcome, self.guard.clock.now());
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.report(Outcome::Unknown);
    }
}
