//! `players`: the rating of each player in each pool, and the players that they block. Both end when the player is erased.

use std::collections::BTreeMap;
use std::sync::Arc;

use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{PoolKey, Position, SubjectId, Tenant};
use event_schemas::player::{PlayerEvent, PlayerRated};
use event_schemas::rating::Skill;
use event_schemas::stream::{Category, StreamId};
use event_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::generation::{QueryError, Slot};
use crate::projection::Name;
use crate::row::to_json;
use crate::rows::{RowModel, Rows, Table, json};
use crate::sql::{Batch, Db, Ddl, SqlError, Statement, Value, ddl};

pub(crate) const UPSERT: &str = "INSERT INTO ratings (tenant, subject_id, pool_key, view, position) \
     VALUES ($1, $2, $3, $4, $5) \
     ON CONFLICT (tenant, subject_id, pool_key) DO UPDATE SET view = excluded.view, \
     position = excluded.position";
pub(crate) const DELETE: &str = "DELETE FROM ratings WHERE tenant = $1 AND subject_id = $2 AND pool_key = $3";
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
    [UPSERT, DELETE, ONE, RATINGS, BLOCK, UNBLOCK, BLOCKS].map(str::to_owned).into()
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

/// The ratings by player and pool.
#[derive(Debug)]
pub(crate) struct Ratings;

impl Table for Ratings {
    type Key = RatingKey;
    type Value = RatingView;
    const ONE: &'static str = ONE;

    fn key((tenant, subject, pool): &RatingKey) -> Vec<Value> {
        vec![tenant.as_str().into(), subject.0.into(), pool.as_str().into()]
    }

    fn write(key: &RatingKey, view: Option<&RatingView>) -> Option<Statement> {
        let (tenant, subject, pool) = key;
        let key = |sql| Statement::new(sql).bind(tenant.as_str()).bind(subject.0).bind(pool.as_str());
        let Some(view) = view else { return Some(key(DELETE)) };
        let statement = key(UPSERT).bind(to_json(view)).bind(view.position.to_i64());
        Some(statement)
    }
}

/// The ratings, and the blocks that are not stored.
#[derive(Debug, Default)]
pub(crate) struct PlayerRows {
    ratings: Rows<Ratings>,
    /// The time of the last block; none if it has been lifted.
    blocks: BTreeMap<(Tenant, SubjectId, SubjectId), Option<Timestamp>>,
}

/// The rating that an event changes.
fn rated(envelope: &Envelope) -> Option<(RatingKey, &PlayerRated)> {
    let Event::Player(PlayerEvent::PlayerRated(rated)) = &envelope.event else { return None };
    Some(((envelope.metadata.tenant.clone(), rated.subject_id, rated.pool_key.clone()), rated))
}

impl PlayerRows {
    fn rate(&mut self, key: RatingKey, envelope: &Envelope, rated: &PlayerRated) {
        let games = self.ratings.get(&key).map_or(0, |view| view.games);
        let view = RatingView {
            pool_key: rated.pool_key.clone(),
            skill: rated.after,
            games: games + 1,
            last_rated_at: envelope.metadata.occurred_at,
            position: envelope.position,
        };
        self.ratings.set(key, Some(view));
    }
}

impl RowModel for PlayerRows {
    const NAME: Name = Name::Players;
    const REVISION: u32 = 1;
    const DDL: Ddl = ddl!("players");
    const CATEGORIES: &'static [Category] = &[Category::Player, Category::User];
    const ERASED_STREAM: fn(&Tenant, SubjectId) -> StreamId = StreamId::player;

    async fn fold(&mut self, db: &Db, events: &[&Envelope]) -> Result<(), SqlError> {
        self.ratings.load(db, events.iter().filter_map(|envelope| Some(rated(envelope)?.0))).await?;
        for envelope in events {
            if let Some((key, rated)) = rated(envelope) {
                self.rate(key, envelope, rated);
            }
            let tenant = &envelope.metadata.tenant;
            match &envelope.event {
                Event::Player(PlayerEvent::PlayerBlocked(event)) => {
                    let block = (tenant.clone(), event.subject_id, event.blocked);
                    self.blocks.insert(block, Some(envelope.metadata.occurred_at));
                }
                Event::Player(PlayerEvent::PlayerUnblocked(event)) => {
                    self.blocks.insert((tenant.clone(), event.subject_id, event.unblocked), None);
                }
                _ => {}
            }
        }
        Ok(())
    }

    async fn forget(&mut self, _: &Db, _: &Envelope, earlier: &[Envelope]) -> Result<(), SqlError> {
        for envelope in earlier {
            if let Some((key, _)) = rated(envelope) {
                self.ratings.set(key, None);
            }
            if let Event::Player(PlayerEvent::PlayerBlocked(event)) = &envelope.event {
                let tenant = envelope.metadata.tenant.clone();
                self.blocks.insert((tenant, event.subject_id, event.blocked), None);
            }
        }
        Ok(())
    }

    fn store(&self, batch: &mut Batch) {
        self.ratings.store(batch);
        for ((tenant, subject, blocked), since) in &self.blocks {
            let sql = if since.is_some() { BLOCK } else { UNBLOCK };
            let mut statement = Statement::new(sql).bind(tenant.as_str()).bind(subject.0).bind(blocked.0);
            if let Some(since) = since {
                statement = statement.bind(since.micros());
            }
            batch.add(statement);
        }
    }

    fn has_changes(&self) -> bool {
        self.ratings.has_changes() || !self.blocks.is_empty()
    }

    fn on_stored(&mut self) {
        self.ratings.on_stored();
        self.blocks.clear();
    }

    fn on_published(&mut self) {
        self.ratings.on_published();
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
            .bind(after.map_or("", PoolKey::as_str));
        let parse = |row| json(Name::Players, row);
        let cursor = |last: &RatingView| last.pool_key.clone();
        self.slot.live()?.page(Name::Players, statement, limit, parse, cursor).await
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
        let statement = Statement::new(BLOCKS).bind(tenant.as_str()).bind(player.0).bind(at).bind(blocked);
        let parse = |(blocked, blocked_at): (Uuid, i64)| {
            let blocked_at = Timestamp::from_micros(blocked_at);
            Ok(BlockView { blocked: SubjectId(blocked), blocked_at })
        };
        let cursor = |last: &BlockView| BlockCursor { blocked_at: last.blocked_at, blocked: last.blocked };
        self.slot.live()?.page(Name::Players, statement, limit, parse, cursor).await
    }
}
