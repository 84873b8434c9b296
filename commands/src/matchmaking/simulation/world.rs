//! Servers on one log, a game service and a clock, with steps drawn from the seed.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use event_log::clock::{Clock, Ids};
use event_log::{EventLog, Filter, Log, MemoryLog};
use event_schemas::envelope::Envelope;
use event_schemas::ids::{ChallengeId, EntryId, GameId, GameMatchId, Position, SubjectId};
use event_schemas::time::Timestamp;
use uuid::Uuid;

use super::players::{self, CommandOutcome, person};
use crate::engine::Engine;
use crate::matchmaking::Matchmaking;
use crate::matchmaking::game_service::{CreateGame, GameBackend, GameServiceClient};
use crate::matchmaking::live_game::CallError;
use crate::matchmaking::ratings::Ratings;
use crate::processes::of_matchmaking;

const PLAYERS: u64 = 7;
const SERVERS: usize = 2;
/// The most rounds over all tasks until nothing happens any more. A few dozen are usual.
const ROUNDS_MAX: usize = 3_000;
/// The number of steps that a failure prints.
const TRACE_STEPS: usize = 12;

/// A deterministic random number generator.
#[derive(Clone, Debug)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
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

    pub(crate) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// A simulated game service that all servers call.
#[derive(Clone, Debug)]
pub struct SimulatedGameService(Arc<Mutex<GameServiceState>>);

#[derive(Debug)]
struct GameServiceState {
    rng: Rng,
    /// The failure rate, in percent of the calls.
    failures: u64,
    /// The longest duration of a call by this clock, if calls take time.
    slow: Option<(Clock, Duration)>,
    games: HashMap<GameMatchId, GameId>,
}

impl SimulatedGameService {
    /// A service with this failure rate, in percent.
    pub(crate) fn new(seed: u64, failures: u64) -> Self {
        let service = GameServiceState { rng: Rng(seed), failures, slow: None, games: HashMap::new() };
        Self(Arc::new(Mutex::new(service)))
    }

    /// Sets the failure rate, in percent.
    pub(crate) fn fail(&self, failures: u64) {
        self.0.lock().unwrap().failures = failures;
    }

    /// Sets the longest duration of a call.
    pub(crate) fn slow_down(&self, clock: &Clock, most: Duration) {
        self.0.lock().unwrap().slow = Some((clock.clone(), most));
    }

    /// The games that it has created.
    pub(crate) fn games(&self) -> HashMap<GameMatchId, GameId> {
        self.0.lock().unwrap().games.clone()
    }

    /// Waits for half of a call's duration.
    async fn take_time(&self) {
        let wait = {
            let mut service = self.0.lock().unwrap();
            let most = service.slow.clone();
            most.map(|(clock, most)| (clock, service.rng.below(most.as_micros() as u64 / 2 + 1)))
        };
        match wait {
            Some((clock, micros)) => clock.sleep(Duration::from_micros(micros)).await,
            None => tokio::task::yield_now().await,
        }
    }

    pub(crate) async fn call(&self, request: &CreateGame) -> Result<GameId, CallError> {
        self.take_time().await;
        let response = {
            let mut service = self.0.lock().unwrap();
            let failures = service.failures;
            let (fails, response_is_lost) = (service.rng.percent(failures), service.rng.percent(50));
            if fails && !response_is_lost {
                Err(if service.rng.percent(20) {
                    CallError::Refused("not this one".to_owned())
                } else {
                    CallError::Failed("down".to_owned())
                })
            } else {
                // The same match gets the same game.
                let created: GameId = format!("game-of-{}", request.match_id).parse().unwrap();
                let game = service.games.entry(request.match_id).or_insert(created).clone();
                if fails { Err(CallError::Failed("timed out".to_owned())) } else { Ok(game) }
            }
        };
        self.take_time().await;
        response
    }
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A server: its background processes and its requests in progress.
pub(super) struct Server {
    pub(super) matchmaking: Arc<Matchmaking>,
    pub(super) tasks: Vec<Task>,
}

/// A step of the simulation.
#[derive(Clone, Copy, Debug)]
#[expect(dead_code, reason = "printed on a failure")]
pub(super) enum Step {
    TaskPolled { server: usize, task: usize },
    RequestSent { server: usize },
    TimePassed { milliseconds: u64 },
    Crashed { server: usize },
    Settled { seconds: u64, round: usize },
}

/// The latest steps of a seed, printed on a failure or an endless step.
pub(super) type Trace = Arc<Mutex<VecDeque<Step>>>;

pub(super) struct World {
    seed: u64,
    rng: Rng,
    clock: Clock,
    log: MemoryLog,
    service: SimulatedGameService,
    pub(super) servers: Vec<Server>,
    ids: u64,
    /// The recorded events that were read so far.
    events: Vec<Envelope>,
    pub(super) trace: Trace,
    /// The resources that players know and act on.
    entries: Arc<Mutex<Vec<(SubjectId, EntryId)>>>,
    challenges: Arc<Mutex<Vec<ChallengeId>>>,
}

fn ask(request: impl Future<Output = CommandOutcome> + Send + 'static) -> Task {
    Box::pin(async {
        request.await;
    })
}

fn poll(task: &mut Task) -> bool {
    task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let clock = Clock::manual(Timestamp::EPOCH);
        let service = SimulatedGameService::new(seed ^ 0xabcd, rng.below(70));
        let mut world = Self {
            seed,
            rng,
            log: MemoryLog::yielding(clock.clone()),
            clock,
            service,
            servers: Vec::new(),
            ids: 0,
            events: Vec::new(),
            trace: Trace::default(),
            entries: Arc::default(),
            challenges: Arc::default(),
        };
        for _ in 0..SERVERS {
            let server = world.server();
            world.servers.push(server);
        }
        world
    }

