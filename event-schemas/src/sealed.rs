//! Personal texts that no decision depends on. They are stored encrypted with the person's key: destroying
//! the key erases them although events never change.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{ChallengeId, EntryId, ListId};

/// An encrypted text, as base64 of nonce, ciphertext and tag (AES-256-GCM). The vault seals and opens it; in
/// all other code, on the wire and in read models it stays sealed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Sealed(String);

impl Sealed {
    /// Wraps a text that the vault has sealed.
    pub fn from_base64(text: String) -> Self {
        Self(text)
    }

    pub fn as_base64(&self) -> &str {
        &self.0
    }
}

/// The field that contains a sealed text. The text is bound to this field and opens nowhere else, so that a
/// text copied into another event cannot be mistaken for that event's own.
///
/// The name of a field is part of the stored form and never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SealedField {
    /// [`ChallengeCreated::message`](crate::challenge::ChallengeCreated::message)
    ChallengeMessage(ChallengeId),
    /// [`PlayerQueued::metadata`](crate::player::PlayerQueued::metadata)
    QueueMetadata(EntryId),
    /// [`ListServed::query`](crate::user::ListServed::query)
    ListQuery(ListId),
}

impl fmt::Display for SealedField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ChallengeMessage(id) => write!(f, "challenge/{id}/message"),
            Self::QueueMetadata(id) => write!(f, "queue_entry/{id}/metadata"),
            Self::ListQuery(id) => write!(f, "list/{id}/query"),
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn names_of_sealed_fields_never_change() {
        let id = Uuid::from_u128(7);
        let named = [
            SealedField::ChallengeMessage(ChallengeId(id)),
            SealedField::QueueMetadata(EntryId(id)),
            SealedField::ListQuery(ListId(id)),
        ]
        .map(|field| field.to_string());
        assert_eq!(
            named,
            [
                "challenge/00000000-0000-0000-0000-000000000007/message",
                "queue_entry/00000000-0000-0000-0000-000000000007/metadata",
                "list/00000000-0000-0000-0000-000000000007/query",
            ]
        );
    }
}
