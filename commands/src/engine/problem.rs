//! Maps the errors of the engine to HTTP problems.

use std::time::Duration;

use domain::decider::{RefusalKind, Refused};
use event_log::{AppendError, ReadError};
use event_schemas::ids::Position;
use event_schemas::json_text::JsonText;
use serde::Serialize;
use vault::VaultError;
use web::problem::{Code, FieldError, Part, Problem};

use super::execute::{ExecuteError, LoadError};

/// The retry delay after a transient failure.
const SOON: Duration = Duration::from_secs(1);

pub(crate) fn from_vault_error(error: &VaultError) -> Problem {
    if error.is_full() {
        return Problem::insufficient_storage("disk full: cannot register the user").nothing_recorded();
    }
    if error.is_failed() {
        tracing::error!(%error, "cannot create subjects");
        let detail = "the vault's disk failed, and the server must be restarted";
        return Problem::unavailable(detail, SOON).nothing_recorded();
    }
    if matches!(error, VaultError::Unavailable(_)) {
        tracing::warn!(%error, "cannot look up or create subjects");
        let detail = "the vault's database cannot be reached; try again shortly";
        return Problem::unavailable(detail, SOON).nothing_recorded();
    }
    Problem::internal(error)
}

pub(crate) fn from_load_error(error: LoadError) -> Problem {
    match error {
        LoadError::Read(ReadError::Unavailable(reason)) => {
            tracing::error!(reason, "the log cannot be read");
            Problem::unavailable("the event log cannot be read at present", SOON)
        }
        LoadError::Read(ReadError::Corrupt(_)) | LoadError::Unreadable(_) | LoadError::ForeignEvent(_) => {
            Problem::internal(&error)
        }
    }
}

/// The text of a caller's free-form JSON.
///
/// # Errors
/// 500, if the value has no JSON form.
pub(crate) fn text_of(value: &impl Serialize) -> Result<JsonText, Problem> {
    JsonText::new(value).map_err(|error| Problem::internal(&error))
}

/// The problem of a single command that failed.
pub(crate) fn from_execute_error<R: Refused>(error: ExecuteError<R>) -> Problem {
    match error {
        ExecuteError::Refused(refused) => match refused.into_iter().next() {
            Some(item) => Problem::new(code(item.refusal.kind()), item.refusal.to_string()),
            None => Problem::internal(&"a refusal without a reason"),
        },
        other => from_technical_error(other),
    }
}

/// The problem of a batch that failed. `field` returns the member of an item that a refusal is about, if there is one.
pub(crate) fn from_batch_error<R: Refused>(
    error: ExecuteError<R>,
    field: impl Fn(&R) -> Option<&'static str>,
) -> Problem {
    let refused = match error {
        ExecuteError::Refused(refused) => refused,
        ExecuteError::Incomplete { position, error } => {
            return incomplete(from_batch_error(*error, field), position);
        }
        other => return from_technical_error(other),
    };
    let Some(first) = refused.first() else { return Problem::internal(&"a refusal without a reason") };
    let detail = match refused.len() {
        1 => format!("item {} is refused: {}", first.index, first.refusal),
        count => format!("{count} items are refused; the first: {}", first.refusal),
    };
    let problem = Problem::new(code(first.refusal.kind()), detail).nothing_recorded();
    refused.iter().take(ERRORS_MAX).fold(problem, |problem, item| {
        let member = match field(&item.refusal) {
            Some(field) => format!("body[{}].{field}", item.index),
            None => format!("body[{}]", item.index),
        };
        problem.error(FieldError::new(member, item.refusal.to_string()))
    })
}

/// The most errors that a problem lists.
const ERRORS_MAX: usize = 20;

fn code(kind: RefusalKind) -> Code {
    match kind {
        RefusalKind::NotFound => Code::NotFound,
        RefusalKind::Forbidden => Code::Forbidden,
        RefusalKind::Conflict | RefusalKind::LeaseLost => Code::Conflict,
        RefusalKind::Invalid => Code::Unprocessable,
    }
}

fn from_technical_error<R: Refused>(error: ExecuteError<R>) -> Problem {
    match error {
        // The functions above handle refusals.
        ExecuteError::Refused(_) => Problem::internal(&"a refusal was not mapped to a problem"),
        ExecuteError::Incomplete { position, error } => incomplete(from_execute_error(*error), position),
        ExecuteError::OtherTenant => Problem::not_found("not found"),
        ExecuteError::KeyReused => Problem::idempotency_key_reused(),
        ExecuteError::Contended => contended(),
        ExecuteError::Load(error) => from_load_error(error),
        ExecuteError::Append(error) => from_append_error(error),
    }
}

fn from_append_error(error: AppendError) -> Problem {
    match error {
        AppendError::Conflict { .. } => contended(),
        AppendError::Size { .. } => {
            Problem::new(Code::PayloadTooLarge, "the data is too large for one event; shorten it")
        }
        AppendError::Full { .. } => {
            Problem::insufficient_storage("the disk of the event log is full, reads still work")
                .nothing_recorded()
        }
        AppendError::Unknown { reason } => {
            tracing::error!(reason, "the outcome of an append is unknown");
            Problem::outcome_unknown()
        }
        AppendError::Unavailable { reason } | AppendError::Closed { reason } => {
            tracing::error!(reason, "the log accepts no appends");
            Problem::unavailable("the event log accepts no writes at present", SOON).nothing_recorded()
        }
    }
}

fn contended() -> Problem {
    Problem::unavailable("too many concurrent commands on the same resource", SOON).nothing_recorded()
}

/// The problem of a command of which the first events are recorded.
fn incomplete(rest: Problem, position: Position) -> Problem {
    after_step(Step { name: "first_events", position }, "other_events", rest)
}

/// A step of a request that is recorded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) position: Position,
}

/// The problem of a request that failed in the step `failed`, after another one was recorded.
pub(crate) fn after_step(recorded: Step, failed: &'static str, problem: Problem) -> Problem {
    let mut parts = vec![Part::recorded(recorded.position).of_step(recorded.name)];
    match problem.known_parts() {
        [] => parts.push(Part::failed(&problem).of_step(failed)),
        known => parts.extend_from_slice(known),
    }
    problem.parts(parts)
}

/// Combines the problems of the parts of a batch: the one that matters most to its caller.
pub(crate) fn most_severe(problems: impl IntoIterator<Item = Problem>) -> Option<Problem> {
    problems.into_iter().max_by_key(|problem| match problem.code {
        Code::OutcomeUnknown => 4,
        Code::Internal => 3,
        Code::InsufficientStorage => 2,
        _ => i32::from(problem.status().is_server_error()),
    })
}
