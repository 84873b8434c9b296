//! Ids in paths. A route takes them as `Path<String>` and parses them here.
//!
//! The server assigns UUIDs, so a text that is not a UUID identifies nothing: 404, as for an unknown id. Text ids are
//! chosen by the caller, so an invalid one is a mistake of the caller: 400.

use std::fmt::Display;
use std::str::FromStr;

use event_schemas::cutout::CutoutId;
use event_schemas::ids::{
    ChallengeId, EntryId, GameMatchId, JobId, LeaseId, ModelId, PoolKey, ProductId, RuleId, UserId, WorkerId,
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::problem::Problem;

/// A UUID; `what` is the kind of resource, as in "no such job".
///
/// # Errors
/// 404 if the text is not a UUID.
pub fn uuid<T: FromStr>(what: &str, text: &str) -> Result<T, Problem> {
    text.parse().map_err(|_| {
        Problem::not_found(format!(
            "no such {what}: its id is a UUID, such as 018f6d3a-7f4e-7cc0-8000-5f2b1c9d0e11"
        ))
    })
}

/// An id of 1–128 visible characters; `parameter` is its name in the path.
///
/// # Errors
/// 400 if the text is not a valid id.
pub fn text<T: FromStr<Err: Display>>(parameter: &str, text: &str) -> Result<T, Problem> {
    text.parse().map_err(|error| Problem::invalid(parameter, format!("{error}")))
}

/// An id as a part of a path.
pub fn encoded(id: &str) -> impl Display {
    utf8_percent_encode(id, NON_ALPHANUMERIC)
}

/// # Errors
/// 404 if the text is not a UUID.
pub fn job_id(text: &str) -> Result<JobId, Problem> {
    uuid("job", text)
}

/// # Errors
/// 404 if the text is not a UUID.
pub fn entry_id(text: &str) -> Result<EntryId, Problem> {
    uuid("queue entry", text)
}

/// # Errors
/// 404 if the text is not a UUID.
pub fn challenge_id(text: &str) -> Result<ChallengeId, Problem> {
    uuid("challenge", text)
}

/// # Errors
/// 404 if the text is not a UUID.
pub fn game_match_id(text: &str) -> Result<GameMatchId, Problem> {
    uuid("match", text)
}

/// # Errors
/// 400 if the text is not a valid id.
pub fn user_id(id: &str) -> Result<UserId, Problem> {
    text("user_id", id)
}

/// # Errors
/// 400 if the text is not a valid key.
pub fn pool_key(key: &str) -> Result<PoolKey, Problem> {
    text("pool_key", key)
}

/// # Errors
/// 400 if the text is not a valid id.
pub fn product_id(id: &str) -> Result<ProductId, Problem> {
    text("product_id", id)
}

/// # Errors
/// 400 if the text is not a valid id.
pub fn rule_id(id: &str) -> Result<RuleId, Problem> {
    text("rule_id", id)
}

/// # Errors
/// 400 if the text is not a valid id.
pub fn model_id(id: &str) -> Result<ModelId, Problem> {
    text("model_id", id)
}

/// The number of a cutout; any other text identifies nothing.
///
/// # Errors
/// 404 if the text is not a number.
pub fn cutout_id(text: &str) -> Result<CutoutId, Problem> {
    text.parse()
        .map_err(|_| Problem::not_found("no such cutout: its id is its `external_id`, a whole number"))
}

/// # Errors
/// 404 if the text is not a UUID.
pub fn lease_id(text: &str) -> Result<LeaseId, Problem> {
    uuid("lease", text)
}

/// # Errors
/// 400 if the text is not a valid id.
pub fn worker_id(id: &str) -> Result<WorkerId, Problem> {
    text("worker_id", id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Code;

    #[test]
    fn path_id_that_is_not_a_uuid_is_not_found() {
        assert_eq!(job_id("42").unwrap_err().code, Code::NotFound);
        assert!(job_id("018f0000-0000-7000-8000-000000000001").is_ok());
    }

    #[test]
    fn invalid_text_id_is_a_bad_request() {
        let problem = worker_id("a\tb").unwrap_err();
        assert_eq!((problem.code, problem.errors[0].field.as_str()), (Code::InvalidRequest, "worker_id"));
    }
}
