//! The decisions of commands to a player.

use event_schemas::game_match::AbandonReason;
use event_schemas::ids::{GameMatchId, SubjectId};
use event_schemas::player::{
    PlayerBlocked, PlayerEvent, PlayerQueued, PlayerRated, PlayerReleased, PlayerReserved, PlayerUnblocked,
    QueueEntryCancelled, QueueEntryExpired, QueueEntryMatched, QueueEntryReleased, QueuedPool, ReleaseReason,
};

use event_schemas::time::Timestamp;

use super::{
    Action, BLOCKED_MAX, Command, Entry, EntryEnd, JoinQueue, POOLS_MAX, PlayerActivity, Rated, Refusal,
    ReserveForChallenge, ReserveForMatch, State,
};
use crate::rating;

pub(super) fn decide(command: &Command, state: &State) -> Result<Vec<PlayerEvent>, Refusal> {
    let subject_id = command.subject_id;
    Ok(match &command.action {
        Action::JoinQueue(join) => match &state.activity {
            PlayerActivity::Idle => vec![queue(command, join, state)?],
            PlayerActivity::Searching(entry) | PlayerActivity::ReservedForMatch { entry, .. }
                if entry.queued.entry_id == join.entry_id =>
            {
                Vec::new()
            }
            PlayerActivity::Searching(entry) => return Err(Refusal::AlreadyQueued(entry.queued.entry_id)),
            PlayerActivity::ReservedForMatch { match_id, .. }
            | PlayerActivity::ReservedForChallenge { match_id, .. } => {
                return Err(Refusal::InMatch(*match_id));
            }
        },
        Action::Cancel { entry_id } => match &state.activity {
            PlayerActivity::Searching(entry) if entry.queued.entry_id == *entry_id => {
                vec![QueueEntryCancelled { subject_id, entry_id: *entry_id }.into()]
            }
            PlayerActivity::ReservedForMatch { entry, .. } if entry.queued.entry_id == *entry_id => {
                return Err(Refusal::EntryMatched);
            }
            PlayerActivity::ReservedForChallenge { left: Some(entry), .. }
                if entry.queued.entry_id == *entry_id =>
            {
                return Err(Refusal::EntryEnded(EntryEnd::Left));
            }
            _ => match state.ended(*entry_id) {
                Some(EntryEnd::Cancelled) => Vec::new(),
                Some(how) => return Err(Refusal::EntryEnded(how)),
                None => return Err(Refusal::NoSuchEntry),
            },
        },
        Action::Expire { entry_id } => match &state.activity {
            PlayerActivity::Searching(entry)
                if entry.queued.entry_id == *entry_id && entry.queued.expires_at <= command.at =>
            {
                vec![QueueEntryExpired { subject_id, entry_id: *entry_id }.into()]
            }
            _ => Vec::new(),
        },
        Action::ReserveForMatch(reservation) => reserve_for_match(command, reservation, state)?,
        Action::ReleaseFromMatch { match_id, reason, eligible_at } => match &state.activity {
            PlayerActivity::ReservedForMatch { entry, match_id: held, .. } if held == match_id => {
                vec![requeue(subject_id, entry, *match_id, *reason, *eligible_at)]
            }
            _ => Vec::new(),
        },
        Action::ReserveForChallenge(reservation) => reserve_for_challenge(command, reservation, state)?,
        Action::ReleaseFromChallenge { match_id, attempt, reason, eligible_at } => match &state.activity {
            PlayerActivity::ReservedForChallenge { match_id: held, attempt: of, left, .. }
                if held == match_id && of <= attempt =>
            {
                match left {
                    Some(entry) => vec![requeue(subject_id, entry, *match_id, *reason, *eligible_at)],
                    None => {
                        let reason = ReleaseReason::Abandoned;
                        vec![PlayerReleased { subject_id, match_id: *match_id, reason }.into()]
                    }
                }
            }
            _ => Vec::new(),
        },
        Action::ReleaseAfterMatch { match_id, reason, game } => {
            if state.match_id() != Some(*match_id) {
                return Ok(Vec::new());
            }
            let released = PlayerReleased { subject_id, match_id: *match_id, reason: *reason }.into();
            match game {
                Some(game) => vec![rate(command, *match_id, game, state), released],
                None => vec![released],
            }
        }
        Action::Block { other } if *other == subject_id => return Err(Refusal::SelfBlock),
        Action::Block { other } if state.blocks(*other) => Vec::new(),
        Action::Block { .. } if state.blocked.len() >= BLOCKED_MAX => return Err(Refusal::TooManyBlocked),
        Action::Block { other } => vec![PlayerBlocked { subject_id, blocked: *other }.into()],
        Action::Unblock { other } if state.blocks(*other) => {
            vec![PlayerUnblocked { subject_id, unblocked: *other }.into()]
        }
        Action::Unblock { .. } => Vec::new(),
    })
}

