//! Game matches: the lists, and one match.

use std::sync::Arc;

use event_schemas::game_match::{AbandonReason, GameResult, Side};
use event_schemas::ids::{ChallengeId, GameId, GameMatchId, PoolKey, Position, SubjectId, Tenant, UserId};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use poem_openapi::OpenApi;
use poem_openapi::param::{Header, Path, Query};
use projections::Name;
use projections::game_match::{GameMatchCursor, GameMatchStatus, GameMatchView, MatchPlayerView};
use schemars::JsonSchema;
use serde::Serialize;
use web::caller::{Caller, CostlyReads, Role};
use web::etag::Cached;
use web::paging::{Cursor, Limit, Page};
use web::path;
use web::problem::Problem;
use web::schema::Api;

use super::{Tag, player_roles};
use crate::ReadApi;
use crate::by_id::Origin;
use crate::errors::{from_query_error, from_replay_error};
use crate::min_position::MinPosition;
use crate::subjects::UserIds;

/// A player of a match.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct GameMatchPlayer {
    /// Null for an erased user. Until the game is created, and if it never is, a player does not learn of the opponent:
    /// then it is null for roles other than `service` and `admin`, unless the match follows from a challenge.
    pub user_id: Option<UserId>,
    pub side: Side,
    /// The rating by which the players were paired.
    pub rating: u16,
    /// The waiting time until the pairing; null for a challenge.
    pub waited_seconds: Option<f64>,
    /// The rating before the result; null until the result has changed it.
    pub rating_before: Option<f64>,
    pub rating_after: Option<f64>,
}

/// A match of two paired players.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct GameMatch {
    pub id: GameMatchId,
    pub match_id: GameMatchId,
    pub pool_key: PoolKey,
    pub status: GameMatchStatus,
    /// The player on the first side comes first.
    pub players: Vec<GameMatchPlayer>,
    /// The challenge that led to the match.
    pub challenge_id: Option<ChallengeId>,
    /// The id that the game service returned; null also if no game service is configured.
    pub game_id: Option<GameId>,
    pub result: Option<GameResult>,
    /// Why no game was created.
    pub reason: Option<AbandonReason>,
    /// The failure of the game service, if it was the reason; only for the roles `service` and `admin`.
    pub detail: Option<String>,
    pub created_at: Timestamp,
    /// When the game was created.
    pub confirmed_at: Option<Timestamp>,
    /// When the match ends automatically if no result is reported.
    pub result_due_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    /// Log position of the last event that changed this resource.
    pub position: Position,
}

/// The reader of matches and challenges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Viewer {
    Player(SubjectId),
    /// A caller that may see the tenant's other players, and what went wrong.
    Operator,
}

impl Viewer {
    /// A caller with this subject.
    pub(crate) fn new(caller: &Caller, subject: SubjectId) -> Self {
        if caller.can_access_others() { Self::Operator } else { Self::Player(subject) }
    }

    fn may_name(self, player: SubjectId, have_met: bool) -> bool {
        have_met || self == Self::Operator || self == Self::Player(player)
    }
}

impl GameMatchPlayer {
    fn new(
        player: &MatchPlayerView,
        side: Side,
        paired_at: Timestamp,
        user_ids: &UserIds,
        is_named: bool,
    ) -> Self {
        Self {
            user_id: user_ids.user_id(player.subject_id).filter(|_| is_named),
            side,
            rating: player.rating,
            waited_seconds: player.queued_at.map(|queued_at| paired_at.since(queued_at).as_secs_f64()),
            rating_before: player.rated.map(|(before, _)| before),
            rating_after: player.rated.map(|(_, after)| after),
        }
    }
}

