//! `queues`: all waiting queue entries, in memory, and all entries that have ended, in rows.
//!
//! Readers are served from memory, by the same fold that the matchmaker uses, at the position that the projector has
//! reached. The rows follow about a second later: one for each changed entry, pool, block and open proposal. After a
//! restart the fold is restored from the rows, and continues from their checkpoint.

mod live;
mod queries;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use domain::matchmaking::queues::snapshot::{DirtyKey, FORMAT, PoolSnapshot, Snapshot};
use domain::matchmaking::queues::{PoolId, Queues as Fold};
use event_schemas::envelope::Envelope;
use event_schemas::ids::{EntryId, GameMatchId, Position, SubjectId};
use event_schemas::stream::Category;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use uuid::Uuid;

pub use live::{EntryOutcomes, EntryStatus, QueueEntry, Reservation};
pub use queries::{EntryView, PoolCount, PoolView, QueueCount, Queues};

use crate::projection::{Name, Projection, StorePolicy};
use crate::row::to_json;
use crate::sql::{Batch, Db, Ddl, SqlError, Statement, ddl, row};
use live::LiveQueues;

pub(crate) const UPSERT: &str = "INSERT INTO queue_entries (entry_id, tenant, is_open, entry) \
     VALUES ($1, $2, $3, $4) ON CONFLICT (entry_id) DO UPDATE SET is_open = excluded.is_open, entry = excluded.entry";
pub(crate) const ONE: &str = "SELECT entry FROM queue_entries WHERE entry_id = $1";
pub(crate) const OPEN: &str = "SELECT entry FROM queue_entries WHERE is_open = 1";
pub(crate) const UPSERT_POOL: &str = "INSERT INTO pools (tenant, pool_key, pool) VALUES ($1, $2, $3) \
     ON CONFLICT (tenant, pool_key) DO UPDATE SET pool = excluded.pool";
pub(crate) const POOLS: &str = "SELECT tenant, pool_key, pool FROM pools";
pub(crate) const BLOCK: &str = "INSERT INTO blocks (subject, blocked) VALUES ($1, $2) \
     ON CONFLICT (subject, blocked) DO NOTHING";
pub(crate) const UNBLOCK: &str = "DELETE FROM blocks WHERE subject = $1 AND blocked = $2";
pub(crate) const BLOCKS: &str = "SELECT subject, blocked FROM blocks";
pub(crate) const PROPOSE: &str = "INSERT INTO proposed_matches (match_id, tenant, proposed) \
     VALUES ($1, $2, $3) ON CONFLICT (match_id) DO UPDATE SET proposed = excluded.proposed";
pub(crate) const DECIDE: &str = "DELETE FROM proposed_matches WHERE match_id = $1";
pub(crate) const PROPOSED: &str = "SELECT tenant, proposed FROM proposed_matches";

#[cfg(test)]
pub(crate) fn sql_texts() -> Vec<String> {
    [UPSERT, ONE, OPEN, UPSERT_POOL, POOLS, BLOCK, UNBLOCK, BLOCKS, PROPOSE, DECIDE, PROPOSED]
        .map(str::to_owned)
        .into()
}

/// The number of events that are folded before the lock is released for readers.
const LOCKED_EVENTS_MAX: usize = 256;

/// The fold that readers and projector share.
pub(crate) type View = Arc<RwLock<LiveQueues>>;

fn read(view: &View) -> RwLockReadGuard<'_, LiveQueues> {
    view.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(view: &View) -> RwLockWriteGuard<'_, LiveQueues> {
    view.write().unwrap_or_else(PoisonError::into_inner)
}

/// Notifies subscribers of changes of the queues in the live generation.
#[derive(Clone, Debug)]
pub(crate) struct QueueChanges(watch::Sender<Position>);

impl Default for QueueChanges {
    fn default() -> Self {
        Self(watch::Sender::new(Position::START))
    }
}

/// The projector's side of the queues.
#[derive(Debug)]
pub(crate) struct QueueRows {
    view: View,
    changes: QueueChanges,
    is_live: bool,
    dirty: BTreeSet<DirtyKey>,
}

/// The content of a pool's row.
#[derive(Debug, Serialize, Deserialize)]
struct PoolRow {
    snapshot: PoolSnapshot,
    outcomes: EntryOutcomes,
}

row! {
    struct StoredEntry {
        entry: String,
    }
}

row! {
    struct StoredPool {
        tenant: String,
        pool_key: String,
        pool: String,
    }
}

row! {
    struct StoredBlock {
        subject: Uuid,
        blocked: Uuid,
    }
}

row! {
    struct StoredProposal {
        tenant: String,
        proposed: String,
    }
}

fn damaged(error: &impl std::fmt::Display) -> SqlError {
    SqlError::Damaged(error.to_string())
}

fn parse<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, SqlError> {
    serde_json::from_str(text).map_err(|error| damaged(&error))
}

/// The stored entry, if it has a row.
async fn stored_entry(db: &Db, id: EntryId) -> Result<Option<QueueEntry>, SqlError> {
    let row: Option<StoredEntry> = db.optional(Statement::new(ONE).bind(id.0)).await?;
    row.map(|row| parse(&row.entry)).transpose()
}

/// The rows from which a fold is restored.
struct Rows {
    entries: Vec<StoredEntry>,
    pools: Vec<StoredPool>,
    blocks: Vec<StoredBlock>,
    proposed: Vec<StoredProposal>,
}

impl Rows {
    async fn read(db: &Db) -> Result<Self, SqlError> {
        Ok(Self {
            entries: db.all(Statement::new(OPEN)).await?,
            pools: db.all(Statement::new(POOLS)).await?,
            blocks: db.all(Statement::new(BLOCKS)).await?,
            proposed: db.all(Statement::new(PROPOSED)).await?,
        })
    }

