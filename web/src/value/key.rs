//! Ids that some callers have as numbers.

use std::borrow::Cow;
use std::fmt::Display;
use std::str::FromStr;

use poem_openapi::registry::{MetaSchema, MetaSchemaRef};
use poem_openapi::types::{ParseError, ParseFromJSON, ParseFromParameter, ParseResult, ToJSON, Type};
use serde_json::Value;

use super::{text_schema, wrapper};

/// Below this, every integer survives a double: what most JSON readers have.
const EXACT_MAX: u64 = 1 << 53;

/// An id that a caller may have as a number: 123 and "123" are one id, and it is answered as the number 123.
///
/// Only plain decimals below 2⁵³ are answered as numbers; "007" stays the text it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key<T>(pub T);

wrapper!(
    T,
    Key<T>,
    T,
    "key",
    MetaSchema {
        one_of: vec![
            MetaSchemaRef::Inline(Box::new(text_schema())),
            MetaSchemaRef::Inline(Box::new(MetaSchema {
                minimum: Some(0.0),
                maximum: Some((EXACT_MAX - 1) as f64),
                ..MetaSchema::new_with_format("integer", "int64")
            })),
        ],
        ..MetaSchema::ANY
    }
);

impl<T: FromStr<Err: Display> + Send + Sync> ParseFromJSON for Key<T> {
    fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
        match value.unwrap_or_default() {
            Value::String(text) => Self::parse_from_parameter(&text),
            Value::Number(number) if number.as_u64().is_some_and(|number| number < EXACT_MAX) => {
                Self::parse_from_parameter(&number.to_string())
            }
            other => Err(ParseError::expected_type(other)),
        }
    }
}

impl<T: FromStr<Err: Display> + Send + Sync> ParseFromParameter for Key<T> {
    fn parse_from_parameter(text: &str) -> ParseResult<Self> {
        text.parse().map(Self).map_err(ParseError::custom)
    }
}

impl<T: Display + Send + Sync> ToJSON for Key<T> {
    fn to_json(&self) -> Option<Value> {
        let text = self.0.to_string();
        let number = text.parse::<u64>().ok().filter(|number| *number < EXACT_MAX);
        Some(match number.filter(|number| number.to_string() == text) {
            Some(number) => number.into(),
            None => Value::String(text),
        })
    }
}

#[cfg(test)]
mod tests {
    use event_schemas::ids::ProductId;
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> Option<Value> {
        Key::<ProductId>::parse_from_json(Some(value)).ok().and_then(|key| key.to_json())
    }

    #[test]
    fn a_number_and_its_text_are_one_id() {
        assert_eq!(read(json!(123)), Some(json!(123)));
        assert_eq!(read(json!("123")), Some(json!(123)));
    }

    #[test]
    fn what_is_no_plain_decimal_stays_text() {
        for text in ["007", "9007199254740992", "1e3", "sku-1"] {
            assert_eq!(read(json!(text)), Some(json!(text)));
        }
    }

    #[test]
    fn a_number_that_a_double_cannot_hold_is_refused() {
        for refused in [json!(9_007_199_254_740_992_u64), json!(-1), json!(1.5)] {
            assert_eq!(read(refused.clone()), None, "{refused}");
        }
    }
}
