//! The process and everybody around it, polled one at a time in an order that the seed draws.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use event_log::clock::{Clock, Ids};
use event_log::{EventLog, Filter, Log, MemoryLog};
use event_schemas::envelope::Envelope;
use event_schemas::ids::Position;
use event_schemas::time::Timestamp;
use tokio::sync::oneshot;

use super::ledger::Ledger;
use super::record::{Acknowledged, Figures, Record};
use super::{people, workers};
use crate::matchmaking::Matchmaking;
use crate::matchmaking::games::{Desk, Maker};
use crate::matchmaking::simulation::Script;
use crate::matchmaking::simulation::world::Chance;
use crate::process::{expiry, leases, matchmaker, presence, reconciler, retries};
use crate::vault::Vault;
use crate::{Commands, Outside, Settings, work};

/// The process lives about so long.
const LIVES: u64 = 300;
/// It stays away at most so long.
const AWAY: u64 = 60;
/// How many of the latest instants are told when something is wrong.
const TOLD: usize = 20;
/// Nobody has so much to do at one instant: somebody runs in circles.
const STEPS_AT_ONCE_MAX: usize = 2_000_000;

pub(super) type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Whether somebody has something to do.
struct Ready(AtomicBool);

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Running {
    task: Task,
    ready: Arc<Ready>,
}

impl Running {
    fn new(task: Task) -> Self {
        Self { task, ready: Arc::new(Ready(AtomicBool::new(true))) }
    }

    fn is_ready(&self) -> bool {
        self.ready.0.load(Ordering::Relaxed)
    }

    /// Whether it has come to its end.
    fn step(&mut self) -> bool {
        self.ready.0.store(false, Ordering::Relaxed);
        let waker = Waker::from(Arc::clone(&self.ready));
        self.task.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()
    }
}

/// What dies.
#[derive(Clone)]
pub(super) struct Process {
    pub(super) commands: Commands,
    pub(super) matchmaking: Matchmaking,
}

/// What everybody around the process shares.
#[derive(Clone)]
pub(super) struct Town {
    pub(super) clock: Clock,
    pub(super) seed: u64,
    /// When people stop coming.
    end: Timestamp,
    pub(super) record: Arc<Mutex<Record>>,
    net: Arc<Mutex<Net>>,
}

/// The way to the process, while it is there.
#[derive(Default)]
struct Net {
    process: Option<Process>,
    asked: Vec<Task>,
}

impl Town {
    /// Asks the process. None if it is not there, or dies before it has answered: then nobody knows.
    pub(super) async fn ask<T, F>(&self, request: impl FnOnce(Process) -> F) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        {
            let mut net = self.net.lock().unwrap();
            let request = request(net.process.clone()?);
            net.asked.push(Box::pin(async move {
                let _ = answer.send(request.await);
            }));
        }
        answered.await.ok()
    }

    pub(super) fn acknowledge(&self, what: Acknowledged) {
        self.record.lock().unwrap().acknowledged.push(what);
    }

    pub(super) async fn sleep(&self, chance: &mut Chance, from: u64, to: u64) {
        // Not in whole seconds, so that not all instants are the same.
        let millis = from * 1_000 + chance.below((to - from) * 1_000);
        self.clock.sleep(Duration::from_millis(millis)).await;
    }

    /// Whether people still come.
    pub(super) fn is_open(&self) -> bool {
        self.clock.now() < self.end
    }
}

pub(super) struct World {
    chance: Chance,
    town: Town,
    log: MemoryLog,
    service: Script,
    vault: Vault,
    ids: Ids,
    people: Vec<Running>,
    /// Of the process: what it does by itself, and the requests that it is answering.
    tasks: Vec<Running>,
    /// When the process comes back, or began to die.
    next_death: Timestamp,
    steps_left: Option<u64>,
    back_at: Option<Timestamp>,
    events: Vec<Envelope>,
    ledger: Ledger,
    trail: VecDeque<String>,
}

impl World {
    pub(super) fn new(seed: u64, end: Timestamp, vault: Vault) -> Self {
        let clock = Clock::manual(Timestamp::EPOCH);
        let service = Script::new(seed ^ 0x5eed, 5);
        service.slow_down(&clock, Duration::from_secs(3));
        let town = Town { clock: clock.clone(), seed, end, record: Arc::default(), net: Arc::default() };
        let mut world = Self {
            chance: Chance(seed),
            log: MemoryLog::pausing(clock.clone()),
            service,
            vault,
            ids: Ids::sequence(),
            people: Vec::new(),
            tasks: Vec::new(),
            next_death: clock.now(),
            steps_left: None,
            back_at: None,
            events: Vec::new(),
            ledger: Ledger::new(seed),
            trail: VecDeque::new(),
            town,
        };
        world.start();
        let weather = people::weather(world.town.clone(), world.service.clone());
        let all = people::all(&world.town).into_iter().chain(workers::all(&world.town)).chain([weather]);
        world.people = all.map(Running::new).collect();
        world
    }

