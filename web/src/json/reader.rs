//! Reads a body value by value, as its schema describes it.
//!
//! Each value is checked as it arrives, and only what the schema names is kept, so that the memory of a body is bounded by
//! its schema, whatever its text is: unknown members, further items of a full list, and what is wrong take none.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use poem_openapi::registry::{MetaSchema, MetaSchemaRef};
use poem_openapi::types::{ParseFromJSON, Type};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::diagnosis::{Diagnosis, ERRORS_MAX, JsonPath, from_message, schema_of};
use super::free_form;
use crate::problem::{FieldError, Problem};

/// The most members of an object that are not in its schema.
const UNKNOWN_MEMBERS_MAX: usize = 4096;

/// The prefix of names that serde_json gives a meaning of its own.
const RESERVED_PREFIX: &str = "$serde_json::private::";

/// Reads a `T`.
///
/// # Errors
/// 400 or 422, with the wrong parts.
pub(super) fn read<T: ParseFromJSON + 'static>(text: &[u8]) -> Result<T, Problem> {
    let described = schema_of::<T>();
    let mut reader = Reader::new(Diagnosis::new(&described));
    let schema = reader.resolve(&described.schema);
    let value = read_whole(text, reader.seed(schema, &JsonPath::Body, false));
    let value = reader.finish(value)?;
    T::parse_from_json(value).map_err(|error| super::refusal(vec![from_message(error.message())]))
}

/// Reads the items of an array one after the other, so that never more than one of them is in memory as a JSON value.
///
/// # Errors
/// 400 or 422, with the wrong parts.
pub(super) fn read_items<T: ParseFromJSON + 'static>(text: &[u8], max: usize) -> Result<Vec<T>, Problem> {
    let described = schema_of::<T>();
    let mut reader = Reader::new(Diagnosis::new(&described));
    let schema = reader.resolve(&described.schema);
    let mut items = Vec::new();
    let outcome = read_whole(text, ItemsSeed { reader: &mut reader, schema, items: &mut items, max });
    reader.finish(outcome)?;
    Ok(items)
}

/// Refuses a text that is not JSON, or that gives a member of an object twice. For what is then parsed by serde, which
/// would take one of the two.
///
/// # Errors
/// With the position in the text, or the path of the member.
pub(super) fn check(text: &[u8]) -> Result<(), Unreadable> {
    let none = super::diagnosis::TypeSchema::none();
    let mut reader = Reader::new(Diagnosis::new(&none));
    let outcome = read_whole(text, reader.seed(None, &JsonPath::Body, false));
    let duplicate = reader.diagnosis.errors.pop();
    match (outcome, duplicate) {
        (_, Some(FieldError { field, reason })) => Err(Unreadable::Twice(format!("`{field}` {reason}"))),
        (Err(error), None) => Err(Unreadable::NotJson(error)),
        (Ok(_), None) => Ok(()),
    }
}

/// Why a text is refused that is not a body.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("{0}")]
    Twice(String),
    #[error("{0}")]
    NotJson(serde_json::Error),
}

fn read_whole<'de, S: DeserializeSeed<'de>>(text: &'de [u8], seed: S) -> serde_json::Result<S::Value> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let value = seed.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

struct Reader<'a> {
    diagnosis: Diagnosis<'a>,
    /// Parts that are well-formed, and refused for their content.
    refused: Vec<FieldError>,
    /// Whether the rest of the text is not read, because enough is known to be wrong.
    is_stopped: bool,
}

impl<'a> Reader<'a> {
    fn new(diagnosis: Diagnosis<'a>) -> Self {
        Self { diagnosis, refused: Vec::new(), is_stopped: false }
    }

    fn resolve(&self, schema: &'a MetaSchemaRef) -> Option<&'a MetaSchema> {
        self.diagnosis.resolve(schema)
    }

    fn seed<'r>(
        &'r mut self,
        schema: Option<&'a MetaSchema>,
        path: &'r JsonPath<'r>,
        is_optional: bool,
    ) -> ValueSeed<'r, 'a> {
        ValueSeed { reader: self, schema, path, is_optional }
    }

    fn has_errors(&self) -> bool {
        !self.diagnosis.errors.is_empty() || !self.refused.is_empty()
    }

