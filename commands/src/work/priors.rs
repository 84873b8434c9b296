//! What phases cost in earlier jobs, as far as the log tells: a tenant's own jobs, kind by kind.
//!
//! A change of phase takes along what is known at that moment, so that a replay estimates as the server did then.

use std::collections::{BTreeMap, HashMap};

use domain::job::pipeline;
use domain::matching::eta::stages::learn;
use event_schemas::envelope::Envelope;
use event_schemas::ids::{JobId, Tenant, VideoId};
use event_schemas::job::{JobEvent, JobKind, Phase, PhasePrior};
use event_schemas::matching::{Frames, MatchingEvent};
use event_schemas::time::Timestamp;

#[derive(Debug, Default)]
pub(super) struct Priors {
    known: HashMap<(Tenant, JobKind), BTreeMap<Phase, PhasePrior>>,
    under_way: HashMap<JobId, Course>,
}

/// A job on its way through the phases.
#[derive(Debug)]
struct Course {
    tenant: Tenant,
    kind: JobKind,
    phase: Phase,
    entered: Timestamp,
    images: u64,
    frames: HashMap<VideoId, u64>,
}

impl Course {
    /// In the kind's own unit: pairs of image and frame. Of other kinds all jobs count alike.
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
    /// What is known about the tenant's jobs of a kind, phase by phase.
    pub(super) fn of(&self, tenant: &Tenant, kind: JobKind) -> Vec<PhasePrior> {
        let known = self.known.get(&(tenant.clone(), kind));
        known.into_iter().flat_map(|known| known.values().copied()).collect()
    }

    pub(super) fn apply_job(&mut self, job: JobId, event: &JobEvent, envelope: &Envelope) {
        let at = envelope.metadata.occurred_at;
        match event {
            JobEvent::JobCreated(created) => {
                let course = Course {
                    tenant: envelope.metadata.tenant.clone(),
                    kind: created.kind,
                    phase: Phase::Queued,
                    entered: at,
                    images: 0,
                    frames: HashMap::new(),
                };
                self.under_way.insert(job, course);
            }
            JobEvent::JobPhaseChanged(changed) => {
                self.learn(job, at);
                self.enter(job, changed.to, at);
            }
            JobEvent::JobRetryScheduled(retry) => self.enter(job, Phase::Queued, retry.due_at),
            // How long a phase lasted that failed says nothing about how long it takes.
            JobEvent::JobFailed(_) => self.enter(job, Phase::Failed, at),
            JobEvent::JobCompleted(_) => {
                self.learn(job, at);
                self.under_way.remove(&job);
            }
            JobEvent::JobCancelled(_) => {
                self.under_way.remove(&job);
            }
            JobEvent::JobProgressReported(_)
            | JobEvent::JobClaimed(_)
            | JobEvent::JobLeaseExpired(_)
            | JobEvent::JobQuarantined(_)
            | JobEvent::JobResultExpired(_) => {}
        }
    }

    pub(super) fn apply_matching(&mut self, job: JobId, event: &MatchingEvent) {
        let Some(course) = self.under_way.get_mut(&job) else { return };
        match event {
            MatchingEvent::ProductImagesRegistered(registered) => {
                course.images += registered.images.len() as u64;
            }
            MatchingEvent::VideoFramesRegistered(registered) => {
                let frames = course.frames.entry(registered.video_id.clone()).or_default();
                match &registered.frames {
                    Frames::Listed(listed) => *frames = frames.saturating_add(listed.len() as u64),
                    Frames::Counted(count) => *frames = *count,
                }
            }
            _ => {}
        }
    }

    fn enter(&mut self, job: JobId, phase: Phase, at: Timestamp) {
        if let Some(course) = self.under_way.get_mut(&job) {
            (course.phase, course.entered) = (phase, at);
        }
    }

    /// The phase that the job was in is done. Waiting to begin costs nothing that its size could tell.
    fn learn(&mut self, job: JobId, at: Timestamp) {
        let Some(course) = self.under_way.get(&job) else { return };
        if course.phase == Phase::Queued || pipeline::is_end(course.phase) {
            return;
        }
        let seconds = at.seconds_since(course.entered);
        let known = self.known.entry((course.tenant.clone(), course.kind)).or_default();
        let prior = learn(known.get(&course.phase), course.phase, course.size(), seconds);
        known.insert(course.phase, prior);
    }
}
