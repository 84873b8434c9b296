//! Validates a value field by field against the schema of the OpenAPI document.

use std::any::TypeId;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use event_schemas::time::Timestamp;
use poem_openapi::registry::{MetaSchema, MetaSchemaRef, Registry};
use poem_openapi::types::Type;
use serde_json::Value;

use crate::problem::FieldError;
use crate::value::PRINTABLE;

/// The most errors that are reported for one body.
const ERRORS_MAX: usize = 20;

/// The schema of a type, with all schemas it refers to.
struct TypeSchema {
    registry: Registry,
    schema: MetaSchemaRef,
}

/// The schema of a type. Cached, because building one costs more than parsing a small body.
fn schema_of<T: Type + 'static>() -> Arc<TypeSchema> {
    static CACHE: OnceLock<RwLock<HashMap<TypeId, Arc<TypeSchema>>>> = OnceLock::new();
    let cache = CACHE.get_or_init(RwLock::default);
    let id = TypeId::of::<T>();
    if let Some(schema) = cache.read().unwrap_or_else(PoisonError::into_inner).get(&id) {
        return schema.clone();
    }
    let mut registry = Registry::new();
    T::register(&mut registry);
    let schema = Arc::new(TypeSchema { registry, schema: T::schema_ref() });
    cache.write().unwrap_or_else(PoisonError::into_inner).insert(id, schema.clone());
    schema
}

/// The violations of the schema of `T` in `value`, up to [`ERRORS_MAX`].
pub(super) fn errors_of<T: Type + 'static>(value: &Value) -> Vec<FieldError> {
    let described = schema_of::<T>();
    let mut diagnosis = Diagnosis { registry: &described.registry, errors: Vec::new() };
    diagnosis.check(&described.schema, value, &JsonPath::Body);
    diagnosis.errors
}

/// A path in the body, formatted only for an error.
enum JsonPath<'a> {
    Body,
    Member(&'a JsonPath<'a>, &'a str),
    Item(&'a JsonPath<'a>, usize),
}

impl fmt::Display for JsonPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Body => f.write_str("body"),
            Self::Member(Self::Body, name) => f.write_str(name),
            Self::Member(parent, name) => write!(f, "{parent}.{name}"),
            Self::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// An error from poem-openapi's message, for rules that are not in a schema: it names fields in backticks.
pub(super) fn from_message(message: &str) -> FieldError {
    let reason = message.split(" (occurred while parsing").next().unwrap_or(message);
    let reason = match reason.split_once("\": ") {
        Some((head, tail)) if head.starts_with("failed to parse \"") => tail,
        _ => reason,
    };
    let reason = reason.trim_end_matches('.');
    let mut parts = reason.splitn(3, '`');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(before), Some(field), Some(after)) => {
            let after = after.trim_start_matches(" verification failed. ");
            let reason = if after.is_empty() { before.trim() } else { after };
            FieldError::new(field, reason)
        }
        _ => FieldError::new("body", reason),
    }
}

struct Diagnosis<'a> {
    registry: &'a Registry,
    errors: Vec<FieldError>,
}

