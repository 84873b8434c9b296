//! A bridge from schemars to the OpenAPI document: answers are types that serde and schemars describe, so that their
//! fields are listed once and the domain does not know poem-openapi.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Deref;
use std::sync::{Mutex, PoisonError};

use poem_openapi::registry::{MetaSchema, MetaSchemaRef, Registry};
use poem_openapi::types::{ParseError, ParseFromJSON, ParseFromParameter, ParseResult, ToJSON, Type};
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Serialize;
use serde::de::value::{Error as TextError, StrDeserializer};
use serde::de::{DeserializeOwned, IntoDeserializer};
use serde_json::{Map, Value};

/// A value of an enum or struct that serde and schemars describe, as a poem-openapi type: for parameters and for the
/// members of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Api<T>(pub T);

impl<T> Deref for Api<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> From<T> for Api<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

impl<T: JsonSchema + Send + Sync> Type for Api<T> {
    const IS_REQUIRED: bool = true;

    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_ref() -> MetaSchemaRef {
        reference::<T>()
    }

    fn register(registry: &mut Registry) {
        register::<T>(registry);
    }

    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
        Box::new(std::iter::once(self))
    }
}

impl<T: Serialize + JsonSchema + Send + Sync> ToJSON for Api<T> {
    fn to_json(&self) -> Option<Value> {
        serde_json::to_value(&self.0).ok()
    }
}

impl<T: DeserializeOwned + JsonSchema + Send + Sync> ParseFromJSON for Api<T> {
    fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
        serde_json::from_value(value.unwrap_or_default()).map(Self).map_err(ParseError::custom)
    }
}

impl<T: DeserializeOwned + JsonSchema + Send + Sync> ParseFromParameter for Api<T> {
    fn parse_from_parameter(text: &str) -> ParseResult<Self> {
        let text: StrDeserializer<'_, TextError> = text.into_deserializer();
        T::deserialize(text).map(Self).map_err(|_| ParseError::custom(choices::<T>()))
    }
}

/// The error of a parameter that is not one of the values of an enum.
fn choices<T: JsonSchema>() -> String {
    let schema = T::json_schema(&mut SchemaSettings::draft2020_12().into_generator());
    let items = schema.as_object().map(enum_items).unwrap_or_default();
    let words: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
    format!("must be one of {}", words.join(", "))
}

/// The reference to the schema of `T` in the document.
pub(crate) fn reference<T: JsonSchema>() -> MetaSchemaRef {
    MetaSchemaRef::Reference(T::schema_name().into_owned())
}

/// Adds the schema of `T`, and those that it refers to.
///
/// # Panics
/// If two types have the same name but not the same schema.
pub(crate) fn register<T: JsonSchema>(registry: &mut Registry) {
    let name = T::schema_name();
    registry.create_schema::<T, _>(name.clone().into_owned(), |registry| {
        // As it is written, so a member that is always there is required, also if it may be null.
        let mut generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
        let schema = T::json_schema(&mut generator);
        let definitions = Definitions(generator.take_definitions(true));
        for (name, schema) in definitions.named() {
            let schema = definitions.named_schema(name, schema);
            let known = registry.schemas.entry(name.clone()).or_insert_with(|| schema.clone());
            // poem-openapi inserts a schema of the type `fake` while it makes one.
            let is_same = MetaSchema { rust_typename: None, ..known.clone() } == schema || known.ty == "fake";
            assert!(is_same, "two types have the OpenAPI name {name}");
        }
        definitions.named_schema(&name, schema.as_value())
    });
}

/// The schemas that a schema refers to, by name.
struct Definitions(Map<String, Value>);

impl Definitions {
    /// Those that have a name in the document: objects and enums. The schema of an id or a timestamp stands in the
    /// member.
    fn named(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.0.iter().filter(|(_, schema)| is_named(schema))
    }

    fn named_schema(&self, name: &str, schema: &Value) -> MetaSchema {
        let MetaSchemaRef::Inline(mut schema) = self.convert(schema) else { return MetaSchema::ANY };
        schema.title = (schema.ty == "object").then(|| name.to_owned());
        *schema
    }

