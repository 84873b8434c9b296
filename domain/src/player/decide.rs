//! What a command about a player comes to.

use event_schemas::ids::{MatchRecordId, SubjectId};
use event_schemas::match_record::AbandonReason;
use event_schemas::player::{
    FreedReason, PlayerBlocked, PlayerEngaged, PlayerEvent, PlayerFreed, PlayerQueued, PlayerRated,
    PlayerUnblocked, QueueEntryCancelled, QueueEntryExpired, QueueEntryMatched, QueueEntryReleased,
    QueuedPool,
};

use event_schemas::time::Timestamp;

use super::{
    Action, BLOCKED_MAX, Command, Engaging, Entry, EntryEnd, POOLS_MAX, Queueing, Rated, Refusal, State,
    Taking, Whereabouts,
};
use crate::rating;

pub(super) fn decide(command: &Command, state: &State) -> Result<Vec<PlayerEvent>, Refusal> {
    let subject_id = command.subject_id;
    Ok(match &command.action {
        Action::Queue(queueing) => match &state.whereabouts {
            Whereabouts::Free => vec![queue(command, queueing, state)?],
            Whereabouts::Searching(entry) | Whereabouts::Matched { entry, .. }
                if entry.queued.entry_id == queueing.entry_id =>
            {
                Vec::new()
            }
            Whereabouts::Searching(entry) => return Err(Refusal::AlreadyQueued(entry.queued.entry_id)),
            Whereabouts::Matched { match_id, .. } | Whereabouts::Engaged { match_id, .. } => {
                return Err(Refusal::InMatch(*match_id));
            }
        },
        Action::Cancel { entry_id } => match &state.whereabouts {
            Whereabouts::Searching(entry) if entry.queued.entry_id == *entry_id => {
                vec![QueueEntryCancelled { subject_id, entry_id: *entry_id }.into()]
            }
            Whereabouts::Matched { entry, .. } if entry.queued.entry_id == *entry_id => {
                return Err(Refusal::EntryMatched);
            }
            Whereabouts::Engaged { left: Some(entry), .. } if entry.queued.entry_id == *entry_id => {
                return Err(Refusal::EntryEnded(EntryEnd::Left));
            }
            _ => match state.ended(*entry_id) {
                Some(EntryEnd::Cancelled) => Vec::new(),
                Some(how) => return Err(Refusal::EntryEnded(how)),
                None => return Err(Refusal::NoSuchEntry),
            },
        },
        Action::Expire { entry_id } => match &state.whereabouts {
            Whereabouts::Searching(entry)
                if entry.queued.entry_id == *entry_id && entry.queued.expires_at <= command.at =>
            {
                vec![QueueEntryExpired { subject_id, entry_id: *entry_id }.into()]
            }
            _ => Vec::new(),
        },
        Action::Match(taking) => take(command, taking, state)?,
        Action::Release { match_id, reason, eligible_at } => match &state.whereabouts {
            Whereabouts::Matched { entry, match_id: held, .. } if held == match_id => {
                vec![requeue(subject_id, entry, *match_id, *reason, *eligible_at)]
            }
            _ => Vec::new(),
        },
        Action::Engage(engaging) => engage(command, engaging, state)?,
        Action::Disengage { match_id, attempt, reason, eligible_at } => match &state.whereabouts {
            Whereabouts::Engaged { match_id: held, attempt: of, left, .. }
                if held == match_id && of <= attempt =>
            {
                match left {
                    Some(entry) => vec![requeue(subject_id, entry, *match_id, *reason, *eligible_at)],
                    None => {
                        let reason = FreedReason::Abandoned;
                        vec![PlayerFreed { subject_id, match_id: *match_id, reason }.into()]
                    }
                }
            }
            _ => Vec::new(),
        },
        Action::Free { match_id, reason, game } => {
            if state.match_id() != Some(*match_id) {
                return Ok(Vec::new());
            }
            let freed = PlayerFreed { subject_id, match_id: *match_id, reason: *reason }.into();
            match game {
                Some(game) => vec![rate(command, *match_id, game, state), freed],
                None => vec![freed],
            }
        }
        Action::Block { other } if *other == subject_id => return Err(Refusal::Oneself),
        Action::Block { other } if state.blocks(*other) => Vec::new(),
        Action::Block { .. } if state.blocked.len() >= BLOCKED_MAX => return Err(Refusal::TooManyBlocked),
        Action::Block { other } => vec![PlayerBlocked { subject_id, blocked: *other }.into()],
        Action::Unblock { other } if state.blocks(*other) => {
            vec![PlayerUnblocked { subject_id, unblocked: *other }.into()]
        }
        Action::Unblock { .. } => Vec::new(),
    })
}

