//! The events of groups in the log: their definitions, checkpoints and parked events.
//!
//! A name can be reused after its group was deleted; the events of the old group are excluded by their revisions.

use event_schemas::envelope::{DataFormat, EventType, NewEvent, Recorded};
use event_schemas::ids::{EventId, Revision};
use event_schemas::stream::StreamId;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::delivery_state::GroupCheckpoint;
use super::settings::{GroupKey, GroupSource, Settings, SourcePosition};
use crate::wire::filter::Filter;
use crate::wire::proto::event_store::client::streams::read_req::options::FilterOptions;
use crate::wire::proto::event_store::client::streams::read_req::options::filter_options::{self, Expression};
use crate::wire::refusal::Refusal;
use crate::wire::stream_metadata::system_event;

/// The stream of all changes to groups.
pub(super) const GROUPS: &str = "$persistentSubscriptionConfig";

const SET: &str = "$PersistentSubscriptionSet";
const DELETED: &str = "$PersistentSubscriptionDeleted";
const CHECKPOINT: &str = "$SubscriptionCheckpoint";

/// The type of link events, whose data is `revision@stream` of the target.
const LINK: &str = "$>";

/// The definition of a group, as it was created or updated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GroupDefinition {
    source: String,
    group: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) filter: Option<FilterRecord>,
    pub(super) settings: Settings,
    /// The start of the group, before its first checkpoint.
    pub(super) begin: SourcePosition,
    /// Checkpoints before this revision belong to an older group of the same name.
    pub(super) checkpoints_from: Revision,
    /// Parked events before this revision belong to an older group of the same name.
    pub(super) parked_from: Revision,
}

/// The filter of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FilterRecord {
    pub(super) by_stream: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) prefixes: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) regex: String,
}

impl FilterRecord {
    pub(super) fn compile(&self) -> Result<Filter, Refusal> {
        let expression = Expression { regex: self.regex.clone(), prefix: self.prefixes.clone() };
        let filter = if self.by_stream {
            filter_options::Filter::StreamIdentifier(expression)
        } else {
            filter_options::Filter::EventType(expression)
        };
        Filter::new(&FilterOptions { filter: Some(filter), ..FilterOptions::default() })
    }
}

impl GroupDefinition {
    pub(super) fn new(
        key: &GroupKey,
        filter: Option<FilterRecord>,
        settings: Settings,
        begin: SourcePosition,
    ) -> Self {
        Self {
            source: key.source.name().to_owned(),
            group: key.group.clone(),
            filter,
            settings,
            begin,
            checkpoints_from: Revision(0),
            parked_from: Revision(0),
        }
    }

    pub(super) fn key(&self) -> Option<GroupKey> {
        key(&self.source, &self.group)
    }

    pub(super) fn event(&self) -> NewEvent {
        json_event(SET, self)
    }
}

#[derive(Serialize, Deserialize)]
struct DeletedGroup {
    source: String,
    group: String,
}

pub(super) fn deletion(key: &GroupKey) -> NewEvent {
    json_event(DELETED, &DeletedGroup { source: key.source.name().to_owned(), group: key.group.clone() })
}

/// A change of the groups.
#[derive(Debug)]
pub(super) enum GroupChange {
    Set(Box<GroupDefinition>),
    Deleted(GroupKey),
}

/// Parses a change; `None` if the event has another type.
pub(super) fn change(event: &Recorded) -> Option<GroupChange> {
    match event.event_type.as_str() {
        SET => serde_json::from_slice(&event.data).ok().map(|group| GroupChange::Set(Box::new(group))),
        DELETED => {
            let deleted: DeletedGroup = serde_json::from_slice(&event.data).ok()?;
            key(&deleted.source, &deleted.group).map(GroupChange::Deleted)
        }
        _ => None,
    }
}

fn key(source: &str, group: &str) -> Option<GroupKey> {
    let source = match source {
        "$all" => GroupSource::All,
        stream => GroupSource::Stream(stream.parse().ok()?),
    };
    Some(GroupKey { source, group: group.to_owned() })
}

/// The streams of a group for checkpoints and parked events; `None` if the names of group and source are too long together.
pub(super) fn streams(key: &GroupKey) -> Option<(StreamId, StreamId)> {
    let stream = |what: &str| {
        format!("$persistentsubscription-{}::{}-{what}", key.source.name(), key.group).parse().ok()
    };
    Some((stream("checkpoint")?, stream("parked")?))
}

pub(super) fn checkpoint_event(checkpoint: GroupCheckpoint) -> NewEvent {
    json_event(CHECKPOINT, &checkpoint)
}

pub(super) fn parse_checkpoint(event: &Recorded) -> Option<GroupCheckpoint> {
    (event.event_type.as_str() == CHECKPOINT).then(|| serde_json::from_slice(&event.data).ok())?
}

/// The link event for a parked event.
pub(super) fn link(to: &Recorded, reason: &str) -> NewEvent {
    #[derive(Serialize)]
    struct ParkReason<'a> {
        reason: &'a str,
    }
    NewEvent {
        id: EventId(Uuid::new_v4()),
        event_type: EventType::new(LINK),
        format: DataFormat::Bytes,
        metadata: json(&ParkReason { reason }).into(),
        data: format!("{}@{}", to.revision, to.stream.as_str()).into(),
    }
}

/// The target of a link event.
pub(super) fn linked(link: &Recorded) -> Option<(Revision, StreamId)> {
    let (revision, stream) = std::str::from_utf8(&link.data).ok()?.split_once('@')?;
    Some((Revision(revision.parse().ok()?), stream.parse().ok()?))
}

fn json_event<T: Serialize>(event_type: &str, data: &T) -> NewEvent {
    system_event(event_type, json(data))
}

fn json<T: Serialize>(data: &T) -> String {
    serde_json::to_string(data).expect("names, numbers and texts can be written as JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_identifies_its_parked_event() {
        let new = event_log::conformance::event(1);
        let recorded = |stream: &str, new: NewEvent, revision| Recorded {
            position: event_schemas::ids::Position(1),
            recorded_at: event_schemas::time::Timestamp::EPOCH,
            stream: stream.parse().unwrap(),
            revision: Revision(revision),
            id: new.id,
            event_type: new.event_type,
            format: new.format,
            metadata: new.metadata,
            data: new.data,
        };
        let parked = recorded("a@b.example", new, 7);
        let link = recorded("parked", link(&parked, "\"no\""), 0);
        assert_eq!(linked(&link), Some((parked.revision, parked.stream)));
    }
}
