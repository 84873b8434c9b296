//! `challenges`: one row for each challenge.

use std::sync::Arc;

use event_log::Log;
use event_log::clock::Clock;
use event_schemas::challenge::{ChallengeCreated, ChallengeEvent};
use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{ChallengeId, GameId, MatchRecordId, PoolKey, Position, SubjectId, Tenant};
use event_schemas::match_record::AbandonReason;
use event_schemas::sealed::Sealed;
use event_schemas::stream::Category;
use event_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::generation::{QueryError, Slot};
use crate::kept::Kept;
use crate::projection::{Name, Projection, Store};
use crate::row::{json, store_error, stored, to_json, variant};
use crate::sql::{Db, SqlError, Statement, Tx, row};

pub(crate) const UPSERT: &str = "INSERT INTO challenges \
     (challenge_id, tenant, challenger, challenged, status, lapses_at, created_at, view, position) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
     ON CONFLICT (challenge_id) DO UPDATE SET status = excluded.status, lapses_at = excluded.lapses_at, \
     view = excluded.view, position = excluded.position";
pub(crate) const ONE: &str = "SELECT view FROM challenges WHERE challenge_id = $1";

/// The two lists differ in whose challenges they are. One that has lapsed counts as expired, whether its expiry has been
/// recorded or not.
macro_rules! list {
    ($player:literal) => {
        concat!(
            "SELECT view FROM challenges WHERE tenant = $1 AND ",
            $player,
            " = $2 AND (created_at, challenge_id) < ($3, $4) AND ($5 IS NULL OR $5 = \
             CASE WHEN lapses_at <= $6 THEN 'expired' ELSE status END) \
             ORDER BY created_at DESC, challenge_id DESC LIMIT $7"
        )
    };
}
pub(crate) const INCOMING: &str = list!("challenged");
pub(crate) const OUTGOING: &str = list!("challenger");

/// Where a challenge stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChallengeStatus {
    /// Also while the game of an accepted one is being made.
    Pending,
    Accepted,
    Declined,
    Cancelled,
    Expired,
}

/// Why the game of an accepted challenge could not be made when that was last tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacingFailure {
    pub at: Timestamp,
    pub reason: AbandonReason,
    /// What the game service said, if that was why.
    pub detail: Option<String>,
}

/// A challenge as it is shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChallengeView {
    pub challenge_id: ChallengeId,
    pub tenant: Tenant,
    pub pool_key: PoolKey,
    pub challenger: SubjectId,
    pub challenged: SubjectId,
    pub status: ChallengeStatus,
    /// It was accepted, and its game is being made.
    pub placing: bool,
    /// The challenger's.
    pub rating: u16,
    /// From the challenger, under their key.
    pub message: Option<Sealed>,
    /// The match that it leads to, once it was accepted.
    pub match_id: Option<MatchRecordId>,
    pub game_id: Option<GameId>,
    /// How often it was accepted.
    pub attempts: u32,
    pub last_failure: Option<PlacingFailure>,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    /// Of the event that changed it last.
    pub position: Position,
}

impl ChallengeView {
    fn begin(envelope: &Envelope, created: &ChallengeCreated) -> Self {
        Self {
            challenge_id: created.challenge_id,
            tenant: envelope.metadata.tenant.clone(),
            pool_key: created.pool_key.clone(),
            challenger: created.challenger,
            challenged: created.challenged,
            status: ChallengeStatus::Pending,
            placing: false,
            rating: created.strength.rating.points(),
            message: created.message.clone(),
            match_id: None,
            game_id: None,
            attempts: 0,
            last_failure: None,
            created_at: envelope.metadata.occurred_at,
            expires_at: created.expires_at,
            ended_at: None,
            position: envelope.position,
        }
    }

    fn apply(&mut self, envelope: &Envelope, event: &ChallengeEvent) {
        let at = envelope.metadata.occurred_at;
        self.position = envelope.position;
        self.placing = false;
        match event {
            ChallengeEvent::ChallengeCreated(_) => {}
            ChallengeEvent::ChallengePlacing(placing) => {
                self.placing = true;
                self.match_id = Some(placing.match_id);
                self.attempts = placing.attempt;
            }
            ChallengeEvent::ChallengePlacingFailed(failed) => {
                self.match_id = None;
                // Of a player who was not free the detail is their subject, which is nobody else's business.
                let is_of_player = failed.reason == AbandonReason::PlayerUnavailable;
                let detail = failed.detail.clone().filter(|_| !is_of_player);
                self.last_failure = Some(PlacingFailure { at, reason: failed.reason, detail });
            }
            ChallengeEvent::ChallengeAccepted(accepted) => {
                self.game_id.clone_from(&accepted.game_id);
                self.end(ChallengeStatus::Accepted, at);
            }
            ChallengeEvent::ChallengeDeclined(_) => self.end(ChallengeStatus::Declined, at),
            ChallengeEvent::ChallengeCancelled(_) => self.end(ChallengeStatus::Cancelled, at),
            ChallengeEvent::ChallengeExpired(_) => self.end(ChallengeStatus::Expired, at),
        }
    }

