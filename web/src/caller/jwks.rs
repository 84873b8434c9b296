//! The keys of an identity provider, which change while the server runs (JWKS, RFC 7517).
//!
//! The server fetches the set, and [`Auth::set_jwks`](super::Auth::set_jwks) replaces the keys. A token with a key id that
//! is not in the set asks for a new one, and waits for it a moment: the provider may have changed its keys.

use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::token::Key;

/// The longest time that a token waits for a new set.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// The shortest time between two sets that tokens ask for, so that invented key ids cost the provider little.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// The most keys of a set.
const KEYS_MAX: usize = 100;

/// The response is not a usable set of keys.
#[derive(Debug, thiserror::Error)]
pub enum InvalidJwks {
    #[error("it is not a JSON Web Key Set: {0}")]
    Json(#[from] serde_json::Error),
    #[error("it contains no key for RS256, ES256 or EdDSA; shared secrets are not accepted from a URL")]
    NoKey,
}

/// The public keys of a set.
#[derive(Debug)]
pub struct Jwks(Vec<Key>);

impl Jwks {
    /// Parses a set. Keys of other kinds and for other uses are left out.
    ///
    /// # Errors
    /// It is not a set, or none of its keys can be used.
    pub fn parse(text: &[u8]) -> Result<Self, InvalidJwks> {
        let set: JwkSet = serde_json::from_slice(text)?;
        let keys: Vec<Key> = set.keys.iter().filter_map(key).take(KEYS_MAX).collect();
        if keys.is_empty() { Err(InvalidJwks::NoKey) } else { Ok(Self(keys)) }
    }
}

/// A key and the one algorithm that it is used with.
fn key(jwk: &Jwk) -> Option<Key> {
    if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
        return None;
    }
    let (algorithm, name) = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        _ => return None,
    };
    if jwk.common.key_algorithm.is_some_and(|given| given != name) {
        return None;
    }
    let decoding = DecodingKey::from_jwk(jwk).ok()?;
    Some(Key { id: jwk.common.key_id.clone(), algorithm, decoding })
}

/// The current set, and who waits for the next.
#[derive(Debug)]
pub(super) struct CurrentJwks {
    keys: RwLock<Vec<Key>>,
    /// The time of the last attempt to fetch the set.
    fetched: watch::Sender<Option<Instant>>,
    wanted: Notify,
}

impl Default for CurrentJwks {
    fn default() -> Self {
        Self { keys: RwLock::default(), fetched: watch::Sender::new(None), wanted: Notify::new() }
    }
}

impl CurrentJwks {
    pub(super) fn keys(&self) -> std::sync::RwLockReadGuard<'_, Vec<Key>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends an attempt to fetch the set; without a set, the previous one stays valid.
    pub(super) fn set(&self, jwks: Option<Jwks>) {
        if let Some(Jwks(keys)) = jwks {
            *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        }
        self.fetched.send_replace(Some(Instant::now()));
    }

    pub(super) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Asks for a new set if the token names a key that is not in this one, and waits for it.
    pub(super) async fn prepare(&self, token: &str) {
        let Ok(header) = jsonwebtoken::decode_header(token) else { return };
        let is_known = |id: &String| self.keys().iter().any(|key| key.id.as_ref() == Some(id));
        if header.kid.as_ref().is_none_or(is_known) && !self.keys().is_empty() {
            return;
        }
        let mut fetched = self.fetched.subscribe();
        let is_recent = fetched.borrow_and_update().is_some_and(|at| at.elapsed() < ASK_EVERY);
        if is_recent {
            return;
        }
        self.wanted.notify_one();
        // Without an answer the token is checked against the keys that are known.
        let _ = tokio::time::timeout(WAIT_MAX, fetched.changed()).await;
    }
}

#[cfg(test)]
#[path = "jwks_tests.rs"]
mod tests;
