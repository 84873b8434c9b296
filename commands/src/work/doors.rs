//! Which kinds of work may be begun: while a service that they need is left alone, none, and then a few to find out.

use std::collections::HashMap;

use domain::job::service::{Admission, Services};
use event_schemas::failure::ClassifiedError;
use event_schemas::ids::JobId;
use event_schemas::job::{JobEvent, JobKind};
use event_schemas::time::Timestamp;
use event_schemas::worker::WorkKind;

/// The kinds that are claimed as whole jobs.
const KINDS: [(WorkKind, JobKind); 5] = [
    (WorkKind::VideoAnalysis, JobKind::VideoAnalysis),
    (WorkKind::ExtractCutouts, JobKind::ExtractCutouts),
    (WorkKind::ExtractProducts, JobKind::ExtractProducts),
    (WorkKind::ExtractSingleProduct, JobKind::ExtractSingleProduct),
    (WorkKind::ModelTraining, JobKind::ModelTraining),
];

#[derive(Debug, Default)]
pub(super) struct Doors {
    pub(super) services: Services,
    /// Work of the kind that a claim is deciding about, and that no event speaks of yet.
    held: HashMap<WorkKind, usize>,
    /// What was let through when that was last looked at.
    seen: HashMap<WorkKind, usize>,
}

impl Doors {
    pub(super) fn apply(&mut self, job: JobId, event: &JobEvent, at: Timestamp) {
        self.services.apply(job, event, at);
    }

    /// How much work of the kind may be begun now.
    pub(super) fn room(&self, kind: WorkKind, now: Timestamp) -> usize {
        let Some((_, of)) = KINDS.iter().find(|(known, _)| *known == kind) else { return usize::MAX };
        match self.services.admission(*of, now) {
            Admission::All => usize::MAX,
            Admission::Probes(probes) => {
                probes.saturating_sub(self.held.get(&kind).copied().unwrap_or_default())
            }
            Admission::Parked { .. } => 0,
        }
    }

    pub(super) fn hold(&mut self, kind: WorkKind) {
        *self.held.entry(kind).or_default() += 1;
    }

    pub(super) fn let_go(&mut self, kind: WorkKind) {
        if let Some(held) = self.held.get_mut(&kind) {
            *held = held.saturating_sub(1);
        }
    }

    /// The kinds of which more may be begun than when this was last asked, with how much.
    pub(super) fn opened(&mut self, now: Timestamp) -> Vec<(WorkKind, usize)> {
        let mut opened = Vec::new();
        for (kind, _) in KINDS {
            let room = self.room(kind, now);
            let before = self.seen.insert(kind, room).unwrap_or(usize::MAX);
            if room > before {
                opened.push((kind, room));
            }
        }
        opened
    }

    /// When what fails of its service would be tried again, if the service is left alone.
    pub(super) fn left_alone_until(
        &self,
        job: JobId,
        error: &ClassifiedError,
        now: Timestamp,
    ) -> Option<Timestamp> {
        self.services.left_alone_until(job, error, now)
    }
}
