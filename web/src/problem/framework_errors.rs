//! Converts the errors of poem and poem-openapi to problems.

use std::io::ErrorKind;
use std::time::Duration;

use poem::error::{MethodNotAllowedError, NotFoundError, ReadBodyError};
use poem_openapi::error::{
    AuthorizationError, ContentTypeError, ParseParamError, ParsePathError, ParseRequestPayloadError,
};

use super::{Code, FieldError, Problem};

/// The cause inside the I/O error of a body that is larger than its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body is larger than the limit of this path, {limit} bytes")]
pub struct BodyTooLarge {
    pub limit: usize,
}

/// Whose part of the memory for bodies is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BudgetUser {
    Caller,
    Server,
}

/// The cause inside the I/O error of a body for which there is no memory at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the memory for request bodies is used up")]
pub struct BudgetUsedUp(pub BudgetUser);

/// The time after which a body may be sent again for which there was no memory.
const BUDGET_RETRY_AFTER: Duration = Duration::from_secs(1);

impl From<BudgetUsedUp> for Problem {
    fn from(BudgetUsedUp(user): BudgetUsedUp) -> Self {
        match user {
            BudgetUser::Caller => Self::rate_limited(
                "this caller's other requests use all the memory that it gets for bodies; nothing was done",
                BUDGET_RETRY_AFTER,
            ),
            BudgetUser::Server => Self::unavailable(
                "other requests use all the memory for bodies; nothing was done",
                BUDGET_RETRY_AFTER,
            ),
        }
    }
}

impl Problem {
    /// Converts any error of poem to a problem. A [`Problem`] stays as it is.
    pub fn from_error(error: poem::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(problem) => problem,
            Err(error) => from_framework_error(&error),
        }
    }
}

fn from_framework_error(error: &poem::Error) -> Problem {
    if error.is::<NotFoundError>() {
        return Problem::not_found("unknown path; /openapi.json lists all paths");
    }
    if error.is::<MethodNotAllowedError>() {
        return Problem::new(Code::MethodNotAllowed, "this path has other methods; see the Allow header");
    }
    if let Some(ReadBodyError::Io(cause)) = error.downcast_ref() {
        return unreadable_body(cause);
    }
    if let Some(error) = error.downcast_ref::<ParseParamError>() {
        return Problem::invalid(error.name, plain(&error.reason));
    }
    if let Some(error) = error.downcast_ref::<ParsePathError>() {
        return Problem::not_found(format!("no such path: {}", plain(&error.reason)));
    }
    if error.is::<poem::error::WebSocketError>() {
        return Problem::new(
            Code::InvalidRequest,
            "this path is for WebSocket clients; connect with one (ws://…), or read the event stream instead",
        );
    }
    if error.is::<poem::error::ParsePathError>() {
        return Problem::not_found("no such path: its parts are not UTF-8 once they are percent-decoded");
    }
    if let Some(error) = error.downcast_ref::<ParseRequestPayloadError>() {
        return Problem::new(
            Code::InvalidRequest,
            format!("the body cannot be read: {}", plain(&error.reason)),
        )
        .error(FieldError::new("body", plain(&error.reason)));
    }
    if let Some(error) = error.downcast_ref::<ContentTypeError>() {
        let detail = match error {
            ContentTypeError::NotSupported { content_type } => {
                format!("this path does not accept a body of type `{content_type}`; send application/json")
            }
            ContentTypeError::ExpectContentType => {
                "the Content-Type header is missing; send application/json".to_owned()
            }
        };
        return Problem::new(Code::UnsupportedMediaType, detail);
    }
    if error.is::<AuthorizationError>() {
        return crate::caller::missing_credentials();
    }
    by_status(error)
}

/// The problem of a body that ended early or exceeded its limit.
pub(crate) fn unreadable_body(cause: &std::io::Error) -> Problem {
    if let Some(too_large) = cause_of::<BodyTooLarge>(cause) {
        return Problem::new(Code::PayloadTooLarge, too_large.to_string());
    }
    match cause_of::<BudgetUsedUp>(cause) {
        Some(used_up) => used_up.into(),
        None if is_malformed(cause) => Problem::new(
            Code::InvalidRequest,
            "the body is not in valid chunks: each starts with its length in hexadecimal digits, and the last has the length 0",
        ),
        None => Problem::new(Code::InvalidRequest, "the body ended before it was complete"),
    }
}

/// Whether the connection sent something else than the chunks of a body.
fn is_malformed(cause: &std::io::Error) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(cause);
    while let Some(error) = next {
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| matches!(io.kind(), ErrorKind::InvalidInput | ErrorKind::InvalidData)) {
            return true;
        }
        next = match io {
            Some(io) => io.get_ref().map(|inner| inner as _),
            None => error.source(),
        };
    }
    false
}

