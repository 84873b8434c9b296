//! The services that are not ours and that jobs need, each behind a circuit breaker.
//!
//! Nobody tells Matchbook of single calls, so a call is an attempt's passing through the stage that needs the service: it
//! succeeds when the stage is left behind, and fails when the attempt fails of the service. All of it is in the job's
//! events, so a replay comes to the same breakers. What the jobs of all tenants meet counts together.

use std::collections::HashMap;

use event_schemas::failure::{ClassifiedError, FailureCategory, FailureCode};
use event_schemas::ids::JobId;
use event_schemas::job::{JobEvent, JobKind, Phase as Stage};
use event_schemas::time::Timestamp;

use super::pipeline;
use crate::breaker::{Breaker, Outcome, Permit, Phase, Settings};

/// A service that is not ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// Where videos are downloaded from.
    VideoSource,
    Chat,
    SpeechToText,
    Database,
    ObjectStorage,
}

impl Service {
    pub const ALL: [Self; 5] =
        [Self::VideoSource, Self::Chat, Self::SpeechToText, Self::Database, Self::ObjectStorage];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::VideoSource => "video_source",
            Self::Chat => "chat",
            Self::SpeechToText => "speech_to_text",
            Self::Database => "database",
            Self::ObjectStorage => "object_storage",
        }
    }

    /// The service that a stage is spent on.
    fn of_stage(stage: Stage) -> Option<Self> {
        match stage {
            Stage::Downloading => Some(Self::VideoSource),
            Stage::FetchingChat => Some(Self::Chat),
            Stage::Transcribing => Some(Self::SpeechToText),
            _ => None,
        }
    }

    /// What jobs of a kind cannot do without.
    pub fn needed_by(kind: JobKind) -> &'static [Self] {
        match kind {
            JobKind::VideoAnalysis => &Self::ALL,
            // Its requests are claimed one by one, and tried again by themselves.
            JobKind::ProductVideoMatching => &[],
            JobKind::ExtractCutouts
            | JobKind::ExtractProducts
            | JobKind::ExtractSingleProduct
            | JobKind::ModelTraining => &[Self::Database, Self::ObjectStorage],
        }
    }

    /// The service that an attempt failed of, and whether it answered: a refusal is an answer.
    fn blamed(stage: Stage, error: &ClassifiedError) -> Option<(Self, Outcome)> {
        match error.code {
            FailureCode::SpeechToTextService => Some((Self::SpeechToText, Outcome::Failed)),
            FailureCode::DatabaseService => Some((Self::Database, Outcome::Failed)),
            FailureCode::ObjectStorageService => Some((Self::ObjectStorage, Outcome::Failed)),
            FailureCode::RateLimited | FailureCode::ServiceAuthentication => {
                Some((Self::of_stage(stage)?, Outcome::Succeeded))
            }
            _ if error.category == FailureCategory::Network => {
                Some((Self::of_stage(stage)?, Outcome::Failed))
            }
            _ => None,
        }
    }
}

/// How many jobs of a kind may be begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    All,
    /// Nobody knows whether a service is back: so many jobs find out.
    Probes(usize),
    /// None before this instant, because this service is left alone.
    Parked {
        service: Service,
        until: Timestamp,
    },
}

/// The breakers of all services, and who is calling.
#[derive(Clone, Debug)]
pub struct Services {
    settings: Settings,
    breakers: HashMap<Service, Breaker>,
    jobs: HashMap<JobId, Course>,
}

/// A job that is claimed as a whole.
#[derive(Clone, Debug)]
struct Course {
    kind: JobKind,
    stage: Stage,
    /// The calls that its present attempt has not made, or not come back from.
    calls: Vec<(Service, Permit)>,
}

impl Default for Services {
    fn default() -> Self {
        Self::new(Settings::default())
    }
}

impl Services {
    pub fn new(settings: Settings) -> Self {
        let breakers = Service::ALL.map(|service| (service, Breaker::new(settings)));
        Self { settings, breakers: breakers.into(), jobs: HashMap::new() }
    }

    /// Takes in the next event of a job, which the log accepted at `at`.
    pub fn apply(&mut self, job: JobId, event: &JobEvent, at: Timestamp) {
        match event {
            JobEvent::JobCreated(created) if pipeline::is_claimed_whole(created.kind) => {
                let course = Course { kind: created.kind, stage: Stage::Queued, calls: Vec::new() };
                self.jobs.insert(job, course);
            }
            JobEvent::JobClaimed(_) => self.begin(job, at),
            JobEvent::JobPhaseChanged(changed) => {
                if let Some(service) = Service::of_stage(changed.from) {
                    self.report(job, service, Outcome::Succeeded, at);
                }
                self.enter(job, changed.to);
            }
            JobEvent::JobRetryScheduled(_) => self.enter(job, Stage::Queued),
            JobEvent::JobFailed(failed) => {
                if let Some(course) = self.jobs.get(&job)
                    && let Some((service, outcome)) = Service::blamed(course.stage, &failed.error)
                {
                    self.report(job, service, outcome, at);
                }
                self.end(job, at);
            }
            JobEvent::JobLeaseExpired(_) => self.end(job, at),
            JobEvent::JobCompleted(completed) => {
                let used = [
                    Some(Service::Database),
                    Some(Service::ObjectStorage),
                    Service::of_stage(completed.from),
                ];
                for service in used.into_iter().flatten() {
                    self.report(job, service, Outcome::Succeeded, at);
                }
                self.end(job, at);
                self.jobs.remove(&job);
            }
            JobEvent::JobCancelled(_) => {
                self.end(job, at);
                self.jobs.remove(&job);
            }
            JobEvent::JobCreated(_)
            | JobEvent::JobProgressReported(_)
            | JobEvent::JobQuarantined(_)
            | JobEvent::JobResultExpired(_) => {}
        }
    }

