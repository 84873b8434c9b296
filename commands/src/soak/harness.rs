//! Runs the process and the tasks around it, one at a time in an order drawn from the seed.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use domain::lease::LeaseTerms;
use event_log::clock::{Clock, Ids};
use event_log::{EventLog, Filter, Log, MemoryLog};
use event_schemas::envelope::Envelope;
use event_schemas::ids::Position;
use event_schemas::time::Timestamp;

use super::invariants::InvariantChecker;
use super::record::Figures;
use super::world::{Connection, Process, Task, World};
use super::{players, workers};
use crate::engine::Engine;
use crate::jobs::Jobs;
use crate::matchmaking::Matchmaking;
use crate::matchmaking::game_service::{GameBackend, GameServiceClient};
use crate::matchmaking::ratings::Ratings;
use crate::matchmaking::simulation::SimulatedGameService;
use crate::matchmaking::simulation::world::Rng;
use crate::processes;

/// The most analyses in progress, as in a server with default settings.
const ANALYSES_MAX: usize = 100;
/// The mean lifetime of the process, in seconds.
const LIFETIME_SECONDS: u64 = 300;
/// The longest downtime of the process, in seconds.
const DOWNTIME_SECONDS: u64 = 60;
/// The number of trace lines that a failure prints.
const TRACE_LINES: usize = 20;
/// The livelock guard: no instant needs so many steps.
const STEPS_PER_INSTANT_MAX: usize = 2_000_000;

/// The flag of a woken task.
struct Ready(AtomicBool);

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct RunningTask {
    task: Task,
    ready: Arc<Ready>,
}

impl RunningTask {
    fn new(task: Task) -> Self {
        Self { task, ready: Arc::new(Ready(AtomicBool::new(true))) }
    }

    fn is_ready(&self) -> bool {
        self.ready.0.load(Ordering::Relaxed)
    }

    /// Polls the task. True if it has ended.
    fn step(&mut self) -> bool {
        self.ready.0.store(false, Ordering::Relaxed);
        let waker = Waker::from(Arc::clone(&self.ready));
        self.task.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()
    }
}

pub(super) struct Harness {
    rng: Rng,
    world: World,
    log: MemoryLog,
    service: SimulatedGameService,
    ids: Ids,
    players: Vec<RunningTask>,
    /// The tasks of the process: its background processes, and the requests in progress.
    tasks: Vec<RunningTask>,
    /// The time of the next crash.
    next_crash_at: Timestamp,
    steps_left: Option<u64>,
    restart_at: Option<Timestamp>,
    events: Vec<Envelope>,
    invariants: InvariantChecker,
    trace: VecDeque<String>,
}

impl Harness {
    pub(super) fn new(seed: u64, end: Timestamp) -> Self {
        let clock = Clock::manual(Timestamp::EPOCH);
        let service = SimulatedGameService::new(seed ^ 0x5eed, 5);
        service.slow_down(&clock, Duration::from_secs(3));
        let world = World::new(clock.clone(), seed, end);
        let mut harness = Self {
            rng: Rng(seed),
            log: MemoryLog::yielding(clock.clone()),
            service,
            ids: Ids::sequence(),
            players: Vec::new(),
            tasks: Vec::new(),
            next_crash_at: clock.now(),
            steps_left: None,
            restart_at: None,
            events: Vec::new(),
            invariants: InvariantChecker::new(seed),
            trace: VecDeque::new(),
            world,
        };
        harness.start();
        let service_outages = players::service_outages(harness.world.clone(), harness.service.clone());
        let all = players::all(&harness.world)
            .into_iter()
            .chain(workers::all(&harness.world))
            .chain([service_outages]);
        harness.players = all.map(RunningTask::new).collect();
        harness
    }

    fn start(&mut self) {
        let (log, clock) = (Log::new(self.log.clone()), self.world.clock.clone());
        let engine = Arc::new(Engine::simulated(log, clock.clone(), self.ids.clone()));
        let game_service =
            GameServiceClient::new(GameBackend::Simulated(self.service.clone()), clock.clone());
        let ratings = Ratings::new(None, clock.clone());
        let jobs = Arc::new(Jobs::new(engine.clone(), LeaseTerms::default(), ANALYSES_MAX));
        let matchmaking = Arc::new(Matchmaking::new(engine, game_service, ratings));
        let tasks = processes::of_jobs(&jobs).into_iter().chain(processes::of_matchmaking(&matchmaking));
        self.tasks = tasks.map(RunningTask::new).collect();
        self.world.connection.lock().unwrap().process = Some(Process { jobs, matchmaking });
        self.restart_at = None;
        self.invariants.started(clock.now());
        self.next_crash_at =
            clock.now().after(Duration::from_millis(self.rng.below(2 * LIFETIME_SECONDS * 1_000)));
        self.record_trace("the process starts");
    }

