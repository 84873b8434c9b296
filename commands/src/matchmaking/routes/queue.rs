//! Joins and leaves the queue.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use domain::matchmaking::status::EntryStatus;
use domain::player::{self, Action, PoolRequest, Refusal};
use event_schemas::envelope::Cause;
use event_schemas::ids::{EntryId, PoolKey, Position, SubjectId};
use event_schemas::player::{PlayerQueued, QueuedPool};
use event_schemas::rating::RatingSource;
use event_schemas::sealed::SealedField;
use event_schemas::time::Timestamp;
use futures_util::future::join_all;
use poem_openapi::param::Path;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;
use vault::Subject;
use web::caller::Caller;
use web::json::{Created, Json};
use web::problem::{Code, FieldError, Problem};
use web::schema::Api;
use web::tag::Tag;
use web::value::TextId;

use crate::engine::execute::{ExecuteError, Executed};
use crate::engine::problem::{self, Step, after_step};
use crate::engine::write_request::{Users, WriteRequest};
use crate::matchmaking::Matchmaking;
use crate::matchmaking::ratings::ClaimedRating;

/// The longest metadata, in bytes of JSON.
const METADATA_BYTES_MAX: usize = 4096;

/// A queue entry to create, in one pool or in several: either `pool_key` or `pool_keys` is given.
#[derive(Debug, Object)]
#[oai(example)]
struct JoinQueue {
    pool_key: Option<TextId<PoolKey>>,
    /// An entry that is matched in one pool leaves all of them.
    #[oai(validator(min_items = 1, max_items = 16, unique_items))]
    pool_keys: Option<Vec<TextId<PoolKey>>>,
    /// The player's rating, if the token has none for the pool. It is used if the caller has the role `service` or
    /// `admin`, and ignored otherwise; the response contains the rating in use and its source.
    #[oai(validator(minimum(value = "0"), maximum(value = "10000")))]
    rating: Option<f64>,
    /// The largest rating gap to an opponent, in points.
    #[oai(validator(minimum(value = "0"), maximum(value = "10000")))]
    max_rating_gap: Option<u16>,
    /// The caller's own data, at most 4,096 bytes of JSON; stored encrypted under the player's key, and not
    /// interpreted.
    metadata: Option<BTreeMap<String, Value>>,
}

impl Example for JoinQueue {
    fn example() -> Self {
        Self {
            pool_key: Some(TextId("blitz".parse().expect("a short text is a key"))),
            pool_keys: None,
            rating: None,
            max_rating_gap: Some(300),
            metadata: None,
        }
    }
}

/// A pool of an entry.
#[derive(Debug, Serialize, JsonSchema)]
struct JoinedPool {
    pool_key: PoolKey,
    /// The rating from which windows and gaps are measured.
    rating: u16,
    rating_source: RatingSource,
}

/// An entry as it was created.
#[derive(Debug, Serialize, JsonSchema)]
struct JoinedEntry {
    id: EntryId,
    entry_id: EntryId,
    status: EntryStatus,
    pools: Vec<JoinedPool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_rating_gap: Option<u16>,
    queued_at: Timestamp,
    /// The time at which the unmatched entry expires: the shortest expiry of its pools.
    expires_at: Timestamp,
    /// Log position of the entry's creation. Send it as `X-Min-Position` to read your own write.
    position: Position,
}

/// A cancelled entry.
#[derive(Debug, Serialize, JsonSchema)]
struct CancelledEntry {
    id: EntryId,
    entry_id: EntryId,
    status: EntryStatus,
    position: Position,
}

/// The write routes of the queue.
#[derive(Clone, Debug)]
pub struct QueueCommands(pub(super) Arc<Matchmaking>);

#[OpenApi(tag = "Tag::Matchmaking")]
impl QueueCommands {
    /// Join the queue
    ///
    /// A player has one entry, or one unfinished match, at a time: another request is refused, and `existing` contains
    /// the present one.
    #[oai(path = "/v1/matchmaking/queue", method = "post", operation_id = "join_queue")]
    async fn join(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Users>,
        body: Json<JoinQueue>,
    ) -> Result<Created<Api<JoinedEntry>>, Problem> {
        let subject = self.0.engine.subject(&request.caller).await?;
        let cause =
            request.cause_about(subject.id, &self.0.engine, "POST /v1/matchmaking/queue", &body.0).await?;
        let entry = self.join_queue(&request.caller, &subject, &cause, body.0).await?;
        Ok(Created { location: format!("/v1/matchmaking/queue/{}", entry.id), body: Api(entry) })
    }

    /// Leave the queue
    ///
    /// An entry whose game is being created, or exists, cannot be cancelled. Cancelling again changes nothing.
    #[oai(path = "/v1/matchmaking/queue/:entry_id", method = "delete", operation_id = "leave_queue")]
    async fn leave(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Users>,
        entry_id: Path<String>,
    ) -> Result<Json<Api<CancelledEntry>>, Problem> {
        let entry_id = web::path::entry_id(&entry_id)?;
        let subject = self.0.engine.subject(&request.caller).await?.id;
        let route = format!("DELETE /v1/matchmaking/queue/{entry_id}");
        let cause = request.cause_about(subject, &self.0.engine, &route, &Value::Null).await?;
        let cancelled = self.0.execute_player(subject, &cause, Action::Cancel { entry_id }).await;
        let position = cancelled.map_err(problem::from_execute_error)?.position;
        let status = EntryStatus::Cancelled;
        Ok(Json(Api(CancelledEntry { id: entry_id, entry_id, status, position })))
    }
}

