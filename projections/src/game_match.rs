//! `match_records`: one row for each game match.

use std::sync::Arc;

pub use domain::matchmaking::status::GameMatchStatus;
use event_log::{EventLog, Log};
use event_schemas::envelope::{Envelope, Event};
use event_schemas::game_match::{
    AbandonReason, GameMatchEvent, GameResult, MatchPlayer, MatchProposed, Side,
};
use event_schemas::ids::{ChallengeId, GameId, GameMatchId, PoolKey, Position, Revision, SubjectId, Tenant};
use event_schemas::player::{PlayerEvent, PlayerRated};
use event_schemas::stream::{Category, StreamId};
use event_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::generation::{QueryError, Slot};
use crate::matching_summary::{ReplayError, for_each_event};
use crate::projection::Name;
use crate::row::{to_json, variant_name};
use crate::rows::{Rows, Table, TableModel, json};
use crate::sql::{Db, Ddl, SqlError, Statement, Value, ddl};

pub(crate) const UPSERT: &str = "INSERT INTO match_records \
     (match_id, tenant, first, second, status, created_at, view, position) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
     ON CONFLICT (match_id) DO UPDATE SET status = excluded.status, view = excluded.view, \
     position = excluded.position";
pub(crate) const ONE: &str = "SELECT view FROM match_records WHERE match_id = $1";
/// Each side uses its own index, so that a player's long history is never sorted.
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

#[cfg(test)]
pub(crate) fn sql_texts() -> Vec<String> {
    [UPSERT, ONE, LIST, LIST_ALL].map(str::to_owned).into()
}

/// One of the two players.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MatchPlayerView {
    pub subject_id: SubjectId,
    /// The time at which the player joined the queue; none in a challenge.
    pub queued_at: Option<Timestamp>,
    /// The rating by which the two were paired.
    pub rating: u16,
    /// The player's rating before and after the result, once it has been rated.
    pub rated: Option<(f64, f64)>,
}

/// A game match.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GameMatchView {
    pub match_id: GameMatchId,
    pub tenant: Tenant,
    pub pool_key: PoolKey,
    pub challenge_id: Option<ChallengeId>,
    pub status: GameMatchStatus,
    pub first: MatchPlayerView,
    pub second: MatchPlayerView,
    pub game_id: Option<GameId>,
    pub result: Option<GameResult>,
    pub abandoned: Option<AbandonReason>,
    /// The error of the game service, if the match was abandoned because of it.
    pub detail: Option<String>,
    pub created_at: Timestamp,
    pub confirmed_at: Option<Timestamp>,
    pub result_due_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    /// The position of the last event that changed it.
    pub position: Position,
}

