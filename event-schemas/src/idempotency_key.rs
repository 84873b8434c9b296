//! `idempotency_key-<uuid>`: the answers of commands with an idempotency key that no other event carries, such as a
//! command that changed nothing. Key and body hash are in the metadata, as in every event of a command with a key.
//!
//! These types and names are the stored form: add optional fields, never change or remove one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::registry::events;
use crate::stream::{Category, StreamId};

/// A command was answered. The position of this event is the position in the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CommandAnswered {
    /// The parts of the answer that follow neither from the request nor from the events of other streams; their form
    /// belongs to the command's route. They contain nothing about persons.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Value>,
}

impl StreamId {
    /// The stream of an idempotency key, as [`Idempotency`](crate::envelope::Idempotency) contains it.
    pub fn idempotency_key(key: Uuid) -> Self {
        Self::of_uuid(Category::IdempotencyKey, key)
    }
}

events! {
    /// The events of an idempotency key.
    IdempotencyKeyEvent {
        CommandAnswered = 1,
    }
}
