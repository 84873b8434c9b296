//! Expires unmatched entries, unanswered challenges, and matches without a result.

use std::sync::Arc;

use domain::matchmaking::pending_work::{Expiring, Trigger};
use event_schemas::ids::Position;
use futures_util::{StreamExt, stream};

use super::{Matchmaking, RETRY_DELAY};
use crate::engine::command_context::CommandContext;

const NAME: &str = "expiry";

/// The number of concurrent expiries.
const AT_ONCE_MAX: usize = 256;

/// Runs until the server shuts down.
pub(crate) async fn run(matchmaking: Arc<Matchmaking>) {
    let mut progress = matchmaking.progress();
    // Its sender lives in `matchmaking`, so waiting cannot fail.
    let _ = progress.wait_for(|progress| progress.is_live).await;
    loop {
        let before = progress.borrow_and_update().position;
        let clock = &matchmaking.engine.clock;
        let now = clock.now();
        let due: Vec<(Expiring, Trigger)> =
            matchmaking.pending().due(now).map(|(due, trigger)| (due, trigger.clone())).collect();
        let ending = due.into_iter().map(|(due, trigger)| end(&matchmaking, due, trigger));
        let ended: Vec<Option<Position>> = stream::iter(ending).buffer_unordered(AT_ONCE_MAX).collect().await;
        if ended.contains(&None) {
            clock.sleep(RETRY_DELAY).await;
            continue;
        }
        if let Some(position) = ended.into_iter().flatten().max() {
            if position > before {
                matchmaking.wait_for_position(position).await;
            } else {
                // Nothing was recorded, so an immediate retry would find the same state.
                clock.sleep(RETRY_DELAY).await;
            }
            continue;
        }
        let next = matchmaking.pending().next_due();
        tokio::select! {
            biased;
            _ = progress.changed() => {}
            () = clock.sleep_until(next.unwrap_or(now)), if next.is_some() => {}
        }
    }
}

/// Expires one item. Returns the log position of its end; none if that could not be recorded.
async fn end(matchmaking: &Matchmaking, due: Expiring, trigger: Trigger) -> Option<Position> {
    let context = CommandContext::of_process(NAME, &trigger);
    let ended = match due {
        Expiring::Entry(player, entry) => matchmaking.expire_entry(player, entry, &context).await,
        Expiring::Challenge(challenge) => matchmaking.expire_challenge(challenge, &context).await,
        Expiring::Match(id) => matchmaking.expire_match(id, &context).await.map(|outcome| outcome.position),
    };
    match ended {
        Ok(position) => Some(position),
        Err(error) => {
            tracing::warn!(?due, %error, "an expiry could not be recorded; retrying");
            None
        }
    }
}
