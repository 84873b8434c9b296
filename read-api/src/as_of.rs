//! The parameter `as_of`: a point in the past, given as a log position or an instant.

use std::borrow::Cow;

use event_schemas::ids::Position;
use event_schemas::time::Timestamp;
use poem_openapi::registry::{MetaSchema, MetaSchemaRef};
use poem_openapi::types::{ParseError, ParseFromJSON, ParseFromParameter, ParseResult, ToJSON, Type};
use projections::matching_summary::UpTo;
use serde_json::Value;
use web::problem::Problem;
use web::value::{ApiPosition, ApiTimestamp, POSITION_AS_TEXT};

/// The value of `as_of`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AsOf {
    Position(Position),
    Instant(Timestamp),
}

impl AsOf {
    /// The bound up to which events are replayed.
    pub(crate) fn up_to(self) -> UpTo {
        match self {
            Self::Position(position) => UpTo::Position(position),
            Self::Instant(instant) => UpTo::Instant(instant),
        }
    }

    pub(crate) fn instant(self) -> Option<Timestamp> {
        match self {
            Self::Position(_) => None,
            Self::Instant(instant) => Some(instant),
        }
    }

    /// # Errors
    /// 400 for a point in the future.
    pub(crate) fn check_not_future(self, head: Position, now: Timestamp) -> Result<(), Problem> {
        self.check_not_future_as("as_of", head, now)
    }

    /// The same, of a field with another name.
    pub(crate) fn check_not_future_as(
        self,
        field: &str,
        head: Position,
        now: Timestamp,
    ) -> Result<(), Problem> {
        let reason = match self {
            Self::Position(position) if position > head => {
                format!("the log's head is position {head}")
            }
            Self::Instant(instant) if instant > now => format!("lies in the future; it is {now}"),
            Self::Position(_) | Self::Instant(_) => return Ok(()),
        };
        Err(Problem::invalid(field, reason))
    }
}

/// In a body, a position may be a text, as it is in a query.
fn position_as_text() -> MetaSchemaRef {
    MetaSchemaRef::Inline(Box::new(MetaSchema {
        pattern: Some("^[0-9]+$".to_owned()),
        ..MetaSchema::new_with_format("string", POSITION_AS_TEXT)
    }))
}

impl Type for AsOf {
    const IS_REQUIRED: bool = true;

    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        "as_of".into()
    }

    fn schema_ref() -> MetaSchemaRef {
        MetaSchemaRef::Inline(Box::new(MetaSchema {
            any_of: vec![ApiPosition::schema_ref(), ApiTimestamp::schema_ref(), position_as_text()],
            ..MetaSchema::ANY
        }))
    }

    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
        Box::new(std::iter::once(self))
    }
}

impl ParseFromParameter for AsOf {
    fn parse_from_parameter(text: &str) -> ParseResult<Self> {
        if let Ok(ApiPosition(position)) = ApiPosition::parse_from_parameter(text) {
            return Ok(Self::Position(position));
        }
        text.parse().map(Self::Instant).map_err(|_| {
            ParseError::custom("is neither a position of the log nor an instant such as 2026-11-20T10:00:00Z")
        })
    }
}

/// In a body, a position is a number or a text.
impl ParseFromJSON for AsOf {
    fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
        match value.unwrap_or_default() {
            Value::String(text) => Self::parse_from_parameter(&text),
            value => Self::parse_from_parameter(&value.to_string()),
        }
    }
}

impl ToJSON for AsOf {
    fn to_json(&self) -> Option<Value> {
        match self {
            Self::Position(position) => serde_json::to_value(position).ok(),
            Self::Instant(instant) => serde_json::to_value(instant).ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_of_is_a_position_or_an_instant() {
        assert_eq!(AsOf::parse_from_parameter("17").ok(), Some(AsOf::Position(Position(17))));
        let instant = AsOf::parse_from_parameter("2026-11-20T11:00:00+01:00").ok().and_then(AsOf::instant);
        assert_eq!(instant.map(|at| at.to_string()).as_deref(), Some("2026-11-20T10:00:00.000000Z"));
        for neither in ["", "yesterday", "-1", "1.5", "2026-11-20", "+7"] {
            assert!(AsOf::parse_from_parameter(neither).is_err(), "{neither}");
        }
    }

    #[test]
    fn position_in_a_body_is_a_number_or_a_text() {
        let read = |body: &str| web::json::parse::<AsOf>(body.as_bytes());
        for body in ["17", "\"17\""] {
            assert_eq!(read(body).unwrap(), AsOf::Position(Position(17)));
        }
        assert!(read("\"2026-11-20T10:00:00Z\"").unwrap().instant().is_some());
        for body in
            ["\"yesterday\"", "\"-1\"", "\"\"", "\"1.5\"", "-1", "1.5", "true", "\"99999999999999999999\""]
        {
            assert_eq!(read(body).unwrap_err().errors.len(), 1, "{body}");
        }
    }

    #[test]
    fn as_of_in_the_future_is_refused() {
        let now = Timestamp::from_micros(5);
        assert!(AsOf::Position(Position(7)).check_not_future(Position(7), now).is_ok());
        assert!(AsOf::Position(Position(8)).check_not_future(Position(7), now).is_err());
        assert!(AsOf::Instant(now).check_not_future(Position(7), now).is_ok());
        assert!(AsOf::Instant(Timestamp::from_micros(6)).check_not_future(Position(7), now).is_err());
    }
}
