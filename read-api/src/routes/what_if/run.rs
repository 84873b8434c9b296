//! A run: its question, its progress and its result.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use domain::pool;
use domain::what_if::pool::PoolComparison;
use domain::what_if::ranking::{RankingComparison, RankingConfiguration};
use domain::what_if::retry::{RetryComparison, RetryPolicies};
use domain::what_if::{pool as of_pool, ranking as of_ranking, retry as of_retry};
use event_schemas::ids::{PoolKey, Position, Tenant};
use event_schemas::pool::PoolSettings;
use event_schemas::time::Timestamp;
use event_schemas::user::ListContext;
use projections::ReadModels;
use projections::status::Progress;
use projections::what_if::Replayed;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::Semaphore;
use uuid::Uuid;
use web::problem::Problem;

use crate::ReadApi;

/// The most runs that are kept.
const RUNS_MAX: usize = 100;
/// The most runs in progress. One is computed at a time, and the others wait.
const IN_PROGRESS_MAX: usize = 8;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhatIfKind {
    /// The players of a pool, paired with other settings.
    Pool,
    /// The failures of jobs, retried by other policies.
    Retry,
    /// The lists that were served, made with other weights.
    Ranking,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhatIfStatus {
    Running,
    Completed,
    Failed,
}

/// The players of a pool as recorded, and with other settings.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct WhatIfPool {
    /// What the result rests on.
    pub assumption: String,
    /// The settings that were in force at the end of the range.
    pub recorded_settings: PoolSettings,
    pub other_settings: PoolSettings,
    #[serde(flatten)]
    pub comparison: PoolComparison,
}

/// The failures of jobs as recorded, and under other policies.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct WhatIfRetry {
    /// What the result rests on.
    pub assumption: String,
    /// The policies of this version of the server.
    pub recorded_policies: RetryPolicies,
    pub other_policies: RetryPolicies,
    #[serde(flatten)]
    pub comparison: RetryComparison,
}

/// The rewards of served lists, and of lists with other weights.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct WhatIfRanking {
    /// What the result rests on.
    pub assumption: String,
    pub other: RankingConfiguration,
    #[serde(flatten)]
    pub comparison: RankingComparison,
}

/// A replay of history under another configuration.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct WhatIf {
    pub id: Uuid,
    pub kind: WhatIfKind,
    pub status: WhatIfStatus,
    /// The configuration as it was asked for.
    pub configuration: Map<String, Value>,
    /// The position after which things count.
    pub from: Position,
    /// The last position that counts.
    pub to: Position,
    pub progress: Progress,
    pub started_at: Timestamp,
    /// Null while it runs.
    pub finished_at: Option<Timestamp>,
    /// Why it failed; null unless it did.
    pub error: Option<String>,
    /// The result, if the kind is `pool`; null until it is completed.
    pub pool: Option<WhatIfPool>,
    /// The result, if the kind is `retry`.
    pub retry: Option<WhatIfRetry>,
    /// The result, if the kind is `ranking`.
    pub ranking: Option<WhatIfRanking>,
}

