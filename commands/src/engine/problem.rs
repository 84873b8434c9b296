//! Maps the errors of the engine to HTTP problems.

use std::time::Duration;

use domain::decider::{RefusalKind, Refused};
use event_log::{AppendError, ReadError};
use event_schemas::json_text::JsonText;
use serde::Serialize;
use vault::VaultError;
use web::problem::{Code, FieldError, Problem};

use super::execute::{ExecuteError, LoadError};

/// The retry delay after a transient failure.
const SOON: Duration = Duration::from_secs(1);

pub(crate) fn from_vault_error(error: &VaultError) -> Problem {
    if error.is_full() {
        return Problem::insufficient_storage("disk full: cannot register the user; nothing was recorded");
    }
    if error.is_failed() {
        tracing::error!(%error, "cannot create subjects");
        return Problem::unavailable(
            "the vault's disk failed; nothing was recorded, and the server must be restarted",
            SOON,
        );
    }
    if matches!(error, VaultError::Unavailable(_)) {
        tracing::warn!(%error, "cannot look up or create subjects");
        return Problem::unavailable(
            "the vault's database cannot be reached; nothing was recorded, try again shortly",
            SOON,
        );
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
        other => return from_technical_error(other),
    };
    let Some(first) = refused.first() else { return Problem::internal(&"a refusal without a reason") };
    let detail = match refused.len() {
        1 => format!("item {} is refused, so nothing was recorded: {}", first.index, first.refusal),
        count => {
            format!("{count} items are refused, so nothing was recorded; the first: {}", first.refusal)
        }
    };
    let problem = Problem::new(code(first.refusal.kind()), detail);
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
        ExecuteError::OtherTenant => Problem::not_found("not found"),
        ExecuteError::KeyReused => Problem::idempotency_key_reused(),
        ExecuteError::Contended => {
            Problem::unavailable("too many concurrent commands on the same resource; nothing was done", SOON)
        }
        ExecuteError::Load(error) => from_load_error(error),
        ExecuteError::Append(error) => from_append_error(error),
    }
}

fn from_append_error(error: AppendError) -> Problem {
    match error {
        AppendError::Conflict { .. } => {
            Problem::unavailable("too many concurrent commands on the same resource; nothing was done", SOON)
        }
        AppendError::Size { .. } => {
            Problem::new(Code::PayloadTooLarge, "the data is too large for one event; shorten it")
        }
        AppendError::Full { .. } => Problem::insufficient_storage(
            "the disk of the event log is full; nothing was recorded, reads still work",
        ),
        AppendError::Unknown { reason } => {
            tracing::error!(reason, "the outcome of an append is unknown");
            Problem::outcome_unknown()
        }
        AppendError::Unavailable { reason } | AppendError::Closed { reason } => {
            tracing::error!(reason, "the log accepts no appends");
            Problem::unavailable("the event log accepts no writes at present", SOON)
        }
    }
}
