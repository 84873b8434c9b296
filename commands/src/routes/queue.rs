//! Waiting for somebody to play with, and no longer wanting to.

use std::collections::BTreeMap;
use std::time::Duration;

use domain::player::{Action, Queueing, Refusal, Wish};
use event_schemas::envelope::Cause;
use event_schemas::ids::{EntryId, PoolKey, SubjectId};
use event_schemas::player::{PlayerQueued, QueuedPool};
use event_schemas::sealed::Place;
use event_schemas::time::Timestamp;
use futures_util::future::join_all;
use poem_openapi::param::{Header, Path};
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use serde_json::Value;
use uuid::Uuid;
use web::caller::Caller;
use web::idempotency::IdempotencyKey;
use web::json::{Created, Json};
use web::problem::{Code, FieldError, Problem};
use web::request::TraceParent;
use web::value::{At, Pos, Text, Uid};
use web::vocabulary::{EntryStatus, RatingSource, Tag};

use super::{keyed, players};
use crate::execute::{ExecuteError, Executed};
use crate::matchmaking::strength::Said;
use crate::vault::Subject;
use crate::{Commands, refusal};

/// The longest metadata, in bytes of JSON.
const METADATA_BYTES_MAX: usize = 4096;

/// A wish to wait, in one pool or in several: one of `pool_key` and `pool_keys` is given.
#[derive(Debug, Object)]
#[oai(example)]
struct JoinQueue {
    pool_key: Option<Text<PoolKey>>,
    /// Matched in one of them, the entry leaves all.
    #[oai(validator(min_items = 1, max_items = 16, unique_items))]
    pool_keys: Option<Vec<Text<PoolKey>>>,
    /// The player's rating, where the token claims none for the pool. It counts from callers with the role `service` or
    /// `admin`, and is passed over from others; the answer says which rating holds, and from where.
    #[oai(validator(minimum(value = "0"), maximum(value = "10000")))]
    rating: Option<f64>,
    /// The player wants nobody farther away than this, in points.
    #[oai(validator(minimum(value = "0"), maximum(value = "10000")))]
    max_rating_gap: Option<u16>,
    /// The caller's own notes, at most 4,096 bytes of JSON; kept under the player's key, and not looked into.
    metadata: Option<BTreeMap<String, Value>>,
}

impl Example for JoinQueue {
    fn example() -> Self {
        Self {
            pool_key: Some(Text("blitz".parse().expect("a plain word is a key"))),
            pool_keys: None,
            rating: None,
            max_rating_gap: Some(300),
            metadata: None,
        }
    }
}

/// A pool that an entry waits in.
#[derive(Debug, Object)]
struct JoinedPool {
    pool_key: Text<PoolKey>,
    /// What windows and distances are measured from.
    rating: u16,
    rating_source: RatingSource,
}

/// An entry as it was made.
#[derive(Debug, Object)]
struct JoinedEntry {
    id: Uid<EntryId>,
    entry_id: Uid<EntryId>,
    status: EntryStatus,
    pools: Vec<JoinedPool>,
    #[oai(skip_serializing_if_is_none)]
    max_rating_gap: Option<u16>,
    queued_at: At,
    /// When the entry ends if nobody is found. Of several pools, the shortest patience holds.
    expires_at: At,
    /// Of the entry in the log. Send it as `X-Min-Position` to read what you wrote.
    position: Pos,
}

/// An entry that was cancelled.
#[derive(Debug, Object)]
struct CancelledEntry {
    id: Uid<EntryId>,
    entry_id: Uid<EntryId>,
    status: EntryStatus,
    position: Pos,
}

/// Commands about waiting.
#[derive(Clone, Debug)]
pub struct QueueCommands(pub(super) Commands);

#[OpenApi(tag = "Tag::Matchmaking")]
impl QueueCommands {
    /// Wait for somebody to play with
    ///
    /// A player has one entry, or one unfinished match, at a time: who asks for another is refused, and `existing` is what
    /// they have.
    #[oai(path = "/v1/matchmaking/queue", method = "post", operation_id = "join_queue")]
    async fn join(
        &self,
        caller: Caller,
        trace: TraceParent,
        #[oai(name = "Idempotency-Key")] key: Header<Option<IdempotencyKey>>,
        body: Json<JoinQueue>,
    ) -> Result<Created<JoinedEntry>, Problem> {
        caller.require(players())?;
        let subject = self.0.player(&caller).await?;
        let idempotency = keyed(&caller, "POST", "/v1/matchmaking/queue", key.0, &body.0);
        let cause = self.0.cause(&caller, trace, idempotency).await?;
        let cause = Cause { subject: Some(subject.id), ..cause };
        let entry = self.0.join_queue(&caller, &subject, &cause, body.0).await?;
        Ok(Created { location: format!("/v1/matchmaking/queue/{}", *entry.id), body: entry })
    }

    /// Stop waiting
    ///
    /// An entry for which a game is being made, or was made, cannot be cancelled. Cancelling again changes nothing.
    #[oai(path = "/v1/matchmaking/queue/:entry_id", method = "delete", operation_id = "leave_queue")]
    async fn leave(
        &self,
        caller: Caller,
        trace: TraceParent,
        #[oai(name = "Idempotency-Key")] key: Header<Option<IdempotencyKey>>,
        entry_id: Path<String>,
    ) -> Result<Json<CancelledEntry>, Problem> {
        caller.require(players())?;
        let entry_id = web::path::entry_id(&entry_id)?;
        let subject = self.0.player(&caller).await?.id;
        let path = format!("/v1/matchmaking/queue/{entry_id}");
        let cause =
            self.0.cause(&caller, trace, keyed(&caller, "DELETE", &path, key.0, &Value::Null)).await?;
        let cause = Cause { subject: Some(subject), ..cause };
        let cancelled =
            self.0.0.matchmaking.ask_of_player(subject, &cause, Action::Cancel { entry_id }).await;
        Ok(Json(CancelledEntry {
            id: entry_id.into(),
            entry_id: entry_id.into(),
            status: EntryStatus::Cancelled,
            position: cancelled.map_err(refusal::single)?.position.into(),
        }))
    }
}

