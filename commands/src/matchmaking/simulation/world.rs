//! Servers on one log, one game service, and a clock: and what happens to them next, as the seed has it.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use event_log::clock::Clock;
use event_log::{EventLog, Filter, Log, MemoryLog};
use event_schemas::envelope::Envelope;
use event_schemas::ids::{ChallengeId, EntryId, GameId, MatchRecordId, Position, SubjectId};
use event_schemas::time::Timestamp;
use uuid::Uuid;

use super::players::{self, Answer, person};
use crate::client::live_game::CallError;
use crate::matchmaking::Matchmaking;
use crate::matchmaking::games::{Desk, Maker, Order};
use crate::process::{expiry, matchmaker, reconciler};

const PLAYERS: u64 = 7;
const SERVERS: usize = 2;
/// How often everybody may be let run until nothing happens any more. A few dozen times are usual.
const ROUNDS_MAX: usize = 3_000;
/// So many steps are told when something is wrong.
const STEPS_TOLD: usize = 12;

/// Numbers that a seed determines.
#[derive(Clone, Debug)]
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(crate) fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

/// A game service that all servers ask.
#[derive(Clone, Debug)]
pub struct Script(Arc<Mutex<Service>>);

#[derive(Debug)]
struct Service {
    chance: Chance,
    /// In a hundred calls.
    failures: u64,
    /// How long a call takes at most, if it takes time, by this clock.
    slow: Option<(Clock, Duration)>,
    games: HashMap<MatchRecordId, GameId>,
}

impl Script {
    /// A service that fails in so many of a hundred calls.
    pub(crate) fn new(seed: u64, failures: u64) -> Self {
        let service = Service { chance: Chance(seed), failures, slow: None, games: HashMap::new() };
        Self(Arc::new(Mutex::new(service)))
    }

    /// From now on it fails in so many of a hundred calls.
    pub(crate) fn fail(&self, failures: u64) {
        self.0.lock().unwrap().failures = failures;
    }

    /// From now on a call takes up to so long.
    pub(crate) fn slow_down(&self, clock: &Clock, most: Duration) {
        self.0.lock().unwrap().slow = Some((clock.clone(), most));
    }

    /// The games that it has made.
    pub(crate) fn games(&self) -> HashMap<MatchRecordId, GameId> {
        self.0.lock().unwrap().games.clone()
    }

    /// Half of the time that a call takes.
    async fn take_time(&self) {
        let wait = {
            let mut service = self.0.lock().unwrap();
            let most = service.slow.clone();
            most.map(|(clock, most)| (clock, service.chance.below(most.as_micros() as u64 / 2 + 1)))
        };
        match wait {
            Some((clock, micros)) => clock.sleep(Duration::from_micros(micros)).await,
            None => tokio::task::yield_now().await,
        }
    }

    pub(crate) async fn call(&self, order: &Order) -> Result<GameId, CallError> {
        self.take_time().await;
        let answer = {
            let mut service = self.0.lock().unwrap();
            let failures = service.failures;
            let (fails, answer_is_lost) = (service.chance.percent(failures), service.chance.percent(50));
            if fails && !answer_is_lost {
                Err(if service.chance.percent(20) {
                    CallError::Refused("not this one".to_owned())
                } else {
                    CallError::Failed("down".to_owned())
                })
            } else {
                // The same match makes the same game.
                let made: GameId = format!("game-of-{}", order.match_id).parse().unwrap();
                let game = service.games.entry(order.match_id).or_insert(made).clone();
                if fails { Err(CallError::Failed("timed out".to_owned())) } else { Ok(game) }
            }
        };
        self.take_time().await;
        answer
    }
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A server: its processes, and the requests that it is answering.
pub(super) struct Server {
    pub(super) matchmaking: Matchmaking,
    pub(super) tasks: Vec<Task>,
}

/// What happened in a step.
#[derive(Clone, Copy, Debug)]
#[expect(dead_code, reason = "told when something is wrong")]
pub(super) enum Happened {
    Ran { server: usize, task: usize },
    Asked { server: usize },
    Passed { milliseconds: u64 },
    Died { server: usize },
    Rested { seconds: u64, round: usize },
}

/// The latest steps of a seed: told when something is wrong, and by whom a step never ends.
pub(super) type Trail = Arc<Mutex<VecDeque<Happened>>>;

pub(super) struct World {
    seed: u64,
    chance: Chance,
    clock: Clock,
    log: MemoryLog,
    service: Script,
    pub(super) servers: Vec<Server>,
    ids: u64,
    /// What was recorded, as far as somebody looked.
    events: Vec<Envelope>,
    pub(super) trail: Trail,
    /// Things that players know of, which they act on.
    entries: Arc<Mutex<Vec<(SubjectId, EntryId)>>>,
    challenges: Arc<Mutex<Vec<ChallengeId>>>,
}

fn ask(request: impl Future<Output = Answer> + Send + 'static) -> Task {
    Box::pin(async {
        request.await;
    })
}

fn poll(task: &mut Task) -> bool {
    task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut chance = Chance(seed);
        let clock = Clock::manual(Timestamp::EPOCH);
        let service = Script::new(seed ^ 0xabcd, chance.below(70));
        let mut world = Self {
            seed,
            chance,
            log: MemoryLog::pausing(clock.clone()),
            clock,
            service,
            servers: Vec::new(),
            ids: 0,
            events: Vec::new(),
            trail: Trail::default(),
            entries: Arc::default(),
            challenges: Arc::default(),
        };
        for _ in 0..SERVERS {
            let server = world.server();
            world.servers.push(server);
        }
        world
    }

