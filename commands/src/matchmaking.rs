//! The commands of matchmaking: reserve two players for a match, create its game, and release the players again.
//!
//! A match changes two player streams and its own, and there are no transactions over streams. So each match is a saga:
//! a sequence of steps, each of which is decided by one stream and can be repeated. [`match_saga`] and
//! [`challenge_saga`] run the sagas, and resume them where a crash or another process left them.
//!
//! The [`routes`] record entries, challenges and results; the background processes, the [`matchmaker`], the
//! [`reconciler`] and the [`expiry`], do the rest.

mod challenge_requests;
mod challenge_saga;
pub(crate) mod challenges;
mod entries;
pub(crate) mod expiry;
pub mod game_service;
pub mod live_game;
mod match_saga;
pub(crate) mod matchmaker;
pub mod rating_service;
pub(crate) mod ratings;
pub(crate) mod reconciler;
mod results;
pub mod routes;
#[cfg(test)]
pub(crate) mod simulation;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::breaker::CircuitState;
use domain::challenge::{self, ChallengeDecider};
use domain::game_match::{self, GameMatchDecider};
use domain::matchmaking::pending_work::{PendingSagas, UnfinishedSaga};
use domain::player::{self, PlayerDecider};
use domain::pool::PoolDecider;
use event_schemas::envelope::{Cause, Envelope};
use event_schemas::ids::{CommandId, PoolKey, Position, SubjectId, Tenant};
use event_schemas::pool::PoolSettings;
use event_schemas::stream::{Category, StreamId};
use event_schemas::time::Timestamp;
use tokio::sync::watch;
use uuid::Uuid;
use web::problem::Problem;

use crate::engine::Engine;
use crate::engine::command_context::CommandContext;
use crate::engine::execute::{ExecuteError, LoadError, Streams};
use crate::engine::problem::{from_execute_error, from_load_error};
use crate::engine::snapshot::Snapshots;
use game_service::GameServiceClient;
use ratings::Ratings;

/// The delay before a process retries a failed command.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// The stream categories that matchmaking follows.
const CATEGORIES: [Category; 4] =
    [Category::Player, Category::Pool, Category::GameMatch, Category::Challenge];

/// The prefixes of their stream names.
pub(crate) fn stream_prefixes() -> Vec<String> {
    CATEGORIES.map(|category| category.stream_prefix().to_owned()).into()
}

/// The write side of matchmaking.
#[derive(Debug)]
pub struct Matchmaking {
    pub(crate) engine: Arc<Engine>,
    players: Streams<PlayerDecider>,
    pools: Streams<PoolDecider>,
    game_matches: Streams<GameMatchDecider>,
    challenges: Streams<ChallengeDecider>,
    pub(crate) game_service: GameServiceClient,
    ratings: Ratings,
    /// The sagas that this process is running.
    running: Mutex<HashSet<UnfinishedSaga>>,
    pending: Mutex<PendingSagas>,
    progress: watch::Sender<Progress>,
    pub(crate) snapshots: Snapshots,
    /// The head of the log at the start: earlier events are of an earlier process.
    head_at_start: Position,
}

/// The log position that the pending work includes, and its readiness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) position: Position,
    pub(crate) is_live: bool,
    /// A background process has ended, which happens only if the log cannot be read.
    pub(crate) is_stopped: bool,
}

/// The status of matchmaking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// The log position up to which it has read.
    pub position: Position,
    /// True if players are being paired.
    pub is_ready: bool,
    /// True if another process on the same log runs the matchmaker.
    pub is_elsewhere: bool,
    /// True if the log can no longer be read, so that no players are paired until the next start.
    pub is_stopped: bool,
    /// The number of searching entries, over all pools and tenants.
    pub searching: usize,
    /// The number of unfinished match and challenge sagas.
    pub unfinished: usize,
    /// The numbers of tenants of which the circuit breaker of the game service is open, and half-open; none without a
    /// service.
    pub games: Option<(usize, usize)>,
}

/// The reason why a saga stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SagaError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Player(#[from] ExecuteError<player::Refusal>),
    #[error(transparent)]
    Match(#[from] ExecuteError<game_match::Refusal>),
    #[error(transparent)]
    Challenge(#[from] ExecuteError<challenge::Refusal>),
}

impl From<SagaError> for Problem {
    /// The problem of the caller. The reconciler completes the saga without the caller.
    fn from(error: SagaError) -> Self {
        match error {
            SagaError::Load(error) => from_load_error(error),
            SagaError::Player(error) => from_execute_error(error),
            SagaError::Match(error) => from_execute_error(error),
            SagaError::Challenge(error) => from_execute_error(error),
        }
    }
}

/// One step of a saga.
#[derive(Clone, Copy, Debug)]
struct SagaStep<'a> {
    target: Uuid,
    name: &'a str,
    context: &'a CommandContext,
}