/// A checked question.
#[derive(Clone, Debug)]
pub(super) enum Question {
    Pool { pool_key: PoolKey, settings: Map<String, Value> },
    Retry(RetryPolicies),
    Ranking(RankingConfiguration),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PoolConfiguration {
    pool_key: String,
    settings: Map<String, Value>,
}

/// The settings with some members replaced.
fn changed(settings: &PoolSettings, changes: &Map<String, Value>) -> Result<PoolSettings, String> {
    let Ok(Value::Object(mut all)) = serde_json::to_value(settings) else {
        return Err("the settings cannot be written as JSON".to_owned());
    };
    for (name, value) in changes {
        let known: Vec<_> = all.keys().cloned().collect();
        let member = all.get_mut(name);
        *member.ok_or_else(|| format!("a pool has no setting {name:?}; there are {}", known.join(", ")))? =
            value.clone();
    }
    serde_json::from_value(Value::Object(all)).map_err(|error| error.to_string())
}

impl Question {
    /// # Errors
    /// What is wrong with the configuration.
    pub(super) fn parse(kind: WhatIfKind, configuration: Map<String, Value>) -> Result<Self, Problem> {
        let configuration = Value::Object(configuration);
        let invalid = |error: &dyn std::fmt::Display| Problem::invalid("configuration", error.to_string());
        match kind {
            WhatIfKind::Pool => {
                let PoolConfiguration { pool_key, settings } =
                    serde_json::from_value(configuration).map_err(|error| invalid(&error))?;
                changed(&pool::DEFAULTS, &settings).map_err(|error| invalid(&error))?;
                let pool_key = pool_key.parse::<PoolKey>().map_err(|error| invalid(&error))?;
                Ok(Self::Pool { pool_key, settings })
            }
            WhatIfKind::Retry => {
                let policies: RetryPolicies =
                    serde_json::from_value(configuration).map_err(|error| invalid(&error))?;
                if policies == RetryPolicies::default() {
                    return Err(invalid(&"names no category of error; give at least one a policy"));
                }
                Ok(Self::Retry(policies))
            }
            WhatIfKind::Ranking => {
                let ranking: RankingConfiguration =
                    serde_json::from_value(configuration).map_err(|error| invalid(&error))?;
                if ranking.context == ListContext::Search {
                    return Err(invalid(&"the texts of searches are sealed; give another context"));
                }
                ranking.weights.check().map_err(|error| invalid(&error))?;
                Ok(Self::Ranking(ranking))
            }
        }
    }

    fn kind(&self) -> WhatIfKind {
        match self {
            Self::Pool { .. } => WhatIfKind::Pool,
            Self::Retry(_) => WhatIfKind::Retry,
            Self::Ranking(_) => WhatIfKind::Ranking,
        }
    }

