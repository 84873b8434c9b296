//! The way from a command to its events: load, decide, append, and on a conflict decide again.
//!
//! Folded states are kept in memory, so that a command reads only what it does not know yet: a stream of 60,000 events is
//! folded once and then moved on by what is appended. Commands on one stream wait for each other here, so that they do not
//! collide in the log; that is a courtesy only, because the log's expected revision decides.

mod cache;
mod fold;

use std::fmt;

use event_schemas::envelope::{Cause, Event, Idempotency, NewEvent, Unreadable};
use event_schemas::ids::Position;
use event_schemas::stream::StreamId;

use domain::decider::{self, Decider, Occurred, RefusedItem};
use event_log::clock::Clock;
use event_log::{APPEND_EVENTS_MAX, AppendError, EventLog, Expected, Log, ReadError};

use crate::idempotency::{self, Seen};
use cache::{Cache, Slot};
pub use fold::Folded;

/// How often a decision is made anew before a command is given up as contended.
const ROUNDS_MAX: u32 = 16;

/// How many events are read at once.
const PAGE_EVENTS: usize = 4096;

/// The bytes of one append: below the log's own limit, and below EventStoreDB's with its framing.
const APPEND_BYTES: usize = 900_000;

/// What a command did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Executed {
    /// How many events it recorded, now or when it was first sent.
    pub events: usize,
    /// Of its last event; where the stream stood, if nothing had to change.
    pub position: Position,
    /// Whether the answer is that of an earlier command with the same idempotency key.
    pub repeated: bool,
}

/// Why a stream's state could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error("the event at position {0} does not belong into its stream")]
    Foreign(Position),
}

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError<R: fmt::Display> {
    /// Rules forbid it. Of a batch, every command that is refused; never empty.
    #[error("refused: {}", .0.first().map(|item| item.refusal.to_string()).unwrap_or_default())]
    Refused(Vec<RefusedItem<R>>),
    /// What it is about belongs to another tenant, and so does not exist for this one.
    #[error("there is no such thing")]
    OtherTenant,
    #[error("the idempotency key was used for another command; take a new key")]
    KeyReused,
    /// Others were always faster.
    #[error("too many commands at once on the same thing; try again")]
    Contended,
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Append(AppendError),
}

impl<R: fmt::Display> ExecuteError<R> {
    /// A single command, refused.
    pub(crate) fn from_refusal(refusal: R) -> Self {
        Self::Refused(vec![RefusedItem { index: 0, refusal }])
    }
}

/// The streams of one consistency boundary. Cheap to clone; clones share the cached states.
pub struct Streams<D: Decider> {
    log: Log,
    clock: Clock,
    cache: Cache<D>,
}

impl<D: Decider> fmt::Debug for Streams<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams").finish_non_exhaustive()
    }
}

impl<D: Decider> Clone for Streams<D> {
    fn clone(&self) -> Self {
        Self { log: self.log.clone(), clock: self.clock.clone(), cache: self.cache.clone() }
    }
}

