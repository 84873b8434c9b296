//! `served_lists`: where each served list is in the log. The list itself is its event.

use std::sync::Arc;

use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{ListId, Position, Tenant};
use event_schemas::stream::Category;
use event_schemas::user::UserEvent;

use crate::generation::{QueryError, Slot};
use crate::projection::Name;
use crate::rows::RowModel;
use crate::sql::{Batch, Db, Ddl, SqlError, Statement, ddl};

/// Ids are unique, so a second event with one is not of this program, and does not count.
pub(crate) const INSERT: &str =
    "INSERT INTO served_lists (tenant, list_id, position) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
pub(crate) const DELETE: &str = "DELETE FROM served_lists WHERE tenant = $1 AND list_id = $2";
pub(crate) const ONE: &str = "SELECT position FROM served_lists WHERE tenant = $1 AND list_id = $2";

#[cfg(test)]
pub(crate) fn sql_texts() -> Vec<String> {
    [INSERT, DELETE, ONE].map(str::to_owned).into()
}

/// The lists that are folded and not stored.
#[derive(Debug, Default)]
pub(crate) struct ServedListRows {
    served: Vec<(Tenant, ListId, Position)>,
    /// Those of erased users. No list of such a user follows.
    forgotten: Vec<(Tenant, ListId)>,
}

/// The list that an event hands out.
fn served(envelope: &Envelope) -> Option<(Tenant, ListId)> {
    match &envelope.event {
        Event::User(UserEvent::ListServed(served)) => {
            Some((envelope.metadata.tenant.clone(), served.list_id))
        }
        _ => None,
    }
}

impl RowModel for ServedListRows {
    const NAME: Name = Name::ServedLists;
    const REVISION: u32 = 1;
    const DDL: Ddl = ddl!("served_lists");
    const CATEGORIES: &'static [Category] = &[Category::User];

    async fn fold(&mut self, _: &Db, events: &[&Envelope]) -> Result<(), SqlError> {
        self.served.extend(events.iter().filter_map(|envelope| {
            let (tenant, list) = served(envelope)?;
            Some((tenant, list, envelope.position))
        }));
        Ok(())
    }

    async fn forget(&mut self, _: &Db, _: &Envelope, earlier: &[Envelope]) -> Result<(), SqlError> {
        self.forgotten.extend(earlier.iter().filter_map(served));
        Ok(())
    }

    fn store(&self, batch: &mut Batch) {
        for (tenant, list, position) in &self.served {
            let insert = Statement::new(INSERT).bind(tenant.as_str()).bind(list.0);
            batch.add(insert.bind(position.to_i64()));
        }
        for (tenant, list) in &self.forgotten {
            batch.add(Statement::new(DELETE).bind(tenant.as_str()).bind(list.0));
        }
    }

    fn has_changes(&self) -> bool {
        !self.served.is_empty() || !self.forgotten.is_empty()
    }

    fn on_stored(&mut self) {
        // This frees the memory, too: a batch during catch-up is large.
        *self = Self::default();
    }

    fn on_published(&mut self) {}
}

/// The queries of `served_lists`.
#[derive(Clone, Debug)]
pub struct ServedLists {
    pub(crate) slot: Arc<Slot<()>>,
}

impl ServedLists {
    /// The position of a list of the tenant in the log.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn position(&self, tenant: &Tenant, list: ListId) -> Result<Option<Position>, QueryError> {
        let generation = self.slot.live()?;
        let statement = Statement::new(ONE).bind(tenant.as_str()).bind(list.0);
        let row: Option<(i64,)> = generation
            .db
            .optional(statement)
            .await
            .map_err(|error| generation.query_error(Name::ServedLists, error))?;
        Ok(row.map(|(position,)| Position::from_i64(position)))
    }
}