impl Diagnosis<'_> {
    fn error(&mut self, path: &JsonPath<'_>, reason: impl Into<String>) {
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(FieldError::new(path.to_string(), reason));
        }
    }

    fn check(&mut self, schema: &MetaSchemaRef, value: &Value, path: &JsonPath<'_>) {
        let registry = self.registry;
        match schema {
            MetaSchemaRef::Inline(schema) => self.check_schema(schema, value, path),
            MetaSchemaRef::Reference(name) => {
                if let Some(schema) = registry.schemas.get(name) {
                    self.check_schema(schema, value, path);
                }
            }
        }
    }

    fn check_schema(&mut self, schema: &MetaSchema, value: &Value, path: &JsonPath<'_>) {
        if value.is_null() && schema.nullable {
            return;
        }
        for part in &schema.all_of {
            self.check(part, value, path);
        }
        let forms: Vec<&MetaSchemaRef> = schema.any_of.iter().chain(&schema.one_of).collect();
        if !forms.is_empty() && !forms.iter().any(|form| self.is_valid(form, value)) {
            self.check_forms(&forms, value, path);
            return;
        }
        if !schema.enum_items.is_empty() && !schema.enum_items.contains(value) {
            let known: Vec<String> = schema.enum_items.iter().map(Value::to_string).collect();
            self.error(path, format!("must be one of {}", known.join(", ")));
            return;
        }
        if !has_type(schema.ty, value) {
            self.error(path, format!("must be {}, not {}", name_of_type(schema.ty), name_of(value)));
            return;
        }
        match value {
            Value::String(text) => self.check_text(schema, text, path),
            Value::Number(number) => self.check_number(schema, number.as_f64().unwrap_or(f64::NAN), path),
            Value::Array(items) => self.check_items(schema, items, path),
            Value::Object(members) => self.check_members(schema, members, path),
            Value::Null | Value::Bool(_) => {}
        }
    }

    /// The value matches none of these forms: reports the violations of the form that has its type, or else the possible
    /// types.
    fn check_forms(&mut self, forms: &[&MetaSchemaRef], value: &Value, path: &JsonPath<'_>) {
        let types: Vec<&str> = forms.iter().filter_map(|form| self.type_of(form)).collect();
        let same_type = forms.iter().find(|form| self.type_of(form).is_some_and(|ty| has_type(ty, value)));
        match same_type {
            Some(form) => self.check(form, value, path),
            None => {
                let types: Vec<String> = types.into_iter().map(name_of_type).collect();
                self.error(path, format!("must be {}, not {}", types.join(" or "), name_of(value)));
            }
        }
    }

    fn type_of(&self, form: &MetaSchemaRef) -> Option<&'static str> {
        match form {
            MetaSchemaRef::Inline(schema) => Some(schema.ty),
            MetaSchemaRef::Reference(name) => self.registry.schemas.get(name).map(|schema| schema.ty),
        }
    }

    fn is_valid(&self, schema: &MetaSchemaRef, value: &Value) -> bool {
        let mut trial = Diagnosis { registry: self.registry, errors: Vec::new() };
        trial.check(schema, value, &JsonPath::Body);
        trial.errors.is_empty()
    }

    fn check_text(&mut self, schema: &MetaSchema, text: &str, path: &JsonPath<'_>) {
        let length = text.chars().count();
        if let Some(min) = schema.min_length.filter(|min| length < *min) {
            let reason = if min == 1 {
                "must not be empty".into()
            } else {
                format!("must have at least {min} characters")
            };
            self.error(path, reason);
        }
        if let Some(max) = schema.max_length.filter(|max| length > *max) {
            self.error(path, format!("must have at most {max} characters"));
        }
        if schema.pattern.as_deref() == Some(PRINTABLE) && text.chars().any(char::is_control) {
            self.error(path, "must have printable characters only");
        }
        match schema.format {
            Some("uuid") if uuid::Uuid::parse_str(text).is_err() => self.error(path, "is not a UUID"),
            Some("date-time") if text.parse::<Timestamp>().is_err() => {
                self.error(path, "is not an RFC 3339 instant such as 2026-11-20T10:00:00.000000Z");
            }
            _ => {}
        }
    }

    fn check_number(&mut self, schema: &MetaSchema, number: f64, path: &JsonPath<'_>) {
        if let Some(min) = schema.minimum {
            if schema.exclusive_minimum == Some(true) && number <= min {
                self.error(path, format!("must be more than {min}"));
            } else if number < min {
                self.error(path, format!("must be at least {min}"));
            }
        } else if schema.format.is_some_and(|format| format.starts_with("uint")) && number < 0.0 {
            self.error(path, "must be at least 0");
        }
        if let Some(max) = schema.maximum {
            if schema.exclusive_maximum == Some(true) && number >= max {
                self.error(path, format!("must be less than {max}"));
            } else if number > max {
                self.error(path, format!("must be at most {max}"));
            }
        }
    }

    fn check_items(&mut self, schema: &MetaSchema, items: &[Value], path: &JsonPath<'_>) {
        if let Some(min) = schema.min_items.filter(|min| items.len() < *min) {
            self.error(path, format!("must have at least {min} items"));
        }
        if let Some(max) = schema.max_items.filter(|max| items.len() > *max) {
            self.error(path, format!("must have at most {max} items"));
        }
        if let Some(item_schema) = &schema.items {
            for (index, item) in items.iter().enumerate() {
                if self.errors.len() >= ERRORS_MAX {
                    break;
                }
                self.check(item_schema, item, &JsonPath::Item(path, index));
            }
        }
    }

    fn check_members(
        &mut self,
        schema: &MetaSchema,
        members: &serde_json::Map<String, Value>,
        path: &JsonPath<'_>,
    ) {
        for (name, member) in &schema.properties {
            let required = schema.required.contains(name);
            match members.get(*name) {
                Some(Value::Null) | None if !required => {}
                Some(value) => self.check(member, value, &JsonPath::Member(path, name)),
                None => self.error(&JsonPath::Member(path, name), "is missing"),
            }
        }
        if let Some(others) = &schema.additional_properties {
            for (name, value) in members {
                if !schema.properties.iter().any(|(known, _)| known == name) {
                    self.check(others, value, &JsonPath::Member(path, name));
                }
            }
        }
    }
}

fn has_type(ty: &str, value: &Value) -> bool {
    match ty {
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => true,
    }
}

fn name_of_type(ty: &str) -> String {
    match ty {
        "integer" | "array" | "object" => format!("an {ty}"),
        _ => format!("a {ty}"),
    }
}

fn name_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a number with a fraction",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
