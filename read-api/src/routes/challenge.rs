//! Challenges: the incoming and outgoing lists, and one challenge.

use std::sync::Arc;

use event_schemas::ids::{ChallengeId, GameId, GameMatchId, PoolKey, Position, UserId};
use event_schemas::sealed::SealedField;
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use poem_openapi::OpenApi;
use poem_openapi::param::{Header, Path, Query};
use projections::Name;
use projections::challenge::{ChallengeCursor, ChallengeStatus, ChallengeView, Direction, PlacementFailure};
use schemars::JsonSchema;
use serde::Serialize;
use web::caller::{Caller, CostlyReads};
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

/// A player's request for a match with a particular opponent.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Challenge {
    pub id: ChallengeId,
    pub challenge_id: ChallengeId,
    pub pool_key: PoolKey,
    /// Null for an erased user.
    pub challenger_id: Option<UserId>,
    /// The challenged player; null for an erased user.
    pub opponent_id: Option<UserId>,
    pub status: ChallengeStatus,
    /// Whether it was accepted and its game is being created; its status is `pending` until then.
    pub placing: bool,
    /// The challenger's rating.
    pub rating: u16,
    /// The challenger's message; null also for an erased challenger.
    pub message: Option<String>,
    /// The match, once the challenge was accepted.
    pub match_id: Option<GameMatchId>,
    pub game_id: Option<GameId>,
    /// The number of times that it was accepted.
    pub attempts: u32,
    /// Its detail is only for the roles `service` and `admin`.
    pub last_failure: Option<PlacementFailure>,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    /// Log position of the last event that changed this resource.
    pub position: Position,
}

impl Challenge {
    fn new(view: ChallengeView, message: Option<String>, user_ids: &UserIds, caller: &Caller) -> Self {
        let detail = |detail: Option<String>| detail.filter(|_| caller.can_access_others());
        let failure =
            |failure: PlacementFailure| PlacementFailure { detail: detail(failure.detail), ..failure };
        Self {
            id: view.challenge_id,
            challenge_id: view.challenge_id,
            pool_key: view.pool_key,
            challenger_id: user_ids.user_id(view.challenger),
            opponent_id: user_ids.user_id(view.challenged),
            status: view.status,
            placing: view.placing,
            rating: view.rating,
            message,
            match_id: view.match_id,
            game_id: view.game_id,
            attempts: view.attempts,
            last_failure: view.last_failure.map(failure),
            created_at: view.created_at,
            expires_at: view.expires_at,
            ended_at: view.ended_at,
            position: view.position,
        }
    }
}

/// The parameters of a list of challenges.
#[derive(Debug)]
struct ListParams {
    direction: Direction,
    status: Option<ChallengeStatus>,
    limit: Limit,
    cursor: Option<Cursor>,
    min: MinPosition,
    if_none_match: Option<String>,
}

/// Routes for challenges.
#[derive(Clone, Debug)]
pub struct ChallengeRoutes {
    pub(crate) api: Arc<ReadApi>,
}

