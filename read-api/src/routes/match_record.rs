//! Matches of two players: one's own, and one of them.

use std::sync::Arc;

use event_schemas::ids::{ChallengeId, GameId, MatchRecordId, PoolKey, SubjectId, Tenant, UserId};
use event_schemas::match_record::Side as StoredSide;
use event_schemas::time::Timestamp;
use poem_openapi::param::{Header, Path, Query};
use poem_openapi::{Object, OpenApi};
use projections::Name;
use projections::match_record::{MatchRecordCursor, MatchStatus as Stored, MatchView, PlayerView};
use web::caller::{Caller, Role};
use web::etag::Cached;
use web::paging::{Cursor, Limit, Page};
use web::path;
use web::problem::Problem;
use web::value::{At, Pos, Text, Uid};
use web::vocabulary::{AbandonReason, GameResult, MatchStatus, Side};

use super::{Tag, players};
use crate::ReadApi;
use crate::answer::{MinPosition, unanswered};
use crate::people::Names;

/// One of a match's players.
#[derive(Clone, Debug, PartialEq, Object)]
pub struct MatchRecordPlayer {
    /// Null for somebody who was erased.
    pub user_id: Option<Text<UserId>>,
    pub side: Side,
    /// By which the two were put together.
    pub rating: u16,
    /// Until they were put together; null in a challenge.
    pub waited_seconds: Option<f64>,
    /// What results said of the player before; null until the result has moved the rating.
    pub rating_before: Option<f64>,
    pub rating_after: Option<f64>,
}

/// Two players who were put together.
#[derive(Clone, Debug, PartialEq, Object)]
pub struct MatchRecord {
    pub id: Uid<MatchRecordId>,
    pub match_id: Uid<MatchRecordId>,
    pub pool_key: Text<PoolKey>,
    pub status: MatchStatus,
    /// The one who moves first comes first.
    pub players: Vec<MatchRecordPlayer>,
    /// The challenge that it comes from.
    pub challenge_id: Option<Uid<ChallengeId>>,
    /// As the game service named it; null also where none is set.
    pub game_id: Option<Text<GameId>>,
    pub result: Option<GameResult>,
    /// Why no game came of it.
    pub reason: Option<AbandonReason>,
    /// What the game service said, if that was why.
    pub detail: Option<String>,
    pub created_at: At,
    /// When the game was there.
    pub confirmed_at: Option<At>,
    /// When the match ends by itself if no result comes.
    pub result_due_at: Option<At>,
    pub ended_at: Option<At>,
    /// Of the event that changed it last.
    pub position: Pos,
}

impl MatchRecordPlayer {
    fn new(player: &PlayerView, side: StoredSide, met_at: Timestamp, names: &Names) -> Self {
        Self {
            user_id: names.of(player.subject_id).map(Text),
            side: side.into(),
            rating: player.rating,
            waited_seconds: player.queued_at.map(|queued_at| met_at.since(queued_at).as_secs_f64()),
            rating_before: player.rated.map(|(before, _)| before),
            rating_after: player.rated.map(|(_, after)| after),
        }
    }
}

fn status(stored: Stored) -> MatchStatus {
    match stored {
        Stored::Placing => MatchStatus::Placing,
        Stored::Playing => MatchStatus::Playing,
        Stored::Finished => MatchStatus::Finished,
        Stored::Expired => MatchStatus::Expired,
        Stored::Abandoned => MatchStatus::Abandoned,
    }
}

fn asked(status: MatchStatus) -> Stored {
    match status {
        MatchStatus::Placing => Stored::Placing,
        MatchStatus::Playing => Stored::Playing,
        MatchStatus::Finished => Stored::Finished,
        MatchStatus::Expired => Stored::Expired,
        MatchStatus::Abandoned => Stored::Abandoned,
    }
}

impl MatchRecord {
    fn new(view: MatchView, names: &Names) -> Self {
        let player = |player, side| MatchRecordPlayer::new(player, side, view.created_at, names);
        Self {
            id: Uid(view.match_id),
            match_id: Uid(view.match_id),
            status: status(view.status),
            players: vec![player(&view.first, StoredSide::First), player(&view.second, StoredSide::Second)],
            pool_key: Text(view.pool_key),
            challenge_id: view.challenge_id.map(Uid),
            game_id: view.game_id.map(Text),
            result: view.result.map(Into::into),
            reason: view.abandoned.map(Into::into),
            detail: view.detail,
            created_at: At(view.created_at),
            confirmed_at: view.confirmed_at.map(At),
            result_due_at: view.result_due_at.map(At),
            ended_at: view.ended_at.map(At),
            position: Pos(view.position),
        }
    }
}

/// Routes over matches of two players.
#[derive(Clone, Debug)]
pub struct MatchRecordRoutes {
    pub(crate) api: Arc<ReadApi>,
}

