//! How a pool matches its players, as both sides answer it.

use event_schemas::pool::PoolSettings as Stored;
use poem_openapi::Object;
use serde::{Deserialize, Serialize};

use crate::vocabulary::WindowPolicy;

/// How a pool matches its players. Windows are in rating points to either side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Object, Serialize, Deserialize)]
pub struct PoolSettings {
    /// The window of someone who has just come.
    pub window: u16,
    /// By how much it widens for every full `widen_every_seconds` waited.
    pub widen_by: u16,
    pub widen_every_seconds: u32,
    /// The window never grows beyond this.
    pub window_max: u16,
    pub window_policy: WindowPolicy,
    pub entry_expires_after_seconds: u32,
    /// How long those who met last must wait before they meet again.
    pub rematch_after_seconds: u32,
    /// After how long a match without a result ends by itself.
    pub result_expires_after_seconds: u32,
    pub challenge_expires_after_seconds: u32,
}

impl From<Stored> for PoolSettings {
    fn from(stored: Stored) -> Self {
        Self {
            window: stored.window,
            widen_by: stored.widen_by,
            widen_every_seconds: stored.widen_every_seconds,
            window_max: stored.window_max,
            window_policy: stored.window_policy.into(),
            entry_expires_after_seconds: stored.entry_expires_after_seconds,
            rematch_after_seconds: stored.rematch_after_seconds,
            result_expires_after_seconds: stored.result_expires_after_seconds,
            challenge_expires_after_seconds: stored.challenge_expires_after_seconds,
        }
    }
}
