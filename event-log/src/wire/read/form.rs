//! In which form a client wants its events: how ids are written, and whether links are followed.

use event_schemas::envelope::Recorded;
use event_schemas::ids::Revision;
use event_schemas::stream::StreamId;

use crate::EventLog;
use crate::wire::message::{IdForm, event, resolved};
use crate::wire::node::Node;
use crate::wire::proto::event_store::client::streams::ReadResp;
use crate::wire::refusal::Refusal;

/// The type of an event that stands for another one, which its data names: `revision@stream`.
const LINK: &str = "$>";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::wire) struct Form {
    pub(in crate::wire) ids: IdForm,
    pub(in crate::wire) resolves_links: bool,
}

impl Form {
    /// The event as the client wants it.
    pub(super) async fn tell(self, node: &Node, recorded: Recorded) -> Result<ReadResp, Refusal> {
        if !self.resolves_links || recorded.event_type.as_str() != LINK {
            return Ok(event(recorded, self.ids));
        }
        let target = match target(&recorded) {
            Some((stream, revision)) => find(node, &stream, revision).await?,
            None => None,
        };
        Ok(resolved(recorded, target, self.ids))
    }

    pub(super) async fn tell_all(self, node: &Node, events: Vec<Recorded>) -> Result<Vec<ReadResp>, Refusal> {
        let mut told = Vec::with_capacity(events.len());
        for event in events {
            told.push(self.tell(node, event).await?);
        }
        Ok(told)
    }
}

fn target(link: &Recorded) -> Option<(StreamId, Revision)> {
    let (revision, stream) = std::str::from_utf8(&link.data).ok()?.split_once('@')?;
    Some((stream.parse().ok()?, Revision(revision.parse().ok()?)))
}

/// The event that a link stands for, unless it is hidden or its stream is gone.
async fn find(node: &Node, stream: &StreamId, revision: Revision) -> Result<Option<Recorded>, Refusal> {
    let visible = match node.visible(stream).await {
        Ok(Some(visible)) => visible,
        Ok(None) | Err(Refusal::Deleted(_)) => return Ok(None),
        Err(refusal) => return Err(refusal),
    };
    if revision < visible.first || revision > visible.last {
        return Ok(None);
    }
    let found = node.log.read_stream(stream, revision, 1).await?.pop();
    Ok(found.filter(|event| visible.recorded_from.is_none_or(|from| event.recorded_at >= from)))
}
