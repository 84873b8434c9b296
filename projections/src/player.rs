//! `players`: the rating of each player in each pool, and the players that they block.

use std::sync::Arc;

use event_log::Log;
use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{PoolKey, Position, SubjectId, Tenant};
use event_schemas::player::{PlayerEvent, PlayerRated};
use event_schemas::rating::Skill;
use event_schemas::stream::Category;
use event_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::generation::{QueryError, Slot};
use crate::projection::{Name, Projection, StorePolicy};
use crate::row::{parse_json, parse_stored, store_error, to_json};
use crate::row_cache::RowCache;
use crate::sql::{Db, Ddl, SqlError, Statement, Tx, ddl, row};

pub(crate) const UPSERT: &str = "INSERT INTO ratings (tenant, subject_id, pool_key, view, position) \
     VALUES ($1, $2, $3, $4, $5) \
     ON CONFLICT (tenant, subject_id, pool_key) DO UPDATE SET view = excluded.view, \
     position = excluded.position";
pub(crate) const ONE: &str =
    "SELECT view FROM ratings WHERE tenant = $1 AND subject_id = $2 AND pool_key = $3";
pub(crate) const RATINGS: &str = "SELECT view FROM ratings WHERE tenant = $1 AND subject_id = $2 \
     AND pool_key > $3 ORDER BY pool_key LIMIT $4";
pub(crate) const BLOCK: &str = "INSERT INTO blocks (tenant, subject_id, blocked, blocked_at) \
     VALUES ($1, $2, $3, $4) \
     ON CONFLICT (tenant, subject_id, blocked) DO UPDATE SET blocked_at = excluded.blocked_at";
pub(crate) const UNBLOCK: &str = "DELETE FROM blocks WHERE tenant = $1 AND subject_id = $2 AND blocked = $3";
pub(crate) const BLOCKS: &str = "SELECT blocked, blocked_at FROM blocks WHERE tenant = $1 AND subject_id = $2 \
     AND (blocked_at, blocked) < ($3, $4) ORDER BY blocked_at DESC, blocked DESC LIMIT $5";

#[cfg(test)]
pub(crate) fn sql_texts() -> Vec<String> {
    [UPSERT, ONE, RATINGS, BLOCK, UNBLOCK, BLOCKS].map(str::to_owned).into()
}

/// The rating of a player in a pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RatingView {
    pub pool_key: PoolKey,
    pub skill: Skill,
    /// The number of results that it is based on.
    pub games: u64,
    pub last_rated_at: Timestamp,
    /// The position of the last event that changed it.
    pub position: Position,
}

/// A blocked player.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockView {
    pub blocked: SubjectId,
    pub blocked_at: Timestamp,
}

type RatingKey = (Tenant, SubjectId, PoolKey);

/// The recently used ratings, and the blocks that are not stored.
#[derive(Debug, Default)]
pub(crate) struct PlayerRows {
    ratings: RowCache<RatingKey, RatingView>,
    /// In the order of the log. A block without a time has been lifted.
    blocks: Vec<(Tenant, SubjectId, SubjectId, Option<Timestamp>)>,
}

row! {
    struct Stored {
        view: String,
    }
}

row! {
    struct StoredBlock {
        blocked: Uuid,
        blocked_at: i64,
    }
}

impl PlayerRows {
    async fn rate(&mut self, db: &Db, envelope: &Envelope, rated: &PlayerRated) -> Result<(), SqlError> {
        let key = (envelope.metadata.tenant.clone(), rated.subject_id, rated.pool_key.clone());
        if !self.ratings.contains(&key) {
            let statement =
                Statement::new(ONE).bind(key.0.as_str()).bind(key.1.0).bind(key.2.as_str().to_owned());
            let row: Option<Stored> = db.optional(statement).await?;
            let view = match row {
                Some(row) => parse_stored(&row.view)?,
                None => RatingView {
                    pool_key: rated.pool_key.clone(),
                    skill: rated.before,
                    games: 0,
                    last_rated_at: envelope.metadata.occurred_at,
                    position: envelope.position,
                },
            };
            self.ratings.insert_clean(key.clone(), view);
        }
        if let Some(view) = self.ratings.get_mut(&key) {
            view.skill = rated.after;
            view.games += 1;
            view.last_rated_at = envelope.metadata.occurred_at;
            view.position = envelope.position;
        }
        Ok(())
    }
}

impl Projection for PlayerRows {
    const NAME: Name = Name::Players;
    const REVISION: u32 = 1;
    const DDL: Ddl = ddl!("players");
    const CATEGORIES: &'static [Category] = &[Category::Player];
    const STORE: StorePolicy = StorePolicy::EachBatch;

    type View = ();
    type Shared = ();
    type Request = std::convert::Infallible;

    async fn open(_: &Db, (): &(), _: Position) -> Result<Self, SqlError> {
        Ok(Self::default())
    }

    fn view(&self) {}

