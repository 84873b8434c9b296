//! Ids, one type each, so that no two kinds of id can be confused.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};
use uuid::{Builder, Uuid};

/// The longest text id, in characters.
pub const TEXT_ID_MAX: usize = 128;

/// The reason why a text is not a valid id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    #[error("an id must not be empty")]
    Empty,
    #[error("an id must have at most {TEXT_ID_MAX} characters")]
    TooLong,
    #[error("an id must not have invisible characters, such as U+{:04X}", u32::from(*.0))]
    Invisible(char),
    #[error("an id must not consist of spaces")]
    Blank,
    #[error("not a UUID")]
    NotAUuid,
    #[error("not a whole number below 2⁵³")]
    NotANumber,
}

/// Defines ids that are UUIDs: here those that several categories share, in the file of a category its own.
macro_rules! uuid_id {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[serde(transparent)]
        pub struct $name(pub uuid::Uuid);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::ids::InvalidId;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self).map_err(|_| $crate::ids::InvalidId::NotAUuid)
            }
        }
    )*};
}

pub(crate) use uuid_id;

macro_rules! text_id {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name(#[schemars(length(min = 1, max = 128))] Arc<str>);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let text = normalized(text);
                check_text(&text).map(|()| Self(text.into()))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                check_stored(&text).map(|()| Self(text.into())).map_err(serde::de::Error::custom)
            }
        }
    )*};
}

/// The text in Unicode's composed form (NFC), in which ids are compared: two ways of writing the same letters are
/// one id.
fn normalized(text: &str) -> Cow<'_, str> {
    if text.is_ascii() || is_nfc_quick(text.chars()) == IsNormalized::Yes {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(text.nfc().collect())
    }
}

fn check_text(text: &str) -> Result<(), InvalidId> {
    check_stored(text)?;
    match text.chars().find(|letter| is_invisible(*letter)) {
        Some(letter) => Err(InvalidId::Invisible(letter)),
        None if text.chars().all(|letter| letter.is_whitespace() || letter == '\u{2800}') => {
            Err(InvalidId::Blank)
        }
        None => Ok(()),
    }
}

/// The rules of ids in the log, which has ids that were recorded before there were others.
fn check_stored(text: &str) -> Result<(), InvalidId> {
    if text.is_empty() {
        return Err(InvalidId::Empty);
    }
    if text.chars().count() > TEXT_ID_MAX {
        return Err(InvalidId::TooLong);
    }
    match text.chars().find(|letter| letter.is_control()) {
        Some(control) => Err(InvalidId::Invisible(control)),
        None => Ok(()),
    }
}

/// Whether a reader cannot see the character, so that two different ids would look the same: control and format
/// characters, separators of lines, variation selectors, letters without a shape, and what is not a character.
pub fn is_invisible(letter: char) -> bool {
    use GeneralCategory as Of;
    if letter.is_ascii() {
        return letter.is_control();
    }
    matches!(letter.general_category(), Of::Control | Of::Format | Of::LineSeparator | Of::ParagraphSeparator)
        || matches!(letter,
        '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}' | '\u{e0000}'..='\u{e0fff}')
        || is_noncharacter(letter)
}

/// Whether Unicode has set the code point aside, so that it is never a character: 32 in a block, and the last two of each plane.
fn is_noncharacter(letter: char) -> bool {
    matches!(letter, '\u{fdd0}'..='\u{fdef}') || u32::from(letter) & 0xfffe == 0xfffe
}

self::uuid_id! {
    /// An event. UUIDv5 of the command that caused it and its index, so that a retried append is recognised.
    EventId,
    /// A command, as named by its sender or the server.
    CommandId,
    /// The first command of a causal chain.
    CorrelationId,
    /// A job of any kind.
    JobId,
    /// A worker's temporary right to one piece of work.
    LeaseId,
    /// A player's entry in the queues of one or more pools, from joining to leaving.
    EntryId,
    /// A match of two players, from the pairing to the result.
    GameMatchId,
    /// A challenge of one player to another.
    ChallengeId,
    /// A list of products that was shown to a user.
    ListId,
    /// A person's pseudonym in the log. Only the vault can resolve it.
    SubjectId,
    /// A log: assigned once, kept over restarts and restores.
    LogId,
}

text_id! {
    /// A customer; everything belongs to exactly one tenant.
    Tenant,
    /// A person's name in their tenant. Never part of an event: events carry a [`SubjectId`].
    UserId,
    /// A process that executes work.
    WorkerId,
    /// A trusted program that is not a worker.
    ServiceId,
    /// A background process of the server, such as the one that expires leases.
    ProcessId,
    /// A product of the caller's catalogue.
    ProductId,
    /// A merchant of a catalogue.
    MerchantId,
    /// A brand of a catalogue.
    BrandId,
    /// A category of a catalogue, such as shoes.
    ProductCategoryId,
    /// A user's visit, as named by the caller.
    SessionId,
    /// A merchandising rule, as named by the caller.
    RuleId,
    /// A comparison of ranking variants, as named in the settings.
    ExperimentName,
    /// A ranking variant of an experiment.
    VariantName,
    /// An image of a product.
    ImageId,
    /// An embedding model, as named by the caller.
    ModelId,
    /// A video of the caller.
    VideoId,
    /// A frame of a video.
    FrameId,
    /// One request to match a product against a video.
    RequestId,
    /// A product image found in a video frame, named by its reporter.
    ImageMatchId,
    /// A pool whose players can be paired.
    PoolKey,
    /// A game, as named by the game service.
    GameId,
}

