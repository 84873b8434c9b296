//! What players, and their games, ask of a server. Refusals are answers like any other.

use std::time::Duration;

use domain::challenge as challenges;
use domain::match_record as records;
use domain::player::{self, Queueing, Wish};
use domain::pool as pools;
use domain::rating::unproven;
use event_schemas::challenge::{ChallengeCreated, Strength};
use event_schemas::envelope::Actor;
use event_schemas::ids::{ChallengeId, CorrelationId, EntryId, MatchRecordId, PoolKey, SubjectId, Tenant};
use event_schemas::match_record::GameResult;
use event_schemas::pool::PoolSettings;
use event_schemas::rating::{Rating, RatingSource};
use event_schemas::stream::StreamId;
use uuid::Uuid;

use crate::execute::ExecuteError;
use crate::matchmaking::{Chain, Matchmaking, Step};

pub(crate) fn tenant() -> Tenant {
    "arena".parse().unwrap()
}

pub(crate) fn person(n: u64) -> SubjectId {
    SubjectId(Uuid::from_u128(0x1000 + u128::from(n)))
}

fn chain() -> Chain {
    Chain {
        tenant: tenant(),
        correlation_id: CorrelationId(Uuid::nil()),
        event_id: None,
        actor: Actor::Service("players".parse().unwrap()),
        traceparent: None,
    }
}

fn strength() -> Strength {
    let rating = Rating::nearest(1500.0);
    Strength { rating, rating_source: RatingSource::Default, skill: unproven(rating) }
}

async fn act(matchmaking: &Matchmaking, who: SubjectId, thing: Uuid, action: player::Action) -> Answer {
    let chain = chain();
    answered(&matchmaking.on_player(who, Step { thing, name: "ask", chain: &chain }, action).await)
}

/// What a player is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    Refused,
    /// The log was not to be had, so nobody knows.
    Unknown,
}

fn answered<T, R: std::fmt::Display>(outcome: &Result<T, ExecuteError<R>>) -> Answer {
    match outcome {
        Ok(_) => Answer::Done,
        Err(ExecuteError::Refused(_)) => Answer::Refused,
        Err(_) => Answer::Unknown,
    }
}

pub(crate) async fn queue(
    matchmaking: Matchmaking,
    who: SubjectId,
    entry_id: EntryId,
    rating: f64,
    both: bool,
) -> Answer {
    let keys: &[&str] = if both { &["blitz", "rapid"] } else { &["blitz"] };
    let rating = Some((Rating::nearest(rating), RatingSource::Token));
    let queueing = Queueing {
        entry_id,
        pools: keys.iter().map(|key| Wish { pool_key: key.parse().unwrap(), rating }).collect(),
        max_rating_gap: None,
        expires_at: matchmaking.clock().now().after(Duration::from_secs(600)),
        metadata: None,
    };
    act(&matchmaking, who, entry_id.0, player::Action::Queue(queueing)).await
}

pub(crate) async fn cancel(matchmaking: Matchmaking, entry: Option<(SubjectId, EntryId)>) -> Answer {
    let Some((who, entry_id)) = entry else { return Answer::Refused };
    act(&matchmaking, who, entry_id.0, player::Action::Cancel { entry_id }).await
}

pub(crate) async fn block(
    matchmaking: Matchmaking,
    who: SubjectId,
    other: SubjectId,
    blocks: bool,
) -> Answer {
    let action = if blocks { player::Action::Block { other } } else { player::Action::Unblock { other } };
    act(&matchmaking, who, other.0, action).await
}

pub(crate) async fn challenge(
    matchmaking: Matchmaking,
    id: ChallengeId,
    challenger: SubjectId,
    challenged: SubjectId,
) -> Answer {
    let created = ChallengeCreated {
        challenge_id: id,
        pool_key: "blitz".parse().unwrap(),
        challenger,
        challenged,
        strength: strength(),
        expires_at: matchmaking.clock().now().after(Duration::from_secs(300)),
        message: None,
    };
    let action = challenges::Action::Create(created);
    answered(&matchmaking.on_challenge(id, "ask", &chain(), action).await)
}

pub(crate) async fn answer(
    matchmaking: Matchmaking,
    id: Option<ChallengeId>,
    by: SubjectId,
    how: usize,
) -> Answer {
    let Some(id) = id else { return Answer::Refused };
    let action = match how {
        0 => challenges::Action::Decline { by },
        1 => challenges::Action::Cancel { by },
        _ => challenges::Action::Accept { by, strength: strength() },
    };
    let answer = answered(&matchmaking.on_challenge(id, "ask", &chain(), action).await);
    if answer == Answer::Done && how > 1 {
        let _ = matchmaking.finish_challenge(id, &chain()).await;
    }
    answer
}

pub(crate) async fn report(matchmaking: Matchmaking, id: Option<MatchRecordId>, how: usize) -> Answer {
    let Some(id) = id else { return Answer::Refused };
    let result = [GameResult::First, GameResult::Second, GameResult::Draw, GameResult::Aborted][how];
    let answer =
        answered(&matchmaking.on_match(id, &chain(), "report", records::Action::Report(result)).await);
    if answer == Answer::Done {
        let _ = matchmaking.finish_match(id, &chain()).await;
    }
    answer
}

/// Sets how a pool matches.
pub(crate) async fn configure(matchmaking: Matchmaking, key: &str, settings: PoolSettings) -> Answer {
    let pool_key: PoolKey = key.parse().unwrap();
    let stream = StreamId::pool(&tenant(), &pool_key);
    let at = matchmaking.clock().now();
    let step = Step { thing: Uuid::nil(), name: "configure", chain: &chain() };
    let command = pools::Command { pool_key, at, settings };
    answered(&matchmaking.0.pools.execute(&stream, &step.cause(at, None, &command), command).await)
}
