//! How far a generation of a read model is, and of which log: one row beside the rows that it vouches for.

use event_log::Identity;
use event_schemas::ids::{LogId, Position};
use uuid::Uuid;

use crate::sql::{Db, FromRow, SqlError, Statement, Tx};

pub(crate) const DDL: &str = include_str!("../../migrations/sqlite/checkpoint.sql");

/// What a file of a read model says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// The projection's own, with which the rows were made.
    pub(crate) revision: u32,
    pub(crate) log: Identity,
    /// The rows reflect exactly the events up to here.
    pub(crate) position: Position,
    /// Whether the generation has once been complete, and been read.
    pub(crate) published: bool,
}

/// Why a file cannot be gone on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfit {
    #[error("it was made by revision {stored} of the projection, and this is revision {current}")]
    Revision { stored: u32, current: u32 },
    #[error("it was made from another log")]
    OtherLog,
    #[error("it was made from epoch {stored} of the log, which is now in epoch {current}")]
    OtherEpoch { stored: u32, current: u32 },
    #[error("it is at position {position}, beyond the log's head {head}: the log was restored from a backup")]
    BeyondHead { position: Position, head: Position },
}

pub(crate) const READ: &str =
    "SELECT revision, log_id, log_epoch, position, published FROM checkpoint WHERE id = 1";
pub(crate) const WRITE: &str = "INSERT INTO checkpoint \
     (id, revision, log_id, log_epoch, position, published) VALUES (1, $1, $2, $3, $4, $5) \
     ON CONFLICT (id) DO UPDATE SET revision = excluded.revision, log_id = excluded.log_id, \
     log_epoch = excluded.log_epoch, position = excluded.position, \
     published = excluded.published";

#[derive(FromRow)]
struct Stored {
    revision: i64,
    log_id: Uuid,
    log_epoch: i64,
    position: i64,
    published: i64,
}

impl Checkpoint {
    /// That of a generation which has seen nothing yet.
    pub(crate) fn start(revision: u32, log: Identity) -> Self {
        Self { revision, log, position: Position::START, published: false }
    }

    /// The file's checkpoint; none if it is new.
    pub(crate) async fn read(db: &Db) -> Result<Option<Self>, SqlError> {
        let stored: Option<Stored> = db.optional(Statement::new(READ)).await?;
        Ok(stored.map(|row| Self {
            revision: u32::try_from(row.revision).unwrap_or(u32::MAX),
            log: Identity { id: LogId(row.log_id), epoch: u32::try_from(row.log_epoch).unwrap_or(u32::MAX) },
            position: Position::from_i64(row.position),
            published: row.published != 0,
        }))
    }

    pub(crate) async fn write(&self, tx: &mut Tx) -> Result<(), SqlError> {
        let statement = Statement::new(WRITE)
            .bind(i64::from(self.revision))
            .bind(self.log.id.0)
            .bind(i64::from(self.log.epoch))
            .bind(self.position.to_i64())
            .bind(i64::from(self.published));
        tx.execute(statement).await
    }

    /// Whether one can go on from here.
    pub(crate) fn fits(&self, revision: u32, log: Identity, head: Position) -> Result<(), Unfit> {
        if self.revision != revision {
            return Err(Unfit::Revision { stored: self.revision, current: revision });
        }
        if self.log.id != log.id {
            return Err(Unfit::OtherLog);
        }
        if self.log.epoch != log.epoch {
            return Err(Unfit::OtherEpoch { stored: self.log.epoch, current: log.epoch });
        }
        if self.position > head {
            return Err(Unfit::BeyondHead { position: self.position, head });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint() -> Checkpoint {
        let log = Identity { id: LogId(Uuid::from_u128(1)), epoch: 2 };
        Checkpoint { position: Position(10), ..Checkpoint::start(3, log) }
    }

    #[test]
    fn a_checkpoint_of_this_log_and_revision_is_gone_on_from() {
        let stored = checkpoint();
        assert_eq!(stored.fits(3, stored.log, Position(10)), Ok(()));
    }

    #[test]
    fn a_checkpoint_of_anything_else_is_not() {
        let stored = checkpoint();
        let other = Identity { id: LogId(Uuid::from_u128(9)), epoch: 2 };
        let restored = Identity { epoch: 3, ..stored.log };
        let head = Position(10);
        assert_eq!(stored.fits(4, stored.log, head), Err(Unfit::Revision { stored: 3, current: 4 }));
        assert_eq!(stored.fits(3, other, head), Err(Unfit::OtherLog));
        assert_eq!(stored.fits(3, restored, head), Err(Unfit::OtherEpoch { stored: 2, current: 3 }));
        let beyond = Unfit::BeyondHead { position: Position(10), head: Position(9) };
        assert_eq!(stored.fits(3, stored.log, Position(9)), Err(beyond));
    }
}
