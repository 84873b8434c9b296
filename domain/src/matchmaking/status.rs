//! The public statuses of queue entries, challenges and game matches.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The status of a queue entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EntryStatus {
    Searching,
    /// An opponent was found, and the game is being created. If this fails, the entry searches again.
    Placing,
    Matched,
    Cancelled,
    Expired,
}

/// The status of a challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChallengeStatus {
    /// Also while the game of an accepted challenge is being created: if this fails, it can be accepted again.
    Pending,
    Accepted,
    Declined,
    Cancelled,
    Expired,
}

/// The status of a match of two players.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GameMatchStatus {
    /// The game is being created.
    Placing,
    Playing,
    /// A result was reported.
    Finished,
    /// No result was reported in time.
    Expired,
    /// The game was not created.
    Abandoned,
}
