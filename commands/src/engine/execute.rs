//! Executes commands: load, decide, append, and on a conflict decide again.
//!
//! Folded states are cached, so that a command reads only new events: a stream of 60,000 events is folded once and then
//! updated with each append. A long stream is folded on a thread for blocking work, so that no other task waits for it.
//! Commands on one stream wait for each other here, to avoid conflicts in the log. That is an optimisation only: the log's
//! expected revision decides.

mod append_batch;
mod cache;
mod cached_stream;
mod repeated;

use std::fmt;
use std::marker::PhantomData;

use event_schemas::envelope::{Cause, Event, EventDecoder, Idempotency, Recorded, Unreadable};
use event_schemas::ids::Position;
use event_schemas::stream::StreamId;

use domain::decider::{self, Decider, Occurred, RefusedItem};
use event_log::clock::Clock;
use event_log::{AppendError, EventLog, Expected, Log, ReadError};
use tokio::runtime::Handle;

use super::{answers, idempotency};
use append_batch::split;
use cache::Entry;
pub use cache::{StateCache, StateCacheLimits};
pub use cached_stream::CachedStream;
use repeated::executed_before;

/// The number of decisions before a command fails as contended.
const ATTEMPTS_MAX: u32 = 16;

/// The number of events per read.
const PAGE_EVENTS: usize = 4096;

/// The most events that are folded on the thread of the command.
const INLINE_EVENTS: usize = 256;

/// The streams that a command with an idempotency key concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyScope {
    /// This one: the engine knows if the command was executed before.
    Stream,
    /// This and others.
    Streams,
}

/// The result of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Executed {
    /// The number of events that it recorded, now or when it was first sent.
    pub events: usize,
    /// The position of its last event. If nothing changed: the position of the recorded answer to its key, or without a
    /// key the stream's position.
    pub position: Position,
    /// True if this is the result of an earlier command with the same idempotency key.
    pub repeated: bool,
}

/// The reason why a stream's state could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error("the event at position {0} does not belong in its stream")]
    ForeignEvent(Position),
}

/// The reason why a command was not executed.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError<R: fmt::Display> {
    /// A rule forbids it. For a batch, every refused command; never empty.
    #[error("refused: {}", .0.first().map(|item| item.refusal.to_string()).unwrap_or_default())]
    Refused(Vec<RefusedItem<R>>),
    /// The stream belongs to another tenant, and so does not exist for this one.
    #[error("not found")]
    OtherTenant,
    #[error("the idempotency key was used for another command; take a new key")]
    KeyReused,
    /// Every attempt lost to a concurrent command.
    #[error("too many concurrent commands on the same resource; try again")]
    Contended,
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Append(AppendError),
    /// It failed after some of its events were recorded, by this command or an earlier one with its key. Sent again, it
    /// is completed.
    #[error("{error}; a part of the command is recorded")]
    Incomplete { position: Position, error: Box<Self> },
}

impl<R: fmt::Display> ExecuteError<R> {
    fn after(self, recorded: RecordedEvents) -> Self {
        match recorded.count {
            0 => self,
            _ => Self::Incomplete { position: recorded.position, error: Box::new(self) },
        }
    }

    /// Whether some of the command's events are recorded, and the reason why the others are not.
    pub(crate) fn into_rest(self) -> (bool, Self) {
        match self {
            Self::Incomplete { error, .. } => (true, *error),
            error => (false, error),
        }
    }

    /// The refusal of a single command.
    pub(crate) fn from_refusal(refusal: R) -> Self {
        Self::Refused(vec![RefusedItem { index: 0, refusal }])
    }
}

/// The events of a command that are recorded already, and the position from which they are visible.
#[derive(Clone, Copy, Debug, Default)]
struct RecordedEvents {
    count: usize,
    position: Position,
}

/// The streams of one consistency boundary. Cheap to clone; clones share the cached states.
pub struct Streams<D: Decider> {
    log: Log,
    clock: Clock,
    cache: StateCache,
    decider: PhantomData<fn() -> D>,
}

impl<D: Decider> fmt::Debug for Streams<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams").finish_non_exhaustive()
    }
}

impl<D: Decider> Clone for Streams<D> {
    fn clone(&self) -> Self {
        Self::over(self.log.clone(), self.clock.clone(), self.cache.clone())
    }
}

impl<D: Decider> Streams<D> {
    /// The streams of a log, with a cache that other kinds of streams may share.
    pub fn over(log: Log, clock: Clock, cache: StateCache) -> Self {
        Self { log, clock, cache, decider: PhantomData }
    }
}

