//! Who waits: one's own entry, and all of them in numbers.

mod entry;
mod summary;

use std::sync::Arc;

use event_schemas::ids::{SubjectId, Tenant};
use event_schemas::sealed::Place;
use poem_openapi::param::{Header, Path, Query};
use poem_openapi::{Object, OpenApi};
use projections::Name;
use projections::challenge::{ChallengeStatus, Direction};
use projections::match_record::MatchStatus;
use projections::queue::{EntryStatus, EntryView};
use web::caller::{Caller, Role, Roles};
use web::etag::Cached;
use web::path;
use web::problem::Problem;
use web::sse::{self, Answer};
use web::value::Pos;

use super::challenge::Challenge;
use super::match_record::MatchRecord;
use super::{Tag, players};
use crate::ReadApi;
use crate::answer::{MinPosition, unanswered};
use crate::stream::FollowQueues;

pub use entry::{EstimatedWait, NobodyYet, QueueEntry, QueueEntryPool};
pub use summary::{
    EntryCounts, MatchQuality, Pool, PoolSummary, QueueSummary, RatingBucket, WaitPercentiles, WaitingPoint,
    WaitingSample,
};

/// How many challenges to and from a player are told with all that they are in. There are lists of them all.
const CHALLENGES_MAX: u32 = 100;

/// What a player is in at present.
#[derive(Clone, Debug, PartialEq, Object)]
pub struct ActivePlay {
    /// The entry that waits, or is taken for a match whose game is being made.
    pub entry: Option<QueueEntry>,
    /// The match that is played, or whose game is being made.
    #[oai(rename = "match")]
    pub playing: Option<MatchRecord>,
    /// Those that are pending: first those that the player was asked, then those that they made, the newest first.
    pub challenges: Vec<Challenge>,
    /// The log position that the answer reflects.
    pub position: Pos,
}

/// Routes over queues and pools.
#[derive(Clone, Debug)]
pub struct QueueRoutes {
    pub(crate) api: Arc<ReadApi>,
}

