//! Erases a person: first the event, then the queue entry, the answer of the idempotency key, and the key and the user id in
//! the vault. The process repeats all but the event after a crash, and for a vault from a backup that is older than the event.

use std::sync::Arc;
use std::time::Duration;

use domain::player::{self, Action, PlayerActivity};
use domain::user::Command;
use event_log::{EventLog, Filter};
use event_schemas::envelope::{Actor, Cause, Envelope, Event};
use event_schemas::ids::{CommandId, EntryId, EventId, Position, Revision, SubjectId, Tenant, UserId};
use event_schemas::stream::{Category, StreamId};
use event_schemas::time::Timestamp;
use event_schemas::user::UserEvent;
use futures_util::FutureExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use web::problem::Problem;

use super::Subjects;
use crate::engine::answers::{self, Answer};
use crate::engine::execute::{CachedStream, ExecuteError, LoadError};
use crate::engine::idempotency::KEY_TTL;
use crate::engine::problem;

const NAME: &str = "erasure";

/// The type of the event that the process follows.
const DESTROYED: &str = "SubjectKeyDestroyed";

/// The delay before a failed step is repeated.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// The number of events after which the process notes how far it is.
const NOTED_EVENTS: usize = 50_000;

/// What an erasure has destroyed, and what remains in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Erasure {
    /// The random id under which the person's events remain. The vault no longer knows whose it was.
    pub(crate) subject_id: SubjectId,
    /// The event `SubjectKeyDestroyed`.
    pub(crate) event_id: EventId,
    pub(crate) erased_at: Timestamp,
    pub(crate) remaining: Remaining,
    /// Log position from which no read model knows the person any more. Send it as `X-Min-Position`.
    pub(crate) position: Position,
}

/// The events that remain in the log, because events are never removed. Their sealed texts cannot be opened any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Remaining {
    /// The number of interactions and served lists.
    pub(crate) user_events: u64,
    /// The number of events of the player: queue entries, matches, ratings and blocks.
    pub(crate) player_events: u64,
}

/// The outcome that was recorded for the idempotency key.
fn of_answer(answer: Answer) -> Result<Erasure, Problem> {
    let details = answer.details.unwrap_or_default();
    let erasure: Erasure = serde_json::from_value(details).map_err(|error| Problem::internal(&error))?;
    Ok(Erasure { position: answer.position, ..erasure })
}

fn not_found() -> Problem {
    Problem::not_found("no such user; one who was erased is not known any more")
}

impl Subjects {
    /// Erases a user of the tenant.
    ///
    /// # Errors
    /// 404 for a user that the vault does not know; errors of the log and the vault, after which the process completes what
    /// was begun.
    pub(super) async fn erase(
        &self,
        tenant: &Tenant,
        user: &UserId,
        cause: &Cause,
    ) -> Result<Erasure, Problem> {
        let _guard = match cause.idempotency {
            Some(idempotency) => Some(self.engine.key_locks.acquire(idempotency.key).await),
            None => None,
        };
        if let Some(earlier) = self.engine.earlier_answer(cause).await? {
            return of_answer(earlier);
        }
        let known = self.engine.vault.find_subject(tenant, user).await;
        let subject = known.map_err(|error| problem::from_vault_error(&error))?.ok_or_else(not_found)?;
        let cause = Cause { tenant: tenant.clone(), subject: Some(subject), ..cause.clone() };
        let stream = StreamId::user(tenant, subject);
        let command = Command::Erase(subject, self.engine.now());
        let executed = self.users.execute_part(&stream, &cause, &command).await;
        executed.map_err(problem::from_execute_error)?;
        // The last event of the stream, which an earlier attempt may have recorded.
        let last = self.users.query(&stream, CachedStream::revision).await;
        let last = last.map_err(problem::from_load_error)?.unwrap_or(Revision(0));
        let read = self.engine.log.read_stream(&stream, last, 1).await;
        let read = read.map_err(|error| problem::from_load_error(error.into()))?;
        let event = read.first().ok_or_else(|| Problem::internal(&"an event is missing"))?;
        let event = event.decode().map_err(|error| Problem::internal(&error))?;
        self.complete(&event, subject).await
    }

    /// Does what follows from the event that erases a subject, unless it has been done.
    async fn complete(&self, event: &Envelope, subject: SubjectId) -> Result<Erasure, Problem> {
        let tenant = &event.metadata.tenant;
        let left_at = self.leave_queue(event, subject).await?;
        let player = StreamId::player(tenant, subject);
        let of_player = self.players.query(&player, CachedStream::revision).await;
        let of_player = of_player.map_err(problem::from_load_error)?;
        let mut erasure = Erasure {
            subject_id: subject,
            event_id: event.id,
            erased_at: event.recorded_at,
            remaining: Remaining {
                user_events: event.revision.0,
                player_events: of_player.map_or(0, |Revision(last)| last + 1),
            },
            position: left_at.map_or(event.position, |left_at| left_at.max(event.position)),
        };
        let is_kept = event.recorded_at >= self.engine.now().before(KEY_TTL);
        if let Some(key) = event.metadata.idempotency.filter(|_| is_kept) {
            // Before the user id is gone: a repetition could not find the event without it.
            let cause = Cause { idempotency: Some(key), ..cause_of(event, subject, key.key) };
            let details = serde_json::to_value(&erasure).map_err(|error| Problem::internal(&error))?;
            let (log, now) = (&self.engine.log, self.engine.now());
            erasure = of_answer(answers::record(log, now, &cause, key, Some(details)).await?)?;
        }
        let erased = self.engine.vault.erase(tenant, subject, event.recorded_at).await;
        erased.map_err(|error| problem::from_vault_error(&error))?;
        Ok(erasure)
    }

