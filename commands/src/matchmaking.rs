//! Matchmaking's own commands: taking two players for a match, making its game, letting them go again.
//!
//! A match takes two streams of players and its own, and there are no transactions over streams. So everything is a
//! sequence of steps, each of which is decided by one stream and can be repeated; [`placing`] and [`accepting`] carry the
//! sequences out, from wherever a crash or another process left them.
//!
//! The [`routes`](crate::routes) put entries, challenges and results into the log; what follows from them happens by
//! itself once [`Matchmaking::start`] has been called.

mod accepting;
pub(crate) mod challenges;
mod entries;
pub mod games;
mod placing;
pub(crate) mod ratings;
mod results;
#[cfg(test)]
pub(crate) mod simulation;
pub(crate) mod strength;
#[cfg(test)]
mod tests;

use futures_util::FutureExt;
use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::breaker::Phase;
use domain::challenge::{self, Challenge};
use domain::match_record::{self, MatchRecord};
use domain::matchmaking::obligations::{Obligations, Reason, Unfinished};
use domain::player::{self, Player};
use domain::pool::Pool;
use event_log::Log;
use event_log::clock::Clock;
use event_schemas::envelope::{Actor, Cause, Envelope};
use event_schemas::ids::{CommandId, CorrelationId, EventId, PoolKey, Position, SubjectId, Tenant};
use event_schemas::pool::PoolSettings;
use event_schemas::stream::{Category, StreamId};
use event_schemas::time::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::execute::{ExecuteError, LoadError, Streams};
use crate::process::{expiry, matchmaker, reconciler};
use games::Desk;

/// The categories that say who waits, who plays and what is left to do.
const CATEGORIES: [Category; 4] =
    [Category::Player, Category::Pool, Category::MatchRecord, Category::Challenge];

/// What the names of their streams begin with.
pub(crate) fn prefixes() -> Vec<String> {
    CATEGORIES.map(|category| format!("{}-", category.as_str())).into()
}

/// The write side of matchmaking. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Matchmaking(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    log: Log,
    clock: Clock,
    players: Streams<Player>,
    pools: Streams<Pool>,
    matches: Streams<MatchRecord>,
    challenges: Streams<Challenge>,
    desk: Desk,
    /// What this process brings to its end just now.
    driven: Mutex<HashSet<Unfinished>>,
    left: Mutex<Obligations>,
    seen: watch::Sender<Seen>,
}

/// How far the obligations are, and whether they can be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) position: Position,
    pub(crate) is_live: bool,
    /// A process has ended, which only a log that cannot be read brings about.
    pub(crate) is_stopped: bool,
}

/// How matchmaking stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// How far it has followed the log.
    pub position: Position,
    /// Whether players are put together now.
    pub is_ready: bool,
    /// Whether it is left to another process on the same log.
    pub is_elsewhere: bool,
    /// Whether the log could not be read any more, so that nobody will be put together before the next start.
    pub is_stopped: bool,
    /// How many entries search, over all pools and tenants.
    pub searching: usize,
    /// How many matches and challenges somebody has to bring to their end.
    pub unfinished: usize,
    /// How the game service stands; none without one.
    pub games: Option<Phase>,
}

/// Why a step could not be carried out, though no rule forbids it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StepError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Player(#[from] ExecuteError<player::Refusal>),
    #[error(transparent)]
    Match(#[from] ExecuteError<match_record::Refusal>),
    #[error(transparent)]
    Challenge(#[from] ExecuteError<challenge::Refusal>),
}

/// On whose behalf steps are carried out, and what set them off.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    pub(crate) tenant: Tenant,
    pub(crate) correlation_id: CorrelationId,
    /// None for a caller's command.
    pub(crate) event_id: Option<EventId>,
    pub(crate) actor: Actor,
    pub(crate) traceparent: Option<String>,
}

impl Chain {
    /// What follows from a caller's command.
    pub(crate) fn of_caller(cause: &Cause) -> Self {
        Self {
            tenant: cause.tenant.clone(),
            correlation_id: cause.correlation_id,
            event_id: None,
            actor: cause.actor.clone(),
            traceparent: cause.traceparent.clone(),
        }
    }

    /// What a process does about an event.
    pub(crate) fn of_process(process: &'static str, reason: &Reason) -> Self {
        Self {
            tenant: reason.tenant.clone(),
            correlation_id: reason.correlation_id,
            event_id: Some(reason.event_id),
            actor: Actor::System(process.parse().expect("the name of a process is a short text")),
            traceparent: None,
        }
    }
}

/// One step of a sequence, about one thing.
#[derive(Clone, Copy, Debug)]
struct Step<'a> {
    thing: Uuid,
    name: &'a str,
    chain: &'a Chain,
}

impl Step<'_> {
    /// The cause of the step, whose id comes from all that is wanted: two servers that want different things of one stream
    /// at one instant must not be taken for one that repeats itself. Taken again at another instant it is another command,
    /// because what it records may differ; that it is recorded once is decided by the state that it finds.
    fn cause(&self, at: Timestamp, subject: Option<SubjectId>, wanted: &impl Debug) -> Cause {
        let about = subject.map_or_else(String::new, |subject| subject.to_string());
        let name = format!("{}/{about}/{}/{wanted:?}", self.name, at.micros());
        Cause {
            command_id: CommandId(Uuid::new_v5(&self.thing, name.as_bytes())),
            correlation_id: self.chain.correlation_id,
            event_id: self.chain.event_id,
            tenant: self.chain.tenant.clone(),
            actor: self.chain.actor.clone(),
            subject,
            idempotency: None,
            traceparent: self.chain.traceparent.clone(),
        }
    }
}