    fn start(&mut self) {
        let (log, clock) = (Log::Memory(self.log.clone()), self.town.clock.clone());
        let commands = Commands::open(
            Settings::default(),
            log.clone(),
            clock.clone(),
            self.ids.clone(),
            self.vault.clone(),
            Outside::default(),
        );
        let desk = Desk::new(Maker::Scripted(self.service.clone()), clock.clone());
        let matchmaking = Matchmaking::new(log.clone(), clock.clone(), 10_000, desk);
        let tasks: Vec<Task> = vec![
            Box::pin(work::follow(commands.0.board.clone(), log)),
            Box::pin(leases::run(commands.clone())),
            Box::pin(presence::run(commands.clone())),
            Box::pin(retries::run(commands.clone())),
            Box::pin(matchmaker::run(matchmaking.clone())),
            Box::pin(reconciler::follow(matchmaking.clone())),
            Box::pin(reconciler::run(matchmaking.clone())),
            Box::pin(expiry::run(matchmaking.clone())),
        ];
        self.tasks = tasks.into_iter().map(Running::new).collect();
        self.town.net.lock().unwrap().process = Some(Process { commands, matchmaking });
        self.back_at = None;
        self.ledger.started(clock.now());
        self.next_death = clock.now().after(Duration::from_millis(self.chance.below(2 * LIVES * 1_000)));
        self.tell("the process starts");
    }

    fn die(&mut self) {
        self.tell("the process dies");
        // What it did at its last instant was its doing, not the next one's.
        self.see();
        *self.town.net.lock().unwrap() = Net::default();
        self.tasks.clear();
        self.steps_left = None;
        let away = if self.chance.percent(30) { 0 } else { self.chance.below(AWAY * 1_000) };
        self.back_at = Some(self.town.clock.now().after(Duration::from_millis(away)));
        self.ledger.figures.deaths += 1;
    }

    fn tell(&mut self, what: &str) {
        if self.trail.len() == TOLD {
            self.trail.pop_front();
        }
        self.trail.push_back(format!("{}: {what}", self.town.clock.now()));
    }

    /// Lets everything happen up to an instant.
    pub(super) fn run(&mut self, until: Timestamp, mortal: bool) {
        let mut steps = 0;
        loop {
            self.tasks.extend(
                std::mem::take(&mut self.town.net.lock().unwrap().asked).into_iter().map(Running::new),
            );
            if self.steps_left == Some(0) {
                self.die();
            }
            if self.step() {
                steps += 1;
                assert!(steps < STEPS_AT_ONCE_MAX, "somebody runs in circles");
                continue;
            }
            steps = 0;
            let now = self.town.clock.now();
            if self.back_at.is_some_and(|at| at <= now) {
                self.start();
                continue;
            }
            self.see();
            if mortal && self.steps_left.is_none() && self.back_at.is_none() && self.next_death <= now {
                self.steps_left = Some(self.chance.below(300));
            }
            let death = self.next_death.max(now.after(Duration::from_micros(1)));
            let death = Some(death).filter(|_| mortal && self.steps_left.is_none() && self.back_at.is_none());
            let ahead = [self.town.clock.next_sleeper(), self.back_at, death];
            let next = ahead.into_iter().flatten().min().unwrap_or(until);
            if let Some(process) = self.town.net.lock().unwrap().process.clone() {
                let waiting = self.town.record.lock().unwrap().claiming > 0;
                self.ledger.check_rest(&process, waiting, next.min(until));
            }
            if next > until {
                self.town.clock.set(until);
                return;
            }
            self.town.clock.set(next);
        }
    }

    /// Lets one of those go on who have something to do. False if nobody has.
    fn step(&mut self) -> bool {
        let of_people = self.people.iter().filter(|running| running.is_ready()).count();
        let of_process = self.tasks.iter().filter(|running| running.is_ready()).count();
        if of_people + of_process == 0 {
            return false;
        }
        let nth = self.chance.below((of_people + of_process) as u64) as usize;
        let (all, nth) =
            if nth < of_people { (&mut self.people, nth) } else { (&mut self.tasks, nth - of_people) };
        let ready = all.iter().enumerate().filter(|(_, running)| running.is_ready());
        let index = ready.map(|(index, _)| index).nth(nth).expect("one of those that were counted");
        if all[index].step() {
            drop(all.remove(index));
        }
        if let Some(steps) = &mut self.steps_left {
            *steps -= 1;
        }
        true
    }

    /// Takes in what was recorded.
    fn see(&mut self) {
        let log = Log::Memory(self.log.clone());
        loop {
            let after = self.events.last().map_or(Position::START, |last| last.position);
            if *log.head().borrow() == after {
                return;
            }
            let mut read = Box::pin(log.read_all(after, &Filter::All, 4096));
            // A log in memory answers when it is asked for the second time at the latest.
            let page =
                (0..3).find_map(|_| match read.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    std::task::Poll::Ready(page) => Some(page.unwrap()),
                    std::task::Poll::Pending => None,
                });
            let mut record = self.town.record.lock().unwrap();
            for recorded in &page.unwrap().events {
                let envelope = recorded.decode().unwrap();
                self.ledger.apply(&envelope, &mut record);
                self.events.push(envelope);
            }
        }
    }

    /// Nobody comes any more, nothing fails, and the process lives.
    pub(super) fn heal(&mut self) {
        self.service.fail(0);
        self.steps_left = None;
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ledger.has_ended()
    }

    pub(super) fn left(&self) -> String {
        self.ledger.left()
    }

    /// What must hold of the whole history.
    pub(super) fn check(self) -> (Vec<Envelope>, Figures) {
        let record = self.town.record.lock().unwrap();
        let figures = self.ledger.close(&self.events, &record, &self.service.games());
        drop(record);
        (self.events.clone(), figures)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let since = self.events.len().saturating_sub(12);
            eprintln!("seed {}, at {}: {:#?}", self.town.seed, self.town.clock.now(), self.trail);
            for event in &self.events[since..] {
                eprintln!("{} {} {} {:?}", event.position, event.recorded_at, event.stream, event.event);
            }
        }
    }
}
