//! JSON Web Tokens: verification, and minting for the command line.
//!
//! The library checks the signature. The claims are checked here, against a time that is passed in, because the library
//! reads the system clock and treats a mistyped `nbf` as absent.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use event_schemas::ids::Tenant;
use event_schemas::time::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::Number;

use crate::json;

use super::{Caller, Credential, DEFAULT_TENANT, Role, Roles};

/// The shortest shared secret: as long as the output of the hash.
pub const SECRET_BYTES_MIN: usize = 32;

/// The tolerated difference between the clocks of issuer and server, in seconds.
const LEEWAY_SECONDS: f64 = 60.0;

/// A longer token is refused before it is parsed.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// The default issuer and audience of tokens.
const DEFAULT_NAME: &str = "matchbook";

/// A key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error(
        "the token secret has {0} bytes; it needs {SECRET_BYTES_MIN} or more, as `openssl rand -hex 32` prints"
    )]
    ShortSecret(usize),
    #[error(
        "the key is not a PEM public key of a supported kind: RSA (RS256), P-256 (ES256) or Ed25519 (EdDSA)"
    )]
    UnknownPem,
    #[error("the token cannot be signed: {0}")]
    Signing(jsonwebtoken::errors::Error),
}

/// Why a token is refused. For the server's log only.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadToken {
    #[error("it is longer than {TOKEN_BYTES_MAX} bytes")]
    TooLong,
    #[error("it is malformed: {0}")]
    Malformed(jsonwebtoken::errors::Error),
    #[error("it gives a member twice: {0}")]
    Ambiguous(String),
    #[error("it has critical extensions, and none is supported")]
    CriticalExtension,
    #[error("no configured key is for its algorithm")]
    NoKey,
    #[error("its signature matches no configured key")]
    Signature,
    #[error("it has expired")]
    Expired,
    #[error("it is not valid yet")]
    NotYetValid,
    #[error("it was issued in the future")]
    IssuedInTheFuture,
    #[error("unexpected issuer")]
    Issuer,
    #[error("unexpected audience")]
    Audience,
    #[error("invalid subject or tenant: {0}")]
    Name(event_schemas::ids::InvalidId),
    #[error("a rating is not a number")]
    Rating,
}

/// One audience or several, as the standard allows for `aud`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Audience {
    fn contains(&self, name: &str) -> bool {
        match self {
            Self::One(one) => one == name,
            Self::Many(many) => many.iter().any(|one| one == name),
        }
    }
}

/// The claims of a token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Claims {
    sub: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    /// A token without roles has no rights.
    #[serde(default)]
    roles: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    ratings: BTreeMap<String, f64>,
    iss: String,
    aud: Audience,
    /// Seconds since 1970. A text instead of a number does not parse, and the token is refused.
    exp: Number,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<Number>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    iat: Option<Number>,
}

impl Claims {
    /// Claims for `user`, valid from `now` for `ttl`, issued by and for `matchbook`.
    pub fn new(tenant: &Tenant, user: &str, roles: Roles, now: Timestamp, ttl: std::time::Duration) -> Self {
        let whole_seconds = |at: Timestamp| Number::from(at.micros().div_euclid(1_000_000));
        Self {
            sub: user.to_owned(),
            tenant: Some(tenant.to_string()),
            roles: Some(roles.iter().map(|role| role.to_string()).collect()),
            ratings: BTreeMap::new(),
            iss: DEFAULT_NAME.to_owned(),
            aud: Audience::One(DEFAULT_NAME.to_owned()),
            exp: whole_seconds(now.after(ttl)),
            nbf: None,
            iat: Some(whole_seconds(now)),
        }
    }

    /// Adds the user's rating in a pool.
    #[must_use]
    pub fn rating(mut self, pool: &str, rating: f64) -> Self {
        self.ratings.insert(pool.to_owned(), rating);
        self
    }

    fn check(&self, keys: &Keys, now: Timestamp) -> Result<(), BadToken> {
        let now = seconds(now);
        let has_passed = |at: &Option<Number>| {
            at.as_ref().is_none_or(|at| at.as_f64().is_some_and(|at| at <= now + LEEWAY_SECONDS))
        };
        if !self.exp.as_f64().is_some_and(|exp| now < exp + LEEWAY_SECONDS) {
            return Err(BadToken::Expired);
        }
        if !has_passed(&self.nbf) {
            return Err(BadToken::NotYetValid);
        }
        if !has_passed(&self.iat) {
            return Err(BadToken::IssuedInTheFuture);
        }
        if self.iss != keys.issuer {
            return Err(BadToken::Issuer);
        }
        if !self.aud.contains(&keys.audience) {
            return Err(BadToken::Audience);
        }
        Ok(())
    }

    fn into_caller(self) -> Result<Caller, BadToken> {
        if self.ratings.values().any(|rating| !rating.is_finite()) {
            return Err(BadToken::Rating);
        }
        // An unknown role is ignored; the others still count. Without any, the caller has no rights.
        let roles = self.roles.iter().flatten().filter_map(|role| role.parse::<Role>().ok()).collect();
        let tenant = self.tenant.as_deref().unwrap_or(DEFAULT_TENANT);
        Ok(Caller {
            tenant: tenant.parse().map_err(BadToken::Name)?,
            user: Some(self.sub.parse().map_err(BadToken::Name)?),
            roles,
            ratings: self.ratings,
            via: Credential::Token,
            expires_at: self.exp.as_f64().map(timestamp),
        })
    }
}

