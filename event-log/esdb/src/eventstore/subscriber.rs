//! The subscriber that follows the whole log: it collects recorded times, advances the head, and reconnects.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use event_schemas::ids::Position;
use futures_util::FutureExt;
use tokio::sync::watch;

use super::backoff::Backoff;
use super::client::{CallError, ClusterEvent, Connection, SubscriptionMessage};
use super::recorded_times::RecordedTimes;
use super::tail::Tail;

/// The failed attempts after which the client is replaced: only a new client discovers another node.
const ATTEMPTS_PER_CLIENT: u32 = 2;

/// The backoff is reset after a subscription that lasted this long.
const STABLE_AFTER: Duration = Duration::from_secs(5);

/// The state of the connection to the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectionState {
    /// The subscriber has not reached the position that was the end when the log was opened.
    CatchingUp,
    Live,
    /// The cluster cannot be reached, for this reason. Connecting is retried automatically.
    Disconnected(String),
}

/// The state that the subscriber shares with the log's callers.
#[derive(Debug)]
pub(super) struct SubscriberState {
    pub(super) times: RwLock<RecordedTimes>,
    pub(super) tail: RwLock<Tail>,
    /// The position of the last event that was received, including system events of the cluster.
    pub(super) reached: watch::Sender<Position>,
    pub(super) connection: watch::Sender<ConnectionState>,
}

/// The task of the subscriber. It runs until it is aborted.
pub(super) async fn run(
    connection: Arc<Connection>,
    state: Arc<SubscriberState>,
    head: watch::Sender<Position>,
) {
    let mut subscriber = Subscriber {
        connection,
        state,
        head,
        after: Position::START,
        backoff: Backoff::new(),
        confirmed_at: None,
    };
    loop {
        let ended = AssertUnwindSafe(subscriber.subscribe()).catch_unwind().await;
        let error =
            ended.unwrap_or_else(|_| CallError::Interrupted("the log's subscriber panicked".to_owned()));
        subscriber.disconnected(&error);
        subscriber.backoff.wait().await;
    }
}

struct Subscriber {
    connection: Arc<Connection>,
    state: Arc<SubscriberState>,
    head: watch::Sender<Position>,
    after: Position,
    backoff: Backoff,
    /// When the current subscription was confirmed.
    confirmed_at: Option<Instant>,
}

impl Subscriber {
    /// Runs one subscription, from the position where the last one ended, and returns the error that ended it.
    async fn subscribe(&mut self) -> CallError {
        let mut subscription = match self.connection.subscribe(self.after).await {
            Ok(subscription) => subscription,
            Err(error) => return error,
        };
        self.confirmed_at = None;
        let error = loop {
            match subscription.next().await {
                Ok(SubscriptionMessage::Event(event)) => self.apply(event),
                Ok(SubscriptionMessage::Confirmed) => self.confirmed(subscription.generation()).await,
                Ok(SubscriptionMessage::Other) => {}
                Err(error) => break error,
            }
        };
        // A server may confirm every subscription and end it immediately.
        if self.confirmed_at.is_some_and(|at| at.elapsed() > STABLE_AFTER) {
            self.backoff = Backoff::new();
        }
        if self.backoff.attempts() >= ATTEMPTS_PER_CLIENT || matches!(error, CallError::Unreachable(_)) {
            self.connection.renew(subscription.generation());
        }
        error
    }

    async fn confirmed(&mut self, generation: u64) {
        self.confirmed_at = Some(Instant::now());
        self.connection.confirmed(generation).await;
        if self.backoff.attempts() > 0 {
            tracing::info!(attempts = self.backoff.attempts(), after = %self.after, "reconnected to the cluster");
        }
        self.state.connection.send_if_modified(|state| {
            let was_disconnected = matches!(state, ConnectionState::Disconnected(_));
            if was_disconnected {
                *state = ConnectionState::Live;
            }
            was_disconnected
        });
    }

    fn apply(&mut self, event: ClusterEvent) {
        self.after = self.after.max(event.position());
        // A new subscription may deliver an event again.
        if let ClusterEvent::User(mut event) = event
            && event.position > *self.head.borrow()
        {
            let position = event.position;
            let mut times = self.state.times.write().unwrap_or_else(PoisonError::into_inner);
            event.recorded_at = times.observe(position, event.recorded_at);
            drop(times);
            self.state.tail.write().unwrap_or_else(PoisonError::into_inner).push(event);
            metrics::gauge!("matchbook_log_head_position").set(position.0 as f64);
            self.head.send_replace(position);
        }
        // Updated last: waiters rely on the head and the times.
        self.state.reached.send_replace(self.after);
    }

    fn disconnected(&self, error: &CallError) {
        if self.backoff.attempts() == 0 {
            metrics::counter!("matchbook_log_cluster_lost_total").increment(1);
            tracing::warn!(%error, after = %self.after, "lost the connection to the cluster; retrying automatically");
        } else {
            tracing::debug!(%error, attempts = self.backoff.attempts(), "still no connection to the cluster");
        }
        self.state.connection.send_replace(ConnectionState::Disconnected(error.to_string()));
    }
}
