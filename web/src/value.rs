//! The contract's types as poem-openapi types, for parameters and for the fields of request objects.
//!
//! | type | JSON value |
//! |---|---|
//! | [`ApiTimestamp`] | a timestamp, RFC 3339 |
//! | [`ApiPosition`] | a log position, in parameters only |
//! | [`UuidParam<JobId>`](UuidParam) | a UUID |
//! | [`TextId<ImageMatchId>`](TextId) | an id of 1–128 visible characters |
//! | [`LooseTextId<ProductId>`](LooseTextId) | the same, and an integer means its decimal text |
//! | [`CategoryName`] | the name of a stream category |
//! | [`ScoreValue`] | a score, 0–1 |
//!
//! All implement `Deref` and `From` for the wrapped type.

mod loose_text_id;

use std::borrow::Cow;
use std::fmt::Display;
use std::str::FromStr;

use event_schemas::Category;
use event_schemas::ids::{Position, Score, TEXT_ID_MAX};
use event_schemas::time::Timestamp;
use poem_openapi::registry::{MetaSchema, MetaSchemaRef};
use poem_openapi::types::{ParseError, ParseFromJSON, ParseFromParameter, ParseResult, ToJSON, Type};
use serde_json::Value;

pub use loose_text_id::LooseTextId;

/// The pattern of text ids: no invisible characters, in the syntax of ECMA 262. Those beyond U+FFFF are refused without
/// it, because not every implementation of patterns knows them.
pub(crate) const PRINTABLE: &str = r"^[^\u0000-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb]+$";

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

/// A timestamp, written with microseconds and `Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiTimestamp(pub Timestamp);

wrapper!(, ApiTimestamp, Timestamp, "instant", MetaSchema::new_with_format("string", "date-time"));

impl ParseFromJSON for ApiTimestamp {
    fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
        match value.unwrap_or_default() {
            Value::String(text) => Self::parse_from_parameter(&text),
            other => Err(ParseError::expected_type(other)),
        }
    }
}

impl ParseFromParameter for ApiTimestamp {
    fn parse_from_parameter(text: &str) -> ParseResult<Self> {
        text.parse().map(Self).map_err(ParseError::custom)
    }
}

impl ToJSON for ApiTimestamp {
    fn to_json(&self) -> Option<Value> {
        Some(Value::String(self.0.to_string()))
    }
}

/// A stream category, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CategoryName(pub Category);

wrapper!(, CategoryName, Category, "category", MetaSchema {
    enum_items: Category::NAMES.map(Value::from).into(),
    ..MetaSchema::new("string")
});

impl ParseFromParameter for CategoryName {
    fn parse_from_parameter(text: &str) -> ParseResult<Self> {
        text.parse().map(Self).map_err(ParseError::custom)
    }
}

/// A log position. Opaque: increasing, with gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiPosition(pub Position);

/// The format of a position as a text.
pub const POSITION_AS_TEXT: &str = "position";

/// The largest position that both the document and a signed 64-bit integer can represent.
const POSITION_MAX: u64 = 9_223_372_036_854_774_784;

wrapper!(, ApiPosition, Position, "position", MetaSchema {
    minimum: Some(0.0),
    // The largest double below 2⁶³; the numbers of the document are doubles.
    maximum: Some(9_223_372_036_854_774_784.0),
    ..MetaSchema::new_with_format("integer", "int64")
});

impl ParseFromParameter for ApiPosition {
    fn parse_from_parameter(text: &str) -> ParseResult<Self> {
        text.parse()
            .ok()
            // `+1` would parse, but is not a form that this API writes.
            .filter(|position| *position <= POSITION_MAX && text.bytes().all(|byte| byte.is_ascii_digit()))
            .map(|position| Self(Position(position)))
            .ok_or_else(|| ParseError::custom("must be a position: a whole number from 0"))
    }
}

/// A UUID.
///
/// For path parameters use `String` and [`crate::path`] instead: there a text that is not a UUID is 404.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UuidParam<T>(pub T);

wrapper!(T, UuidParam<T>, T, "uuid", MetaSchema::new_with_format("string", "uuid"));

/// An id of 1–128 visible characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TextId<T>(pub T);

wrapper!(T, TextId<T>, T, "text id", text_schema());

pub(crate) fn text_schema() -> MetaSchema {
    MetaSchema {
        min_length: Some(1),
        max_length: Some(TEXT_ID_MAX),
        pattern: Some(PRINTABLE.into()),
        ..MetaSchema::new("string")
    }
}

/// Parsing and serialization of types that are text in JSON and in parameters.
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

textual!(UuidParam);
textual!(TextId);

/// A score from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct ScoreValue(pub Score);

wrapper!(, ScoreValue, Score, "score", MetaSchema {
    minimum: Some(0.0),
    maximum: Some(1.0),
    ..MetaSchema::new_with_format("number", "double")
});

impl ParseFromJSON for ScoreValue {
    fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
        let value = value.unwrap_or_default();
        match value.as_f64() {
            Some(number) => Score::new(number).map(Self).map_err(ParseError::custom),
            None => Err(ParseError::expected_type(value)),
        }
    }
}

impl ParseFromParameter for ScoreValue {
    fn parse_from_parameter(text: &str) -> ParseResult<Self> {
        let number: f64 = text.parse().map_err(|_| ParseError::custom("must be a number from 0 to 1"))?;
        Score::new(number).map(Self).map_err(ParseError::custom)
    }
}

impl ToJSON for ScoreValue {
    fn to_json(&self) -> Option<Value> {
        Some(self.0.get().into())
    }
}

#[cfg(test)]
mod tests {
    use event_schemas::ids::{ImageMatchId, JobId};
    use serde_json::json;

    use super::*;

    fn read<T: ParseFromJSON + ToJSON>(value: Value) -> Option<Value> {
        T::parse_from_json(Some(value)).ok().and_then(|read| read.to_json())
    }

    #[test]
    fn timestamp_is_parsed_in_any_offset_and_written_in_utc() {
        assert_eq!(
            read::<ApiTimestamp>(json!("2026-11-20T11:00:00+01:00")),
            Some(json!("2026-11-20T10:00:00.000000Z"))
        );
        assert_eq!(read::<ApiTimestamp>(json!("yesterday")), None);
        assert_eq!(read::<ApiTimestamp>(json!(5)), None);
    }

    #[test]
    fn position_is_a_whole_number_up_to_the_maximum() {
        for refused in ["-1", "1.5", "+1", "", &u64::MAX.to_string()] {
            assert!(ApiPosition::parse_from_parameter(refused).is_err(), "{refused}");
        }
        for accepted in ["0", "7"] {
            assert!(ApiPosition::parse_from_parameter(accepted).is_ok(), "{accepted}");
        }
    }

    #[test]
    fn ids_are_parsed_as_in_the_contract() {
        let uuid = json!("018f0000-0000-7000-8000-000000000001");
        assert_eq!(read::<UuidParam<JobId>>(uuid.clone()), Some(uuid));
        assert_eq!(read::<UuidParam<JobId>>(json!("x")), None);
        assert_eq!(read::<TextId<ImageMatchId>>(json!("m-1")), Some(json!("m-1")));
        assert_eq!(read::<TextId<ImageMatchId>>(json!("")), None);
        assert_eq!(read::<TextId<ImageMatchId>>(json!("a\nb")), None);
    }

    #[test]
    fn score_is_between_0_and_1() {
        assert_eq!(read::<ScoreValue>(json!(1)), Some(json!(1.0)));
        assert_eq!(read::<ScoreValue>(json!(1.01)), None);
    }
}
