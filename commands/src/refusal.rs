//! Why a command was not carried out, as HTTP says it.

use std::time::Duration;

use domain::decider::{RefusalKind, Refused};
use event_log::{AppendError, ReadError};
use web::problem::{Code, FieldError, Problem};

use crate::execute::{ExecuteError, LoadError};
use crate::matchmaking::StepError;
use crate::vault::VaultError;
use crate::work::Readiness;

/// When to try again what failed for a passing reason.
const SOON: Duration = Duration::from_secs(1);

/// 404. The same words for a job that is not there and for another tenant's.
pub(crate) fn no_such_job() -> Problem {
    Problem::not_found("there is no such job")
}

/// 404. The same words for a lease that never was and for another tenant's.
pub(crate) fn no_such_lease() -> Problem {
    Problem::not_found("there is no such lease; claim work first")
}

/// 409 for work that is no longer the worker's.
pub(crate) fn lease_lost() -> Problem {
    Problem::conflict("the lease has ended: it ran out, or its job did; drop the work and claim again")
}

/// 503 while nothing can be said about work and leases.
pub(crate) fn no_board(readiness: &Readiness) -> Problem {
    let detail = match readiness {
        Readiness::CatchingUp | Readiness::Ready => "the server is still reading what happened before",
        Readiness::Stopped(_) => "the server cannot hand out work; its status says why",
        Readiness::Closing => "the server is shutting down",
    };
    Problem::unavailable(detail, SOON)
}

pub(crate) fn vault(error: &VaultError) -> Problem {
    if error.is_full() {
        return Problem::insufficient_storage(
            "there is no room to remember who you are; nothing was recorded",
        );
    }
    if error.is_failed() {
        tracing::error!(%error, "nobody new can be named");
        return Problem::unavailable(
            "the disk failed where names are kept; nothing was recorded, and the server has to be started again",
            SOON,
        );
    }
    Problem::internal(error)
}

pub(crate) fn unreadable(error: LoadError) -> Problem {
    match error {
        LoadError::Read(ReadError::Unavailable(reason)) => {
            tracing::error!(reason, "the log cannot be read");
            Problem::unavailable("the event log cannot be read at present", SOON)
        }
        LoadError::Read(ReadError::Corrupt(_)) | LoadError::Unreadable(_) | LoadError::Foreign(_) => {
            Problem::internal(&error)
        }
    }
}

/// The answer to a single command that failed.
pub(crate) fn single<R: Refused>(error: ExecuteError<R>) -> Problem {
    match error {
        ExecuteError::Refused(refused) => match refused.into_iter().next() {
            Some(item) => Problem::new(code(item.refusal.kind()), item.refusal.to_string()),
            None => Problem::internal(&"a refusal without a reason"),
        },
        other => failed(other),
    }
}

/// The answer to a sequence of steps that stopped. What was begun is brought to its end without the caller.
pub(crate) fn step(error: StepError) -> Problem {
    match error {
        StepError::Load(error) => unreadable(error),
        StepError::Player(error) => single(error),
        StepError::Match(error) => single(error),
        StepError::Challenge(error) => single(error),
    }
}

/// The answer to a batch that failed. `field` names what is wrong in an item, if it is one of its fields.
pub(crate) fn batch<R: Refused>(
    error: ExecuteError<R>,
    field: impl Fn(&R) -> Option<&'static str>,
) -> Problem {
    let refused = match error {
        ExecuteError::Refused(refused) => refused,
        other => return failed(other),
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
        let place = match field(&item.refusal) {
            Some(field) => format!("body[{}].{field}", item.index),
            None => format!("body[{}]", item.index),
        };
        problem.error(FieldError::new(place, item.refusal.to_string()))
    })
}

/// More than this many errors help nobody.
const ERRORS_MAX: usize = 20;

fn code(kind: RefusalKind) -> Code {
    match kind {
        RefusalKind::NotFound => Code::NotFound,
        RefusalKind::Forbidden => Code::Forbidden,
        RefusalKind::Conflict | RefusalKind::LeaseLost => Code::Conflict,
        RefusalKind::Invalid => Code::Unprocessable,
    }
}

fn failed<R: Refused>(error: ExecuteError<R>) -> Problem {
    match error {
        // The callers above have dealt with refusals.
        ExecuteError::Refused(_) => Problem::internal(&"a refusal was not shown to the caller"),
        ExecuteError::OtherTenant => Problem::not_found("there is no such thing"),
        ExecuteError::KeyReused => Problem::idempotency_key_reused(),
        ExecuteError::Contended => {
            Problem::unavailable("too many commands at once on the same thing; nothing was done", SOON)
        }
        ExecuteError::Load(error) => unreadable(error),
        ExecuteError::Append(error) => not_appended(error),
    }
}

fn not_appended(error: AppendError) -> Problem {
    match error {
        AppendError::Conflict { .. } => {
            Problem::unavailable("too many commands at once on the same thing; nothing was done", SOON)
        }
        AppendError::Size { .. } => Problem::new(
            Code::PayloadTooLarge,
            "what is to be recorded is too large for one event; shorten it",
        ),
        AppendError::Full { .. } => Problem::insufficient_storage(
            "the disk of the event log is full; nothing was recorded, reads go on",
        ),
        AppendError::Unknown { reason } => {
            tracing::error!(reason, "the outcome of an append is unknown");
            Problem::outcome_unknown()
        }
        AppendError::Unavailable { reason } | AppendError::Closed { reason } => {
            tracing::error!(reason, "the log takes no appends");
            Problem::unavailable("the event log takes nothing at present", SOON)
        }
    }
}
