//! A test fixture: one job with all its streams and workers, in simulated time, as the command side would run
//! it.

use std::collections::BTreeMap;
use std::time::Duration;

use event_schemas::envelope::{Actor, Envelope, Event, Metadata};
use event_schemas::failure::ClassifiedError;
use event_schemas::ids::{
    CorrelationId, EventId, JobId, LeaseId, Position, ProductId, Revision, Tenant, WorkerId,
};
use event_schemas::image_match::{Frames, MatchFound, MatchRequested, ProductImage, Totals};
use event_schemas::job::{JobCreated, JobKind, Phase};
use event_schemas::json_text::JsonText;
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use event_schemas::worker::{WorkKind, WorkerEnd};
use uuid::Uuid;

use crate::decider::{Decider, Occurred};
use crate::image_matching::blockers::Thresholds;
use crate::image_matching::shard::{self, ImageMatchShardDecider};
use crate::image_matching::summary::{JobFold, Summary, summarise};
use crate::image_matching::{self, ImageMatchingDecider};
use crate::job::{self, JobAvailability, JobDecider, failure};
use crate::worker::presence::Presence;
use crate::worker::{self, WorkerDecider};

pub(crate) const JOB: JobId = JobId(Uuid::from_u128(0x0b));

pub(crate) fn at(seconds: f64) -> Timestamp {
    Timestamp::EPOCH.after(Duration::from_secs_f64(seconds))
}

pub(crate) fn lease(n: u128) -> LeaseId {
    LeaseId(Uuid::from_u128(n))
}

/// An event that happened and was recorded at an instant.
pub(crate) fn envelope(position: u64, stream: StreamId, at: Timestamp, event: impl Into<Event>) -> Envelope {
    let event = event.into();
    Envelope {
        position: Position(position),
        recorded_at: at,
        id: EventId(Uuid::from_u128(position.into())),
        stream,
        revision: Revision(0),
        metadata: Metadata {
            schema_version: event.schema_version(),
            occurred_at: at,
            tenant: id("default"),
            actor: Actor::System(id("test")),
            correlation_id: CorrelationId(Uuid::nil()),
            causation_id: Uuid::nil(),
            subject: None,
            idempotency: None,
            traceparent: None,
        },
        event,
    }
}

/// Parses an id.
pub(crate) fn id<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

pub(crate) fn error(message: &str) -> ClassifiedError {
    failure::classify(message, None, None, JOB, 1)
}

pub(crate) fn created(kind: JobKind) -> JobCreated {
    JobCreated { job_id: JOB, kind, source: None, name: None, metadata: JsonText::default() }
}

pub(crate) fn totals(candidates_processed: u64, vector_pass_done: u64, ransac_checked: u64) -> Totals {
    Totals { candidates_processed, vector_pass_done, ransac_checked }
}

pub(crate) fn image(img_id: &str) -> ProductImage {
    ProductImage { img_id: id(img_id), url: None }
}

pub(crate) fn request(request_id: &str, candidates: u64) -> MatchRequested {
    MatchRequested { request_id: id(request_id), product_id: id("p"), video_id: id("v"), candidates }
}

pub(crate) fn found(match_id: &str, score: f64) -> MatchFound {
    MatchFound {
        match_id: id(match_id),
        product_id: id("p"),
        video_id: id("v"),
        img_id: id("i"),
        frame_id: id("f"),
        score: event_schemas::ids::Score::new(score).unwrap(),
        evidence_path: None,
    }
}

/// The decision of `D` in the state after `given`.
pub(crate) fn decided<D: Decider>(
    given: &[D::Event],
    when: &D::Command,
) -> Result<Vec<D::Event>, D::Refusal> {
    let state =
        given.iter().fold(D::State::default(), |state, event| D::evolve(state, event, Timestamp::EPOCH));
    Ok(D::decide(when, &state)?.into_iter().map(|new| new.event).collect())
}

/// A job with all its streams and workers.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) now: Timestamp,
    pub(crate) log: Vec<Envelope>,
    pub(crate) job: job::State,
    pub(crate) matching: image_matching::State,
    shards: BTreeMap<StreamId, shard::State>,
    workers: BTreeMap<WorkerId, worker::State>,
}

