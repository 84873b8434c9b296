//! A subscription to the whole log, kept from turning for ever.

use std::any::Any;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::OnceLock;
use std::time::Duration;

use ::eventstore::{Subscription, SubscriptionEvent};
use futures_util::FutureExt;
use tracing::instrument::WithSubscriber;
use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Level, Metadata};

use super::{Fault, Found, fault, read};

/// Where the library says that it received an unknown message: also whenever it goes round for nothing.
const TURNING_TARGET: &str = "eventstore::commands";

/// What a subscription brings.
#[derive(Debug)]
pub(in super::super) enum Heard {
    /// It lives.
    Confirmed,
    Event(Found),
    /// Something about the subscription itself.
    Notice,
}

/// A subscription. After a fault it is over.
pub(in super::super) struct Following {
    subscription: Subscription,
    generation: u64,
    deadline: Duration,
    confirmed: bool,
}

impl std::fmt::Debug for Following {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Following").field("generation", &self.generation).finish_non_exhaustive()
    }
}

impl Following {
    pub(super) fn new(subscription: Subscription, generation: u64, deadline: Duration) -> Self {
        Self { subscription, generation, deadline, confirmed: false }
    }

    /// Of the client that it runs on.
    pub(in super::super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Waits for what comes next. The first message must come in time; later ones come when there is something, and a
    /// dead connection is noticed by the pings under it.
    pub(in super::super) async fn next(&mut self) -> Result<Heard, Fault> {
        let deadline = self.deadline;
        let confirmed = self.confirmed;
        let hearing = self.subscription.next_subscription_event().with_subscriber(Turning::dispatch());
        let hearing = AssertUnwindSafe(hearing).catch_unwind();
        let heard = if confirmed {
            hearing.await
        } else {
            let late = |_| Fault::Broken(format!("no subscription within {deadline:?}"));
            tokio::time::timeout(deadline, hearing).await.map_err(late)?
        };
        self.confirmed = true;
        let heard = heard.map_err(|panic| ended(panic.as_ref()))?;
        Ok(match heard.map_err(fault)? {
            SubscriptionEvent::EventAppeared(event) => {
                event.event.map_or(Heard::Notice, |event| Heard::Event(read(event)))
            }
            SubscriptionEvent::Confirmed(_) => Heard::Confirmed,
            _ => Heard::Notice,
        })
    }
}

fn ended(panic: &(dyn Any + Send)) -> Fault {
    if panic.is::<Turning>() {
        Fault::Broken("the server ended the subscription".to_owned())
    } else {
        Fault::Broken("the client library panicked at a message of the subscription".to_owned())
    }
}

/// When a server ends a subscription in order, the library asks the ended stream again and again, without ever giving the
/// thread back; no timeout and no abort gets it out. It warns each time. This hears the warning and unwinds from there.
///
/// It is set for the time of a poll alone, and nothing else is said at that place in the library.
#[derive(Debug)]
pub(in super::super) struct Turning;

impl Turning {
    fn dispatch() -> Dispatch {
        static DISPATCH: OnceLock<Dispatch> = OnceLock::new();
        DISPATCH.get_or_init(|| Dispatch::new(Self)).clone()
    }
}

impl tracing::Subscriber for Turning {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::WARN && metadata.target() == TURNING_TARGET
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(tracing::level_filters::LevelFilter::WARN)
    }

    fn event(&self, _: &Event<'_>) {
        // Unlike a panic this says nothing on standard error.
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