fn queue(command: &Command, join: &JoinQueue, state: &State) -> Result<PlayerEvent, Refusal> {
    if let Some(how) = state.ended(join.entry_id) {
        return Err(Refusal::EntryEnded(how));
    }
    let mut pools: Vec<QueuedPool> = join.pools.iter().map(|request| state.queued_pool(request)).collect();
    pools.sort_by(|a, b| a.pool_key.cmp(&b.pool_key));
    let repeats = pools.windows(2).any(|pair| matches!(pair, [a, b] if a.pool_key == b.pool_key));
    if pools.is_empty() || pools.len() > POOLS_MAX || repeats {
        return Err(Refusal::Pools);
    }
    let queued = PlayerQueued {
        subject_id: command.subject_id,
        entry_id: join.entry_id,
        pools,
        max_rating_gap: join.max_rating_gap,
        last_opponent: state.pairing_history.last_opponent,
        expires_at: join.expires_at,
        metadata: join.metadata.clone(),
    };
    Ok(queued.into())
}

fn reserve_for_match(
    command: &Command,
    reservation: &ReserveForMatch,
    state: &State,
) -> Result<Vec<PlayerEvent>, Refusal> {
    let entry = match &state.activity {
        PlayerActivity::Searching(entry) => entry,
        PlayerActivity::ReservedForMatch { entry, match_id, .. }
            if *match_id == reservation.match_id && entry.queued.entry_id == reservation.entry_id =>
        {
            return Ok(Vec::new());
        }
        _ => return Err(Refusal::EntryChanged),
    };
    let waits_there = entry.queued.pools.iter().any(|pool| pool.pool_key == reservation.pool_key);
    if entry.queued.entry_id != reservation.entry_id
        || entry.release_count != reservation.release_count
        || !waits_there
    {
        return Err(Refusal::EntryChanged);
    }
    if state.blocks(reservation.opponent) {
        return Err(Refusal::Blocked);
    }
    let matched = QueueEntryMatched {
        subject_id: command.subject_id,
        entry_id: reservation.entry_id,
        match_id: reservation.match_id,
        pool_key: reservation.pool_key.clone(),
        opponent: reservation.opponent,
        side: reservation.side,
    };
    Ok(vec![matched.into()])
}

fn reserve_for_challenge(
    command: &Command,
    reservation: &ReserveForChallenge,
    state: &State,
) -> Result<Vec<PlayerEvent>, Refusal> {
    let left = match &state.activity {
        PlayerActivity::Idle => None,
        PlayerActivity::Searching(entry) => Some(entry),
        PlayerActivity::ReservedForChallenge { match_id, attempt, left, .. }
            if *match_id == reservation.match_id =>
        {
            match attempt.cmp(&reservation.attempt) {
                std::cmp::Ordering::Less => left.as_ref(),
                std::cmp::Ordering::Equal => return Ok(Vec::new()),
                std::cmp::Ordering::Greater => return Err(Refusal::AttemptOver),
            }
        }
        PlayerActivity::ReservedForChallenge { match_id, .. }
        | PlayerActivity::ReservedForMatch { match_id, .. } => {
            return Err(Refusal::InMatch(*match_id));
        }
    };
    if state.blocks(reservation.opponent) {
        return Err(Refusal::Blocked);
    }
    let reserved = PlayerReserved {
        subject_id: command.subject_id,
        match_id: reservation.match_id,
        attempt: reservation.attempt,
        challenge_id: reservation.challenge_id,
        pool_key: reservation.pool_key.clone(),
        opponent: reservation.opponent,
        left_entry: left.map(|entry| entry.queued.entry_id),
    };
    Ok(vec![reserved.into()])
}

/// The entry searches again.
fn requeue(
    subject_id: SubjectId,
    entry: &Entry,
    match_id: GameMatchId,
    reason: AbandonReason,
    eligible_at: Timestamp,
) -> PlayerEvent {
    let entry_id = entry.queued.entry_id;
    QueueEntryReleased { subject_id, entry_id, match_id, reason, eligible_at }.into()
}

fn rate(command: &Command, match_id: GameMatchId, rated: &Rated, state: &State) -> PlayerEvent {
    let known = state.skills.get(&rated.pool_key);
    let before = known.map_or(rated.before, |(skill, _)| *skill);
    let periods = rating::periods(known.map(|(_, at)| *at), command.at);
    PlayerRated {
        subject_id: command.subject_id,
        match_id,
        pool_key: rated.pool_key.clone(),
        before,
        after: rating::rate(before, &[rated.game], periods),
    }
    .into()
}
