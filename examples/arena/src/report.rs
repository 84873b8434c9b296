//! Results on their way to Matchbook.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::json;
use uuid::Uuid;

use crate::api::Api;
use crate::game::Outcome;

/// The name under which results are reported where a server takes the caller's word for it.
const USER: &str = "arena";
/// A server that is away is waited for so long, and then again.
const ROUND: Duration = Duration::from_secs(60);
/// A match whose game was made and whose answer was lost is not there yet for Matchbook: it asks again, and until then it
/// refuses the result. So often a refused result is reported again.
const REFUSALS_MAX: u32 = 8;
const REFUSED_PAUSE: Duration = Duration::from_millis(250);
const REFUSED_PAUSE_MAX: Duration = Duration::from_secs(8);

/// Matchbook does not want a result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the result was refused with {status}: {problem}")]
pub struct Refused {
    pub status: StatusCode,
    pub problem: String,
}

/// Where results go.
#[derive(Clone, Debug)]
pub struct Reporter {
    api: Api,
}

impl Reporter {
    pub fn new(api: Api) -> Self {
        Self { api }
    }

    /// Reports until Matchbook has the result, or refused it for good.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn report(&self, tenant: &str, match_id: Uuid, result: Outcome) -> Result<(), Refused> {
        let caller = self.api.caller(tenant, USER);
        let path = format!("/internal/matches/{match_id}/result");
        let body = json!({ "result": result });
        let (mut refusals, mut pause) = (0, REFUSED_PAUSE);
        loop {
            let answer = match caller.ask(Method::POST, &path, Some(&body), ROUND).await {
                Ok(answer) => answer,
                Err(away) => {
                    tracing::warn!(%match_id, %away, "a result waits for the server");
                    continue;
                }
            };
            if answer.status.is_success() {
                return Ok(());
            }
            refusals += 1;
            let may_pass = matches!(answer.status, StatusCode::CONFLICT | StatusCode::NOT_FOUND);
            if !may_pass || refusals > REFUSALS_MAX {
                return Err(Refused { status: answer.status, problem: answer.problem() });
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(REFUSED_PAUSE_MAX);
        }
    }
}