    /// A server that has just started and knows nothing.
    fn server(&self) -> Server {
        let desk = Desk::new(Maker::Scripted(self.service.clone()), self.clock.clone());
        let matchmaking = Matchmaking::new(Log::Memory(self.log.clone()), self.clock.clone(), 10_000, desk);
        let tasks: Vec<Task> = vec![
            Box::pin(matchmaker::run(matchmaking.clone())),
            Box::pin(reconciler::follow(matchmaking.clone())),
            Box::pin(reconciler::run(matchmaking.clone())),
            Box::pin(expiry::run(matchmaking.clone())),
        ];
        Server { matchmaking, tasks }
    }

    fn id(&mut self) -> Uuid {
        self.ids += 1;
        Uuid::from_u128(0x9000_0000 + u128::from(self.ids))
    }

    /// Lets the next thing happen.
    pub(super) fn step(&mut self) {
        let server = self.chance.below(SERVERS as u64) as usize;
        match self.chance.below(1_000) {
            0..880 => {
                let task = self.chance.below(self.servers[server].tasks.len() as u64) as usize;
                self.happens(Happened::Ran { server, task });
                let tasks = &mut self.servers[server].tasks;
                if poll(&mut tasks[task]) {
                    drop(tasks.remove(task));
                }
            }
            880..960 => {
                self.happens(Happened::Asked { server });
                let request = self.request(server);
                self.servers[server].tasks.push(request);
            }
            960..992 => {
                let jump = if self.chance.percent(3) { 400_000 } else { 3_000 };
                let milliseconds = self.chance.below(jump);
                self.happens(Happened::Passed { milliseconds });
                self.clock.advance(Duration::from_millis(milliseconds));
            }
            // It dies, whatever it was at, and another takes its place.
            _ => {
                self.happens(Happened::Died { server });
                self.servers[server] = self.server();
            }
        }
    }

    fn happens(&self, happened: Happened) {
        let mut trail = self.trail.lock().unwrap();
        if trail.len() == STEPS_TOLD {
            trail.pop_front();
        }
        trail.push_back(happened);
    }

    /// What a player, or the game, asks of a server.
    fn request(&mut self, server: usize) -> Task {
        let matchmaking = self.servers[server].matchmaking.clone();
        let who = person(self.chance.below(PLAYERS));
        let other = person(self.chance.below(PLAYERS));
        let id = self.id();
        let known = self.chance.next() as usize;
        match self.chance.below(16) {
            0..6 => {
                self.entries.lock().unwrap().push((who, EntryId(id)));
                let rating = 1400 + self.chance.below(400);
                let both = self.chance.percent(30);
                ask(players::queue(matchmaking, who, EntryId(id), rating as f64, both))
            }
            6..9 => {
                let entries = self.entries.lock().unwrap();
                let entry = entries.get(known % entries.len().max(1)).copied();
                ask(players::cancel(matchmaking, entry))
            }
            9 => ask(players::block(matchmaking, who, other, known.is_multiple_of(3))),
            10 => {
                self.challenges.lock().unwrap().push(ChallengeId(id));
                ask(players::challenge(matchmaking, ChallengeId(id), who, other))
            }
            11 | 12 => {
                let challenges = self.challenges.lock().unwrap();
                let challenge = challenges.get(known % challenges.len().max(1)).copied();
                ask(players::answer(matchmaking, challenge, who, known % 8))
            }
            _ => {
                let matches = self.matches();
                let match_id = matches.get(known % matches.len().max(1)).copied();
                ask(players::report(matchmaking, match_id, known % 4))
            }
        }
    }

    /// Everything that was recorded.
    pub(super) fn events(&mut self) -> &[Envelope] {
        let log = Log::Memory(self.log.clone());
        loop {
            let after = self.events.last().map_or(Position::START, |last| last.position);
            let mut read = Box::pin(log.read_all(after, &Filter::All, 4096));
            // A log in memory answers when it is asked for the second time at the latest.
            let page =
                (0..3).find_map(|_| match read.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(page) => Some(page.unwrap()),
                    Poll::Pending => None,
                });
            let page = page.unwrap();
            if page.events.is_empty() {
                return &self.events;
            }
            self.events.extend(page.events.iter().map(|event| event.decode().unwrap()));
        }
    }

    fn matches(&mut self) -> Vec<MatchRecordId> {
        self.events().iter().filter_map(|event| event.stream.match_record_id()).collect()
    }

    /// The games that the service has made.
    pub(super) fn games(&self) -> HashMap<MatchRecordId, GameId> {
        self.service.games()
    }

    /// Nobody asks for anything more, the game service is well, and nobody dies: everything comes to its end.
    pub(super) fn come_to_rest(&mut self) {
        self.service.fail(0);
        for seconds in [0, 6, 6, 60, 300, 300, 700, 700, 7_300, 60, 7_300, 60] {
            self.clock.advance(Duration::from_secs(seconds));
            let mut quiet = 0;
            for round in 0.. {
                assert!(round < ROUNDS_MAX, "seed {}: it never comes to rest", self.seed);
                self.happens(Happened::Rested { seconds, round });
                let before = *self.log.head().borrow();
                for server in &mut self.servers {
                    server.tasks.retain_mut(|task| !poll(task));
                }
                quiet = if *self.log.head().borrow() == before { quiet + 1 } else { 0 };
                if quiet == 40 {
                    break;
                }
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tell(self.seed, &self.trail);
        }
    }
}

/// Says where a seed has come to.
pub(super) fn tell(seed: u64, trail: &Trail) {
    eprintln!("seed {seed}; the last steps: {:#?}", trail.lock().unwrap());
}
