//! Whether calls are answered: while the server runs, until it ends, and under the faults that tests ask for.

use std::str::FromStr;

use tokio::sync::watch;
use tonic::Status;

use super::refusal::Trailers;

/// Another node, as clients are told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndPoint {
    pub host: String,
    pub port: u16,
}

/// What a server of a cluster may do to its clients, and this one does only when a test asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Every call is told that the leader is another node, which is named.
    NotLeader(EndPoint),
    /// Every call fails as if the server were overloaded.
    Unavailable,
    /// Every call fails as while a server starts.
    NotReady,
    /// Subscriptions are ended because their consumer was too slow; other calls are answered.
    SlowConsumer,
}

/// The text names no fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no fault: there are `not-leader HOST:PORT`, `unavailable`, `not-ready` and `slow-consumer`"
)]
pub struct NotAFault(pub String);

impl FromStr for EndPoint {
    type Err = NotAnEndPoint;

    fn from_str(text: &str) -> Result<Self, NotAnEndPoint> {
        text.rsplit_once(':')
            .and_then(|(host, port)| Some(Self { host: host.to_owned(), port: port.parse().ok()? }))
            .filter(|at| !at.host.is_empty())
            .ok_or_else(|| NotAnEndPoint(text.to_owned()))
    }
}

/// The text names no node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not written as HOST:PORT, as in localhost:2113")]
pub struct NotAnEndPoint(pub String);

impl FromStr for Fault {
    type Err = NotAFault;

    fn from_str(text: &str) -> Result<Self, NotAFault> {
        let not_a_fault = || NotAFault(text.to_owned());
        match text {
            "unavailable" => Ok(Self::Unavailable),
            "not-ready" => Ok(Self::NotReady),
            "slow-consumer" => Ok(Self::SlowConsumer),
            _ => {
                let leader = text.strip_prefix("not-leader ").ok_or_else(not_a_fault)?;
                leader.parse().map(Self::NotLeader).map_err(|_| not_a_fault())
            }
        }
    }
}

/// In which state the server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    Serving,
    Faulty(Fault),
    Closing,
}

/// Sees the condition, and its changes.
#[derive(Clone, Debug)]
pub(super) struct Observer(watch::Receiver<Condition>);

/// Switches faults on and off, for tests of clients. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Faults(watch::Sender<Condition>);

pub(super) fn channel() -> (Faults, Observer) {
    let (sender, receiver) = watch::channel(Condition::Serving);
    (Faults(sender), Observer(receiver))
}

impl Faults {
    /// Behaves so from now on, to calls under way as well.
    pub fn set(&self, fault: Fault) {
        self.change(Condition::Faulty(fault));
    }

    /// Serves as it should.
    pub fn clear(&self) {
        self.change(Condition::Serving);
    }

    /// The end is for good.
    pub(super) fn close(&self) {
        self.0.send_replace(Condition::Closing);
    }

    fn change(&self, to: Condition) {
        self.0.send_if_modified(|condition| {
            let changes = *condition != Condition::Closing && *condition != to;
            if changes {
                *condition = to;
            }
            changes
        });
    }
}

impl Observer {
    /// # Errors
    /// What a call gets to hear instead of its answer.
    pub(super) fn check(&self) -> Result<(), Status> {
        match &*self.0.borrow() {
            Condition::Serving | Condition::Faulty(Fault::SlowConsumer) => Ok(()),
            Condition::Faulty(fault) => Err(status_of(fault)),
            Condition::Closing => Err(closing()),
        }
    }

    /// As [`Self::check`], for a subscription.
    pub(super) fn check_subscription(&self) -> Result<(), Status> {
        match &*self.0.borrow() {
            Condition::Faulty(Fault::SlowConsumer) => Err(status_of(&Fault::SlowConsumer)),
            _ => self.check(),
        }
    }

    /// Waits until subscriptions must end, and says how: never with success, for clients cannot tell that from a stream
    /// that will go on.
    pub(super) async fn ended(&mut self) -> Status {
        loop {
            if let Err(status) = self.check_subscription() {
                return status;
            }
            if self.0.changed().await.is_err() {
                return closing();
            }
        }
    }

    /// Waits until calls other than subscriptions must end, and says how.
    pub(super) async fn call_ended(&mut self) -> Status {
        loop {
            if let Err(status) = self.check() {
                return status;
            }
            if self.0.changed().await.is_err() {
                return closing();
            }
        }
    }

    /// Waits for the end of the server.
    pub(super) async fn closed(mut self) {
        // An error means that whoever could say so is gone.
        let _ = self.0.wait_for(|condition| *condition == Condition::Closing).await;
    }
}

fn closing() -> Status {
    Status::unavailable("the server is shutting down; try again soon")
}

fn status_of(fault: &Fault) -> Status {
    match fault {
        Fault::NotLeader(leader) => {
            let mut trailers = Trailers::default();
            trailers.exception("not-leader");
            trailers.add("leader-endpoint-host", &leader.host);
            trailers.add("leader-endpoint-port", &leader.port.to_string());
            Status::with_metadata(tonic::Code::NotFound, "Leader info available", trailers.0)
        }
        Fault::Unavailable => Status::unavailable("Server Is Too Busy"),
        Fault::NotReady => Status::unavailable("Server Is Not Ready"),
        Fault::SlowConsumer => Status::aborted("Operation timed out: the consumer is too slow"),
    }
}
