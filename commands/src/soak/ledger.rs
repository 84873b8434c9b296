//! What must hold at every event, at every rest, and at the end: folds of its own over the log, beside the process's.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use domain::decider::Decider;
use domain::job::service::{Admission, Services};
use domain::job::{Job, State, pipeline};
use domain::lease::TERM;
use domain::matchmaking::meeting::meeting;
use domain::matchmaking::obligations::Obligations;
use domain::matchmaking::queues::{PoolLine, Queues};
use event_schemas::challenge::ChallengeEvent;
use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{GameId, JobId, LeaseId, MatchRecordId, WorkerId};
use event_schemas::job::{JobEvent, JobKind, Phase};
use event_schemas::match_record::{GameResult, MatchRecordEvent};
use event_schemas::player::PlayerEvent;
use event_schemas::time::Timestamp;
use event_schemas::worker::{WorkerEnd, WorkerEvent};

use super::record::{Acknowledged, Figures, Record};
use super::stage::Process;
use crate::matchmaking::simulation::check::check;

/// A job as it was last seen.
#[derive(Default)]
struct Seen {
    state: State,
    /// The lease in force, and since when.
    lease: Option<(LeaseId, Timestamp)>,
    progress: (u32, f64),
    is_completed: bool,
}

pub(super) struct Ledger {
    seed: u64,
    queues: Queues,
    left: Obligations,
    services: Services,
    jobs: BTreeMap<JobId, Seen>,
    open: BTreeSet<JobId>,
    /// The workers that are lost, and since when.
    lost: HashMap<WorkerId, Timestamp>,
    started: Timestamp,
    pub(super) figures: Figures,
}

