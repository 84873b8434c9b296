//! `match_records`: one row for each match of two players.

use std::sync::Arc;

use event_log::Log;
use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{ChallengeId, GameId, MatchRecordId, PoolKey, Position, SubjectId, Tenant};
use event_schemas::match_record::{
    AbandonReason, GameResult, MatchPlayer, MatchProposed, MatchRecordEvent, Side,
};
use event_schemas::player::{PlayerEvent, PlayerRated};
use event_schemas::stream::Category;
use event_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::generation::{QueryError, Slot};
use crate::kept::Kept;
use crate::projection::{Name, Projection, Store};
use crate::row::{json, store_error, stored, to_json, variant};
use crate::sql::{Db, SqlError, Statement, Tx, row};

pub(crate) const UPSERT: &str = "INSERT INTO match_records \
     (match_id, tenant, first, second, status, created_at, view, position) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
     ON CONFLICT (match_id) DO UPDATE SET status = excluded.status, view = excluded.view, \
     position = excluded.position";
pub(crate) const ONE: &str = "SELECT view FROM match_records WHERE match_id = $1";
/// Each side by its own index, so that a player's long past is never sorted.
pub(crate) const LIST: &str = "SELECT view FROM (\
     SELECT * FROM (SELECT view, created_at, match_id FROM match_records \
     WHERE tenant = $1 AND first = $2 AND (created_at, match_id) < ($3, $4) AND ($5 IS NULL OR status = $5) \
     ORDER BY created_at DESC, match_id DESC LIMIT $6) AS firsts \
     UNION ALL \
     SELECT * FROM (SELECT view, created_at, match_id FROM match_records \
     WHERE tenant = $1 AND second = $2 AND (created_at, match_id) < ($3, $4) AND ($5 IS NULL OR status = $5) \
     ORDER BY created_at DESC, match_id DESC LIMIT $6) AS seconds\
     ) AS both_sides ORDER BY created_at DESC, match_id DESC LIMIT $6";

pub(crate) const LIST_ALL: &str = "SELECT view FROM match_records \
     WHERE tenant = $1 AND (created_at, match_id) < ($2, $3) AND ($4 IS NULL OR status = $4) \
     ORDER BY created_at DESC, match_id DESC LIMIT $5";

/// Where a match stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MatchStatus {
    /// Its game is being made.
    Placing,
    Playing,
    /// A result was reported.
    Finished,
    /// No result came in time.
    Expired,
    /// No game came of it.
    Abandoned,
}

/// One of the two.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlayerView {
    pub subject_id: SubjectId,
    /// Since when the player had waited; none in a challenge.
    pub queued_at: Option<Timestamp>,
    /// By which the two were put together.
    pub rating: u16,
    /// What the result made of the player's rating, from and to, once it has.
    pub rated: Option<(f64, f64)>,
}

/// A match as it is shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MatchView {
    pub match_id: MatchRecordId,
    pub tenant: Tenant,
    pub pool_key: PoolKey,
    pub challenge_id: Option<ChallengeId>,
    pub status: MatchStatus,
    pub first: PlayerView,
    pub second: PlayerView,
    pub game_id: Option<GameId>,
    pub result: Option<GameResult>,
    pub abandoned: Option<AbandonReason>,
    /// What the game service said, if it was why no game came.
    pub detail: Option<String>,
    pub created_at: Timestamp,
    pub confirmed_at: Option<Timestamp>,
    pub result_due_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    /// Of the event that changed it last.
    pub position: Position,
}

impl MatchView {
    fn begin(envelope: &Envelope, proposed: &MatchProposed) -> Self {
        let player = |player: &MatchPlayer| PlayerView {
            subject_id: player.subject_id,
            queued_at: player.queued_at,
            rating: player.rating.points(),
            rated: None,
        };
        Self {
            match_id: proposed.match_id,
            tenant: envelope.metadata.tenant.clone(),
            pool_key: proposed.pool_key.clone(),
            challenge_id: proposed.challenge_id,
            status: MatchStatus::Placing,
            first: player(&proposed.first),
            second: player(&proposed.second),
            game_id: None,
            result: None,
            abandoned: None,
            detail: None,
            created_at: envelope.metadata.occurred_at,
            confirmed_at: None,
            result_due_at: None,
            ended_at: None,
            position: envelope.position,
        }
    }