impl<D> Streams<D>
where
    D: Decider,
    D::State: Clone,
    D::Event: TryFrom<Event> + Into<Event> + Clone,
{
    /// States of up to `cached_events_max` folded events together stay in memory.
    pub fn new(log: Log, clock: Clock, cached_events_max: usize) -> Self {
        Self { log, clock, cache: Cache::new(cached_events_max) }
    }

    /// Carries a command out on a stream.
    ///
    /// # Errors
    /// [`ExecuteError`]. Only [`AppendError::Unknown`] leaves open whether something was recorded.
    pub async fn execute(
        &self,
        stream: &StreamId,
        cause: &Cause,
        command: D::Command,
    ) -> Result<Executed, ExecuteError<D::Refusal>> {
        self.execute_all(stream, cause, &[command]).await
    }

    /// Carries several commands out on a stream: all of them or, if one is refused, none.
    ///
    /// # Errors
    /// As [`Self::execute`].
    pub async fn execute_all(
        &self,
        stream: &StreamId,
        cause: &Cause,
        commands: &[D::Command],
    ) -> Result<Executed, ExecuteError<D::Refusal>> {
        let entry = self.cache.entry(stream);
        let mut slot = entry.lock().await;
        let executed = self.decide_and_append(stream, cause, commands, &mut slot).await;
        self.cache.weigh(stream, slot.as_ref().map_or(0, Folded::weight));
        metrics::counter!("matchbook_commands_total", "outcome" => outcome(&executed)).increment(1);
        executed
    }

    /// What the stream's state, brought up to date, says.
    ///
    /// # Errors
    /// [`LoadError`] if its events cannot be read.
    pub async fn look<T>(
        &self,
        stream: &StreamId,
        see: impl FnOnce(&Folded<D>) -> T,
    ) -> Result<T, LoadError> {
        let entry = self.cache.entry(stream);
        let mut slot = entry.lock().await;
        self.catch_up(stream, &mut slot).await?;
        let seen = see(slot.get_or_insert_default());
        self.cache.weigh(stream, slot.as_ref().map_or(0, Folded::weight));
        Ok(seen)
    }

    async fn decide_and_append(
        &self,
        stream: &StreamId,
        cause: &Cause,
        commands: &[D::Command],
        slot: &mut Slot<D>,
    ) -> Result<Executed, ExecuteError<D::Refusal>> {
        if slot.is_none() {
            self.catch_up(stream, slot).await?;
        }
        let mut recorded = 0;
        for _ in 0..ROUNDS_MAX {
            let folded = slot.get_or_insert_default();
            if folded.tenant().is_some_and(|tenant| *tenant != cause.tenant) {
                return Err(ExecuteError::OtherTenant);
            }
            folded.keys.forget_before(self.clock.now().before(idempotency::KEPT));
            match cause.idempotency.map_or(Seen::Never, |asked| folded.keys.find(asked)) {
                Seen::Never => {}
                Seen::OtherBody => return Err(ExecuteError::KeyReused),
                Seen::Done(done) => {
                    return Ok(Executed { events: done.events, position: done.position, repeated: true });
                }
            }
            match decider::decide_all::<D>(commands, &folded.state).map(|batch| batch.events) {
                Ok(events) if !events.is_empty() => {
                    match self.append(stream, cause, events, slot, &mut recorded).await {
                        Err(AppendError::Conflict { .. }) => {
                            self.catch_up(stream, slot).await?;
                        }
                        appended => return appended.map_err(ExecuteError::Append),
                    }
                }
                // No expected revision guards what appends nothing, so the decision counts only if it rests on all
                // that there is.
                nothing => {
                    if !self.catch_up(stream, slot).await? {
                        nothing.map_err(ExecuteError::Refused)?;
                        let now = self.clock.now();
                        return Ok(slot.get_or_insert_default().nothing_to_do(cause.idempotency, now));
                    }
                }
            }
        }
        Err(ExecuteError::Contended)
    }

    /// Folds what the log has beyond the cached state. Says whether that was anything.
    async fn catch_up(&self, stream: &StreamId, slot: &mut Slot<D>) -> Result<bool, LoadError> {
        let mut moved = false;
        loop {
            let folded = slot.get_or_insert_default();
            let page = self.log.read_stream(stream, folded.next_revision(), PAGE_EVENTS).await?;
            if page.is_empty() {
                return Ok(moved);
            }
            moved = true;
            let folded = slot.get_or_insert_default();
            for recorded in &page {
                folded.read(recorded)?;
            }
            if page.len() < PAGE_EVENTS && self.log.ends_with_a_short_page() {
                return Ok(moved);
            }
        }
    }

    /// Appends the events, in several appends if they do not fit into one, and moves the state on. `recorded` counts the
    /// events of the command, those of earlier rounds too.
    async fn append(
        &self,
        stream: &StreamId,
        cause: &Cause,
        events: Vec<Occurred<D::Event>>,
        slot: &mut Slot<D>,
        recorded: &mut usize,
    ) -> Result<Executed, AppendError> {
        let folded = slot.get_or_insert_default();
        let begun = cause.idempotency.map_or(0, |asked| folded.keys.begun(asked));
        *recorded = begun.max(*recorded);
        let mut groups = split(stream, cause, *recorded, events);
        if let Some((_, begun)) = groups.split_last_mut()
            && let Some(idempotency) = cause.idempotency
        {
            let part = Cause { idempotency: Some(idempotency::unfinished(idempotency)), ..cause.clone() };
            begun.iter_mut().for_each(|group| group.encode_again(stream, &part));
        }
        let mut position = folded.position();
        for group in groups {
            let count = group.events.len();
            let bytes = group.encoded.iter().map(|event| event.data.len()).sum();
            let expected = Expected::after(slot.get_or_insert_default().revision());
            match self.log.append(stream, expected, group.encoded).await {
                Ok(appended) => {
                    let folded = slot.get_or_insert_default();
                    folded.appended(&group.events, bytes, appended, &cause.tenant, group.idempotency);
                    *recorded += count;
                    position = appended.position;
                }
                Err(error) => {
                    if matches!(error, AppendError::Unknown { .. }) {
                        *slot = None;
                    }
                    return Err(error);
                }
            }
        }
        Ok(Executed { events: *recorded, position, repeated: false })
    }
}

