//! `pool-<tenant>.<key>`: how a pool matches its players.
//!
//! These types and names are the stored form: add optional fields, never change or remove one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::PoolKey;
use crate::registry::events;

/// Whose window decides whether two may meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WindowPolicy {
    /// That of the one who has waited longer.
    LongestWaiting,
    /// Both.
    Both,
}

/// How a pool matches its players. Windows are in rating points to either side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PoolSettings {
    /// The window of someone who has just come.
    pub window: u16,
    /// By how much it widens for every full [`Self::widen_every_seconds`] waited.
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

/// From now on the pool matches like this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PoolConfigured {
    pub pool_key: PoolKey,
    pub settings: PoolSettings,
}

events! {
    /// What can happen to a pool.
    PoolEvent {
        PoolConfigured = 1,
    }
}
