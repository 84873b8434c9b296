//! API keys, configured as hashes and compared in constant time.

use std::sync::Arc;

use aws_lc_rs::{constant_time, digest, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use event_schemas::ids::{Tenant, UserId};

use super::{Caller, Credential, Roles};
use crate::shutdown::{self, Shutdown, Trigger};

/// A key that may be sent as `X-API-Key`. Only its hash is stored.
#[derive(Clone, Debug)]
pub struct ApiKey {
    id: String,
    sha256: [u8; 32],
    tenant: Tenant,
    user: Option<UserId>,
    roles: Roles,
    /// Ends the streams of the key when it is revoked, which drops it.
    revoke: Arc<Trigger>,
    revoked: Shutdown,
}

/// The configured hash of an API key is not a SHA-256.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the sha256 of the API key `{id}` must be 64 hexadecimal digits, as `printf %s \"$KEY\" | sha256sum` prints"
)]
pub struct InvalidApiKeyHash {
    pub id: String,
}

/// The hash of a key, in the form of the configuration.
pub fn hash_of(key: &str) -> String {
    let digest = digest::digest(&digest::SHA256, key.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A new key of 256 random bits; none if the system provides no random bytes. The prefix lets scanners for secrets find it.
pub fn generate() -> Option<String> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).ok()?;
    Some(format!("matchbook_{}", URL_SAFE_NO_PAD.encode(bytes)))
}

impl ApiKey {
    /// `sha256` is the key's SHA-256 in hexadecimal; `id` names the key in logs.
    ///
    /// # Errors
    /// If `sha256` is not 64 hexadecimal digits.
    pub fn new(
        id: &str,
        sha256: &str,
        tenant: Tenant,
        user: Option<UserId>,
        roles: Roles,
    ) -> Result<Self, InvalidApiKeyHash> {
        let sha256 = from_hex(sha256).ok_or_else(|| InvalidApiKeyHash { id: id.to_owned() })?;
        let (revoke, revoked) = shutdown::channel();
        Ok(Self { id: id.to_owned(), sha256, tenant, user, roles, revoke: Arc::new(revoke), revoked })
    }

    /// The same key, read again: the streams that it has opened continue.
    pub(super) fn continuing(self, before: &[Self]) -> Self {
        let is_same = |old: &&Self| {
            (&old.id, old.sha256, &old.tenant, &old.user, old.roles)
                == (&self.id, self.sha256, &self.tenant, &self.user, self.roles)
        };
        match before.iter().find(is_same) {
            Some(old) => Self { revoke: old.revoke.clone(), revoked: old.revoked.clone(), ..self },
            None => self,
        }
    }

    /// Requested when the key is revoked.
    pub(super) fn revoked(&self) -> Shutdown {
        self.revoked.clone()
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    fn caller(&self) -> Caller {
        Caller {
            tenant: self.tenant.clone(),
            user: self.user.clone(),
            roles: self.roles,
            ratings: Default::default(),
            via: Credential::ApiKey(self.id.clone()),
            expires_at: None,
        }
    }
}

/// The caller of a presented key. All keys are compared, so that the time does not depend on which one matches.
pub(super) fn find(keys: &[ApiKey], presented: &str) -> Option<Caller> {
    let digest = digest::digest(&digest::SHA256, presented.as_bytes());
    let matches = |key: &ApiKey| constant_time::verify_slices_are_equal(&key.sha256, digest.as_ref()).is_ok();
    let found = keys.iter().fold(None, |found, key| if matches(key) { Some(key) } else { found });
    found.map(ApiKey::caller)
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |at: u8| (at as char).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::Role;

    fn key(id: &str, text: &str) -> ApiKey {
        ApiKey::new(id, &hash_of(text), "acme".parse().unwrap(), None, Role::Service.into()).unwrap()
    }

    #[test]
    fn key_is_found_by_its_text_only() {
        let keys = [key("a", "first"), key("b", "second")];
        assert_eq!(find(&keys, "second").unwrap().via, Credential::ApiKey("b".into()));
        assert_eq!(find(&keys, &hash_of("second")), None);
        assert_eq!(find(&keys, ""), None);
    }

    #[test]
    fn invalid_hash_is_refused_with_the_id_of_its_key() {
        let refused = ApiKey::new("ci", "abc", "acme".parse().unwrap(), None, Roles::NONE).unwrap_err();
        assert_eq!(refused.id, "ci");
    }
}