    /// Cancels the waiting queue entry of an erased player. An entry that is being matched stays: the opponent plays.
    async fn leave_queue(&self, event: &Envelope, subject: SubjectId) -> Result<Option<Position>, Problem> {
        let stream = StreamId::player(&event.metadata.tenant, subject);
        let waiting = |folded: &CachedStream<_>| waiting_entry(&folded.state);
        let waiting = self.players.query(&stream, waiting).await.map_err(problem::from_load_error)?;
        let Some(entry_id) = waiting else { return Ok(None) };
        let id = Uuid::new_v5(&event.id.0, entry_id.0.as_bytes());
        let cause = Cause {
            actor: Actor::System(NAME.parse().expect("a process name is a short text")),
            ..cause_of(event, subject, id)
        };
        let action = Action::Cancel { entry_id };
        let command = player::Command { subject_id: subject, at: self.engine.now(), action };
        match self.players.execute(&stream, &cause, command).await {
            Ok(executed) => Ok(Some(executed.position)),
            // It was matched in between.
            Err(ExecuteError::Refused(_)) => Ok(None),
            Err(error) => Err(problem::from_execute_error(error)),
        }
    }
}

fn waiting_entry(player: &player::State) -> Option<EntryId> {
    match player.activity() {
        PlayerActivity::Searching(entry) => Some(entry.queued.entry_id),
        _ => None,
    }
}

/// The cause of what follows from an erasure.
fn cause_of(event: &Envelope, subject: SubjectId, command: Uuid) -> Cause {
    let metadata = &event.metadata;
    Cause {
        command_id: CommandId(command),
        correlation_id: metadata.correlation_id,
        event_id: Some(event.id),
        tenant: metadata.tenant.clone(),
        actor: metadata.actor.clone(),
        subject: Some(subject),
        idempotency: None,
        traceparent: metadata.traceparent.clone(),
    }
}

/// Completes the erasures in the log, from where the vault has noted that they are done. Runs until the server shuts down.
pub(crate) async fn run(subjects: Arc<Subjects>) {
    if let Err(error) = follow(&subjects).await {
        tracing::error!(%error, "the log cannot be read: interrupted erasures are completed by the next start");
    }
}

/// Does a step to its end: the process is aborted by a shutdown, and a query that is left half-way may close its connection.
async fn whole<T: Send + 'static>(step: impl Future<Output = T> + Send + 'static) -> T {
    match tokio::spawn(step.boxed()).await {
        Ok(done) => done,
        Err(ended) if ended.is_panic() => std::panic::resume_unwind(ended.into_panic()),
        // The runtime ends.
        Err(_) => std::future::pending().await,
    }
}

async fn follow(subjects: &Arc<Subjects>) -> Result<(), LoadError> {
    let engine = &subjects.engine;
    let (identity, vault) = (engine.log.identity(), &engine.vault);
    let noted = loop {
        let vault = vault.clone();
        match whole(async move { vault.erased_up_to(identity.id, identity.epoch).await }).await {
            Ok(noted) => break noted,
            Err(error) => tracing::warn!(%error, "cannot read how far erasures are completed; retrying"),
        }
        engine.clock.sleep(RETRY_DELAY).await;
    };
    let prefixes = vec![Category::User.stream_prefix().to_owned()];
    let mut events = engine.log.subscribe(noted, Filter::StreamPrefixes(prefixes));
    let mut read_events = 0;
    loop {
        let page = events.next().await?;
        let destroyed = page.events.iter().filter(|event| event.event_type.as_str() == DESTROYED);
        let mut completed = 0;
        for event in destroyed {
            let envelope = event.decode()?;
            let Event::User(UserEvent::SubjectKeyDestroyed(destroyed)) = &envelope.event else { continue };
            let (subject, position) = (destroyed.subject_id, envelope.position);
            let envelope = Arc::new(envelope);
            loop {
                let (subjects, envelope) = (subjects.clone(), envelope.clone());
                let completed = whole(async move { subjects.complete(&envelope, subject).await }).await;
                let Err(problem) = completed else { break };
                let reason = &problem.detail;
                tracing::warn!(%reason, %position, "an erasure is not completed; retrying");
                engine.clock.sleep(RETRY_DELAY).await;
            }
            completed += 1;
        }
        read_events += page.events.len();
        if completed > 0 || read_events >= NOTED_EVENTS {
            read_events = 0;
            // Without the note the next start reads some events again.
            let (vault, next) = (vault.clone(), page.next);
            let noting = async move { vault.set_erased_up_to(identity.id, identity.epoch, next).await };
            if let Err(error) = whole(noting).await {
                tracing::warn!(%error, "cannot note how far erasures are completed");
            }
        }
    }
}