fn outcome<R: fmt::Display>(executed: &Result<Executed, ExecuteError<R>>) -> &'static str {
    match executed {
        Ok(Executed { repeated: true, .. }) => "repeated",
        Ok(Executed { events: 0, .. }) => "nothing_to_do",
        Ok(_) => "recorded",
        Err(ExecuteError::Refused(_) | ExecuteError::OtherTenant | ExecuteError::KeyReused) => "refused",
        Err(_) => "failed",
    }
}

/// What goes into one append.
struct Group<E> {
    /// The index of its first event among the command's.
    first: usize,
    events: Vec<Occurred<E>>,
    encoded: Vec<NewEvent>,
    bytes: usize,
    idempotency: Option<Idempotency>,
}

impl<E: Into<Event> + Clone> Group<E> {
    fn starting_at(first: usize, idempotency: Option<Idempotency>) -> Self {
        Self { first, events: Vec::new(), encoded: Vec::new(), bytes: 0, idempotency }
    }

    fn encode_again(&mut self, stream: &StreamId, cause: &Cause) {
        self.idempotency = cause.idempotency;
        let encode = |(index, occurred): (usize, &Occurred<E>)| {
            NewEvent::encode(cause, stream, self.first + index, occurred.at, &occurred.event.clone().into())
        };
        self.encoded = self.events.iter().enumerate().map(encode).collect();
    }
}

/// The events as appends that the log takes. An event that is too large by itself stays alone, for the log to refuse.
fn split<E: Into<Event> + Clone>(
    stream: &StreamId,
    cause: &Cause,
    first: usize,
    events: Vec<Occurred<E>>,
) -> Vec<Group<E>> {
    let mut groups = Vec::new();
    let mut group = Group::starting_at(first, cause.idempotency);
    for (index, occurred) in events.into_iter().enumerate() {
        let index = first + index;
        let encoded = NewEvent::encode(cause, stream, index, occurred.at, &occurred.event.clone().into());
        let bytes = encoded.event_type.as_str().len() + encoded.metadata.len() + encoded.data.len();
        let full = group.events.len() == APPEND_EVENTS_MAX || group.bytes + bytes > APPEND_BYTES;
        if full && !group.events.is_empty() {
            groups.push(std::mem::replace(&mut group, Group::starting_at(index, cause.idempotency)));
        }
        group.bytes += bytes;
        group.encoded.push(encoded);
        group.events.push(occurred);
    }
    groups.push(group);
    groups
}

#[cfg(test)]
mod tests;
