//! The invariants at every event, at every idle instant and at the end, checked with folds that are independent of the
//! process.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use domain::decider::Decider;
use domain::job::service::{Admission, Services};
use domain::job::{JobDecider, State, pipeline};
use domain::lease::TERM;
use domain::matchmaking::compatibility::earliest_pairing;
use domain::matchmaking::pending_work::PendingSagas;
use domain::matchmaking::queues::{Pool, Queues};
use event_schemas::challenge::ChallengeEvent;
use event_schemas::envelope::{Envelope, Event};
use event_schemas::game_match::{GameMatchEvent, GameResult};
use event_schemas::ids::{GameId, GameMatchId, JobId, LeaseId, WorkerId};
use event_schemas::job::{JobEvent, JobKind, Phase};
use event_schemas::player::PlayerEvent;
use event_schemas::time::Timestamp;
use event_schemas::worker::{WorkerEnd, WorkerEvent};

use super::record::{Acknowledged, Figures, Record};
use super::world::Process;
use crate::matchmaking::simulation::check::check;
use crate::matchmaking::simulation::players::tenant;

/// The last known state of a job.
#[derive(Default)]
struct JobRecord {
    state: State,
    /// The open lease, and the time of its claim.
    lease: Option<(LeaseId, Timestamp)>,
    progress: (u32, f64),
    is_completed: bool,
}

pub(super) struct InvariantChecker {
    seed: u64,
    queues: Queues,
    pending: PendingSagas,
    services: Services,
    jobs: BTreeMap<JobId, JobRecord>,
    open: BTreeSet<JobId>,
    /// The lost workers, with the time of their loss.
    lost: HashMap<WorkerId, Timestamp>,
    started: Timestamp,
    pub(super) figures: Figures,
}

