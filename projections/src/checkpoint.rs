//! The checkpoint of a generation of a read model: its position, and the log that it was built from. It is stored in
//! the same file and transaction as the rows.

use event_log::{EventLog, Filter, Identity, Log};
use event_schemas::ids::{EventId, LogId, Position};
use uuid::Uuid;

use crate::sql::{Batch, Db, Ddl, SqlError, Statement, ddl, row};

pub(crate) const DDL: Ddl = ddl!("checkpoint");

/// The checkpoint that is stored in a read model's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// The revision of the projection that wrote the rows.
    pub(crate) revision: u32,
    pub(crate) log: Identity,
    /// The rows reflect exactly the events up to here.
    pub(crate) position: Position,
    /// The generation has been complete and live.
    pub(crate) published: bool,
    /// The last event that the rows reflect; none before the first.
    pub(crate) last_event: Option<EventRef>,
}

/// A reference to an event of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EventRef {
    pub(crate) position: Position,
    pub(crate) id: EventId,
}

/// A file cannot be continued from its checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Incompatible {
    #[error("it was built by revision {stored} of the projection, and this is revision {current}")]
    Revision { stored: u32, current: u32 },
    #[error("it was built from another log")]
    OtherLog,
    #[error("it was built from epoch {stored} of the log, which is now in epoch {current}")]
    OtherEpoch { stored: u32, current: u32 },
    #[error("it is at position {position}, beyond the log's head {head}: the log was restored from a backup")]
    BeyondHead { position: Position, head: Position },
    #[error(
        "its last event is not the log's event at position {0}: the log was restored manually and has diverged"
    )]
    Diverged(Position),
}

pub(crate) const READ: &str = "SELECT revision, log_id, log_epoch, position, published, last_event_position, \
     last_event_id FROM projection_checkpoint WHERE id = 1";
pub(crate) const WRITE: &str = "INSERT INTO projection_checkpoint (id, revision, log_id, log_epoch, position, \
     published, last_event_position, last_event_id) VALUES (1, $1, $2, $3, $4, $5, $6, $7) \
     ON CONFLICT (id) DO UPDATE SET revision = excluded.revision, log_id = excluded.log_id, \
     log_epoch = excluded.log_epoch, position = excluded.position, published = excluded.published, \
     last_event_position = excluded.last_event_position, last_event_id = excluded.last_event_id";

row! {
    struct Stored {
        revision: i64,
        log_id: Uuid,
        log_epoch: i64,
        position: i64,
        published: i64,
        last_event_position: Option<i64>,
        last_event_id: Option<Uuid>,
    }
}

impl Checkpoint {
    /// The checkpoint of a new generation.
    pub(crate) fn start(revision: u32, log: Identity) -> Self {
        Self { revision, log, position: Position::START, published: false, last_event: None }
    }

    /// Reads the file's checkpoint; none if the file is new.
    pub(crate) async fn read(db: &Db) -> Result<Option<Self>, SqlError> {
        let stored: Option<Stored> = db.optional(Statement::new(READ)).await?;
        Ok(stored.map(|row| Self {
            revision: u32::try_from(row.revision).unwrap_or(u32::MAX),
            log: Identity { id: LogId(row.log_id), epoch: u32::try_from(row.log_epoch).unwrap_or(u32::MAX) },
            position: Position::from_i64(row.position),
            published: row.published != 0,
            last_event: row
                .last_event_position
                .zip(row.last_event_id)
                .map(|(position, id)| EventRef { position: Position::from_i64(position), id: EventId(id) }),
        }))
    }

    pub(crate) fn write(&self, batch: &mut Batch) {
        let statement = Statement::new(WRITE)
            .bind(i64::from(self.revision))
            .bind(self.log.id.0)
            .bind(i64::from(self.log.epoch))
            .bind(self.position.to_i64())
            .bind(i64::from(self.published))
            .bind(self.last_event.map(|event| event.position.to_i64()))
            .bind(self.last_event.map(|event| event.id.0));
        batch.add(statement);
    }

    /// Checks that the log still contains the last event that the rows reflect. A folder that was restored manually has
    /// the log's id and epoch, but different events after the point of the copy.
    pub(crate) async fn check_history(&self, log: &Log) -> Result<(), Incompatible> {
        let Some(EventRef { position, id }) = self.last_event else { return Ok(()) };
        match log.read_all(Position(position.0.saturating_sub(1)), &Filter::All, 1).await {
            Ok(page)
                if page.events.first().is_none_or(|event| (event.position, event.id) != (position, id)) =>
            {
                Err(Incompatible::Diverged(position))
            }
            // The projector meets the same read error when it follows the log, and reports it.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Checks that a projection of this revision can continue from here on this log.
    pub(crate) fn check_compatible(
        &self,
        revision: u32,
        log: Identity,
        head: Position,
    ) -> Result<(), Incompatible> {
        if self.revision != revision {
            return Err(Incompatible::Revision { stored: self.revision, current: revision });
        }
        if self.log.id != log.id {
            return Err(Incompatible::OtherLog);
        }
        if self.log.epoch != log.epoch {
            return Err(Incompatible::OtherEpoch { stored: self.log.epoch, current: log.epoch });
        }
        if self.position > head {
            return Err(Incompatible::BeyondHead { position: self.position, head });
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
    fn checkpoint_of_same_log_and_revision_is_compatible() {
        let stored = checkpoint();
        assert_eq!(stored.check_compatible(3, stored.log, Position(10)), Ok(()));
    }

    #[test]
    fn checkpoint_of_other_log_epoch_or_revision_is_incompatible() {
        let stored = checkpoint();
        let other = Identity { id: LogId(Uuid::from_u128(9)), epoch: 2 };
        let restored = Identity { epoch: 3, ..stored.log };
        let head = Position(10);
        assert_eq!(
            stored.check_compatible(4, stored.log, head),
            Err(Incompatible::Revision { stored: 3, current: 4 })
        );
        assert_eq!(stored.check_compatible(3, other, head), Err(Incompatible::OtherLog));
        assert_eq!(
            stored.check_compatible(3, restored, head),
            Err(Incompatible::OtherEpoch { stored: 2, current: 3 })
        );
        let beyond = Incompatible::BeyondHead { position: Position(10), head: Position(9) };
        assert_eq!(stored.check_compatible(3, stored.log, Position(9)), Err(beyond));
    }
}