/// The cause may be below several layers of I/O errors, because each reader wraps the error it gets.
fn cause_of<T: std::error::Error + Copy + 'static>(cause: &std::io::Error) -> Option<T> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = cause.get_ref().map(|inner| inner as _);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(*found);
        }
        next = match error.downcast_ref::<std::io::Error>() {
            Some(wrapped) => wrapped.get_ref().map(|inner| inner as _),
            None => error.source(),
        };
    }
    None
}

fn by_status(error: &poem::Error) -> Problem {
    let status = error.status();
    match Code::ALL.iter().copied().find(|code| code.status() == status) {
        Some(Code::Internal) | None if !status.is_client_error() => Problem::internal(error),
        Some(code) if status.is_client_error() => Problem::new(code, plain(&error.to_string())),
        Some(code) => {
            tracing::error!(%error, "a request failed inside the server");
            Problem::new(code, code.meaning())
        }
        None => Problem::new(Code::InvalidRequest, plain(&error.to_string())),
    }
}

/// The messages of the standard library about numbers, and what they mean for a caller.
const NUMBERS: [(&str, &str); 5] = [
    ("invalid float literal", "must be a number"),
    ("cannot parse float from empty string", "must be a number"),
    ("invalid digit found in string", "must be a whole number"),
    ("cannot parse integer from empty string", "must be a whole number"),
    ("number too large to fit in target type", "is too large"),
];

/// A message of poem-openapi without the names of its types, which are unknown to callers.
fn plain(reason: &str) -> String {
    let reason = reason.split(" (occurred while parsing").next().unwrap_or(reason);
    let reason = match reason.split_once("\": ") {
        Some((head, tail)) if head.starts_with("failed to parse \"") => tail,
        _ => reason,
    };
    match NUMBERS.iter().find(|(message, _)| *message == reason) {
        Some((_, meaning)) => (*meaning).to_owned(),
        None => bound(reason.trim_end_matches('.').trim_start_matches("verification failed. ")),
    }
}

/// What a failed validator asks for, such as `minimum(1, exclusive: false)`.
fn bound(failed: &str) -> String {
    let inside = |name: &str| failed.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')');
    let limit = |name: &str| Some(inside(name)?.trim_end_matches(", exclusive: false"));
    if let Some(limit) = limit("minimum") {
        format!("must be at least {limit}")
    } else if let Some(limit) = limit("maximum") {
        format!("must be at most {limit}")
    } else if let Some(limit) = inside("minLength") {
        format!("must have at least {limit} characters")
    } else if let Some(limit) = inside("maxLength") {
        format!("must have at most {limit} characters")
    } else {
        failed.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use poem::error::ResponseError;

    use super::*;

    #[test]
    fn type_names_are_removed_from_messages() {
        assert_eq!(
            plain(r#"failed to parse "integer(uint64)": invalid digit found in string"#),
            "must be a whole number"
        );
        assert_eq!(plain(r#"failed to parse "number(double)": invalid float literal"#), "must be a number");
        assert_eq!(
            plain(r#"Expected input type "string", found 3. (occurred while parsing "Job")"#),
            r#"Expected input type "string", found 3"#
        );
    }

    #[test]
    fn failed_validators_say_what_is_asked_for() {
        for (failed, meaning) in [
            ("minimum(1, exclusive: false)", "must be at least 1"),
            ("maximum(500, exclusive: false)", "must be at most 500"),
            ("maxLength(128)", "must have at most 128 characters"),
            ("uniqueItems()", "uniqueItems()"),
        ] {
            assert_eq!(plain(&format!("verification failed. {failed}")), meaning);
        }
    }

    #[test]
    fn internal_errors_do_not_leak() {
        let error = poem::error::InternalServerError(std::io::Error::other("/srv/secret: permission denied"));
        let problem = Problem::from_error(error);
        assert_eq!(problem.code, Code::Internal);
        assert!(!problem.detail.contains("secret"));
    }

    #[test]
    fn body_without_memory_is_to_be_sent_again() {
        for (user, code) in [(BudgetUser::Caller, Code::RateLimited), (BudgetUser::Server, Code::Unavailable)]
        {
            let problem = unreadable_body(&std::io::Error::other(BudgetUsedUp(user)));
            assert_eq!(problem.code, code);
            assert!(problem.as_response().headers().contains_key("retry-after"));
        }
    }

    #[test]
    fn body_limit_is_found_below_other_errors() {
        let inner = std::io::Error::other(BodyTooLarge { limit: 5 });
        let problem = unreadable_body(&std::io::Error::other(std::io::Error::other(inner)));
        assert_eq!(problem.code, Code::PayloadTooLarge);
    }
}
