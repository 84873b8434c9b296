//! The contract's types as poem-openapi types, so that request and response objects can hold them as they are.
//!
//! | in an object | reads and writes |
//! |---|---|
//! | [`At`] | an instant, RFC 3339 |
//! | [`Pos`] | a position of the log |
//! | [`Uid<JobId>`](Uid) | an id that is a UUID |
//! | [`Text<MatchId>`](Text) | an id of 1–128 printable characters |
//! | [`Key<ProductId>`](Key) | the same, where an integer means its decimal text |
//! | [`Unit`] | a score, 0–1 |
//!
//! All deref to what they hold, and come `.from` it.

mod key;

use std::borrow::Cow;
use std::fmt::Display;
use std::str::FromStr;

use event_schemas::ids::{Position, Score, TEXT_ID_MAX};
use event_schemas::time::Timestamp;
use poem::http::HeaderValue;
use poem_openapi::registry::{MetaSchema, MetaSchemaRef};
use poem_openapi::types::{
    ParseError, ParseFromJSON, ParseFromParameter, ParseResult, ToHeader, ToJSON, Type,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use key::Key;

/// What all text ids look like: no control characters, in ECMA 262's way of writing it.
pub(crate) const PRINTABLE: &str = r"^[^\u0000-\u001f\u007f-\u009f]+$";

/// The boilerplate of a poem-openapi type that wraps one value and has an inline schema.
macro_rules! wrapper {
    ($($generics:ident)?, $wrapper:ty, $held:ty, $name:literal, $schema:expr) => {
        impl<$($generics: Send + Sync)?> Type for $wrapper {
            const IS_REQUIRED: bool = true;

            type RawValueType = Self;
            type RawElementValueType = Self;

            fn name() -> Cow<'static, str> {
                $name.into()
            }

            fn schema_ref() -> MetaSchemaRef {
                MetaSchemaRef::Inline(Box::new($schema))
            }

            fn as_raw_value(&self) -> Option<&Self> {
                Some(self)
            }

            fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
                Box::new(std::iter::once(self))
            }
        }

        impl<$($generics)?> std::ops::Deref for $wrapper {
            type Target = $held;

            fn deref(&self) -> &$held {
                &self.0
            }
        }

        impl<$($generics)?> From<$held> for $wrapper {
            fn from(held: $held) -> Self {
                Self(held)
            }
        }
    };
}
pub(crate) use wrapper;

/// An instant, written with microseconds and `Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct At(pub Timestamp);

wrapper!(, At, Timestamp, "instant", MetaSchema::new_with_format("string", "date-time"));

impl ParseFromJSON for At {
    fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
        match value.unwrap_or_default() {
            Value::String(text) => Self::parse_from_parameter(&text),
            other => Err(ParseError::expected_type(other)),
        }
    }
}

impl ParseFromParameter for At {
    fn parse_from_parameter(text: &str) -> ParseResult<Self> {
        text.parse().map(Self).map_err(ParseError::custom)
    }
}

impl ToJSON for At {
    fn to_json(&self) -> Option<Value> {
        Some(Value::String(self.0.to_string()))
    }
}

/// A position of the log. Opaque: increasing, with gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pos(pub Position);

/// The largest number that the document can name and that a signed 64-bit integer holds.
const POSITION_MAX: u64 = 9_223_372_036_854_774_784;

wrapper!(, Pos, Position, "position", MetaSchema {
    minimum: Some(0.0),
    // The greatest number below 2⁶³ that a double, which the document's numbers are, can hold.
    maximum: Some(9_223_372_036_854_774_784.0),
    ..MetaSchema::new_with_format("integer", "int64")
});

impl ParseFromJSON for Pos {
    fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
        let value = value.unwrap_or_default();
        match value.as_u64().filter(|position| *position <= POSITION_MAX) {
            Some(position) => Ok(Self(Position(position))),
            None => Err(ParseError::expected_type(value)),
        }
    }
}

impl ParseFromParameter for Pos {
    fn parse_from_parameter(text: &str) -> ParseResult<Self> {
        text.parse()
            .ok()
            // `+1` would parse, and is nothing this API writes.
            .filter(|position| *position <= POSITION_MAX && text.bytes().all(|byte| byte.is_ascii_digit()))
            .map(|position| Self(Position(position)))
            .ok_or_else(|| ParseError::custom("must be a position: a whole number from 0"))
    }
}

impl ToJSON for Pos {
    fn to_json(&self) -> Option<Value> {
        Some(self.0.0.into())
    }
}

impl ToHeader for Pos {
    fn to_header(&self) -> Option<HeaderValue> {
        Some(HeaderValue::from(self.0.0))
    }
}

