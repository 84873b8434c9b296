//! The state that all services of a server share.

use tonic::Status;
use tonic::metadata::MetadataMap;

use super::access::{Access, Right};
use super::server_state::{EndPoint, ServerStateWatch};
use super::stream_metadata::StreamStatusCache;
use event_log::clock::Clock;
use event_log_embedded::EmbeddedLog;

/// The log, and the settings with which it is served.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) log: EmbeddedLog,
    pub(super) clock: Clock,
    pub(super) access: Access,
    pub(super) server_state: ServerStateWatch,
    pub(super) statuses: StreamStatusCache,
    /// The address of this server in gossip responses.
    pub(super) advertised: EndPoint,
}

impl Node {
    /// Checks that the server accepts calls, and returns the right of the caller.
    pub(super) fn admit(&self, request: &MetadataMap) -> Result<Right, Status> {
        self.server_state.check()?;
        Ok(self.access.right(request)?)
    }
}
