//! Validates values against the schema of the OpenAPI document.

use std::any::TypeId;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use event_schemas::ids::is_invisible;
use event_schemas::time::Timestamp;
use poem_openapi::registry::{MetaSchema, MetaSchemaRef, Registry};
use poem_openapi::types::{ParseFromParameter, Type};
use serde_json::Value;

use crate::problem::FieldError;
use crate::value::{ApiPosition, POSITION_AS_TEXT, PRINTABLE};

/// The most errors that are reported for one body.
pub(super) const ERRORS_MAX: usize = 20;

/// The schema of a type, with all schemas it refers to.
pub(super) struct TypeSchema {
    registry: Registry,
    pub(super) schema: MetaSchemaRef,
}

impl TypeSchema {
    /// The schema of values of which nothing is known.
    pub(super) fn none() -> Self {
        Self { registry: Registry::new(), schema: MetaSchemaRef::Inline(Box::new(MetaSchema::ANY)) }
    }
}

/// The schema of a type. Cached, because building one costs more than parsing a small body.
pub(super) fn schema_of<T: Type + 'static>() -> Arc<TypeSchema> {
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

/// A path in the body, formatted only for an error.
pub(super) enum JsonPath<'a> {
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

/// The violations of a schema that were found so far.
pub(super) struct Diagnosis<'a> {
    registry: &'a Registry,
    pub(super) errors: Vec<FieldError>,
}

impl<'a> Diagnosis<'a> {
    pub(super) fn new(described: &'a TypeSchema) -> Self {
        Self { registry: &described.registry, errors: Vec::new() }
    }

