//! Free-form JSON, kept as text: as values in memory it would take up to 90 times as much.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

/// A caller's own JSON data, which is stored and not interpreted. Clones share the text.
#[derive(Clone, Debug)]
pub struct JsonText(Arc<RawValue>);

impl JsonText {
    /// # Errors
    /// If the value has no JSON form.
    pub fn new(value: &impl Serialize) -> serde_json::Result<Self> {
        to_raw_value(value).map(|text| Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    pub fn is_empty_object(&self) -> bool {
        self.as_str() == "{}"
    }

    /// Parses the text.
    pub fn to_value(&self) -> Value {
        serde_json::from_str(self.as_str()).unwrap_or_default()
    }
}

/// An empty object.
impl Default for JsonText {
    fn default() -> Self {
        Self::new(&serde_json::Map::new()).expect("an empty object has a JSON form")
    }
}

impl From<Value> for JsonText {
    fn from(value: Value) -> Self {
        Self::new(&value).expect("a JSON value has a JSON form")
    }
}

/// Texts of the same value are the same, because they are written by one serializer.
impl PartialEq for JsonText {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for JsonText {}

impl Serialize for JsonText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// From a value, because the text itself is not available inside an enum with a tag.
impl<'de> Deserialize<'de> for JsonText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn text_is_that_of_its_value() {
        let value = json!({"b": [1, "é", null], "a": {"c": 0.1}});
        let text: JsonText =
            serde_json::from_str("{ \"b\" : [1, \"\\u00e9\", null], \"a\": {\"c\": 0.1} }").unwrap();
        assert_eq!(text, JsonText::from(value.clone()));
        assert_eq!(serde_json::to_value(&text).unwrap(), value);
        assert_eq!(text.to_value(), value);
        assert!(JsonText::default().is_empty_object() && !text.is_empty_object());
    }
}
