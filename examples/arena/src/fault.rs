//! What the game server does wrong when it is told to, so that a caller's way out of it can be seen.

use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// The most faults that stand at once.
const FAULTS_MAX: usize = 32;

/// A way to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// 422: it understood, and will not make this game.
    Refuse,
    /// 500, and no game.
    Error,
    /// No answer, and no game.
    Hang,
    /// A game, but the answer takes its time.
    Slow,
    /// A game, but the connection breaks before the answer.
    LostAnswer,
    /// 201 with something that names no game, and no game.
    Garbage,
    /// The connection breaks at once, and no game.
    Down,
}

impl Kind {
    pub const ALL: [Self; 7] =
        [Self::Refuse, Self::Error, Self::Hang, Self::Slow, Self::LostAnswer, Self::Garbage, Self::Down];

    pub fn name(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Error => "error",
            Self::Hang => "hang",
            Self::Slow => "slow",
            Self::LostAnswer => "lost_answer",
            Self::Garbage => "garbage",
            Self::Down => "down",
        }
    }
}

/// A fault, and which calls it strikes: every one, unless it says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    pub kind: Kind,
    /// It is gone after so many calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
    /// Of the calls, this share is struck: above 0, at most 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
}

/// Why something is no fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAFault {
    #[error("{0:?} is no kind of fault; there are refuse, error, hang, slow, lost_answer, garbage and down")]
    Kind(String),
    #[error("times is at least 1")]
    Times,
    #[error("share is above 0 and at most 1 (or 100 %)")]
    Share,
    #[error("{0:?} is neither a number of times (error:3) nor a share (error:20%)")]
    Bound(String),
    #[error("{FAULTS_MAX} faults stand already; DELETE /faults takes them away")]
    TooMany,
}

impl Fault {
    pub fn every(kind: Kind) -> Self {
        Self { kind, times: None, share: None }
    }

    fn check(self) -> Result<Self, NotAFault> {
        if self.times == Some(0) {
            return Err(NotAFault::Times);
        }
        let is_share = |share: f64| share > 0.0 && share <= 1.0;
        if self.share.is_some_and(|share| !is_share(share)) { Err(NotAFault::Share) } else { Ok(self) }
    }
}

impl FromStr for Fault {
    type Err = NotAFault;

    /// `error`, `error:3` (three times) or `error:20%` (a fifth of the calls).
    fn from_str(text: &str) -> Result<Self, NotAFault> {
        let (name, bound) = text.split_once(':').map_or((text, None), |(name, bound)| (name, Some(bound)));
        let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name);
        let mut fault = Self::every(kind.ok_or_else(|| NotAFault::Kind(name.to_owned()))?);
        if let Some(bound) = bound {
            let wrong = || NotAFault::Bound(bound.to_owned());
            match bound.strip_suffix('%') {
                Some(percent) => fault.share = Some(percent.parse::<f64>().map_err(|_| wrong())? / 100.0),
                None => fault.times = Some(bound.parse().map_err(|_| wrong())?),
            }
        }
        fault.check()
    }
}

/// The faults that stand. The first one that strikes a call decides.
#[derive(Debug)]
pub struct Faults {
    standing: Mutex<Standing>,
}

#[derive(Debug)]
struct Standing {
    faults: Vec<Fault>,
    chance: fastrand::Rng,
}

impl Faults {
    pub fn new(chance: fastrand::Rng) -> Self {
        Self { standing: Mutex::new(Standing { faults: Vec::new(), chance }) }
    }

    /// # Errors
    /// [`NotAFault`].
    pub fn add(&self, fault: Fault) -> Result<(), NotAFault> {
        let fault = fault.check()?;
        let mut standing = self.lock();
        if standing.faults.len() >= FAULTS_MAX {
            return Err(NotAFault::TooMany);
        }
        standing.faults.push(fault);
        Ok(())
    }

    pub fn clear(&self) {
        self.lock().faults.clear();
    }

    pub fn all(&self) -> Vec<Fault> {
        self.lock().faults.clone()
    }

    /// What is to go wrong with the next call, if anything.
    pub fn strike(&self) -> Option<Kind> {
        let Standing { faults, chance } = &mut *self.lock();
        let index = faults.iter().position(|fault| fault.share.is_none_or(|share| chance.f64() < share))?;
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

    fn lock(&self) -> MutexGuard<'_, Standing> {
        // Whoever panicked in here left a list and a generator, both whole.
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn a_fault_strikes_every_call_until_it_is_taken_away() {
        let faults = faults(&["hang"]);
        assert_eq!([faults.strike(), faults.strike()], [Some(Kind::Hang); 2]);
        faults.clear();
        assert_eq!(faults.strike(), None);
    }

    #[test]
    fn a_counted_fault_is_gone_after_so_many_calls_and_the_next_one_strikes() {
        let faults = faults(&["error:2", "down:1"]);
        let struck: Vec<Option<Kind>> = (0..4).map(|_| faults.strike()).collect();
        assert_eq!(struck, [Some(Kind::Error), Some(Kind::Error), Some(Kind::Down), None]);
        assert_eq!(faults.all(), []);
    }

    #[test]
    fn a_share_of_the_calls_is_struck() {
        let faults = faults(&["lost_answer:20%"]);
        let struck = (0..10_000).filter(|_| faults.strike().is_some()).count();
        assert!((1_850..2_150).contains(&struck), "{struck}");
    }

    #[test]
    fn what_is_no_fault_says_why() {
        let refused = |text: &str| text.parse::<Fault>().unwrap_err();
        assert_eq!(refused("boom"), NotAFault::Kind("boom".to_owned()));
        assert_eq!(refused("error:0"), NotAFault::Times);
        assert_eq!(refused("error:101%"), NotAFault::Share);
        assert_eq!(refused("error:often"), NotAFault::Bound("often".to_owned()));
    }

    #[test]
    fn the_names_are_those_on_the_wire() {
        for kind in Kind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
    }
}