    fn end(&mut self, status: ChallengeStatus, at: Timestamp) {
        self.status = status;
        self.ended_at = Some(at);
    }

    /// From when on it has expired, if nothing else happens.
    fn lapses_at(&self) -> Option<Timestamp> {
        (self.status == ChallengeStatus::Pending && !self.placing).then_some(self.expires_at)
    }

    /// The challenge at an instant: one whose time is over has expired, whether that has been recorded or not.
    #[must_use]
    pub fn at(mut self, now: Timestamp) -> Self {
        if let Some(lapses_at) = self.lapses_at().filter(|lapses_at| *lapses_at <= now) {
            self.end(ChallengeStatus::Expired, lapses_at);
        }
        self
    }

    /// Whether the subject challenges or is challenged.
    pub fn concerns(&self, subject: SubjectId) -> bool {
        self.challenger == subject || self.challenged == subject
    }
}

/// Challenges that were lately touched.
#[derive(Debug, Default)]
pub(crate) struct ChallengeRows(Kept<ChallengeId, ChallengeView>);

row! {
    struct Stored {
        view: String,
    }
}

impl ChallengeRows {
    async fn load(&mut self, db: &Db, id: ChallengeId) -> Result<(), SqlError> {
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

impl Projection for ChallengeRows {
    const NAME: Name = Name::Challenges;
    const REVISION: u32 = 1;
    const DDL: &'static str = include_str!("../../migrations/sqlite/challenges.sql");
    const CATEGORIES: &'static [Category] = &[Category::Challenge];
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
                Event::Challenge(ChallengeEvent::ChallengeCreated(created)) => {
                    self.0.put(created.challenge_id, ChallengeView::begin(envelope, created));
                }
                Event::Challenge(event) => {
                    let Some(id) = envelope.stream.challenge_id() else { continue };
                    self.load(db, id).await?;
                    if let Some(view) = self.0.change(&id) {
                        view.apply(envelope, event);
                    }
                }
                // Of another category, which this projection is not given.
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
                .bind(view.challenger.0)
                .bind(view.challenged.0)
                .bind(variant(&view.status))
                .bind(view.lapses_at().map(Timestamp::micros))
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

/// Whose challenges are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Those in which the player is challenged.
    Incoming,
    /// Those that the player made.
    Outgoing,
}

/// Where a list goes on: behind this challenge. Challenges made meanwhile move nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChallengeCursor {
    pub created_at: Timestamp,
    pub challenge_id: ChallengeId,
}

/// A part of a player's challenges, the newest first.
#[derive(Clone, Debug, PartialEq)]
pub struct ChallengePage {
    pub items: Vec<ChallengeView>,
    /// None at the end.
    pub next: Option<ChallengeCursor>,
}

/// The questions that can be asked of `challenges`.
#[derive(Clone, Debug)]
pub struct Challenges {
    pub(crate) slot: Arc<Slot<()>>,
    pub(crate) clock: Clock,
}

impl Challenges {
    /// At most `limit` of the player's challenges behind the cursor, the newest first, as they stand now; with a status,
    /// those that have it.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn list(
        &self,
        tenant: &Tenant,
        player: SubjectId,
        direction: Direction,
        status: Option<ChallengeStatus>,
        after: Option<ChallengeCursor>,
        limit: u32,
    ) -> Result<ChallengePage, QueryError> {
        let generation = self.slot.live()?;
        let now = self.clock.now();
        let (created_at, id) = after
            .map_or((i64::MAX, Uuid::max()), |cursor| (cursor.created_at.micros(), cursor.challenge_id.0));
        let sql = match direction {
            Direction::Incoming => INCOMING,
            Direction::Outgoing => OUTGOING,
        };
        let statement = Statement::new(sql)
            .bind(tenant.as_str())
            .bind(player.0)
            .bind(created_at)
            .bind(id)
            .bind(status.as_ref().map(variant))
            .bind(now.micros())
            // One more than asked for shows whether there is more.
            .bind(i64::from(limit) + 1);
        let rows: Vec<Stored> =
            generation.db.all(statement).await.map_err(|error| store_error(Name::Challenges, error))?;
        let has_more = rows.len() > limit as usize;
        let mut items = Vec::with_capacity(rows.len());
        for row in rows.iter().take(limit as usize) {
            items.push(json::<ChallengeView>(Name::Challenges, &row.view)?.at(now));
        }
        let next = items
            .last()
            .filter(|_| has_more)
            .map(|last| ChallengeCursor { created_at: last.created_at, challenge_id: last.challenge_id });
        Ok(ChallengePage { items, next })
    }

    /// The challenge as it stands now, if it is this tenant's.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn get(&self, tenant: &Tenant, id: ChallengeId) -> Result<Option<ChallengeView>, QueryError> {
        let generation = self.slot.live()?;
        let row: Option<Stored> = generation
            .db
            .optional(Statement::new(ONE).bind(id.0))
            .await
            .map_err(|error| store_error(Name::Challenges, error))?;
        let view: Option<ChallengeView> = row.map(|row| json(Name::Challenges, &row.view)).transpose()?;
        Ok(view.filter(|view| view.tenant == *tenant).map(|view| view.at(self.clock.now())))
    }
}