impl JoinQueue {
    /// # Errors
    /// 400 unless the pools are given in one of the two ways.
    fn pools(&self) -> Result<Vec<PoolKey>, Problem> {
        match (&self.pool_key, &self.pool_keys) {
            (Some(key), None) => Ok(vec![key.0.clone()]),
            (None, Some(keys)) => Ok(keys.iter().map(|key| key.0.clone()).collect()),
            (given, _) => {
                let reason = if given.is_some() { "cannot both be given" } else { "one must be given" };
                let detail = format!("of `pool_key` and `pool_keys`, {reason}");
                let errors = ["pool_key", "pool_keys"].map(|field| FieldError::new(field, reason));
                Err(errors.into_iter().fold(Problem::new(Code::InvalidRequest, detail), Problem::error))
            }
        }
    }

    /// # Errors
    /// 422 if it is too large.
    fn metadata(&self) -> Result<Option<String>, Problem> {
        let text = self.metadata.as_ref().map(serde_json::to_string).transpose();
        let text = text.map_err(|error| Problem::internal(&error))?;
        match &text {
            Some(text) if text.len() > METADATA_BYTES_MAX => {
                let reason =
                    format!("is {} bytes of JSON; at most {METADATA_BYTES_MAX} are allowed", text.len());
                Err(Problem::unprocessable("metadata", reason))
            }
            _ => Ok(text),
        }
    }
}

impl QueueCommands {
    async fn join_queue(
        &self,
        caller: &Caller,
        subject: &Subject,
        cause: &Cause,
        body: JoinQueue,
    ) -> Result<JoinedEntry, Problem> {
        let pools = body.pools()?;
        let metadata = body.metadata()?;
        // A repeated command gets the same id.
        let entry_id = EntryId(match cause.idempotency {
            Some(idempotency) => Uuid::new_v5(&idempotency.key, b"queue_entry"),
            None => self.0.engine.ids.next(),
        });
        let sealed = metadata.map(|text| {
            self.0.engine.vault.seal(&caller.tenant, subject, SealedField::QueueMetadata(entry_id), &text)
        });
        let pool_requests = self.pool_requests(caller, &pools, body.rating).await?;
        let lifetime = self.lifetime(caller, &pools).await?;
        let at = self.0.engine.now();
        let join = player::JoinQueue {
            entry_id,
            pools: pool_requests,
            max_rating_gap: body.max_rating_gap,
            expires_at: at.after(lifetime),
            metadata: sealed.transpose().map_err(|error| problem::from_vault_error(&error))?,
        };
        let action = Action::JoinQueue(join);
        match self.0.execute_player_at(at, subject.id, cause, action).await {
            Ok(executed) => self.joined(cause, subject.id, entry_id, executed).await,
            Err(error) => Err(self.join_problem(cause, subject.id, error).await),
        }
    }

    async fn pool_requests(
        &self,
        caller: &Caller,
        pools: &[PoolKey],
        rating: Option<f64>,
    ) -> Result<Vec<PoolRequest>, Problem> {
        let user = caller.user()?;
        // Concurrently, because the rating service may be slow.
        let pool_requests = pools.iter().map(async |pool| {
            let claimed = ClaimedRating::from_caller(caller, pool, rating);
            let known = self.0.ratings.known(&caller.tenant, user, pool, claimed).await;
            PoolRequest { pool_key: pool.clone(), rating: known.rating, rating_call: known.call }
        });
        Ok(join_all(pool_requests).await)
    }

    /// The time after which an entry in these pools expires.
    async fn lifetime(&self, caller: &Caller, pools: &[PoolKey]) -> Result<Duration, Problem> {
        let mut shortest = Duration::from_secs(domain::pool::SECONDS_MAX.into());
        for pool in pools {
            let settings = self.0.settings(&caller.tenant, pool).await;
            let settings = settings.map_err(problem::from_load_error)?;
            shortest = shortest.min(Duration::from_secs(settings.entry_expires_after_seconds.into()));
        }
        Ok(shortest)
    }

    /// The entry as it was created, unaffected by later events, so that a repeated command gets its first result.
    async fn joined(
        &self,
        cause: &Cause,
        subject: SubjectId,
        entry_id: EntryId,
        executed: Executed,
    ) -> Result<JoinedEntry, Problem> {
        let joined = Step { name: "entry", position: executed.position };
        let queued = self.0.queued_entry(&cause.tenant, subject, entry_id).await;
        let queued = queued.map_err(|error| after_step(joined, "answer", problem::from_load_error(error)))?;
        let Some((queued, queued_at)) = queued else {
            return Err(Problem::internal(&"an entry was recorded and is not in its player's stream"));
        };
        Ok(entry(queued, queued_at, executed))
    }

    async fn join_problem(&self, cause: &Cause, subject: SubjectId, error: ExecuteError<Refusal>) -> Problem {
        let existing = match &error {
            ExecuteError::Refused(refused) => match refused.first() {
                Some(item) => self.0.conflicting_activity(&cause.tenant, subject, &item.refusal).await,
                None => Ok(None),
            },
            _ => Ok(None),
        };
        match existing {
            Ok(Some(existing)) => problem::from_execute_error(error).with("existing", existing),
            Ok(None) => problem::from_execute_error(error),
            Err(unreadable) => problem::from_load_error(unreadable),
        }
    }
}

fn entry(queued: PlayerQueued, queued_at: Timestamp, executed: Executed) -> JoinedEntry {
    let pool = |pool: QueuedPool| JoinedPool {
        pool_key: pool.pool_key,
        rating: pool.rating.points(),
        rating_source: pool.rating_source,
    };
    JoinedEntry {
        id: queued.entry_id,
        entry_id: queued.entry_id,
        status: EntryStatus::Searching,
        pools: queued.pools.into_iter().map(pool).collect(),
        max_rating_gap: queued.max_rating_gap,
        queued_at,
        expires_at: queued.expires_at,
        position: executed.position,
    }
}
