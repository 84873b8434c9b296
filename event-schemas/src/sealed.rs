//! Texts of people that nobody else's fold needs: stored encrypted with the person's key, so that destroying the key
//! erases them although events are never changed.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{ChallengeId, EntryId};

/// An encrypted text, as base64 of nonce, ciphertext and tag (AES-256-GCM). The vault seals and opens it; here, on the
/// wire and in read models it stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Sealed(String);

impl Sealed {
    /// Of what the vault has made.
    pub fn from_base64(text: String) -> Self {
        Self(text)
    }

    pub fn as_base64(&self) -> &str {
        &self.0
    }
}

/// Where a sealed text stands. It is sealed for this place and opens nowhere else, so that a text copied into another event
/// is not taken for that event's own.
///
/// The words of a place are part of what is stored: those of a field never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// [`ChallengeCreated::message`](crate::challenge::ChallengeCreated::message)
    ChallengeMessage(ChallengeId),
    /// [`PlayerQueued::metadata`](crate::player::PlayerQueued::metadata)
    QueueMetadata(EntryId),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ChallengeMessage(id) => write!(f, "challenge/{id}/message"),
            Self::QueueMetadata(id) => write!(f, "queue_entry/{id}/metadata"),
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn places_are_named_as_they_always_were() {
        let id = Uuid::from_u128(7);
        let named = [Place::ChallengeMessage(ChallengeId(id)), Place::QueueMetadata(EntryId(id))]
            .map(|place| place.to_string());
        assert_eq!(
            named,
            [
                "challenge/00000000-0000-0000-0000-000000000007/message",
                "queue_entry/00000000-0000-0000-0000-000000000007/metadata",
            ]
        );
    }
}
