//! Queue entries, the caller's current activity, pools and queue statistics.

mod entry;
mod summary;

use std::sync::Arc;

use event_schemas::ids::{EntryId, Position, SubjectId, Tenant};
use event_schemas::sealed::SealedField;
use poem_openapi::OpenApi;
use poem_openapi::param::{Header, Path, Query};
use projections::Name;
use projections::challenge::{ChallengeStatus, Direction};
use projections::game_match::GameMatchStatus;
use projections::queue::{EntryStatus, EntryView};
use schemars::JsonSchema;
use serde::Serialize;
use web::caller::{Caller, Role, Roles};
use web::etag::Cached;
use web::path;
use web::problem::Problem;
use web::sse::StreamResponse;

use super::challenge::Challenge;
use super::game_match::{GameMatch, Viewer};
use super::{Tag, player_roles};
use crate::ReadApi;
use crate::by_id::Origin;
use crate::errors::from_query_error;
use crate::min_position::MinPosition;
use crate::stream::QueueSummaryFollower;

pub use entry::{EstimatedWait, NoMatchReason, QueueEntry, QueueEntryPool};
pub use summary::{
    EntryCounts, MatchQuality, Pool, PoolSummary, QueueSummary, RatingBucket, WaitPercentiles, WaitingPoint,
    WaitingSample,
};

/// The name of the game service among the circuit breakers.
const GAME_SERVICE: &str = "game_service";

/// The greatest number of challenges per direction in the current activity. The challenge lists have all of them.
const CHALLENGES_MAX: u32 = 100;

/// The current activity of a player.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct CurrentActivity {
    /// The entry that is searching or being placed.
    pub entry: Option<QueueEntry>,
    /// The match that is being placed or played.
    #[serde(rename = "match")]
    pub playing: Option<GameMatch>,
    /// The pending challenges: incoming ones first, then outgoing ones, each newest first.
    pub challenges: Vec<Challenge>,
    /// The log position that the response reflects.
    pub position: Position,
}

/// Routes for queues and pools.
#[derive(Clone, Debug)]
pub struct QueueRoutes {
    pub(crate) api: Arc<ReadApi>,
}