impl GameMatch {
    fn new(view: GameMatchView, user_ids: &UserIds, viewer: Viewer) -> Self {
        // The players of a challenge know each other.
        let have_met = view.confirmed_at.is_some() || view.challenge_id.is_some();
        let player = |player: &MatchPlayerView, side| {
            let is_named = viewer.may_name(player.subject_id, have_met);
            GameMatchPlayer::new(player, side, view.created_at, user_ids, is_named)
        };
        Self {
            id: view.match_id,
            match_id: view.match_id,
            status: view.status,
            players: vec![player(&view.first, Side::First), player(&view.second, Side::Second)],
            pool_key: view.pool_key,
            challenge_id: view.challenge_id,
            game_id: view.game_id,
            result: view.result,
            reason: view.abandoned,
            detail: view.detail.filter(|_| viewer == Viewer::Operator),
            created_at: view.created_at,
            confirmed_at: view.confirmed_at,
            result_due_at: view.result_due_at,
            ended_at: view.ended_at,
            position: view.position,
        }
    }
}

/// Routes for game matches.
#[derive(Clone, Debug)]
pub struct GameMatchRoutes {
    pub(crate) api: Arc<ReadApi>,
}

#[OpenApi(tag = "Tag::Matchmaking")]
impl GameMatchRoutes {
    /// List my matches, newest first
    ///
    /// Needs the role `user`, `service` or `admin`.
    #[oai(path = "/v1/matchmaking/matches", method = "get", operation_id = "list_game_matches")]
    #[allow(clippy::too_many_arguments, reason = "each is a parameter of the operation")]
    async fn list(
        &self,
        caller: Caller,
        status: Query<Option<Api<GameMatchStatus>>>,
        #[oai(default)] limit: Query<Limit>,
        cursor: Query<Option<Cursor>>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<Page<GameMatch>>, Problem> {
        caller.require(player_roles())?;
        // A cursor is valid only for the list that it was issued for.
        let status = status.0.map(|status| status.0);
        let list = format!("match records {} {:?}", caller.user()?, status);
        let after: Option<GameMatchCursor> = cursor.0.map(|cursor| cursor.key(&list)).transpose()?;
        self.api.wait_for_models(&[Name::GameMatches], min).await?;
        let Some(subject) = self.api.own_subject(&caller).await? else {
            return Ok(Cached::new(&Page { items: Vec::new(), next_cursor: None }, if_none_match.as_deref()));
        };
        let limit = limit.0.get() as u32;
        let matches = self.api.models.game_matches();
        let page = matches.list(&caller.tenant, subject, status, after, limit).await;
        let page = page.map_err(|error| from_query_error(&error))?;
        let next_cursor = page.next.map(|next| Cursor::new(&list, &next).to_string());
        let viewer = Viewer::new(&caller, subject);
        let items = self.api.render_matches(&caller.tenant, page.items, viewer).await?;
        Ok(Cached::new(&Page { items, next_cursor }, if_none_match.as_deref()))
    }

    /// List all matches of the tenant, newest first
    ///
    /// Needs the role `service` or `admin`.
    #[oai(path = "/internal/matches", method = "get", operation_id = "list_all_game_matches")]
    async fn list_all(
        &self,
        caller: Caller,
        status: Query<Option<Api<GameMatchStatus>>>,
        #[oai(default)] limit: Query<Limit>,
        cursor: Query<Option<Cursor>>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<Page<GameMatch>>, Problem> {
        caller.require(Role::Service | Role::Admin)?;
        let status = status.0.map(|status| status.0);
        let list = format!("all match records {status:?}");
        let after: Option<GameMatchCursor> = cursor.0.map(|cursor| cursor.key(&list)).transpose()?;
        self.api.wait_for_models(&[Name::GameMatches], min).await?;
        let limit = limit.0.get() as u32;
        let page = self.api.models.game_matches().list_all(&caller.tenant, status, after, limit).await;
        let page = page.map_err(|error| from_query_error(&error))?;
        let next_cursor = page.next.map(|next| Cursor::new(&list, &next).to_string());
        let items = self.api.render_matches(&caller.tenant, page.items, Viewer::Operator).await?;
        Ok(Cached::new(&Page { items, next_cursor }, if_none_match.as_deref()))
    }

    /// Get a match
    ///
    /// Its two players may read it, and the roles `service` and `admin` of the tenant.
    #[oai(path = "/v1/matchmaking/matches/:match_id", method = "get", operation_id = "read_game_match")]
    async fn read(
        &self,
        caller: Caller,
        match_id: Path<String>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
        budget: CostlyReads,
    ) -> Result<Cached<GameMatch>, Problem> {
        caller.require(player_roles())?;
        let id = path::game_match_id(&match_id)?;
        self.api.wait_for_models_or_log(&[Name::GameMatches], min).await?;
        let matches = self.api.models.game_matches();
        let read = || async {
            let Ok(found) = matches.get(&caller.tenant, id).await else {
                let _turn = budget.turn().await?;
                let replayed = matches.replay(&caller.tenant, id).await;
                return replayed.map_err(|error| from_replay_error(&error));
            };
            Ok(found)
        };
        let origin = Origin::Stream(StreamId::game_match(id));
        let view = self.api.read_by_id(Name::GameMatches, &caller.tenant, origin, read).await?;
        let view = view.ok_or_else(|| Problem::not_found("no such match"))?;
        let viewer = self.api.viewer(&caller, |subject| view.side_of(subject).is_some()).await?;
        let viewer = viewer.ok_or_else(|| Problem::not_found("no such match"))?;
        let rendered = self.api.render_matches(&caller.tenant, vec![view], viewer).await?;
        let shown = rendered.first().ok_or_else(|| Problem::not_found("no such match"))?;
        Ok(Cached::new(shown, if_none_match.as_deref()))
    }
}

impl ReadApi {
    /// The subject of the caller; none if the log has no events of that user.
    ///
    /// # Errors
    /// 403 if the credentials name no user, 503 if the vault is unavailable.
    pub(crate) async fn own_subject(&self, caller: &Caller) -> Result<Option<SubjectId>, Problem> {
        self.server.subjects.subject(&caller.tenant, caller.user()?).await
    }

    /// Whether the caller may see a resource of its tenant: as a user that it concerns, or as a trusted caller.
    ///
    /// # Errors
    /// 403 if the role needs a user and the credentials name none, 503 if the vault is unavailable.
    pub(crate) async fn may_see(
        &self,
        caller: &Caller,
        concerns: impl FnOnce(SubjectId) -> bool,
    ) -> Result<bool, Problem> {
        if caller.can_access_others() {
            return Ok(true);
        }
        Ok(self.own_subject(caller).await?.is_some_and(concerns))
    }

    /// The caller as the reader of a resource of its tenant; none if the caller may not see it.
    ///
    /// # Errors
    /// As [`Self::may_see`].
    async fn viewer(
        &self,
        caller: &Caller,
        concerns: impl FnOnce(SubjectId) -> bool,
    ) -> Result<Option<Viewer>, Problem> {
        if caller.can_access_others() {
            return Ok(Some(Viewer::Operator));
        }
        let subject = self.own_subject(caller).await?;
        Ok(subject.filter(|subject| concerns(*subject)).map(Viewer::Player))
    }

    /// Matches with the user ids of the players that the viewer may know.
    ///
    /// # Errors
    /// 503 if the vault is unavailable.
    pub(crate) async fn render_matches(
        &self,
        tenant: &Tenant,
        views: Vec<GameMatchView>,
        viewer: Viewer,
    ) -> Result<Vec<GameMatch>, Problem> {
        let subjects = views.iter().flat_map(|view| [view.first.subject_id, view.second.subject_id]);
        let user_ids = self.server.subjects.user_ids(tenant, subjects).await?;
        Ok(views.into_iter().map(|view| GameMatch::new(view, &user_ids, viewer)).collect())
    }
}
