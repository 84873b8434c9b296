//! Errors of calls in the form that clients of the protocol expect: a status, and trailers with the reason.

use event_schemas::ids::Revision;
use event_schemas::stream::StreamId;
use prost::Message;
use prost_types::Any;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use super::proto::event_store::client as shared;
use super::proto::google::rpc;
use event_log::{AppendError, ReadError};
use event_log_embedded::{CLIENT_APPEND_BYTES_MAX, ClientExpected};

/// A call that is refused.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("{0}")]
    Malformed(&'static str),
    #[error("the filter's expression is invalid: {0}")]
    Expression(String),
    #[error("Required Metadata Property '{0}' is missing")]
    MissingProperty(&'static str),
    #[error("the name or password is wrong or missing")]
    NotAuthenticated,
    #[error("Access Denied: {0}")]
    AccessDenied(String),
    #[error("Maximum Append Size of {CLIENT_APPEND_BYTES_MAX} Exceeded.")]
    TooLarge,
    #[error("Event stream '{0}' is deleted.")]
    Deleted(StreamId),
    #[error("{0}")]
    TooMany(&'static str),
    #[error("the deadline had passed before the append started")]
    TooLate,
    #[error(
        "Delete failed due to WrongExpectedVersion. Stream: {stream}, Expected version: {}, Actual version: {}",
        expected_number(*.expected), actual_number(*.actual)
    )]
    NotDeleted { stream: StreamId, expected: ClientExpected, actual: Option<Revision> },
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// The number of an expected revision in texts of the protocol.
pub(super) fn expected_number(expected: ClientExpected) -> i64 {
    match expected {
        ClientExpected::NoStream => -1,
        ClientExpected::Any => -2,
        ClientExpected::Exists => -4,
        ClientExpected::At(revision) => i64::try_from(revision.0).unwrap_or(i64::MAX),
    }
}

pub(super) fn actual_number(actual: Option<Revision>) -> i64 {
    actual.map_or(-1, |revision| i64::try_from(revision.0).unwrap_or(i64::MAX))
}

impl Refusal {
    fn code(&self) -> Code {
        match self {
            Self::Malformed(_) | Self::Expression(_) | Self::MissingProperty(_) | Self::TooLarge => {
                Code::InvalidArgument
            }
            Self::NotAuthenticated => Code::Unauthenticated,
            Self::AccessDenied(_) => Code::PermissionDenied,
            Self::TooMany(_) => Code::ResourceExhausted,
            Self::TooLate => Code::DeadlineExceeded,
            Self::NotDeleted { .. } | Self::Deleted(_) => Code::FailedPrecondition,
            Self::Append(AppendError::Conflict { .. }) => Code::FailedPrecondition,
            Self::Append(AppendError::Size { .. }) => Code::InvalidArgument,
            Self::Append(AppendError::Full { .. }) => Code::ResourceExhausted,
            // Clients understand that the append may have happened.
            Self::Append(AppendError::Unknown { .. }) => Code::DeadlineExceeded,
            Self::Append(AppendError::Unavailable { .. } | AppendError::Closed { .. })
            | Self::Read(ReadError::Unavailable(_)) => Code::Unavailable,
            Self::Read(ReadError::Corrupt(_)) => Code::DataLoss,
        }
    }

    fn trailers(&self) -> MetadataMap {
        let mut trailers = Trailers::default();
        match self {
            Self::AccessDenied(_) => trailers.exception("access-denied"),
            Self::NotAuthenticated => trailers.exception("not-authenticated"),
            Self::MissingProperty(_) => {
                trailers.exception("missing-required-metadata-property");
                trailers.add("required-metadata-properties", "type,content-type");
            }
            Self::TooLarge | Self::Append(AppendError::Size { .. }) => {
                trailers.exception("maximum-append-size-exceeded");
                trailers.add("maximum-append-size", &CLIENT_APPEND_BYTES_MAX.to_string());
            }
            Self::Deleted(stream) => {
                trailers.exception("stream-deleted");
                trailers.add("stream-name", stream.as_str());
            }
            Self::NotDeleted { stream, expected, actual } => {
                trailers.exception("wrong-expected-version");
                trailers.add("stream-name", stream.as_str());
                trailers.add("expected-version", &expected_number(*expected).to_string());
                trailers.add("actual-version", &actual_number(*actual).to_string());
            }
            _ => {}
        }
        trailers.0
    }

    /// The status in the answer to a batch call, where refusing one append does not end the call.
    pub(super) fn in_batch(&self) -> rpc::Status {
        let (code, details) = match self {
            Self::NotDeleted { expected, actual, .. } => return conflict_in_batch(*expected, *actual),
            Self::Deleted(stream) => {
                let stream_identifier = Some(super::event_conversion::stream_identifier(stream));
                (rpc::Code::NotFound, details(&shared::StreamDeleted { stream_identifier }))
            }
            Self::AccessDenied(_) | Self::NotAuthenticated => {
                (rpc::Code::PermissionDenied, details(&shared::AccessDenied {}))
            }
            Self::TooLarge | Self::Append(AppendError::Size { .. }) => {
                let max_append_size = CLIENT_APPEND_BYTES_MAX as u32;
                let exceeded = shared::MaximumAppendSizeExceeded { max_append_size };
                (rpc::Code::InvalidArgument, details(&exceeded))
            }
            Self::TooLate | Self::Append(AppendError::Unknown { .. }) => {
                (rpc::Code::DeadlineExceeded, details(&shared::Timeout {}))
            }
            Self::Malformed(_) | Self::MissingProperty(_) | Self::Expression(_) => {
                (rpc::Code::InvalidArgument, details(&shared::BadRequest { message: self.to_string() }))
            }
            Self::TooMany(_) | Self::Append(_) | Self::Read(_) => {
                (rpc::Code::Unknown, details(&shared::Unknown {}))
            }
        };
        rpc::Status { code: code.into(), message: self.to_string(), details: Some(details) }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        Self::with_metadata(refusal.code(), refusal.to_string(), refusal.trailers())
    }
}

/// The status of an append in a batch whose expected revision does not match.
pub(super) fn conflict_in_batch(expected: ClientExpected, actual: Option<Revision>) -> rpc::Status {
    rpc::Status {
        code: rpc::Code::AlreadyExists.into(),
        // Clients compare this text.
        message: "WrongExpectedVersion".to_owned(),
        details: Some(details(&wrong_version(expected, actual))),
    }
}

fn wrong_version(expected: ClientExpected, actual: Option<Revision>) -> shared::WrongExpectedVersion {
    use shared::wrong_expected_version::{CurrentStreamRevisionOption, ExpectedStreamPositionOption};
    shared::WrongExpectedVersion {
        current_stream_revision_option: Some(match actual {
            Some(revision) => CurrentStreamRevisionOption::CurrentStreamRevision(revision.0),
            None => CurrentStreamRevisionOption::CurrentNoStream(()),
        }),
        expected_stream_position_option: Some(match expected {
            ClientExpected::At(revision) => ExpectedStreamPositionOption::ExpectedStreamPosition(revision.0),
            ClientExpected::Any => ExpectedStreamPositionOption::ExpectedAny(()),
            ClientExpected::Exists => ExpectedStreamPositionOption::ExpectedStreamExists(()),
            ClientExpected::NoStream => ExpectedStreamPositionOption::ExpectedNoStream(()),
        }),
    }
}

/// Packs a message with its name as the details of a status. The protocol has one message there, not a list.
fn details<M: Message + Named>(message: &M) -> Any {
    Any {
        type_url: format!("type.googleapis.com/event_store.client.{}", M::NAME),
        value: message.encode_to_vec(),
    }
}

/// The messages for details, with their names in the protocol.
trait Named {
    const NAME: &'static str;
}

macro_rules! named {
    ($($message:ident),* $(,)?) => {$(
        impl Named for shared::$message {
            const NAME: &'static str = stringify!($message);
        }
    )*};
}

named!(
    AccessDenied,
    BadRequest,
    MaximumAppendSizeExceeded,
    StreamDeleted,
    Timeout,
    Unknown,
    WrongExpectedVersion,
);

/// Trailers under construction.
#[derive(Debug, Default)]
pub(super) struct Trailers(pub(super) MetadataMap);

impl Trailers {
    pub(super) fn exception(&mut self, name: &'static str) {
        self.0.insert("exception", MetadataValue::from_static(name));
    }

    /// Adds a trailer. A value that a header cannot contain is omitted; the message has it as well.
    pub(super) fn add(&mut self, name: &'static str, value: &str) {
        if let Ok(value) = MetadataValue::try_from(value) {
            self.0.insert(name, value);
        }
    }
}
