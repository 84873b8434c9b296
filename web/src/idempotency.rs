//! The `Idempotency-Key` header, which makes a command safe to retry.
//!
//! A route takes `#[oai(name = "Idempotency-Key")] key: Header<Option<IdempotencyKey>>` and passes [`idempotency`] to the
//! command, which finds an earlier one in the log.

use std::borrow::Cow;

use aws_lc_rs::digest;
use event_schemas::envelope::{BodyHash, Idempotency};
use event_schemas::ids::uuid_v5;
use poem_openapi::registry::{MetaSchema, MetaSchemaRef};
use poem_openapi::types::{ParseError, ParseFromParameter, ParseResult, ToJSON, Type};
use serde_json::Value;
use uuid::Uuid;

use crate::caller::{Caller, Credential};
use crate::json;
use crate::value::wrapper;

/// The longest key, in characters.
const KEY_MAX: usize = 255;

/// The UUID namespace of all keys. It never changes, because every key in the log depends on it.
const NAMESPACE: Uuid = Uuid::from_u128(0x6d61_7463_6862_5f6f_8b6b_6964_656d_706f);

/// The caller's own id of a request: 1–255 printable ASCII characters, bare or as a quoted string.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(String);

wrapper!(, IdempotencyKey, String, "idempotency key", MetaSchema {
    min_length: Some(1),
    max_length: Some(KEY_MAX),
    // Without surrounding white space, which HTTP removes.
    pattern: Some("^[!-~]([ -~]*[!-~])?$".into()),
    ..MetaSchema::new("string")
});

impl ParseFromParameter for IdempotencyKey {
    fn parse_from_parameter(text: &str) -> ParseResult<Self> {
        let key = unquoted(text.trim());
        let printable = key.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        if (1..=KEY_MAX).contains(&key.len()) && printable {
            Ok(Self(key.into_owned()))
        } else {
            Err(ParseError::custom(format!("must be 1 to {KEY_MAX} printable ASCII characters, as a UUID")))
        }
    }
}

impl ToJSON for IdempotencyKey {
    fn to_json(&self) -> Option<Value> {
        Some(self.0.clone().into())
    }
}

/// `"a\"b"` means `a"b`, as in RFC 8941; a text without quotes, or an empty one in quotes, is unchanged.
fn unquoted(text: &str) -> Cow<'_, str> {
    let inner = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    match inner.filter(|inner| !inner.is_empty()) {
        Some(inner) if inner.contains('\\') => {
            let mut plain = String::with_capacity(inner.len());
            let mut characters = inner.chars();
            while let Some(character) = characters.next() {
                let escaped = if character == '\\' { characters.next() } else { None };
                plain.push(escaped.unwrap_or(character));
            }
            plain.into()
        }
        Some(inner) => inner.into(),
        None => text.into(),
    }
}

/// The idempotency record of a command in the log: a key that is unique per caller and route, and a hash of the request.
///
/// The hash covers the parsed request, so that white space and the order of fields do not matter.
pub fn idempotency(caller: &Caller, route: &str, key: &IdempotencyKey, request: &impl ToJSON) -> Idempotency {
    idempotency_of_bytes(caller, route, key, json::write(request).as_bytes())
}

/// As [`idempotency`] of an array of these items. They are written one at a time: as one value, a large batch would take
/// megabytes of memory for a moment.
pub fn idempotency_of_batch(
    caller: &Caller,
    route: &str,
    key: &IdempotencyKey,
    items: &[impl ToJSON],
) -> Idempotency {
    let mut body = digest::Context::new(&digest::SHA256);
    body.update(b"[");
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            body.update(b",");
        }
        body.update(json::write(item).as_bytes());
    }
    body.update(b"]");
    idempotency_of_digest(caller, route, key, &body.finish())
}