fn seconds(at: Timestamp) -> f64 {
    at.seconds_since(Timestamp::EPOCH)
}

fn timestamp(seconds: f64) -> Timestamp {
    Timestamp::from_micros((seconds * 1e6) as i64)
}

#[derive(Debug)]
pub(super) struct Key {
    /// The `kid` of a key of a JWKS; a token that names a key is verified with this one.
    pub(super) id: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) decoding: DecodingKey,
}

impl Key {
    fn fits(&self, header: &Header) -> bool {
        let is_named = match (&self.id, &header.kid) {
            (Some(id), Some(named)) => id == named,
            _ => true,
        };
        self.algorithm == header.alg && is_named
    }
}

/// The keys that tokens are verified with, and the required issuer and audience.
///
/// Each key is used with one algorithm only: a public key is never used as a shared secret.
#[derive(Debug)]
pub struct Keys {
    keys: Vec<Key>,
    issuer: String,
    audience: String,
}

impl Default for Keys {
    fn default() -> Self {
        Self { keys: Vec::new(), issuer: DEFAULT_NAME.to_owned(), audience: DEFAULT_NAME.to_owned() }
    }
}

impl Keys {
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Adds a shared secret, for HS256.
    ///
    /// # Errors
    /// If it is shorter than [`SECRET_BYTES_MIN`].
    pub fn secret(mut self, secret: &[u8]) -> Result<Self, KeyError> {
        check_secret(secret)?;
        self.keys.push(Key {
            id: None,
            algorithm: Algorithm::HS256,
            decoding: DecodingKey::from_secret(secret),
        });
        Ok(self)
    }

    /// Adds a public key as PEM: RSA for RS256, P-256 for ES256, Ed25519 for EdDSA.
    ///
    /// # Errors
    /// If it is none of these.
    pub fn pem(mut self, pem: &[u8]) -> Result<Self, KeyError> {
        let kinds = [
            (Algorithm::EdDSA, DecodingKey::from_ed_pem(pem)),
            (Algorithm::ES256, DecodingKey::from_ec_pem(pem)),
            (Algorithm::RS256, DecodingKey::from_rsa_pem(pem)),
        ];
        let (algorithm, decoding) = kinds
            .into_iter()
            .find_map(|(algorithm, key)| key.ok().map(|key| (algorithm, key)))
            .ok_or(KeyError::UnknownPem)?;
        self.keys.push(Key { id: None, algorithm, decoding });
        Ok(self)
    }

    #[must_use]
    pub fn issuer(self, issuer: impl Into<String>) -> Self {
        Self { issuer: issuer.into(), ..self }
    }

    #[must_use]
    pub fn audience(self, audience: impl Into<String>) -> Self {
        Self { audience: audience.into(), ..self }
    }

    /// Verifies a token with one of these keys, or one of the `further`.
    pub(super) fn verify(&self, token: &str, further: &[Key], now: Timestamp) -> Result<Caller, BadToken> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(BadToken::TooLong);
        }
        // The library would take one of two members of the same name.
        for part in token.split('.').take(2) {
            let json = URL_SAFE_NO_PAD.decode(part).unwrap_or_default();
            json::check_members(&json).map_err(BadToken::Ambiguous)?;
        }
        let header = jsonwebtoken::decode_header(token).map_err(BadToken::Malformed)?;
        if header.crit.is_some() {
            return Err(BadToken::CriticalExtension);
        }
        let mut candidates = self.keys.iter().chain(further).filter(|key| key.fits(&header)).peekable();
        if candidates.peek().is_none() {
            return Err(BadToken::NoKey);
        }
        for key in candidates {
            let mut signature_only = Validation::new(key.algorithm);
            signature_only.validate_exp = false;
            signature_only.validate_aud = false;
            signature_only.required_spec_claims.clear();
            match jsonwebtoken::decode::<Claims>(token, &key.decoding, &signature_only) {
                Ok(read) => {
                    read.claims.check(self, now)?;
                    return read.claims.into_caller();
                }
                Err(error) if is_signature(&error) => {}
                Err(error) => return Err(BadToken::Malformed(error)),
            }
        }
        Err(BadToken::Signature)
    }
}

fn is_signature(error: &jsonwebtoken::errors::Error) -> bool {
    matches!(error.kind(), jsonwebtoken::errors::ErrorKind::InvalidSignature)
}

fn check_secret(secret: &[u8]) -> Result<(), KeyError> {
    if secret.len() < SECRET_BYTES_MIN { Err(KeyError::ShortSecret(secret.len())) } else { Ok(()) }
}

/// Mints a token, signed with the shared secret (HS256).
///
/// # Errors
/// If the secret is too short.
pub fn mint(secret: &[u8], claims: &Claims) -> Result<String, KeyError> {
    check_secret(secret)?;
    let header = Header::new(Algorithm::HS256);
    jsonwebtoken::encode(&header, claims, &EncodingKey::from_secret(secret)).map_err(KeyError::Signing)
}

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;
