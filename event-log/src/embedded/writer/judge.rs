//! What is to become of an append: whether its expectation is met, and whether it was made before.

use event_schemas::envelope::{NewEvent, Recorded};
use event_schemas::ids::{EventId, Position, Revision};
use event_schemas::stream::StreamId;

use super::{Final, Group, Writer};
use crate::embedded::client::{Claim, ClientExpected};
use crate::embedded::heads::Head;
use crate::embedded::reader::Access;
use crate::{Appended, Expected};

/// What is to become of an append.
pub(super) enum Verdict {
    Append(Option<Head>),
    /// It was appended before.
    Earlier(Appended),
    Conflict(Option<Revision>),
}

impl Writer {
    pub(super) fn judge(
        &mut self,
        group: &Group,
        stream: &StreamId,
        claim: Claim,
        events: &[NewEvent],
    ) -> Result<Verdict, Final> {
        let head = self.head_of(stream)?;
        let actual = head.map(|head| head.revision);
        let expected = match claim {
            Claim::Contract(expected) => expected,
            Claim::Client(expected) => {
                if expected == ClientExpected::Exists && head.is_none() {
                    return Ok(Verdict::Conflict(None));
                }
                let known = events.first().and_then(|event| self.ids.find(stream, event.id));
                match (expected.as_expected(), known, head) {
                    // Where the first event is, the others must be as well. A stream may have been thought to be new
                    // because all that it had is hidden.
                    (Expected::Any | Expected::NoStream, Some(first), Some(head)) => {
                        let earlier = self.find_earlier(group, head, stream, first, events)?;
                        return Ok(earlier.map_or(Verdict::Conflict(actual), Verdict::Earlier));
                    }
                    (expected, ..) => expected,
                }
            }
        };
        let count = events.len() as u64;
        let first = match expected {
            Expected::NoStream if head.is_none() => return Ok(Verdict::Append(head)),
            Expected::At(revision) if actual == Some(revision) => return Ok(Verdict::Append(head)),
            Expected::NoStream => Some(0),
            Expected::At(revision) => revision.0.checked_add(1),
            Expected::Any => actual.and_then(|last| (last.0 + 1).checked_sub(count)),
        };
        // Whether these events are there already, at the place where they would have been put.
        let last = first.and_then(|first| first.checked_add(count - 1)).map(Revision);
        if let (Some(head), Some(first), Some(last)) = (head, first, last)
            && last <= head.revision
            && self.may_end_with(head, last, stream, events)?
            && let Some(appended) = self.find_earlier(group, head, stream, Revision(first), events)?
        {
            return Ok(Verdict::Earlier(appended));
        }
        Ok(if expected == Expected::Any { Verdict::Append(head) } else { Verdict::Conflict(actual) })
    }

    /// A cheap look before [`Self::find_earlier`]: false if the stream's last event cannot be the last of these.
    fn may_end_with(
        &mut self,
        head: Head,
        last: Revision,
        stream: &StreamId,
        events: &[NewEvent],
    ) -> Result<bool, Final> {
        if last < head.revision {
            return Ok(true);
        }
        let id = match head.id {
            Some(id) => Some(id),
            None => {
                let found = self.shelf.stream(stream, last, 1, Access::Disk)?;
                let id = found.first().map(|event| event.id);
                self.heads.set(stream.clone(), Some(Head { id, ..head }));
                id
            }
        };
        Ok(id == events.last().map(|event| event.id))
    }

    /// The outcome of an earlier append of these events at `first`, if there was one: durable, pending, or both.
    fn find_earlier(
        &self,
        group: &Group,
        head: Head,
        stream: &StreamId,
        first: Revision,
        events: &[NewEvent],
    ) -> Result<Option<Appended>, Final> {
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
        let durable = self.shelf.stream(stream, first, left.len(), Access::Disk)?;
        let ids = |event: &NewEvent| -> EventId { event.id };
        if !durable.iter().map(|event| event.id).eq(left.iter().map(ids)) {
            return Ok(None);
        }
        Ok(found.or_else(|| durable.last().map(appended_as)))
    }

    pub(super) fn head_of(&mut self, stream: &StreamId) -> Result<Option<Head>, Final> {
        if let Some(head) = self.heads.get(stream) {
            return Ok(head);
        }
        let head = self.shelf.last_revision(stream, Access::Disk)?.map(|revision| Head {
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