    pub(super) fn error(&mut self, path: &JsonPath<'_>, reason: impl Into<String>) {
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(FieldError::new(path.to_string(), reason));
        }
    }

    /// The schema itself, where it is referred to, or stands alone in a list that adds a description to it.
    pub(super) fn resolve<'s>(&self, schema: &'s MetaSchemaRef) -> Option<&'s MetaSchema>
    where
        'a: 's,
    {
        match schema {
            MetaSchemaRef::Inline(schema) => match schema.all_of.as_slice() {
                [only] if schema.ty.is_empty() && !schema.nullable => self.resolve(only),
                // A member with a description of its own: without its members, an object would be read as an empty one.
                [described @ MetaSchemaRef::Reference(_), MetaSchemaRef::Inline(words)]
                    if schema.ty.is_empty() && words.properties.is_empty() =>
                {
                    self.resolve(described).filter(|of| of.ty == "object").or(Some(schema))
                }
                _ => Some(schema),
            },
            MetaSchemaRef::Reference(name) => self.registry.schemas.get(name),
        }
    }

    /// Checks a scalar, or what a list or object is, without what is in it.
    pub(super) fn check(&mut self, schema: &MetaSchema, value: &Value, path: &JsonPath<'_>) {
        if value.is_null() && schema.nullable {
            return;
        }
        for part in &schema.all_of {
            if let Some(part) = self.resolve(part) {
                self.check(part, value, path);
            }
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
            self.error(path, wrong_type(schema, value));
            return;
        }
        match value {
            Value::String(text) => self.check_text(schema, text, path),
            Value::Number(number) => self.check_number(schema, number.as_f64().unwrap_or(f64::NAN), path),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => {}
        }
    }

    /// The value matches none of these forms: reports the violations of the form that has its type, or else the possible
    /// types.
    fn check_forms(&mut self, forms: &[&MetaSchemaRef], value: &Value, path: &JsonPath<'_>) {
        let forms: Vec<&MetaSchema> = forms.iter().filter_map(|form| self.resolve(form)).collect();
        let same_type = forms.iter().find(|form| has_type(form.ty, value));
        // A whole number in another notation has a reason of its own.
        let is_whole = value.as_f64().is_some_and(|number| number.fract() == 0.0);
        let integer = forms.iter().find(|form| form.ty == "integer" && is_whole);
        match (same_type, integer) {
            (Some(form), _) => self.check(form, value, path),
            (None, Some(form)) => self.error(path, wrong_type(form, value)),
            (None, None) => {
                let types: Vec<String> = forms.iter().map(|form| name_of_type(form.ty)).collect();
                self.error(path, format!("must be {}, not {}", types.join(" or "), name_of(value)));
            }
        }
    }

    fn is_valid(&self, schema: &MetaSchemaRef, value: &Value) -> bool {
        let mut trial = Diagnosis { registry: self.registry, errors: Vec::new() };
        if let Some(schema) = self.resolve(schema) {
            trial.check(schema, value, &JsonPath::Body);
        }
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
        if schema.pattern.as_deref() == Some(PRINTABLE)
            && let Some(invisible) = text.chars().find(|letter| is_invisible(*letter))
        {
            self.error(path, format!("has the invisible character U+{:04X}", u32::from(invisible)));
        }
        match schema.format {
            Some("uuid") if uuid::Uuid::parse_str(text).is_err() => self.error(path, "is not a UUID"),
            Some(POSITION_AS_TEXT) if ApiPosition::parse_from_parameter(text).is_err() => {
                self.error(path, "is not a position");
            }
            Some("date-time") if text.parse::<Timestamp>().is_err() => {
                self.error(path, "is not an RFC 3339 instant such as 2026-11-20T10:00:00.000000Z");
            }
            _ => {}
        }
    }

    fn check_number(&mut self, schema: &MetaSchema, number: f64, path: &JsonPath<'_>) {
        if schema.ty == "integer" {
            if let Some(reason) = out_of_range(schema, number) {
                self.error(path, reason);
            }
            return;
        }
        if let Some(min) = schema.minimum {
            if schema.exclusive_minimum == Some(true) && number <= min {
                self.error(path, format!("must be more than {min}"));
            } else if number < min {
                self.error(path, format!("must be at least {min}"));
            }
        }
        if let Some(max) = schema.maximum {
            if schema.exclusive_maximum == Some(true) && number >= max {
                self.error(path, format!("must be less than {max}"));
            } else if number > max {
                self.error(path, format!("must be at most {max}"));
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

/// The reason why a value that is not of the schema's type is refused.
fn wrong_type(schema: &MetaSchema, value: &Value) -> String {
    let number = value.as_f64().filter(|number| schema.ty == "integer" && number.fract() == 0.0);
    match number {
        Some(0.0) if value.to_string().starts_with('-') => "must be written as 0, without a sign".to_owned(),
        Some(number) => out_of_range(schema, number).unwrap_or_else(|| {
            format!("must be written in digits only, as {number}, without a fraction or an exponent")
        }),
        None => format!("must be {}, not {}", name_of_type(schema.ty), name_of(value)),
    }
}

/// The reason why an integer is refused that its schema or its type does not allow.
fn out_of_range(schema: &MetaSchema, number: f64) -> Option<String> {
    let (min, max): (i128, i128) = match schema.format {
        Some("uint8") => (0, u8::MAX.into()),
        Some("uint16") => (0, u16::MAX.into()),
        Some("uint32") => (0, u32::MAX.into()),
        Some("uint64") => (0, u64::MAX.into()),
        Some("int32") => (i32::MIN.into(), i32::MAX.into()),
        _ => (i64::MIN.into(), i64::MAX.into()),
    };
    let min = schema.minimum.map_or(min, |bound| min.max(bound as i128));
    let max = schema.maximum.map_or(max, |bound| max.min(bound as i128));
    match number as i128 {
        number if number < min => Some(format!("must be at least {min}")),
        number if number > max => Some(format!("must be at most {max}")),
        _ => None,
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
        Value::Number(number) if number.as_f64().is_some_and(|number| number.fract() != 0.0) => {
            "a number with a fraction"
        }
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
