//! A generation of a read model: rows, the fold in memory, and the position of both. It is swapped as a whole.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use event_schemas::ids::Position;
use tokio::sync::watch;

use crate::projection::Name;
use crate::sql::{Db, SqlError};

/// One generation of a read model.
#[derive(Debug)]
pub(crate) struct Generation<V> {
    /// Increases with each rebuild.
    pub(crate) number: u64,
    pub(crate) db: Db,
    pub(crate) view: V,
    position: watch::Sender<Position>,
    /// Set by the first query that meets damage, so that the projector withdraws the generation.
    damage: watch::Sender<Option<String>>,
}

impl<V> Generation<V> {
    pub(crate) fn new(number: u64, db: Db, view: V, position: Position) -> Self {
        let (position, damage) = (watch::Sender::new(position), watch::Sender::new(None));
        Self { number, db, view, position, damage }
    }

    /// The position up to which everything can be read.
    pub(crate) fn position(&self) -> Position {
        *self.position.borrow()
    }

    /// The damage that a query has met.
    pub(crate) fn damage(&self) -> watch::Receiver<Option<String>> {
        self.damage.subscribe()
    }

    /// The error of a query. Damage is reported to the projector, which rebuilds the read model.
    pub(crate) fn query_error(&self, name: Name, source: SqlError) -> QueryError {
        if let SqlError::Damaged(reason) = &source {
            self.report_damage(reason);
        }
        QueryError::Storage { name, source }
    }

    /// The result of parsing rows; invalid ones are damage as well.
    pub(crate) fn parsed<T>(&self, result: Result<T, QueryError>) -> Result<T, QueryError> {
        if let Err(QueryError::InvalidRow { reason, .. }) = &result {
            self.report_damage(reason);
        }
        result
    }

    fn report_damage(&self, reason: &str) {
        self.damage.send_if_modified(|damage| {
            let is_first = damage.is_none();
            damage.get_or_insert_with(|| reason.to_owned());
            is_first
        });
    }
}

/// A read model could not answer a query.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// No generation is complete yet; the first one is being built.
    #[error("the read model {name} is being built; retry when /ready succeeds")]
    Building { name: Name },
    #[error("the read model {name} cannot be read: {source}; if this persists, rebuild it")]
    Storage { name: Name, source: SqlError },
    /// A row is not what the projection wrote. The read model is rebuilt.
    #[error("a row of the read model {name} is invalid: {reason}; it is being rebuilt")]
    InvalidRow { name: Name, reason: String },
    /// The server's encoder has not made the vectors of most products yet.
    #[error(
        "the products are being encoded by the model `{model}`; retry shortly, or search with the model `lexical`"
    )]
    Encoding { model: String },
    #[error("the text cannot be encoded by the model `{model}`: {reason}; search with the model `lexical`")]
    Encoder { model: String, reason: String },
    #[error("a query of the read model {name} panicked: {source}; see the server's log for details")]
    Panicked { name: Name, source: tokio::task::JoinError },
}

/// The place where readers find the live generation.
#[derive(Debug)]
pub(crate) struct Slot<V> {
    name: Name,
    live: RwLock<Option<Arc<Generation<V>>>>,
    /// The position of the live generation.
    position: watch::Sender<Option<Position>>,
}

impl<V> Slot<V> {
    pub(crate) fn new(name: Name) -> Self {
        Self { name, live: RwLock::new(None), position: watch::Sender::new(None) }
    }

    /// The live generation. A reader that holds it may continue to read it after it has been replaced.
    pub(crate) fn live(&self) -> Result<Arc<Generation<V>>, QueryError> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        live.clone().ok_or(QueryError::Building { name: self.name })
    }

    /// Makes the generation live, and retires the previous one.
    pub(crate) fn publish(&self, generation: &Arc<Generation<V>>) {
        let previous = {
            let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
            live.replace(Arc::clone(generation))
        };
        self.position.send_replace(Some(generation.position()));
        // The same file, opened again, is not another generation.
        if let Some(previous) = previous.filter(|previous| previous.number != generation.number) {
            previous.db.retire();
        }
    }

    /// Removes the live generation, because it can no longer be trusted.
    pub(crate) fn withdraw(&self) {
        let removed = self.live.write().unwrap_or_else(PoisonError::into_inner).take();
        self.position.send_replace(None);
        drop(removed);
    }

    /// Moves the generation to `position`: it now reflects everything up to there.
    pub(crate) fn advance(&self, generation: &Generation<V>, position: Position) {
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

/// A read model did not reach a position in time.
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
    let reached = live.wait_for(|at| at.is_some_and(|at| at >= position));
    if let Ok(Ok(_)) = tokio::time::timeout(timeout, reached).await {
        return Ok(());
    }
    // The projector has ended or is slow: in both cases the error reports its position.
    let at = *live.borrow();
    Err(StillBehind { name, at })
}
