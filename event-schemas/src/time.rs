//! Instants, as the number of microseconds since 1970-01-01T00:00:00Z.
//!
//! PostgreSQL stores microseconds and the API shows them, so no precision is lost between the two. An `i64`
//! sorts the same in every store; text with a variable number of digits does not.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// An instant in UTC, to the microsecond. Written and read as RFC 3339 (`2026-11-20T10:00:00.000000Z`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// 0001-01-01T00:00:00Z and 9999-12-31T23:59:59.999999Z: the limits of the text form.
const MICROS_MIN: i64 = -62_135_596_800_000_000;
const MICROS_MAX: i64 = 253_402_300_799_999_999;

/// The text is not an RFC 3339 instant between the years 1 and 9999.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an RFC 3339 instant such as 2026-11-20T10:00:00.000000Z: {0}")]
pub struct InvalidTimestamp(pub String);

impl Timestamp {
    /// The start of 1970.
    pub const EPOCH: Self = Self(0);

    /// Instants beyond the years 1 to 9999 are clamped.
    pub const fn from_micros(micros: i64) -> Self {
        if micros < MICROS_MIN {
            Self(MICROS_MIN)
        } else if micros > MICROS_MAX {
            Self(MICROS_MAX)
        } else {
            Self(micros)
        }
    }

    /// Microseconds since the epoch.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// The duration from `earlier` to this instant; zero if this instant is earlier.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The seconds from `earlier` to this instant; negative if this instant is earlier.
    pub fn seconds_since(self, earlier: Self) -> f64 {
        (self.0 - earlier.0) as f64 / 1e6
    }

    /// This instant plus `duration`.
    pub fn after(self, duration: Duration) -> Self {
        Self::from_micros(self.0.saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }

    /// This instant minus `duration`.
    pub fn before(self, duration: Duration) -> Self {
        Self::from_micros(self.0.saturating_sub(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }
}

impl From<std::time::SystemTime> for Timestamp {
    fn from(time: std::time::SystemTime) -> Self {
        match time.duration_since(std::time::UNIX_EPOCH) {
            Ok(since) => Self::EPOCH.after(since),
            Err(earlier) => Self::EPOCH.before(earlier.duration()),
        }
    }
}

/// Of fixed width, so that the text sorts as the instants do. Written by hand: every event has instants, and the general
/// formatter takes an allocation for each.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.div_euclid(1_000_000);
        let at = OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| fmt::Error)?;
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        write_digits(&mut text[..4], u64::from(at.year().unsigned_abs()));
        write_digits(&mut text[5..7], u64::from(u8::from(at.month())));
        write_digits(&mut text[8..10], u64::from(at.day()));
        write_digits(&mut text[11..13], u64::from(at.hour()));
        write_digits(&mut text[14..16], u64::from(at.minute()));
        write_digits(&mut text[17..19], u64::from(at.second()));
        write_digits(&mut text[20..26], self.0.rem_euclid(1_000_000).unsigned_abs());
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

/// Writes a number with leading zeros.
fn write_digits(text: &mut [u8], mut number: u64) {
    for digit in text.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;

    fn from_str(text: &str) -> Result<Self, InvalidTimestamp> {
        let at = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| InvalidTimestamp(text.to_owned()))?;
        let micros = at.unix_timestamp_nanos().div_euclid(1000);
        i64::try_from(micros)
            .ok()
            .filter(|micros| (MICROS_MIN..=MICROS_MAX).contains(micros))
            .map(Self)
            .ok_or_else(|| InvalidTimestamp(text.to_owned()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Timestamp {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Timestamp".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "format": "date-time",
            "description": "RFC 3339, UTC, with microseconds.",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn timestamp_is_written_with_six_digits_and_z() {
        assert_eq!(Timestamp::from_micros(1_732_183_200_123_000).to_string(), "2024-11-21T10:00:00.123000Z");
    }

    #[test]
    fn offset_is_converted_to_utc() {
        let at: Timestamp = "2024-11-21T11:00:00+01:00".parse().unwrap();
        assert_eq!(at.to_string(), "2024-11-21T10:00:00.000000Z");
    }

    #[test]
    fn invalid_timestamps_are_rejected() {
        for text in ["", "now", "2024-11-21", "2024-13-01T00:00:00Z", "2024-11-21T10:00:00"] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_form_round_trips_and_sorts_like_the_timestamp(
            a in MICROS_MIN..=MICROS_MAX, b in MICROS_MIN..=MICROS_MAX,
        ) {
            let (a, b) = (Timestamp::from_micros(a), Timestamp::from_micros(b));
            prop_assert_eq!(a.to_string().parse::<Timestamp>().unwrap(), a);
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }
    }
}