#[OpenApi(tag = "Tag::Matchmaking")]
impl QueueRoutes {
    /// Get my queue entry
    ///
    /// With its waiting time, its rating window, and why no match was found yet. Needs the role `user`, `service` or
    /// `admin`.
    #[oai(path = "/v1/matchmaking/queue/:entry_id", method = "get", operation_id = "read_queue_entry")]
    async fn entry(
        &self,
        caller: Caller,
        entry_id: Path<String>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<QueueEntry>, Problem> {
        caller.require(player_roles())?;
        let id = path::entry_id(&entry_id)?;
        self.api.wait_for_models(&[Name::Queues], min).await?;
        let subject = self.api.own_subject(&caller).await?;
        let found = self.api.queue_entry(&caller.tenant, id).await?;
        let own = found.filter(|view| Some(view.entry.entry.queued.subject_id) == subject);
        let view = own.ok_or_else(|| Problem::not_found("no such queue entry"))?;
        let entry = self.render_entry(&caller.tenant, &view).await?;
        Ok(Cached::without(&entry, entry::RUNNING_TIMES, if_none_match.as_deref()))
    }

    /// Get my current activity
    ///
    /// The queue entry, the match, and the pending challenges. Needs the role `user`, `service` or `admin`.
    #[oai(path = "/v1/matchmaking/active", method = "get", operation_id = "read_current_activity")]
    async fn active(
        &self,
        caller: Caller,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<CurrentActivity>, Problem> {
        caller.require(player_roles())?;
        self.api.wait_for_models(&[Name::Queues, Name::GameMatches, Name::Challenges], min).await?;
        let position = self.api.models.queues().position().map_err(|error| from_query_error(&error))?;
        let active = match self.api.own_subject(&caller).await? {
            Some(subject) => CurrentActivity {
                entry: self.active_entry(&caller.tenant, subject).await?,
                playing: self.active_match(&caller, subject).await?,
                challenges: self.pending_challenges(&caller, subject).await?,
                position,
            },
            None => CurrentActivity { entry: None, playing: None, challenges: Vec::new(), position },
        };
        Ok(Cached::without(&active, entry::RUNNING_TIMES, if_none_match.as_deref()))
    }

    /// Get a pool
    ///
    /// Every key names a pool; one that is not configured has the default settings. Needs the role `admin`.
    #[oai(path = "/internal/pools/:pool_key", method = "get", operation_id = "read_pool")]
    async fn pool(
        &self,
        caller: Caller,
        pool_key: Path<String>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<Pool>, Problem> {
        caller.require(Role::Admin)?;
        let key = path::pool_key(&pool_key)?;
        self.api.wait_for_models(&[Name::Queues], min).await?;
        let view = self.api.models.queues().pool(&caller.tenant, &key);
        let pool = Pool::new(key, &view.map_err(|error| from_query_error(&error))?);
        Ok(Cached::without(&pool, &["position"], if_none_match.as_deref()))
    }

    /// Get the queue statistics of the tenant's pools
    ///
    /// Waiting times, ratings, and the quality of recent matches. Needs the role `worker`, `service`, `auditor` or
    /// `admin`. Credentials of the tenant `*` see all tenants.
    #[oai(path = "/internal/queues/summary", method = "get", operation_id = "read_queue_summary")]
    async fn summary(
        &self,
        caller: Caller,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<QueueSummary>, Problem> {
        caller.require(observer_roles())?;
        self.api.wait_for_models(&[Name::Queues], min).await?;
        let summary = self.api.queue_summary(visible_tenant(&caller).as_ref()).await?;
        Ok(Cached::without(&summary, summary::RUNNING_TIMES, if_none_match.as_deref()))
    }

    /// Stream the queue statistics of the tenant's pools as server-sent events
    ///
    /// `connected` comes first, then `summary` with all statistics: immediately, after changes at most four times a
    /// second, and once a second while players wait. A client that reconnects receives the latest. Needs the role
    /// `worker`, `service`, `auditor` or `admin`. Credentials of the tenant `*` see all tenants.
    #[oai(path = "/internal/queues/stream", method = "get", operation_id = "stream_queue_summary")]
    async fn stream(
        &self,
        caller: Caller,
        /// From `POST /v1/stream-tickets`, for a browser's EventSource, which sends no headers
        #[oai(name = "ticket", validator(max_length = 128))]
        _ticket: Query<Option<String>>,
    ) -> Result<StreamResponse<QueueSummary>, Problem> {
        caller.require(observer_roles())?;
        Ok(self.api.stream(Some(QueueSummaryFollower::new(&self.api, visible_tenant(&caller)))))
    }
}

/// The roles that may see queue statistics.
fn observer_roles() -> Roles {
    Role::Worker | Role::Service | Role::Auditor | Role::Admin
}

/// The tenant whose queues the caller sees; none for all tenants.
fn visible_tenant(caller: &Caller) -> Option<Tenant> {
    (!caller.can_access_all_tenants()).then(|| caller.tenant.clone())
}

impl QueueRoutes {
    async fn active_entry(&self, tenant: &Tenant, subject: SubjectId) -> Result<Option<QueueEntry>, Problem> {
        let view = self.api.models.queues().entry_of(tenant, subject).await;
        match view.map_err(|error| from_query_error(&error))? {
            Some(view) => Ok(Some(self.render_entry(tenant, &view).await?)),
            None => Ok(None),
        }
    }

    async fn active_match(&self, caller: &Caller, subject: SubjectId) -> Result<Option<GameMatch>, Problem> {
        let (tenant, viewer) = (&caller.tenant, Viewer::new(caller, subject));
        for status in [GameMatchStatus::Playing, GameMatchStatus::Placing] {
            let page = self.api.models.game_matches().list(tenant, subject, Some(status), None, 1).await;
            let found = page.map_err(|error| from_query_error(&error))?.items;
            if let Some(own) = self.api.render_matches(tenant, found, viewer).await?.pop() {
                return Ok(Some(own));
            }
        }
        Ok(None)
    }

    async fn pending_challenges(
        &self,
        caller: &Caller,
        subject: SubjectId,
    ) -> Result<Vec<Challenge>, Problem> {
        let mut pending = Vec::new();
        for direction in [Direction::Incoming, Direction::Outgoing] {
            let status = Some(ChallengeStatus::Pending);
            let challenges = self.api.models.challenges();
            let page =
                challenges.list(&caller.tenant, subject, direction, status, None, CHALLENGES_MAX).await;
            pending.extend(page.map_err(|error| from_query_error(&error))?.items);
        }
        self.api.render_challenges(caller, pending).await
    }

    /// The entry with its opponent's user id and its player's metadata.
    async fn render_entry(&self, tenant: &Tenant, view: &EntryView) -> Result<QueueEntry, Problem> {
        let directory = &self.api.server.subjects;
        // Until the game is created the match may fail, so the players do not learn of each other.
        let reservation =
            view.entry.reservation.as_ref().filter(|_| view.entry.status == EntryStatus::Matched);
        let opponent = match reservation {
            Some(held) => directory.user_ids(tenant, [held.opponent]).await?.user_id(held.opponent),
            None => None,
        };
        let queued = &view.entry.entry.queued;
        let field = SealedField::QueueMetadata(queued.entry_id);
        let metadata = match &queued.metadata {
            Some(sealed) => directory.unseal(tenant, queued.subject_id, field, sealed).await?,
            None => None,
        };
        let metadata = metadata.map(|text| serde_json::from_str(&text)).transpose();
        let metadata = metadata.map_err(|error| Problem::internal(&error))?;
        let is_searching = view.entry.status == EntryStatus::Searching;
        let parked = self.api.server.breakers.parked(tenant, &[GAME_SERVICE]).filter(|_| is_searching);
        Ok(QueueEntry::new(view, opponent, metadata, parked))
    }
}

impl ReadApi {
    /// A queue entry of the tenant, from the read model.
    ///
    /// # Errors
    /// 503 while the read model cannot be read.
    pub(crate) async fn queue_entry(
        &self,
        tenant: &Tenant,
        id: EntryId,
    ) -> Result<Option<EntryView>, Problem> {
        let read = || async {
            let found = self.models.queues().entry(tenant, id).await;
            found.map_err(|error| from_query_error(&error))
        };
        // An entry is in the stream of its player.
        self.read_by_id(Name::Queues, tenant, Origin::Other, read).await
    }

    /// The queue statistics of one tenant, or of all.
    ///
    /// # Errors
    /// 503 while the read model cannot be read.
    pub(crate) async fn queue_summary(&self, tenant: Option<&Tenant>) -> Result<QueueSummary, Problem> {
        let counted = self.models.queues().count(tenant).await;
        Ok(counted.map_err(|error| from_query_error(&error))?.into())
    }
}
