//! Challenges: those that one was asked, those that one made, and one of them.

use std::sync::Arc;

use event_schemas::ids::{ChallengeId, GameId, MatchRecordId, PoolKey, Tenant, UserId};
use event_schemas::sealed::Place;
use poem_openapi::param::{Header, Path, Query};
use poem_openapi::{Object, OpenApi};
use projections::Name;
use projections::challenge::{
    ChallengeCursor, ChallengeStatus as Stored, ChallengeView, Direction, PlacingFailure,
};
use web::caller::Caller;
use web::etag::Cached;
use web::paging::{Cursor, Limit, Page};
use web::path;
use web::problem::Problem;
use web::value::{At, Pos, Text, Uid};
use web::vocabulary::{AbandonReason, ChallengeStatus};

use super::{Tag, players};
use crate::ReadApi;
use crate::answer::{MinPosition, unanswered};
use crate::people::Names;

/// Why the game of an accepted challenge could not be made when that was last tried.
#[derive(Clone, Debug, PartialEq, Object)]
pub struct ChallengeFailure {
    pub at: At,
    pub reason: AbandonReason,
    /// What the game service said, if that was why.
    pub detail: Option<String>,
}

/// One player's asking another for a match.
#[derive(Clone, Debug, PartialEq, Object)]
pub struct Challenge {
    pub id: Uid<ChallengeId>,
    pub challenge_id: Uid<ChallengeId>,
    pub pool_key: Text<PoolKey>,
    /// Null for somebody who was erased.
    pub challenger_id: Option<Text<UserId>>,
    /// Who is challenged; null for somebody who was erased.
    pub opponent_id: Option<Text<UserId>>,
    pub status: ChallengeStatus,
    /// Whether it was accepted and its game is being made. Until that is there it is pending.
    pub placing: bool,
    /// The challenger's.
    pub rating: u16,
    /// From the challenger; null also where they were erased.
    pub message: Option<String>,
    /// The match that it leads to, once it was accepted.
    pub match_id: Option<Uid<MatchRecordId>>,
    pub game_id: Option<Text<GameId>>,
    /// How often it was accepted.
    pub attempts: u32,
    pub last_failure: Option<ChallengeFailure>,
    pub created_at: At,
    pub expires_at: At,
    pub ended_at: Option<At>,
    /// Of the event that changed it last.
    pub position: Pos,
}

impl From<PlacingFailure> for ChallengeFailure {
    fn from(failure: PlacingFailure) -> Self {
        Self { at: At(failure.at), reason: failure.reason.into(), detail: failure.detail }
    }
}

fn status(stored: Stored) -> ChallengeStatus {
    match stored {
        Stored::Pending => ChallengeStatus::Pending,
        Stored::Accepted => ChallengeStatus::Accepted,
        Stored::Declined => ChallengeStatus::Declined,
        Stored::Cancelled => ChallengeStatus::Cancelled,
        Stored::Expired => ChallengeStatus::Expired,
    }
}

fn asked(status: ChallengeStatus) -> Stored {
    match status {
        ChallengeStatus::Pending => Stored::Pending,
        ChallengeStatus::Accepted => Stored::Accepted,
        ChallengeStatus::Declined => Stored::Declined,
        ChallengeStatus::Cancelled => Stored::Cancelled,
        ChallengeStatus::Expired => Stored::Expired,
    }
}

impl Challenge {
    fn new(view: ChallengeView, message: Option<String>, names: &Names) -> Self {
        Self {
            id: Uid(view.challenge_id),
            challenge_id: Uid(view.challenge_id),
            pool_key: Text(view.pool_key),
            challenger_id: names.of(view.challenger).map(Text),
            opponent_id: names.of(view.challenged).map(Text),
            status: status(view.status),
            placing: view.placing,
            rating: view.rating,
            message,
            match_id: view.match_id.map(Uid),
            game_id: view.game_id.map(Text),
            attempts: view.attempts,
            last_failure: view.last_failure.map(Into::into),
            created_at: At(view.created_at),
            expires_at: At(view.expires_at),
            ended_at: view.ended_at.map(At),
            position: Pos(view.position),
        }
    }
}

/// Which of one's challenges are asked for.
#[derive(Debug)]
struct Asking {
    direction: Direction,
    status: Option<ChallengeStatus>,
    limit: Limit,
    cursor: Option<Cursor>,
    min: MinPosition,
    if_none_match: Option<String>,
}

