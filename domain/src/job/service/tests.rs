use event_schemas::job::{
    JobCancelled, JobClaimed, JobCompleted, JobFailed, JobLeaseExpired, JobPhaseChanged, JobRetryScheduled,
};
use uuid::Uuid;

use super::*;
use crate::job::failure;
use crate::scenario::{at, created, id, lease};

const STT: &str = "deepgram: 503 service unavailable";

/// Jobs that call services, in simulated time.
struct Calls {
    tenant: Tenant,
    services: Services,
    now: f64,
    jobs: u128,
}

impl Calls {
    fn new() -> Self {
        Self { tenant: id("acme"), services: Services::default(), now: 0.0, jobs: 0 }
    }

    fn event(&mut self, job: JobId, event: impl Into<JobEvent>) {
        self.services.apply(&self.tenant, job, &event.into(), at(self.now));
    }

    /// A new and claimed job of this kind.
    fn claimed_of(&mut self, kind: JobKind) -> JobId {
        self.jobs += 1;
        let job = JobId(Uuid::from_u128(self.jobs));
        self.event(job, created(kind));
        self.claim(job);
        job
    }

    fn claimed(&mut self) -> JobId {
        self.claimed_of(JobKind::VideoAnalysis)
    }

    fn claim(&mut self, job: JobId) {
        let claimed = JobClaimed { lease_id: lease(1), worker_id: id("w"), attempt: 1, lease_until: at(1e6) };
        self.event(job, claimed);
    }

    fn enter(&mut self, job: JobId, from: Phase, to: Phase) {
        self.event(job, JobPhaseChanged { from, to, reason: None, eta_priors: Vec::new() });
    }

    fn fail(&mut self, job: JobId, message: &str) {
        let error = failure::classify(message, None, None, job, 1);
        self.event(job, JobFailed { attempt: 1, lease_id: None, error, retry_state: None });
    }

    /// Lets this many jobs fail because of speech-to-text.
    fn fail_of_speech(&mut self, count: usize) {
        for _ in 0..count {
            let job = self.claimed();
            self.fail(job, STT);
        }
    }

    fn succeed_at_speech(&mut self) {
        let job = self.claimed();
        self.enter(job, Phase::Queued, Phase::Transcribing);
        self.enter(job, Phase::Transcribing, Phase::Analyzing);
    }

    fn admission(&self) -> Admission {
        self.services.admission(&self.tenant, JobKind::VideoAnalysis, at(self.now))
    }

    fn circuit(&self, service: Service) -> CircuitState {
        let mut circuits = self.services.circuits(&self.tenant, at(self.now));
        circuits.find(|(of, ..)| *of == service).unwrap().1
    }
}

fn parked(service: Service, until: f64) -> Admission {
    Admission::CircuitOpen { service, until: at(until) }
}

#[test]
fn ten_failures_open_the_circuit_for_thirty_seconds() {
    let mut calls = Calls::new();
    calls.fail_of_speech(9);
    assert_eq!(calls.admission(), Admission::All);
    calls.fail_of_speech(1);
    assert_eq!(calls.admission(), parked(Service::SpeechToText, 30.0));
    assert_eq!(calls.services.admission(&calls.tenant, JobKind::ExtractCutouts, at(0.0)), Admission::All);
    assert_eq!(calls.services.next_probe(at(0.0)), Some(at(30.0)));
    calls.now = 30.0;
    assert_eq!((calls.admission(), calls.services.next_probe(at(30.0))), (Admission::Probes(3), None));
}

#[test]
fn three_jobs_probe_a_half_open_circuit() {
    let mut calls = Calls::new();
    calls.fail_of_speech(10);
    calls.now = 30.0;
    let probes: Vec<JobId> = (0..3)
        .map(|n| {
            assert_eq!(calls.admission(), Admission::Probes(3 - n));
            calls.claimed()
        })
        .collect();
    assert_eq!(calls.admission(), Admission::Probes(0));
    for probe in probes {
        calls.enter(probe, Phase::Queued, Phase::Transcribing);
        assert_ne!(calls.admission(), Admission::All);
        calls.enter(probe, Phase::Transcribing, Phase::Analyzing);
    }
    assert_eq!(calls.admission(), Admission::All);
}

#[test]
fn failed_probe_doubles_the_open_time() {
    let mut calls = Calls::new();
    calls.fail_of_speech(10);
    calls.now = 30.0;
    let probes: Vec<JobId> = (0..3).map(|_| calls.claimed()).collect();
    calls.event(probes[0], JobCancelled { from: Phase::Queued, reason: None });
    assert_eq!(calls.admission(), Admission::Probes(1));
    calls.event(probes[1], JobLeaseExpired { lease_id: lease(1), worker_id: id("w"), end: None });
    assert_eq!(calls.admission(), Admission::Probes(2));
    calls.fail(probes[2], "corrupt media");
    assert_eq!(calls.admission(), Admission::Probes(3));
    calls.fail_of_speech(1);
    assert_eq!(calls.admission(), parked(Service::SpeechToText, 90.0));
}

