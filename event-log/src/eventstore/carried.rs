//! When an event was recorded in the log that it was taken over from.
//!
//! A cluster gives its own time to what is appended. For an event of another log the time of before goes with its metadata,
//! as the first member of the object, and is taken out again, to the byte, wherever the event is read.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use event_schemas::time::Timestamp;

const BEFORE_TIME: &[u8] = br#"{"$recordedTime":""#;
/// As every instant is written: `2026-11-20T10:00:00.000000Z`.
const TIME_BYTES: usize = 27;
/// Where the metadata of before was no JSON object, all of it follows in base64.
const BEFORE_BYTES: &[u8] = br#","$metadata":""#;

/// The metadata with the time.
pub(super) fn with_time(metadata: &[u8], at: Timestamp) -> Bytes {
    let mut carried = BEFORE_TIME.to_vec();
    carried.extend_from_slice(at.to_string().as_bytes());
    carried.push(b'"');
    if is_object(metadata) {
        if metadata != b"{}" {
            carried.push(b',');
        }
        carried.extend_from_slice(&metadata[1..]);
    } else {
        carried.extend_from_slice(BEFORE_BYTES);
        carried.extend_from_slice(STANDARD.encode(metadata).as_bytes());
        carried.extend_from_slice(b"\"}");
    }
    carried.into()
}

/// Metadata as it was before, and the time that it carried, if it did.
pub(super) fn apart(metadata: Bytes) -> (Bytes, Option<Timestamp>) {
    match taken_out(&metadata) {
        Some((before, at)) => (before, Some(at)),
        None => (metadata, None),
    }
}

fn taken_out(metadata: &Bytes) -> Option<(Bytes, Timestamp)> {
    let rest = metadata.strip_prefix(BEFORE_TIME)?;
    let (time, rest) = rest.split_at_checked(TIME_BYTES)?;
    let at = std::str::from_utf8(time).ok()?.parse().ok()?;
    let rest = rest.strip_prefix(b"\"")?;
    let before = if let Some(text) = rest.strip_prefix(BEFORE_BYTES) {
        STANDARD.decode(text.strip_suffix(b"\"}")?).ok()?.into()
    } else if rest == b"}" {
        Bytes::from_static(b"{}")
    } else {
        [b"{", rest.strip_prefix(b",")?].concat().into()
    };
    // What this did not write stays as it is.
    (with_time(&before, at) == metadata).then_some((before, at))
}

/// Whether a first member can be put into it. One that begins with spaces, or carries a time already, goes as a whole.
fn is_object(metadata: &[u8]) -> bool {
    metadata == b"{}"
        || metadata.starts_with(b"{\"")
            && !metadata.starts_with(BEFORE_TIME)
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
    fn the_carried_form_never_changes() {
        let carried = with_time(br#"{"tenant":"a"}"#, at(1_732_183_200_123_000));
        assert_eq!(carried, &br#"{"$recordedTime":"2024-11-21T10:00:00.123000Z","tenant":"a"}"#[..]);
        let carried = with_time(b"", at(0));
        assert_eq!(carried, &br#"{"$recordedTime":"1970-01-01T00:00:00.000000Z","$metadata":""}"#[..]);
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
        fn metadata_comes_back_to_the_byte_with_its_time(
            metadata in metadata(), micros in -62_135_596_800_000_000_i64..=253_402_300_799_999_999,
        ) {
            let carried = with_time(&metadata, at(micros));
            prop_assert!(serde_json::from_slice::<serde_json::Value>(&carried).is_ok());
            prop_assert_eq!(apart(carried), (Bytes::from(metadata), Some(at(micros))));
        }

        #[test]
        fn metadata_without_a_time_stays_as_it_is(metadata in proptest::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(apart(metadata.clone().into()), (Bytes::from(metadata), None));
        }
    }
}
