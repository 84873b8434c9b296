//! The state of the server: serving, closing, or simulating a fault for tests.

use std::str::FromStr;

use tokio::sync::watch;
use tonic::Status;

use super::refusal::Trailers;

/// The address of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndPoint {
    pub host: String,
    pub port: u16,
}

/// A fault of a cluster's server, which this one simulates for tests of clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Every call fails and names another node as the leader.
    NotLeader(EndPoint),
    /// Every call fails as if the server were overloaded.
    Unavailable,
    /// Every call fails as if the server were starting.
    NotReady,
    /// Subscriptions are ended because their consumer was too slow; other calls are answered.
    SlowConsumer,
}

/// The text is not the name of a fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a fault; the faults are `not-leader HOST:PORT`, `unavailable`, `not-ready` and `slow-consumer`"
)]
pub struct InvalidFault(pub String);

impl FromStr for EndPoint {
    type Err = InvalidEndPoint;

    fn from_str(text: &str) -> Result<Self, InvalidEndPoint> {
        text.rsplit_once(':')
            .and_then(|(host, port)| Some(Self { host: host.to_owned(), port: port.parse().ok()? }))
            .filter(|at| !at.host.is_empty())
            .ok_or_else(|| InvalidEndPoint(text.to_owned()))
    }
}

/// The text is not the address of a node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not written as HOST:PORT, as in localhost:2113")]
pub struct InvalidEndPoint(pub String);

impl FromStr for Fault {
    type Err = InvalidFault;

    fn from_str(text: &str) -> Result<Self, InvalidFault> {
        let invalid = || InvalidFault(text.to_owned());
        match text {
            "unavailable" => Ok(Self::Unavailable),
            "not-ready" => Ok(Self::NotReady),
            "slow-consumer" => Ok(Self::SlowConsumer),
            _ => {
                let leader = text.strip_prefix("not-leader ").ok_or_else(invalid)?;
                leader.parse().map(Self::NotLeader).map_err(|_| invalid())
            }
        }
    }
}

/// The state of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ServerState {
    Serving,
    Faulty(Fault),
    Closing,
}

/// Watches the state of the server.
#[derive(Clone, Debug)]
pub(super) struct ServerStateWatch(watch::Receiver<ServerState>);

/// Turns simulated faults on and off, for tests of clients. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FaultSwitch(watch::Sender<ServerState>);

pub(super) fn channel() -> (FaultSwitch, ServerStateWatch) {
    let (sender, receiver) = watch::channel(ServerState::Serving);
    (FaultSwitch(sender), ServerStateWatch(receiver))
}

impl FaultSwitch {
    /// Simulates the fault from now on, including in running calls.
    pub fn set(&self, fault: Fault) {
        self.change(ServerState::Faulty(fault));
    }

    /// Ends the simulated fault.
    pub fn clear(&self) {
        self.change(ServerState::Serving);
    }

    /// Closes the server. This is final.
    pub(super) fn close(&self) {
        self.0.send_replace(ServerState::Closing);
    }

    fn change(&self, to: ServerState) {
        self.0.send_if_modified(|state| {
            let changes = *state != ServerState::Closing && *state != to;
            if changes {
                *state = to;
            }
            changes
        });
    }
}

impl ServerStateWatch {
    /// # Errors
    /// The status that a call must return.
    pub(super) fn check(&self) -> Result<(), Status> {
        match &*self.0.borrow() {
            ServerState::Serving | ServerState::Faulty(Fault::SlowConsumer) => Ok(()),
            ServerState::Faulty(fault) => Err(fault_status(fault)),
            ServerState::Closing => Err(closing()),
        }
    }

    /// As [`Self::check`], for a subscription.
    pub(super) fn check_subscription(&self) -> Result<(), Status> {
        match &*self.0.borrow() {
            ServerState::Faulty(Fault::SlowConsumer) => Err(fault_status(&Fault::SlowConsumer)),
            _ => self.check(),
        }
    }

    /// Waits until subscriptions must end, and returns their status. It is always an error, because clients take success for a
    /// stream that continues.
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

    /// Waits until calls other than subscriptions must end, and returns their status.
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

    /// Waits until the server closes.
    pub(super) async fn closed(mut self) {
        // An error means that the sender was dropped.
        let _ = self.0.wait_for(|state| *state == ServerState::Closing).await;
    }
}

fn closing() -> Status {
    Status::unavailable("the server is shutting down; retry soon")
}

fn fault_status(fault: &Fault) -> Status {
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