impl JoinQueue {
    /// # Errors
    /// 400 unless the pools are named in one of the two ways.
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
    /// 422 if there is too much of it.
    fn metadata(&self) -> Result<Option<String>, Problem> {
        let text = self.metadata.as_ref().map(serde_json::to_string).transpose();
        let text = text.map_err(|error| Problem::internal(&error))?;
        match &text {
            Some(text) if text.len() > METADATA_BYTES_MAX => {
                let reason =
                    format!("is {} bytes of JSON; at most {METADATA_BYTES_MAX} are kept", text.len());
                Err(Problem::unprocessable("metadata", reason))
            }
            _ => Ok(text),
        }
    }
}

impl Commands {
    /// The player that the caller is.
    ///
    /// # Errors
    /// 403 for credentials that name no user; else if the vault cannot say who that is.
    pub(super) async fn player(&self, caller: &Caller) -> Result<Subject, Problem> {
        let subject = self.0.vault.subject(&caller.tenant, caller.user()?).await;
        subject.map_err(|error| refusal::vault(&error))
    }

    async fn join_queue(
        &self,
        caller: &Caller,
        subject: &Subject,
        cause: &Cause,
        body: JoinQueue,
    ) -> Result<JoinedEntry, Problem> {
        let pools = body.pools()?;
        let metadata = body.metadata()?;
        // Of a repeated command, the same again.
        let entry_id = EntryId(match cause.idempotency {
            Some(idempotency) => Uuid::new_v5(&idempotency.key, b"queue_entry"),
            None => self.0.ids.next(),
        });
        let sealed = metadata
            .map(|text| self.0.vault.seal(&caller.tenant, subject, Place::QueueMetadata(entry_id), &text));
        let wishes = self.wishes(caller, &pools, body.rating).await?;
        let patience = self.patience(caller, &pools).await?;
        let at = self.0.clock.now();
        let queueing = Queueing {
            entry_id,
            pools: wishes,
            max_rating_gap: body.max_rating_gap,
            expires_at: at.after(patience),
            metadata: sealed.transpose().map_err(|error| refusal::vault(&error))?,
        };
        let action = Action::Queue(queueing);
        match self.0.matchmaking.ask_of_player_at(at, subject.id, cause, action).await {
            Ok(executed) => self.joined(cause, subject.id, entry_id, executed).await,
            Err(error) => Err(self.not_joined(cause, subject.id, error).await),
        }
    }

    async fn wishes(
        &self,
        caller: &Caller,
        pools: &[PoolKey],
        rating: Option<f64>,
    ) -> Result<Vec<Wish>, Problem> {
        let user = caller.user()?;
        // All at once: whoever is asked may be slow.
        let wishes = pools.iter().map(async |pool| {
            let said = Said::by(caller, pool, rating);
            let rating = self.known_rating(&caller.tenant, user, pool, said).await;
            Wish { pool_key: pool.clone(), rating }
        });
        Ok(join_all(wishes).await)
    }

    /// How long an entry waits in these pools.
    async fn patience(&self, caller: &Caller, pools: &[PoolKey]) -> Result<Duration, Problem> {
        let mut shortest = Duration::from_secs(domain::pool::SECONDS_MAX.into());
        for pool in pools {
            let settings = self.0.matchmaking.settings(&caller.tenant, pool).await;
            let settings = settings.map_err(refusal::unreadable)?;
            shortest = shortest.min(Duration::from_secs(settings.entry_expires_after_seconds.into()));
        }
        Ok(shortest)
    }

    /// The entry as it was made: so a repeated command is answered as the first time, whatever happened since.
    async fn joined(
        &self,
        cause: &Cause,
        subject: SubjectId,
        entry_id: EntryId,
        executed: Executed,
    ) -> Result<JoinedEntry, Problem> {
        let queued = self.0.matchmaking.queued(&cause.tenant, subject, entry_id).await;
        let Some((queued, queued_at)) = queued.map_err(refusal::unreadable)? else {
            return Err(Problem::internal(&"an entry was recorded and is not in its player's stream"));
        };
        Ok(entry(queued, queued_at, executed))
    }

    async fn not_joined(&self, cause: &Cause, subject: SubjectId, error: ExecuteError<Refusal>) -> Problem {
        let existing = match &error {
            ExecuteError::Refused(refused) => match refused.first() {
                Some(item) => self.0.matchmaking.in_the_way(&cause.tenant, subject, &item.refusal).await,
                None => Ok(None),
            },
            _ => Ok(None),
        };
        match existing {
            Ok(Some(existing)) => refusal::single(error).with("existing", existing),
            Ok(None) => refusal::single(error),
            Err(unreadable) => refusal::unreadable(unreadable),
        }
    }
}

fn entry(queued: PlayerQueued, queued_at: Timestamp, executed: Executed) -> JoinedEntry {
    let pool = |pool: QueuedPool| JoinedPool {
        pool_key: pool.pool_key.into(),
        rating: pool.rating.points(),
        rating_source: pool.rating_source.into(),
    };
    JoinedEntry {
        id: queued.entry_id.into(),
        entry_id: queued.entry_id.into(),
        status: EntryStatus::Searching,
        pools: queued.pools.into_iter().map(pool).collect(),
        max_rating_gap: queued.max_rating_gap,
        queued_at: queued_at.into(),
        expires_at: queued.expires_at.into(),
        position: executed.position.into(),
    }
}
