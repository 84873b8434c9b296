//! The open connections. When another client needs a slot, one without a request in progress is closed, so that clients that
//! only hold connections shut no client out.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::Notify;

/// What is known of an open connection.
#[derive(Debug, Default)]
struct State {
    /// Requests whose responses have not been sent.
    in_progress: AtomicU32,
    has_had_request: AtomicBool,
    closing: Notify,
}

/// All open connections of each address, in the order in which they were opened.
#[derive(Debug, Default)]
struct Known {
    opened: u64,
    by_address: HashMap<IpAddr, BTreeMap<u64, Arc<State>>>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Connections(Arc<Mutex<Known>>);

/// An open connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Connection {
    state: Arc<State>,
    address: IpAddr,
    number: u64,
    connections: Connections,
}

/// A request, until it is dropped.
#[derive(Debug)]
pub(super) struct InProgress(Arc<State>);

impl Connections {
    pub(super) fn add(&self, address: IpAddr) -> Connection {
        let (mut known, state) = (self.known(), Arc::<State>::default());
        known.opened += 1;
        let number = known.opened;
        known.by_address.entry(address).or_default().insert(number, state.clone());
        Connection { state, address, number, connections: self.clone() }
    }

    /// Closes a connection without a request in progress, of the address with the most connections that has such a one: the
    /// oldest that never had a request, or else the oldest. Takes time in proportion to the connections.
    pub(super) fn close_idle(&self) {
        let known = self.known();
        let idle = |of_address: &BTreeMap<u64, Arc<State>>| {
            let idle = of_address.values().filter(|state| state.is_idle());
            idle.min_by_key(|state| state.has_had_request.load(Ordering::Relaxed)).cloned()
        };
        let candidates = known.by_address.values().filter_map(|one| Some((one.len(), idle(one)?)));
        if let Some((_, state)) = candidates.max_by_key(|(connections, _)| *connections) {
            state.closing.notify_one();
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Each change is one step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_idle(&self) -> bool {
        self.in_progress.load(Ordering::Relaxed) == 0
    }
}

impl Connection {
    pub(super) fn has_had_request(&self) -> bool {
        self.state.has_had_request.load(Ordering::Relaxed)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.state.is_idle()
    }

    /// Records the start of a request.
    pub(super) fn request(&self) -> InProgress {
        self.state.in_progress.fetch_add(1, Ordering::Relaxed);
        self.state.has_had_request.store(true, Ordering::Relaxed);
        InProgress(self.state.clone())
    }

    /// Waits until the connection must be closed if it is idle.
    pub(super) async fn closing(&self) {
        self.state.closing.notified().await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut known = self.connections.known();
        if let Some(of_address) = known.by_address.get_mut(&self.address) {
            of_address.remove(&self.number);
            if of_address.is_empty() {
                known.by_address.remove(&self.address);
            }
        }
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.in_progress.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of a response, whose request is in progress until it is sent.
#[derive(Debug)]
pub(super) struct ResponseBody<B> {
    pub(super) body: B,
    pub(super) _in_progress: InProgress,
}

impl<B: Body + Unpin> Body for ResponseBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