/// An id that is a UUID.
///
/// In a path take a `String` and [`crate::path`] instead: there a text that is no UUID names nothing, which is 404.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Uid<T>(pub T);

wrapper!(T, Uid<T>, T, "uuid", MetaSchema::new_with_format("string", "uuid"));

/// An id of 1–128 printable characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Text<T>(pub T);

wrapper!(T, Text<T>, T, "text id", text_schema());

pub(crate) fn text_schema() -> MetaSchema {
    MetaSchema {
        min_length: Some(1),
        max_length: Some(TEXT_ID_MAX),
        pattern: Some(PRINTABLE.into()),
        ..MetaSchema::new("string")
    }
}

/// Reading and writing of what is text in JSON and in parameters.
macro_rules! textual {
    ($wrapper:ident) => {
        impl<T: FromStr<Err: Display> + Send + Sync> ParseFromJSON for $wrapper<T> {
            fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
                match value.unwrap_or_default() {
                    Value::String(text) => Self::parse_from_parameter(&text),
                    other => Err(ParseError::expected_type(other)),
                }
            }
        }

        impl<T: FromStr<Err: Display> + Send + Sync> ParseFromParameter for $wrapper<T> {
            fn parse_from_parameter(text: &str) -> ParseResult<Self> {
                text.parse().map(Self).map_err(ParseError::custom)
            }
        }

        impl<T: Display + Send + Sync> ToJSON for $wrapper<T> {
            fn to_json(&self) -> Option<Value> {
                Some(Value::String(self.0.to_string()))
            }
        }
    };
}

textual!(Uid);
textual!(Text);

/// A score from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Unit(pub Score);

wrapper!(, Unit, Score, "score", MetaSchema {
    minimum: Some(0.0),
    maximum: Some(1.0),
    ..MetaSchema::new_with_format("number", "double")
});

impl ParseFromJSON for Unit {
    fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
        let value = value.unwrap_or_default();
        match value.as_f64() {
            Some(number) => Score::new(number).map(Self).map_err(ParseError::custom),
            None => Err(ParseError::expected_type(value)),
        }
    }
}

impl ParseFromParameter for Unit {
    fn parse_from_parameter(text: &str) -> ParseResult<Self> {
        let number: f64 = text.parse().map_err(|_| ParseError::custom("must be a number from 0 to 1"))?;
        Score::new(number).map(Self).map_err(ParseError::custom)
    }
}

impl ToJSON for Unit {
    fn to_json(&self) -> Option<Value> {
        Some(self.0.get().into())
    }
}

#[cfg(test)]
mod tests {
    use event_schemas::ids::{JobId, MatchId};
    use serde_json::json;

    use super::*;

    fn read<T: ParseFromJSON + ToJSON>(value: Value) -> Option<Value> {
        T::parse_from_json(Some(value)).ok().and_then(|read| read.to_json())
    }

    #[test]
    fn an_instant_is_read_in_any_offset_and_written_in_utc() {
        assert_eq!(
            read::<At>(json!("2026-11-20T11:00:00+01:00")),
            Some(json!("2026-11-20T10:00:00.000000Z"))
        );
        assert_eq!(read::<At>(json!("yesterday")), None);
        assert_eq!(read::<At>(json!(5)), None);
    }

    #[test]
    fn a_position_is_a_whole_number_that_can_be_stored() {
        assert_eq!(read::<Pos>(json!(0)), Some(json!(0)));
        for refused in [json!(-1), json!(1.5), json!("1"), json!(u64::MAX)] {
            assert_eq!(read::<Pos>(refused.clone()), None, "{refused}");
        }
        assert!(Pos::parse_from_parameter("+1").is_err());
        assert!(Pos::parse_from_parameter("7").is_ok());
    }

    #[test]
    fn ids_are_read_as_the_contract_reads_them() {
        let uuid = json!("018f0000-0000-7000-8000-000000000001");
        assert_eq!(read::<Uid<JobId>>(uuid.clone()), Some(uuid));
        assert_eq!(read::<Uid<JobId>>(json!("x")), None);
        assert_eq!(read::<Text<MatchId>>(json!("m-1")), Some(json!("m-1")));
        assert_eq!(read::<Text<MatchId>>(json!("")), None);
        assert_eq!(read::<Text<MatchId>>(json!("a\nb")), None);
    }

    #[test]
    fn a_score_lies_between_0_and_1() {
        assert_eq!(read::<Unit>(json!(1)), Some(json!(1.0)));
        assert_eq!(read::<Unit>(json!(1.01)), None);
    }
}