fn queue(command: &Command, queueing: &Queueing, state: &State) -> Result<PlayerEvent, Refusal> {
    if let Some(how) = state.ended(queueing.entry_id) {
        return Err(Refusal::EntryEnded(how));
    }
    let mut pools: Vec<QueuedPool> = queueing.pools.iter().map(|wish| state.queued_pool(wish)).collect();
    pools.sort_by(|a, b| a.pool_key.cmp(&b.pool_key));
    let repeats = pools.windows(2).any(|pair| matches!(pair, [a, b] if a.pool_key == b.pool_key));
    if pools.is_empty() || pools.len() > POOLS_MAX || repeats {
        return Err(Refusal::Pools);
    }
    let queued = PlayerQueued {
        subject_id: command.subject_id,
        entry_id: queueing.entry_id,
        pools,
        max_rating_gap: queueing.max_rating_gap,
        last_opponent: state.past.last_opponent,
        expires_at: queueing.expires_at,
        metadata: queueing.metadata.clone(),
    };
    Ok(queued.into())
}

fn take(command: &Command, taking: &Taking, state: &State) -> Result<Vec<PlayerEvent>, Refusal> {
    let entry = match &state.whereabouts {
        Whereabouts::Searching(entry) => entry,
        Whereabouts::Matched { entry, match_id, .. }
            if *match_id == taking.match_id && entry.queued.entry_id == taking.entry_id =>
        {
            return Ok(Vec::new());
        }
        _ => return Err(Refusal::NotThere),
    };
    let waits_there = entry.queued.pools.iter().any(|pool| pool.pool_key == taking.pool_key);
    if entry.queued.entry_id != taking.entry_id || entry.round != taking.round || !waits_there {
        return Err(Refusal::NotThere);
    }
    if state.blocks(taking.opponent) {
        return Err(Refusal::Blocked);
    }
    let matched = QueueEntryMatched {
        subject_id: command.subject_id,
        entry_id: taking.entry_id,
        match_id: taking.match_id,
        pool_key: taking.pool_key.clone(),
        opponent: taking.opponent,
        side: taking.side,
    };
    Ok(vec![matched.into()])
}

fn engage(command: &Command, engaging: &Engaging, state: &State) -> Result<Vec<PlayerEvent>, Refusal> {
    let left = match &state.whereabouts {
        Whereabouts::Free => None,
        Whereabouts::Searching(entry) => Some(entry),
        Whereabouts::Engaged { match_id, attempt, left, .. } if *match_id == engaging.match_id => {
            match attempt.cmp(&engaging.attempt) {
                std::cmp::Ordering::Less => left.as_ref(),
                std::cmp::Ordering::Equal => return Ok(Vec::new()),
                std::cmp::Ordering::Greater => return Err(Refusal::AttemptOver),
            }
        }
        Whereabouts::Engaged { match_id, .. } | Whereabouts::Matched { match_id, .. } => {
            return Err(Refusal::InMatch(*match_id));
        }
    };
    if state.blocks(engaging.opponent) {
        return Err(Refusal::Blocked);
    }
    let engaged = PlayerEngaged {
        subject_id: command.subject_id,
        match_id: engaging.match_id,
        attempt: engaging.attempt,
        challenge_id: engaging.challenge_id,
        pool_key: engaging.pool_key.clone(),
        opponent: engaging.opponent,
        left_entry: left.map(|entry| entry.queued.entry_id),
    };
    Ok(vec![engaged.into()])
}

/// The entry searches again.
fn requeue(
    subject_id: SubjectId,
    entry: &Entry,
    match_id: MatchRecordId,
    reason: AbandonReason,
    eligible_at: Timestamp,
) -> PlayerEvent {
    let entry_id = entry.queued.entry_id;
    QueueEntryReleased { subject_id, entry_id, match_id, reason, eligible_at }.into()
}

fn rate(command: &Command, match_id: MatchRecordId, rated: &Rated, state: &State) -> PlayerEvent {
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
