//! `Append`: one append per call, whose events are sent in separate messages.

use tonic::Streaming;

use super::{AppendOutcome, AppendRequest, ProposedEvents};
use crate::wire::event_conversion::{proposed, stream_id};
use crate::wire::proto::event_store::client::Empty;
use crate::wire::proto::event_store::client::streams::append_req::options::ExpectedStreamRevision;
use crate::wire::proto::event_store::client::streams::append_resp::wrong_expected_version::{
    CurrentRevisionOption, CurrentRevisionOption2060, ExpectedRevisionOption, ExpectedRevisionOption2060,
};
use crate::wire::proto::event_store::client::streams::append_resp::{
    Position, Result as Answer, Success, WrongExpectedVersion, success,
};
use crate::wire::proto::event_store::client::streams::{AppendReq, AppendResp, append_req};
use crate::wire::refusal::Refusal;
use event_log_embedded::ClientExpected;
use event_schemas::ids::Revision;

/// Receives the messages of a call.
pub(in crate::wire) async fn receive(
    mut messages: Streaming<AppendReq>,
) -> Result<AppendRequest, tonic::Status> {
    let mut append = None;
    while let Some(message) = messages.message().await? {
        add_message(&mut append, message)?;
        if append.as_ref().is_some_and(|append: &AppendRequest| append.events.is_too_large()) {
            return Err(Refusal::TooLarge.into());
        }
    }
    Ok(append.ok_or(Refusal::Malformed("the append has no options"))?)
}

/// Adds a message to the append.
pub(in crate::wire) fn add_message(
    append: &mut Option<AppendRequest>,
    message: AppendReq,
) -> Result<(), Refusal> {
    match (message.content, append) {
        (Some(append_req::Content::Options(options)), append @ None) => {
            let expected = match options.expected_stream_revision {
                Some(ExpectedStreamRevision::Revision(revision)) => ClientExpected::At(Revision(revision)),
                Some(ExpectedStreamRevision::NoStream(_)) => ClientExpected::NoStream,
                Some(ExpectedStreamRevision::Any(_)) => ClientExpected::Any,
                Some(ExpectedStreamRevision::StreamExists(_)) => ClientExpected::Exists,
                None => return Err(Refusal::Malformed("the append has no expected revision")),
            };
            let stream = stream_id(options.stream_identifier.as_ref())?;
            *append = Some(AppendRequest { stream, expected, events: ProposedEvents::default() });
            Ok(())
        }
        (Some(append_req::Content::ProposedMessage(event)), Some(append)) => {
            let event = proposed(event.id.as_ref(), &event.metadata, event.custom_metadata, event.data)?;
            append.events.push(event);
            Ok(())
        }
        (Some(append_req::Content::Options(_)), Some(_)) => {
            Err(Refusal::Malformed("the append has its options twice"))
        }
        (Some(append_req::Content::ProposedMessage(_)), None) => {
            Err(Refusal::Malformed("the append starts with an event, not with its options"))
        }
        (None, _) => Err(Refusal::Malformed("a message of the append is empty")),
    }
}

/// The answer. A conflict is a regular answer, not an error.
pub(in crate::wire) fn answer(outcome: AppendOutcome) -> AppendResp {
    let result = match outcome {
        AppendOutcome::Appended { revision, position } => Answer::Success(Success {
            current_revision_option: Some(success::CurrentRevisionOption::CurrentRevision(revision.0)),
            position_option: Some(success::PositionOption::Position(Position {
                commit_position: position.0,
                prepare_position: position.0,
            })),
        }),
        AppendOutcome::NoEvents { last } => Answer::Success(Success {
            current_revision_option: Some(match last {
                Some(revision) => success::CurrentRevisionOption::CurrentRevision(revision.0),
                None => success::CurrentRevisionOption::NoStream(Empty {}),
            }),
            position_option: Some(success::PositionOption::NoPosition(Empty {})),
        }),
        AppendOutcome::Conflict { expected, actual } => {
            Answer::WrongExpectedVersion(conflict(expected, actual))
        }
    };
    AppendResp { result: Some(result) }
}

/// A conflict, in the current fields and in those for clients before 20.6.1.
fn conflict(expected: ClientExpected, actual: Option<Revision>) -> WrongExpectedVersion {
    let none = Empty {};
    let (current, current_2060) = match actual {
        Some(Revision(revision)) => (
            CurrentRevisionOption::CurrentRevision(revision),
            CurrentRevisionOption2060::CurrentRevision2060(revision),
        ),
        None => (CurrentRevisionOption::CurrentNoStream(none), CurrentRevisionOption2060::NoStream2060(none)),
    };
    let (expected, expected_2060) = match expected {
        ClientExpected::At(Revision(revision)) => (
            ExpectedRevisionOption::ExpectedRevision(revision),
            ExpectedRevisionOption2060::ExpectedRevision2060(revision),
        ),
        ClientExpected::Any => {
            (ExpectedRevisionOption::ExpectedAny(none), ExpectedRevisionOption2060::Any2060(none))
        }
        ClientExpected::Exists => (
            ExpectedRevisionOption::ExpectedStreamExists(none),
            ExpectedRevisionOption2060::StreamExists2060(none),
        ),
        // The older fields have no value for it; servers wrote the largest number.
        ClientExpected::NoStream => (
            ExpectedRevisionOption::ExpectedNoStream(none),
            ExpectedRevisionOption2060::ExpectedRevision2060(u64::MAX),
        ),
    };
    WrongExpectedVersion {
        current_revision_option_20_6_0: Some(current_2060),
        expected_revision_option_20_6_0: Some(expected_2060),
        current_revision_option: Some(current),
        expected_revision_option: Some(expected),
    }
}
