//! A finished training registers its model: the result of a job of [`jobs`](crate::jobs) names a model of the
//! [`catalogue`](crate::catalogue).
//!
//! The result is checked before the job completes, so that its worker learns what is wrong with it. The completion is the
//! decision; the registration follows from it, so it can be repeated: a process completes what a crash has interrupted.

use std::sync::Arc;
use std::time::Duration;

use domain::job::JobAvailability;
use event_schemas::envelope::Cause;
use event_schemas::ids::{JobId, Position, Tenant};
use event_schemas::stream::StreamId;
use serde_json::Value;
use web::problem::{FieldError, Problem};

use crate::catalogue::Catalogue;
use crate::catalogue::models::ModelFacts;
use crate::engine::execute::{CachedStream, Executed};
use crate::engine::problem::{from_execute_error, from_load_error};
use crate::jobs::Jobs;
use crate::jobs::processes::process_cause;
use crate::jobs::scheduler::{FinishedTraining, MODEL_MEMBER};

/// Stored as the actor of events, and part of command ids: it must not change.
const NAME: &str = "trainings";

/// The delay before a failed registration is repeated.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// The registration of trained models. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct TrainedModels {
    jobs: Arc<Jobs>,
    catalogue: Arc<Catalogue>,
}

impl TrainedModels {
    pub(crate) fn new(jobs: Arc<Jobs>, catalogue: Arc<Catalogue>) -> Self {
        Self { jobs, catalogue }
    }

    /// Checks the result of a training before its job completes.
    ///
    /// # Errors
    /// 422 if the model cannot be registered, with the wrong member of the result.
    pub(crate) async fn check(
        &self,
        cause: &Cause,
        job: JobId,
        result: Option<&Value>,
    ) -> Result<(), Problem> {
        let Some(model) = result.and_then(|result| result.get(MODEL_MEMBER)) else { return Ok(()) };
        let stream = StreamId::job(job);
        let is_open = |folded: &CachedStream<_>| {
            let state: &domain::job::State = &folded.state;
            state.availability() == JobAvailability::Open
        };
        // A repeated completion gets its first answer, whatever became of the model since.
        if !self.jobs.jobs.query(&stream, is_open).await.map_err(from_load_error)? {
            return Ok(());
        }
        let facts = facts(model, job).map_err(in_result)?;
        self.catalogue.check_registration(&cause.tenant, &facts).await.map_err(in_result)
    }

    /// The position that covers the completion of a training and the registration of its model.
    ///
    /// # Errors
    /// If the model could not be registered yet, which then follows.
    pub(crate) async fn position_after_completion(
        &self,
        cause: &Cause,
        job: JobId,
        executed: Executed,
    ) -> Result<Position, Problem> {
        self.jobs
            .settled(cause, "completion", executed, || async {
                let training = self.jobs.board.finished_trainings().into_iter();
                let Some(training) = training.into_iter().find(|training| training.job_id == job) else {
                    return Ok(false);
                };
                self.register(&training).await?;
                Ok(true)
            })
            .await
    }

    /// Registers the model of a finished training, unless it is registered. A model that cannot be registered, because
    /// something else has taken its id since, is left out.
    async fn register(&self, training: &FinishedTraining) -> Result<Position, Problem> {
        let FinishedTraining { job_id, tenant, origin } = training;
        let mut position = self.jobs.engine.head();
        if let Some(facts) = self.facts_of(tenant, *job_id).await? {
            let cause = process_cause(NAME, tenant, *origin, "");
            match self.catalogue.register_model(&cause, &facts).await {
                Ok(registered) => position = registered,
                Err(error) => {
                    let problem = from_execute_error(error);
                    if problem.status().is_server_error() {
                        return Err(problem);
                    }
                    tracing::warn!(%job_id, reason = %problem.detail, "the model of a training is not registered");
                }
            }
        }
        self.jobs.board.training_is_registered(*job_id);
        Ok(position)
    }

    /// The model in the result of a job; none if the result has expired.
    async fn facts_of(&self, tenant: &Tenant, job: JobId) -> Result<Option<ModelFacts>, Problem> {
        let result = |folded: &CachedStream<_>| {
            let state: &domain::job::State = &folded.state;
            let details = state.details().filter(|_| folded.tenant() == Some(tenant))?;
            Some(details.result()?.to_value())
        };
        let result = self.jobs.jobs.query(&StreamId::job(job), result).await.map_err(from_load_error)?;
        let model = result.as_ref().and_then(|result| result.get(MODEL_MEMBER));
        // It was checked when the job completed.
        Ok(model.and_then(|model| facts(model, job).ok()))
    }

    /// Registers the models of finished trainings, until the server shuts down.
    pub(crate) async fn run(self) {
        let board = &self.jobs.board;
        if !board.ready().await {
            return;
        }
        let mut position = board.position();
        loop {
            position.mark_unchanged();
            let mut all_registered = true;
            for training in board.finished_trainings() {
                if let Err(problem) = self.register(&training).await {
                    let (job_id, reason) = (training.job_id, &problem.detail);
                    tracing::warn!(%job_id, %reason, "the model of a training is not registered yet; retrying");
                    all_registered = false;
                }
            }
            if !all_registered {
                self.jobs.engine.clock.sleep(RETRY_DELAY).await;
            } else if position.changed().await.is_err() {
                return;
            }
        }
    }
}

/// The model that a job has trained.
fn facts(model: &Value, job: JobId) -> Result<ModelFacts, Problem> {
    let mut facts = ModelFacts::parse(model)?;
    match facts.details.training_job_id {
        Some(other) if other != job => {
            return Err(Problem::unprocessable("training_job_id", "names another job; leave it out"));
        }
        _ => facts.details.training_job_id = Some(job),
    }
    Ok(facts)
}

/// The same problem of a member of the result.
fn in_result(problem: Problem) -> Problem {
    let place = |field: &str| match field {
        "body" => format!("result.{MODEL_MEMBER}"),
        field => format!("result.{MODEL_MEMBER}.{field}"),
    };
    let errors: Vec<FieldError> = problem
        .errors
        .iter()
        .map(|error| FieldError::new(place(&error.field), error.reason.clone()))
        .collect();
    let Some(first) = errors.first() else { return problem };
    let detail = format!("`{}`: {}", first.field, first.reason);
    errors.into_iter().fold(Problem::new(web::problem::Code::Unprocessable, detail), Problem::error)
}
