//! The memory for messages that are being received, of one connection and of all together.
//!
//! A call waits first for space for small messages, then for space for large ones, and never the other way round, so calls
//! cannot wait for each other.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::body::SMALL_BYTES_MAX;

/// Small messages: of one connection, and of all.
const SMALL_OF_CONNECTION: usize = 8 << 20;
const SMALL_OF_ALL: usize = 64 << 20;
/// Larger messages. One connection can receive at least one of the maximum size.
const LARGE_OF_CONNECTION: usize = 20 << 20;
const LARGE_OF_ALL: usize = 80 << 20;
/// The parts of incomplete batch appends.
const PARTS_OF_CONNECTION: usize = 16 << 20;
const PARTS_OF_ALL: usize = 64 << 20;

/// The unit of the permits.
const UNIT: usize = 1024;

/// The memory of all connections.
#[derive(Clone, Debug)]
pub(in crate::wire) struct TotalBudget {
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
    parts: Arc<Semaphore>,
}

impl Default for TotalBudget {
    fn default() -> Self {
        Self {
            small: semaphore(SMALL_OF_ALL),
            large: semaphore(LARGE_OF_ALL),
            parts: semaphore(PARTS_OF_ALL),
        }
    }
}

/// The memory of one connection. Clones share it.
#[derive(Clone, Debug)]
pub(in crate::wire) struct MessageBudget {
    small: Pool,
    large: Pool,
    parts: Pool,
}

/// Memory that is reserved until this is dropped.
#[derive(Debug)]
pub(in crate::wire) struct Reservation {
    _connection: OwnedSemaphorePermit,
    _total: OwnedSemaphorePermit,
}

#[derive(Clone, Debug)]
struct Pool {
    connection: Arc<Semaphore>,
    total: Arc<Semaphore>,
}

fn semaphore(bytes: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(bytes / UNIT))
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

impl MessageBudget {
    pub(in crate::wire) fn new(total: &TotalBudget) -> Self {
        let pool =
            |bytes, total: &Arc<Semaphore>| Pool { connection: semaphore(bytes), total: Arc::clone(total) };
        Self {
            small: pool(SMALL_OF_CONNECTION, &total.small),
            large: pool(LARGE_OF_CONNECTION, &total.large),
            parts: pool(PARTS_OF_CONNECTION, &total.parts),
        }
    }

    /// Waits for memory for a message.
    pub(super) async fn reserve(self, bytes: usize) -> Option<Reservation> {
        let pool = if bytes <= SMALL_BYTES_MAX { self.small } else { self.large };
        let connection = pool.connection.acquire_many_owned(units(bytes)).await.ok()?;
        let total = pool.total.acquire_many_owned(units(bytes)).await.ok()?;
        Some(Reservation { _connection: connection, _total: total })
    }

    /// Memory for a part of an incomplete append, if there is any.
    pub(in crate::wire) fn reserve_part(&self, bytes: usize) -> Option<Reservation> {
        let Pool { connection, total } = self.parts.clone();
        let connection = connection.try_acquire_many_owned(units(bytes)).ok()?;
        let total = total.try_acquire_many_owned(units(bytes)).ok()?;
        Some(Reservation { _connection: connection, _total: total })
    }
}
