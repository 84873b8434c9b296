//! `BatchAppend`: any number of appends over one call, each in one or more messages, answered as they complete.

use std::collections::HashMap;

use event_schemas::ids::Revision;
use event_schemas::time::Timestamp;
use uuid::Uuid;

use super::{AppendOutcome, AppendRequest, ProposedEvents};
use crate::wire::event_conversion::{UuidFormat, proposed, stream_id, uuid};
use crate::wire::guard::{MessageBudget, Reservation};
use crate::wire::proto::event_store::client::streams::batch_append_req::options::{
    DeadlineOption, ExpectedStreamPosition,
};
use crate::wire::proto::event_store::client::streams::batch_append_resp::{
    self, Result as Answer, Success, success,
};
use crate::wire::proto::event_store::client::streams::{BatchAppendReq, BatchAppendResp, batch_append_req};
use crate::wire::proto::event_store::client::{self as shared, AllStreamPosition};
use crate::wire::refusal::{Refusal, conflict_in_batch};
use event_log_embedded::ClientExpected;

/// The most incomplete appends of one call.
const OPEN_MAX: usize = 64;

/// The fields of an answer that identify its append.
#[derive(Clone, Debug)]
pub(in crate::wire) struct AppendLabel {
    id: shared::Uuid,
    stream: Option<shared::StreamIdentifier>,
    expected: Option<ClientExpected>,
}

/// An append that was received completely, or is refused already.
#[derive(Debug)]
pub(in crate::wire) struct CompleteAppend {
    pub(in crate::wire) label: AppendLabel,
    pub(in crate::wire) append: Result<AppendRequest, Refusal>,
}

/// The incomplete appends of a call, by their correlation ids.
#[derive(Debug)]
pub(in crate::wire) struct IncompleteAppends {
    appends: HashMap<Uuid, IncompleteAppend>,
    budget: MessageBudget,
}

#[derive(Debug)]
struct IncompleteAppend {
    label: AppendLabel,
    append: Result<AppendRequest, Refusal>,
    /// The memory of its parts.
    reserved: Vec<Reservation>,
}

impl IncompleteAppends {
    pub(in crate::wire) fn new(budget: MessageBudget) -> Self {
        Self { appends: HashMap::new(), budget }
    }

    /// Adds a message; returns the append if that completes it.
    ///
    /// # Errors
    /// The message is invalid, which ends the call.
    pub(in crate::wire) fn add_message(
        &mut self,
        message: BatchAppendReq,
        now: Timestamp,
    ) -> Result<Option<CompleteAppend>, Refusal> {
        let key = uuid(message.correlation_id.as_ref())?;
        if let Some(options) = &message.options {
            if self.appends.len() >= OPEN_MAX {
                return Err(Refusal::TooMany("at most 64 appends of a call may be incomplete at a time"));
            }
            let id = message.correlation_id.clone().unwrap_or_else(|| UuidFormat::Text.write(key));
            let label =
                AppendLabel { id, stream: options.stream_identifier.clone(), expected: expected(options) };
            let append = start_append(options, label.expected, now);
            let incomplete = IncompleteAppend { label, append, reserved: Vec::new() };
            if self.appends.insert(key, incomplete).is_some() {
                return Err(Refusal::Malformed("two appends of the call have the same correlation id"));
            }
        }
        let part = self
            .appends
            .get_mut(&key)
            .ok_or(Refusal::Malformed("the first message of an append carries its options"))?;
        let before = part.append.as_ref().map_or(0, |append| append.events.bytes());
        for event in message.proposed_messages {
            let Ok(append) = &mut part.append else { break };
            match proposed(event.id.as_ref(), &event.metadata, event.custom_metadata, event.data) {
                Ok(event) => append.events.push(event),
                Err(refusal) => part.append = Err(refusal),
            }
        }
        if !message.is_final {
            let added = part.append.as_ref().map_or(0, |append| append.events.bytes()).saturating_sub(before);
            part.reserved.push(self.budget.reserve_part(added).ok_or(Refusal::TooMany(
                "the incomplete appends of a connection have at most 16 MiB together, and those of all at most 64 MiB",
            ))?);
            return Ok(None);
        }
        let part = self.appends.remove(&key);
        Ok(part.map(|IncompleteAppend { label, append, .. }| CompleteAppend { label, append }))
    }
}

fn expected(options: &batch_append_req::Options) -> Option<ClientExpected> {
    options.expected_stream_position.map(|expected| match expected {
        ExpectedStreamPosition::StreamPosition(revision) => ClientExpected::At(Revision(revision)),
        ExpectedStreamPosition::NoStream(()) => ClientExpected::NoStream,
        ExpectedStreamPosition::Any(()) => ClientExpected::Any,
        ExpectedStreamPosition::StreamExists(()) => ClientExpected::Exists,
    })
}

fn start_append(
    options: &batch_append_req::Options,
    expected: Option<ClientExpected>,
    now: Timestamp,
) -> Result<AppendRequest, Refusal> {
    let expected = expected.ok_or(Refusal::Malformed("the append has no expected revision"))?;
    let too_late = match options.deadline_option {
        Some(DeadlineOption::Deadline21100(at)) => at.seconds < now.micros().div_euclid(1_000_000),
        Some(DeadlineOption::Deadline(left)) => left.seconds < 0 || left.nanos < 0,
        None => false,
    };
    if too_late {
        return Err(Refusal::TooLate);
    }
    let stream = stream_id(options.stream_identifier.as_ref())?;
    Ok(AppendRequest { stream, expected, events: ProposedEvents::default() })
}

/// The answer to one append of the call.
pub(in crate::wire) fn answer(
    label: AppendLabel,
    outcome: Result<AppendOutcome, Refusal>,
) -> BatchAppendResp {
    let result = match outcome {
        Ok(AppendOutcome::Appended { revision, position }) => Answer::Success(Success {
            current_revision_option: Some(success::CurrentRevisionOption::CurrentRevision(revision.0)),
            position_option: Some(success::PositionOption::Position(AllStreamPosition {
                commit_position: position.0,
                prepare_position: position.0,
            })),
        }),
        Ok(AppendOutcome::NoEvents { last }) => Answer::Success(Success {
            current_revision_option: Some(match last {
                Some(revision) => success::CurrentRevisionOption::CurrentRevision(revision.0),
                None => success::CurrentRevisionOption::NoStream(()),
            }),
            position_option: Some(success::PositionOption::NoPosition(())),
        }),
        Ok(AppendOutcome::Conflict { expected, actual }) => {
            Answer::Error(conflict_in_batch(expected, actual))
        }
        Err(refusal) => Answer::Error(refusal.in_batch()),
    };
    let expected = label.expected.map(|expected| match expected {
        ClientExpected::At(revision) => batch_append_resp::ExpectedStreamPosition::StreamPosition(revision.0),
        ClientExpected::NoStream => batch_append_resp::ExpectedStreamPosition::NoStream(()),
        ClientExpected::Any => batch_append_resp::ExpectedStreamPosition::Any(()),
        ClientExpected::Exists => batch_append_resp::ExpectedStreamPosition::StreamExists(()),
    });
    BatchAppendResp {
        correlation_id: Some(label.id),
        // Clients require it.
        stream_identifier: Some(label.stream.unwrap_or_default()),
        expected_stream_position: expected,
        result: Some(result),
    }
}
