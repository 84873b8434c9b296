//! How far a generation of a read model is, and of which log: one row beside the rows that it vouches for.

use event_log::{EventLog, Filter, Identity, Log};
use event_schemas::ids::{EventId, LogId, Position};
use uuid::Uuid;

use crate::sql::{Db, SqlError, Statement, Tx, row};

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
    /// The last event that the rows took in; none before the first.
    pub(crate) seen: Option<Seen>,
}

/// An event that was in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) position: Position,
    pub(crate) id: EventId,
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
    #[error(
        "it has taken in another event than the log has at position {0}: the log was put back, and went on differently"
    )]
    OtherCourse(Position),
}

pub(crate) const READ: &str = "SELECT revision, log_id, log_epoch, checkpoint.position, published, \
     checkpoint_event.position AS seen_position, event_id AS seen_id \
     FROM checkpoint LEFT JOIN checkpoint_event ON checkpoint_event.id = checkpoint.id WHERE checkpoint.id = 1";
pub(crate) const WRITE: &str = "INSERT INTO checkpoint \
     (id, revision, log_id, log_epoch, position, published) VALUES (1, $1, $2, $3, $4, $5) \
     ON CONFLICT (id) DO UPDATE SET revision = excluded.revision, log_id = excluded.log_id, \
     log_epoch = excluded.log_epoch, position = excluded.position, \
     published = excluded.published";
pub(crate) const WRITE_SEEN: &str = "INSERT INTO checkpoint_event (id, position, event_id) VALUES (1, $1, $2) \
     ON CONFLICT (id) DO UPDATE SET position = excluded.position, event_id = excluded.event_id";

row! {
    struct Stored {
        revision: i64,
        log_id: Uuid,
        log_epoch: i64,
        position: i64,
        published: i64,
        seen_position: Option<i64>,
        seen_id: Option<Uuid>,
    }
}

impl Checkpoint {
    /// That of a generation which has seen nothing yet.
    pub(crate) fn start(revision: u32, log: Identity) -> Self {
        Self { revision, log, position: Position::START, published: false, seen: None }
    }

    /// The file's checkpoint; none if it is new.
    pub(crate) async fn read(db: &Db) -> Result<Option<Self>, SqlError> {
        let stored: Option<Stored> = db.optional(Statement::new(READ)).await?;
        Ok(stored.map(|row| Self {
            revision: u32::try_from(row.revision).unwrap_or(u32::MAX),
            log: Identity { id: LogId(row.log_id), epoch: u32::try_from(row.log_epoch).unwrap_or(u32::MAX) },
            position: Position::from_i64(row.position),
            published: row.published != 0,
            seen: row
                .seen_position
                .zip(row.seen_id)
                .map(|(position, id)| Seen { position: Position::from_i64(position), id: EventId(id) }),
        }))
    }

    pub(crate) async fn write(&self, tx: &mut Tx) -> Result<(), SqlError> {
        let statement = Statement::new(WRITE)
            .bind(i64::from(self.revision))
            .bind(self.log.id.0)
            .bind(i64::from(self.log.epoch))
            .bind(self.position.to_i64())
            .bind(i64::from(self.published));
        tx.execute(statement).await?;
        match self.seen {
            Some(Seen { position, id }) => {
                tx.execute(Statement::new(WRITE_SEEN).bind(position.to_i64()).bind(id.0)).await
            }
            None => Ok(()),
        }
    }

    /// Whether the log still has the last event that the rows took in. A folder that was put back by hand has the log's id
    /// and epoch, but where it went on since, other events.
    pub(crate) async fn is_of(&self, log: &Log) -> Result<(), Unfit> {
        let Some(Seen { position, id }) = self.seen else { return Ok(()) };
        match log.read_all(Position(position.0.saturating_sub(1)), &Filter::All, 1).await {
            Ok(page)
                if page.events.first().is_none_or(|event| (event.position, event.id) != (position, id)) =>
            {
                Err(Unfit::OtherCourse(position))
            }
            // Whoever follows a log that cannot be read meets the same, and says so.
            Ok(_) | Err(_) => Ok(()),
        }
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