/// As [`idempotency`], for a body that is not JSON.
pub fn idempotency_of_bytes(caller: &Caller, route: &str, key: &IdempotencyKey, body: &[u8]) -> Idempotency {
    idempotency_of_digest(caller, route, key, &digest::digest(&digest::SHA256, body))
}

fn idempotency_of_digest(
    caller: &Caller,
    route: &str,
    key: &IdempotencyKey,
    body: &digest::Digest,
) -> Idempotency {
    let name = match (&caller.user, &caller.via) {
        (Some(user), _) => user.as_str(),
        (None, Credential::ApiKey(id)) => id,
        (None, Credential::Open | Credential::Token) => "",
    };
    // No id contains a NUL, so that different lists of parts give different texts.
    let name = [caller.tenant.as_str(), name, route, &key.0].join("\0");
    let mut hash = [0; 16];
    hash.copy_from_slice(&body.as_ref()[..16]);
    Idempotency { key: uuid_v5(NAMESPACE, name.as_bytes()), body: BodyHash(hash) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::Roles;

    fn caller(tenant: &str, user: &str) -> Caller {
        Caller {
            tenant: tenant.parse().unwrap(),
            user: Some(user.parse().unwrap()),
            roles: Roles::NONE,
            ratings: Default::default(),
            via: Credential::Token,
            expires_at: None,
        }
    }

    fn key(text: &str) -> IdempotencyKey {
        IdempotencyKey::parse_from_parameter(text).unwrap()
    }

    fn json(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn quotes_do_not_change_a_key() {
        assert_eq!(key(r#""abc""#), key("abc"));
        assert_eq!(key(r#""a\"b""#).0, r#"a"b"#);
    }

    #[test]
    fn key_has_1_to_255_printable_ascii_characters() {
        assert!(IdempotencyKey::parse_from_parameter(&"k".repeat(255)).is_ok());
        for refused in ["", "ä", "a\tb", &"k".repeat(256)] {
            assert!(IdempotencyKey::parse_from_parameter(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn white_space_and_field_order_do_not_change_the_hash() {
        let (acme, key) = (caller("acme", "ann"), key("k"));
        let one = idempotency(&acme, "POST /jobs", &key, &json(r#"{"a": 1, "b": [2]}"#));
        let same = idempotency(&acme, "POST /jobs", &key, &json(r#"{"b":[2],"a":1}"#));
        let other = idempotency(&acme, "POST /jobs", &key, &json(r#"{"a": 1, "b": [3]}"#));
        assert_eq!(one, same);
        assert_eq!(one.key, other.key);
        assert_ne!(one.body, other.body);
    }

    #[test]
    fn batch_is_hashed_as_its_array() {
        let (acme, key) = (caller("acme", "ann"), key("k"));
        for items in [vec![], vec![1], vec![1, 2, 3]] {
            let batch = idempotency_of_batch(&acme, "POST /jobs", &key, &items);
            assert_eq!(batch, idempotency(&acme, "POST /jobs", &key, &items));
        }
    }

    #[test]
    fn keys_of_different_callers_and_routes_differ() {
        let body = json("{}");
        let keys: std::collections::HashSet<_> = [
            idempotency(&caller("acme", "ann"), "POST /jobs", &key("k"), &body),
            idempotency(&caller("acme", "bob"), "POST /jobs", &key("k"), &body),
            idempotency(&caller("other", "ann"), "POST /jobs", &key("k"), &body),
            idempotency(&caller("acme", "ann"), "POST /exports", &key("k"), &body),
            idempotency(&caller("acme", "ann"), "POST /jobs", &key("l"), &body),
        ]
        .into_iter()
        .map(|idempotency| idempotency.key)
        .collect();
        assert_eq!(keys.len(), 5);
    }

    #[test]
    fn key_of_a_stored_command_is_stable() {
        let idempotency = idempotency(&caller("acme", "ann"), "POST /jobs", &key("k"), &json("{}"));
        insta::assert_snapshot!(serde_json::to_string(&idempotency).unwrap());
    }
}