    /// Stops reading.
    fn stop<T, E: Error>(&mut self) -> Result<T, E> {
        self.is_stopped = true;
        Err(E::custom("the rest is not read"))
    }

    fn stop_at_many_errors<E: Error>(&mut self) -> Result<(), E> {
        if self.diagnosis.errors.len() + self.refused.len() >= ERRORS_MAX { self.stop() } else { Ok(()) }
    }

    /// Adds an error that makes the rest of the text irrelevant.
    fn fail<T, E: Error>(&mut self, path: &JsonPath<'_>, reason: impl Into<String>) -> Result<T, E> {
        self.diagnosis.error(path, reason);
        self.stop()
    }

    /// The outcome of reading a body.
    fn finish<T>(self, outcome: serde_json::Result<T>) -> Result<T, Problem> {
        match outcome {
            Err(error) if !self.is_stopped => Err(super::malformed(&error)),
            _ if !self.diagnosis.errors.is_empty() => Err(super::refusal(self.diagnosis.errors)),
            Ok(value) if self.refused.is_empty() => Ok(value),
            _ => Err(super::unprocessable(self.refused)),
        }
    }

    /// Checks a scalar, or an empty list or object in place of one whose schema describes neither.
    fn check<E: Error>(
        &mut self,
        schema: &MetaSchema,
        value: Value,
        path: &JsonPath<'_>,
    ) -> Result<Option<Value>, E> {
        let errors = self.diagnosis.errors.len();
        self.diagnosis.check(schema, &value, path);
        self.stop_at_many_errors()?;
        Ok((self.diagnosis.errors.len() == errors).then_some(value))
    }

    /// A free-form value, which is bounded by the length of its text.
    fn free_form<E: Error>(
        &mut self,
        schema: &MetaSchema,
        raw: &RawValue,
        path: &JsonPath<'_>,
    ) -> Result<Option<Value>, E> {
        if let Err(reason) = free_form::check(raw.get()) {
            self.refused.push(FieldError::new(path.to_string(), reason));
            self.stop_at_many_errors()?;
            return Ok(None);
        }
        read_whole(raw.get().as_bytes(), self.seed(None, path, false)).map_err(E::custom)?;
        let value = serde_json::from_str(raw.get()).map_err(E::custom)?;
        self.check(schema, value, path)
    }
}

/// Reads one value; none if it is skipped or wrong.
struct ValueSeed<'r, 'a> {
    reader: &'r mut Reader<'a>,
    /// None for a value that is skipped.
    schema: Option<&'a MetaSchema>,
    path: &'r JsonPath<'r>,
    /// Whether null means that the value is absent.
    is_optional: bool,
}

/// Whether any value, or any object, is allowed.
fn is_free_form(schema: &MetaSchema) -> bool {
    let is_anything = |schema: &MetaSchema| {
        let is_one_of = !(schema.one_of.is_empty() && schema.any_of.is_empty() && schema.all_of.is_empty());
        schema.ty.is_empty() && schema.enum_items.is_empty() && !is_one_of
    };
    let others = schema.additional_properties.as_deref();
    is_anything(schema)
        || (schema.properties.is_empty()
            && matches!(others, Some(MetaSchemaRef::Inline(others)) if is_anything(others)))
}