impl GameMatchView {
    fn create(envelope: &Envelope, proposed: &MatchProposed) -> Self {
        let player = |player: &MatchPlayer| MatchPlayerView {
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
            status: GameMatchStatus::Placing,
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

    fn apply(&mut self, envelope: &Envelope, event: &GameMatchEvent) {
        let at = envelope.metadata.occurred_at;
        self.position = envelope.position;
        match event {
            GameMatchEvent::MatchProposed(_) => {}
            GameMatchEvent::MatchConfirmed(confirmed) => {
                self.status = GameMatchStatus::Playing;
                self.game_id.clone_from(&confirmed.game_id);
                self.confirmed_at = Some(at);
                self.result_due_at = Some(confirmed.result_due_at);
            }
            GameMatchEvent::MatchAbandoned(abandoned) => {
                self.status = GameMatchStatus::Abandoned;
                self.abandoned = Some(abandoned.reason);
                // The detail of an unavailable player is their subject, which other players must not see.
                if abandoned.reason != AbandonReason::PlayerUnavailable {
                    self.detail.clone_from(&abandoned.detail);
                }
                self.ended_at = Some(at);
            }
            GameMatchEvent::MatchResultReported(reported) => {
                self.status = GameMatchStatus::Finished;
                self.result = Some(reported.result);
                self.ended_at = Some(at);
            }
            GameMatchEvent::MatchExpired(_) => {
                self.status = GameMatchStatus::Expired;
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

    /// The side of the subject, if it plays in this match.
    pub fn side_of(&self, subject: SubjectId) -> Option<Side> {
        if self.first.subject_id == subject {
            return Some(Side::First);
        }
        (self.second.subject_id == subject).then_some(Side::Second)
    }
}

/// The rows by match.
#[derive(Debug)]
pub(crate) struct Records;

impl Table for Records {
    type Key = GameMatchId;
    type Value = GameMatchView;
    const ONE: &'static str = ONE;

    fn key(id: &GameMatchId) -> Vec<Value> {
        vec![id.0.into()]
    }

    fn write(id: &GameMatchId, view: Option<&GameMatchView>) -> Option<Statement> {
        let view = view?;
        let statement = Statement::new(UPSERT)
            .bind(id.0)
            .bind(view.tenant.as_str())
            .bind(view.first.subject_id.0)
            .bind(view.second.subject_id.0)
            .bind(variant_name(&view.status))
            .bind(view.created_at.micros())
            .bind(to_json(view))
            .bind(view.position.to_i64());
        Some(statement)
    }
}

pub(crate) type GameMatchRows = Rows<Records>;

/// The existing match that an event changes.
fn changed_match(envelope: &Envelope) -> Option<GameMatchId> {
    match &envelope.event {
        Event::GameMatch(GameMatchEvent::MatchProposed(_)) => None,
        Event::GameMatch(_) => envelope.stream.game_match_id(),
        Event::Player(PlayerEvent::PlayerRated(rated)) => Some(rated.match_id),
        _ => None,
    }
}

impl TableModel for Records {
    const NAME: Name = Name::GameMatches;
    const REVISION: u32 = 2;
    const DDL: Ddl = ddl!("match_records");
    /// Player events contain the ratings after a result.
    const CATEGORIES: &'static [Category] = &[Category::GameMatch, Category::Player];

    async fn fold(rows: &mut Rows<Self>, db: &Db, events: &[&Envelope]) -> Result<(), SqlError> {
        rows.load(db, events.iter().filter_map(|envelope| changed_match(envelope))).await?;
        for envelope in events {
            let view = changed_match(envelope).and_then(|id| rows.change(&id));
            match (&envelope.event, view) {
                (Event::GameMatch(GameMatchEvent::MatchProposed(proposed)), _) => {
                    rows.set(proposed.match_id, Some(GameMatchView::create(envelope, proposed)));
                }
                (Event::GameMatch(event), Some(view)) => view.apply(envelope, event),
                (Event::Player(PlayerEvent::PlayerRated(rated)), Some(view)) => {
                    view.rate(envelope.position, rated);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The last match of a page: the next page starts after it. New matches do not shift the pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GameMatchCursor {
    pub created_at: Timestamp,
    pub match_id: GameMatchId,
}

/// A page of a player's matches or of all matches, newest first.
#[derive(Clone, Debug, PartialEq)]
pub struct GameMatchPage {
    pub items: Vec<GameMatchView>,
    /// None on the last page.
    pub next: Option<GameMatchCursor>,
}

/// The key after which a page starts; for the first page, a key before all rows.
fn start_key(after: Option<GameMatchCursor>) -> (i64, Uuid) {
    after.map_or((i64::MAX, Uuid::max()), |cursor| (cursor.created_at.micros(), cursor.match_id.0))
}

/// The queries of `match_records`.
#[derive(Clone, Debug)]
pub struct GameMatches {
    pub(crate) slot: Arc<Slot<()>>,
    pub(crate) log: Log,
}

impl GameMatches {
    /// Lists at most `limit` of the player's matches after the cursor, newest first, optionally of one status.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn list(
        &self,
        tenant: &Tenant,
        player: SubjectId,
        status: Option<GameMatchStatus>,
        after: Option<GameMatchCursor>,
        limit: u32,
    ) -> Result<GameMatchPage, QueryError> {
        let (created_at, match_id) = start_key(after);
        let statement = Statement::new(LIST)
            .bind(tenant.as_str())
            .bind(player.0)
            .bind(created_at)
            .bind(match_id)
            .bind(status.as_ref().map(variant_name));
        self.page(statement, limit).await
    }

    /// Like [`Self::list`], for all players of the tenant.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn list_all(
        &self,
        tenant: &Tenant,
        status: Option<GameMatchStatus>,
        after: Option<GameMatchCursor>,
        limit: u32,
    ) -> Result<GameMatchPage, QueryError> {
        let (created_at, match_id) = start_key(after);
        let statement = Statement::new(LIST_ALL)
            .bind(tenant.as_str())
            .bind(created_at)
            .bind(match_id)
            .bind(status.as_ref().map(variant_name));
        self.page(statement, limit).await
    }

    async fn page(&self, statement: Statement, limit: u32) -> Result<GameMatchPage, QueryError> {
        let cursor =
            |last: &GameMatchView| GameMatchCursor { created_at: last.created_at, match_id: last.match_id };
        let parse = |row| json(Name::GameMatches, row);
        let (items, next) =
            self.slot.live()?.page(Name::GameMatches, statement, limit, parse, cursor).await?;
        Ok(GameMatchPage { items, next })
    }

    /// The match, if it belongs to the tenant.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn get(&self, tenant: &Tenant, id: GameMatchId) -> Result<Option<GameMatchView>, QueryError> {
        let statement = Statement::new(ONE).bind(id.0);
        let view: Option<GameMatchView> = self.slot.live()?.one(Name::GameMatches, statement).await?;
        Ok(view.filter(|view| view.tenant == *tenant))
    }

    /// The match, replayed from the log, for when its row cannot be read. O(its events, and those of its players since).
    ///
    /// # Errors
    /// [`ReplayError`] if the log cannot be read.
    pub async fn replay(
        &self,
        tenant: &Tenant,
        id: GameMatchId,
    ) -> Result<Option<GameMatchView>, ReplayError> {
        let stream = StreamId::game_match(id);
        let first = self.log.read_stream(&stream, Revision(0), 1).await?;
        let Some(first) = first.first().map(|event| event.decode()).transpose()? else { return Ok(None) };
        let Event::GameMatch(GameMatchEvent::MatchProposed(proposed)) = &first.event else { return Ok(None) };
        if first.metadata.tenant != *tenant {
            return Ok(None);
        }
        let players = [&proposed.first, &proposed.second];
        // The ratings after a result are in the players' streams.
        let players = players.map(|player| StreamId::player(tenant, player.subject_id).to_string());
        let streams = players.into_iter().chain([stream.to_string()]).collect();
        let head = *self.log.head().borrow();
        let view = GameMatchView::create(&first, proposed);
        let apply = move |view: &mut GameMatchView, envelope: &Envelope| match &envelope.event {
            Event::GameMatch(event) => view.apply(envelope, event),
            Event::Player(PlayerEvent::PlayerRated(rated)) if rated.match_id == id => {
                view.rate(envelope.position, rated);
            }
            _ => {}
        };
        for_each_event(&self.log, streams, first.position, head, view, apply).await.map(Some)
    }
}
