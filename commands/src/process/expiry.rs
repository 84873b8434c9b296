//! Ends what has had its time: entries that found nobody, challenges that nobody answered, matches without a result.

use domain::matchmaking::obligations::{Due, Reason};

use event_schemas::ids::Position;
use futures_util::{StreamExt, stream};

use super::AGAIN_AFTER;
use crate::matchmaking::{Chain, Matchmaking};

const NAME: &str = "expiry";

/// How many things are ended at once.
const AT_ONCE_MAX: usize = 256;

/// Runs until the server shuts down.
pub(crate) async fn run(matchmaking: Matchmaking) {
    let mut seen = matchmaking.seen();
    // Its sender lives in `matchmaking`, so waiting cannot fail.
    let _ = seen.wait_for(|seen| seen.is_live).await;
    loop {
        let before = seen.borrow_and_update().position;
        let clock = matchmaking.clock();
        let now = clock.now();
        let due: Vec<(Due, Reason)> =
            matchmaking.left().due(now).map(|(due, reason)| (due, reason.clone())).collect();
        let ending = due.into_iter().map(|(due, reason)| end(&matchmaking, due, reason));
        let ended: Vec<Option<Position>> = stream::iter(ending).buffer_unordered(AT_ONCE_MAX).collect().await;
        if ended.contains(&None) {
            clock.sleep(AGAIN_AFTER).await;
            continue;
        }
        if let Some(position) = ended.into_iter().flatten().max() {
            if position > before {
                matchmaking.reached(position).await;
            } else {
                // Nothing was recorded and nothing has changed: looking again at once would see the same.
                clock.sleep(AGAIN_AFTER).await;
            }
            continue;
        }
        let next = matchmaking.left().next_due();
        tokio::select! {
            biased;
            _ = seen.changed() => {}
            () = clock.sleep_until(next.unwrap_or(now)), if next.is_some() => {}
        }
    }
}

/// Where the log was when it had ended; none if it could not be ended now.
async fn end(matchmaking: &Matchmaking, due: Due, reason: Reason) -> Option<Position> {
    let chain = Chain::of_process(NAME, &reason);
    let ended = match due {
        Due::Entry(player, entry) => matchmaking.expire_entry(player, entry, &chain).await,
        Due::Challenge(challenge) => matchmaking.expire_challenge(challenge, &chain).await,
        Due::Match(id) => matchmaking.expire_match(id, &chain).await.map(|placed| placed.position),
    };
    match ended {
        Ok(position) => Some(position),
        Err(error) => {
            tracing::warn!(?due, %error, "what has had its time could not be ended; trying again");
            None
        }
    }
}