/// The UUIDv5 of a name in a namespace, as [`Uuid::new_v5`] makes it, in a fraction of its time: several belong to each
/// event.
pub fn uuid_v5(namespace: Uuid, name: &[u8]) -> Uuid {
    let hash = Sha1::new().chain_update(namespace).chain_update(name).finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    Builder::from_sha1_bytes(bytes).into_uuid()
}

impl EventId {
    /// The id of the `index`th event that `command` causes in one stream. The stream is part of the name,
    /// because a batch may be appended as one command per stream.
    pub fn derive(command: CommandId, stream: &str, index: usize) -> Self {
        let name = format!("{stream}#{index}");
        Self(uuid_v5(command.0, name.as_bytes()))
    }
}

/// The position of an event in the whole log, from 1; 0 is the position before the first event. Opaque to
/// callers: increasing, but with gaps on some logs.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema
)]
#[serde(transparent)]
pub struct Position(
    // A signed format, up to the largest double below 2⁶³: the numbers of an OpenAPI document are doubles.
    #[schemars(extend("format" = "int64", "maximum" = 9_223_372_036_854_774_784_u64))] pub u64,
);

impl Position {
    /// Before the first event.
    pub const START: Self = Self(0);

    /// The position as stored in SQL. Positions stay far below 2⁶³.
    pub fn to_i64(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }

    /// The position read from SQL; a negative number is the start.
    pub fn from_i64(value: i64) -> Self {
        Self(u64::try_from(value).unwrap_or(0))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The position of an event in its stream, from 0.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema
)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl Revision {
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The similarity of an image match: 0 not at all, 1 perfectly. Never NaN.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct Score(#[schemars(range(min = 0.0, max = 1.0))] f64);

/// The number is not a valid score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a score must be between 0 and 1")]
pub struct InvalidScore;

impl Score {
    pub fn new(value: f64) -> Result<Self, InvalidScore> {
        // Adding zero turns −0 into 0, so that equal scores have equal bits.
        (0.0..=1.0).contains(&value).then_some(Self(value + 0.0)).ok_or(InvalidScore)
    }

    pub fn get(self) -> f64 {
        self.0
    }
}

impl<'de> Deserialize<'de> for Score {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(f64::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuid_of_a_name_is_that_of_the_standard() {
        let dns = uuid_v5(Uuid::NAMESPACE_DNS, b"www.example.com");
        assert_eq!(dns.to_string(), "2ed6657d-e927-568b-95e1-2665a8aea6a2");
        for length in [0, 1, 39, 40, 48, 63, 64, 200] {
            let name = vec![b'n'; length];
            assert_eq!(uuid_v5(dns, &name), Uuid::new_v5(&dns, &name), "{length}");
        }
    }

    #[test]
    fn text_id_has_1_to_128_printable_characters() {
        assert!("a".parse::<ImageMatchId>().is_ok());
        assert!("ä".repeat(128).parse::<ImageMatchId>().is_ok());
        assert_eq!("".parse::<ImageMatchId>(), Err(InvalidId::Empty));
        assert_eq!("a".repeat(129).parse::<ImageMatchId>(), Err(InvalidId::TooLong));
        assert_eq!("a\nb".parse::<ImageMatchId>(), Err(InvalidId::Invisible('\n')));
    }

    #[test]
    fn text_id_that_a_reader_cannot_see_is_rejected() {
        for letter in [
            '\u{ad}',
            '\u{61c}',
            '\u{200b}',
            '\u{200d}',
            '\u{202e}',
            '\u{2028}',
            '\u{2029}',
            '\u{2060}',
            '\u{feff}',
            '\u{fdd0}',
            '\u{ffff}',
            '\u{10fffe}',
            '\u{115f}',
            '\u{3164}',
            '\u{fe0f}',
            '\u{e0041}',
            '\u{85}',
        ] {
            let text = format!("a{letter}b");
            assert_eq!(text.parse::<ImageMatchId>(), Err(InvalidId::Invisible(letter)), "{letter:?}");
        }
        for blank in [" ", "\u{a0}\u{3000}", "\u{2800}"] {
            assert_eq!(blank.parse::<ImageMatchId>(), Err(InvalidId::Blank));
        }
        for seen in ["a b", "日本", "ñ", "🎾", "\u{e000}"] {
            assert_eq!(seen.parse::<ImageMatchId>().unwrap().as_str(), seen);
        }
    }

    #[test]
    fn text_ids_are_compared_in_composed_form() {
        let (composed, decomposed) = ("caf\u{e9}", "cafe\u{301}");
        assert_eq!(decomposed.parse::<UserId>(), composed.parse::<UserId>());
        assert_eq!(decomposed.parse::<UserId>().unwrap().as_str(), composed);
    }

    #[test]
    fn recorded_ids_stay_readable() {
        let stored: ImageMatchId = serde_json::from_str("\"a\u{200b}\"").unwrap();
        assert_eq!(stored.as_str(), "a\u{200b}");
    }

    #[test]
    fn score_outside_zero_to_one_is_rejected() {
        for value in [-0.001, 1.001, f64::NAN, f64::INFINITY] {
            assert_eq!(Score::new(value), Err(InvalidScore));
        }
        assert_eq!(Score::new(-0.0).unwrap().get().to_bits(), 0.0_f64.to_bits());
    }

    #[test]
    fn same_command_derives_the_same_event_ids() {
        let command = CommandId(Uuid::from_u128(7));
        assert_eq!(EventId::derive(command, "job-1", 0), EventId::derive(command, "job-1", 0));
        assert_ne!(EventId::derive(command, "job-1", 0), EventId::derive(command, "job-1", 1));
        assert_ne!(EventId::derive(command, "job-1", 0), EventId::derive(command, "job-2", 0));
    }
}
