//! Completes unfinished sagas: proposals left behind by a crash, and players held by a match that is over.
//!
//! A saga that this process or another one may still be running gets a grace period. At the start all unfinished sagas
//! are resumed at once, because the process that ran them is gone.

use std::sync::Arc;
use std::time::Duration;

use domain::matchmaking::pending_work::{Trigger, UnfinishedSaga};
use event_schemas::ids::Position;
use event_schemas::time::Timestamp;
use futures_util::{StreamExt, stream};

use super::{Matchmaking, RETRY_DELAY};
use crate::engine::command_context::CommandContext;

const NAME: &str = "reconciler";

/// The time that the process that started a saga has to complete it.
const GRACE: Duration = Duration::from_secs(5);
/// The number of sagas that are completed concurrently.
const AT_ONCE_MAX: usize = 64;

/// Runs until the server shuts down.
pub(crate) async fn run(matchmaking: Arc<Matchmaking>) {
    let mut progress = matchmaking.progress();
    // Its sender lives in `matchmaking`, so waiting cannot fail.
    let _ = progress.wait_for(|progress| progress.is_live).await;
    let started = matchmaking.engine.now();
    loop {
        let before = progress.borrow_and_update().position;
        let clock = &matchmaking.engine.clock;
        let now = clock.now();
        let (due, next) = due(&matchmaking, started, now);
        let finishing =
            due.into_iter().map(|(unfinished, trigger)| finish(&matchmaking, unfinished, trigger));
        let finished: Vec<Option<Position>> =
            stream::iter(finishing).buffer_unordered(AT_ONCE_MAX).collect().await;
        if finished.contains(&None) {
            clock.sleep(RETRY_DELAY).await;
            continue;
        }
        if let Some(position) = finished.into_iter().flatten().max() {
            if position > before {
                matchmaking.wait_for_position(position).await;
            } else {
                // Nothing was recorded, so an immediate retry would find the same state.
                clock.sleep(RETRY_DELAY).await;
            }
            continue;
        }
        tokio::select! {
            biased;
            _ = progress.changed() => {}
            () = clock.sleep_until(next.unwrap_or(now)), if next.is_some() => {}
        }
    }
}

/// The sagas to complete now, and the time of the next one. On a busy server most unfinished sagas are still running,
/// so only those to complete are copied.
fn due(
    matchmaking: &Matchmaking,
    started: Timestamp,
    now: Timestamp,
) -> (Vec<(UnfinishedSaga, Trigger)>, Option<Timestamp>) {
    // Recorded times follow the positions, so a saga from before the start is older than it.
    let at = |trigger: &Trigger| if trigger.since <= started { now } else { trigger.since.after(GRACE) };
    let (mut due, mut next) = (Vec::new(), None);
    for (unfinished, trigger) in matchmaking.pending().unfinished() {
        let at = at(trigger);
        if at <= now {
            due.push((unfinished, trigger.clone()));
        } else {
            next = Some(next.map_or(at, |next: Timestamp| next.min(at)));
        }
    }
    (due, next)
}

/// Completes a saga. Returns the log position of its end; none if it must be retried.
async fn finish(matchmaking: &Matchmaking, unfinished: UnfinishedSaga, trigger: Trigger) -> Option<Position> {
    let _saga = matchmaking.try_lock(unfinished)?;
    let context = CommandContext::of_process(NAME, &trigger);
    let finished = match unfinished {
        UnfinishedSaga::Match(id) => {
            matchmaking.finish_match(id, &context).await.map(|outcome| outcome.position)
        }
        UnfinishedSaga::Challenge(id) => {
            matchmaking.finish_challenge(id, &context).await.map(|outcome| outcome.position)
        }
    };
    match finished {
        Ok(position) => Some(position),
        Err(error) => {
            tracing::warn!(?unfinished, %error, "a saga could not be completed; retrying");
            None
        }
    }
}
