//! Deleting streams of clients: soft deletion, after which a stream can be appended to again, and tombstones. Streams of the
//! program cannot be deleted.

use event_schemas::ids::{Position, Revision};
use event_schemas::stream::StreamId;

use super::access::{self, Owner};
use super::event_conversion::stream_id;
use super::node::Node;
use super::proto::event_store::client::streams::{
    DeleteReq, DeleteResp, TombstoneReq, TombstoneResp, delete_req, delete_resp, tombstone_req,
    tombstone_resp,
};
use super::refusal::Refusal;
use super::stream_metadata::{StreamStatus, TOMBSTONE, system_event};
use event_log::AppendError;
use event_log_embedded::ClientExpected;

/// The stream to delete, and its expected state.
#[derive(Debug)]
pub(super) struct Deletion {
    pub(super) stream: StreamId,
    pub(super) expected: ClientExpected,
}

const NO_EXPECTATION: Refusal = Refusal::Malformed("the deletion has no expected revision");

impl TryFrom<DeleteReq> for Deletion {
    type Error = Refusal;

    fn try_from(request: DeleteReq) -> Result<Self, Refusal> {
        use delete_req::options::ExpectedStreamRevision;
        let options = request.options.ok_or(Refusal::Malformed("the deletion has no options"))?;
        let expected = match options.expected_stream_revision.ok_or(NO_EXPECTATION)? {
            ExpectedStreamRevision::Revision(revision) => ClientExpected::At(Revision(revision)),
            ExpectedStreamRevision::NoStream(_) => ClientExpected::NoStream,
            ExpectedStreamRevision::Any(_) => ClientExpected::Any,
            ExpectedStreamRevision::StreamExists(_) => ClientExpected::Exists,
        };
        Ok(Self { stream: stream_id(options.stream_identifier.as_ref())?, expected })
    }
}

impl TryFrom<TombstoneReq> for Deletion {
    type Error = Refusal;

    fn try_from(request: TombstoneReq) -> Result<Self, Refusal> {
        use tombstone_req::options::ExpectedStreamRevision;
        let options = request.options.ok_or(Refusal::Malformed("the deletion has no options"))?;
        let expected = match options.expected_stream_revision.ok_or(NO_EXPECTATION)? {
            ExpectedStreamRevision::Revision(revision) => ClientExpected::At(Revision(revision)),
            ExpectedStreamRevision::NoStream(_) => ClientExpected::NoStream,
            ExpectedStreamRevision::Any(_) => ClientExpected::Any,
            ExpectedStreamRevision::StreamExists(_) => ClientExpected::Exists,
        };
        Ok(Self { stream: stream_id(options.stream_identifier.as_ref())?, expected })
    }
}

pub(super) fn deleted(at: Position) -> DeleteResp {
    let position = delete_resp::Position { commit_position: at.0, prepare_position: at.0 };
    DeleteResp { position_option: Some(delete_resp::PositionOption::Position(position)) }
}

pub(super) fn tombstoned(at: Position) -> TombstoneResp {
    let position = tombstone_resp::Position { commit_position: at.0, prepare_position: at.0 };
    TombstoneResp { position_option: Some(tombstone_resp::PositionOption::Position(position)) }
}

impl Deletion {
    fn check(&self) -> Result<(), Refusal> {
        match access::owner(&self.stream) {
            Owner::Client => Ok(()),
            Owner::Domain | Owner::Identity => Err(Refusal::AccessDenied(format!(
                "{} is a stream of the program, which cannot be deleted",
                self.stream
            ))),
            Owner::MetadataOf(_) | Owner::System => Err(Refusal::AccessDenied(format!(
                "{} is a system stream, which cannot be deleted",
                self.stream
            ))),
        }
    }

    fn conflict(self, actual: Option<Revision>) -> Refusal {
        Refusal::NotDeleted { stream: self.stream, expected: self.expected, actual }
    }
}

/// Whether the error is "stream deleted", and not "wrong expected version".
fn is_gone(status: &StreamStatus, expected: ClientExpected) -> bool {
    *status == StreamStatus::Tombstoned
        || (*status == StreamStatus::Deleted && expected == ClientExpected::Exists)
}

impl Node {
    /// Deletes a stream softly: hides its events. It can be appended to again.
    pub(super) async fn delete(&self, deletion: Deletion) -> Result<Position, Refusal> {
        deletion.check()?;
        let Deletion { stream, expected } = &deletion;
        let _exclusive = self.statuses.lock(stream).write().await;
        self.log.flush().await?;
        let status = self.status_under_lock(stream).await?;
        if is_gone(&status, *expected) {
            return Err(Refusal::Deleted(deletion.stream));
        }
        let last = self.log.last_event(stream).await?.map(|event| event.revision);
        let as_expected = match expected {
            ClientExpected::Any | ClientExpected::Exists => last.is_some(),
            ClientExpected::At(revision) => last == Some(*revision),
            ClientExpected::NoStream => false,
        };
        if !as_expected {
            return Err(deletion.conflict(last));
        }
        Ok(self.truncate_all(stream).await?.position)
    }

    /// Deletes a stream permanently, with a tombstone.
    pub(super) async fn tombstone(&self, deletion: Deletion) -> Result<Position, Refusal> {
        deletion.check()?;
        let Deletion { stream, expected } = &deletion;
        let _exclusive = self.statuses.lock(stream).write().await;
        self.log.flush().await?;
        let status = self.status_under_lock(stream).await?;
        let last = self.log.last_event(stream).await?.map(|event| event.revision);
        if is_gone(&status, *expected) {
            return Err(Refusal::Deleted(deletion.stream));
        }
        let expected = match (&status, expected, last) {
            // A deleted stream counts as missing.
            (StreamStatus::Deleted, ClientExpected::NoStream, Some(last)) => ClientExpected::At(last),
            (_, expected, _) => *expected,
        };
        let pending =
            self.log.submit(stream, expected, vec![system_event(TOMBSTONE, "{}".to_owned())]).await?;
        self.statuses.invalidate(stream);
        match pending.outcome().await {
            Ok(appended) => Ok(appended.position),
            Err(AppendError::Conflict { actual }) => Err(deletion.conflict(actual)),
            Err(error) => Err(error.into()),
        }
    }
}
