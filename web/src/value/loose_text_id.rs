//! Text ids that are numbers for some callers.

use std::borrow::Cow;
use std::fmt::Display;
use std::str::FromStr;

use event_schemas::loose_id::{EXACT_MAX, number};
use poem_openapi::registry::{MetaSchema, MetaSchemaRef};
use poem_openapi::types::{ParseError, ParseFromJSON, ParseFromParameter, ParseResult, ToJSON, Type};
use serde_json::Value;

use super::{text_schema, wrapper};

/// A text id that may be sent as a number: 123 and "123" are the same id, which is returned as the number 123.
///
/// Only plain decimals below 2⁵³ are returned as numbers; "007" stays text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LooseTextId<T>(pub T);

wrapper!(
    T,
    LooseTextId<T>,
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

impl<T: FromStr<Err: Display> + Send + Sync> ParseFromJSON for LooseTextId<T> {
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

impl<T: FromStr<Err: Display> + Send + Sync> ParseFromParameter for LooseTextId<T> {
    fn parse_from_parameter(text: &str) -> ParseResult<Self> {
        text.parse().map(Self).map_err(ParseError::custom)
    }
}

impl<T: Display + Send + Sync> ToJSON for LooseTextId<T> {
    fn to_json(&self) -> Option<Value> {
        let text = self.0.to_string();
        Some(match number(&text) {
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
        LooseTextId::<ProductId>::parse_from_json(Some(value)).ok().and_then(|key| key.to_json())
    }

    #[test]
    fn number_and_its_text_are_the_same_id() {
        assert_eq!(read(json!(123)), Some(json!(123)));
        assert_eq!(read(json!("123")), Some(json!(123)));
    }

    #[test]
    fn other_ids_than_plain_decimals_stay_text() {
        for text in ["007", "9007199254740992", "1e3", "sku-1"] {
            assert_eq!(read(json!(text)), Some(json!(text)));
        }
    }

    #[test]
    fn number_beyond_double_precision_is_refused() {
        for refused in [json!(9_007_199_254_740_992_u64), json!(-1), json!(1.5)] {
            assert_eq!(read(refused.clone()), None, "{refused}");
        }
    }
}
