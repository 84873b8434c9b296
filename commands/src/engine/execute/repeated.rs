//! What an earlier command with the same idempotency key did, and the state that it saw.

use domain::decider::Decider;
use event_log::EventLog;
use event_schemas::envelope::{Cause, Event, Idempotency};
use event_schemas::ids::Position;
use event_schemas::stream::StreamId;

use super::{CachedStream, ExecuteError, Executed, LoadError, PAGE_EVENTS, Streams, fold};
use crate::engine::answers::{self, AnswerError};
use crate::engine::idempotency::KeyStatus;

impl<D> Streams<D>
where
    D: Decider + 'static,
    D::State: Clone + Send,
    D::Event: TryFrom<Event> + Into<Event> + Clone,
{
    /// The result of an earlier command with the same key on the stream, for a route that checks or looks up more than
    /// the stream's decider: an earlier command was answered, whatever has changed since.
    ///
    /// # Errors
    /// [`ExecuteError::KeyReused`] if the earlier command had another body; an error of the log.
    pub async fn repeated(
        &self,
        stream: &StreamId,
        cause: &Cause,
    ) -> Result<Option<Executed>, ExecuteError<D::Refusal>> {
        let Some(idempotency) = cause.idempotency else { return Ok(None) };
        let read = |folded: &CachedStream<D>| {
            (folded.key_status(idempotency), folded.keys.partial_events(idempotency))
        };
        let (status, partial_events) = self.query(stream, read).await?;
        match executed_before(status)? {
            Some(executed) => Ok(Some(executed)),
            None => self.answered(idempotency, partial_events).await,
        }
    }

    /// The recorded result of an earlier command that no event of a decider carries.
    pub(super) async fn answered(
        &self,
        idempotency: Idempotency,
        partial_events: usize,
    ) -> Result<Option<Executed>, ExecuteError<D::Refusal>> {
        let answer = answers::find(&self.log, self.clock.now(), idempotency).await?;
        let executed = |position| Executed { events: partial_events, position, repeated: true };
        Ok(answer.map(|answer| executed(answer.position)))
    }

    /// Reads from the stream's state as of a position. It is folded from the first event on.
    ///
    /// # Errors
    /// [`LoadError`] if its events cannot be read.
    pub async fn query_as_of<T>(
        &self,
        stream: &StreamId,
        position: Position,
        project: impl FnOnce(&CachedStream<D>) -> T,
    ) -> Result<T, LoadError> {
        let mut cached = CachedStream::default();
        loop {
            let mut page = self.log.read_stream(stream, cached.next_revision(), PAGE_EVENTS).await?;
            let read = page.len();
            page.retain(|recorded| recorded.position <= position);
            let is_last =
                page.len() < read || read == 0 || (read < PAGE_EVENTS && self.log.short_page_means_end());
            cached = fold(cached, page).await?;
            if is_last {
                return Ok(project(&cached));
            }
        }
    }
}

/// The result of an earlier command, by the status of its key.
///
/// # Errors
/// [`ExecuteError::KeyReused`]
pub(super) fn executed_before<R: std::fmt::Display>(
    status: KeyStatus,
) -> Result<Option<Executed>, ExecuteError<R>> {
    match status {
        KeyStatus::Unused => Ok(None),
        KeyStatus::BodyMismatch => Err(ExecuteError::KeyReused),
        KeyStatus::Completed(command) => {
            Ok(Some(Executed { events: command.events, position: command.position, repeated: true }))
        }
    }
}

impl<R: std::fmt::Display> From<AnswerError> for ExecuteError<R> {
    fn from(error: AnswerError) -> Self {
        match error {
            AnswerError::KeyReused => Self::KeyReused,
            AnswerError::Contended => Self::Contended,
            AnswerError::Load(error) => Self::Load(error),
            AnswerError::Append(error) => Self::Append(error),
        }
    }
}
