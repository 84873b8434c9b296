//! `challenges`: one row for each challenge.

use std::sync::Arc;

pub use domain::matchmaking::status::ChallengeStatus;
use event_log::clock::Clock;
use event_log::{EventLog, Log};
use event_schemas::challenge::{ChallengeCreated, ChallengeEvent};
use event_schemas::envelope::{Envelope, Event};
use event_schemas::game_match::AbandonReason;
use event_schemas::ids::{ChallengeId, GameId, GameMatchId, PoolKey, Position, SubjectId, Tenant};
use event_schemas::sealed::Sealed;
use event_schemas::stream::{Category, StreamId};
use event_schemas::time::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::generation::{QueryError, Slot};
use crate::matching_summary::{ReplayError, for_each_event};
use crate::projection::Name;
use crate::row::{to_json, variant_name};
use crate::rows::{Rows, Table, TableModel, json};
use crate::sql::{Db, Ddl, SqlError, Statement, Value, ddl};

pub(crate) const UPSERT: &str = "INSERT INTO challenges \
     (challenge_id, tenant, challenger, challenged, status, lapses_at, created_at, view, position) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
     ON CONFLICT (challenge_id) DO UPDATE SET status = excluded.status, lapses_at = excluded.lapses_at, \
     view = excluded.view, position = excluded.position";
pub(crate) const ONE: &str = "SELECT view FROM challenges WHERE challenge_id = $1";

/// The two lists differ in the player's side. A challenge whose time is over counts as expired, even before its expiry
/// has been recorded.
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

#[cfg(test)]
pub(crate) fn sql_texts() -> Vec<String> {
    [UPSERT, ONE, INCOMING, OUTGOING].map(str::to_owned).into()
}

/// The latest failure to create the game of an accepted challenge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ChallengeFailure")]
pub struct PlacementFailure {
    pub at: Timestamp,
    pub reason: AbandonReason,
    /// The error of the game service, if it was the reason.
    pub detail: Option<String>,
}

/// A challenge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChallengeView {
    pub challenge_id: ChallengeId,
    pub tenant: Tenant,
    pub pool_key: PoolKey,
    pub challenger: SubjectId,
    pub challenged: SubjectId,
    pub status: ChallengeStatus,
    /// It was accepted, and its game is being created.
    pub placing: bool,
    /// The rating of the challenger.
    pub rating: u16,
    /// The challenger's message, sealed with their key.
    pub message: Option<Sealed>,
    /// The match that it leads to, once it has been accepted.
    pub match_id: Option<GameMatchId>,
    pub game_id: Option<GameId>,
    /// The number of times that it was accepted.
    pub attempts: u32,
    pub last_failure: Option<PlacementFailure>,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    /// The position of the last event that changed it.
    pub position: Position,
}

