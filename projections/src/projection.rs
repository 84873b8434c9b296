//! The contract of a projection: a fold over some categories of events, and the statements that store its read model.

use std::fmt;
use std::future::Future;

use domain::user::interactions::Interactions;
use event_log::Log;
use event_schemas::envelope::Envelope;
use event_schemas::ids::{JobId, Position, SubjectId, Tenant};
use event_schemas::stream::{Category, StreamId};

pub(crate) use crate::Name;
pub(crate) use crate::follower::StorePolicy;
use crate::sql::{Batch, Db, Ddl, SqlError};

/// A projection, which maintains one read model.
///
/// [`fold`](Self::fold) changes memory only; [`store`](Self::store) collects the changed rows, and the runner adds the checkpoint to the same transaction. So the rows always reflect exactly the events up to the
/// checkpoint, even after a crash.
pub(crate) trait Projection: fmt::Debug + Sized + Send + Sync + 'static {
    const NAME: Name;
    /// Raise it when existing rows would be wrong: the read model is then rebuilt from zero at the next start.
    const REVISION: u32;
    /// The statements that create the tables.
    const DDL: Ddl;
    /// The categories whose events it folds. An event of these that cannot be decoded stops it; others are ignored.
    const CATEGORIES: &'static [Category];
    const STORE: StorePolicy;

    /// The memory that readers share with the projection, in addition to the rows.
    type View: fmt::Debug + Clone + Send + Sync + 'static;
    /// The value that all generations share.
    type Shared: fmt::Debug + Clone + Default + Send + Sync + 'static;

    /// The revision of the rows with these settings; rows of another one are rebuilt.
    fn revision(_settings: &Interactions) -> u32 {
        Self::REVISION
    }

    /// What the generations share with these settings.
    fn shared(_settings: &Interactions) -> Self::Shared {
        Self::Shared::default()
    }

    /// Continues from the stored rows.
    fn open(
        db: &Db,
        shared: &Self::Shared,
        position: Position,
    ) -> impl Future<Output = Result<Self, SqlError>> + Send;

    fn view(&self) -> Self::View;

    /// Folds consecutive events of the projection's categories into memory. The fold is then at `position`, which is
    /// that of the last event or a later one.
    fn fold(
        &mut self,
        db: &Db,
        events: &[&Envelope],
        position: Position,
    ) -> impl Future<Output = Result<(), SqlError>> + Send;

    /// The stream whose events an erased person's rows come from.
    const ERASED_STREAM: fn(&Tenant, SubjectId) -> StreamId = StreamId::user;

    /// Removes what comes from these events of a person who is erased now, as if they had never happened. They are all earlier
    /// events of the person's stream, in order, or some of them: the others are in other calls.
    fn forget(
        &mut self,
        _db: &Db,
        _erasure: &Envelope,
        _earlier: &[Envelope],
    ) -> impl Future<Output = Result<(), SqlError>> + Send {
        std::future::ready(Ok(()))
    }

    /// Moves the fold to the position; no event up to it was of the projection's categories.
    fn skip_to(&mut self, _: Position) {}

    /// Adds the statements that write the changes since the last call of [`on_stored`](Self::on_stored).
    fn store(&mut self, batch: &mut Batch) -> impl Future<Output = Result<(), SqlError>> + Send;

    /// Reports whether [`store`](Self::store) would add statements. While it would not, readers see the fold's position
    /// without a transaction.
    fn has_changes(&self) -> bool;

    /// Called when the rows that [`store`](Self::store) wrote are committed.
    fn on_stored(&mut self) {}

    /// Called when this generation becomes the live one.
    fn on_published(&mut self) {}

    /// Compares a job's fold with a replay of its events up to `position`, and replaces it if it differs. None if that is
    /// not possible.
    fn recheck(
        &mut self,
        _: JobId,
        _: &Log,
        _: &Db,
        _: Position,
    ) -> impl Future<Output = Result<Option<bool>, SqlError>> + Send {
        std::future::ready(Ok(None))
    }
}