    fn restore(self, position: Position) -> Result<LiveQueues, SqlError> {
        let (mut snapshot, mut reservations, mut outcomes) =
            (Snapshot::default(), HashMap::new(), BTreeMap::new());
        for row in self.entries {
            let entry: QueueEntry = parse(&row.entry)?;
            let id = entry.entry.queued.entry_id;
            reservations.extend(entry.reservation.map(|reservation| (id, reservation)));
            snapshot.entries.push(entry.entry);
        }
        for row in self.pools {
            let tenant = row.tenant.parse().map_err(|error| damaged(&error))?;
            let id: PoolId = (tenant, row.pool_key.parse().map_err(|error| damaged(&error))?);
            let pool: PoolRow = parse(&row.pool)?;
            if pool.outcomes != EntryOutcomes::default() {
                outcomes.insert(id.clone(), pool.outcomes);
            }
            snapshot.pools.push((id, pool.snapshot));
        }
        let blocks = self.blocks.into_iter();
        snapshot.blocks = blocks.map(|row| (SubjectId(row.subject), SubjectId(row.blocked))).collect();
        for row in self.proposed {
            let tenant = row.tenant.parse().map_err(|error| damaged(&error))?;
            snapshot.proposed.push((tenant, parse(&row.proposed)?));
        }
        Ok(LiveQueues::new(position, Fold::restore(snapshot), reservations, outcomes))
    }
}

impl Projection for QueueRows {
    const NAME: Name = Name::Queues;
    // A new format of the fold changes the revision automatically.
    const REVISION: u32 = 1000 * FORMAT + 2;
    const DDL: Ddl = ddl!("queues");
    const CATEGORIES: &'static [Category] = &[Category::Player, Category::Pool, Category::GameMatch];
    const STORE: StorePolicy = StorePolicy::WriteBehind { after: Duration::from_secs(1), events_max: 20_000 };

    type View = View;
    type Shared = QueueChanges;

    async fn open(db: &Db, shared: &QueueChanges, position: Position) -> Result<Self, SqlError> {
        let rows = Rows::read(db).await?;
        // With many entries this takes a while.
        let live = tokio::task::spawn_blocking(move || rows.restore(position))
            .await
            .map_err(|error| damaged(&error))??;
        Ok(Self {
            view: Arc::new(RwLock::new(live)),
            changes: shared.clone(),
            is_live: false,
            dirty: BTreeSet::new(),
        })
    }

    fn view(&self) -> View {
        Arc::clone(&self.view)
    }

    async fn fold(&mut self, _: &Db, events: &[&Envelope], position: Position) -> Result<(), SqlError> {
        let mut has_changed = false;
        for chunk in events.chunks(LOCKED_EVENTS_MAX) {
            let mut live = write(&self.view);
            for envelope in chunk {
                let keys = live.fold(envelope);
                has_changed |= !keys.is_empty();
                self.dirty.extend(keys);
                live.position = envelope.position;
            }
        }
        write(&self.view).position = position;
        if self.is_live && has_changed {
            self.changes.0.send_replace(position);
        }
        Ok(())
    }

    fn skip_to(&mut self, position: Position) {
        write(&self.view).position = position;
    }

    async fn store(&mut self, batch: &mut Batch) -> Result<(), SqlError> {
        let (view, dirty) = (Arc::clone(&self.view), self.dirty.clone());
        let statements = tokio::task::spawn_blocking(move || statements(&read(&view), dirty))
            .await
            .map_err(|error| damaged(&error))?;
        for statement in statements {
            batch.add(statement);
        }
        Ok(())
    }

    fn has_changes(&self) -> bool {
        !self.dirty.is_empty()
    }

    fn on_stored(&mut self) {
        write(&self.view).mark_stored();
        self.dirty.clear();
    }

    fn on_published(&mut self) {
        self.is_live = true;
    }
}

/// The statements that write the rows of these keys.
fn statements(live: &LiveQueues, dirty: BTreeSet<DirtyKey>) -> Vec<Statement> {
    let mut statements = Vec::new();
    for key in dirty {
        match key {
            DirtyKey::Entry(id) => {
                statements.extend(live.entry(id).map(|entry| entry_statement(id, &entry)));
            }
            DirtyKey::Pool(id) => statements.extend(pool_statement(live, &id)),
            DirtyKey::Block(by, other) => {
                let text = if live.queues.blocks().has(by, other) { BLOCK } else { UNBLOCK };
                statements.push(Statement::new(text).bind(by.0).bind(other.0));
            }
            DirtyKey::Proposed(id) => statements.push(proposal_statement(live, id)),
        }
    }
    statements
}

fn entry_statement(id: EntryId, entry: &QueueEntry) -> Statement {
    Statement::new(UPSERT)
        .bind(id.0)
        .bind(entry.entry.tenant.as_str())
        .bind(i64::from(entry.ended_at.is_none()))
        .bind(to_json(entry))
}

fn pool_statement(live: &LiveQueues, id: &PoolId) -> Option<Statement> {
    let row = PoolRow { snapshot: live.queues.pool_snapshot(id)?, outcomes: live.outcomes(id) };
    Some(Statement::new(UPSERT_POOL).bind(id.0.as_str()).bind(id.1.as_str()).bind(to_json(&row)))
}

fn proposal_statement(live: &LiveQueues, id: GameMatchId) -> Statement {
    match live.queues.proposed(id) {
        Some((tenant, proposed)) => {
            Statement::new(PROPOSE).bind(id.0).bind(tenant.as_str()).bind(to_json(proposed))
        }
        None => Statement::new(DECIDE).bind(id.0),
    }
}