impl Matchmaking {
    /// Matchmaking on a log, with games from this desk. Of each kind of stream, so many events are kept folded. Nothing
    /// happens before [`Self::start`].
    pub fn new(log: Log, clock: Clock, cached_events_max: usize, desk: Desk) -> Self {
        let seen = Seen { position: Position::START, is_live: false, is_stopped: false };
        Self(Arc::new(Parts {
            players: Streams::new(log.clone(), clock.clone(), cached_events_max),
            pools: Streams::new(log.clone(), clock.clone(), cached_events_max),
            matches: Streams::new(log.clone(), clock.clone(), cached_events_max),
            challenges: Streams::new(log.clone(), clock.clone(), cached_events_max),
            desk,
            driven: Mutex::default(),
            left: Mutex::default(),
            seen: watch::Sender::new(seen),
            log,
            clock,
        }))
    }

    /// Starts what happens by itself, on the current runtime: players are put together, what was begun is brought to its
    /// end, and what has had its time ends. Aborting the tasks loses nothing: whoever is started next takes it up.
    pub fn start(&self) -> [JoinHandle<()>; 4] {
        [
            self.spawn(reconciler::follow(self.clone())),
            self.spawn(reconciler::run(self.clone())),
            self.spawn(matchmaker::run(self.clone())),
            self.spawn(expiry::run(self.clone())),
        ]
    }

    fn spawn(&self, process: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        let matchmaking = self.clone();
        let process = async move {
            process.await;
            matchmaking.0.seen.send_modify(|seen| seen.is_stopped = true);
        };
        tokio::spawn(process.boxed())
    }

    /// How it stands now.
    pub(crate) fn status(&self) -> Status {
        let Seen { position, is_live, is_stopped } = *self.0.seen.borrow();
        let left = self.left();
        Status {
            position,
            is_ready: is_live && !is_stopped,
            is_elsewhere: false,
            is_stopped,
            searching: left.searching(),
            unfinished: left.unfinished().count(),
            games: self.0.desk.standing().map(|(phase, _)| phase),
        }
    }

    /// The services that it asks: by name, how each stands, and how often it was left alone in a row.
    pub(crate) fn services(&self) -> impl Iterator<Item = (&'static str, Phase, u32)> {
        self.0.desk.standing().map(|(phase, openings)| (games::NAME, phase, openings)).into_iter()
    }

    pub(crate) fn log(&self) -> &Log {
        &self.0.log
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.0.clock
    }

    pub(crate) fn desk(&self) -> &Desk {
        &self.0.desk
    }

    /// What holds in a pool now.
    pub(crate) async fn settings(&self, tenant: &Tenant, pool: &PoolKey) -> Result<PoolSettings, LoadError> {
        self.0.pools.look(&StreamId::pool(tenant, pool), |folded| folded.state.settings()).await
    }

    /// Carries out a step about a player.
    async fn on_player(
        &self,
        subject_id: SubjectId,
        step: Step<'_>,
        action: player::Action,
    ) -> Result<Position, ExecuteError<player::Refusal>> {
        let at = self.0.clock.now();
        let stream = StreamId::player(&step.chain.tenant, subject_id);
        let cause = step.cause(at, Some(subject_id), &action);
        let command = player::Command { subject_id, at, action };
        Ok(self.0.players.execute(&stream, &cause, command).await?.position)
    }

    /// Takes in what happened: what is left to do follows from it.
    pub(crate) fn apply(&self, events: &[Envelope], position: Position) {
        let mut left = self.left();
        events.iter().for_each(|event| left.apply(event));
        drop(left);
        self.0.seen.send_modify(|seen| seen.position = position);
    }

    /// Everything that happened before the start has been taken in.
    pub(crate) fn go_live(&self) {
        self.0.seen.send_modify(|seen| seen.is_live = true);
    }

    pub(crate) fn seen(&self) -> watch::Receiver<Seen> {
        self.0.seen.subscribe()
    }

    /// Waits until what is left to do takes account of everything up to `position`.
    pub(crate) async fn reached(&self, position: Position) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.seen().wait_for(|seen| seen.position >= position).await;
    }

    pub(crate) fn left(&self) -> MutexGuard<'_, Obligations> {
        // A fold is moved on event by event, none of which can panic half-way.
        self.0.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to bring something to its end; none if this process is at it already. That is a courtesy, so that a
    /// game service is not asked twice: the streams decide.
    pub(crate) fn drive(&self, unfinished: Unfinished) -> Option<Driving> {
        let is_new = self.driven().insert(unfinished);
        is_new.then(|| Driving { matchmaking: self.clone(), unfinished })
    }

    fn driven(&self) -> MutexGuard<'_, HashSet<Unfinished>> {
        // A set is whole whatever happened to its last user.
        self.0.driven.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody is bringing something to its end. Ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Driving {
    matchmaking: Matchmaking,
    unfinished: Unfinished,
}

impl Drop for Driving {
    fn drop(&mut self) {
        self.matchmaking.driven().remove(&self.unfinished);
    }
}

/// When a match ends by itself that begins now.
fn result_due_at(now: Timestamp, settings: &PoolSettings) -> Timestamp {
    now.after(Duration::from_secs(settings.result_expires_after_seconds.into()))
}