impl World {
    /// A world without events, at second 0.
    pub(crate) fn empty() -> Self {
        Self {
            now: at(0.0),
            log: Vec::new(),
            job: job::State::default(),
            matching: image_matching::State::default(),
            shards: BTreeMap::new(),
            workers: BTreeMap::new(),
        }
    }

    /// A matching job, created at second 0.
    pub(crate) fn new() -> Self {
        let mut world = Self::empty();
        world.job(job::Action::Create(created(JobKind::ProductVideoMatching)));
        world
    }

    /// A job in its matching phase since second 0, with images × frames candidates in one request of that many.
    pub(crate) fn matching(images: usize, frames: u64) -> Self {
        let mut world = Self::new();
        world.enter(Phase::Matching);
        world.register(images, frames);
        world.issue("r", images as u64 * frames);
        world
    }

    pub(crate) fn wait(&mut self, seconds: f64) -> &mut Self {
        self.now = self.now.after(Duration::from_secs_f64(seconds));
        self
    }

    pub(crate) fn enter(&mut self, to: Phase) {
        self.job(job::Action::ChangePhase { to, reason: None, eta_priors: Vec::new() });
    }

    pub(crate) fn register(&mut self, images: usize, frames: u64) {
        let product_id: ProductId = id("p");
        let images = (0..images).map(|n| image(&format!("i{n}"))).collect();
        self.act(image_matching::Action::RegisterImages { product_id, images });
        self.act(image_matching::Action::RegisterFrames {
            video_id: id("v"),
            frames: Frames::Counted(frames),
        });
    }

    pub(crate) fn issue(&mut self, request_id: &str, candidates: u64) {
        self.act(image_matching::Action::Request(request(request_id, candidates)));
    }

    /// A worker claims a request and is registered by that, as over HTTP.
    pub(crate) fn claim(&mut self, request_id: &str, worker: &str, lease_id: u128) {
        self.worker(worker, worker::Action::Register { kinds: vec![WorkKind::MatchRequest], version: None });
        self.act(image_matching::Action::Claim {
            request_id: id(request_id),
            lease_id: lease(lease_id),
            worker_id: id(worker),
            lease_until: self.now.after(crate::lease::TERM),
        });
    }

    pub(crate) fn progress(&mut self, request_id: &str, lease_id: Option<u128>, processed: u64) {
        self.act(image_matching::Action::Report {
            request_id: id(request_id),
            lease_id: lease_id.map(lease),
            totals: totals(processed, processed, 0),
            completed: false,
        });
    }

    pub(crate) fn complete(&mut self, request_id: &str, lease_id: Option<u128>, processed: u64) {
        self.act(image_matching::Action::Report {
            request_id: id(request_id),
            lease_id: lease_id.map(lease),
            totals: totals(processed, processed, 0),
            completed: true,
        });
    }

    pub(crate) fn report(&mut self, matches: &[MatchFound]) {
        for found in matches {
            let action = shard::Action::Report(vec![(found.clone(), self.now)]);
            self.try_matches(&StreamId::image_match(JOB, &found.match_id), action).unwrap();
        }
    }

    /// A worker's exit, with its copy in the job's history.
    pub(crate) fn exit(&mut self, worker: &str, exit_code: i64) {
        self.worker(worker, worker::Action::Exit { exit_code: Some(exit_code), signal: None, reason: None });
        let end = worker::end_of(Some(exit_code), None, None);
        self.act(image_matching::Action::EndWorker { worker_id: id(worker), end });
    }

    /// A worker whose heartbeats stopped.
    pub(crate) fn lose(&mut self, worker: &str) {
        self.worker(worker, worker::Action::Lose { last_seen_at: self.now });
        self.act(image_matching::Action::EndWorker { worker_id: id(worker), end: WorkerEnd::Lost });
    }

    #[track_caller]
    pub(crate) fn job(&mut self, action: job::Action) {
        self.try_job(action).unwrap();
    }

