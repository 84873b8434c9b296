//! A subscription to the whole log, guarded against the library's endless loop.

use std::any::Any;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::OnceLock;
use std::time::Duration;

use ::eventstore::{Subscription, SubscriptionEvent};
use futures_util::FutureExt;
use tracing::instrument::WithSubscriber;
use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Level, Metadata};

use super::{CallError, ClusterEvent, call_error, cluster_event};

/// The log target of the library's warning about an unknown message, which it also writes in each round of the endless loop.
const SPIN_LOG_TARGET: &str = "eventstore::commands";

/// A message of a subscription.
#[derive(Debug)]
pub(in super::super) enum SubscriptionMessage {
    Confirmed,
    Event(ClusterEvent),
    /// Any other message, such as a checkpoint.
    Other,
}

/// A subscription to the whole log. It is unusable after an error.
pub(in super::super) struct AllSubscription {
    subscription: Subscription,
    generation: u64,
    deadline: Duration,
    confirmed: bool,
}

impl std::fmt::Debug for AllSubscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AllSubscription").field("generation", &self.generation).finish_non_exhaustive()
    }
}

impl AllSubscription {
    pub(super) fn new(subscription: Subscription, generation: u64, deadline: Duration) -> Self {
        Self { subscription, generation, deadline, confirmed: false }
    }

    /// The generation of the client that it runs on.
    pub(in super::super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Waits for the next message. The first one must arrive within the deadline; later ones may take any time, and a dead
    /// connection is detected by HTTP/2 pings.
    pub(in super::super) async fn next(&mut self) -> Result<SubscriptionMessage, CallError> {
        let deadline = self.deadline;
        let confirmed = self.confirmed;
        let next = self.subscription.next_subscription_event().with_subscriber(SpinGuard::dispatch());
        let next = AssertUnwindSafe(next).catch_unwind();
        let received = if confirmed {
            next.await
        } else {
            let late =
                |_| CallError::Interrupted(format!("the subscription was not confirmed within {deadline:?}"));
            tokio::time::timeout(deadline, next).await.map_err(late)?
        };
        self.confirmed = true;
        let received = received.map_err(|panic| panic_error(panic.as_ref()))?;
        Ok(match received.map_err(call_error)? {
            SubscriptionEvent::EventAppeared(event) => {
                let event = event.event.map(cluster_event);
                event.map_or(SubscriptionMessage::Other, SubscriptionMessage::Event)
            }
            SubscriptionEvent::Confirmed(_) => SubscriptionMessage::Confirmed,
            _ => SubscriptionMessage::Other,
        })
    }
}

fn panic_error(panic: &(dyn Any + Send)) -> CallError {
    if panic.is::<SpinGuard>() {
        CallError::Interrupted("the server ended the subscription".to_owned())
    } else {
        CallError::Interrupted("the client library panicked at a message of the subscription".to_owned())
    }
}

/// A `tracing` subscriber that breaks the library's endless loop. When a server ends a subscription normally, the library polls
/// the ended stream again and again without yielding the thread, so that no timeout and no abort can stop it. It logs a
/// warning in each round; this guard receives the warning and unwinds the stack from there.
///
/// It is active only during a poll, and the library writes no other warning to that target.
#[derive(Debug)]
pub(in super::super) struct SpinGuard;

impl SpinGuard {
    fn dispatch() -> Dispatch {
        static DISPATCH: OnceLock<Dispatch> = OnceLock::new();
        DISPATCH.get_or_init(|| Dispatch::new(Self)).clone()
    }
}

impl tracing::Subscriber for SpinGuard {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::WARN && metadata.target() == SPIN_LOG_TARGET
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(tracing::level_filters::LevelFilter::WARN)
    }

    fn event(&self, _: &Event<'_>) {
        // Unlike a panic, this writes nothing to standard error.
        resume_unwind(Box::new(Self));
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
