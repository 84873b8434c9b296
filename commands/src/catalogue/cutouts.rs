//! Single cutouts, as other processes record them.

use domain::cutout::{Action, Command, Facts};
use event_schemas::cutout::CutoutId;
use event_schemas::envelope::Cause;
use event_schemas::stream::StreamId;
use web::problem::Problem;

use super::Catalogue;
use crate::engine::problem;

/// What was recorded of a cutout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TakenOver {
    New,
    Changed,
    Unchanged,
}

impl Catalogue {
    /// Records what the system of a cutout says of it.
    ///
    /// # Errors
    /// If it could not be recorded.
    pub(crate) async fn take_over(
        &self,
        cause: &Cause,
        cutout_id: CutoutId,
        facts: Facts,
    ) -> Result<TakenOver, Problem> {
        let stream = StreamId::cutout(&cause.tenant, cutout_id);
        let is_known = self.has_cutout(&stream).await?;
        let command = Command { cutout_id, at: self.engine.now(), action: Action::Sync(facts) };
        let executed = self.cutouts.execute(&stream, cause, command).await;
        let executed = executed.map_err(problem::from_execute_error)?;
        Ok(match (executed.events, is_known) {
            (0, _) => TakenOver::Unchanged,
            (_, true) => TakenOver::Changed,
            (_, false) => TakenOver::New,
        })
    }
}