impl InvariantChecker {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            queues: Queues::default(),
            pending: PendingSagas::default(),
            services: Services::default(),
            jobs: BTreeMap::new(),
            open: BTreeSet::new(),
            lost: HashMap::new(),
            started: Timestamp::EPOCH,
            figures: Figures::default(),
        }
    }

    /// Records that the process has started.
    pub(super) fn started(&mut self, at: Timestamp) {
        self.started = at;
    }

    pub(super) fn apply(&mut self, envelope: &Envelope, record: &mut Record) {
        self.queues.apply(envelope);
        self.pending.apply(envelope);
        match &envelope.event {
            Event::Job(event) => self.job(event, envelope, record),
            Event::Challenge(event) => {
                let id = envelope.stream.challenge_id().unwrap();
                match event {
                    ChallengeEvent::ChallengeCreated(created) => {
                        record.challenges.insert(id, [created.challenger, created.challenged]);
                    }
                    ChallengeEvent::ChallengeExpired(_) => self.figures.challenges_expired += 1,
                    _ => {}
                }
                if !matches!(
                    event,
                    ChallengeEvent::ChallengeCreated(_)
                        | ChallengeEvent::ChallengePlacementStarted(_)
                        | ChallengeEvent::ChallengePlacementFailed(_)
                ) {
                    record.challenges.remove(&id);
                }
            }
            Event::GameMatch(event) => {
                let id = envelope.stream.game_match_id().unwrap();
                match event {
                    GameMatchEvent::MatchConfirmed(_) => {
                        record.playing.insert(id);
                    }
                    GameMatchEvent::MatchExpired(_) => {
                        record.playing.remove(&id);
                        self.figures.matches_expired += 1;
                    }
                    GameMatchEvent::MatchResultReported(_) => {
                        record.playing.remove(&id);
                    }
                    _ => {}
                }
            }
            Event::Worker(WorkerEvent::WorkerLost(lost)) => {
                self.lost.insert(lost.worker_id.clone(), envelope.metadata.occurred_at);
            }
            Event::Worker(WorkerEvent::WorkerReturned(returned)) => {
                self.lost.remove(&returned.worker_id);
            }
            Event::Player(PlayerEvent::QueueEntryExpired(_)) => self.figures.entries_expired += 1,
            _ => {}
        }
    }

    fn job(&mut self, event: &JobEvent, envelope: &Envelope, record: &mut Record) {
        let id = envelope.stream.job_id().unwrap();
        let at = envelope.metadata.occurred_at;
        let context = || format!("seed {}, position {}: {event:?}", self.seed, envelope.position);
        self.services.apply(&envelope.metadata.tenant, id, event, envelope.recorded_at);
        let job_record = self.jobs.entry(id).or_default();
        match event {
            JobEvent::JobCreated(_) => self.figures.analyses += 1,
            JobEvent::JobClaimed(claimed) => {
                assert_eq!(job_record.lease, None, "claimed while leased: {}", context());
                let details = job_record.state.details().unwrap();
                assert!(
                    details.is_claimable(at),
                    "claimed before it was due, or after its end: {}",
                    context()
                );
                job_record.lease = Some((claimed.lease_id, at));
            }
            JobEvent::JobLeaseExpired(expired) => {
                let (lease, since) = job_record.lease.take().unwrap();
                assert_eq!(lease, expired.lease_id, "{}", context());
                self.figures.leases_lost += 1;
                if expired.end == Some(WorkerEnd::Lost) {
                    let heard = record.heartbeats.get(&lease).copied().unwrap_or(since);
                    let ends = since.max(heard).max(self.started).after(TERM);
                    // A process that crashed just after it had recorded a worker's loss ends the lease when it starts
                    // again.
                    let lost = self.lost.get(&expired.worker_id).map(|lost| self.started.max(*lost));
                    assert!(
                        at == ends || lost == Some(at),
                        "a lease expired at {at} and not at {ends}: {}",
                        context()
                    );
                }
            }
            JobEvent::JobCompleted(completed) => {
                assert!(
                    !std::mem::replace(&mut job_record.is_completed, true),
                    "completed twice: {}",
                    context()
                );
                assert_eq!(
                    completed.lease_id,
                    job_record.lease.take().map(|(lease, _)| lease),
                    "{}",
                    context()
                );
                self.figures.completed += 1;
            }
            JobEvent::JobFailed(failed) => {
                let lease = job_record.lease.take().map(|(lease, _)| lease);
                assert_eq!(failed.lease_id, lease, "{}", context());
            }
            JobEvent::JobCancelled(_) => job_record.lease = None,
            JobEvent::JobRetryScheduled(_) => self.figures.retries += 1,
            JobEvent::JobQuarantined(_) => self.figures.quarantined += 1,
            JobEvent::JobProgressReported(report) => {
                assert_eq!(Some(report.lease_id), job_record.lease.map(|(lease, _)| lease), "{}", context());
            }
            JobEvent::JobPhaseChanged(_) | JobEvent::JobResultExpired(_) => {}
        }
        job_record.state = JobDecider::evolve(std::mem::take(&mut job_record.state), event, at);
        let details = job_record.state.details().unwrap();
        if !pipeline::is_end(details.phase) {
            let (attempt, progress) = (details.attempt, details.progress_percentage());
            let (before, known) = job_record.progress;
            assert!(before != attempt || known <= progress, "progress decreases: {}", context());
            job_record.progress = (attempt, progress);
            self.open.insert(id);
        } else {
            self.open.remove(&id);
        }
        if details.phase == Phase::Failed {
            record.failed.insert(id);
        } else {
            record.failed.remove(&id);
        }
    }

    /// Checks an idle instant. No task is ready now, and the next awaited instant is `next`, so nothing may be left
    /// that is due, or becomes due before.
    pub(super) fn check_idle(&mut self, process: &Process, is_claiming: bool, next: Timestamp) {
        let Process { jobs, matchmaking } = process;
        let now = jobs.engine.now();
        let context = format!("seed {}, at {now}, idle until {next}", self.seed);
        self.figures.idle_checks += 1;
        assert!(
            jobs.board.is_ready() && matchmaking.progress().borrow().is_live,
            "{context}: not caught up yet"
        );
        if let Some(due) = self.pending.next_due() {
            let what: Vec<_> = self.pending.due(due).map(|(due, _)| due).collect();
            assert!(due > now && due >= next, "{context}: due at {due}: {what:?}");
        }
        for (id, pool) in self.queues.pools() {
            // While the tenant's breaker of the game service is open or half-open, players wait for it.
            if matchmaking.game_service.capacity(&id.0) == Ok(usize::MAX) {
                let pairing_at = self.first_pairing(pool, now);
                assert!(
                    pairing_at.is_none_or(|at| at > now && at >= next),
                    "{context}: {id:?} has a possible pairing at {pairing_at:?}"
                );
            }
        }
        let admits = self.services.admission(&tenant(), JobKind::VideoAnalysis, now) == Admission::All;
        for id in &self.open {
            let details = self.jobs[id].state.details().unwrap();
            if details.lease.is_some() || !is_claiming || !admits {
                continue;
            }
            let due = details.due_at.unwrap_or(Timestamp::EPOCH);
            assert!(due > now && due >= next, "{context}: {id} is due and unclaimed since {due}");
        }
    }

    /// The first instant at which two players of a pool may be paired, computed in the simplest way.
    fn first_pairing(&self, pool: &Pool, now: Timestamp) -> Option<Timestamp> {
        let entries: Vec<_> = pool.entries().filter(|waiting| now < waiting.expires_at).collect();
        let pairs =
            entries.iter().enumerate().flat_map(|(n, a)| entries[n + 1..].iter().map(move |b| (a, b)));
        let pairings =
            pairs.filter_map(|(a, b)| earliest_pairing(a, b, pool.settings(), self.queues.blocks()).ok());
        pairings.map(|pairing| pairing.at).min()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.pending.deadline_count() == 0
            && self.pending.unfinished().next().is_none()
            && self.open.is_empty()
    }

    pub(super) fn pending(&self) -> String {
        let unfinished: Vec<_> = self.pending.unfinished().map(|(id, _)| id).collect();
        let (due, open) = (self.pending.next_due(), &self.open);
        format!("due next {due:?}, unfinished {unfinished:?}, open {open:?}")
    }

    /// Checks the invariants of the whole history.
    pub(super) fn close(
        &self,
        events: &[Envelope],
        record: &Record,
        games: &HashMap<GameMatchId, GameId>,
    ) -> Figures {
        let of_matches = check(self.seed, events, games);
        let facts = RecordedFacts::of(events);
        for acknowledged in &record.acknowledged {
            assert!(facts.has(acknowledged), "seed {}: lost: {acknowledged:?}", self.seed);
        }
        Figures {
            events: events.len(),
            acknowledged: record.acknowledged.len(),
            matches: of_matches.confirmed as usize,
            abandoned: of_matches.abandoned as usize,
            challenges_accepted: of_matches.accepted as usize,
            ..self.figures
        }
    }
}