    fn convert(&self, schema: &Value) -> MetaSchemaRef {
        let Value::Object(members) = schema else { return inline(MetaSchema::ANY) };
        if let Some(reference) = members.get("$ref") {
            let description = MetaSchema { description: text(members, "description"), ..MetaSchema::ANY };
            return self.resolve(reference.as_str().unwrap_or_default()).merge(description);
        }
        // schemars writes an optional reference as one of two forms, the second of which is null.
        if let Some([form, null]) = list(members, "anyOf")
            && *null == serde_json::json!({"type": "null"})
        {
            let description = MetaSchema { description: text(members, "description"), ..MetaSchema::ANY };
            return self
                .convert(form)
                .merge(description)
                .merge(MetaSchema { nullable: true, ..MetaSchema::ANY });
        }
        inline(self.convert_members(members))
    }

    fn resolve(&self, reference: &str) -> MetaSchemaRef {
        let name = reference.rsplit('/').next().unwrap_or_default();
        match self.0.get(name) {
            Some(schema) if !is_named(schema) => match self.convert(schema) {
                MetaSchemaRef::Inline(schema) => inline(MetaSchema { description: None, ..*schema }),
                named @ MetaSchemaRef::Reference(_) => named,
            },
            _ => MetaSchemaRef::Reference(name.to_owned()),
        }
    }

    fn convert_members(&self, members: &Map<String, Value>) -> MetaSchema {
        let one = |key: &str| members.get(key).filter(|value| !value.is_boolean());
        let number = |key: &str| members.get(key).and_then(Value::as_f64);
        let length = |key: &str| members.get(key).and_then(Value::as_u64).map(|length| length as usize);
        let convert_all =
            |key: &str| list(members, key).unwrap_or_default().iter().map(|form| self.convert(form));
        let (ty, nullable) = type_of(members);
        let enum_items = enum_items(members);
        MetaSchema {
            ty,
            nullable,
            format: text(members, "format"),
            description: description(members),
            // Of a member that is left out while it is empty, schemars says that null is its default.
            default: members.get("default").filter(|default| nullable || !default.is_null()).cloned(),
            required: list(members, "required")
                .unwrap_or_default()
                .iter()
                .filter_map(|name| name.as_str().map(intern))
                .collect(),
            properties: members
                .get("properties")
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
                .map(|(name, schema)| (intern(name), self.convert(schema)))
                .collect(),
            items: one("items").map(|items| Box::new(self.convert(items))),
            additional_properties: one("additionalProperties").map(|others| Box::new(self.convert(others))),
            any_of: convert_all("anyOf").collect(),
            one_of: if enum_items.is_empty() { convert_all("oneOf").collect() } else { Vec::new() },
            enum_items,
            minimum: number("minimum"),
            maximum: number("maximum"),
            min_length: length("minLength"),
            max_length: length("maxLength"),
            min_items: length("minItems"),
            max_items: length("maxItems"),
            pattern: text(members, "pattern").map(str::to_owned),
            ..MetaSchema::ANY
        }
    }
}

fn inline(schema: MetaSchema) -> MetaSchemaRef {
    MetaSchemaRef::Inline(Box::new(schema))
}

fn is_named(schema: &Value) -> bool {
    let Value::Object(members) = schema else { return false };
    members.contains_key("properties") || members.contains_key("oneOf") || !enum_items(members).is_empty()
}

fn list<'a>(members: &'a Map<String, Value>, key: &str) -> Option<&'a [Value]> {
    members.get(key).and_then(Value::as_array).map(Vec::as_slice)
}

/// The type, and whether null is allowed beside it.
fn type_of(members: &Map<String, Value>) -> (&'static str, bool) {
    match members.get("type") {
        Some(Value::String(ty)) => (intern(ty), false),
        Some(Value::Array(types)) => {
            let named = types.iter().filter_map(Value::as_str).find(|ty| *ty != "null");
            (named.map_or("", intern), types.iter().any(|ty| ty == "null"))
        }
        // An enum whose variants have descriptions is a list of forms.
        _ if !enum_items(members).is_empty() => ("string", false),
        _ => ("", false),
    }
}

