//! Vectors, in a stored form that has the exact values in half of the bytes of a JSON array.

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The numbers of a vector, stored as base64 of little-endian `f32`. Clones share them.
#[derive(Clone, Debug, PartialEq, JsonSchema)]
#[schemars(transparent)]
pub struct Vector(#[schemars(with = "String", extend("contentEncoding" = "base64"))] Arc<[f32]>);

impl Vector {
    pub fn new(values: impl Into<Arc<[f32]>>) -> Self {
        Self(values.into())
    }

    pub fn values(&self) -> &[f32] {
        &self.0
    }

    /// The bytes of the numbers, from which it can be told whether two vectors are the same.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|value| value.to_le_bytes()).collect()
    }
}

impl Serialize for Vector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(self.to_bytes()))
    }
}

impl<'de> Deserialize<'de> for Vector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text.as_bytes()).map_err(serde::de::Error::custom)?;
        let (values, rest) = bytes.as_chunks();
        if !rest.is_empty() {
            return Err(serde::de::Error::custom("a vector must have four bytes for each number"));
        }
        Ok(Self(values.iter().map(|value| f32::from_le_bytes(*value)).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vector_is_stored_as_base64_of_little_endian_floats() {
        let vector = Vector::new([1.0, -0.5, f32::MIN_POSITIVE]);
        let text = serde_json::to_string(&vector).unwrap();
        assert_eq!(text, "\"AACAPwAAAL8AAIAA\"");
        assert_eq!(serde_json::from_str::<Vector>(&text).unwrap(), vector);
    }

    #[test]
    fn text_that_is_no_vector_is_rejected() {
        for text in ["\"AACA\"", "\"?\"", "[1.0]"] {
            assert!(serde_json::from_str::<Vector>(text).is_err(), "{text}");
        }
    }
}