/// The acknowledged facts that are in the log.
struct RecordedFacts(BTreeSet<Acknowledged>);

impl RecordedFacts {
    fn of(events: &[Envelope]) -> Self {
        let mut facts = BTreeSet::new();
        for envelope in events {
            let job = envelope.stream.job_id();
            let what = match &envelope.event {
                Event::Player(PlayerEvent::PlayerQueued(event)) => Acknowledged::Queued(event.entry_id),
                Event::Player(PlayerEvent::QueueEntryCancelled(event)) => {
                    Acknowledged::Cancelled(event.entry_id)
                }
                Event::Challenge(ChallengeEvent::ChallengeCreated(event)) => {
                    Acknowledged::Challenged(event.challenge_id)
                }
                Event::GameMatch(GameMatchEvent::MatchResultReported(event)) => {
                    let results =
                        [GameResult::First, GameResult::Second, GameResult::Draw, GameResult::Aborted];
                    let how = results.iter().position(|result| *result == event.result).unwrap();
                    Acknowledged::Result(envelope.stream.game_match_id().unwrap(), how)
                }
                Event::Job(JobEvent::JobCreated(event)) => Acknowledged::AnalysisRequested(event.job_id),
                Event::Job(JobEvent::JobCancelled(_)) => Acknowledged::AnalysisCancelled(job.unwrap()),
                Event::Job(JobEvent::JobCompleted(event)) => {
                    Acknowledged::Completed(job.unwrap(), event.lease_id.unwrap())
                }
                Event::Job(JobEvent::JobFailed(event)) => match event.lease_id {
                    Some(lease) => Acknowledged::Failed(job.unwrap(), lease),
                    None => continue,
                },
                _ => continue,
            };
            assert!(facts.insert(what), "recorded twice: {what:?}");
        }
        Self(facts)
    }

    fn has(&self, what: &Acknowledged) -> bool {
        self.0.contains(what)
    }
}
