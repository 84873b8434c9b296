//! Paged lists: `limit`, an opaque `cursor`, and `{items, next_cursor}`.
//!
//! A route takes `#[oai(default)] limit: Query<Limit>` and `cursor: Query<Option<Cursor>>`, reads one item more than the
//! limit, and returns [`Page::of`].

use std::borrow::Cow;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use poem_openapi::registry::{MetaSchema, MetaSchemaRef};
use poem_openapi::types::{ParseError, ParseFromParameter, ParseResult, ToJSON, Type};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::problem::Problem;
use crate::value::wrapper;

/// The default number of items in a page.
pub const LIMIT_DEFAULT: usize = 50;

/// The most items in a page.
pub const LIMIT_MAX: usize = 500;

/// The most items in a page: 1–500, 50 by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit(usize);

impl Limit {
    pub fn get(self) -> usize {
        self.0
    }
}

impl Default for Limit {
    fn default() -> Self {
        Self(LIMIT_DEFAULT)
    }
}

wrapper!(, Limit, usize, "limit", MetaSchema {
    minimum: Some(1.0),
    maximum: Some(LIMIT_MAX as f64),
    ..MetaSchema::new_with_format("integer", "int32")
});

impl ParseFromParameter for Limit {
    fn parse_from_parameter(text: &str) -> ParseResult<Self> {
        text.parse()
            .ok()
            .filter(|limit| (1..=LIMIT_MAX).contains(limit) && text.bytes().all(|byte| byte.is_ascii_digit()))
            .map(Self)
            .ok_or_else(|| ParseError::custom(format!("must be a whole number from 1 to {LIMIT_MAX}")))
    }
}

impl ToJSON for Limit {
    fn to_json(&self) -> Option<Value> {
        Some(self.0.into())
    }
}

/// The start of the next page of a list. Opaque to callers; a damaged one, or one of another list, is 400.
///
/// The checksum detects mistakes, not forgery: a query must be limited to the caller's tenant, whatever the cursor is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(String);

/// The first byte of every cursor: the version of its format.
const VERSION: u8 = 1;
const CHECK_BYTES: usize = 6;
const CURSOR_CHARS_MAX: usize = 2048;

wrapper!(, Cursor, String, "cursor", MetaSchema {
    min_length: Some(1),
    max_length: Some(CURSOR_CHARS_MAX),
    pattern: Some("^[A-Za-z0-9_-]+$".into()),
    ..MetaSchema::new("string")
});

impl ParseFromParameter for Cursor {
    fn parse_from_parameter(text: &str) -> ParseResult<Self> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if (1..=CURSOR_CHARS_MAX).contains(&text.len()) && text.bytes().all(plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseError::custom("is not a cursor; use the value of `next_cursor` unchanged"))
        }
    }
}

impl Cursor {
    /// A cursor for the page after `key` in `list`. The list's name contains everything that its order and content depend
    /// on, as in `jobs?status=running`, so that a cursor is not accepted for another list.
    pub fn new(list: &str, key: &impl Serialize) -> Self {
        let key = serde_json::to_vec(key).expect("the key of a list consists of numbers and text");
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&check(list, &key));
        bytes.extend_from_slice(&key);
        Self(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// The key of the last item before the page.
    ///
    /// # Errors
    /// 400 if it is damaged or belongs to another list.
    pub fn key<K: DeserializeOwned>(&self, list: &str) -> Result<K, Problem> {
        self.decode(list).ok_or_else(|| {
            let reason = "belongs to another list or is damaged; start again without a cursor";
            Problem::invalid("cursor", reason)
        })
    }

    fn decode<K: DeserializeOwned>(&self, list: &str) -> Option<K> {
        let bytes = URL_SAFE_NO_PAD.decode(&self.0).ok()?;
        let (head, key) = bytes.split_at_checked(1 + CHECK_BYTES)?;
        if head[0] != VERSION || head[1..] != check(list, key) {
            return None;
        }
        serde_json::from_slice(key).ok()
    }
}

fn check(list: &str, key: &[u8]) -> [u8; CHECK_BYTES] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&(list.len() as u64).to_le_bytes());
    context.update(list.as_bytes());
    context.update(key);
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&context.finish().as_ref()[..CHECK_BYTES]);
    check
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Page_{T}")]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Send it as `cursor` for the next page; null at the end of the list.
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// A page from up to `limit` + 1 items, the last of which only shows that there are more. `key` returns the sort key
    /// of an item.
    pub fn of<K: Serialize>(mut items: Vec<T>, limit: Limit, list: &str, key: impl Fn(&T) -> K) -> Self {
        let more = items.len() > limit.get();
        items.truncate(limit.get());
        let last = items.last().filter(|_| more);
        let next_cursor = last.map(|last| Cursor::new(list, &key(last)).0);
        Self { items, next_cursor }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_outside_1_to_500_is_refused() {
        for (text, limit) in
            [("1", Some(1)), ("500", Some(500)), ("0", None), ("501", None), ("+5", None), ("", None)]
        {
            assert_eq!(Limit::parse_from_parameter(text).ok().map(Limit::get), limit, "{text}");
        }
        assert_eq!(Limit::default().get(), 50);
    }

    #[test]
    fn cursor_decodes_to_its_key() {
        let cursor = Cursor::new("jobs", &(7, "b"));
        assert_eq!(cursor.key::<(u64, String)>("jobs").unwrap(), (7, "b".into()));
        assert!(Cursor::parse_from_parameter(&cursor).is_ok());
    }

    #[test]
    fn cursor_of_another_list_is_refused() {
        let problem = Cursor::new("jobs", &7).key::<u64>("matches").unwrap_err();
        assert_eq!(problem.errors[0].field, "cursor");
    }

    #[test]
    fn cursor_with_a_changed_character_is_refused() {
        let Cursor(text) = Cursor::new("jobs", &12345);
        for at in 0..text.len() {
            let mut damaged = text.clone().into_bytes();
            damaged[at] = if damaged[at] == b'A' { b'B' } else { b'A' };
            let damaged = Cursor(String::from_utf8(damaged).unwrap());
            assert!(damaged.key::<u64>("jobs").is_err(), "{at}");
        }
        assert!(Cursor(text[..4].to_owned()).key::<u64>("jobs").is_err());
    }

    #[test]
    fn last_page_has_no_cursor() {
        let limit = Limit(2);
        let page = Page::of(vec![1, 2], limit, "numbers", |n| *n);
        assert_eq!((page.items, page.next_cursor), (vec![1, 2], None));
        let page = Page::of(vec![1, 2, 3], limit, "numbers", |n| *n);
        assert_eq!(page.items, [1, 2]);
        assert_eq!(Cursor(page.next_cursor.unwrap()).key::<i32>("numbers").unwrap(), 2);
    }
}
