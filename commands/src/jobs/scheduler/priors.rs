//! Priors for the duration of phases, learned from a tenant's earlier jobs of the same kind.
//!
//! A phase change records the priors of that moment, so that a replay gives the estimates that the server gave then.

use std::collections::{BTreeMap, HashMap};

use domain::image_matching::eta::stages::learn;
use domain::job::pipeline;
use event_schemas::envelope::Envelope;
use event_schemas::ids::{JobId, Tenant, VideoId};
use event_schemas::image_match::{Frames, ImageMatchEvent};
use event_schemas::job::{JobEvent, JobKind, Phase, PhasePrior};
use event_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Priors {
    #[serde(with = "domain::map_as_list")]
    known: HashMap<(Tenant, JobKind), BTreeMap<Phase, PhasePrior>>,
    in_progress: HashMap<JobId, JobInProgress>,
}

/// A job in progress, with its phase and size.
#[derive(Debug, Serialize, Deserialize)]
struct JobInProgress {
    tenant: Tenant,
    kind: JobKind,
    phase: Phase,
    entered: Timestamp,
    images: u64,
    frames: HashMap<VideoId, u64>,
}

impl JobInProgress {
    /// The size in the kind's own unit: pairs of image and frame. All jobs of other kinds have the same size.
    fn size(&self) -> f64 {
        match self.kind {
            JobKind::ProductVideoMatching => {
                let frames = self.frames.values().fold(0_u64, |sum, frames| sum.saturating_add(*frames));
                (self.images as f64 * frames as f64).max(1.0)
            }
            _ => 1.0,
        }
    }
}

impl Priors {
    /// The priors of the tenant's jobs of a kind, by phase.
    pub(super) fn of(&self, tenant: &Tenant, kind: JobKind) -> Vec<PhasePrior> {
        let known = self.known.get(&(tenant.clone(), kind));
        known.into_iter().flat_map(|known| known.values().copied()).collect()
    }

    pub(super) fn apply_job(&mut self, job: JobId, event: &JobEvent, envelope: &Envelope) {
        let at = envelope.metadata.occurred_at;
        match event {
            JobEvent::JobCreated(created) => {
                let entry = JobInProgress {
                    tenant: envelope.metadata.tenant.clone(),
                    kind: created.kind,
                    phase: Phase::Queued,
                    entered: at,
                    images: 0,
                    frames: HashMap::new(),
                };
                self.in_progress.insert(job, entry);
            }
            JobEvent::JobPhaseChanged(changed) => {
                self.learn(job, at);
                self.enter(job, changed.to, at);
            }
            JobEvent::JobRetryScheduled(retry) => self.enter(job, Phase::Queued, retry.due_at),
            // The duration of a failed phase is not a sample.
            JobEvent::JobFailed(_) => self.enter(job, Phase::Failed, at),
            JobEvent::JobCompleted(_) => {
                self.learn(job, at);
                self.in_progress.remove(&job);
            }
            JobEvent::JobCancelled(_) => {
                self.in_progress.remove(&job);
            }
            JobEvent::JobProgressReported(_)
            | JobEvent::JobClaimed(_)
            | JobEvent::JobLeaseExpired(_)
            | JobEvent::JobQuarantined(_)
            | JobEvent::JobResultExpired(_) => {}
        }
    }

    pub(super) fn apply_matching(&mut self, job: JobId, event: &ImageMatchEvent) {
        let Some(entry) = self.in_progress.get_mut(&job) else { return };
        match event {
            ImageMatchEvent::ProductImagesRegistered(registered) => {
                entry.images += registered.images.len() as u64;
            }
            ImageMatchEvent::VideoFramesRegistered(registered) => {
                let frames = entry.frames.entry(registered.video_id.clone()).or_default();
                match &registered.frames {
                    Frames::Listed(listed) => *frames = frames.saturating_add(listed.len() as u64),
                    Frames::Counted(count) => *frames = *count,
                }
            }
            _ => {}
        }
    }

    fn enter(&mut self, job: JobId, phase: Phase, at: Timestamp) {
        if let Some(entry) = self.in_progress.get_mut(&job) {
            (entry.phase, entry.entered) = (phase, at);
        }
    }

    /// Learns from the phase that the job has completed. The time in the queue does not depend on the size, so it is
    /// skipped.
    fn learn(&mut self, job: JobId, at: Timestamp) {
        let Some(entry) = self.in_progress.get(&job) else { return };
        if entry.phase == Phase::Queued || pipeline::is_end(entry.phase) {
            return;
        }
        let seconds = at.seconds_since(entry.entered);
        let known = self.known.entry((entry.tenant.clone(), entry.kind)).or_default();
        let prior = learn(known.get(&entry.phase), entry.phase, entry.size(), seconds);
        known.insert(entry.phase, prior);
    }
}