/// Routes over challenges.
#[derive(Clone, Debug)]
pub struct ChallengeRoutes {
    pub(crate) api: Arc<ReadApi>,
}

#[OpenApi(tag = "Tag::Matchmaking")]
impl ChallengeRoutes {
    /// The challenges that one was asked, the newest first
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
        status: Query<Option<ChallengeStatus>>,
        #[oai(default)] limit: Query<Limit>,
        cursor: Query<Option<Cursor>>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<Page<Challenge>>, Problem> {
        let direction = Direction::Incoming;
        let (status, limit, cursor, if_none_match) = (status.0, limit.0, cursor.0, if_none_match.0);
        self.list(&caller, Asking { direction, status, limit, cursor, min, if_none_match }).await
    }

    /// The challenges that one made, the newest first
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
        status: Query<Option<ChallengeStatus>>,
        #[oai(default)] limit: Query<Limit>,
        cursor: Query<Option<Cursor>>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<Page<Challenge>>, Problem> {
        let direction = Direction::Outgoing;
        let (status, limit, cursor, if_none_match) = (status.0, limit.0, cursor.0, if_none_match.0);
        self.list(&caller, Asking { direction, status, limit, cursor, min, if_none_match }).await
    }

    /// A challenge, for its two players
    ///
    /// Whoever has the role `service` or `admin` sees all of the tenant's.
    #[oai(path = "/v1/matchmaking/challenges/:challenge_id", method = "get", operation_id = "read_challenge")]
    async fn read(
        &self,
        caller: Caller,
        challenge_id: Path<String>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<Challenge>, Problem> {
        caller.require(players())?;
        let id = path::challenge_id(&challenge_id)?;
        self.api.models_reached(&[Name::Challenges], min).await?;
        let found = self.api.models.challenges().get(&caller.tenant, id).await;
        let view = found.map_err(|error| unanswered(&error))?;
        let visible = match view {
            Some(view) if self.api.may_see(&caller, |subject| view.concerns(subject)).await? => view,
            _ => return Err(Problem::not_found("no such challenge")),
        };
        let shown = self.api.shown_challenges(&caller.tenant, vec![visible]).await?;
        let shown = shown.first().ok_or_else(|| Problem::not_found("no such challenge"))?;
        Ok(Cached::new(shown, if_none_match.as_deref()))
    }
}

impl ChallengeRoutes {
    async fn list(&self, caller: &Caller, asking: Asking) -> Result<Cached<Page<Challenge>>, Problem> {
        caller.require(players())?;
        // A cursor is only good where the same challenges stand in the list.
        let list = format!("challenges {} {:?} {:?}", caller.user()?, asking.direction, asking.status);
        let after: Option<ChallengeCursor> = asking.cursor.map(|cursor| cursor.key(&list)).transpose()?;
        self.api.models_reached(&[Name::Challenges], asking.min).await?;
        let if_none_match = asking.if_none_match.as_deref();
        let Some(subject) = self.api.own_subject(caller).await? else {
            return Ok(Cached::new(&Page { items: Vec::new(), next_cursor: None }, if_none_match));
        };
        let (status, limit) = (asking.status.map(asked), asking.limit.get() as u32);
        let challenges = self.api.models.challenges();
        let page = challenges.list(&caller.tenant, subject, asking.direction, status, after, limit).await;
        let page = page.map_err(|error| unanswered(&error))?;
        let next_cursor = page.next.map(|next| Cursor::new(&list, &next).to_string());
        let items = self.api.shown_challenges(&caller.tenant, page.items).await?;
        Ok(Cached::new(&Page { items, next_cursor }, if_none_match))
    }
}

impl ReadApi {
    /// Challenges with the names of their players and what they say to each other.
    ///
    /// # Errors
    /// 503 if the vault cannot be asked.
    pub(crate) async fn shown_challenges(
        &self,
        tenant: &Tenant,
        views: Vec<ChallengeView>,
    ) -> Result<Vec<Challenge>, Problem> {
        let people = &self.server.people;
        let subjects = views.iter().flat_map(|view| [view.challenger, view.challenged]);
        let names = people.names(tenant, subjects).await?;
        let mut shown = Vec::with_capacity(views.len());
        for view in views {
            let place = Place::ChallengeMessage(view.challenge_id);
            let message = match &view.message {
                Some(sealed) => people.open(tenant, view.challenger, place, sealed).await?,
                None => None,
            };
            shown.push(Challenge::new(view, message, &names));
        }
        Ok(shown)
    }
}