#[test]
fn failures_count_for_the_responsible_service() {
    for (stage, message, service) in [
        (Phase::Transcribing, STT, Service::SpeechToText),
        (Phase::Downloading, "read timed out", Service::VideoSource),
        (Phase::FetchingChat, "connection refused", Service::Chat),
        (Phase::Transcribing, "could not resolve host", Service::SpeechToText),
        (Phase::Analyzing, "postgres: the database system is starting up", Service::Database),
        (Phase::Analyzing, "minio: internal error", Service::ObjectStorage),
        (Phase::Downloading, "s3://evidence/a.jpg: connection reset by peer", Service::ObjectStorage),
        (Phase::Analyzing, "https://api.deepgram.com/v1/listen: read timed out", Service::SpeechToText),
    ] {
        let mut calls = Calls::new();
        for _ in 0..10 {
            let job = calls.claimed();
            calls.enter(job, Phase::Queued, stage);
            calls.fail(job, message);
        }
        assert_eq!(calls.admission(), parked(service, 30.0), "{message} in {stage}");
    }
}

#[test]
fn other_failures_open_no_circuit() {
    for (stage, message) in [
        (Phase::Analyzing, "read timed out"),
        (Phase::Downloading, "video not found"),
        (Phase::Transcribing, "out of memory"),
        (Phase::Transcribing, "HTTP 429 too many requests"),
        (
            Phase::Transcribing,
            "429 Client Error: Too Many Requests for url: https://api.deepgram.com/v1/listen",
        ),
        (Phase::Downloading, "invalid api key"),
        (Phase::Analyzing, "password authentication failed for user of postgres"),
        (Phase::Transcribing, "index out of range"),
    ] {
        let mut calls = Calls::new();
        for _ in 0..20 {
            let job = calls.claimed();
            calls.enter(job, Phase::Queued, stage);
            calls.fail(job, message);
        }
        assert_eq!(calls.admission(), Admission::All, "{message} in {stage}");
    }
}

#[test]
fn completed_stages_count_as_successful_calls() {
    let mut calls = Calls::new();
    for _ in 0..11 {
        calls.succeed_at_speech();
    }
    calls.fail_of_speech(9);
    assert_eq!(calls.circuit(Service::SpeechToText), CircuitState::Closed, "9 of the last 20 failed");
    calls.fail_of_speech(1);
    assert_eq!(calls.circuit(Service::SpeechToText), CircuitState::Open { until: at(30.0) });
    let mut stored = Calls::new();
    for _ in 0..11 {
        let job = stored.claimed_of(JobKind::ExtractCutouts);
        stored.event(job, JobCompleted { from: Phase::Processing, lease_id: None, result: None });
    }
    for _ in 0..9 {
        let job = stored.claimed_of(JobKind::ExtractCutouts);
        stored.fail(job, "minio: internal error");
    }
    assert_eq!(stored.circuit(Service::ObjectStorage), CircuitState::Closed);
}

#[test]
fn refusals_leave_the_share_of_failures_as_it_is() {
    let mut calls = Calls::new();
    calls.fail_of_speech(5);
    for refusal in ["deepgram: HTTP 429", "deepgram: invalid api key"].repeat(20) {
        let job = calls.claimed();
        calls.enter(job, Phase::Queued, Phase::Transcribing);
        calls.fail(job, refusal);
    }
    assert_eq!(calls.admission(), Admission::All, "five failures of five calls that count");
    calls.fail_of_speech(5);
    assert_eq!(calls.admission(), parked(Service::SpeechToText, 30.0));
}

#[test]
fn failed_work_is_postponed_until_the_circuit_is_half_open() {
    let mut calls = Calls::new();
    let under_way: Vec<JobId> = (0..4).map(|_| calls.claimed()).collect();
    let error = failure::classify(STT, None, None, under_way[0], 1);
    assert_eq!(calls.services.circuit_open_until(under_way[0], &error, at(0.0)), None);
    calls.fail_of_speech(9);
    // This failure is the one that opens the circuit.
    assert_eq!(calls.services.circuit_open_until(under_way[0], &error, at(1.0)), Some(at(31.0)));
    calls.fail_of_speech(1);
    assert_eq!(calls.services.circuit_open_until(under_way[1], &error, at(1.0)), Some(at(30.0)));
    let other = failure::classify("minio: internal error", None, None, under_way[1], 1);
    assert_eq!(calls.services.circuit_open_until(under_way[1], &other, at(1.0)), None);
    calls.now = 30.0;
    let probe = calls.claimed();
    assert_eq!(calls.services.circuit_open_until(probe, &error, at(31.0)), Some(at(91.0)));
}

#[test]
fn retry_goes_through_its_stages_again() {
    let mut calls = Calls::new();
    let job = calls.claimed();
    for _ in 0..10 {
        calls.enter(job, Phase::Queued, Phase::Downloading);
        calls.fail(job, "read timed out");
        calls.event(job, JobRetryScheduled { attempt: 2, due_at: at(0.0), reason: None });
        calls.claim(job);
    }
    assert_eq!(calls.admission(), parked(Service::VideoSource, 30.0));
}

#[test]
fn failures_of_one_tenant_stop_no_work_of_another() {
    let mut calls = Calls::new();
    let acme = std::mem::replace(&mut calls.tenant, id("globex"));
    calls.fail_of_speech(10);
    assert_eq!(calls.admission(), parked(Service::SpeechToText, 30.0));
    calls.tenant = acme;
    assert_eq!(calls.admission(), Admission::All);
    calls.fail_of_speech(9);
    assert_eq!(calls.admission(), Admission::All);
    assert_eq!(calls.circuit(Service::SpeechToText), CircuitState::Closed);
}
