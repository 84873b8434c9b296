//! What all services of a server share.

use tonic::Status;
use tonic::metadata::MetadataMap;

use super::access::{Access, Right};
use super::condition::{EndPoint, Observer};
use super::stream_state::States;
use crate::clock::Clock;
use crate::embedded::EmbeddedLog;

/// The log, and the rules under which it is served.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) log: EmbeddedLog,
    pub(super) clock: Clock,
    pub(super) access: Access,
    pub(super) observer: Observer,
    pub(super) states: States,
    /// How clients reach this server.
    pub(super) advertised: EndPoint,
}

impl Node {
    /// What the caller may do, if calls are answered at all.
    pub(super) fn admit(&self, request: &MetadataMap) -> Result<Right, Status> {
        self.observer.check()?;
        Ok(self.access.right(request)?)
    }
}
