//! What of groups is kept in the log: which there are, how far each is, and which events it has parked.
//!
//! A group's name may be given again after it was deleted; what is left of the old one is told apart by its revisions.

use event_schemas::envelope::{DataFormat, EventType, NewEvent, Recorded};
use event_schemas::ids::{EventId, Revision};
use event_schemas::stream::StreamId;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::flow::Mark;
use super::settings::{Key, Place, Settings, Source};
use crate::wire::filter::Filter;
use crate::wire::proto::event_store::client::streams::read_req::options::FilterOptions;
use crate::wire::proto::event_store::client::streams::read_req::options::filter_options::{self, Expression};
use crate::wire::refusal::Refusal;
use crate::wire::stream_state::system_event;

/// The stream of all changes to groups.
pub(super) const GROUPS: &str = "$persistentSubscriptionConfig";

const MADE: &str = "$PersistentSubscriptionSet";
const DELETED: &str = "$PersistentSubscriptionDeleted";
const CHECKPOINT: &str = "$SubscriptionCheckpoint";

/// The type of an event that stands for another: its data are the other's revision and stream.
const LINK: &str = "$>";

/// A group as it was made or changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Group {
    source: String,
    group: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) filter: Option<FilterRecord>,
    pub(super) settings: Settings,
    /// Where it begins.
    pub(super) begin: Place,
    /// Checkpoints before this one are of an older group of the same name.
    pub(super) checkpoints_from: Revision,
    /// Parked events as well.
    pub(super) parked_from: Revision,
}

/// Which events of the log a group wants.
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

impl Group {
    pub(super) fn new(key: &Key, filter: Option<FilterRecord>, settings: Settings, begin: Place) -> Self {
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

    pub(super) fn key(&self) -> Option<Key> {
        key(&self.source, &self.group)
    }

    pub(super) fn event(&self) -> NewEvent {
        json_event(MADE, self)
    }
}

#[derive(Serialize, Deserialize)]
struct Gone {
    source: String,
    group: String,
}

pub(super) fn deletion(key: &Key) -> NewEvent {
    json_event(DELETED, &Gone { source: key.source.name().to_owned(), group: key.group.clone() })
}

/// A change to groups.
#[derive(Debug)]
pub(super) enum Change {
    Set(Box<Group>),
    Deleted(Key),
}

/// None if the event is of another kind.
pub(super) fn change(event: &Recorded) -> Option<Change> {
    match event.event_type.as_str() {
        MADE => serde_json::from_slice(&event.data).ok().map(|group| Change::Set(Box::new(group))),
        DELETED => {
            let gone: Gone = serde_json::from_slice(&event.data).ok()?;
            key(&gone.source, &gone.group).map(Change::Deleted)
        }
        _ => None,
    }
}

fn key(source: &str, group: &str) -> Option<Key> {
    let source = match source {
        "$all" => Source::All,
        stream => Source::Stream(stream.parse().ok()?),
    };
    Some(Key { source, group: group.to_owned() })
}

/// The streams of a group; none if its name and its source's are too long together.
pub(super) fn streams(key: &Key) -> Option<(StreamId, StreamId)> {
    let stream = |what: &str| {
        format!("$persistentsubscription-{}::{}-{what}", key.source.name(), key.group).parse().ok()
    };
    Some((stream("checkpoint")?, stream("parked")?))
}

pub(super) fn checkpoint(mark: Mark) -> NewEvent {
    json_event(CHECKPOINT, &mark)
}

pub(super) fn mark(event: &Recorded) -> Option<Mark> {
    (event.event_type.as_str() == CHECKPOINT).then(|| serde_json::from_slice(&event.data).ok())?
}

/// The event that stands for a parked one.
pub(super) fn link(to: &Recorded, reason: &str) -> NewEvent {
    #[derive(Serialize)]
    struct Why<'a> {
        reason: &'a str,
    }
    NewEvent {
        id: EventId(Uuid::new_v4()),
        event_type: EventType::new(LINK),
        format: DataFormat::Bytes,
        metadata: json(&Why { reason }).into(),
        data: format!("{}@{}", to.revision, to.stream.as_str()).into(),
    }
}

/// Which event a link stands for.
pub(super) fn linked(link: &Recorded) -> Option<(Revision, StreamId)> {
    let (revision, stream) = std::str::from_utf8(&link.data).ok()?.split_once('@')?;
    Some((Revision(revision.parse().ok()?), stream.parse().ok()?))
}

fn json_event<T: Serialize>(event_type: &str, data: &T) -> NewEvent {
    system_event(event_type, json(data))
}

fn json<T: Serialize>(data: &T) -> String {
    serde_json::to_string(data).expect("names, numbers and texts are JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parked_event_is_found_again_by_its_link() {
        let new = crate::conformance::event(1);
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
