//! Texts of people that nobody else's fold needs: stored encrypted with the person's key, so that destroying the key
//! erases them although events are never changed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
