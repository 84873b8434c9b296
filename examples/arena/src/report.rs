//! Reports results to Matchbook.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::json;
use uuid::Uuid;

use crate::api::Api;
use crate::game::Outcome;

/// The user of reports on a server without keys.
const USER: &str = "arena";
/// The time for which a call to an unreachable server is retried before a warning.
const RETRY_TIMEOUT: Duration = Duration::from_secs(60);
/// The most retries of a rejected result. If the response to the creation of a game was lost, Matchbook repeats the
/// request, and rejects the result until then.
const REFUSALS_MAX: u32 = 8;
const REFUSED_PAUSE: Duration = Duration::from_millis(250);
const REFUSED_PAUSE_MAX: Duration = Duration::from_secs(8);

/// Matchbook rejected a result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the result was rejected with {status}: {problem}")]
pub struct ReportRejected {
    pub status: StatusCode,
    pub problem: String,
}

/// Reports results to a server.
#[derive(Clone, Debug)]
pub struct Reporter {
    api: Api,
}

impl Reporter {
    pub fn new(api: Api) -> Self {
        Self { api }
    }

    /// Retries until Matchbook accepts or rejects the result.
    ///
    /// # Errors
    /// [`ReportRejected`].
    pub async fn report(&self, tenant: &str, match_id: Uuid, result: Outcome) -> Result<(), ReportRejected> {
        let caller = self.api.caller(tenant, USER);
        let path = format!("/internal/matches/{match_id}/result");
        let body = json!({ "result": result });
        let (mut refusals, mut pause) = (0, REFUSED_PAUSE);
        loop {
            let answer = match caller.send(Method::POST, &path, Some(&body), RETRY_TIMEOUT).await {
                Ok(answer) => answer,
                Err(error) => {
                    tracing::warn!(%match_id, %error, "a result waits for an unreachable server");
                    continue;
                }
            };
            if answer.status.is_success() {
                return Ok(());
            }
            refusals += 1;
            let is_transient = matches!(answer.status, StatusCode::CONFLICT | StatusCode::NOT_FOUND);
            if !is_transient || refusals > REFUSALS_MAX {
                return Err(ReportRejected { status: answer.status, problem: answer.problem() });
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(REFUSED_PAUSE_MAX);
        }
    }
}