    /// An attempt may call what it needs, as far as that is let through.
    fn begin(&mut self, job: JobId, at: Timestamp) {
        let Some(course) = self.jobs.get_mut(&job) else { return };
        for service in Service::needed_by(course.kind) {
            let asked = self.breakers.get_mut(service).map(|breaker| breaker.ask(at));
            if let Some(Ok(permit)) = asked {
                course.calls.push((*service, permit));
            }
        }
    }

    fn enter(&mut self, job: JobId, stage: Stage) {
        if let Some(course) = self.jobs.get_mut(&job) {
            course.stage = stage;
        }
    }

    fn report(&mut self, job: JobId, service: Service, outcome: Outcome, at: Timestamp) {
        let Some(course) = self.jobs.get_mut(&job) else { return };
        let Some(index) = course.calls.iter().position(|(called, _)| *called == service) else { return };
        let (_, permit) = course.calls.swap_remove(index);
        if let Some(breaker) = self.breakers.get_mut(&service) {
            breaker.report(permit, outcome, at);
        }
    }

    /// Of the calls that the attempt has not come back from nobody will hear.
    fn end(&mut self, job: JobId, at: Timestamp) {
        let Some(course) = self.jobs.get_mut(&job) else { return };
        for (service, permit) in std::mem::take(&mut course.calls) {
            if let Some(breaker) = self.breakers.get_mut(&service) {
                breaker.report(permit, Outcome::Unknown, at);
            }
        }
    }

    /// How many jobs of the kind may be begun at `now`. The service that is left alone the longest decides.
    pub fn admission(&self, kind: JobKind, now: Timestamp) -> Admission {
        let mut probes = None;
        let mut parked = None;
        for service in Service::needed_by(kind) {
            match self.breakers.get(service).map(|breaker| breaker.phase(now)) {
                Some(Phase::Open { until }) => parked = parked.max(Some((until, *service))),
                Some(Phase::Probing) => {
                    let free = self.free_probes(*service, now);
                    probes = Some(probes.map_or(free, |probes: usize| probes.min(free)));
                }
                Some(Phase::Closed) | None => {}
            }
        }
        match (parked, probes) {
            (Some((until, service)), _) => Admission::Parked { service, until },
            (None, Some(probes)) => Admission::Probes(probes),
            (None, None) => Admission::All,
        }
    }

    fn free_probes(&self, service: Service, now: Timestamp) -> usize {
        let Some(mut breaker) = self.breakers.get(&service).cloned() else { return 0 };
        (0..self.settings.probes).take_while(|_| breaker.ask(now).is_ok()).count()
    }

    /// When the service that this failure is about would next be called, if the failure leaves it alone or it is left
    /// alone already: so that what fails of it is parked instead of tried in vain.
    pub fn left_alone_until(&self, job: JobId, error: &ClassifiedError, now: Timestamp) -> Option<Timestamp> {
        let course = self.jobs.get(&job)?;
        let (service, outcome) = Service::blamed(course.stage, error)?;
        let mut breaker = self.breakers.get(&service)?.clone();
        if let Some((_, permit)) = course.calls.iter().find(|(called, _)| *called == service) {
            breaker.report(*permit, outcome, now);
        }
        match breaker.phase(now) {
            Phase::Open { until } => Some(until),
            Phase::Closed | Phase::Probing => None,
        }
    }

    /// When the next service that is left alone is asked again.
    pub fn next_probe(&self, now: Timestamp) -> Option<Timestamp> {
        let open = self.breakers.values().filter_map(|breaker| match breaker.phase(now) {
            Phase::Open { until } => Some(until),
            Phase::Closed | Phase::Probing => None,
        });
        open.min()
    }

    /// How each service stands, with how often it has been left alone in a row.
    pub fn standing(&self, now: Timestamp) -> impl Iterator<Item = (Service, Phase, u32)> {
        Service::ALL.into_iter().filter_map(move |service| {
            let breaker = self.breakers.get(&service)?;
            Some((service, breaker.phase(now), breaker.openings()))
        })
    }
}

#[cfg(test)]
mod tests;