    async fn answer(&self, models: &ReadModels, tenant: &Tenant, range: &Replayed) -> Result<Answer, String> {
        match self {
            Self::Pool { pool_key, settings } => {
                let history = models.pool_history(tenant, pool_key.clone(), range).await;
                let history = history.map_err(|error| error.to_string())?;
                let recorded_settings = history.settings();
                let other_settings = changed(&recorded_settings, settings)?;
                pool::check(&other_settings).map_err(|error| error.to_string())?;
                let cancelled = range.clone();
                let replay = move || history.replay(&other_settings, || cancelled.is_cancelled());
                let comparison =
                    tokio::task::spawn_blocking(replay).await.map_err(|error| error.to_string())?;
                let comparison = comparison.map_err(|error| error.to_string())?;
                let assumption = of_pool::ASSUMPTION.to_owned();
                Ok(Answer::Pool(WhatIfPool { assumption, recorded_settings, other_settings, comparison }))
            }
            Self::Retry(policies) => {
                let comparison = models.compare_retries(tenant, *policies, range).await;
                let comparison = comparison.map_err(|error| error.to_string())?;
                Ok(Answer::Retry(WhatIfRetry {
                    assumption: of_retry::ASSUMPTION.to_owned(),
                    recorded_policies: RetryPolicies::in_force(),
                    other_policies: *policies,
                    comparison,
                }))
            }
            Self::Ranking(other) => {
                let comparison = models.compare_rankings(tenant, *other, range).await;
                let comparison = comparison.map_err(|error| error.to_string())?;
                let comparison = comparison.map_err(|error| error.to_string())?;
                let assumption = of_ranking::ASSUMPTION.to_owned();
                Ok(Answer::Ranking(WhatIfRanking { assumption, other: *other, comparison }))
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Answer {
    Pool(WhatIfPool),
    Retry(WhatIfRetry),
    Ranking(WhatIfRanking),
}

/// A run, in progress or ended.
#[derive(Debug)]
pub(super) struct Run {
    id: Uuid,
    tenant: Tenant,
    question: Question,
    configuration: Map<String, Value>,
    range: Replayed,
    started_at: Timestamp,
    ended: OnceLock<(Timestamp, Result<Answer, String>)>,
}

impl Run {
    pub(super) fn view(&self, now: Timestamp) -> WhatIf {
        let ended = self.ended.get();
        let (mut error, mut pool, mut retry, mut ranking) = (None, None, None, None);
        match ended.map(|(_, answer)| answer.clone()) {
            Some(Ok(Answer::Pool(answer))) => pool = Some(answer),
            Some(Ok(Answer::Retry(answer))) => retry = Some(answer),
            Some(Ok(Answer::Ranking(answer))) => ranking = Some(answer),
            Some(Err(reason)) => error = Some(reason),
            None => {}
        }
        let status = match (ended, &error) {
            (None, _) => WhatIfStatus::Running,
            (Some(_), None) => WhatIfStatus::Completed,
            (Some(_), Some(_)) => WhatIfStatus::Failed,
        };
        WhatIf {
            id: self.id,
            kind: self.question.kind(),
            status,
            configuration: self.configuration.clone(),
            from: self.range.after,
            to: self.range.upto,
            progress: self.progress(now),
            started_at: self.started_at,
            finished_at: ended.map(|(at, _)| *at),
            error,
            pool,
            retry,
            ranking,
        }
    }

    /// How much of the log was read: that is most of the work.
    fn progress(&self, now: Timestamp) -> Progress {
        let (at, target) = (self.range.at(), self.range.upto);
        let fraction = if target.0 == 0 { 1.0 } else { at.0 as f64 / target.0 as f64 };
        let left = |fraction: f64| now.since(self.started_at).as_secs_f64() * (1.0 - fraction) / fraction;
        let eta_seconds =
            if self.ended.get().is_some() { Some(0.0) } else { (fraction > 0.0).then(|| left(fraction)) };
        Progress { at, target, fraction, eta_seconds }
    }
}

/// The latest runs, the newest last.
#[derive(Debug)]
pub(crate) struct WhatIfRuns {
    runs: Mutex<VecDeque<Arc<Run>>>,
    turn: Arc<Semaphore>,
}

impl Default for WhatIfRuns {
    fn default() -> Self {
        Self { runs: Mutex::default(), turn: Arc::new(Semaphore::new(1)) }
    }
}

impl WhatIfRuns {
    /// Starts a run.
    ///
    /// # Errors
    /// 409 while too many are in progress.
    pub(super) fn start(
        &self,
        api: &Arc<ReadApi>,
        tenant: Tenant,
        question: Question,
        configuration: Map<String, Value>,
        range: Replayed,
    ) -> Result<Arc<Run>, Problem> {
        let (id, started_at) = (Uuid::now_v7(), api.clock.now());
        let run =
            Arc::new(Run { id, tenant, question, configuration, range, started_at, ended: OnceLock::new() });
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        if runs.iter().filter(|run| run.ended.get().is_none()).count() >= IN_PROGRESS_MAX {
            let reason =
                format!("{IN_PROGRESS_MAX} what-if runs are in progress; retry when one of them has ended");
            return Err(Problem::conflict(reason));
        }
        if runs.len() >= RUNS_MAX
            && let Some(oldest) = runs.iter().position(|run| run.ended.get().is_some())
        {
            runs.remove(oldest);
        }
        runs.push_back(Arc::clone(&run));
        drop(runs);
        let (task, api, turn) = (Arc::clone(&run), Arc::clone(api), Arc::clone(&self.turn));
        tokio::spawn(async move {
            let answer = async {
                // The semaphore is never closed.
                let _turn = turn.acquire().await;
                task.question.answer(&api.models, &task.tenant, &task.range).await
            };
            let answer = tokio::select! {
                answer = answer => answer,
                () = api.shutdown.requested() => {
                    task.range.cancel();
                    Err("the server is shutting down".to_owned())
                }
            };
            // A run ends once.
            let _ = task.ended.set((api.clock.now(), answer));
        });
        Ok(run)
    }

    pub(super) fn find(&self, tenant: &Tenant, id: Uuid) -> Option<Arc<Run>> {
        let runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        runs.iter().find(|run| run.id == id && run.tenant == *tenant).cloned()
    }
}
