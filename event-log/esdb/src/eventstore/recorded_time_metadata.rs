//! The original `recorded_at` time of an imported event, stored in its metadata.
//!
//! A cluster assigns its own time to each event that is appended. The time of an event imported from another log is added to
//! its metadata as the first member of the object. It is removed again wherever the event is read, which restores the
//! metadata byte for byte.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use event_schemas::time::Timestamp;

const TIME_PREFIX: &[u8] = br#"{"$recordedTime":""#;
/// The length of a time, as in `2026-11-20T10:00:00.000000Z`.
const TIME_BYTES: usize = 27;
/// Original metadata that is not a JSON object follows as a whole, in base64.
const METADATA_PREFIX: &[u8] = br#","$metadata":""#;

/// Adds the time to the metadata.
pub(super) fn with_time(metadata: &[u8], at: Timestamp) -> Bytes {
    let mut wrapped = TIME_PREFIX.to_vec();
    wrapped.extend_from_slice(at.to_string().as_bytes());
    wrapped.push(b'"');
    if can_hold_time(metadata) {
        if metadata != b"{}" {
            wrapped.push(b',');
        }
        wrapped.extend_from_slice(&metadata[1..]);
    } else {
        wrapped.extend_from_slice(METADATA_PREFIX);
        wrapped.extend_from_slice(STANDARD.encode(metadata).as_bytes());
        wrapped.extend_from_slice(b"\"}");
    }
    wrapped.into()
}

/// Splits stored metadata into the original metadata and the recorded time, if it has one.
pub(super) fn split(metadata: Bytes) -> (Bytes, Option<Timestamp>) {
    match extract(&metadata) {
        Some((original, at)) => (original, Some(at)),
        None => (metadata, None),
    }
}

fn extract(metadata: &Bytes) -> Option<(Bytes, Timestamp)> {
    let rest = metadata.strip_prefix(TIME_PREFIX)?;
    let (time, rest) = rest.split_at_checked(TIME_BYTES)?;
    let at = std::str::from_utf8(time).ok()?.parse().ok()?;
    let rest = rest.strip_prefix(b"\"")?;
    let original = if let Some(text) = rest.strip_prefix(METADATA_PREFIX) {
        STANDARD.decode(text.strip_suffix(b"\"}")?).ok()?.into()
    } else if rest == b"}" {
        Bytes::from_static(b"{}")
    } else {
        [b"{", rest.strip_prefix(b",")?].concat().into()
    };
    // Metadata that was not written by `with_time` is returned unchanged.
    (with_time(&original, at) == metadata).then_some((original, at))
}

/// Whether a first member can be added. Metadata that starts with spaces, or has a time already, is encoded as a whole.
fn can_hold_time(metadata: &[u8]) -> bool {
    metadata == b"{}"
        || metadata.starts_with(b"{\"")
            && !metadata.starts_with(TIME_PREFIX)
            && !metadata.starts_with(br#"{"$metadata""#)
            && serde_json::from_slice::<serde::de::IgnoredAny>(metadata).is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    #[test]
    fn the_stored_form_is_stable() {
        let wrapped = with_time(br#"{"tenant":"a"}"#, at(1_732_183_200_123_000));
        assert_eq!(wrapped, &br#"{"$recordedTime":"2024-11-21T10:00:00.123000Z","tenant":"a"}"#[..]);
        let wrapped = with_time(b"", at(0));
        assert_eq!(wrapped, &br#"{"$recordedTime":"1970-01-01T00:00:00.000000Z","$metadata":""}"#[..]);
    }

    fn metadata() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..40),
            r#" ?\{(" ?[a-z$]{0,9}" ?: ?("[a-z]{0,3}"|7|\{\}))? ?\} ?"#.prop_map(String::into_bytes),
            Just(b"{\"a\":1,\"b\":2}".to_vec()),
            Just(b"{\"$metadata\":\"eA==\"}".to_vec()),
            Just(with_time(b"{}", at(5)).to_vec()),
            Just(with_time(&with_time(b"x", at(5)), at(6)).to_vec()),
        ]
    }

    proptest! {
        #[test]
        fn metadata_and_time_round_trip_exactly(
            metadata in metadata(), micros in -62_135_596_800_000_000_i64..=253_402_300_799_999_999,
        ) {
            let wrapped = with_time(&metadata, at(micros));
            prop_assert!(serde_json::from_slice::<serde_json::Value>(&wrapped).is_ok());
            prop_assert_eq!(split(wrapped), (Bytes::from(metadata), Some(at(micros))));
        }

        #[test]
        fn metadata_without_a_time_is_unchanged(metadata in proptest::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(split(metadata.clone().into()), (Bytes::from(metadata), None));
        }
    }
}