impl<'de> DeserializeSeed<'de> for ValueSeed<'_, '_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        match self.schema {
            Some(schema) if is_free_form(schema) => {
                let raw = <&RawValue>::deserialize(deserializer)?;
                if self.is_optional && raw.get() == "null" {
                    return Ok(Some(Value::Null));
                }
                self.reader.free_form(schema, raw, self.path)
            }
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl ValueSeed<'_, '_> {
    fn scalar<E: Error>(self, value: Value) -> Result<Option<Value>, E> {
        match self.schema {
            None => Ok(None),
            Some(_) if value.is_null() && self.is_optional => Ok(Some(value)),
            Some(schema) => self.reader.check(schema, value, self.path),
        }
    }
}

impl<'de> Visitor<'de> for ValueSeed<'_, '_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
        self.scalar(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        self.scalar(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        self.scalar(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
        self.scalar(value.into())
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        self.scalar(Value::Null)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        match self.schema {
            None => Ok(None),
            Some(_) => self.scalar(text.into()),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let Self { reader, schema, path, .. } = self;
        let schema = match schema {
            Some(schema) if schema.ty == "array" => Some(schema),
            Some(schema) => {
                reader.check(schema, Value::Array(Vec::new()), path)?;
                None
            }
            None => None,
        };
        let item_schema = schema.and_then(|schema| reader.resolve(schema.items.as_deref()?));
        let max = schema.and_then(|schema| schema.max_items).unwrap_or(usize::MAX);
        let (mut items, mut count) = (Vec::new(), 0);
        while let Some(item) =
            list.next_element_seed(reader.seed(item_schema, &JsonPath::Item(path, count), false))?
        {
            if count == max {
                return reader.fail(path, format!("must have at most {max} items"));
            }
            count += 1;
            items.extend(item);
        }
        if let Some(min) = schema.and_then(|schema| schema.min_items).filter(|min| count < *min) {
            reader.diagnosis.error(path, format!("must have at least {min} items"));
            reader.stop_at_many_errors()?;
        }
        Ok(schema.map(|_| Value::Array(items)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
        let Self { reader, schema, path, .. } = self;
        let schema = match schema {
            Some(schema) if schema.ty == "object" => Some(schema),
            Some(schema) => {
                reader.check(schema, Value::Object(Map::new()), path)?;
                None
            }
            None => None,
        };
        let properties = schema.map(|schema| schema.properties.as_slice()).unwrap_or_default();
        let is_required = |name: &str| schema.is_some_and(|schema| schema.required.contains(&name));
        let others = schema.and_then(|schema| reader.resolve(schema.additional_properties.as_deref()?));
        let mut seen = vec![false; properties.len()];
        let mut unknown: HashSet<Cow<'_, str>> = HashSet::new();
        let mut members = Map::new();
        while let Some(name) = object.next_key::<Name<'_>>()? {
            let name = name.0;
            let member_path = JsonPath::Member(path, &name);
            let known = properties.iter().position(|(known, _)| *known == name);
            let is_new = match known {
                Some(index) => !std::mem::replace(&mut seen[index], true),
                None if unknown.len() == UNKNOWN_MEMBERS_MAX => {
                    return reader.fail(path, format!("has more than {UNKNOWN_MEMBERS_MAX} unknown members"));
                }
                None => unknown.insert(name.clone()),
            };
            if !is_new {
                return reader.fail(&member_path, "is given twice");
            }
            if name.starts_with(RESERVED_PREFIX) {
                return reader.fail(&member_path, "is a reserved name");
            }
            let member_schema = match known {
                Some(index) => reader.resolve(&properties[index].1),
                None => others,
            };
            let is_optional = known.is_some() && !is_required(&name);
            let value = object.next_value_seed(reader.seed(member_schema, &member_path, is_optional))?;
            if let Some(value) = value {
                members.insert(name.into_owned(), value);
            }
        }
        for ((name, _), seen) in properties.iter().zip(seen) {
            if !seen && is_required(name) {
                reader.diagnosis.error(&JsonPath::Member(path, name), "is missing");
                reader.stop_at_many_errors()?;
            }
        }
        Ok(schema.map(|_| Value::Object(members)))
    }
}

/// The name of a member, borrowed from the text where it can be.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// Reads the items of an array into a list.
struct ItemsSeed<'r, 'a, T> {
    reader: &'r mut Reader<'a>,
    schema: Option<&'a MetaSchema>,
    items: &'r mut Vec<T>,
    max: usize,
}

impl<'de, T: Type + ParseFromJSON> DeserializeSeed<'de> for ItemsSeed<'_, '_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, T: Type + ParseFromJSON> Visitor<'de> for ItemsSeed<'_, '_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Self { reader, schema, items, max } = self;
        let mut index = 0;
        while let Some(value) =
            list.next_element_seed(reader.seed(schema, &JsonPath::Item(&JsonPath::Body, index), false))?
        {
            if index == max {
                return reader.fail(&JsonPath::Body, super::batch::too_many(max));
            }
            if let Some(value) = value.filter(|_| !reader.has_errors()) {
                match T::parse_from_json(Some(value)) {
                    Ok(item) => items.push(item),
                    Err(error) => {
                        let error = from_message(error.message()).in_item(index);
                        reader.diagnosis.errors.push(error);
                        reader.stop_at_many_errors()?;
                    }
                }
            }
            index += 1;
        }
        Ok(())
    }
}
