//! Protects the stored forms: every type has a published schema and a stored sample of every version.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::*;
use crate::envelope::{DataFormat, Envelope, EventDecoder, EventType, Metadata, Recorded, Unreadable};
use crate::ids::{EventId, Position, Revision};
use crate::time::Timestamp;

/// The environment variable that makes the test write the published schemas.
const UPDATE: &str = "UPDATE_SCHEMAS";

/// A stored event: the bytes of its metadata and of its data.
#[derive(Deserialize)]
struct Sample<'a> {
    #[serde(borrow)]
    metadata: &'a RawValue,
    #[serde(borrow)]
    data: &'a RawValue,
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn fixture(kind: &EventKind, version: u16) -> String {
    let path = folder("fixtures").join(kind.name).join(format!("v{version}.json"));
    fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{} needs a stored sample in {}: {error}", kind.name, path.display()))
}

fn recorded(kind: &EventKind, sample: &Sample<'_>) -> Recorded {
    Recorded {
        position: Position(1),
        recorded_at: Timestamp::EPOCH,
        stream: "job-1".parse().unwrap(),
        revision: Revision(0),
        id: EventId(Uuid::nil()),
        event_type: EventType::new(kind.name),
        format: DataFormat::Json,
        metadata: sample.metadata.get().to_owned().into(),
        data: sample.data.get().to_owned().into(),
    }
}

fn schema(kind: &EventKind) -> Value {
    (kind.schema)().to_value()
}

fn names_in(folder: &Path) -> BTreeSet<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn event_types_have_unique_names() {
    let names: BTreeSet<&str> = all().iter().map(|kind| kind.name).collect();
    assert_eq!(names.len(), all().len());
    assert!(names.iter().all(|name| find(name).is_some_and(|kind| kind.name == *name)));
    assert!(find("NoSuchEvent").is_none());
}

#[test]
fn stored_samples_round_trip_byte_for_byte() {
    for kind in all() {
        for version in 1..=kind.version {
            let text = fixture(kind, version);
            let sample: Sample<'_> = serde_json::from_str(&text).unwrap();
            let metadata: Metadata = serde_json::from_str(sample.metadata.get()).unwrap();
            assert_eq!(metadata.schema_version, version, "{}", kind.name);
            assert_eq!(serde_json::to_string(&metadata).unwrap(), sample.metadata.get(), "{}", kind.name);
            let Envelope { event, .. } = recorded(kind, &sample).decode().unwrap();
            assert_eq!(event.event_type().as_str(), kind.name);
            if version == kind.version {
                assert_eq!(std::str::from_utf8(&event.encode()).unwrap(), sample.data.get(), "{}", kind.name);
                let rewritten = (kind.rewrite)(sample.data.get().as_bytes()).unwrap();
                assert_eq!(std::str::from_utf8(&rewritten).unwrap(), sample.data.get(), "{}", kind.name);
            }
        }
    }
}

#[test]
fn events_decoded_one_after_the_other_are_the_same() {
    let mut decoder = EventDecoder::default();
    let texts: Vec<(&EventKind, String)> =
        all().iter().map(|kind| (kind, fixture(kind, kind.version))).collect();
    for (kind, text) in &texts {
        let event = recorded(kind, &serde_json::from_str(text).unwrap());
        // The second one shares the metadata of the first.
        for event in [&event, &Recorded { position: Position(2), ..event.clone() }] {
            assert_eq!(decoder.decode(event).unwrap(), event.decode().unwrap());
        }
        let damaged = Recorded { metadata: "{}".into(), ..event };
        assert!(matches!(decoder.decode(&damaged), Err(Unreadable::Malformed { .. })));
    }
}