#[OpenApi(tag = "Tag::Matchmaking")]
impl ChallengeRoutes {
    /// List my incoming challenges, newest first
    ///
    /// Needs the role `user`, `service` or `admin`.
    #[oai(
        path = "/v1/matchmaking/challenges/incoming",
        method = "get",
        operation_id = "list_incoming_challenges"
    )]
    #[allow(clippy::too_many_arguments, reason = "each is a parameter of the operation")]
    async fn incoming(
        &self,
        caller: Caller,
        status: Query<Option<Api<ChallengeStatus>>>,
        #[oai(default)] limit: Query<Limit>,
        cursor: Query<Option<Cursor>>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<Page<Challenge>>, Problem> {
        let direction = Direction::Incoming;
        let (status, limit, cursor, if_none_match) =
            (status.0.map(|status| status.0), limit.0, cursor.0, if_none_match.0);
        self.list(&caller, ListParams { direction, status, limit, cursor, min, if_none_match }).await
    }

    /// List my outgoing challenges, newest first
    ///
    /// Needs the role `user`, `service` or `admin`.
    #[oai(
        path = "/v1/matchmaking/challenges/outgoing",
        method = "get",
        operation_id = "list_outgoing_challenges"
    )]
    #[allow(clippy::too_many_arguments, reason = "each is a parameter of the operation")]
    async fn outgoing(
        &self,
        caller: Caller,
        status: Query<Option<Api<ChallengeStatus>>>,
        #[oai(default)] limit: Query<Limit>,
        cursor: Query<Option<Cursor>>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<Page<Challenge>>, Problem> {
        let direction = Direction::Outgoing;
        let (status, limit, cursor, if_none_match) =
            (status.0.map(|status| status.0), limit.0, cursor.0, if_none_match.0);
        self.list(&caller, ListParams { direction, status, limit, cursor, min, if_none_match }).await
    }

    /// Get a challenge
    ///
    /// Its two players may read it, and the roles `service` and `admin` of the tenant.
    #[oai(path = "/v1/matchmaking/challenges/:challenge_id", method = "get", operation_id = "read_challenge")]
    async fn read(
        &self,
        caller: Caller,
        challenge_id: Path<String>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
        budget: CostlyReads,
    ) -> Result<Cached<Challenge>, Problem> {
        caller.require(player_roles())?;
        let id = path::challenge_id(&challenge_id)?;
        self.api.wait_for_models_or_log(&[Name::Challenges], min).await?;
        let challenges = self.api.models.challenges();
        let read = || async {
            let Ok(found) = challenges.get(&caller.tenant, id).await else {
                let _turn = budget.turn().await?;
                let replayed = challenges.replay(&caller.tenant, id).await;
                return replayed.map_err(|error| from_replay_error(&error));
            };
            Ok(found)
        };
        let origin = Origin::Stream(StreamId::challenge(id));
        let view = self.api.read_by_id(Name::Challenges, &caller.tenant, origin, read).await?;
        let visible = match view {
            Some(view) if self.api.may_see(&caller, |subject| view.concerns(subject)).await? => view,
            _ => return Err(Problem::not_found("no such challenge")),
        };
        let rendered = self.api.render_challenges(&caller, vec![visible]).await?;
        let challenge = rendered.first().ok_or_else(|| Problem::not_found("no such challenge"))?;
        Ok(Cached::new(challenge, if_none_match.as_deref()))
    }
}

impl ChallengeRoutes {
    async fn list(&self, caller: &Caller, params: ListParams) -> Result<Cached<Page<Challenge>>, Problem> {
        caller.require(player_roles())?;
        // A cursor is valid only for the list that it was issued for.
        let list = format!("challenges {} {:?} {:?}", caller.user()?, params.direction, params.status);
        let after: Option<ChallengeCursor> = params.cursor.map(|cursor| cursor.key(&list)).transpose()?;
        self.api.wait_for_models(&[Name::Challenges], params.min).await?;
        let if_none_match = params.if_none_match.as_deref();
        let Some(subject) = self.api.own_subject(caller).await? else {
            return Ok(Cached::new(&Page { items: Vec::new(), next_cursor: None }, if_none_match));
        };
        let (status, limit) = (params.status, params.limit.get() as u32);
        let challenges = self.api.models.challenges();
        let page = challenges.list(&caller.tenant, subject, params.direction, status, after, limit).await;
        let page = page.map_err(|error| from_query_error(&error))?;
        let next_cursor = page.next.map(|next| Cursor::new(&list, &next).to_string());
        let items = self.api.render_challenges(caller, page.items).await?;
        Ok(Cached::new(&Page { items, next_cursor }, if_none_match))
    }
}

impl ReadApi {
    /// Challenges with the user ids of their players and the challengers' messages.
    ///
    /// # Errors
    /// 503 if the vault is unavailable.
    pub(crate) async fn render_challenges(
        &self,
        caller: &Caller,
        views: Vec<ChallengeView>,
    ) -> Result<Vec<Challenge>, Problem> {
        let tenant = &caller.tenant;
        let directory = &self.server.subjects;
        let subjects = views.iter().flat_map(|view| [view.challenger, view.challenged]);
        let user_ids = directory.user_ids(tenant, subjects).await?;
        let mut rendered = Vec::with_capacity(views.len());
        for view in views {
            let field = SealedField::ChallengeMessage(view.challenge_id);
            let message = match &view.message {
                Some(sealed) => directory.unseal(tenant, view.challenger, field, sealed).await?,
                None => None,
            };
            rendered.push(Challenge::new(view, message, &user_ids, caller));
        }
        Ok(rendered)
    }
}
