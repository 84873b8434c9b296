//! Injected faults of the game server, for tests of its callers.

use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use strum::VariantArray;

/// The most active faults.
const FAULTS_MAX: usize = 32;

/// The kind of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[derive(strum::EnumString, strum::IntoStaticStr, strum::VariantArray)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case", const_into_str)]
pub enum FaultKind {
    /// 422: the request is refused.
    Refuse,
    /// 500, and no game.
    Error,
    /// No response, and no game.
    Hang,
    /// A game, with a slow response.
    Slow,
    /// A game, but the connection is closed before the response.
    LostAnswer,
    /// 201 without a game id, and no game.
    Garbage,
    /// The connection is closed immediately, and no game.
    Down,
}

/// A fault and the calls that it affects, by default all of them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    pub kind: FaultKind,
    /// The number of calls after which it is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
    /// The share of affected calls: above 0, at most 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
}

/// Why a fault is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFault {
    #[error(
        "unknown kind of fault {0:?}; the kinds are {kinds}", kinds = FaultKind::VARIANTS.iter().map(FaultKind::into_str).collect::<Vec<_>>().join(", ")
    )]
    FaultKind(String),
    #[error("times must be at least 1")]
    Times,
    #[error("share must be above 0 and at most 1 (or 100 %)")]
    Share,
    #[error("{0:?} is neither a number of times (error:3) nor a share (error:20%)")]
    Bound(String),
    #[error("{FAULTS_MAX} faults are active already; DELETE /faults removes them")]
    TooMany,
}

impl Fault {
    pub fn every(kind: FaultKind) -> Self {
        Self { kind, times: None, share: None }
    }

    fn check(self) -> Result<Self, InvalidFault> {
        if self.times == Some(0) {
            return Err(InvalidFault::Times);
        }
        let is_share = |share: f64| share > 0.0 && share <= 1.0;
        if self.share.is_some_and(|share| !is_share(share)) { Err(InvalidFault::Share) } else { Ok(self) }
    }
}

impl FromStr for Fault {
    type Err = InvalidFault;

    /// `error`, `error:3` (three times) or `error:20%` (a fifth of the calls).
    fn from_str(text: &str) -> Result<Self, InvalidFault> {
        let (name, bound) = text.split_once(':').map_or((text, None), |(name, bound)| (name, Some(bound)));
        let kind = name.parse().map_err(|_| InvalidFault::FaultKind(name.to_owned()))?;
        let mut fault = Self::every(kind);
        if let Some(bound) = bound {
            let wrong = || InvalidFault::Bound(bound.to_owned());
            match bound.strip_suffix('%') {
                Some(percent) => fault.share = Some(percent.parse::<f64>().map_err(|_| wrong())? / 100.0),
                None => fault.times = Some(bound.parse().map_err(|_| wrong())?),
            }
        }
        fault.check()
    }
}

/// The active faults. The first one that affects a call is injected.
#[derive(Debug)]
pub struct Faults {
    state: Mutex<FaultState>,
}

#[derive(Debug)]
struct FaultState {
    faults: Vec<Fault>,
    rng: fastrand::Rng,
}

impl Faults {
    pub fn new(rng: fastrand::Rng) -> Self {
        Self { state: Mutex::new(FaultState { faults: Vec::new(), rng }) }
    }

    /// # Errors
    /// [`InvalidFault`].
    pub fn add(&self, fault: Fault) -> Result<(), InvalidFault> {
        let fault = fault.check()?;
        let mut state = self.lock();
        if state.faults.len() >= FAULTS_MAX {
            return Err(InvalidFault::TooMany);
        }
        state.faults.push(fault);
        Ok(())
    }

    pub fn clear(&self) {
        self.lock().faults.clear();
    }

    pub fn all(&self) -> Vec<Fault> {
        self.lock().faults.clone()
    }

    /// The fault to inject into the next call, if any.
    pub fn next_fault(&self) -> Option<FaultKind> {
        let FaultState { faults, rng } = &mut *self.lock();
        let index = faults.iter().position(|fault| fault.share.is_none_or(|share| rng.f64() < share))?;
        let fault = faults.get_mut(index)?;
        let kind = fault.kind;
        if let Some(left) = &mut fault.times {
            *left -= 1;
            if *left == 0 {
                faults.remove(index);
            }
        }
        Some(kind)
    }

    fn lock(&self) -> MutexGuard<'_, FaultState> {
        // A panic cannot leave the state inconsistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(texts: &[&str]) -> Faults {
        let faults = Faults::new(fastrand::Rng::with_seed(1));
        for text in texts {
            faults.add(text.parse().unwrap()).unwrap();
        }
        faults
    }

    #[test]
    fn fault_affects_every_call_until_it_is_removed() {
        let faults = faults(&["hang"]);
        assert_eq!([faults.next_fault(), faults.next_fault()], [Some(FaultKind::Hang); 2]);
        faults.clear();
        assert_eq!(faults.next_fault(), None);
    }

    #[test]
    fn counted_fault_is_removed_and_the_next_one_applies() {
        let faults = faults(&["error:2", "down:1"]);
        let injected: Vec<Option<FaultKind>> = (0..4).map(|_| faults.next_fault()).collect();
        assert_eq!(injected, [Some(FaultKind::Error), Some(FaultKind::Error), Some(FaultKind::Down), None]);
        assert_eq!(faults.all(), []);
    }

    #[test]
    fn share_of_calls_is_affected() {
        let faults = faults(&["lost_answer:20%"]);
        let injected = (0..10_000).filter(|_| faults.next_fault().is_some()).count();
        assert!((1_850..2_150).contains(&injected), "{injected}");
    }

    #[test]
    fn invalid_fault_is_refused_with_the_reason() {
        let refused = |text: &str| text.parse::<Fault>().unwrap_err();
        assert_eq!(refused("boom"), InvalidFault::FaultKind("boom".to_owned()));
        assert_eq!(refused("error:0"), InvalidFault::Times);
        assert_eq!(refused("error:101%"), InvalidFault::Share);
        assert_eq!(refused("error:often"), InvalidFault::Bound("often".to_owned()));
    }

    #[test]
    fn names_match_the_json_values() {
        for kind in FaultKind::VARIANTS {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.into_str());
        }
    }
}