    fn crash(&mut self) {
        self.record_trace("the process crashes");
        // The events of its last instant belong to it, and not to its successor.
        self.read_log();
        *self.world.connection.lock().unwrap() = Connection::default();
        self.tasks.clear();
        self.steps_left = None;
        let downtime = if self.rng.percent(30) { 0 } else { self.rng.below(DOWNTIME_SECONDS * 1_000) };
        self.restart_at = Some(self.world.clock.now().after(Duration::from_millis(downtime)));
        self.invariants.figures.crashes += 1;
    }

    fn record_trace(&mut self, what: &str) {
        if self.trace.len() == TRACE_LINES {
            self.trace.pop_front();
        }
        self.trace.push_back(format!("{}: {what}", self.world.clock.now()));
    }

    /// Runs everything up to an instant.
    pub(super) fn run(&mut self, until: Timestamp, with_crashes: bool) {
        let mut steps = 0;
        loop {
            self.tasks.extend(
                std::mem::take(&mut self.world.connection.lock().unwrap().requests)
                    .into_iter()
                    .map(RunningTask::new),
            );
            if self.steps_left == Some(0) {
                self.crash();
            }
            if self.step() {
                steps += 1;
                assert!(steps < STEPS_PER_INSTANT_MAX, "livelock: too many steps at one instant");
                continue;
            }
            steps = 0;
            let now = self.world.clock.now();
            if self.restart_at.is_some_and(|at| at <= now) {
                self.start();
                continue;
            }
            self.read_log();
            if with_crashes
                && self.steps_left.is_none()
                && self.restart_at.is_none()
                && self.next_crash_at <= now
            {
                self.steps_left = Some(self.rng.below(300));
            }
            let crash = self.next_crash_at.max(now.after(Duration::from_micros(1)));
            let crash = Some(crash)
                .filter(|_| with_crashes && self.steps_left.is_none() && self.restart_at.is_none());
            let ahead = [self.world.clock.next_sleeper(), self.restart_at, crash];
            let next = ahead.into_iter().flatten().min().unwrap_or(until);
            if let Some(process) = self.world.connection.lock().unwrap().process.clone() {
                let waiting = self.world.record.lock().unwrap().claiming > 0;
                self.invariants.check_idle(&process, waiting, next.min(until));
            }
            if next > until {
                self.world.clock.set(until);
                return;
            }
            self.world.clock.set(next);
        }
    }

    /// Polls one of the ready tasks. False if there is none.
    fn step(&mut self) -> bool {
        let of_world = self.players.iter().filter(|running| running.is_ready()).count();
        let of_process = self.tasks.iter().filter(|running| running.is_ready()).count();
        if of_world + of_process == 0 {
            return false;
        }
        let nth = self.rng.below((of_world + of_process) as u64) as usize;
        let (all, nth) =
            if nth < of_world { (&mut self.players, nth) } else { (&mut self.tasks, nth - of_world) };
        let ready = all.iter().enumerate().filter(|(_, running)| running.is_ready());
        let index = ready.map(|(index, _)| index).nth(nth).expect("the ready tasks were counted");
        if all[index].step() {
            drop(all.remove(index));
        }
        if let Some(steps) = &mut self.steps_left {
            *steps -= 1;
        }
        true
    }

    /// Applies the new events.
    fn read_log(&mut self) {
        let log = Log::new(self.log.clone());
        loop {
            let after = self.events.last().map_or(Position::START, |last| last.position);
            if *log.head().borrow() == after {
                return;
            }
            let mut read = Box::pin(log.read_all(after, &Filter::All, 4096));
            // A log in memory is ready at the second poll at the latest.
            let page =
                (0..3).find_map(|_| match read.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    std::task::Poll::Ready(page) => Some(page.unwrap()),
                    std::task::Poll::Pending => None,
                });
            let mut record = self.world.record.lock().unwrap();
            for recorded in &page.unwrap().events {
                let envelope = recorded.decode().unwrap();
                self.invariants.apply(&envelope, &mut record);
                self.events.push(envelope);
            }
        }
    }

    /// Ends the failures and the crashes.
    pub(super) fn heal(&mut self) {
        self.service.fail(0);
        self.steps_left = None;
    }

    pub(super) fn has_ended(&self) -> bool {
        self.invariants.has_ended()
    }

    pub(super) fn pending(&self) -> String {
        self.invariants.pending()
    }

    /// Checks the invariants of the whole history.
    pub(super) fn check(self) -> (Vec<Envelope>, Figures) {
        let record = self.world.record.lock().unwrap();
        let figures = self.invariants.close(&self.events, &record, &self.service.games());
        drop(record);
        (self.events.clone(), figures)
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let since = self.events.len().saturating_sub(12);
            eprintln!("seed {}, at {}: {:#?}", self.world.seed, self.world.clock.now(), self.trace);
            for event in &self.events[since..] {
                eprintln!("{} {} {} {:?}", event.position, event.recorded_at, event.stream, event.event);
            }
        }
    }
}
