//! Corrects the OpenAPI document of poem-openapi.
//!
//! poem-openapi writes a path twice if two APIs have operations on it, and JSON parsers keep only one of two equal keys.
//! It lists for every operation all responses of its error type. And it serializes absent members as null without
//! documenting it.

mod null;

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// The specification is not JSON, which poem-openapi never writes.
#[derive(Debug, thiserror::Error)]
#[error("the OpenAPI specification cannot be read: {0}")]
pub struct InvalidDocument(#[from] serde_json::Error);

/// The responses of operations with a body only.
const WITH_A_BODY: [&str; 3] = ["408", "413", "415"];

/// The responses of operations that change something only.
const WITH_A_CHANGE: [&str; 2] = ["422", "507"];

/// The responses of downloads only, which can be asked for in parts: of a file that is not complete, and of a part that it has
/// not.
const WITH_PARTS: [&str; 2] = ["409", "416"];

/// The responses of authenticated operations only.
const WITH_A_CALLER: [&str; 2] = ["401", "403"];

/// The document from `OpenApiService::spec()`: the paths of several APIs are merged, every operation has an id, and
/// responses that an operation cannot return are removed.
///
/// # Errors
/// If `spec` is not JSON.
pub fn document(spec: &str) -> Result<Value, InvalidDocument> {
    let Merged(mut document) = serde_json::from_str(spec)?;
    document["openapi"] = "3.1.0".into();
    document["servers"] = serde_json::json!([{ "url": "/" }]);
    single_references(&mut document);
    let paths = document["paths"].as_object_mut().into_iter().flatten();
    for (path, operations) in paths {
        for (method, operation) in operations.as_object_mut().into_iter().flatten() {
            if let Value::Object(operation) = operation {
                finish(path, method, operation);
            }
        }
    }
    for (name, schema) in document["components"]["schemas"].as_object_mut().into_iter().flatten() {
        unsigned_minimum(schema);
        // A problem omits absent members.
        if !matches!(name.as_str(), "Problem" | "ProblemPart") {
            allow_null(schema);
        }
    }
    null::use_types(&mut document);
    Ok(document)
}

/// Marks the credentials of every operation as optional, as they are on a server without keys.
pub fn open(document: &mut Value) {
    let paths = document["paths"].as_object_mut().into_iter().flatten();
    for operation in paths.flat_map(|(_, operations)| operations.as_object_mut()).flat_map(Map::values_mut) {
        if let Some(security) = operation.get_mut("security").and_then(Value::as_array_mut) {
            security.insert(0, Value::Object(Map::new()));
        }
    }
}

/// Says of the schema of a request that exactly one of these members is given. In a part of its own, because client
/// generators take alternatives beside the members for different types.
pub fn require_one_of(document: &mut Value, schema: &str, members: [&str; 2]) {
    let given = |member: &str| serde_json::json!({ "required": [member], "properties": { (member): { "not": { "type": "null" } } } });
    if let Some(schema) = document["components"]["schemas"].get_mut(schema) {
        schema["allOf"] = serde_json::json!([{ "oneOf": members.map(given) }]);
    }
}

fn finish(path: &str, method: &str, operation: &mut Map<String, Value>) {
    let has_body = operation.contains_key("requestBody");
    let has_caller = operation.contains_key("security");
    let changes = method != "get";
    if let Some(Value::Object(responses)) = operation.get_mut("responses") {
        let has_parts = responses.contains_key("206");
        responses.retain(|status, _| {
            let status = status.as_str();
            if WITH_PARTS.contains(&status) {
                return has_parts || (changes && status != "416");
            }
            (has_body || !WITH_A_BODY.contains(&status))
                && (changes || !WITH_A_CHANGE.contains(&status))
                && (has_caller || !WITH_A_CALLER.contains(&status))
        });
    }
    // Every operation refuses a parameter that is given twice.
    let responses = operation.entry("responses").or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(responses) = responses
        && !responses.keys().any(|status| status.starts_with('4'))
    {
        let schema = serde_json::json!({ "$ref": "#/components/schemas/Problem" });
        let content = serde_json::json!({ (crate::problem::MEDIA_TYPE): { "schema": schema } });
        let description = crate::problem::Code::InvalidRequest.title();
        responses.insert("400".into(), serde_json::json!({ "description": description, "content": content }));
    }
    // What linters of documents ask for.
    operation.entry("security").or_insert_with(|| Value::Array(Vec::new()));
    let summary = operation.get("summary").and_then(Value::as_str).map(|summary| format!("{summary}."));
    if let Some(summary) = summary {
        operation.entry("description").or_insert(summary.into());
    }
    operation.entry("operationId").or_insert_with(|| operation_id(path, method).into());
}

/// A reference with a description is an `allOf` with one part. poem-openapi repeats the description in a second part, which
/// client generators take for another schema.
fn single_references(value: &mut Value) {
    match value {
        Value::Object(members) => {
            if let Some(Value::Array(parts)) = members.get_mut("allOf")
                && let [first, others @ ..] = parts.as_slice()
                && first.get("$ref").is_some()
                && others.iter().all(|part| part.get("$ref").is_none())
            {
                parts.truncate(1);
            }
            members.values_mut().for_each(single_references);
        }
        Value::Array(items) => items.iter_mut().for_each(single_references),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Optional members are null in responses, and may be null in requests.
fn allow_null(schema: &mut Value) {
    let Value::Object(schema) = schema else { return };
    let required = schema.get("required").cloned().unwrap_or_default();
    let is_required =
        |name: &str| required.as_array().is_some_and(|required| required.iter().any(|member| member == name));
    for (name, member) in schema.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
        allow_null(member);
        if is_required(name) {
            continue;
        }
        if let Value::Object(member) = member {
            // Members beside a `$ref` are ignored, so the reference moves one level down.
            if let Some(reference) = member.remove("$ref") {
                member.insert("allOf".into(), serde_json::json!([{ "$ref": reference }]));
            }
            member.insert("nullable".into(), true.into());
        }
    }
    for part in ["allOf", "anyOf", "oneOf"] {
        schema.get_mut(part).and_then(Value::as_array_mut).into_iter().flatten().for_each(allow_null);
    }
    for part in ["items", "additionalProperties"] {
        schema.get_mut(part).into_iter().for_each(allow_null);
    }
}

/// JSON Schema has no `uint64`: unsigned integers get the minimum 0.
fn unsigned_minimum(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            let format = members.get("format").and_then(Value::as_str);
            if format.is_some_and(|format| format.starts_with("uint")) {
                members.entry("minimum").or_insert(0.into());
            }
            members.values_mut().for_each(unsigned_minimum);
        }
        Value::Array(items) => items.iter_mut().for_each(unsigned_minimum),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// `get_jobs_by_job_id` for `GET /jobs/{job_id}`: the name of the operation in generated clients.
fn operation_id(path: &str, method: &str) -> String {
    let mut id = method.to_owned();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        let name = part.trim_start_matches('{').trim_end_matches('}');
        id += if part.starts_with('{') { "_by_" } else { "_" };
        id.extend(name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }));
    }
    id
}

