//! `queues`: everyone who waits, in memory, and every entry that ever was.
//!
//! Readers are served from the fold that the matchmaker decides by, at the position that the projector has reached. The rows
//! follow about a second behind: one for each entry, pool, block and open proposal that changed. After a restart the fold
//! is put together from the rows, and goes on from their checkpoint.

mod answers;
mod hot;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, LazyLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use domain::matchmaking::queues::pieces::{FORMAT, Kept, KeptPool, Piece};
use domain::matchmaking::queues::{PoolId, Queues as Fold};
use event_log::Log;
use event_schemas::envelope::Envelope;
use event_schemas::ids::{EntryId, MatchRecordId, Position, SubjectId};
use event_schemas::stream::Category;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use uuid::Uuid;

pub use answers::{EntryView, PoolCount, PoolView, QueueCount, Queues};
pub use hot::{Ends, EntryStatus, QueueEntry, Taken};

use crate::projection::{Name, Projection, Store};
use crate::row::to_json;
use crate::sql::{Db, ManyRows, SqlError, Statement, Tx, row};
use hot::Hot;

pub(crate) static UPSERT: LazyLock<ManyRows> = LazyLock::new(|| {
    ManyRows::new(
        "INSERT INTO queue_entries (entry_id, tenant, is_open, entry) VALUES",
        4,
        "ON CONFLICT (entry_id) DO UPDATE SET is_open = excluded.is_open, entry = excluded.entry",
    )
});
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

/// How many events are folded before readers get a turn.
const LOCKED_EVENTS_MAX: usize = 256;

/// What readers and projector share.
pub(crate) type View = Arc<RwLock<Hot>>;

fn read(view: &View) -> RwLockReadGuard<'_, Hot> {
    view.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(view: &View) -> RwLockWriteGuard<'_, Hot> {
    view.write().unwrap_or_else(PoisonError::into_inner)
}

/// Where listeners hear that queues have changed, of whichever generation is live.
#[derive(Clone, Debug)]
pub(crate) struct Announcements(watch::Sender<Position>);

impl Default for Announcements {
    fn default() -> Self {
        Self(watch::Sender::new(Position::START))
    }
}

/// The projector's side of the queues.
#[derive(Debug)]
pub(crate) struct QueueRows {
    view: View,
    announcements: Announcements,
    is_live: bool,
    changed: BTreeSet<Piece>,
}

/// What a pool's row holds.
#[derive(Debug, Serialize, Deserialize)]
struct PoolRow {
    kept: KeptPool,
    ends: Ends,
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

/// An entry as its row tells it, if it has one.
async fn stored_entry(db: &Db, id: EntryId) -> Result<Option<QueueEntry>, SqlError> {
    let row: Option<StoredEntry> = db.optional(Statement::new(ONE).bind(id.0)).await?;
    row.map(|row| parse(&row.entry)).transpose()
}

/// The rows from which a fold begins.
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

    fn fold(self, position: Position) -> Result<Hot, SqlError> {
        let (mut kept, mut taken, mut ends) = (Kept::default(), HashMap::new(), BTreeMap::new());
        for row in self.entries {
            let entry: QueueEntry = parse(&row.entry)?;
            taken.extend(entry.taken.map(|taken| (entry.entry.queued.entry_id, taken)));
            kept.entries.push(entry.entry);
        }
        for row in self.pools {
            let tenant = row.tenant.parse().map_err(|error| damaged(&error))?;
            let id: PoolId = (tenant, row.pool_key.parse().map_err(|error| damaged(&error))?);
            let pool: PoolRow = parse(&row.pool)?;
            if pool.ends != Ends::default() {
                ends.insert(id.clone(), pool.ends);
            }
            kept.pools.push((id, pool.kept));
        }
        let blocks = self.blocks.into_iter();
        kept.blocks = blocks.map(|row| (SubjectId(row.subject), SubjectId(row.blocked))).collect();
        for row in self.proposed {
            let tenant = row.tenant.parse().map_err(|error| damaged(&error))?;
            kept.proposed.push((tenant, parse(&row.proposed)?));
        }
        Ok(Hot::new(position, Fold::restore(kept), taken, ends))
    }
}