impl<D> Streams<D>
where
    D: Decider + 'static,
    D::State: Clone + Send,
    D::Event: TryFrom<Event> + Into<Event> + Clone,
{
    /// Executes a command on a stream.
    ///
    /// # Errors
    /// [`ExecuteError`]. Nothing was recorded, except with [`ExecuteError::Incomplete`] and [`AppendError::Unknown`].
    pub async fn execute(
        &self,
        stream: &StreamId,
        cause: &Cause,
        command: D::Command,
    ) -> Result<Executed, ExecuteError<D::Refusal>> {
        self.execute_all(stream, cause, &[command]).await
    }

    /// Executes several commands on a stream: all of them or, if one is refused, none.
    ///
    /// # Errors
    /// As [`Self::execute`].
    pub async fn execute_all(
        &self,
        stream: &StreamId,
        cause: &Cause,
        commands: &[D::Command],
    ) -> Result<Executed, ExecuteError<D::Refusal>> {
        self.execute_as(KeyScope::Stream, stream, cause, commands).await
    }

    /// Executes the part of a command on one of its streams. The caller knows if the whole was executed before, and
    /// records its answer.
    ///
    /// # Errors
    /// As [`Self::execute`].
    pub async fn execute_part(
        &self,
        stream: &StreamId,
        cause: &Cause,
        command: &D::Command,
    ) -> Result<Executed, ExecuteError<D::Refusal>> {
        self.execute_as(KeyScope::Streams, stream, cause, std::slice::from_ref(command)).await
    }

    async fn execute_as(
        &self,
        scope: KeyScope,
        stream: &StreamId,
        cause: &Cause,
        commands: &[D::Command],
    ) -> Result<Executed, ExecuteError<D::Refusal>> {
        let shared = self.cache.entry(stream);
        let mut entry = shared.lock().await;
        let mut recorded = RecordedEvents::default();
        let executed =
            self.decide_and_append(scope, stream, cause, commands, &mut entry, &mut recorded).await;
        let executed = executed.map_err(|error| error.after(recorded));
        self.cache.record_cost(stream, &entry);
        metrics::counter!("matchbook_commands_total", "outcome" => outcome(&executed)).increment(1);
        executed
    }

    /// Reads from the stream's current state.
    ///
    /// # Errors
    /// [`LoadError`] if its events cannot be read.
    pub async fn query<T>(
        &self,
        stream: &StreamId,
        project: impl FnOnce(&CachedStream<D>) -> T,
    ) -> Result<T, LoadError> {
        let shared = self.cache.entry(stream);
        let mut entry = shared.lock().await;
        self.catch_up(stream, &mut entry).await?;
        let projected = project(entry.get_or_insert_default());
        self.cache.record_cost(stream, &entry);
        Ok(projected)
    }

    /// Reads what a stream's first event has decided for ever. A cached state that has it is not compared with the log, which
    /// may have to read the disk for that.
    ///
    /// # Errors
    /// As [`Self::query`].
    pub async fn query_first<T>(
        &self,
        stream: &StreamId,
        project: impl FnOnce(&CachedStream<D>) -> T,
    ) -> Result<T, LoadError> {
        if let Some(cached) = &*self.cache.entry(stream).lock().await
            && cached.revision().is_some()
        {
            return Ok(project(cached));
        }
        self.query(stream, project).await
    }

    async fn decide_and_append(
        &self,
        scope: KeyScope,
        stream: &StreamId,
        cause: &Cause,
        commands: &[D::Command],
        entry: &mut Entry<D>,
        recorded: &mut RecordedEvents,
    ) -> Result<Executed, ExecuteError<D::Refusal>> {
        if entry.is_none() {
            self.catch_up(stream, entry).await?;
        }
        // The key of the whole command, until its answer was looked up.
        let key = cause.idempotency.filter(|_| scope == KeyScope::Stream);
        let mut key_to_find = key;
        for _ in 0..ATTEMPTS_MAX {
            let cached = entry.get_or_insert_default();
            if cached.tenant().is_some_and(|tenant| *tenant != cause.tenant) {
                return Err(ExecuteError::OtherTenant);
            }
            cached.keys.evict_before(self.clock.now().before(idempotency::KEY_TTL));
            if let Some(idempotency) = cause.idempotency
                && let Some(earlier) = executed_before(cached.keys.find(idempotency))?
            {
                return Ok(earlier);
            }
            if let Some(idempotency) = cause.idempotency {
                let partial = cached.keys.partial_events(idempotency);
                if partial > recorded.count {
                    *recorded = RecordedEvents { count: partial, position: cached.position() };
                }
            }
            if let Some(key) = key_to_find.take()
                && let Some(earlier) = self.answered(key, cached.keys.partial_events(key)).await?
            {
                return Ok(earlier);
            }
            match decider::decide_all::<D>(commands, &cached.state).map(|batch| batch.events) {
                Ok(events) if !events.is_empty() => {
                    match self.append(stream, cause, events, entry, recorded).await {
                        Err(AppendError::Conflict { .. }) => {
                            self.catch_up(stream, entry).await?;
                        }
                        appended => return appended.map_err(ExecuteError::Append),
                    }
                }
                // No expected revision guards a decision without events, so it counts only if it is based on the newest
                // state.
                no_op => {
                    if !self.catch_up(stream, entry).await? {
                        no_op.map_err(ExecuteError::Refused)?;
                        return self.no_op(cause, key, entry.get_or_insert_default()).await;
                    }
                }
            }
        }
        Err(ExecuteError::Contended)
    }

    /// The result of a command that changes nothing. There is no event to carry its key, so its answer is recorded.
    async fn no_op(
        &self,
        cause: &Cause,
        key: Option<Idempotency>,
        cached: &CachedStream<D>,
    ) -> Result<Executed, ExecuteError<D::Refusal>> {
        let events = cause.idempotency.map_or(0, |idempotency| cached.keys.partial_events(idempotency));
        let position = match key {
            Some(key) => answers::record(&self.log, self.clock.now(), cause, key, None).await?.position,
            None => cached.position(),
        };
        Ok(Executed { events, position, repeated: false })
    }

    /// Folds the events that are newer than the cached state. True if there were any.
    async fn catch_up(&self, stream: &StreamId, entry: &mut Entry<D>) -> Result<bool, LoadError> {
        let mut has_new_events = false;
        loop {
            let cached = entry.get_or_insert_default();
            let page = self.log.read_stream(stream, cached.next_revision(), PAGE_EVENTS).await?;
            if page.is_empty() {
                return Ok(has_new_events);
            }
            has_new_events = true;
            let is_last = page.len() < PAGE_EVENTS && self.log.short_page_means_end();
            *entry = Some(fold(entry.take().unwrap_or_default(), page).await?);
            if is_last {
                return Ok(has_new_events);
            }
        }
    }

    /// Appends the events, in several appends if they do not fit into one, and updates the state. `recorded` is of all
    /// events of the command, including those of earlier attempts.
    async fn append(
        &self,
        stream: &StreamId,
        cause: &Cause,
        events: Vec<Occurred<D::Event>>,
        entry: &mut Entry<D>,
        recorded: &mut RecordedEvents,
    ) -> Result<Executed, AppendError> {
        let mut batches = split(stream, cause, recorded.count, events);
        if let Some((_, first_batches)) = batches.split_last_mut()
            && let Some(idempotency) = cause.idempotency
        {
            let partial = Cause { idempotency: Some(idempotency::partial_key(idempotency)), ..cause.clone() };
            first_batches.iter_mut().for_each(|batch| batch.reencode(stream, &partial));
        }
        for batch in batches {
            let count = batch.events.len();
            let bytes = batch.encoded.iter().map(|event| event.data.len()).sum();
            let expected = Expected::after(entry.get_or_insert_default().revision());
            match self.log.append(stream, expected, batch.encoded).await {
                Ok(appended) => {
                    let cached = entry.get_or_insert_default();
                    cached.apply_appended(&batch.events, bytes, appended, &cause.tenant, batch.idempotency);
                    recorded.count += count;
                    recorded.position = appended.position;
                }
                Err(error) => {
                    if matches!(error, AppendError::Unknown { .. }) {
                        *entry = None;
                    }
                    return Err(error);
                }
            }
        }
        Ok(Executed { events: recorded.count, position: recorded.position, repeated: false })
    }
}