    fn apply(&mut self, envelope: &Envelope, event: &MatchRecordEvent) {
        let at = envelope.metadata.occurred_at;
        self.position = envelope.position;
        match event {
            MatchRecordEvent::MatchProposed(_) => {}
            MatchRecordEvent::MatchConfirmed(confirmed) => {
                self.status = MatchStatus::Playing;
                self.game_id.clone_from(&confirmed.game_id);
                self.confirmed_at = Some(at);
                self.result_due_at = Some(confirmed.result_due_at);
            }
            MatchRecordEvent::MatchAbandoned(abandoned) => {
                self.status = MatchStatus::Abandoned;
                self.abandoned = Some(abandoned.reason);
                // Of a player who was gone the detail is their subject, which is nobody else's business.
                if abandoned.reason != AbandonReason::PlayerUnavailable {
                    self.detail.clone_from(&abandoned.detail);
                }
                self.ended_at = Some(at);
            }
            MatchRecordEvent::MatchResultReported(reported) => {
                self.status = MatchStatus::Finished;
                self.result = Some(reported.result);
                self.ended_at = Some(at);
            }
            MatchRecordEvent::MatchExpired(_) => {
                self.status = MatchStatus::Expired;
                self.ended_at = Some(at);
            }
        }
    }

    fn rate(&mut self, position: Position, rated: &PlayerRated) {
        let player = [&mut self.first, &mut self.second]
            .into_iter()
            .find(|player| player.subject_id == rated.subject_id);
        if let Some(player) = player {
            player.rated = Some((rated.before.rating, rated.after.rating));
            self.position = position;
        }
    }

    /// On which side the subject plays, if they do.
    pub fn side_of(&self, subject: SubjectId) -> Option<Side> {
        if self.first.subject_id == subject {
            return Some(Side::First);
        }
        (self.second.subject_id == subject).then_some(Side::Second)
    }
}

/// Matches that were lately touched.
#[derive(Debug, Default)]
pub(crate) struct MatchRecordRows(Kept<MatchRecordId, MatchView>);

row! {
    struct Stored {
        view: String,
    }
}

impl MatchRecordRows {
    async fn load(&mut self, db: &Db, id: MatchRecordId) -> Result<(), SqlError> {
        if self.0.holds(&id) {
            return Ok(());
        }
        let row: Option<Stored> = db.optional(Statement::new(ONE).bind(id.0)).await?;
        if let Some(row) = row {
            self.0.loaded(id, stored(&row.view)?);
        }
        Ok(())
    }
}

impl Projection for MatchRecordRows {
    const NAME: Name = Name::MatchRecords;
    const REVISION: u32 = 1;
    const DDL: &'static str = include_str!("../../migrations/sqlite/match_records.sql");
    /// Those of players say what results made of their ratings.
    const CATEGORIES: &'static [Category] = &[Category::MatchRecord, Category::Player];
    const STORE: Store = Store::EachBatch;

    type View = ();
    type Shared = ();
    type Request = std::convert::Infallible;

    async fn open(_: &Db, (): &(), _: Position) -> Result<Self, SqlError> {
        Ok(Self::default())
    }

    fn view(&self) {}