    #[track_caller]
    pub(crate) fn act(&mut self, action: image_matching::Action) {
        self.try_act(action).unwrap();
    }

    #[track_caller]
    pub(crate) fn worker(&mut self, worker: &str, action: worker::Action) {
        let worker_id: WorkerId = id(worker);
        let command = worker::Command { worker_id: worker_id.clone(), at: self.now, action };
        let stream = StreamId::worker(&id::<Tenant>("default"), &worker_id);
        let state = self.workers.remove(&worker_id).unwrap_or_default();
        let (state, new) = run::<WorkerDecider>(state, &command).unwrap();
        self.workers.insert(worker_id, state);
        self.record(&stream, new);
    }

    /// Executes the command; returns the number of recorded events.
    pub(crate) fn try_job(&mut self, action: job::Action) -> Result<usize, job::Refusal> {
        let command = job::Command { at: self.now, action };
        let (state, new) = run::<JobDecider>(self.job.clone(), &command)?;
        self.job = state;
        Ok(self.record(&StreamId::job(JOB), new))
    }

    pub(crate) fn try_act(
        &mut self,
        action: image_matching::Action,
    ) -> Result<usize, image_matching::Refusal> {
        let command = image_matching::Command { job: self.availability(), at: self.now, action };
        let (state, new) = run::<ImageMatchingDecider>(self.matching.clone(), &command)?;
        self.matching = state;
        Ok(self.record(&StreamId::image_matching(JOB), new))
    }

    pub(crate) fn try_matches(
        &mut self,
        stream: &StreamId,
        action: shard::Action,
    ) -> Result<usize, shard::Refusal> {
        let command = shard::Command { job: self.availability(), action };
        let state = self.shards.get(stream).cloned().unwrap_or_default();
        let (state, new) = run::<ImageMatchShardDecider>(state, &command)?;
        self.shards.insert(stream.clone(), state);
        Ok(self.record(stream, new))
    }

    pub(crate) fn availability(&self) -> JobAvailability {
        self.job.availability()
    }

    pub(crate) fn position(&self) -> Position {
        Position(self.log.len() as u64)
    }

    pub(crate) fn fold(&self) -> JobFold {
        fold(&self.log)
    }

    /// The summary at the current time.
    pub(crate) fn summary(&self) -> Summary {
        summary(&self.log, self.now)
    }

    /// The codes of the blockers, in order.
    pub(crate) fn blockers(&self) -> Vec<&'static str> {
        self.summary().blocker_details.iter().map(|blocker| blocker.code.into_str()).collect()
    }

    fn record<E: Into<Event>>(&mut self, stream: &StreamId, new: Vec<Occurred<E>>) -> usize {
        let count = new.len();
        for Occurred { at, event } in new {
            let recorded = envelope(self.position().0 + 1, stream.clone(), self.now, event);
            let metadata = Metadata { occurred_at: at, actor: Actor::Worker(id("w")), ..recorded.metadata };
            self.log.push(Envelope { metadata, ..recorded });
        }
        count
    }
}

type Outcome<D> = (<D as Decider>::State, Vec<Occurred<<D as Decider>::Event>>);

/// Returns the decision and the state after it. If the command is refused, the caller keeps its own copy of
/// the state.
fn run<D: Decider>(state: D::State, command: &D::Command) -> Result<Outcome<D>, D::Refusal> {
    let new = D::decide(command, &state)?;
    let state = new.iter().fold(state, |state, new| D::evolve(state, &new.event, new.at));
    Ok((state, new))
}

pub(crate) fn fold(log: &[Envelope]) -> JobFold {
    log.iter().fold(JobFold::default(), |mut fold, envelope| {
        fold.apply(envelope);
        fold
    })
}

pub(crate) fn summary(log: &[Envelope], instant: Timestamp) -> Summary {
    let presence = log.iter().fold(Presence::default(), |mut presence, envelope| {
        presence.apply(envelope);
        presence
    });
    summarise(&fold(log), &presence, instant, &Thresholds::default(), None).unwrap()
}
