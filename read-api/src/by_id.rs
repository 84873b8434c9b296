//! Reads by id. An object that was created a moment ago is in the log, and its read model may not have it yet. Its
//! creator knows its id, and need not know its position.

use event_log::EventLog;
use event_schemas::ids::{Position, Revision, Tenant};
use event_schemas::stream::StreamId;
use projections::Name;
use web::problem::Problem;

use crate::ReadApi;
use crate::errors::from_read_error;
use crate::min_position::MinPosition;

/// Where the log has an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// In the stream with its id: an unknown id is recognised at once.
    Stream(StreamId),
    /// In a stream that its id does not name.
    Other,
}

impl ReadApi {
    /// Reads an object. If the read model does not have it and the log may, waits until the read model has reached it, at
    /// most as long as for `X-Min-Position`, and reads again.
    ///
    /// # Errors
    /// An error of the read; 503 with `Retry-After` if the log has the object and the read model stays behind.
    pub(crate) async fn read_by_id<T, Reading>(
        &self,
        model: Name,
        tenant: &Tenant,
        origin: Origin,
        read: impl Fn() -> Reading,
    ) -> Result<Option<T>, Problem>
    where
        Reading: Future<Output = Result<Option<T>, Problem>>,
    {
        let found = read().await?;
        if found.is_some() {
            return Ok(found);
        }
        match origin {
            Origin::Stream(stream) => {
                let Some(created) = self.created_at(tenant, &stream).await? else { return Ok(None) };
                self.wait_for_models(&[model], MinPosition(Some(created))).await?;
            }
            // If the read model stays behind, the object is most likely unknown.
            Origin::Other => {
                let _ = self.wait_for_models(&[model], MinPosition(Some(self.head()))).await;
            }
        }
        read().await
    }

    /// The position of the first event of a tenant's stream.
    async fn created_at(&self, tenant: &Tenant, stream: &StreamId) -> Result<Option<Position>, Problem> {
        let first = self.log.read_stream(stream, Revision(0), 1).await;
        let first = first.map_err(|error| from_read_error(&error))?;
        let Some(first) = first.first() else { return Ok(None) };
        let metadata = first.metadata().map_err(|error| Problem::internal(&error))?;
        Ok((metadata.tenant == *tenant).then_some(first.position))
    }
}