#[test]
fn newer_schema_version_is_rejected() {
    let kind = find("JobCreated").unwrap();
    let text = fixture(kind, kind.version);
    let sample: Sample<'_> = serde_json::from_str(&text).unwrap();
    let mut newer = recorded(kind, &sample);
    newer.metadata =
        sample.metadata.get().replace("\"schema_version\":1", "\"schema_version\":2").into_bytes().into();
    assert!(matches!(newer.decode(), Err(Unreadable::Newer { version: 2, known: 1, .. })));
    newer.event_type = EventType::new("NoSuchEvent");
    assert!(matches!(newer.decode(), Err(Unreadable::UnknownType { .. })));
}

/// Without this, a renamed optional field would go unnoticed.
#[test]
fn stored_sample_has_every_field() {
    for kind in all() {
        let text = fixture(kind, kind.version);
        let sample: Sample<'_> = serde_json::from_str(&text).unwrap();
        let data: Value = serde_json::from_str(sample.data.get()).unwrap();
        let schema = schema(kind);
        for property in schema["properties"].as_object().into_iter().flat_map(|properties| properties.keys())
        {
            assert!(data.get(property).is_some(), "the sample of {} lacks {property}", kind.name);
        }
    }
}

#[test]
fn published_schemas_match_types_and_stay_compatible() {
    for kind in all() {
        let path = folder("schemas").join(format!("{}.v{}.json", kind.name, kind.version));
        let present = serde_json::to_string_pretty(&schema(kind)).unwrap() + "\n";
        let published = fs::read_to_string(&path).ok();
        if published.as_ref() == Some(&present) {
            continue;
        }
        if let Some(published) = &published {
            let broken = breaks(&serde_json::from_str(published).unwrap(), &schema(kind));
            assert!(
                broken.is_empty(),
                "{} would break stored data ({}): give it a new version and keep the old one readable, or undo the change",
                kind.name,
                broken.join("; ")
            );
        }
        assert!(
            std::env::var_os(UPDATE).is_some(),
            "{} differs from its type; the change is compatible, publish it with {UPDATE}=1 cargo test -p event-schemas",
            path.display()
        );
        fs::write(&path, present).unwrap();
    }
    let versions = all().iter().flat_map(|kind| (1..=kind.version).map(move |version| (kind.name, version)));
    let schemas = versions.map(|(name, version)| format!("{name}.v{version}.json")).collect();
    assert_eq!(names_in(&folder("schemas")), schemas, "schemas are published for existing types only");
}

#[test]
fn fixtures_exist_for_known_types_only() {
    let types: BTreeSet<String> = all().iter().map(|kind| kind.name.to_owned()).collect();
    assert_eq!(names_in(&folder("fixtures")), types);
}

/// The changes in `new` that would break data or readers of `old`. Structural and strict: every change that
/// is not known to be harmless is reported.
fn breaks(old: &Value, new: &Value) -> Vec<String> {
    let mut broken = Vec::new();
    compare(old, new, "", &mut broken);
    broken
}

/// Keywords without an effect on validation.
const WORDS: [&str; 5] = ["description", "title", "$schema", "default", "examples"];

fn compare(old: &Value, new: &Value, path: &str, broken: &mut Vec<String>) {
    let (Some(old), Some(new)) = (old.as_object(), new.as_object()) else {
        if old != new {
            broken.push(format!("{path}/ was {old} and is {new}"));
        }
        return;
    };
    let keywords: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for keyword in keywords.into_iter().filter(|keyword| !WORDS.contains(&keyword.as_str())) {
        let here = format!("{path}/{keyword}");
        let (before, now) = (old.get(keyword), new.get(keyword));
        match (keyword.as_str(), before, now) {
            ("properties" | "$defs", before, Some(now)) => members(before, now, &here, broken),
            ("enum", Some(before), Some(now)) => {
                let is_kept = |value: &Value| items(now).contains(value);
                broken.extend(
                    items(before)
                        .iter()
                        .filter(|value| !is_kept(value))
                        .map(|value| format!("{here} lost {value}")),
                );
            }
            ("oneOf" | "anyOf", Some(before), Some(now)) => {
                let is_kept =
                    |variant: &Value| items(now).iter().any(|other| breaks(variant, other).is_empty());
                broken.extend(
                    items(before)
                        .iter()
                        .filter(|value| !is_kept(value))
                        .map(|value| format!("{here} lost {value}")),
                );
            }
            // Each number of the smaller format is one of the larger.
            ("format", Some(before), Some(now)) if before == "int32" && now == "int64" => {}
            ("required", before, now) => {
                let set = |list: Option<&Value>| list.map(items).unwrap_or_default().to_vec();
                let (before, now) = (set(before), set(now));
                if before.len() != now.len() || before.iter().any(|name| !now.contains(name)) {
                    broken.push(format!("{here} was {before:?} and is {now:?}"));
                }
            }
            (_, Some(before), Some(now)) => compare(before, now, &here, broken),
            (_, Some(_), None) => broken.push(format!("{here} was removed")),
            (_, None, _) => broken.push(format!("{here} is new, and may reject data that was valid")),
        }
    }
}

