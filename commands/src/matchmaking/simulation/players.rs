//! The commands of players and of their games. A refusal is a valid outcome.

use std::sync::Arc;
use std::time::Duration;

use domain::challenge as challenges;
use domain::game_match as records;
use domain::player::{self, JoinQueue, PoolRequest};
use domain::pool as pools;
use domain::rating::unproven;
use event_schemas::challenge::{ChallengeCreated, Strength};
use event_schemas::envelope::Actor;
use event_schemas::game_match::GameResult;
use event_schemas::ids::{ChallengeId, CorrelationId, EntryId, GameMatchId, PoolKey, SubjectId, Tenant};
use event_schemas::pool::PoolSettings;
use event_schemas::rating::{Rating, RatingSource};
use event_schemas::stream::StreamId;
use uuid::Uuid;

use crate::engine::command_context::CommandContext;
use crate::engine::execute::ExecuteError;
use crate::matchmaking::{Matchmaking, SagaStep};

pub(crate) fn tenant() -> Tenant {
    "arena".parse().unwrap()
}

pub(crate) fn person(n: u64) -> SubjectId {
    SubjectId(Uuid::from_u128(0x1000 + u128::from(n)))
}

fn context() -> CommandContext {
    CommandContext {
        tenant: tenant(),
        correlation_id: CorrelationId(Uuid::nil()),
        event_id: None,
        actor: Actor::Service("players".parse().unwrap()),
        traceparent: None,
    }
}

fn strength() -> Strength {
    let rating = Rating::nearest(1500.0);
    Strength { rating, rating_source: RatingSource::Default, skill: unproven(rating), rating_call: None }
}

async fn act(
    matchmaking: &Matchmaking,
    player: SubjectId,
    target: Uuid,
    action: player::Action,
) -> CommandOutcome {
    let context = context();
    outcome_of(
        &matchmaking
            .execute_player_step(player, SagaStep { target, name: "ask", context: &context }, action)
            .await,
    )
}

/// The outcome of a command, as its caller sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CommandOutcome {
    Done,
    Refused,
    /// The log failed, so the outcome is unknown.
    Unknown,
}

fn outcome_of<T, R: std::fmt::Display>(outcome: &Result<T, ExecuteError<R>>) -> CommandOutcome {
    match outcome {
        Ok(_) => CommandOutcome::Done,
        Err(ExecuteError::Refused(_)) => CommandOutcome::Refused,
        Err(_) => CommandOutcome::Unknown,
    }
}

pub(crate) async fn queue(
    matchmaking: Arc<Matchmaking>,
    player: SubjectId,
    entry_id: EntryId,
    rating: f64,
    both: bool,
) -> CommandOutcome {
    let keys: &[&str] = if both { &["blitz", "rapid"] } else { &["blitz"] };
    let rating = Some((Rating::nearest(rating), RatingSource::Token));
    let join = JoinQueue {
        entry_id,
        pools: keys
            .iter()
            .map(|key| PoolRequest { pool_key: key.parse().unwrap(), rating, rating_call: None })
            .collect(),
        max_rating_gap: None,
        expires_at: matchmaking.engine.now().after(Duration::from_secs(600)),
        metadata: None,
    };
    act(&matchmaking, player, entry_id.0, player::Action::JoinQueue(join)).await
}

pub(crate) async fn cancel(
    matchmaking: Arc<Matchmaking>,
    entry: Option<(SubjectId, EntryId)>,
) -> CommandOutcome {
    let Some((player, entry_id)) = entry else { return CommandOutcome::Refused };
    act(&matchmaking, player, entry_id.0, player::Action::Cancel { entry_id }).await
}

pub(crate) async fn block(
    matchmaking: Arc<Matchmaking>,
    player: SubjectId,
    other: SubjectId,
    blocks: bool,
) -> CommandOutcome {
    let action = if blocks { player::Action::Block { other } } else { player::Action::Unblock { other } };
    act(&matchmaking, player, other.0, action).await
}

pub(crate) async fn challenge(
    matchmaking: Arc<Matchmaking>,
    id: ChallengeId,
    challenger: SubjectId,
    challenged: SubjectId,
) -> CommandOutcome {
    let created = ChallengeCreated {
        challenge_id: id,
        pool_key: "blitz".parse().unwrap(),
        challenger,
        challenged,
        strength: strength(),
        expires_at: matchmaking.engine.now().after(Duration::from_secs(300)),
        message: None,
    };
    let action = challenges::Action::Create(created);
    outcome_of(&matchmaking.execute_challenge_step(id, "ask", &context(), action).await)
}

pub(crate) async fn answer(
    matchmaking: Arc<Matchmaking>,
    id: Option<ChallengeId>,
    by: SubjectId,
    how: usize,
) -> CommandOutcome {
    let Some(id) = id else { return CommandOutcome::Refused };
    let action = match how {
        0 => challenges::Action::Decline { by },
        1 => challenges::Action::Cancel { by },
        _ => challenges::Action::Accept { by, strength: strength() },
    };
    let outcome = outcome_of(&matchmaking.execute_challenge_step(id, "ask", &context(), action).await);
    if outcome == CommandOutcome::Done && how > 1 {
        let _ = matchmaking.finish_challenge(id, &context()).await;
    }
    outcome
}

pub(crate) async fn report(
    matchmaking: Arc<Matchmaking>,
    id: Option<GameMatchId>,
    how: usize,
) -> CommandOutcome {
    let Some(id) = id else { return CommandOutcome::Refused };
    let result = [GameResult::First, GameResult::Second, GameResult::Draw, GameResult::Aborted][how];
    let outcome = outcome_of(
        &matchmaking.execute_match_step(id, &context(), "report", records::Action::Report(result)).await,
    );
    if outcome == CommandOutcome::Done {
        let _ = matchmaking.finish_match(id, &context()).await;
    }
    outcome
}

/// Sets the settings of a pool.
pub(crate) async fn configure(
    matchmaking: Arc<Matchmaking>,
    key: &str,
    settings: PoolSettings,
) -> CommandOutcome {
    let pool_key: PoolKey = key.parse().unwrap();
    let stream = StreamId::pool(&tenant(), &pool_key);
    let at = matchmaking.engine.now();
    let step = SagaStep { target: Uuid::nil(), name: "configure", context: &context() };
    let command = pools::Command { pool_key, at, settings };
    outcome_of(&matchmaking.pools.execute(&stream, &step.cause(at, None, &command), command).await)
}
