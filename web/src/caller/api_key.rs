//! API keys, configured as hashes and compared in constant time.

use aws_lc_rs::{constant_time, digest};
use event_schemas::ids::{Tenant, UserId};

use super::{Caller, Credential, Roles};

/// A key that may be sent as `X-API-Key`. Only its hash is stored.
#[derive(Clone, Debug)]
pub struct ApiKey {
    id: String,
    sha256: [u8; 32],
    tenant: Tenant,
    user: Option<UserId>,
    roles: Roles,
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
        Ok(Self { id: id.to_owned(), sha256, tenant, user, roles })
    }

    fn caller(&self) -> Caller {
        Caller {
            tenant: self.tenant.clone(),
            user: self.user.clone(),
            roles: self.roles,
            ratings: Default::default(),
            via: Credential::ApiKey(self.id.clone()),
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
