//! Classification of the errors that workers report.
//!
//! The table in `failure/patterns.rs` is tried from top to bottom and the first match wins, so within a group
//! the more specific rows come first. To recognise a new error, add a row, or a phrase to a row, and a real
//! message to the test.

mod patterns;
mod retry_after;

use event_schemas::failure::{ClassifiedError, FailureCode};
use event_schemas::ids::JobId;
use uuid::Uuid;

use patterns::{PATTERNS, Retry, UNKNOWN};

/// Classifies an error by its message and the exit code of its process. `retry_after` is the delay in seconds
/// that the refusing service returned, if any; otherwise it may be in the message. The same arguments always
/// give the same result, including the support reference.
pub fn classify(
    message: &str,
    exit_code: Option<i32>,
    retry_after: Option<u32>,
    job: JobId,
    attempt: u32,
) -> ClassifiedError {
    let worded = words(message, |_| true);
    // "video 2039 not found" is equivalent to "video not found".
    let bare = words(message, |word| !is_a_name_or_number(word));
    let says = |phrase: &&str| worded.contains(*phrase) || bare.contains(*phrase);
    let pattern = PATTERNS
        .iter()
        .find(|pattern| {
            pattern.phrases.iter().any(says)
                || exit_code.is_some_and(|code| pattern.exit_codes.contains(&code))
        })
        .unwrap_or(&UNKNOWN);
    let retry_after_seconds = match pattern.retry {
        Retry::Never => None,
        Retry::After(seconds) => Some(match pattern.code {
            FailureCode::RateLimited => {
                retry_after.or_else(|| retry_after::seconds(message)).unwrap_or(seconds)
            }
            _ => seconds,
        }),
        Retry::OnceAfter(seconds) => (attempt <= 1).then_some(seconds),
    };
    ClassifiedError {
        code: pattern.code,
        category: pattern.category,
        message: message.to_owned(),
        user_message: pattern.user_message.to_owned(),
        suggested_actions: pattern.suggested_actions.iter().map(|action| (*action).to_owned()).collect(),
        retryable: retry_after_seconds.is_some(),
        retry_after_seconds,
        support_reference: support_reference(job, attempt),
    }
}

/// The words in lower case, each between spaces, so that a phrase can match whole words.
fn words(message: &str, keep: impl Fn(&str) -> bool) -> String {
    let mut text = String::from(" ");
    for word in message.split_whitespace().filter(|word| keep(word)) {
        text.push_str(&word.to_lowercase());
        text.push(' ');
    }
    text
}

fn is_a_name_or_number(word: &str) -> bool {
    let bare = word.trim_matches(|c: char| !c.is_alphanumeric());
    word.starts_with(['"', '\'', '`']) || (!bare.is_empty() && bare.chars().all(|c| c.is_ascii_digit()))
}

fn support_reference(job: JobId, attempt: u32) -> String {
    let digest = Uuid::new_v5(&job.0, format!("attempt {attempt}").as_bytes());
    let (high, low) = ((digest.as_u128() >> 112) as u16, (digest.as_u128() >> 96) as u16);
    format!("MB-{high:04X}-{low:04X}")
}

#[cfg(test)]
mod tests;