#[OpenApi(tag = "Tag::Matchmaking")]
impl MatchRecordRoutes {
    /// One's own matches, the newest first
    ///
    /// Needs the role `user`, `service` or `admin`.
    #[oai(path = "/v1/matchmaking/matches", method = "get", operation_id = "list_match_records")]
    #[allow(clippy::too_many_arguments, reason = "each is a parameter of the operation")]
    async fn list(
        &self,
        caller: Caller,
        status: Query<Option<MatchStatus>>,
        #[oai(default)] limit: Query<Limit>,
        cursor: Query<Option<Cursor>>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<Page<MatchRecord>>, Problem> {
        caller.require(players())?;
        // A cursor is only good where the same matches stand in the list.
        let list = format!("match records {} {:?}", caller.user()?, status.0);
        let after: Option<MatchRecordCursor> = cursor.0.map(|cursor| cursor.key(&list)).transpose()?;
        self.api.models_reached(&[Name::MatchRecords], min).await?;
        let Some(subject) = self.api.own_subject(&caller).await? else {
            return Ok(Cached::new(&Page { items: Vec::new(), next_cursor: None }, if_none_match.as_deref()));
        };
        let (status, limit) = (status.0.map(asked), limit.0.get() as u32);
        let matches = self.api.models.match_records();
        let page = matches.list(&caller.tenant, subject, status, after, limit).await;
        let page = page.map_err(|error| unanswered(&error))?;
        let next_cursor = page.next.map(|next| Cursor::new(&list, &next).to_string());
        let items = self.api.shown_matches(&caller.tenant, page.items).await?;
        Ok(Cached::new(&Page { items, next_cursor }, if_none_match.as_deref()))
    }

    /// Everybody's matches, the newest first
    ///
    /// Needs the role `service` or `admin`.
    #[oai(path = "/internal/matches", method = "get", operation_id = "list_all_match_records")]
    async fn list_all(
        &self,
        caller: Caller,
        status: Query<Option<MatchStatus>>,
        #[oai(default)] limit: Query<Limit>,
        cursor: Query<Option<Cursor>>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<Page<MatchRecord>>, Problem> {
        caller.require(Role::Service | Role::Admin)?;
        let list = format!("all match records {:?}", status.0);
        let after: Option<MatchRecordCursor> = cursor.0.map(|cursor| cursor.key(&list)).transpose()?;
        self.api.models_reached(&[Name::MatchRecords], min).await?;
        let (status, limit) = (status.0.map(asked), limit.0.get() as u32);
        let page = self.api.models.match_records().list_all(&caller.tenant, status, after, limit).await;
        let page = page.map_err(|error| unanswered(&error))?;
        let next_cursor = page.next.map(|next| Cursor::new(&list, &next).to_string());
        let items = self.api.shown_matches(&caller.tenant, page.items).await?;
        Ok(Cached::new(&Page { items, next_cursor }, if_none_match.as_deref()))
    }

    /// A match, for its two players
    ///
    /// Whoever has the role `service` or `admin` sees all of the tenant's.
    #[oai(path = "/v1/matchmaking/matches/:match_id", method = "get", operation_id = "read_match_record")]
    async fn read(
        &self,
        caller: Caller,
        match_id: Path<String>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<MatchRecord>, Problem> {
        caller.require(players())?;
        let id = path::match_record_id(&match_id)?;
        self.api.models_reached(&[Name::MatchRecords], min).await?;
        let found = self.api.models.match_records().get(&caller.tenant, id).await;
        let view = found.map_err(|error| unanswered(&error))?;
        let visible = match view {
            Some(view) if self.api.may_see(&caller, |subject| view.side_of(subject).is_some()).await? => view,
            _ => return Err(Problem::not_found("no such match")),
        };
        let shown = self.api.shown_matches(&caller.tenant, vec![visible]).await?;
        let shown = shown.first().ok_or_else(|| Problem::not_found("no such match"))?;
        Ok(Cached::new(shown, if_none_match.as_deref()))
    }
}

impl ReadApi {
    /// The subject of the caller; none if nothing was ever done by them or to them.
    ///
    /// # Errors
    /// 403 if the credentials name no user, 503 if the vault cannot be asked.
    pub(crate) async fn own_subject(&self, caller: &Caller) -> Result<Option<SubjectId>, Problem> {
        self.server.people.subject(&caller.tenant, caller.user()?).await
    }

    /// Whether a thing of the tenant's is the caller's to see: as one of those whom it concerns, or as a trusted caller.
    ///
    /// # Errors
    /// 403 if it would take a user and the credentials name none, 503 if the vault cannot be asked.
    pub(crate) async fn may_see(
        &self,
        caller: &Caller,
        concerns: impl FnOnce(SubjectId) -> bool,
    ) -> Result<bool, Problem> {
        if caller.sees_others() {
            return Ok(true);
        }
        Ok(self.own_subject(caller).await?.is_some_and(concerns))
    }

    /// Matches with the names of their players.
    ///
    /// # Errors
    /// 503 if the vault cannot be asked.
    pub(crate) async fn shown_matches(
        &self,
        tenant: &Tenant,
        views: Vec<MatchView>,
    ) -> Result<Vec<MatchRecord>, Problem> {
        let subjects = views.iter().flat_map(|view| [view.first.subject_id, view.second.subject_id]);
        let names = self.server.people.names(tenant, subjects).await?;
        Ok(views.into_iter().map(|view| MatchRecord::new(view, &names)).collect())
    }
}