    /// A server that has just started, without any state.
    fn server(&self) -> Server {
        let game_service =
            GameServiceClient::new(GameBackend::Simulated(self.service.clone()), self.clock.clone());
        let (log, clock) = (Log::new(self.log.clone()), self.clock.clone());
        let engine = Engine::simulated(log, clock.clone(), Ids::sequence());
        let matchmaking =
            Arc::new(Matchmaking::new(Arc::new(engine), game_service, Ratings::new(None, clock)));
        let tasks = of_matchmaking(&matchmaking).into();
        Server { matchmaking, tasks }
    }

    fn id(&mut self) -> Uuid {
        self.ids += 1;
        Uuid::from_u128(0x9000_0000 + u128::from(self.ids))
    }

    /// Runs the next step.
    pub(super) fn step(&mut self) {
        let server = self.rng.below(SERVERS as u64) as usize;
        match self.rng.below(1_000) {
            0..880 => {
                let task = self.rng.below(self.servers[server].tasks.len() as u64) as usize;
                self.record(Step::TaskPolled { server, task });
                let tasks = &mut self.servers[server].tasks;
                if poll(&mut tasks[task]) {
                    drop(tasks.remove(task));
                }
            }
            880..960 => {
                self.record(Step::RequestSent { server });
                let request = self.request(server);
                self.servers[server].tasks.push(request);
            }
            960..992 => {
                let jump = if self.rng.percent(3) { 400_000 } else { 3_000 };
                let milliseconds = self.rng.below(jump);
                self.record(Step::TimePassed { milliseconds });
                self.clock.advance(Duration::from_millis(milliseconds));
            }
            // The server crashes, and another replaces it.
            _ => {
                self.record(Step::Crashed { server });
                self.servers[server] = self.server();
            }
        }
    }

    fn record(&self, step: Step) {
        let mut trace = self.trace.lock().unwrap();
        if trace.len() == TRACE_STEPS {
            trace.pop_front();
        }
        trace.push_back(step);
    }

    /// A request of a player or of a game to a server.
    fn request(&mut self, server: usize) -> Task {
        let matchmaking = self.servers[server].matchmaking.clone();
        let who = person(self.rng.below(PLAYERS));
        let other = person(self.rng.below(PLAYERS));
        let id = self.id();
        let known = self.rng.next() as usize;
        match self.rng.below(16) {
            0..6 => {
                self.entries.lock().unwrap().push((who, EntryId(id)));
                let rating = 1400 + self.rng.below(400);
                let both = self.rng.percent(30);
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

    /// All recorded events.
    pub(super) fn events(&mut self) -> &[Envelope] {
        let log = Log::new(self.log.clone());
        loop {
            let after = self.events.last().map_or(Position::START, |last| last.position);
            let mut read = Box::pin(log.read_all(after, &Filter::All, 4096));
            // A log in memory is ready at the second poll at the latest.
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

    fn matches(&mut self) -> Vec<GameMatchId> {
        self.events().iter().filter_map(|event| event.stream.game_match_id()).collect()
    }

    /// The games that the service has created.
    pub(super) fn games(&self) -> HashMap<GameMatchId, GameId> {
        self.service.games()
    }

    /// Runs without new requests, failures and crashes, so that everything ends.
    pub(super) fn settle(&mut self) {
        self.service.fail(0);
        for seconds in [0, 6, 6, 60, 300, 300, 700, 700, 7_300, 60, 7_300, 60] {
            self.clock.advance(Duration::from_secs(seconds));
            let mut quiet = 0;
            for round in 0.. {
                assert!(round < ROUNDS_MAX, "seed {}: it never settles", self.seed);
                self.record(Step::Settled { seconds, round });
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
            print_trace(self.seed, &self.trace);
        }
    }
}

/// Prints the trace of a seed.
pub(super) fn print_trace(seed: u64, trace: &Trace) {
    eprintln!("seed {seed}; the last steps: {:#?}", trace.lock().unwrap());
}