/// The values of an enum: in one list, or, if they have descriptions, in a form each.
fn enum_items(members: &Map<String, Value>) -> Vec<Value> {
    if let Some(items) = list(members, "enum") {
        return items.to_vec();
    }
    if let Some(item) = members.get("const") {
        return vec![item.clone()];
    }
    let items = |form: &Value| match (form.get("const"), form.get("enum")) {
        (Some(item), _) => Some(vec![item.clone()]),
        (None, Some(Value::Array(items))) => Some(items.clone()),
        _ => None,
    };
    let forms: Option<Vec<_>> = list(members, "oneOf").unwrap_or_default().iter().map(items).collect();
    forms.unwrap_or_default().concat()
}

/// The description of a type, with those of an enum's values.
fn description(members: &Map<String, Value>) -> Option<&'static str> {
    let mut described = members.get("description").and_then(Value::as_str).map(str::to_owned);
    for form in list(members, "oneOf").unwrap_or_default() {
        if let (Some(value), Some(meaning)) = (form.get("const"), form.get("description"))
            && let (Some(value), Some(meaning)) = (value.as_str(), meaning.as_str())
        {
            let all = described.get_or_insert_default();
            all.push_str(&format!(
                "{}- `{value}`: {meaning}",
                if all.contains("\n- `") { "\n" } else { "\n\n" }
            ));
        }
    }
    described.as_deref().map(intern)
}

fn text(members: &Map<String, Value>, key: &str) -> Option<&'static str> {
    members.get(key).and_then(Value::as_str).map(intern)
}

/// The registry of poem-openapi holds static text only. The number of different texts is that of the program's types,
/// however often a document is made.
pub(crate) fn intern(text: &str) -> &'static str {
    static TEXTS: Mutex<Option<HashSet<&'static str>>> = Mutex::new(None);
    let mut texts = TEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    let texts = texts.get_or_insert_default();
    match texts.get(text) {
        Some(known) => known,
        None => {
            let text: &'static str = Box::leak(text.into());
            texts.insert(text);
            text
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use event_schemas::ids::{ImageMatchId, JobId, Position};
    use event_schemas::time::Timestamp;

    /// A level.
    #[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
    #[serde(rename_all = "snake_case")]
    enum Level {
        Low,
        /// Above all others.
        VeryHigh,
    }

    /// A part of an answer.
    #[derive(Serialize, JsonSchema)]
    struct Part {
        position: Position,
    }

    /// An answer.
    #[derive(Serialize, JsonSchema)]
    #[schemars(rename = "Answer")]
    struct AnswerView {
        id: JobId,
        text_id: Option<ImageMatchId>,
        level: Level,
        /// The first part.
        first: Option<Part>,
        parts: Vec<Part>,
        at: Option<Timestamp>,
        fraction: f64,
        anything: Value,
        members: Map<String, Value>,
        #[serde(flatten)]
        more: More,
    }

    #[derive(Serialize, JsonSchema)]
    struct More {
        count: u16,
    }

    #[test]
    fn schemas_are_those_of_the_document() {
        let mut registry = Registry::new();
        register::<AnswerView>(&mut registry);
        insta::assert_json_snapshot!(registry.schemas);
    }

    #[test]
    #[should_panic(expected = "two types have the OpenAPI name Part")]
    fn two_schemas_of_one_name_are_refused() {
        #[derive(JsonSchema)]
        #[schemars(rename = "Part")]
        #[expect(dead_code, reason = "only its schema is used")]
        struct OtherPart {
            count: u64,
        }
        let mut registry = Registry::new();
        register::<OtherPart>(&mut registry);
        register::<AnswerView>(&mut registry);
    }

    #[test]
    fn parameter_is_one_of_the_values_in_json() {
        assert_eq!(Api::parse_from_parameter("very_high").ok(), Some(Api(Level::VeryHigh)));
        assert_eq!(Api::parse_from_json(Some("low".into())).ok(), Some(Api(Level::Low)));
        let error = Api::<Level>::parse_from_parameter("high").unwrap_err();
        assert!(error.message().contains("must be one of low, very_high"), "{}", error.message());
        assert_eq!(Api(Level::VeryHigh).to_json(), Some("very_high".into()));
    }
}