impl ChallengeView {
    fn create(envelope: &Envelope, created: &ChallengeCreated) -> Self {
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
            ChallengeEvent::ChallengePlacementStarted(placing) => {
                self.placing = true;
                self.match_id = Some(placing.match_id);
                self.attempts = placing.attempt;
            }
            ChallengeEvent::ChallengePlacementFailed(failed) => {
                self.match_id = None;
                // The detail of an unavailable player is their subject, which other players must not see.
                let names_player = failed.reason == AbandonReason::PlayerUnavailable;
                let detail = failed.detail.clone().filter(|_| !names_player);
                self.last_failure = Some(PlacementFailure { at, reason: failed.reason, detail });
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

    /// The time at which it expires if no further event occurs.
    fn lapses_at(&self) -> Option<Timestamp> {
        (self.status == ChallengeStatus::Pending && !self.placing).then_some(self.expires_at)
    }

    /// The challenge at an instant: one whose time is over is expired, even before its expiry has been recorded.
    #[must_use]
    pub fn at(mut self, now: Timestamp) -> Self {
        if let Some(lapses_at) = self.lapses_at().filter(|lapses_at| *lapses_at <= now) {
            self.end(ChallengeStatus::Expired, lapses_at);
        }
        self
    }

    /// Reports whether the subject is one of its two players.
    pub fn concerns(&self, subject: SubjectId) -> bool {
        self.challenger == subject || self.challenged == subject
    }
}

/// The rows by challenge.
#[derive(Debug)]
pub(crate) struct Records;

impl Table for Records {
    type Key = ChallengeId;
    type Value = ChallengeView;
    const ONE: &'static str = ONE;

    fn key(id: &ChallengeId) -> Vec<Value> {
        vec![id.0.into()]
    }

    fn write(id: &ChallengeId, view: Option<&ChallengeView>) -> Option<Statement> {
        let view = view?;
        let statement = Statement::new(UPSERT)
            .bind(id.0)
            .bind(view.tenant.as_str())
            .bind(view.challenger.0)
            .bind(view.challenged.0)
            .bind(variant_name(&view.status))
            .bind(view.lapses_at().map(Timestamp::micros))
            .bind(view.created_at.micros())
            .bind(to_json(view))
            .bind(view.position.to_i64());
        Some(statement)
    }
}

pub(crate) type ChallengeRows = Rows<Records>;

impl TableModel for Records {
    const NAME: Name = Name::Challenges;
    const REVISION: u32 = 2;
    const DDL: Ddl = ddl!("challenges");
    const CATEGORIES: &'static [Category] = &[Category::Challenge];

    async fn fold(rows: &mut Rows<Self>, db: &Db, events: &[&Envelope]) -> Result<(), SqlError> {
        let is_creation =
            |event: &Event| matches!(event, Event::Challenge(ChallengeEvent::ChallengeCreated(_)));
        let changed = events.iter().filter(|envelope| !is_creation(&envelope.event));
        rows.load(db, changed.filter_map(|envelope| envelope.stream.challenge_id())).await?;
        for envelope in events {
            match &envelope.event {
                Event::Challenge(ChallengeEvent::ChallengeCreated(created)) => {
                    rows.set(created.challenge_id, Some(ChallengeView::create(envelope, created)));
                }
                Event::Challenge(event) => {
                    let view = envelope.stream.challenge_id().and_then(|id| rows.change(&id));
                    if let Some(view) = view {
                        view.apply(envelope, event);
                    }
                }
                // Events of other categories are not delivered to this projection.
                _ => {}
            }
        }
        Ok(())
    }
}

/// The player's side in a list of challenges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The player is challenged.
    Incoming,
    /// The player is the challenger.
    Outgoing,
}

/// The last challenge of a page: the next page starts after it. New challenges do not shift the pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChallengeCursor {
    pub created_at: Timestamp,
    pub challenge_id: ChallengeId,
}

/// A page of a player's challenges, newest first.
#[derive(Clone, Debug, PartialEq)]
pub struct ChallengePage {
    pub items: Vec<ChallengeView>,
    /// None on the last page.
    pub next: Option<ChallengeCursor>,
}

/// The queries of `challenges`.
#[derive(Clone, Debug)]
pub struct Challenges {
    pub(crate) slot: Arc<Slot<()>>,
    pub(crate) log: Log,
    pub(crate) clock: Clock,
}

impl Challenges {
    /// Lists at most `limit` of the player's challenges after the cursor, newest first, in their current state; with a
    /// status, only those that have it.
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
            .bind(status.as_ref().map(variant_name))
            .bind(now.micros());
        let parse = |row| Ok(json::<ChallengeView>(Name::Challenges, row)?.at(now));
        let cursor = |last: &ChallengeView| ChallengeCursor {
            created_at: last.created_at,
            challenge_id: last.challenge_id,
        };
        let (items, next) = generation.page(Name::Challenges, statement, limit, parse, cursor).await?;
        Ok(ChallengePage { items, next })
    }

    /// The challenge in its current state, if it belongs to the tenant.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn get(&self, tenant: &Tenant, id: ChallengeId) -> Result<Option<ChallengeView>, QueryError> {
        let statement = Statement::new(ONE).bind(id.0);
        let view: Option<ChallengeView> = self.slot.live()?.one(Name::Challenges, statement).await?;
        Ok(view.filter(|view| view.tenant == *tenant).map(|view| view.at(self.clock.now())))
    }

    /// The challenge, replayed from the log, for when its row cannot be read. O(its events).
    ///
    /// # Errors
    /// [`ReplayError`] if the log cannot be read.
    pub async fn replay(
        &self,
        tenant: &Tenant,
        id: ChallengeId,
    ) -> Result<Option<ChallengeView>, ReplayError> {
        let (stream, head) = (StreamId::challenge(id).to_string(), *self.log.head().borrow());
        let apply = |view: &mut Option<ChallengeView>, envelope: &Envelope| match (&envelope.event, view) {
            (Event::Challenge(ChallengeEvent::ChallengeCreated(created)), view) => {
                *view = Some(ChallengeView::create(envelope, created));
            }
            (Event::Challenge(event), Some(view)) => view.apply(envelope, event),
            _ => {}
        };
        let view = for_each_event(&self.log, vec![stream], Position::START, head, None, apply).await?;
        Ok(view.filter(|view| view.tenant == *tenant).map(|view| view.at(self.clock.now())))
    }
}
