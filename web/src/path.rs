//! Ids in paths. A route takes them as `Path<String>` and reads them here.
//!
//! A UUID is how the server names a thing, so a text that is none names nothing: 404, as for an unknown one. A text id is
//! the caller's own name for a thing, so a text that cannot be one is a mistake worth telling: 400.

use std::fmt::Display;
use std::str::FromStr;

use event_schemas::ids::{ChallengeId, EntryId, JobId, LeaseId, MatchRecordId, PoolKey, UserId, WorkerId};

use crate::problem::Problem;

/// An id that is a UUID; `what` names the kind of thing, as in "no such job".
///
/// # Errors
/// 404 if the text is no UUID.
pub fn uuid<T: FromStr>(what: &str, text: &str) -> Result<T, Problem> {
    text.parse().map_err(|_| {
        Problem::not_found(format!(
            "no such {what}: its id is a UUID, as 018f6d3a-7f4e-7cc0-8000-5f2b1c9d0e11"
        ))
    })
}

/// An id of 1–128 printable characters; `parameter` is its name in the path.
///
/// # Errors
/// 400 if the text cannot be one.
pub fn text<T: FromStr<Err: Display>>(parameter: &str, text: &str) -> Result<T, Problem> {
    text.parse().map_err(|error| Problem::invalid(parameter, format!("{error}")))
}

/// # Errors
/// 404 if the text is no UUID.
pub fn job_id(text: &str) -> Result<JobId, Problem> {
    uuid("job", text)
}

/// # Errors
/// 404 if the text is no UUID.
pub fn entry_id(text: &str) -> Result<EntryId, Problem> {
    uuid("queue entry", text)
}

/// # Errors
/// 404 if the text is no UUID.
pub fn challenge_id(text: &str) -> Result<ChallengeId, Problem> {
    uuid("challenge", text)
}

/// # Errors
/// 404 if the text is no UUID.
pub fn match_record_id(text: &str) -> Result<MatchRecordId, Problem> {
    uuid("match", text)
}

/// # Errors
/// 400 if the text is no id.
pub fn user_id(id: &str) -> Result<UserId, Problem> {
    text("user_id", id)
}

/// # Errors
/// 400 if the text is no key.
pub fn pool_key(key: &str) -> Result<PoolKey, Problem> {
    text("pool_key", key)
}

/// # Errors
/// 404 if the text is no UUID.
pub fn lease_id(text: &str) -> Result<LeaseId, Problem> {
    uuid("lease", text)
}

/// # Errors
/// 400 if the text is no id.
pub fn worker_id(id: &str) -> Result<WorkerId, Problem> {
    text("worker_id", id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Code;

    #[test]
    fn a_path_id_that_is_no_uuid_names_nothing() {
        assert_eq!(job_id("42").unwrap_err().code, Code::NotFound);
        assert!(job_id("018f0000-0000-7000-8000-000000000001").is_ok());
    }

    #[test]
    fn a_text_id_that_cannot_be_one_is_told() {
        let problem = worker_id("a\tb").unwrap_err();
        assert_eq!((problem.code, problem.errors[0].field.as_str()), (Code::InvalidRequest, "worker_id"));
    }
}
