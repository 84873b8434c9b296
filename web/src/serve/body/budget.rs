//! The memory of all bodies in flight: a budget for the server, and a part of it for each caller.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use poem::Request;
use poem::http::header;

use crate::problem::{BudgetUsedUp, BudgetUser};

/// The bytes of bodies that are in flight, in all and of each caller with one. Clones share them.
#[derive(Clone, Debug)]
pub(in crate::serve) struct BodyBudget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    total_max: usize,
    caller_max: usize,
    used: Mutex<Used>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Used {
    total: usize,
    by_caller: HashMap<u64, usize>,
}

impl BodyBudget {
    /// A budget of `total_max` bytes, of which one caller gets up to half.
    pub(in crate::serve) fn new(total_max: usize) -> Self {
        let hasher = RandomState::new();
        Self(Arc::new(Shared { total_max, caller_max: total_max / 2, used: Mutex::default(), hasher }))
    }

    /// The share of a request, empty at first. The caller is known by its credentials, or else by its address: a caller that has
    /// neither a role nor the right credentials is refused before a body is read.
    pub(super) fn share(&self, request: &Request) -> Share {
        let credentials = [header::AUTHORIZATION.as_str(), "x-api-key"];
        let caller = match credentials.into_iter().find_map(|name| request.headers().get(name)) {
            Some(credential) => self.0.hasher.hash_one(credential.as_bytes()),
            None => self.0.hasher.hash_one(request.remote_addr().as_socket_addr().map(|remote| remote.ip())),
        };
        Share { budget: self.0.clone(), caller, bytes: 0 }
    }
}

impl Shared {
    fn used(&self) -> MutexGuard<'_, Used> {
        // Nothing in a locked section can panic half-way.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The part of the budget that one request uses, until it is dropped.
pub(super) struct Share {
    budget: Arc<Shared>,
    caller: u64,
    bytes: usize,
}

impl Share {
    /// Reserves memory up to `bytes` in all.
    ///
    /// # Errors
    /// If the budget does not allow it; what is reserved stays.
    pub(super) fn grow_to(&mut self, bytes: usize) -> Result<(), BudgetUsedUp> {
        let Some(more) = bytes.checked_sub(self.bytes).filter(|more| *more > 0) else { return Ok(()) };
        let mut used = self.budget.used();
        if used.by_caller.get(&self.caller).unwrap_or(&0) + more > self.budget.caller_max {
            return Err(BudgetUsedUp(BudgetUser::Caller));
        }
        if used.total + more > self.budget.total_max {
            return Err(BudgetUsedUp(BudgetUser::Server));
        }
        used.total += more;
        *used.by_caller.entry(self.caller).or_default() += more;
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        let mut used = self.budget.used();
        used.total -= self.bytes;
        if let Some(of_caller) = used.by_caller.get_mut(&self.caller) {
            *of_caller -= self.bytes;
            if *of_caller == 0 {
                used.by_caller.remove(&self.caller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(budget: &BodyBudget, key: &str) -> Share {
        budget.share(&Request::builder().header("x-api-key", key).finish())
    }

    #[test]
    fn caller_gets_half_of_the_budget() {
        let budget = BodyBudget::new(100);
        let (mut first, mut second) = (share(&budget, "a"), share(&budget, "a"));
        assert_eq!(first.grow_to(30), Ok(()));
        assert_eq!(second.grow_to(20), Ok(()));
        assert_eq!(second.grow_to(21), Err(BudgetUsedUp(BudgetUser::Caller)));
        assert_eq!(share(&budget, "b").grow_to(50), Ok(()));
        drop(first);
        assert_eq!(second.grow_to(50), Ok(()));
    }

    #[test]
    fn all_callers_share_the_budget() {
        let budget = BodyBudget::new(100);
        let mut shares = ["a", "b", "c"].map(|key| share(&budget, key));
        assert_eq!(shares[0].grow_to(40), Ok(()));
        assert_eq!(shares[1].grow_to(40), Ok(()));
        assert_eq!(shares[2].grow_to(40), Err(BudgetUsedUp(BudgetUser::Server)));
        assert_eq!(shares[2].grow_to(20), Ok(()));
    }
}
