//! Classification of the errors that workers report.
//!
//! What the message says happened is found in the table of `failure/patterns`, which is tried from top to
//! bottom; the service that it names is a second finding, and decides only if the message says nothing more.
//! To recognise a new kind of error, add its words to a row, and the real messages to
//! `fixtures/failures/messages.tsv`. `docs/testing.md` says how well new messages are recognised.

mod advice;
mod patterns;
mod retry_after;
mod service;
mod text;

use std::time::Duration;

use event_schemas::failure::{ClassifiedError, FailureCategory, FailureCode};
use event_schemas::ids::JobId;
use uuid::Uuid;

use advice::{Retry, advice};
use text::Text;

/// Classifies an error by its message and the exit code of its process. `retry_after` is the delay in seconds
/// that the worker asks for, if any; otherwise the answer of a service may contain one. The same arguments
/// always give the same result, including the support reference.
pub fn classify(
    message: &str,
    exit_code: Option<i64>,
    retry_after: Option<u32>,
    job: JobId,
    attempt: u32,
) -> ClassifiedError {
    let text = Text::new(message);
    let service = service::named(&text);
    let code = patterns::code_of(&text, service, exit_code);
    let advice = advice(code);
    let told = || match advice.category {
        FailureCategory::External | FailureCategory::Unknown => retry_after::seconds(message),
        _ => None,
    };
    let default = default_delay(code, attempt);
    let requested = default.and_then(|_| retry_after.or_else(told));
    let retry_after_seconds = requested.or(default);
    ClassifiedError {
        code,
        category: advice.category,
        service,
        message: message.to_owned(),
        user_message: advice.user_message.to_owned(),
        suggested_actions: advice.suggested_actions.iter().map(|action| (*action).to_owned()).collect(),
        retryable: retry_after_seconds.is_some(),
        retry_after_seconds,
        retry_after_requested: requested.is_some(),
        support_reference: support_reference(job, attempt),
    }
}

/// The delay that the worker or a service asked for.
pub fn requested_delay(error: &ClassifiedError) -> Option<Duration> {
    let seconds = error.retry_after_seconds.filter(|_| error.retry_after_requested);
    seconds.map(|seconds| Duration::from_secs(seconds.into()))
}

/// The delay before a retry, in seconds; none if a retry would not help.
fn default_delay(code: FailureCode, attempt: u32) -> Option<u32> {
    match advice(code).retry {
        Retry::Never => None,
        Retry::After(seconds) => Some(seconds),
        Retry::OnceAfter(seconds) => (attempt <= 1).then_some(seconds),
    }
}

fn support_reference(job: JobId, attempt: u32) -> String {
    let digest = Uuid::new_v5(&job.0, format!("attempt {attempt}").as_bytes());
    let (high, low) = ((digest.as_u128() >> 112) as u16, (digest.as_u128() >> 96) as u16);
    format!("MB-{high:04X}-{low:04X}")
}

#[cfg(test)]
mod message_tests;
#[cfg(test)]
mod tests;
