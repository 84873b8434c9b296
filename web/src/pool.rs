//! The settings of a pool, as the write routes and the read routes return them.

use event_schemas::pool::PoolSettings as StoredPoolSettings;
use poem_openapi::Object;
use serde::{Deserialize, Serialize};

use crate::enums::WindowPolicy;

/// The matchmaking settings of a pool. Rating windows are in points to either side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Object, Serialize, Deserialize)]
pub struct PoolSettings {
    /// The rating window of a new queue entry.
    pub window: u16,
    /// The number of points by which the window widens for every full `widen_every_seconds` of waiting.
    pub widen_by: u16,
    pub widen_every_seconds: u32,
    /// The widest window.
    pub window_max: u16,
    pub window_policy: WindowPolicy,
    pub entry_expires_after_seconds: u32,
    /// The rematch cooldown: two players are not paired again with each other before it has passed.
    pub rematch_after_seconds: u32,
    /// The time after which a match without a result expires.
    pub result_expires_after_seconds: u32,
    pub challenge_expires_after_seconds: u32,
}

impl From<StoredPoolSettings> for PoolSettings {
    fn from(stored: StoredPoolSettings) -> Self {
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
