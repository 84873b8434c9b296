//! What is served together: rows, the fold in memory, and the position of both. It is swapped whole.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use event_schemas::ids::Position;
use tokio::sync::watch;

use crate::projection::Name;
use crate::sql::{Db, SqlError};

/// One making of a read model.
#[derive(Debug)]
pub(crate) struct Generation<V> {
    /// Rises with each rebuild.
    pub(crate) number: u64,
    pub(crate) db: Db,
    pub(crate) view: V,
    position: watch::Sender<Position>,
}

impl<V> Generation<V> {
    pub(crate) fn new(number: u64, db: Db, view: V, position: Position) -> Self {
        Self { number, db, view, position: watch::Sender::new(position) }
    }

    /// Everything up to here can be read.
    pub(crate) fn position(&self) -> Position {
        *self.position.borrow()
    }
}

/// Why a question to a read model has no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// There is no complete generation yet, only one that is being built.
    #[error("the read model {name} is being built; ask again when /ready says so")]
    Building { name: Name },
    #[error("the read model {name} cannot be read: {source}; if it stays so, rebuild it")]
    Store { name: Name, source: SqlError },
    /// A row is not what the projection wrote.
    #[error("a row of the read model {name} makes no sense: {reason}; rebuild it")]
    Row { name: Name, reason: String },
    #[error("looking at the read model {name} broke off: {source}; the server's log has the details")]
    BrokenOff { name: Name, source: tokio::task::JoinError },
}

/// Where readers find the generation that is live.
#[derive(Debug)]
pub(crate) struct Slot<V> {
    name: Name,
    live: RwLock<Option<Arc<Generation<V>>>>,
    /// That of the live generation, whichever it is.
    position: watch::Sender<Option<Position>>,
}

impl<V> Slot<V> {
    pub(crate) fn new(name: Name) -> Self {
        Self { name, live: RwLock::new(None), position: watch::Sender::new(None) }
    }

    /// The live generation. Whoever holds it may go on reading it, even after it was replaced.
    pub(crate) fn live(&self) -> Result<Arc<Generation<V>>, QueryError> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        live.clone().ok_or(QueryError::Building { name: self.name })
    }

    /// Makes the generation live, and lets the one before go once nobody reads it.
    pub(crate) fn publish(&self, generation: &Arc<Generation<V>>) {
        let before = {
            let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
            live.replace(Arc::clone(generation))
        };
        self.position.send_replace(Some(generation.position()));
        // The same file opened anew is no other generation.
        if let Some(before) = before.filter(|before| before.number != generation.number) {
            before.db.retire();
        }
    }

    /// Takes the live generation away, because it can no longer be trusted.
    pub(crate) fn withdraw(&self) {
        let before = self.live.write().unwrap_or_else(PoisonError::into_inner).take();
        self.position.send_replace(None);
        drop(before);
    }

    /// The generation now reflects everything up to `position`.
    pub(crate) fn moved(&self, generation: &Generation<V>, position: Position) {
        generation.position.send_replace(position);
        let is_live = self
            .live
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .is_some_and(|live| live.number == generation.number);
        if is_live {
            self.position.send_replace(Some(position));
        }
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Option<Position>> {
        self.position.subscribe()
    }
}

/// A read model did not get there in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the read model {name} is at position {}; try again shortly", at.map_or_else(|| "none yet".to_owned(), |at| at.to_string()))]
pub struct StillBehind {
    pub name: Name,
    pub at: Option<Position>,
}

/// Waits until the live generation reflects `position`, whichever generation that is.
pub(crate) async fn wait_for(
    name: Name,
    live: &mut watch::Receiver<Option<Position>>,
    position: Position,
    timeout: Duration,
) -> Result<(), StillBehind> {
    let there = live.wait_for(|at| at.is_some_and(|at| at >= position));
    if let Ok(Ok(_)) = tokio::time::timeout(timeout, there).await {
        return Ok(());
    }
    // The projector is gone or slow: either way the answer is where it stands.
    let at = *live.borrow();
    Err(StillBehind { name, at })
}
