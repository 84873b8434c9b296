//! What players, and their games, ask of a server. Refusals are answers like any other.

use std::time::Duration;

use domain::challenge as challenges;
use domain::match_record as records;
use domain::player::{self, Queueing, Wish};
use domain::rating::unproven;
use event_schemas::challenge::{ChallengeCreated, Strength};
use event_schemas::envelope::Actor;
use event_schemas::ids::{ChallengeId, CorrelationId, EntryId, MatchRecordId, SubjectId, Tenant};
use event_schemas::match_record::GameResult;
use event_schemas::rating::{Rating, RatingSource};
use uuid::Uuid;

use crate::matchmaking::{Chain, Matchmaking, Step};

pub(in crate::matchmaking) fn tenant() -> Tenant {
    "arena".parse().unwrap()
}

pub(in crate::matchmaking) fn person(n: u64) -> SubjectId {
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

async fn act(matchmaking: &Matchmaking, who: SubjectId, thing: Uuid, action: player::Action) {
    let chain = chain();
    let _ = matchmaking.on_player(who, Step { thing, name: "ask", chain: &chain }, action).await;
}

pub(in crate::matchmaking) async fn queue(
    matchmaking: Matchmaking,
    who: SubjectId,
    entry_id: EntryId,
    rating: f64,
    both: bool,
) {
    let keys: &[&str] = if both { &["blitz", "rapid"] } else { &["blitz"] };
    let rating = Some((Rating::nearest(rating), RatingSource::Token));
    let queueing = Queueing {
        entry_id,
        pools: keys.iter().map(|key| Wish { pool_key: key.parse().unwrap(), rating }).collect(),
        max_rating_gap: None,
        expires_at: matchmaking.clock().now().after(Duration::from_secs(600)),
        metadata: None,
    };
    act(&matchmaking, who, entry_id.0, player::Action::Queue(queueing)).await;
}

pub(in crate::matchmaking) async fn cancel(matchmaking: Matchmaking, entry: Option<(SubjectId, EntryId)>) {
    if let Some((who, entry_id)) = entry {
        act(&matchmaking, who, entry_id.0, player::Action::Cancel { entry_id }).await;
    }
}

pub(in crate::matchmaking) async fn block(
    matchmaking: Matchmaking,
    who: SubjectId,
    other: SubjectId,
    blocks: bool,
) {
    let action = if blocks { player::Action::Block { other } } else { player::Action::Unblock { other } };
    act(&matchmaking, who, other.0, action).await;
}

pub(in crate::matchmaking) async fn challenge(
    matchmaking: Matchmaking,
    id: ChallengeId,
    challenger: SubjectId,
    challenged: SubjectId,
) {
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
    let _ = matchmaking.on_challenge(id, "ask", &chain(), action).await;
}

pub(in crate::matchmaking) async fn answer(
    matchmaking: Matchmaking,
    id: Option<ChallengeId>,
    by: SubjectId,
    how: usize,
) {
    let Some(id) = id else { return };
    let action = match how {
        0 => challenges::Action::Decline { by },
        1 => challenges::Action::Cancel { by },
        _ => challenges::Action::Accept { by, strength: strength() },
    };
    if matchmaking.on_challenge(id, "ask", &chain(), action).await.is_ok() && how > 1 {
        let _ = matchmaking.finish_challenge(id, &chain()).await;
    }
}

pub(in crate::matchmaking) async fn report(matchmaking: Matchmaking, id: Option<MatchRecordId>, how: usize) {
    let Some(id) = id else { return };
    let result = [GameResult::First, GameResult::Second, GameResult::Draw, GameResult::Aborted][how];
    if matchmaking.on_match(id, &chain(), "report", records::Action::Report(result)).await.is_ok() {
        let _ = matchmaking.finish_match(id, &chain()).await;
    }
}