    async fn fold(&mut self, db: &Db, events: &[&Envelope], _: Position) -> Result<(), SqlError> {
        for envelope in events {
            let Event::Player(event) = &envelope.event else { continue };
            let tenant = &envelope.metadata.tenant;
            match event {
                PlayerEvent::PlayerRated(rated) => self.rate(db, envelope, rated).await?,
                PlayerEvent::PlayerBlocked(event) => {
                    let at = Some(envelope.metadata.occurred_at);
                    self.blocks.push((tenant.clone(), event.subject_id, event.blocked, at));
                }
                PlayerEvent::PlayerUnblocked(event) => {
                    self.blocks.push((tenant.clone(), event.subject_id, event.unblocked, None));
                }
                PlayerEvent::PlayerQueued(_)
                | PlayerEvent::QueueEntryCancelled(_)
                | PlayerEvent::QueueEntryExpired(_)
                | PlayerEvent::QueueEntryMatched(_)
                | PlayerEvent::QueueEntryReleased(_)
                | PlayerEvent::PlayerReserved(_)
                | PlayerEvent::PlayerReleased(_) => {}
            }
        }
        Ok(())
    }

    async fn store(&mut self, tx: &mut Tx) -> Result<(), SqlError> {
        for ((tenant, subject, pool), view) in self.ratings.dirty() {
            let statement = Statement::new(UPSERT)
                .bind(tenant.as_str())
                .bind(subject.0)
                .bind(pool.as_str())
                .bind(to_json(view))
                .bind(view.position.to_i64());
            tx.execute(statement).await?;
        }
        for (tenant, subject, blocked, since) in &self.blocks {
            let sql = if since.is_some() { BLOCK } else { UNBLOCK };
            let mut statement = Statement::new(sql).bind(tenant.as_str()).bind(subject.0).bind(blocked.0);
            if let Some(since) = since {
                statement = statement.bind(since.micros());
            }
            tx.execute(statement).await?;
        }
        Ok(())
    }

    fn on_stored(&mut self) {
        self.ratings.mark_stored();
        self.blocks.clear();
    }

    async fn handle_request(
        &mut self,
        request: Self::Request,
        _: &Log,
        _: &Db,
        _: Position,
    ) -> Result<(), SqlError> {
        match request {}
    }
}

/// The last block of a page: the next page starts after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockCursor {
    pub blocked_at: Timestamp,
    pub blocked: SubjectId,
}

/// The queries of `players`.
#[derive(Clone, Debug)]
pub struct Players {
    pub(crate) slot: Arc<Slot<()>>,
}

impl Players {
    /// Lists at most `limit` of the player's ratings after the pool `after`, and the cursor of the next page.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn ratings(
        &self,
        tenant: &Tenant,
        player: SubjectId,
        after: Option<&PoolKey>,
        limit: u32,
    ) -> Result<(Vec<RatingView>, Option<PoolKey>), QueryError> {
        let statement = Statement::new(RATINGS)
            .bind(tenant.as_str())
            .bind(player.0)
            .bind(after.map_or("", PoolKey::as_str))
            // One more row than the limit shows whether there is a next page.
            .bind(i64::from(limit) + 1);
        let rows: Vec<Stored> =
            self.slot.live()?.db.all(statement).await.map_err(|error| store_error(Name::Players, error))?;
        let has_more = rows.len() > limit as usize;
        let items: Vec<RatingView> = rows
            .iter()
            .take(limit as usize)
            .map(|row| parse_json(Name::Players, &row.view))
            .collect::<Result<_, _>>()?;
        let next = items.last().filter(|_| has_more).map(|last| last.pool_key.clone());
        Ok((items, next))
    }

    /// Lists at most `limit` of the players that the player blocks after the cursor, newest first, and the cursor of
    /// the next page.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn blocks(
        &self,
        tenant: &Tenant,
        player: SubjectId,
        after: Option<BlockCursor>,
        limit: u32,
    ) -> Result<(Vec<BlockView>, Option<BlockCursor>), QueryError> {
        let (at, blocked) =
            after.map_or((i64::MAX, Uuid::max()), |cursor| (cursor.blocked_at.micros(), cursor.blocked.0));
        let statement = Statement::new(BLOCKS)
            .bind(tenant.as_str())
            .bind(player.0)
            .bind(at)
            .bind(blocked)
            .bind(i64::from(limit) + 1);
        let rows: Vec<StoredBlock> =
            self.slot.live()?.db.all(statement).await.map_err(|error| store_error(Name::Players, error))?;
        let has_more = rows.len() > limit as usize;
        let items: Vec<BlockView> = rows
            .iter()
            .take(limit as usize)
            .map(|row| BlockView {
                blocked: SubjectId(row.blocked),
                blocked_at: Timestamp::from_micros(row.blocked_at),
            })
            .collect();
        let next = items
            .last()
            .filter(|_| has_more)
            .map(|last| BlockCursor { blocked_at: last.blocked_at, blocked: last.blocked });
        Ok((items, next))
    }
}
