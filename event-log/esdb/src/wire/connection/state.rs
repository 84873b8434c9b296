//! The open connections, and which of them is closed when another client needs a place.
//!
//! Before its first call with valid credentials a connection is *pending*: it is closed after a deadline, and earlier if all
//! places are taken. So clients that only connect shut no client out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The time for which a new connection waits until a closed one has released its place.
const PLACE_TIMEOUT: Duration = Duration::from_millis(200);
/// The pause before another connection is closed for a new one. Clients that connect again at once when they are closed take
/// little of the processor with it.
pub(in crate::wire) const REPLACE_PAUSE: Duration = Duration::from_millis(1);

/// The state of one connection.
#[derive(Debug)]
pub(in crate::wire) struct ConnectionState {
    address: IpAddr,
    is_admitted: AtomicBool,
    is_closing: AtomicBool,
    /// The number of calls in progress.
    calls: AtomicUsize,
    /// Wakes the task of the connection when it must close.
    pub(super) waker: AtomicWaker,
}

/// A call in progress.
#[derive(Debug)]
pub(in crate::wire) struct Call(Arc<ConnectionState>);

impl Drop for Call {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ConnectionState {
    /// Records that a caller on the connection has valid credentials.
    pub(in crate::wire) fn admit(&self) {
        self.is_admitted.store(true, Ordering::Relaxed);
    }

    pub(in crate::wire) fn call(self: &Arc<Self>) -> Call {
        self.calls.fetch_add(1, Ordering::Relaxed);
        Call(Arc::clone(self))
    }

    pub(super) fn is_admitted(&self) -> bool {
        self.is_admitted.load(Ordering::Relaxed)
    }

    pub(super) fn is_closing(&self) -> bool {
        self.is_closing.load(Ordering::Relaxed)
    }

    fn close(&self) {
        self.is_closing.store(true, Ordering::Relaxed);
        self.waker.wake();
    }
}

/// The open connections.
#[derive(Clone, Debug)]
pub struct Connections {
    places: Arc<Semaphore>,
    open: Arc<Mutex<OpenConnections>>,
    max: usize,
}

#[derive(Debug, Default)]
struct OpenConnections {
    next: u64,
    /// In the order in which they were accepted, by number.
    states: HashMap<u64, Arc<ConnectionState>>,
}

/// The place of a connection, which it releases when it is dropped.
#[derive(Debug)]
pub(in crate::wire) struct Place {
    pub(in crate::wire) state: Arc<ConnectionState>,
    number: u64,
    open: Arc<Mutex<OpenConnections>>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.open).states.remove(&self.number);
    }
}

fn lock(open: &Mutex<OpenConnections>) -> MutexGuard<'_, OpenConnections> {
    // A map that lost an entry to a panic is still valid.
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connections {
    pub(in crate::wire) fn new(max: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(max)), open: Arc::default(), max }
    }

    /// The number of open connections.
    pub fn open(&self) -> usize {
        lock(&self.open).states.len()
    }

    /// A place for a connection from this address. If all are taken, or the address has more than its share of three
    /// quarters, another connection is closed for it; `None` if all others are in use.
    pub(in crate::wire) async fn place(&self, address: IpAddr) -> Option<Place> {
        let share = (self.max - self.max / 4).max(1);
        let of_address = lock(&self.open).states.values().filter(|state| state.address == address).count();
        if of_address >= share {
            tokio::time::sleep(REPLACE_PAUSE).await;
            if !self.close_one(Some(address)) {
                return None;
            }
        }
        let mut permit = Arc::clone(&self.places).try_acquire_owned().ok();
        if permit.is_none() && self.close_one(None) {
            let freed = tokio::time::timeout(PLACE_TIMEOUT, Arc::clone(&self.places).acquire_owned());
            permit = freed.await.ok().and_then(Result::ok);
        }
        let state = Arc::new(ConnectionState {
            address,
            is_admitted: AtomicBool::new(false),
            is_closing: AtomicBool::new(false),
            calls: AtomicUsize::new(0),
            waker: AtomicWaker::new(),
        });
        let permit = permit?;
        let mut open = lock(&self.open);
        open.next += 1;
        let number = open.next;
        open.states.insert(number, Arc::clone(&state));
        Some(Place { state, number, open: Arc::clone(&self.open), _permit: permit })
    }

    /// Closes the oldest pending connection of the address with the most of them, or the oldest one without a call; of this
    /// address if there is one. False if all are in use.
    fn close_one(&self, of: Option<IpAddr>) -> bool {
        let open = lock(&self.open);
        let candidates = || {
            open.states.iter().filter(move |(_, state)| {
                let is_pending = !state.is_admitted();
                let is_idle = is_pending || state.calls.load(Ordering::Relaxed) == 0;
                is_idle && !state.is_closing() && of.is_none_or(|address| state.address == address)
            })
        };
        let mut pending: HashMap<IpAddr, usize> = HashMap::new();
        for (_, state) in candidates().filter(|(_, state)| !state.is_admitted()) {
            *pending.entry(state.address).or_default() += 1;
        }
        let crowded = pending.iter().max_by_key(|(_, count)| **count).map(|(address, _)| *address);
        let oldest = candidates().min_by_key(|(number, state)| {
            let is_first = !state.is_admitted() && Some(state.address) == crowded;
            (!is_first, state.is_admitted(), **number)
        });
        oldest.map(|(_, state)| state.close()).is_some()
    }
}