/// JSON in which the objects of a duplicate key are merged.
struct Merged(Value);

impl<'de> Deserialize<'de> for Merged {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MergedVisitor).map(Self)
    }
}

struct MergedVisitor;

impl<'de> Visitor<'de> for MergedVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        // The registry stores limits as doubles; some parsers do not accept `500.0` as an integer.
        let whole = value.fract() == 0.0 && value.abs() < 9.2e18;
        Ok(if whole { (value as i64).into() } else { value.into() })
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Merged(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some((key, Merged(value))) = members.next_entry::<String, _>()? {
            merge(&mut object, key, value);
        }
        Ok(object.into())
    }
}

fn merge(object: &mut Map<String, Value>, key: String, value: Value) {
    match (object.get_mut(&key), value) {
        (Some(Value::Object(first)), Value::Object(second)) => {
            for (key, value) in second {
                merge(first, key, value);
            }
        }
        (_, value) => {
            object.insert(key, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use poem_openapi::param::Path;
    use poem_openapi::{OpenApi, OpenApiService};

    use super::*;
    use crate::caller::Caller;
    use crate::json::Json;
    use crate::problem::Problem;

    struct Reads;

    #[OpenApi]
    impl Reads {
        #[oai(path = "/things/:id", method = "get")]
        async fn read(&self, _caller: Caller, id: Path<String>) -> Result<Json<String>, Problem> {
            Ok(Json(id.0))
        }

        #[oai(path = "/health", method = "get")]
        async fn health(&self) -> Result<Json<String>, Problem> {
            Ok(Json("ok".into()))
        }
    }

    struct Writes;

    #[OpenApi]
    impl Writes {
        #[oai(path = "/things/:id", method = "put", operation_id = "put_thing")]
        async fn write(
            &self,
            _caller: Caller,
            id: Path<String>,
            body: Json<String>,
        ) -> Result<Json<String>, Problem> {
            Ok(Json(id.0 + &body.0))
        }
    }

    fn example_document() -> Value {
        document(&OpenApiService::new((Reads, Writes), "t", "1").spec()).unwrap()
    }

    fn statuses(operation: &Value) -> Vec<&str> {
        operation["responses"].as_object().unwrap().keys().map(String::as_str).collect()
    }

    #[test]
    fn operations_of_two_apis_on_one_path_are_merged() {
        let document = example_document();
        let path = &document["paths"]["/things/{id}"];
        assert_eq!(path["get"]["operationId"], "get_things_by_id");
        assert_eq!(path["put"]["operationId"], "put_thing");
    }

    #[test]
    fn operation_lists_only_its_possible_responses() {
        let document = example_document();
        let path = &document["paths"]["/things/{id}"];
        assert_eq!(
            statuses(&path["put"]),
            [
                "200", "400", "401", "403", "404", "408", "409", "410", "413", "415", "422", "429", "500",
                "503", "507"
            ]
        );
        assert_eq!(statuses(&path["get"]), ["200", "400", "401", "403", "404", "410", "429", "500", "503"]);
        assert_eq!(
            statuses(&document["paths"]["/health"]["get"]),
            ["200", "400", "404", "410", "429", "500", "503"]
        );
    }

    #[test]
    fn credentials_are_optional_on_an_open_server() {
        let mut document = serde_json::json!({"paths": {"/a": {
            "get": {"security": [{"Bearer": []}]},
            "post": {},
        }}});
        open(&mut document);
        assert_eq!(document["paths"]["/a"]["get"]["security"], serde_json::json!([{}, {"Bearer": []}]));
        assert_eq!(document["paths"]["/a"]["post"], serde_json::json!({}));
    }

    #[test]
    fn unsigned_integers_have_the_minimum_zero() {
        let mut schema = serde_json::json!({"items": [
            {"type": "integer", "format": "uint64"},
            {"type": "integer", "format": "uint32", "minimum": 1},
            {"type": "integer", "format": "int32"},
        ]});
        unsigned_minimum(&mut schema);
        let minimums = schema["items"].as_array().unwrap().iter().map(|item| item["minimum"].clone());
        assert_eq!(minimums.collect::<Value>(), serde_json::json!([0, 1, null]));
    }

    #[test]
    fn described_reference_is_a_single_reference() {
        let reference = serde_json::json!({"$ref": "#/components/schemas/Kind"});
        let mut schema = serde_json::json!({
            "properties": {"kind": {"allOf": [reference, {"description": "a"}], "description": "a"}},
        });
        single_references(&mut schema);
        assert_eq!(
            schema["properties"]["kind"],
            serde_json::json!({"allOf": [reference], "description": "a"})
        );
    }

    #[test]
    fn optional_members_are_nullable() {
        let mut schema = serde_json::json!({
            "type": "object",
            "required": ["id"],
            "properties": {
                "id": {"type": "string"},
                "name": {"type": "string"},
                "kind": {"$ref": "#/components/schemas/Kind"},
            },
        });
        allow_null(&mut schema);
        assert_eq!(
            schema["properties"],
            serde_json::json!({
                "id": {"type": "string"},
                "name": {"type": "string", "nullable": true},
                "kind": {"allOf": [{"$ref": "#/components/schemas/Kind"}], "nullable": true},
            })
        );
    }

    #[test]
    fn problems_and_security_schemes_are_described() {
        let document = example_document();
        let refusal = &document["paths"]["/things/{id}"]["get"]["responses"]["404"];
        assert_eq!(
            refusal["content"]["application/problem+json"]["schema"]["$ref"],
            "#/components/schemas/Problem"
        );
        insta::assert_json_snapshot!(document["components"]);
        let security = document["paths"]["/things/{id}"]["get"]["security"].as_array().unwrap();
        assert_eq!(security.len(), 2);
        assert!(document["paths"]["/health"]["get"]["security"] == serde_json::json!([]));
    }
}
