//! The circuit breakers in front of a service, shared by all of its callers: one for each tenant, so that the failures of
//! one tenant's calls, as of its names or its data, do not stop the calls of another.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use domain::breaker::{self, Breaker, CircuitOpen, CircuitState, Outcome, Permit};
use event_log::clock::Clock;
use event_schemas::ids::Tenant;
use event_schemas::time::Timestamp;

/// The circuit breakers of one service.
#[derive(Debug)]
pub(crate) struct CircuitBreakers {
    /// A tenant that has never called has none.
    breakers: Mutex<HashMap<Tenant, Breaker>>,
    clock: Clock,
}

impl CircuitBreakers {
    /// Closed breakers.
    pub(crate) fn new(clock: Clock) -> Self {
        Self { breakers: Mutex::default(), clock }
    }

    /// Requests a permit for a call now.
    ///
    /// # Errors
    /// The time until which the tenant's breaker is open.
    pub(crate) fn acquire(&self, tenant: &Tenant) -> Result<BreakerPermit<'_>, CircuitOpen> {
        let now = self.clock.now();
        let permit = breaker_of(&mut self.breakers(), tenant).acquire(now)?;
        Ok(BreakerPermit { breakers: self, tenant: tenant.clone(), permit: Some(permit) })
    }

    /// The state of the tenant's breaker, and the number of times in a row that it opened.
    pub(crate) fn state(&self, tenant: &Tenant) -> (CircuitState, u32) {
        let now = self.clock.now();
        let breakers = self.breakers();
        let state = |breaker: &Breaker| (breaker.state(now), breaker.openings());
        breakers.get(tenant).map_or((CircuitState::Closed, 0), state)
    }

    /// The tenants of which the breaker is open, and until when.
    pub(crate) fn open(&self) -> HashMap<Tenant, Timestamp> {
        let now = self.clock.now();
        let breakers = self.breakers();
        let open = breakers.iter().filter_map(|(tenant, breaker)| match breaker.state(now) {
            CircuitState::Open { until } => Some((tenant.clone(), until)),
            CircuitState::Closed | CircuitState::HalfOpen => None,
        });
        open.collect()
    }

    /// The numbers of tenants of which the breaker is open, and half-open.
    pub(crate) fn unclosed(&self) -> (usize, usize) {
        let now = self.clock.now();
        let breakers = self.breakers();
        let count =
            |is: fn(CircuitState) -> bool| breakers.values().filter(|breaker| is(breaker.state(now))).count();
        let open = count(|state| matches!(state, CircuitState::Open { .. }));
        (open, count(|state| state == CircuitState::HalfOpen))
    }

    /// Counts a call of an earlier process, whose outcome the log has.
    pub(crate) fn replay(&self, tenant: &Tenant, outcome: Outcome, at: Timestamp) {
        let mut breakers = self.breakers();
        let breaker = breaker_of(&mut breakers, tenant);
        if let Ok(permit) = breaker.acquire(at) {
            breaker.report(permit, outcome, at);
        }
    }

    /// All breakers, to be stored with a snapshot.
    pub(crate) fn snapshot(&self) -> Vec<(Tenant, Breaker)> {
        self.breakers().iter().map(|(tenant, breaker)| (tenant.clone(), breaker.clone())).collect()
    }

    /// Continues with the breakers of a snapshot. The calls that were in progress then are not any more.
    pub(crate) fn restore(&self, stored: Vec<(Tenant, Breaker)>) {
        let restarted = stored.into_iter().map(|(tenant, breaker)| (tenant, breaker.restarted()));
        *self.breakers() = restarted.collect();
    }

    fn breakers(&self) -> MutexGuard<'_, HashMap<Tenant, Breaker>> {
        // Each change of a breaker is one step.
        self.breakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn breaker_of<'a>(breakers: &'a mut HashMap<Tenant, Breaker>, tenant: &Tenant) -> &'a mut Breaker {
    breakers.entry(tenant.clone()).or_insert_with(|| Breaker::new(breaker::Settings::default()))
}

/// The permit for one call. If it is dropped without an outcome, as when the caller is cancelled, the outcome counts as
/// unknown.
#[derive(Debug)]
pub(crate) struct BreakerPermit<'a> {
    breakers: &'a CircuitBreakers,
    tenant: Tenant,
    permit: Option<Permit>,
}

impl BreakerPermit<'_> {
    /// Reports the outcome of the call.
    pub(crate) fn report(mut self, outcome: Outcome) {
        self.finish(outcome);
    }

    fn finish(&mut self, outcome: Outcome) {
        if let Some(permit) = self.permit.take() {
            let now = self.breakers.clock.now();
            breaker_of(&mut self.breakers.breakers(), &self.tenant).report(permit, outcome, now);
        }
    }
}

impl Drop for BreakerPermit<'_> {
    fn drop(&mut self) {
        self.finish(Outcome::Unknown);
    }
}
