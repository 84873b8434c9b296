//! What a read model is: a fold over some categories of events, and the statements that store it.

use std::fmt;
use std::future::Future;
use std::str::FromStr;
use std::time::Duration;

use event_log::Log;
use event_schemas::envelope::Envelope;
use event_schemas::ids::Position;
use event_schemas::stream::Category;

use crate::sql::{Db, SqlError, Tx};

/// The read models of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Name {
    Challenges,
    Jobs,
    MatchRecords,
    Matches,
    MatchingSummary,
    Players,
    Queues,
    Retries,
    Workers,
}

impl Name {
    pub const ALL: [Self; 9] = [
        Self::Challenges,
        Self::Jobs,
        Self::MatchRecords,
        Self::Matches,
        Self::MatchingSummary,
        Self::Players,
        Self::Queues,
        Self::Retries,
        Self::Workers,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Challenges => "challenges",
            Self::Jobs => "jobs",
            Self::MatchRecords => "match_records",
            Self::Matches => "matches",
            Self::MatchingSummary => "matching_summary",
            Self::Players => "players",
            Self::Queues => "queues",
            Self::Retries => "retries",
            Self::Workers => "workers",
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no read model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no read model is called {0:?}; there are {all}", all = Name::ALL.map(Name::as_str).join(", "))]
pub struct NoSuchProjection(pub String);

impl FromStr for Name {
    type Err = NoSuchProjection;

    fn from_str(text: &str) -> Result<Self, NoSuchProjection> {
        Self::ALL
            .into_iter()
            .find(|name| name.as_str() == text)
            .ok_or_else(|| NoSuchProjection(text.to_owned()))
    }
}

/// When what was folded is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    /// With each batch: readers see rows.
    EachBatch,
    /// Readers see the fold in memory, and the rows follow: at the latest after so long or so many events.
    Behind { after: Duration, events_max: u64 },
}

/// A read model.
///
/// [`fold`](Self::fold) changes memory only, [`store`](Self::store) writes what has changed since it was last called;
/// the runner adds the checkpoint to the same transaction. So the rows are always those of the events up to the
/// checkpoint, whatever happens in between.
pub(crate) trait Projection: fmt::Debug + Sized + Send + 'static {
    const NAME: Name;
    /// Raise it when rows made before would be wrong: the model is then rebuilt from zero at the next start.
    const REVISION: u32;
    /// Bears being run again.
    const DDL: &'static str;
    /// The categories whose events it is given. One that cannot be decoded stops it; others do not concern it.
    const CATEGORIES: &'static [Category];
    const STORE: Store;

    /// What readers share with the projection, beside the rows.
    type View: fmt::Debug + Clone + Send + Sync + 'static;
    /// What all generations have in common.
    type Shared: fmt::Debug + Clone + Default + Send + Sync + 'static;
    /// What may be asked of the projection while it runs.
    type Request: fmt::Debug + Send + 'static;

    /// Goes on from the rows that are there.
    fn open(
        db: &Db,
        shared: &Self::Shared,
        position: Position,
    ) -> impl Future<Output = Result<Self, SqlError>> + Send;

    fn view(&self) -> Self::View;

    /// Folds events that follow each other, all of the wanted categories, into memory. The fold is then at `position`,
    /// which is that of the last event or behind it.
    fn fold(
        &mut self,
        db: &Db,
        events: &[&Envelope],
        position: Position,
    ) -> impl Future<Output = Result<(), SqlError>> + Send;

    /// Nothing up to here was of the wanted categories.
    fn passed(&mut self, _: Position) {}

    /// Writes what has changed since it was last called.
    fn store(&mut self, tx: &mut Tx) -> impl Future<Output = Result<(), SqlError>> + Send;

    /// What [`store`](Self::store) wrote has been committed.
    fn stored(&mut self) {}

    /// Readers see this generation from now on.
    fn published(&mut self) {}

    /// Does what was asked; the fold is at `position`.
    fn answer(
        &mut self,
        request: Self::Request,
        log: &Log,
        db: &Db,
        position: Position,
    ) -> impl Future<Output = Result<(), SqlError>> + Send;
}