impl Projection for QueueRows {
    const NAME: Name = Name::Queues;
    // Another form of the fold makes another revision by itself.
    const REVISION: u32 = 1000 * FORMAT + 1;
    const DDL: &'static str = include_str!("../../migrations/sqlite/queues.sql");
    const CATEGORIES: &'static [Category] = &[Category::Player, Category::Pool, Category::MatchRecord];
    const STORE: Store = Store::Behind { after: Duration::from_secs(1), events_max: 20_000 };

    type View = View;
    type Shared = Announcements;
    type Request = std::convert::Infallible;

    async fn open(db: &Db, shared: &Announcements, position: Position) -> Result<Self, SqlError> {
        let rows = Rows::read(db).await?;
        // With many who wait this takes a while.
        let hot = tokio::task::spawn_blocking(move || rows.fold(position))
            .await
            .map_err(|error| damaged(&error))??;
        Ok(Self {
            view: Arc::new(RwLock::new(hot)),
            announcements: shared.clone(),
            is_live: false,
            changed: BTreeSet::new(),
        })
    }

    fn view(&self) -> View {
        Arc::clone(&self.view)
    }

    async fn fold(&mut self, _: &Db, events: &[&Envelope], position: Position) -> Result<(), SqlError> {
        let mut has_changed = false;
        for chunk in events.chunks(LOCKED_EVENTS_MAX) {
            let mut hot = write(&self.view);
            for envelope in chunk {
                let changed = hot.fold(envelope);
                has_changed |= !changed.is_empty();
                self.changed.extend(changed);
                hot.position = envelope.position;
            }
        }
        write(&self.view).position = position;
        if self.is_live && has_changed {
            self.announcements.0.send_replace(position);
        }
        Ok(())
    }

    fn passed(&mut self, position: Position) {
        write(&self.view).position = position;
    }

    async fn store(&mut self, tx: &mut Tx) -> Result<(), SqlError> {
        let (view, changed) = (Arc::clone(&self.view), self.changed.clone());
        let statements = tokio::task::spawn_blocking(move || statements(&read(&view), changed))
            .await
            .map_err(|error| damaged(&error))?;
        for statement in statements {
            tx.execute(statement).await?;
        }
        Ok(())
    }

    fn stored(&mut self) {
        write(&self.view).stored();
        self.changed.clear();
    }

    fn published(&mut self) {
        self.is_live = true;
    }

    async fn answer(&mut self, request: Self::Request, _: &Log, _: &Db, _: Position) -> Result<(), SqlError> {
        match request {}
    }
}

/// What makes the rows of these pieces tell the truth.
fn statements(hot: &Hot, changed: BTreeSet<Piece>) -> Vec<Statement> {
    let (mut entries, mut statements) = (Vec::new(), Vec::new());
    for piece in changed {
        match piece {
            Piece::Entry(id) => entries.extend(hot.entry(id).map(|entry| (id, entry))),
            Piece::Pool(id) => statements.extend(pool_statement(hot, &id)),
            Piece::Block(by, other) => {
                let text = if hot.queues.blocks().has(by, other) { BLOCK } else { UNBLOCK };
                statements.push(Statement::new(text).bind(by.0).bind(other.0));
            }
            Piece::Proposed(id) => statements.push(proposal_statement(hot, id)),
        }
    }
    let mut rows = entries.as_slice();
    while let Some((mut statement, chunk)) = UPSERT.take(&mut rows) {
        for (id, entry) in chunk {
            statement = statement
                .bind(id.0)
                .bind(entry.entry.tenant.as_str())
                .bind(i64::from(entry.ended_at.is_none()))
                .bind(to_json(entry));
        }
        statements.push(statement);
    }
    statements
}

fn pool_statement(hot: &Hot, id: &PoolId) -> Option<Statement> {
    let row = PoolRow { kept: hot.queues.kept_pool(id)?, ends: hot.ends(id) };
    Some(Statement::new(UPSERT_POOL).bind(id.0.as_str()).bind(id.1.as_str()).bind(to_json(&row)))
}

fn proposal_statement(hot: &Hot, id: MatchRecordId) -> Statement {
    match hot.queues.proposed(id) {
        Some((tenant, proposed)) => {
            Statement::new(PROPOSE).bind(id.0).bind(tenant.as_str()).bind(to_json(proposed))
        }
        None => Statement::new(DECIDE).bind(id.0),
    }
}