/// Members may be added, but not removed.
fn members(before: Option<&Value>, now: &Value, path: &str, broken: &mut Vec<String>) {
    for (name, before) in before.and_then(Value::as_object).into_iter().flatten() {
        match now.get(name) {
            Some(now) => compare(before, now, &format!("{path}/{name}"), broken),
            None => broken.push(format!("{path}/{name} was removed")),
        }
    }
}

fn items(list: &Value) -> &[Value] {
    list.as_array().map_or(&[], Vec::as_slice)
}

mod compatibility {
    use serde_json::json;

    use super::*;

    fn published() -> Value {
        json!({
            "title": "Thing",
            "type": "object",
            "properties": {
                "id": {"type": "string", "maxLength": 128},
                "phase": {"$ref": "#/$defs/Phase"},
                "note": {"type": ["string", "null"]},
            },
            "required": ["id", "phase"],
            "$defs": {"Phase": {"enum": ["queued", "done"], "type": "string"}},
        })
    }

    fn changed(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut schema = published();
        change(&mut schema);
        breaks(&published(), &schema)
    }

    #[test]
    fn optional_field_new_value_or_description_is_compatible() {
        assert_eq!(changed(|schema| schema["properties"]["more"] = json!({"type": "integer"})), [""; 0]);
        assert_eq!(
            changed(|schema| schema["$defs"]["Phase"]["enum"] = json!(["queued", "done", "x"])),
            [""; 0]
        );
        assert_eq!(changed(|schema| schema["description"] = json!("A thing.")), [""; 0]);
    }

    #[test]
    fn removed_field_or_value_is_incompatible() {
        let gone = changed(|schema| {
            schema["properties"].as_object_mut().unwrap().remove("note");
        });
        assert_eq!(gone, ["/properties/note was removed"]);
        let lost = changed(|schema| schema["$defs"]["Phase"]["enum"] = json!(["queued"]));
        assert_eq!(lost, ["/$defs/Phase/enum lost \"done\""]);
    }

    #[test]
    fn stricter_or_changed_keyword_is_incompatible() {
        assert_eq!(changed(|schema| schema["required"] = json!(["id", "phase", "note"])).len(), 1);
        assert_eq!(changed(|schema| schema["required"] = json!(["id"])).len(), 1);
        assert_eq!(changed(|schema| schema["properties"]["id"]["maxLength"] = json!(64)).len(), 1);
        assert_eq!(changed(|schema| schema["properties"]["note"]["maxLength"] = json!(64)).len(), 1);
        assert_eq!(changed(|schema| schema["properties"]["id"]["type"] = json!("integer")).len(), 1);
        assert_eq!(changed(|schema| schema["additionalProperties"] = json!(false)).len(), 1);
    }

    #[test]
    fn variant_may_be_added_but_not_removed() {
        let one = json!({"oneOf": [{"const": "a"}]});
        let two = json!({"oneOf": [{"const": "b", "description": "B."}, {"const": "a"}]});
        assert_eq!(breaks(&one, &two), [""; 0]);
        assert_eq!(breaks(&two, &one).len(), 1);
    }
}
