//! The format in which a client wants events: the form of ids, and whether links are resolved.

use event_schemas::envelope::Recorded;
use event_schemas::ids::Revision;
use event_schemas::stream::StreamId;

use crate::wire::event_conversion::{UuidFormat, event, resolved};
use crate::wire::node::Node;
use crate::wire::proto::event_store::client::streams::ReadResp;
use crate::wire::refusal::Refusal;
use event_log::EventLog;

/// The type of link events, whose data names the target: `revision@stream`.
const LINK: &str = "$>";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::wire) struct ReadFormat {
    pub(in crate::wire) ids: UuidFormat,
    pub(in crate::wire) resolves_links: bool,
}

impl ReadFormat {
    /// Converts an event to a response in this format.
    pub(super) async fn convert(self, node: &Node, recorded: Recorded) -> Result<ReadResp, Refusal> {
        if !self.resolves_links || recorded.event_type.as_str() != LINK {
            return Ok(event(recorded, self.ids));
        }
        let target = match target(&recorded) {
            Some((stream, revision)) => find(node, &stream, revision).await?,
            None => None,
        };
        Ok(resolved(recorded, target, self.ids))
    }

    pub(super) async fn convert_all(
        self,
        node: &Node,
        events: Vec<Recorded>,
    ) -> Result<Vec<ReadResp>, Refusal> {
        let mut responses = Vec::with_capacity(events.len());
        for event in events {
            responses.push(self.convert(node, event).await?);
        }
        Ok(responses)
    }
}

fn target(link: &Recorded) -> Option<(StreamId, Revision)> {
    let (revision, stream) = std::str::from_utf8(&link.data).ok()?.split_once('@')?;
    Some((stream.parse().ok()?, Revision(revision.parse().ok()?)))
}

/// The target event of a link, unless it is hidden or its stream is deleted.
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
