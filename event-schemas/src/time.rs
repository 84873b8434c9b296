//! Instants, as the number of microseconds since 1970-01-01T00:00:00Z.
//!
//! PostgreSQL stores microseconds and the API shows them, so no precision is lost between the two. An `i64`
//! sorts the same in every store; text with a variable number of digits does not.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::format_description::well_known::Rfc3339;
use time::{Date, Month, OffsetDateTime, Time};

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

impl Timestamp {
    /// The text. Of fixed width, so that it sorts as the instants do. Written by hand: every event has instants, and the
    /// general formatter takes an allocation for each.
    fn to_text(self) -> [u8; 27] {
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        let seconds = self.0.div_euclid(1_000_000);
        let at = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        write_digits(&mut text[..4], u64::from(at.year().unsigned_abs()));
        write_digits(&mut text[5..7], u64::from(u8::from(at.month())));
        write_digits(&mut text[8..10], u64::from(at.day()));
        write_digits(&mut text[11..13], u64::from(at.hour()));
        write_digits(&mut text[14..16], u64::from(at.minute()));
        write_digits(&mut text[17..19], u64::from(at.second()));
        write_digits(&mut text[20..26], self.0.rem_euclid(1_000_000).unsigned_abs());
        text
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.to_text()).map_err(|_| fmt::Error)?)
    }
}

/// Writes a number with leading zeros.
fn write_digits(text: &mut [u8], mut number: u64) {
    for digit in text.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// The instant of a text in the form that is written here, which nearly all texts have; none for any other form. The general
/// parser takes several times as long, and every event that is read has instants.
fn parse_written(text: &[u8]) -> Option<Timestamp> {
    let form = b"0000-00-00T00:00:00.000000Z";
    let is_written = text.len() == form.len()
        && text.iter().zip(form).all(|(byte, form)| match form {
            b'0' => byte.is_ascii_digit(),
            separator => byte == separator,
        });
    let number = |digits: &[u8]| digits.iter().fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    let part = |from: usize, to: usize| is_written.then(|| number(&text[from..to]));
    let small = |from, to| part(from, to).and_then(|number| u8::try_from(number).ok());
    let month = Month::try_from(small(5, 7)?).ok()?;
    let date = Date::from_calendar_date(i32::try_from(part(0, 4)?).ok()?, month, small(8, 10)?).ok()?;
    let time = Time::from_hms_micro(small(11, 13)?, small(14, 16)?, small(17, 19)?, part(20, 26)?).ok()?;
    let at = date.with_time(time).assume_utc();
    let micros = at.unix_timestamp() * 1_000_000 + i64::from(at.microsecond());
    (MICROS_MIN..=MICROS_MAX).contains(&micros).then_some(Timestamp(micros))
}

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;

    fn from_str(text: &str) -> Result<Self, InvalidTimestamp> {
        if let Some(written) = parse_written(text.as_bytes()) {
            return Ok(written);
        }
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
        let text = self.to_text();
        serializer.serialize_str(std::str::from_utf8(&text).map_err(serde::ser::Error::custom)?)
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

    /// Among them a leap second, the year 0, and days that only some years have.
    #[test]
    fn text_in_written_form_means_what_the_general_parser_reads() {
        let general = |text: &str| {
            let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
            i64::try_from(at.unix_timestamp_nanos().div_euclid(1000)).ok().filter(|at| *at >= MICROS_MIN)
        };
        for date in
            ["0000-12-31", "0001-01-01", "2023-02-29", "2024-02-29", "2024-04-31", "2024-00-10", "9999-12-31"]
        {
            for time in ["00:00:00", "23:59:59", "23:59:60", "24:00:00", "12:60:00"] {
                for micros in ["000000", "000001", "999999"] {
                    let text = format!("{date}T{time}.{micros}Z");
                    let parsed = text.parse::<Timestamp>().ok().map(Timestamp::micros);
                    assert_eq!(parsed, general(&text), "{text}");
                }
            }
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