#[OpenApi(tag = "Tag::Matchmaking")]
impl QueueRoutes {
    /// One's own queue entry: how long it has waited, how far its window reaches, and why nobody was found yet
    ///
    /// Needs the role `user`, `service` or `admin`.
    #[oai(path = "/v1/matchmaking/queue/:entry_id", method = "get", operation_id = "read_queue_entry")]
    async fn entry(
        &self,
        caller: Caller,
        entry_id: Path<String>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<QueueEntry>, Problem> {
        caller.require(players())?;
        let id = path::entry_id(&entry_id)?;
        self.api.models_reached(&[Name::Queues], min).await?;
        let subject = self.api.own_subject(&caller).await?;
        let found = self.api.models.queues().entry(&caller.tenant, id).await;
        let found = found.map_err(|error| unanswered(&error))?;
        let own = found.filter(|view| Some(view.entry.entry.queued.subject_id) == subject);
        let view = own.ok_or_else(|| Problem::not_found("no such queue entry"))?;
        let entry = self.shown(&caller.tenant, &view).await?;
        Ok(Cached::without(&entry, entry::RUNNING_TIMES, if_none_match.as_deref()))
    }

    /// What the caller is in at present: the entry, the match, and open challenges
    ///
    /// Needs the role `user`, `service` or `admin`.
    #[oai(path = "/v1/matchmaking/active", method = "get", operation_id = "read_active_play")]
    async fn active(
        &self,
        caller: Caller,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<ActivePlay>, Problem> {
        caller.require(players())?;
        self.api.models_reached(&[Name::Queues, Name::MatchRecords, Name::Challenges], min).await?;
        let position = self.api.models.queues().position().map_err(|error| unanswered(&error))?;
        let active = match self.api.own_subject(&caller).await? {
            Some(subject) => ActivePlay {
                entry: self.waiting(&caller.tenant, subject).await?,
                playing: self.playing(&caller.tenant, subject).await?,
                challenges: self.challenges(&caller.tenant, subject).await?,
                position: Pos(position),
            },
            None => {
                ActivePlay { entry: None, playing: None, challenges: Vec::new(), position: Pos(position) }
            }
        };
        Ok(Cached::without(&active, entry::RUNNING_TIMES, if_none_match.as_deref()))
    }

    /// How a pool matches its players
    ///
    /// Every key names a pool; one that nobody configured has the defaults. Needs the role `admin`.
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
        self.api.models_reached(&[Name::Queues], min).await?;
        let view = self.api.models.queues().pool(&caller.tenant, &key);
        let pool = Pool::new(key, &view.map_err(|error| unanswered(&error))?);
        Ok(Cached::without(&pool, &["position"], if_none_match.as_deref()))
    }

    /// The tenant's pools in numbers: who waits, how long, how strong, and what the latest matches were like
    ///
    /// Needs the role `worker`, `service`, `auditor` or `admin`. Credentials of the tenant `*` see all tenants.
    #[oai(path = "/internal/queues/summary", method = "get", operation_id = "read_queue_summary")]
    async fn summary(
        &self,
        caller: Caller,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<QueueSummary>, Problem> {
        caller.require(observers())?;
        self.api.models_reached(&[Name::Queues], min).await?;
        let summary = self.api.queue_summary(seen(&caller).as_ref()).await?;
        Ok(Cached::without(&summary, summary::RUNNING_TIMES, if_none_match.as_deref()))
    }

    /// The tenant's pools in numbers, whenever they change, as server-sent events
    ///
    /// `connected` comes first, then `summary` with all numbers: at once, after changes at most four times a second, and
    /// once a second while somebody waits. Whoever comes back is told the newest. Needs the role `worker`, `service`,
    /// `auditor` or `admin`. Credentials of the tenant `*` see all tenants.
    #[oai(path = "/internal/queues/stream", method = "get", operation_id = "stream_queue_summary")]
    async fn stream(
        &self,
        caller: Caller,
        /// From `POST /v1/stream-tickets`, for a browser's EventSource, which sends no headers
        #[oai(name = "ticket", validator(max_length = 128))]
        _ticket: Query<Option<String>>,
    ) -> Result<Answer<QueueSummary>, Problem> {
        caller.require(observers())?;
        let follow = FollowQueues::new(&self.api, seen(&caller));
        Ok(Answer::Open(sse::stream(&None::<Pos>, &self.api.shutdown, |sender| follow.run(sender))))
    }
}

/// Who may see everyone who waits in numbers.
fn observers() -> Roles {
    Role::Worker | Role::Service | Role::Auditor | Role::Admin
}

/// Whose queues the caller sees; none if all.
fn seen(caller: &Caller) -> Option<Tenant> {
    (!caller.sees_all_tenants()).then(|| caller.tenant.clone())
}

impl QueueRoutes {
    async fn waiting(&self, tenant: &Tenant, subject: SubjectId) -> Result<Option<QueueEntry>, Problem> {
        let view = self.api.models.queues().entry_of(tenant, subject).await;
        match view.map_err(|error| unanswered(&error))? {
            Some(view) => Ok(Some(self.shown(tenant, &view).await?)),
            None => Ok(None),
        }
    }

    async fn playing(&self, tenant: &Tenant, subject: SubjectId) -> Result<Option<MatchRecord>, Problem> {
        for status in [MatchStatus::Playing, MatchStatus::Placing] {
            let page = self.api.models.match_records().list(tenant, subject, Some(status), None, 1).await;
            let found = page.map_err(|error| unanswered(&error))?.items;
            if let Some(own) = self.api.shown_matches(tenant, found).await?.pop() {
                return Ok(Some(own));
            }
        }
        Ok(None)
    }

    async fn challenges(&self, tenant: &Tenant, subject: SubjectId) -> Result<Vec<Challenge>, Problem> {
        let mut pending = Vec::new();
        for direction in [Direction::Incoming, Direction::Outgoing] {
            let status = Some(ChallengeStatus::Pending);
            let challenges = self.api.models.challenges();
            let page = challenges.list(tenant, subject, direction, status, None, CHALLENGES_MAX).await;
            pending.extend(page.map_err(|error| unanswered(&error))?.items);
        }
        self.api.shown_challenges(tenant, pending).await
    }

    /// The entry with its opponent's name, and with what its player wrote to it.
    async fn shown(&self, tenant: &Tenant, view: &EntryView) -> Result<QueueEntry, Problem> {
        let people = &self.api.server.people;
        // Until the game is there the two may part again, and need not know of each other.
        let taken = view.entry.taken.as_ref().filter(|_| view.entry.status == EntryStatus::Matched);
        let opponent = match taken {
            Some(taken) => people.names(tenant, [taken.opponent]).await?.of(taken.opponent),
            None => None,
        };
        let queued = &view.entry.entry.queued;
        let place = Place::QueueMetadata(queued.entry_id);
        let metadata = match &queued.metadata {
            Some(sealed) => people.open(tenant, queued.subject_id, place, sealed).await?,
            None => None,
        };
        let metadata = metadata.map(|text| serde_json::from_str(&text)).transpose();
        Ok(QueueEntry::new(view, opponent, metadata.map_err(|error| Problem::internal(&error))?))
    }
}

impl ReadApi {
    /// The queues of a tenant, or of all, in numbers.
    ///
    /// # Errors
    /// 503 while the read model cannot be read.
    pub(crate) async fn queue_summary(&self, tenant: Option<&Tenant>) -> Result<QueueSummary, Problem> {
        let counted = self.models.queues().count(tenant).await;
        Ok(counted.map_err(|error| unanswered(&error))?.into())
    }
}
