//! What poem and poem-openapi refuse by themselves, in our form.

use poem::error::{MethodNotAllowedError, NotFoundError, ReadBodyError};
use poem::http::StatusCode;
use poem_openapi::error::{
    AuthorizationError, ContentTypeError, ParseParamError, ParsePathError, ParseRequestPayloadError,
};

use super::{Code, FieldError, Problem};

/// The reason inside the I/O error of a body that is larger than its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body is larger than the {limit} bytes this path takes")]
pub struct BodyTooLarge {
    pub limit: usize,
}

/// What poem-openapi says of a parameter whose words are known to it alone.
pub(super) const NOT_A_CHOICE: &str = "Expect a valid enumeration value";

impl Problem {
    /// Any error of poem's as a problem. A [`Problem`] comes out as it went in.
    pub fn from_error(error: poem::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(problem) => problem,
            Err(error) => from_foreign(&error),
        }
    }
}

fn from_foreign(error: &poem::Error) -> Problem {
    if error.is::<NotFoundError>() {
        return Problem::not_found("nothing is served under this path; /openapi.json lists all paths");
    }
    if error.is::<MethodNotAllowedError>() {
        return Problem::new(Code::MethodNotAllowed, "this path takes other methods; see the Allow header");
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
            "this path is for WebSocket clients; connect with one (ws://…), or read the stream of events instead",
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
                format!("this path does not take a body of type `{content_type}`; send application/json")
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

/// A body that ended early, or past its limit.
pub(crate) fn unreadable_body(cause: &std::io::Error) -> Problem {
    match too_large(cause) {
        Some(too_large) => Problem::new(Code::PayloadTooLarge, too_large.to_string()),
        None => Problem::new(Code::InvalidRequest, "the body ended before it was complete"),
    }
}

/// The limit may lie below several layers of I/O errors, as each reader wraps what it gets.
fn too_large(cause: &std::io::Error) -> Option<BodyTooLarge> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = cause.get_ref().map(|inner| inner as _);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<BodyTooLarge>() {
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
    match Code::ALL.into_iter().find(|code| code.status() == status) {
        Some(Code::Internal) | None if !status.is_client_error() => Problem::internal(error),
        Some(code) if status.is_client_error() => Problem::new(code, plain(&error.to_string())),
        Some(code) => {
            tracing::error!(%error, "a request failed inside the server");
            Problem::new(code, code.meaning())
        }
        None if status == StatusCode::UPGRADE_REQUIRED => {
            Problem::new(Code::InvalidRequest, "this path is for WebSocket clients; send an Upgrade header")
        }
        None => Problem::new(Code::InvalidRequest, plain(&error.to_string())),
    }
}

/// poem-openapi's messages without the names of its types, which mean nothing to a caller.
fn plain(reason: &str) -> String {
    let reason = reason.split(" (occurred while parsing").next().unwrap_or(reason);
    let reason = match reason.split_once("\": ") {
        Some((head, tail)) if head.starts_with("failed to parse \"") => tail,
        _ => reason,
    };
    reason.trim_end_matches('.').replace("verification failed. ", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_types_are_left_out_of_messages() {
        assert_eq!(
            plain(r#"failed to parse "integer(uint64)": invalid digit found in string"#),
            "invalid digit found in string"
        );
        assert_eq!(
            plain(r#"Expected input type "string", found 3. (occurred while parsing "Job")"#),
            r#"Expected input type "string", found 3"#
        );
    }

    #[test]
    fn what_fails_inside_is_not_told() {
        let error = poem::error::InternalServerError(std::io::Error::other("/srv/secret: permission denied"));
        let problem = Problem::from_error(error);
        assert_eq!(problem.code, Code::Internal);
        assert!(!problem.detail.contains("secret"));
    }

    #[test]
    fn a_body_over_its_limit_is_found_below_other_errors() {
        let inner = std::io::Error::other(BodyTooLarge { limit: 5 });
        let problem = unreadable_body(&std::io::Error::other(std::io::Error::other(inner)));
        assert_eq!(problem.code, Code::PayloadTooLarge);
    }
}
