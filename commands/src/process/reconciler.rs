//! Brings to its end what somebody began: proposals left behind by a crash, players held by a match that is over.
//!
//! What this process itself is at, or another may be at, is left alone for a while; at the start everything that is
//! unfinished is taken up at once, because whoever began it is gone.

use std::time::Duration;

use domain::matchmaking::obligations::{Reason, Unfinished};
use event_log::{EventLog, Filter};
use event_schemas::envelope::Envelope;
use event_schemas::ids::Position;
use event_schemas::time::Timestamp;
use futures_util::{StreamExt, stream};

use super::AGAIN_AFTER;
use crate::matchmaking::{Chain, Matchmaking, prefixes};

const NAME: &str = "reconciler";

/// How long whoever began something has to bring it to its end.
const GRACE: Duration = Duration::from_secs(5);
/// How many things are brought to their ends at once.
const AT_ONCE_MAX: usize = 64;

/// Keeps what is left to do up to date, until the log cannot be read any more.
pub(crate) async fn follow(matchmaking: Matchmaking) {
    let before_start = *matchmaking.log().head().borrow();
    let mut events = matchmaking.log().subscribe(Position::START, Filter::StreamPrefixes(prefixes()));
    let mut is_live = false;
    loop {
        if !is_live && events.position() >= before_start {
            is_live = true;
            matchmaking.go_live();
        }
        let page = match events.next().await {
            Ok(page) => page,
            Err(error) => {
                tracing::error!(%error, "what is left to do in matchmaking is not known any more: the log cannot be read");
                return;
            }
        };
        let decoded: Result<Vec<Envelope>, _> = page.events.iter().map(|event| event.decode()).collect();
        match decoded {
            Ok(decoded) => matchmaking.apply(&decoded, page.next),
            Err(error) => {
                tracing::error!(%error, "what is left to do in matchmaking is not known any more: an event cannot be read");
                return;
            }
        }
    }
}

/// Runs until the server shuts down.
pub(crate) async fn run(matchmaking: Matchmaking) {
    let mut seen = matchmaking.seen();
    // Its sender lives in `matchmaking`, so waiting cannot fail.
    let _ = seen.wait_for(|seen| seen.is_live).await;
    let started = matchmaking.clock().now();
    loop {
        let before = seen.borrow_and_update().position;
        let clock = matchmaking.clock();
        let now = clock.now();
        let (ripe, next) = ripe(&matchmaking, started, now);
        let finishing = ripe.into_iter().map(|(unfinished, reason)| finish(&matchmaking, unfinished, reason));
        let finished: Vec<Option<Position>> =
            stream::iter(finishing).buffer_unordered(AT_ONCE_MAX).collect().await;
        if finished.contains(&None) {
            clock.sleep(AGAIN_AFTER).await;
            continue;
        }
        if let Some(position) = finished.into_iter().flatten().max() {
            if position > before {
                matchmaking.reached(position).await;
            } else {
                // Nothing was recorded and nothing has changed: looking again at once would see the same.
                clock.sleep(AGAIN_AFTER).await;
            }
            continue;
        }
        tokio::select! {
            biased;
            _ = seen.changed() => {}
            () = clock.sleep_until(next.unwrap_or(now)), if next.is_some() => {}
        }
    }
}

/// What is to be brought to its end now, and when the next thing is. Others are at most of what is unfinished on a busy
/// server, so only what is taken up is copied.
fn ripe(
    matchmaking: &Matchmaking,
    started: Timestamp,
    now: Timestamp,
) -> (Vec<(Unfinished, Reason)>, Option<Timestamp>) {
    // Positions in the log order instants, so what was there at the start is from before it.
    let at = |reason: &Reason| if reason.since <= started { now } else { reason.since.after(GRACE) };
    let (mut ripe, mut next) = (Vec::new(), None);
    for (unfinished, reason) in matchmaking.left().unfinished() {
        let at = at(reason);
        if at <= now {
            ripe.push((unfinished, reason.clone()));
        } else {
            next = Some(next.map_or(at, |next: Timestamp| next.min(at)));
        }
    }
    (ripe, next)
}

/// Where the log was when it was brought to its end; none if it was not, and somebody must look again.
async fn finish(matchmaking: &Matchmaking, unfinished: Unfinished, reason: Reason) -> Option<Position> {
    let _driving = matchmaking.drive(unfinished)?;
    let chain = Chain::of_process(NAME, &reason);
    let finished = match unfinished {
        Unfinished::Match(id) => matchmaking.finish_match(id, &chain).await.map(|placed| placed.position),
        Unfinished::Challenge(id) => {
            matchmaking.finish_challenge(id, &chain).await.map(|stood| stood.position)
        }
    };
    match finished {
        Ok(position) => Some(position),
        Err(error) => {
            tracing::warn!(?unfinished, %error, "what was begun could not be brought to its end; trying again");
            None
        }
    }
}
