//! The export format of a log: events as CloudEvents 1.0, one JSON object per line.
//!
//! The same event is always written as the same bytes, and type, metadata and data are restored from them byte for byte. What
//! CloudEvents has no name for is an extension attribute: `stream`, `revision`, `sequence` (the position, in twenty digits),
//! `recordedtime`, `tenantid`, `actor`, `correlationid`, `causationid`, `schemaversion`, `idempotencykey` and
//! `idempotencybody`. Metadata that cannot be restored exactly from these, because another program wrote it, is added as
//! `metadata`, in base64.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use event_schemas::envelope::{Actor, BodyHash, DataFormat, EventType, Idempotency, Metadata, Recorded};
use event_schemas::ids::{CorrelationId, EventId, Position, Revision, SubjectId, Tenant};
use event_schemas::stream::{StreamId, escape};
use event_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

/// The media type of a line.
pub const MEDIA_TYPE: &str = "application/cloudevents+json";

const SPEC_VERSION: &str = "1.0";
const JSON: &str = "application/json";
const BYTES: &str = "application/octet-stream";

/// The line is not an exported event.
#[derive(Debug, thiserror::Error)]
pub enum InvalidCloudEvent {
    #[error("it is not a CloudEvent with the attributes that `matchbook events export` writes: {0}")]
    Json(#[from] serde_json::Error),
    #[error("it has CloudEvents version {0}; only {SPEC_VERSION} is supported")]
    Version(String),
    #[error("its {0} cannot be read")]
    Attribute(&'static str),
    #[error("it lacks {0} and has no `metadata` attribute")]
    Missing(&'static str),
}

/// The attributes of a line, in the order in which they are written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CloudEventLine<'a> {
    #[serde(borrow)]
    specversion: Cow<'a, str>,
    id: EventId,
    #[serde(borrow)]
    source: Cow<'a, str>,
    #[serde(borrow, rename = "type")]
    event_type: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subject: Option<SubjectId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    time: Option<Timestamp>,
    #[serde(borrow)]
    datacontenttype: Cow<'a, str>,
    #[serde(borrow)]
    sequence: Cow<'a, str>,
    recordedtime: Timestamp,
    stream: StreamId,
    /// A string, because integers in CloudEvents have 32 bits.
    #[serde(borrow)]
    revision: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tenantid: Option<Tenant>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    actor: Option<Actor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    correlationid: Option<CorrelationId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    causationid: Option<Uuid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    schemaversion: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    idempotencykey: Option<Uuid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    idempotencybody: Option<BodyHash>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    metadata: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    data_base64: Option<Cow<'a, str>>,
}

/// Writes the event as one line, with the line break.
pub fn write_line(event: &Recorded, lines: &mut Vec<u8>) {
    let metadata: Option<Metadata> = serde_json::from_slice(&event.metadata).ok();
    let is_restorable = metadata.as_ref().is_some_and(|metadata| encode_metadata(metadata) == event.metadata);
    let data = as_json(event);
    let known = metadata.as_ref();
    let line = CloudEventLine {
        specversion: SPEC_VERSION.into(),
        id: event.id,
        source: source(known).into(),
        event_type: event.event_type.as_str().into(),
        subject: known.and_then(|metadata| metadata.subject),
        time: known.map(|metadata| metadata.occurred_at),
        datacontenttype: if event.format == DataFormat::Json { JSON } else { BYTES }.into(),
        sequence: format!("{:020}", event.position.0).into(),
        recordedtime: event.recorded_at,
        stream: event.stream.clone(),
        revision: event.revision.to_string().into(),
        tenantid: known.map(|metadata| metadata.tenant.clone()),
        actor: known.map(|metadata| metadata.actor.clone()),
        correlationid: known.map(|metadata| metadata.correlation_id),
        causationid: known.map(|metadata| metadata.causation_id),
        schemaversion: known.map(|metadata| metadata.schema_version),
        idempotencykey: known.and_then(|metadata| metadata.idempotency).map(|idempotency| idempotency.key),
        idempotencybody: known.and_then(|metadata| metadata.idempotency).map(|idempotency| idempotency.body),
        traceparent: known.and_then(|metadata| metadata.traceparent.clone()),
        metadata: (!is_restorable).then(|| STANDARD.encode(&event.metadata).into()),
        data,
        data_base64: data.is_none().then(|| STANDARD.encode(&event.data).into()),
    };
    serde_json::to_writer(&mut *lines, &line).expect("a line has text keys only, and memory takes all bytes");
    lines.push(b'\n');
}

/// Reads a line, without the line break.
///
/// # Errors
/// [`InvalidCloudEvent`] if the line differs from the form that [`write_line`] writes.
pub fn read_line(line: &[u8]) -> Result<Recorded, InvalidCloudEvent> {
    let line: CloudEventLine<'_> = serde_json::from_slice(line)?;
    if line.specversion != SPEC_VERSION {
        return Err(InvalidCloudEvent::Version(line.specversion.into_owned()));
    }
    let number = |text: &str, name| text.parse().map_err(|_| InvalidCloudEvent::Attribute(name));
    let bytes = |text: &str, name| STANDARD.decode(text).map_err(|_| InvalidCloudEvent::Attribute(name));
    let format = if line.datacontenttype == JSON { DataFormat::Json } else { DataFormat::Bytes };
    let data = match (line.data, &line.data_base64) {
        (Some(_), Some(_)) => return Err(InvalidCloudEvent::Attribute("data, which is present twice,")),
        (Some(json), None) => Bytes::copy_from_slice(json.get().as_bytes()),
        (None, Some(text)) => bytes(text, "data_base64")?.into(),
        (None, None) => Bytes::new(),
    };
    let metadata = match &line.metadata {
        Some(text) => bytes(text, "metadata")?.into(),
        None => encode_metadata(&metadata_from_attributes(&line)?),
    };
    Ok(Recorded {
        position: Position(number(&line.sequence, "sequence")?),
        recorded_at: line.recordedtime,
        revision: Revision(number(&line.revision, "revision")?),
        stream: line.stream,
        id: line.id,
        event_type: EventType::new(&line.event_type),
        format,
        metadata,
        data,
    })
}

/// Rebuilds the metadata from the attributes.
fn metadata_from_attributes(line: &CloudEventLine<'_>) -> Result<Metadata, InvalidCloudEvent> {
    let idempotency = match (line.idempotencykey, line.idempotencybody) {
        (Some(key), Some(body)) => Some(Idempotency { key, body }),
        (None, None) => None,
        _ => return Err(InvalidCloudEvent::Missing("one of `idempotencykey` and `idempotencybody`")),
    };
    Ok(Metadata {
        schema_version: line.schemaversion.ok_or(InvalidCloudEvent::Missing("`schemaversion`"))?,
        occurred_at: line.time.ok_or(InvalidCloudEvent::Missing("`time`"))?,
        tenant: line.tenantid.clone().ok_or(InvalidCloudEvent::Missing("`tenantid`"))?,
        actor: line.actor.clone().ok_or(InvalidCloudEvent::Missing("`actor`"))?,
        correlation_id: line.correlationid.ok_or(InvalidCloudEvent::Missing("`correlationid`"))?,
        causation_id: line.causationid.ok_or(InvalidCloudEvent::Missing("`causationid`"))?,
        subject: line.subject,
        idempotency,
        traceparent: line.traceparent.clone(),
    })
}

/// The bytes of metadata, as this program stores them.
fn encode_metadata(metadata: &Metadata) -> Bytes {
    serde_json::to_vec(metadata).expect("metadata has text keys only, so it can be written as JSON").into()
}

/// The data, if it can be embedded as it is: JSON without a line break. `null` would be read as missing data.
fn as_json(event: &Recorded) -> Option<&RawValue> {
    let json: &RawValue = serde_json::from_slice(&event.data).ok()?;
    let whole = json.get().len() == event.data.len() && json.get() != "null";
    let one_line = !event.data.iter().any(|byte| matches!(byte, b'\n' | b'\r'));
    (event.format == DataFormat::Json && whole && one_line).then_some(json)
}

/// The `source` attribute. Event ids are unique within a source.
fn source(metadata: Option<&Metadata>) -> String {
    metadata.map_or_else(
        || "/matchbook".to_owned(),
        |metadata| format!("/matchbook/{}", escape(metadata.tenant.as_str())),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn recorded_event() -> Recorded {
        let metadata = Metadata {
            schema_version: 1,
            occurred_at: Timestamp::from_micros(1_732_183_200_123_456),
            tenant: "ac me".parse().unwrap(),
            actor: "worker:w-1".parse().unwrap(),
            correlation_id: CorrelationId(Uuid::from_u128(2)),
            causation_id: Uuid::from_u128(3),
            subject: None,
            idempotency: Some(Idempotency { key: Uuid::from_u128(4), body: BodyHash([5; 16]) }),
            traceparent: None,
        };
        Recorded {
            position: Position(42),
            recorded_at: Timestamp::from_micros(1_732_183_200_200_000),
            stream: "job-00000000-0000-0000-0000-000000000001".parse().unwrap(),
            revision: Revision(7),
            id: EventId(Uuid::from_u128(1)),
            event_type: EventType::new("JobCancelled"),
            format: DataFormat::Json,
            metadata: encode_metadata(&metadata),
            data: Bytes::from_static(br#"{"from":"queued", "score":0.10}"#),
        }
    }

    fn line(event: &Recorded) -> String {
        let mut lines = Vec::new();
        write_line(event, &mut lines);
        String::from_utf8(lines).unwrap()
    }

    #[test]
    fn the_format_of_a_line_is_stable() {
        assert_eq!(
            line(&recorded_event()),
            concat!(
                r#"{"specversion":"1.0","id":"00000000-0000-0000-0000-000000000001","source":"/matchbook/ac~20me","#,
                r#""type":"JobCancelled","time":"2024-11-21T10:00:00.123456Z","datacontenttype":"application/json","#,
                r#""sequence":"00000000000000000042","recordedtime":"2024-11-21T10:00:00.200000Z","#,
                r#""stream":"job-00000000-0000-0000-0000-000000000001","revision":"7","tenantid":"ac me","#,
                r#""actor":"worker:w-1","correlationid":"00000000-0000-0000-0000-000000000002","#,
                r#""causationid":"00000000-0000-0000-0000-000000000003","schemaversion":1,"#,
                r#""idempotencykey":"00000000-0000-0000-0000-000000000004","#,
                r#""idempotencybody":"05050505050505050505050505050505","data":{"from":"queued", "score":0.10}}"#,
                "\n"
            )
        );
        assert_eq!(read_line(line(&recorded_event()).trim_end().as_bytes()).unwrap(), recorded_event());
    }

    #[test]
    fn an_invalid_line_is_refused_with_the_reason() {
        let good = line(&recorded_event());
        for (found, change, part) in [
            ("\"1.0\"", "\"2.0\"", "version 2.0"),
            ("\"revision\":\"7\"", "\"revision\":\"seven\"", "revision"),
            ("\"stream\":\"job-", "\"steam\":\"job-", "steam"),
            ("\"tenantid\":\"ac me\",", "", "tenantid"),
            ("\"time\":\"2024", "\"time\":\"MMXXIV", "instant"),
            ("\"data\":", "\"data_base64\":\"?\",\"data\":", "twice"),
            (",\"idempotencybody\":\"05050505050505050505050505050505\"", "", "idempotencybody"),
        ] {
            assert!(good.contains(found), "{found}");
            let message =
                read_line(good.replace(found, change).trim_end().as_bytes()).unwrap_err().to_string();
            assert!(message.contains(part), "no {part} in {message}");
        }
    }

    fn data() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..60),
            "[ \n]?(null|true|12e3|\"\\PC{0,9}\"|\\{ *\"a\" *: *\\[1, 2\n?\\]\\})[ \n]?"
                .prop_map(String::into_bytes),
        ]
    }

    fn metadata() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            Just(recorded_event().metadata.to_vec()),
            data(),
            Just([recorded_event().metadata.as_ref(), b" "].concat())
        ]
    }

    proptest! {
        #[test]
        fn an_event_round_trips_exactly(
            data in data(), metadata in metadata(), json in any::<bool>(), event_type in "\\PC{0,12}",
            stream in "[a-z$]{1,5}-\\PC{1,12}", revision in any::<u64>(), position in any::<u64>(), id in any::<u128>(),
            micros in -62_135_596_800_000_000_i64..=253_402_300_799_999_999,
        ) {
            prop_assume!(stream.parse::<StreamId>().is_ok());
            let event = Recorded {
                position: Position(position),
                recorded_at: Timestamp::from_micros(micros),
                stream: stream.parse().unwrap(),
                revision: Revision(revision),
                id: EventId(Uuid::from_u128(id)),
                event_type: EventType::new(&event_type),
                format: if json { DataFormat::Json } else { DataFormat::Bytes },
                metadata: metadata.into(),
                data: data.into(),
            };
            let line = line(&event);
            prop_assert_eq!(line.matches('\n').count(), 1);
            prop_assert!(serde_json::from_str::<serde_json::Value>(&line).is_ok());
            prop_assert_eq!(read_line(line.trim_end_matches('\n').as_bytes()).unwrap(), event);
        }

        #[test]
        fn random_bytes_are_refused_without_a_panic(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(read_line(&line).is_err());
        }
    }
}
