//! `pool-<tenant>.<key>`: how a pool pairs its players.
//!
//! These types and names are the stored form: add optional fields, never change or remove one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{PoolKey, Tenant};
use crate::registry::events;
use crate::stream::{Category, StreamId, escape};

/// The rule that decides whose rating window must cover the distance of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WindowPolicy {
    /// The window of the player who has waited longer.
    LongestWaiting,
    /// The windows of both players.
    Both,
}

/// The matchmaking settings of a pool. Rating windows are in points to either side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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

/// The pool's settings from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PoolConfigured {
    pub pool_key: PoolKey,
    pub settings: PoolSettings,
}

impl StreamId {
    pub fn pool(tenant: &Tenant, key: &PoolKey) -> Self {
        Self::of_tenant(Category::Pool, tenant, &escape(key.as_str()))
    }
}

events! {
    /// The events of a pool.
    PoolEvent {
        PoolConfigured = 1,
    }
}
