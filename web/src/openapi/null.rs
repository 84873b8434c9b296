//! Null in schemas.

use serde_json::{Map, Value};

/// Writes schemas in the form of OpenAPI 3.1, which is JSON Schema's: null is a type, and a reference may have a description
/// beside it. Client generators drop what 3.0 needs for the same, a list of one reference.
pub(super) fn use_types(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(use_types),
        Value::Object(members) => {
            members.values_mut().for_each(use_types);
            // A choice of one form is that form.
            if let Some(Value::Array(forms)) = members.get("oneOf")
                && let [Value::Object(only)] = forms.as_slice()
            {
                let only = only.clone();
                members.remove("oneOf");
                for (key, value) in only {
                    members.entry(key).or_insert(value);
                }
            }
            let null = || serde_json::json!({ "type": "null" });
            let is_nullable = members.remove("nullable") == Some(Value::Bool(true));
            let only = members.get("allOf").and_then(Value::as_array).filter(|parts| parts.len() == 1);
            match (only.and_then(|parts| parts.first().cloned()), is_nullable) {
                (Some(only), true) => {
                    members.remove("allOf");
                    members.insert("oneOf".into(), Value::Array(vec![only, null()]));
                }
                (Some(Value::Object(only)), false) => {
                    members.remove("allOf");
                    members.extend(only);
                }
                (_, true) => add_null(members, &null()),
                (_, false) => {}
            }
            for (exclusive, bound) in [("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")] {
                if members.get(exclusive) == Some(&Value::Bool(true))
                    && let Some(limit) = members.remove(bound)
                {
                    members.insert(exclusive.into(), limit);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn add_null(schema: &mut Map<String, Value>, null: &Value) {
    if let Some(forms) = ["oneOf", "anyOf"].into_iter().find(|forms| schema.contains_key(*forms)) {
        schema
            .get_mut(forms)
            .and_then(Value::as_array_mut)
            .into_iter()
            .for_each(|forms| forms.push(null.clone()));
    } else if let Some(ty) = schema.remove("type") {
        schema.insert("type".into(), Value::Array(vec![ty, "null".into()]));
        schema
            .get_mut("enum")
            .and_then(Value::as_array_mut)
            .into_iter()
            .for_each(|items| items.push(Value::Null));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_a_type() {
        let reference = serde_json::json!({"$ref": "#/components/schemas/Kind"});
        for (old, new) in [
            (
                serde_json::json!({"type": "string", "nullable": true, "enum": ["a"]}),
                serde_json::json!({"type": ["string", "null"], "enum": ["a", null]}),
            ),
            (
                serde_json::json!({"allOf": [reference], "nullable": true, "description": "a"}),
                serde_json::json!({"oneOf": [reference, {"type": "null"}], "description": "a"}),
            ),
            (
                serde_json::json!({"items": {"allOf": [reference], "description": "a"}}),
                serde_json::json!({"items": {"$ref": "#/components/schemas/Kind", "description": "a"}}),
            ),
            (
                serde_json::json!({"oneOf": [{"type": "string"}, {"type": "integer"}], "nullable": true}),
                serde_json::json!({"oneOf": [{"type": "string"}, {"type": "integer"}, {"type": "null"}]}),
            ),
            (
                serde_json::json!({"oneOf": [{"type": "string"}], "description": "a"}),
                serde_json::json!({"type": "string", "description": "a"}),
            ),
            (serde_json::json!({"nullable": true}), serde_json::json!({})),
        ] {
            let mut schema = old;
            use_types(&mut schema);
            assert_eq!(schema, new);
        }
    }
}