impl SagaStep<'_> {
    /// The cause of the step. Its command id is derived from the whole action: two servers that send different actions
    /// to one stream at one instant must not pass for one server that repeats itself. At another instant the step is
    /// another command, because it may record something else; the stream's state ensures that it is recorded once.
    fn cause(&self, at: Timestamp, subject: Option<SubjectId>, action: &impl Debug) -> Cause {
        let about = subject.map_or_else(String::new, |subject| subject.to_string());
        let name = format!("{}/{about}/{}/{action:?}", self.name, at.micros());
        Cause {
            command_id: CommandId(Uuid::new_v5(&self.target, name.as_bytes())),
            correlation_id: self.context.correlation_id,
            event_id: self.context.event_id,
            tenant: self.context.tenant.clone(),
            actor: self.context.actor.clone(),
            subject,
            idempotency: None,
            traceparent: self.context.traceparent.clone(),
        }
    }
}

impl Matchmaking {
    pub(crate) fn new(engine: Arc<Engine>, game_service: GameServiceClient, ratings: Ratings) -> Self {
        let progress = Progress { position: Position::START, is_live: false, is_stopped: false };
        Self {
            players: engine.streams(),
            pools: engine.streams(),
            game_matches: engine.streams(),
            challenges: engine.streams(),
            game_service,
            ratings,
            running: Mutex::default(),
            pending: Mutex::default(),
            progress: watch::Sender::new(progress),
            snapshots: engine.snapshots("matchmaking"),
            head_at_start: engine.head(),
            engine,
        }
    }

    /// Records that a background process has ended, which happens only if the log cannot be read.
    pub(crate) fn stop(&self) {
        self.progress.send_modify(|progress| progress.is_stopped = true);
    }

    /// The current status.
    pub(crate) fn status(&self) -> Status {
        let Progress { position, is_live, is_stopped } = *self.progress.borrow();
        let pending = self.pending();
        Status {
            position,
            is_ready: is_live && !is_stopped,
            is_elsewhere: false,
            is_stopped,
            searching: pending.searching(),
            unfinished: pending.unfinished().count(),
            games: self.game_service.unclosed_breakers(),
        }
    }

    /// The services that it calls, by name, with the state of the tenant's circuit breaker and the number of times in a
    /// row that it opened.
    pub(crate) fn services(
        &self,
        tenant: &Tenant,
    ) -> impl Iterator<Item = (&'static str, CircuitState, u32)> {
        let games = self.game_service.breaker_state(tenant);
        let games = games.map(|(state, openings)| (game_service::NAME, state, openings));
        games.into_iter().chain(self.ratings.breaker_state(tenant))
    }

    /// The current settings of a pool.
    pub(crate) async fn settings(&self, tenant: &Tenant, pool: &PoolKey) -> Result<PoolSettings, LoadError> {
        self.pools.query(&StreamId::pool(tenant, pool), |folded| folded.state.settings()).await
    }

    /// Executes a step of a saga on a player.
    async fn execute_player_step(
        &self,
        subject_id: SubjectId,
        step: SagaStep<'_>,
        action: player::Action,
    ) -> Result<Position, ExecuteError<player::Refusal>> {
        let at = self.engine.now();
        let stream = StreamId::player(&step.context.tenant, subject_id);
        let cause = step.cause(at, Some(subject_id), &action);
        let command = player::Command { subject_id, at, action };
        Ok(self.players.execute(&stream, &cause, command).await?.position)
    }

    /// Continues with the pending work of a snapshot, before the first event is applied.
    pub(crate) fn restore(&self, pending: PendingSagas, position: Position) {
        *self.pending() = pending;
        self.progress.send_modify(|progress| progress.position = position);
    }

    /// Applies events to the pending work.
    pub(crate) fn apply(&self, events: &[Envelope], position: Position) {
        let mut pending = self.pending();
        events.iter().for_each(|event| pending.apply(event));
        drop(pending);
        for event in events.iter().filter(|event| event.position <= self.head_at_start) {
            self.game_service.replay(event);
            self.ratings.replay(event);
        }
        self.progress.send_modify(|progress| progress.position = position);
    }

    /// Marks the pending work as current: all events from before the start have been applied.
    pub(crate) fn go_live(&self) {
        self.progress.send_modify(|progress| progress.is_live = true);
    }

    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Waits until the pending work includes all events up to `position`.
    pub(crate) async fn wait_for_position(&self, position: Position) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.progress().wait_for(|progress| progress.position >= position).await;
    }

    pub(crate) fn pending(&self) -> MutexGuard<'_, PendingSagas> {
        // Each event is applied in one step, which cannot panic half-way.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks a saga; none if this process is running it already. This only saves a second call of the game service: the
    /// streams decide.
    pub(crate) fn try_lock(&self, unfinished: UnfinishedSaga) -> Option<SagaGuard<'_>> {
        let is_new = self.running().insert(unfinished);
        is_new.then(|| SagaGuard { matchmaking: self, unfinished })
    }

    fn running(&self) -> MutexGuard<'_, HashSet<UnfinishedSaga>> {
        // A set stays valid whatever happened to its last user.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lock on a running saga. Dropping it releases the lock.
#[derive(Debug)]
pub(crate) struct SagaGuard<'a> {
    matchmaking: &'a Matchmaking,
    unfinished: UnfinishedSaga,
}

impl Drop for SagaGuard<'_> {
    fn drop(&mut self) {
        self.matchmaking.running().remove(&self.unfinished);
    }
}

/// The time at which a match that starts now expires without a result.
fn result_due_at(now: Timestamp, settings: &PoolSettings) -> Timestamp {
    now.after(Duration::from_secs(settings.result_expires_after_seconds.into()))
}
