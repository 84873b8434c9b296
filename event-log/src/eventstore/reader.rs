//! The one reader that follows the whole log: it learns the times, moves the head, and brings the connection back.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use event_schemas::ids::Position;
use futures_util::FutureExt;
use tokio::sync::watch;

use super::backoff::Backoff;
use super::client::{Connection, Fault, Found, Heard};
use super::tail::Tail;
use super::times::Times;

/// After so many tries in vain the client is made anew: only so does it look for another node.
const TRIES_WITH_ONE_CLIENT: u32 = 2;

/// A subscription that lived for so long was a good one: after it one begins with short waits again.
const PROVEN_AFTER: Duration = Duration::from_secs(5);

/// How the log's reader stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has not come to what was the end when it began.
    CatchingUp,
    Following,
    /// The cluster cannot be reached, for this reason. It is tried again by itself.
    Away(String),
}

/// What the reader shares with who asks the log.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) times: RwLock<Times>,
    pub(super) tail: RwLock<Tail>,
    /// The last position that was seen, the cluster's own events included.
    pub(super) reached: watch::Sender<Position>,
    pub(super) standing: watch::Sender<Standing>,
}

/// The task of the reader. It ends when it is aborted.
pub(super) async fn follow(connection: Arc<Connection>, seen: Arc<Seen>, head: watch::Sender<Position>) {
    let mut reader = Reader {
        connection,
        seen,
        head,
        after: Position::START,
        backoff: Backoff::new(),
        confirmed_at: None,
    };
    loop {
        let following = AssertUnwindSafe(reader.follow()).catch_unwind().await;
        let fault = following.unwrap_or_else(|_| Fault::Broken("the log's reader panicked".to_owned()));
        reader.away(&fault);
        reader.backoff.wait().await;
    }
}

struct Reader {
    connection: Arc<Connection>,
    seen: Arc<Seen>,
    head: watch::Sender<Position>,
    after: Position,
    backoff: Backoff,
    /// When the subscription was confirmed, if it was.
    confirmed_at: Option<Instant>,
}

impl Reader {
    /// One subscription, from where the last one ended to its fault.
    async fn follow(&mut self) -> Fault {
        let mut following = match self.connection.follow(self.after).await {
            Ok(following) => following,
            Err(fault) => return fault,
        };
        self.confirmed_at = None;
        let fault = loop {
            match following.next().await {
                Ok(Heard::Event(found)) => self.take_in(found),
                Ok(Heard::Confirmed) => self.confirmed(following.generation()).await,
                Ok(Heard::Notice) => {}
                Err(fault) => break fault,
            }
        };
        // A server may confirm each subscription and end it at once.
        if self.confirmed_at.is_some_and(|at| at.elapsed() > PROVEN_AFTER) {
            self.backoff = Backoff::new();
        }
        if self.backoff.tries() >= TRIES_WITH_ONE_CLIENT || matches!(fault, Fault::Unreachable(_)) {
            self.connection.renew(following.generation());
        }
        fault
    }

    async fn confirmed(&mut self, generation: u64) {
        self.confirmed_at = Some(Instant::now());
        self.connection.confirmed(generation).await;
        if self.backoff.tries() > 0 {
            tracing::info!(tries = self.backoff.tries(), after = %self.after, "the cluster is back");
        }
        self.seen.standing.send_if_modified(|standing| {
            let was_away = matches!(standing, Standing::Away(_));
            if was_away {
                *standing = Standing::Following;
            }
            was_away
        });
    }

    fn take_in(&mut self, found: Found) {
        self.after = self.after.max(found.position());
        // One that was seen already comes again where a subscription was made anew.
        if let Found::Event(mut event) = found
            && event.position > *self.head.borrow()
        {
            let position = event.position;
            let mut times = self.seen.times.write().unwrap_or_else(PoisonError::into_inner);
            event.recorded_at = times.learn(position, event.recorded_at);
            drop(times);
            self.seen.tail.write().unwrap_or_else(PoisonError::into_inner).push(event);
            metrics::gauge!("matchbook_log_head_position").set(position.0 as f64);
            self.head.send_replace(position);
        }
        // Last: whoever has waited for it relies on head and times.
        self.seen.reached.send_replace(self.after);
    }

    fn away(&self, fault: &Fault) {
        if self.backoff.tries() == 0 {
            metrics::counter!("matchbook_log_cluster_lost_total").increment(1);
            tracing::warn!(%fault, after = %self.after, "lost the cluster; trying again by itself");
        } else {
            tracing::debug!(%fault, tries = self.backoff.tries(), "the cluster is still away");
        }
        self.seen.standing.send_replace(Standing::Away(fault.to_string()));
    }
}
