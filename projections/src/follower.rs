//! What follows the log: cursor, checkpoint, stop at an unreadable event, pause, rebuild with progress, and status.
//!
//! A follower knows events and positions. What it maintains and where that is stored is behind [`Target`]; read models in
//! SQL are one kind of target.

mod build;
mod damage;
mod runner;
mod state;
mod writer;

use std::fmt;
use std::time::Duration;

use event_schemas::envelope::Envelope;
use event_schemas::ids::{JobId, Position};
use event_schemas::stream::Category;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::checkpoint::Checkpoint;
use crate::projection::Name;
use crate::sql::SqlError;
use crate::store::StoreError;

pub(crate) use runner::{Control, RETRY_AFTER, Runner, RunnerContext};

/// When folded changes are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StorePolicy {
    /// With each batch: readers see what is stored.
    EachBatch,
    /// Readers see the fold in memory, and the rows follow: at the latest after this time or this number of events.
    WriteBehind { after: Duration, events_max: u64 },
}

/// What is followed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Followed {
    pub(crate) name: Name,
    /// An event of these that cannot be decoded stops the follower; others are ignored.
    pub(crate) categories: &'static [Category],
    pub(crate) policy: StorePolicy,
}

/// One generation of what a follower maintains.
pub(crate) trait Target: fmt::Debug + Send + Sync {
    /// The number of the generation.
    fn number(&self) -> u64;

    /// Folds consecutive events into memory. The fold is then at `position`, which is that of the last event or a later
    /// one.
    fn apply<'a>(
        &'a mut self,
        events: &'a [&'a Envelope],
        position: Position,
    ) -> BoxFuture<'a, Result<(), SqlError>>;

    /// Reports whether something is folded and not stored. While it is not, readers see the fold's position.
    fn has_changes(&self) -> bool;

    /// Stores the changes and the checkpoint: both or neither.
    fn store(&mut self, checkpoint: Checkpoint) -> BoxFuture<'_, Result<(), SqlError>>;

    /// Makes what is stored quick to read, which may take minutes. It can be repeated.
    fn finish(&mut self) -> BoxFuture<'_, Result<(), SqlError>>;

    /// Makes this generation the one that readers see.
    fn publish(&mut self);

    /// Lets readers see everything up to the position.
    fn advance(&self, position: Position);

    /// Compares what is folded for a job with a replay of its events, and replaces it if it differs. The fold is at
    /// `position`.
    fn recheck(&mut self, job: JobId, position: Position) -> BoxFuture<'_, Result<Option<bool>, SqlError>>;

    /// The damage that readers have met in this generation.
    fn damage(&self) -> watch::Receiver<Option<String>>;

    /// Frees memory that only many events needed.
    fn shrink(&self) -> BoxFuture<'_, Result<(), SqlError>>;

    /// Removes the generation as soon as its last reader is done.
    fn retire(&self);

    /// Removes the generation now, because it can no longer be trusted.
    fn withdraw(&self) -> BoxFuture<'_, Result<(), SqlError>>;

    /// Ends writing, so that the generation can be opened again while it still has readers.
    fn close_writer(&self) -> BoxFuture<'_, ()>;

    /// Waits until everything is stored and closed.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// A generation, and what it reflects.
#[derive(Debug)]
pub(crate) struct OpenTarget {
    pub(crate) target: Box<dyn Target>,
    pub(crate) checkpoint: Checkpoint,
}

/// The usable generations that an earlier run left.
#[derive(Debug, Default)]
pub(crate) struct FoundTargets {
    /// The newest complete one.
    pub(crate) live: Option<OpenTarget>,
    /// The newest one that is not complete, if it is newer than the live one.
    pub(crate) unfinished: Option<OpenTarget>,
}

/// Where the generations of one follower are.
pub(crate) trait TargetStore: fmt::Debug + Send + Sync {
    /// Finds the generations that an earlier run left, and removes unusable ones.
    fn find(&self) -> BoxFuture<'_, Result<FoundTargets, StoreError>>;

    /// Creates a new generation, with a number above all existing ones.
    fn create(&self) -> BoxFuture<'_, Result<OpenTarget, StoreError>>;
}
