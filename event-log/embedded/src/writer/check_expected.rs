//! The check of an append: whether its expectation is met, and whether it is a retry.

use event_schemas::envelope::{NewEvent, Recorded};
use event_schemas::ids::{EventId, Position, Revision};
use event_schemas::stream::StreamId;

use super::{FatalError, OpenGroup, Writer};
use crate::external_append::{AppendExpectation, ClientExpected};
use crate::reader::Access;
use crate::stream_heads::StreamHead;
use event_log::{Appended, Expected};

/// The outcome of the check.
pub(super) enum AppendDecision {
    Append(Option<StreamHead>),
    /// The same events were appended earlier.
    Duplicate(Appended),
    Conflict(Option<Revision>),
}

impl Writer {
    pub(super) fn check_expected(
        &mut self,
        group: &OpenGroup,
        stream: &StreamId,
        expectation: AppendExpectation,
        events: &[NewEvent],
    ) -> Result<AppendDecision, FatalError> {
        let head = self.head_of(stream)?;
        let actual = head.map(|head| head.revision);
        let expected = match expectation {
            AppendExpectation::Contract(expected) => expected,
            AppendExpectation::Client(expected) => {
                if expected == ClientExpected::Exists && head.is_none() {
                    return Ok(AppendDecision::Conflict(None));
                }
                let known = events.first().and_then(|event| self.recent_ids.find(stream, event.id));
                match (expected.as_expected(), known, head) {
                    // If the first event was appended, all of them must have been. The client may expect a new stream
                    // because the stream's events are hidden.
                    (Expected::Any | Expected::NoStream, Some(first), Some(head)) => {
                        let duplicate = self.find_duplicate(group, head, stream, first, events)?;
                        return Ok(
                            duplicate.map_or(AppendDecision::Conflict(actual), AppendDecision::Duplicate)
                        );
                    }
                    (expected, ..) => expected,
                }
            }
        };
        let count = events.len() as u64;
        let first = match expected {
            Expected::NoStream if head.is_none() => return Ok(AppendDecision::Append(head)),
            Expected::At(revision) if actual == Some(revision) => return Ok(AppendDecision::Append(head)),
            Expected::NoStream => Some(0),
            Expected::At(revision) => revision.0.checked_add(1),
            Expected::Any => actual.and_then(|last| (last.0 + 1).checked_sub(count)),
        };
        // Check whether these events are already there, at the revisions that they would have had.
        let last = first.and_then(|first| first.checked_add(count - 1)).map(Revision);
        if let (Some(head), Some(first), Some(last)) = (head, first, last)
            && last <= head.revision
            && self.may_end_with(head, last, stream, events)?
            && let Some(appended) = self.find_duplicate(group, head, stream, Revision(first), events)?
        {
            return Ok(AppendDecision::Duplicate(appended));
        }
        Ok(if expected == Expected::Any {
            AppendDecision::Append(head)
        } else {
            AppendDecision::Conflict(actual)
        })
    }

    /// A cheap check before [`Self::find_duplicate`]: false if the stream's last event cannot be the last of these.
    fn may_end_with(
        &mut self,
        head: StreamHead,
        last: Revision,
        stream: &StreamId,
        events: &[NewEvent],
    ) -> Result<bool, FatalError> {
        if last < head.revision {
            return Ok(true);
        }
        let id = match head.id {
            Some(id) => Some(id),
            None => {
                let found = self.view.stream(stream, last, 1, Access::Disk)?;
                let id = found.first().map(|event| event.id);
                self.heads.set(stream.clone(), Some(StreamHead { id, ..head }));
                id
            }
        };
        Ok(id == events.last().map(|event| event.id))
    }

    /// The outcome of an earlier append of these events at `first`, if there was one: durable, pending, or both.
    fn find_duplicate(
        &self,
        group: &OpenGroup,
        head: StreamHead,
        stream: &StreamId,
        first: Revision,
        events: &[NewEvent],
    ) -> Result<Option<Appended>, FatalError> {
        let mut left = events;
        let mut found = None;
        // From the newest pending event of the stream backwards.
        let mut index =
            head.pending.filter(|pending| pending.group == group.number).map(|pending| pending.index);
        while let Some((at, pending)) = index.and_then(|at| Some((at, group.events.get(at)?))) {
            let Some(last) = left.last() else { break };
            let wanted = first.0 + left.len() as u64 - 1;
            if pending.revision.0 == wanted {
                if pending.event.id != last.id {
                    return Ok(None);
                }
                let position = Position(group.first.0 + at as u64);
                found.get_or_insert(Appended {
                    position,
                    revision: pending.revision,
                    recorded_at: group.recorded_at,
                });
                left = &left[..left.len() - 1];
            }
            index = pending.previous;
        }
        if left.is_empty() {
            return Ok(found);
        }
        let durable = self.view.stream(stream, first, left.len(), Access::Disk)?;
        let ids = |event: &NewEvent| -> EventId { event.id };
        if !durable.iter().map(|event| event.id).eq(left.iter().map(ids)) {
            return Ok(None);
        }
        Ok(found.or_else(|| durable.last().map(appended_as)))
    }

    pub(super) fn head_of(&mut self, stream: &StreamId) -> Result<Option<StreamHead>, FatalError> {
        if let Some(head) = self.heads.get(stream) {
            return Ok(head);
        }
        let head = self.view.last_revision(stream, Access::Disk)?.map(|revision| StreamHead {
            revision,
            id: None,
            pending: None,
        });
        self.heads.set(stream.clone(), head);
        Ok(head)
    }
}

fn appended_as(event: &Recorded) -> Appended {
    Appended { position: event.position, revision: event.revision, recorded_at: event.recorded_at }
}
