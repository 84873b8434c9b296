//! The answers of commands that no event of their own remembers: of a command that changed nothing, or of one that
//! concerns several streams. Each is an event in the stream of its idempotency key, so that it survives a restart and
//! costs no memory. A command whose events carry its key needs none.

use event_log::{AppendError, EventLog, Expected, Log};
use event_schemas::envelope::{Cause, Event, Idempotency, NewEvent};
use event_schemas::idempotency_key::{CommandAnswered, IdempotencyKeyEvent};
use event_schemas::ids::{Position, Revision};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use serde_json::Value;
use web::problem::Problem;

use super::Engine;
use super::execute::LoadError;
use super::idempotency::KEY_TTL;
use super::problem;

/// The number of attempts to record an answer while other processes use the same key.
const ATTEMPTS_MAX: usize = 4;

/// More events than a key's stream has: an answer per time to live.
const EVENTS_MAX: usize = 4096;

/// The answer of a command with an idempotency key.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    /// The position of its event.
    pub(crate) position: Position,
    /// The parts of the answer that cannot be derived from the request or from other events.
    pub(crate) details: Option<Value>,
}

/// The reason why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnswerError {
    #[error("the idempotency key was used for another command; take a new key")]
    KeyReused,
    #[error("too many concurrent commands with the same idempotency key; try again")]
    Contended,
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Append(AppendError),
}

impl From<AnswerError> for Problem {
    fn from(error: AnswerError) -> Self {
        problem::from_execute_error::<domain::job::Refusal>(error.into())
    }
}

/// The recorded answer of an earlier command with this key.
///
/// # Errors
/// [`AnswerError::KeyReused`] if the earlier command had another body.
pub(crate) async fn find(
    log: &Log,
    now: Timestamp,
    idempotency: Idempotency,
) -> Result<Option<Answer>, AnswerError> {
    Ok(latest(log, now, idempotency).await?.0)
}

/// Records the answer of a command, unless another process has recorded one already, which counts then.
///
/// # Errors
/// As [`find`]; an error of the append.
pub(crate) async fn record(
    log: &Log,
    now: Timestamp,
    cause: &Cause,
    idempotency: Idempotency,
    details: Option<Value>,
) -> Result<Answer, AnswerError> {
    let stream = StreamId::idempotency_key(idempotency.key);
    let event: Event = IdempotencyKeyEvent::from(CommandAnswered { answer: details.clone() }).into();
    for _ in 0..ATTEMPTS_MAX {
        let (known, last) = latest(log, now, idempotency).await?;
        if let Some(known) = known {
            return Ok(known);
        }
        // A key that is used again after its time to live gets another event id.
        let index = last.map_or(0, |Revision(last)| usize::try_from(last).unwrap_or(usize::MAX - 1) + 1);
        let new = NewEvent::encode(cause, &stream, index, now, &event);
        match log.append(&stream, Expected::after(last), vec![new]).await {
            Ok(appended) => return Ok(Answer { position: appended.position, details }),
            Err(AppendError::Conflict { .. }) => {}
            Err(error) => return Err(AnswerError::Append(error)),
        }
    }
    Err(AnswerError::Contended)
}

/// The answer that is recorded under the key, if it is not too old, and the last revision of the key's stream.
async fn latest(
    log: &Log,
    now: Timestamp,
    idempotency: Idempotency,
) -> Result<(Option<Answer>, Option<Revision>), AnswerError> {
    let stream = StreamId::idempotency_key(idempotency.key);
    let events = log.read_stream(&stream, Revision(0), EVENTS_MAX).await.map_err(LoadError::from)?;
    let Some(last) = events.last() else { return Ok((None, None)) };
    if last.recorded_at < now.before(KEY_TTL) {
        return Ok((None, Some(last.revision)));
    }
    let answered = last.decode().map_err(LoadError::from)?;
    let Event::IdempotencyKey(IdempotencyKeyEvent::CommandAnswered(CommandAnswered { answer })) =
        answered.event
    else {
        return Err(LoadError::ForeignEvent(last.position).into());
    };
    if answered.metadata.idempotency != Some(idempotency) {
        return Err(AnswerError::KeyReused);
    }
    Ok((Some(Answer { position: last.position, details: answer }), Some(last.revision)))
}

impl Engine {
    /// The recorded answer of an earlier command with the same key; none without a key.
    ///
    /// # Errors
    /// 422 if the earlier command had another body.
    pub(crate) async fn earlier_answer(&self, cause: &Cause) -> Result<Option<Answer>, Problem> {
        let Some(idempotency) = cause.idempotency else { return Ok(None) };
        Ok(find(&self.log, self.now(), idempotency).await?)
    }

    /// Records the answer of a command of which no event carries its key. Returns its position; none without a key.
    ///
    /// # Errors
    /// As [`record`].
    pub(crate) async fn record_answer(
        &self,
        cause: &Cause,
        details: Option<Value>,
    ) -> Result<Option<Answer>, Problem> {
        let Some(idempotency) = cause.idempotency else { return Ok(None) };
        Ok(Some(record(&self.log, self.now(), cause, idempotency, details).await?))
    }
}