    async fn fold(&mut self, db: &Db, events: &[&Envelope], _: Position) -> Result<(), SqlError> {
        for envelope in events {
            match &envelope.event {
                Event::MatchRecord(MatchRecordEvent::MatchProposed(proposed)) => {
                    self.0.put(proposed.match_id, MatchView::begin(envelope, proposed));
                }
                Event::MatchRecord(event) => {
                    let Some(id) = envelope.stream.match_record_id() else { continue };
                    self.load(db, id).await?;
                    if let Some(view) = self.0.change(&id) {
                        view.apply(envelope, event);
                    }
                }
                Event::Player(PlayerEvent::PlayerRated(rated)) => {
                    self.load(db, rated.match_id).await?;
                    if let Some(view) = self.0.change(&rated.match_id) {
                        view.rate(envelope.position, rated);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    async fn store(&mut self, tx: &mut Tx) -> Result<(), SqlError> {
        for (id, view) in self.0.changed() {
            let statement = Statement::new(UPSERT)
                .bind(id.0)
                .bind(view.tenant.as_str())
                .bind(view.first.subject_id.0)
                .bind(view.second.subject_id.0)
                .bind(variant(&view.status))
                .bind(view.created_at.micros())
                .bind(to_json(view))
                .bind(view.position.to_i64());
            tx.execute(statement).await?;
        }
        Ok(())
    }

    fn stored(&mut self) {
        self.0.stored();
    }

    async fn answer(&mut self, request: Self::Request, _: &Log, _: &Db, _: Position) -> Result<(), SqlError> {
        match request {}
    }
}

/// Where a list goes on: behind this match. Matches made meanwhile move nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MatchRecordCursor {
    pub created_at: Timestamp,
    pub match_id: MatchRecordId,
}

/// A part of a player's matches, or of everybody's, the newest first.
#[derive(Clone, Debug, PartialEq)]
pub struct MatchRecordPage {
    pub items: Vec<MatchView>,
    /// None at the end.
    pub next: Option<MatchRecordCursor>,
}

/// What a list goes on behind; from its beginning, behind everything.
fn before(after: Option<MatchRecordCursor>) -> (i64, Uuid) {
    after.map_or((i64::MAX, Uuid::max()), |cursor| (cursor.created_at.micros(), cursor.match_id.0))
}

/// The questions that can be asked of `match_records`.
#[derive(Clone, Debug)]
pub struct MatchRecords {
    pub(crate) slot: Arc<Slot<()>>,
}

impl MatchRecords {
    /// At most `limit` of the player's matches behind the cursor, the newest first; with a status, those that have it.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn list(
        &self,
        tenant: &Tenant,
        player: SubjectId,
        status: Option<MatchStatus>,
        after: Option<MatchRecordCursor>,
        limit: u32,
    ) -> Result<MatchRecordPage, QueryError> {
        let (created_at, match_id) = before(after);
        let statement = Statement::new(LIST)
            .bind(tenant.as_str())
            .bind(player.0)
            .bind(created_at)
            .bind(match_id)
            .bind(status.as_ref().map(variant))
            .bind(i64::from(limit) + 1);
        self.page(statement, limit).await
    }

    /// As [`Self::list`], of all the tenant's players.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn list_all(
        &self,
        tenant: &Tenant,
        status: Option<MatchStatus>,
        after: Option<MatchRecordCursor>,
        limit: u32,
    ) -> Result<MatchRecordPage, QueryError> {
        let (created_at, match_id) = before(after);
        let statement = Statement::new(LIST_ALL)
            .bind(tenant.as_str())
            .bind(created_at)
            .bind(match_id)
            .bind(status.as_ref().map(variant))
            .bind(i64::from(limit) + 1);
        self.page(statement, limit).await
    }

    /// The rows of a list that was asked for one more than `limit`, which shows whether there is more.
    async fn page(&self, statement: Statement, limit: u32) -> Result<MatchRecordPage, QueryError> {
        let generation = self.slot.live()?;
        let rows: Vec<Stored> =
            generation.db.all(statement).await.map_err(|error| store_error(Name::MatchRecords, error))?;
        let has_more = rows.len() > limit as usize;
        let items: Vec<MatchView> = rows
            .iter()
            .take(limit as usize)
            .map(|row| json(Name::MatchRecords, &row.view))
            .collect::<Result<_, _>>()?;
        let next = items
            .last()
            .filter(|_| has_more)
            .map(|last| MatchRecordCursor { created_at: last.created_at, match_id: last.match_id });
        Ok(MatchRecordPage { items, next })
    }

    /// The match, if it is this tenant's.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn get(&self, tenant: &Tenant, id: MatchRecordId) -> Result<Option<MatchView>, QueryError> {
        let generation = self.slot.live()?;
        let row: Option<Stored> = generation
            .db
            .optional(Statement::new(ONE).bind(id.0))
            .await
            .map_err(|error| store_error(Name::MatchRecords, error))?;
        let view: Option<MatchView> = row.map(|row| json(Name::MatchRecords, &row.view)).transpose()?;
        Ok(view.filter(|view| view.tenant == *tenant))
    }
}