impl Ledger {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            queues: Queues::default(),
            left: Obligations::default(),
            services: Services::default(),
            jobs: BTreeMap::new(),
            open: BTreeSet::new(),
            lost: HashMap::new(),
            started: Timestamp::EPOCH,
            figures: Figures::default(),
        }
    }

    /// The process knows again what is in the log.
    pub(super) fn started(&mut self, at: Timestamp) {
        self.started = at;
    }

    pub(super) fn apply(&mut self, envelope: &Envelope, record: &mut Record) {
        self.queues.apply(envelope);
        self.left.apply(envelope);
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
                        | ChallengeEvent::ChallengePlacing(_)
                        | ChallengeEvent::ChallengePlacingFailed(_)
                ) {
                    record.challenges.remove(&id);
                }
            }
            Event::MatchRecord(event) => {
                let id = envelope.stream.match_record_id().unwrap();
                match event {
                    MatchRecordEvent::MatchConfirmed(_) => {
                        record.playing.insert(id);
                    }
                    MatchRecordEvent::MatchExpired(_) => {
                        record.playing.remove(&id);
                        self.figures.matches_expired += 1;
                    }
                    MatchRecordEvent::MatchResultReported(_) => {
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
        let told = || format!("seed {}, position {}: {event:?}", self.seed, envelope.position);
        self.services.apply(id, event, envelope.recorded_at);
        let seen = self.jobs.entry(id).or_default();
        match event {
            JobEvent::JobCreated(_) => self.figures.analyses += 1,
            JobEvent::JobClaimed(claimed) => {
                assert_eq!(seen.lease, None, "held by two: {}", told());
                let life = seen.state.life().unwrap();
                assert!(life.is_claimable(at), "claimed before its time, or after its end: {}", told());
                seen.lease = Some((claimed.lease_id, at));
            }
            JobEvent::JobLeaseExpired(expired) => {
                let (lease, since) = seen.lease.take().unwrap();
                assert_eq!(lease, expired.lease_id, "{}", told());
                self.figures.leases_lost += 1;
                if expired.end == Some(WorkerEnd::Lost) {
                    let heard = record.heard.get(&lease).copied().unwrap_or(since);
                    let ends = since.max(heard).max(self.started).after(TERM);
                    // A process that died just after it had recorded a worker's loss ends the lease as it starts.
                    let lost = self.lost.get(&expired.worker_id).map(|lost| self.started.max(*lost));
                    assert!(
                        at == ends || lost == Some(at),
                        "a lease ran out at {at} and not at {ends}: {}",
                        told()
                    );
                }
            }
            JobEvent::JobCompleted(completed) => {
                assert!(!std::mem::replace(&mut seen.is_completed, true), "done twice: {}", told());
                assert_eq!(completed.lease_id, seen.lease.take().map(|(lease, _)| lease), "{}", told());
                self.figures.completed += 1;
            }
            JobEvent::JobFailed(failed) => {
                let lease = seen.lease.take().map(|(lease, _)| lease);
                assert_eq!(failed.lease_id, lease, "{}", told());
            }
            JobEvent::JobCancelled(_) => seen.lease = None,
            JobEvent::JobRetryScheduled(_) => self.figures.retries += 1,
            JobEvent::JobQuarantined(_) => self.figures.quarantined += 1,
            JobEvent::JobProgressReported(report) => {
                assert_eq!(Some(report.lease_id), seen.lease.map(|(lease, _)| lease), "{}", told());
            }
            JobEvent::JobPhaseChanged(_) | JobEvent::JobResultExpired(_) => {}
        }
        seen.state = Job::evolve(std::mem::take(&mut seen.state), event, at);
        let life = seen.state.life().unwrap();
        if !pipeline::is_end(life.phase) {
            let (attempt, progress) = (life.attempt, life.progress_percentage());
            let (before, known) = seen.progress;
            assert!(before != attempt || known <= progress, "progress goes down: {}", told());
            seen.progress = (attempt, progress);
            self.open.insert(id);
        } else {
            self.open.remove(&id);
        }
        if life.phase == Phase::Failed {
            record.failed.insert(id);
        } else {
            record.failed.remove(&id);
        }
    }

    /// Nobody has anything to do now, and the next instant that anybody waits for is `next`: so nothing may be left that
    /// is due, or falls due before.
    pub(super) fn check_rest(&mut self, process: &Process, somebody_claims: bool, next: Timestamp) {
        let Process { commands, matchmaking } = process;
        let now = commands.0.clock.now();
        let context = format!("seed {}, at {now}, with nothing to do until {next}", self.seed);
        self.figures.rests += 1;
        assert!(commands.is_ready() && matchmaking.seen().borrow().is_live, "{context}: not there yet");
        if let Some(due) = self.left.next_due() {
            let what: Vec<_> = self.left.due(due).map(|(due, _)| due).collect();
            assert!(due > now && due >= next, "{context}: falls due at {due}: {what:?}");
        }
        // While the game service is left alone, or asked with care, people wait for it.
        if matchmaking.desk().room() == Ok(usize::MAX) {
            for (id, pool) in self.queues.pools() {
                let meets = self.first_meeting(pool, now);
                assert!(
                    meets.is_none_or(|at| at > now && at >= next),
                    "{context}: {id:?} may meet at {meets:?}"
                );
            }
        }
        let admits = self.services.admission(JobKind::VideoAnalysis, now) == Admission::All;
        for id in &self.open {
            let life = self.jobs[id].state.life().unwrap();
            if life.lease.is_some() || !somebody_claims || !admits {
                continue;
            }
            let due = life.due_at.unwrap_or(Timestamp::EPOCH);
            assert!(due > now && due >= next, "{context}: {id} waits for nothing since {due}");
        }
    }

    /// The first instant at which two in a pool may meet, in the simplest words.
    fn first_meeting(&self, pool: &PoolLine, now: Timestamp) -> Option<Timestamp> {
        let line: Vec<_> = pool.line().filter(|waiting| now < waiting.expires_at).collect();
        let pairs = line.iter().enumerate().flat_map(|(n, a)| line[n + 1..].iter().map(move |b| (a, b)));
        let meetings = pairs.filter_map(|(a, b)| meeting(a, b, pool.settings(), self.queues.blocks()).ok());
        meetings.map(|meeting| meeting.at).min()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.left.waiting() == 0 && self.left.unfinished().next().is_none() && self.open.is_empty()
    }

    pub(super) fn left(&self) -> String {
        let unfinished: Vec<_> = self.left.unfinished().map(|(id, _)| id).collect();
        let (due, open) = (self.left.next_due(), &self.open);
        format!("due next {due:?}, unfinished {unfinished:?}, open {open:?}")
    }

    /// What must hold of the whole history.
    pub(super) fn close(
        &self,
        events: &[Envelope],
        record: &Record,
        games: &HashMap<MatchRecordId, GameId>,
    ) -> Figures {
        let of_matches = check(self.seed, events, games);
        let told = Told::of(events);
        for acknowledged in &record.acknowledged {
            assert!(told.has(acknowledged), "seed {}: lost: {acknowledged:?}", self.seed);
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

/// What the log says happened, of what people are told.
struct Told(BTreeSet<Acknowledged>);

impl Told {
    fn of(events: &[Envelope]) -> Self {
        let mut told = BTreeSet::new();
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
                Event::MatchRecord(MatchRecordEvent::MatchResultReported(event)) => {
                    let results =
                        [GameResult::First, GameResult::Second, GameResult::Draw, GameResult::Aborted];
                    let how = results.iter().position(|result| *result == event.result).unwrap();
                    Acknowledged::Result(envelope.stream.match_record_id().unwrap(), how)
                }
                Event::Job(JobEvent::JobCreated(event)) => Acknowledged::Asked(event.job_id),
                Event::Job(JobEvent::JobCancelled(_)) => Acknowledged::Taken(job.unwrap()),
                Event::Job(JobEvent::JobCompleted(event)) => {
                    Acknowledged::Completed(job.unwrap(), event.lease_id.unwrap())
                }
                Event::Job(JobEvent::JobFailed(event)) => match event.lease_id {
                    Some(lease) => Acknowledged::Failed(job.unwrap(), lease),
                    None => continue,
                },
                _ => continue,
            };
            assert!(told.insert(what), "recorded twice: {what:?}");
        }
        Self(told)
    }

    fn has(&self, what: &Acknowledged) -> bool {
        self.0.contains(what)
    }
}
