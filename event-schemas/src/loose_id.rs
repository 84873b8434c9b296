//! Text ids that are numbers for some callers: 123 and "123" are one id, which is answered as the number 123.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

use crate::ids::{ProductId, TEXT_ID_MAX, UserId};

/// Below this, every integer is exact as a double, which most JSON parsers use.
pub const EXACT_MAX: u64 = 1 << 53;

/// The number that an id is answered as; none for any other than a plain decimal below 2⁵³, such as "007".
pub fn number(id: &str) -> Option<u64> {
    let number = id.parse::<u64>().ok().filter(|number| *number < EXACT_MAX)?;
    (number.to_string() == id).then_some(number)
}

/// An id in an answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LooseId(Box<str>);

impl From<&ProductId> for LooseId {
    fn from(id: &ProductId) -> Self {
        Self(id.as_str().into())
    }
}

impl From<&UserId> for LooseId {
    fn from(id: &UserId) -> Self {
        Self(id.as_str().into())
    }
}

impl Serialize for LooseId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match number(&self.0) {
            Some(number) => serializer.serialize_u64(number),
            None => serializer.serialize_str(&self.0),
        }
    }
}

impl JsonSchema for LooseId {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "LooseId".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "oneOf": [
                {"type": "string", "minLength": 1, "maxLength": TEXT_ID_MAX},
                {"type": "integer", "format": "int64", "minimum": 0, "maximum": EXACT_MAX - 1},
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn plain_decimals_are_answered_as_numbers() {
        let answered = |text: &str| {
            let id: ProductId = text.parse().unwrap();
            serde_json::to_value(LooseId::from(&id)).unwrap()
        };
        assert_eq!(answered("123"), json!(123));
        assert_eq!(answered("0"), json!(0));
        for text in ["007", "9007199254740992", "1e3", "sku-1", "+1", "-1"] {
            assert_eq!(answered(text), json!(text));
        }
    }
}
