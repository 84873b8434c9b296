//! The names of streams. They last for ever.
//!
//! The stream of an object with a UUID is `<category>-<uuid>`. A stream whose id a caller chose is
//! `<category>-<tenant>.<id>`, escaped so that the name can be parsed. The file of each category names its streams.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use crate::Category;
use crate::ids::Tenant;

/// The longest stream name, in bytes: a category and two escaped text ids fit.
pub const STREAM_NAME_MAX: usize = 4096;

/// The name of a stream.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct StreamId(pub(crate) Arc<str>);

/// The text is not a valid stream name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a stream name (1 to {STREAM_NAME_MAX} bytes, no control characters): {0:?}")]
pub struct InvalidStreamName(pub String);

impl StreamId {
    /// The stream of an object that a caller named; `id` must be escaped already.
    pub(crate) fn of_tenant(category: Category, tenant: &Tenant, id: &str) -> Self {
        Self(format!("{}{}.{id}", category.stream_prefix(), escape(tenant.as_str())).into())
    }

    /// The stream of an object with a UUID.
    pub(crate) fn of_uuid(category: Category, id: Uuid) -> Self {
        Self(format!("{}{id}", category.stream_prefix()).into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The category; none if the stream belongs to another program.
    pub fn category(&self) -> Option<Category> {
        let (name, _) = self.0.split_once('-')?;
        Category::find(name)
    }

    /// Whether the name is reserved for this program, whether or not this build knows the category. Other
    /// programs may keep streams with other names in the same log; their events are ignored.
    pub fn is_reserved(&self) -> bool {
        let category = self.0.split_once('-').map_or(&*self.0, |(category, _)| category);
        Category::RESERVED.contains(&category)
    }

    /// The id in the name, if the stream is of this category.
    pub(crate) fn id_in<T: FromStr>(&self, category: Category) -> Option<T> {
        self.0.strip_prefix(category.stream_prefix())?.parse().ok()
    }
}

/// Keeps letters, digits, `_` and `-`; replaces every other byte by `~` and two hexadecimal digits.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("~{byte:02x}"));
        }
    }
    escaped
}

/// The inverse of [`escape`]; none if the text is not an escaped one.
pub fn unescape(escaped: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'~' {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok().filter(|text| escape(text) == escaped)
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for StreamId {
    type Err = InvalidStreamName;

    fn from_str(text: &str) -> Result<Self, InvalidStreamName> {
        let valid = !text.is_empty() && text.len() <= STREAM_NAME_MAX && !text.chars().any(char::is_control);
        if valid { Ok(Self(text.into())) } else { Err(InvalidStreamName(text.to_owned())) }
    }
}

impl<'de> Deserialize<'de> for StreamId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::{ChallengeId, GameMatchId, SubjectId, WorkerId};

    #[test]
    fn only_own_category_names_are_reserved() {
        let reserved = |name: &str| name.parse::<StreamId>().unwrap().is_reserved();
        assert!(reserved("challenge-1") && reserved("job") && reserved("job-"));
        assert!(!reserved("jobs-1") && !reserved("Job-1") && !reserved("$$job-1") && !reserved("a-job-1"));
    }

    #[test]
    fn worker_prefix_matches_one_tenant_only() {
        let (a, ab): (Tenant, Tenant) = ("a".parse().unwrap(), "a.b".parse().unwrap());
        let worker: WorkerId = "w".parse().unwrap();
        assert!(!StreamId::worker(&ab, &worker).as_str().starts_with(&StreamId::workers_prefix(&a)));
    }

    #[test]
    fn category_is_parsed_from_the_stream_name() {
        let tenant: Tenant = "a.b".parse().unwrap();
        let id = Uuid::from_u128(1);
        for (stream, category, name) in [
            (
                StreamId::player(&tenant, SubjectId(id)),
                Category::Player,
                "player-a~2eb.00000000-0000-0000-0000-000000000001",
            ),
            (
                StreamId::pool(&tenant, &"blitz 3+0".parse().unwrap()),
                Category::Pool,
                "pool-a~2eb.blitz~203~2b0",
            ),
            (
                StreamId::game_match(GameMatchId(id)),
                Category::GameMatch,
                "match_record-00000000-0000-0000-0000-000000000001",
            ),
            (
                StreamId::challenge(ChallengeId(id)),
                Category::Challenge,
                "challenge-00000000-0000-0000-0000-000000000001",
            ),
        ] {
            assert_eq!((stream.as_str(), stream.category()), (name, Some(category)));
        }
    }

    proptest! {
        #[test]
        fn unescape_inverts_escape(text in "\\PC{1,40}") {
            let escaped = escape(&text);
            prop_assert!(!escaped.contains('.'));
            prop_assert_eq!(unescape(&escaped), Some(text));
        }
    }
}