/// Applies the events to the state; many of them on a thread for blocking work.
async fn fold<D>(mut cached: CachedStream<D>, page: Vec<Recorded>) -> Result<CachedStream<D>, LoadError>
where
    D: Decider + 'static,
    D::State: Send,
    D::Event: TryFrom<Event>,
{
    let is_short = page.len() <= INLINE_EVENTS;
    let fold = move || {
        let mut decoder = EventDecoder::default();
        page.iter().try_for_each(|recorded| cached.apply_recorded(&mut decoder, recorded))?;
        Ok::<_, LoadError>(cached)
    };
    match Handle::try_current() {
        Ok(runtime) if !is_short => {
            let folded = runtime.spawn_blocking(fold).await;
            folded.map_err(|_| ReadError::Unavailable("the folding thread ended early".to_owned()))?
        }
        // A simulation has no runtime.
        _ => fold(),
    }
}

fn outcome<R: fmt::Display>(executed: &Result<Executed, ExecuteError<R>>) -> &'static str {
    match executed {
        Ok(Executed { repeated: true, .. }) => "repeated",
        Ok(Executed { events: 0, .. }) => "no_op",
        Ok(_) => "recorded",
        Err(ExecuteError::Refused(_) | ExecuteError::OtherTenant | ExecuteError::KeyReused) => "refused",
        Err(_) => "failed",
    }
}

#[cfg(test)]
mod tests;
