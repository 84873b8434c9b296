//! The response objects of the projections. The command line parses the same types.

use std::fmt;

use poem_openapi::types::ToJSON;
use poem_openapi::{Enum, Object};
use projections::status::{Failure, Progress, ProjectionStatus, RebuildStatus, ReportedState};
use web::value::ApiPosition;

use crate::server::LagLimits;

/// The state of a projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename = "ProjectionState", rename_all = "snake_case")]
pub enum ProjectionStateDto {
    CatchingUp,
    Live,
    Paused,
    /// It failed and does not continue automatically.
    Stopped,
    /// Its store failed; it is retried automatically.
    Retrying,
}

/// As in JSON.
impl fmt::Display for ProjectionStateDto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.to_json_string().trim_matches('"'))
    }
}

/// The judgement of a projection's lag by the server's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename_all = "snake_case")]
pub enum LagState {
    Ok,
    /// It is further behind than `--read-model-lag-warn`.
    Behind,
    /// It is further behind than `--read-model-lag-max`, and the server is not ready.
    TooFarBehind,
}

/// The progress towards a position.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(rename = "Progress")]
pub struct ProgressDto {
    pub at: ApiPosition,
    pub target: ApiPosition,
    /// From 0 to 1.
    pub fraction: f64,
    /// Null until there is progress.
    pub eta_seconds: Option<f64>,
}

/// The failure of a projection.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(rename = "ProjectionFailure")]
pub struct ProjectionFailureDto {
    /// The position of the event that it could not apply, or the last position that it reached.
    pub position: ApiPosition,
    pub event_type: Option<String>,
    pub error: String,
    /// The remedy for an operator.
    pub remedy: String,
}

/// A generation under construction.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(rename = "ProjectionRebuild")]
pub struct RebuildDto {
    pub generation: u64,
    pub progress: ProgressDto,
    /// Why the rebuild failed, if it did; the live generation is not affected.
    pub failed: Option<ProjectionFailureDto>,
}

/// One projection.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(rename = "Projection")]
pub struct ProjectionDto {
    pub name: String,
    /// The revision of the projection's code; a higher one triggers a rebuild.
    pub revision: u32,
    /// The live generation; null while the first is being built.
    pub generation: Option<u64>,
    pub state: ProjectionStateDto,
    /// The position that reads reflect.
    pub position: ApiPosition,
    /// The durable head of the log.
    pub head: ApiPosition,
    /// The number of positions that it is behind.
    pub lag_events: u64,
    pub lag_state: LagState,
    /// The time since the last reflected event was recorded; 0 at the head.
    pub lag_seconds: f64,
    pub events_per_second: f64,
    /// The progress towards the head, while it catches up or `lag_state` is not `ok`.
    pub progress: Option<ProgressDto>,
    /// Why it stopped or is retried.
    pub stop: Option<ProjectionFailureDto>,
    pub rebuild: Option<RebuildDto>,
}

/// All projections.
#[derive(Clone, Debug, Object)]
pub struct ProjectionList {
    pub items: Vec<ProjectionDto>,
}

/// The acceptance of a command to a projection.
#[derive(Clone, Debug, Object)]
pub struct ProjectionCommandAccepted {
    pub name: String,
    /// A sentence that describes what happens next.
    pub detail: String,
}

/// The acceptance of a rebuild.
#[derive(Clone, Debug, Object)]
pub struct RebuildAccepted {
    pub name: String,
    /// The number of the new generation. The rebuild is done when it is the live one.
    pub generation: u64,
    /// A sentence that describes what happens next.
    pub detail: String,
}

/// How well a projection works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    Ok,
    /// An operator should look at it; the server is ready.
    Warning,
    /// It is reading history after a start; the server is not ready yet.
    Starting,
    /// It does not work, and the server is not ready.
    Failed,
}

impl From<Progress> for ProgressDto {
    fn from(progress: Progress) -> Self {
        Self {
            at: ApiPosition(progress.at),
            target: ApiPosition(progress.target),
            fraction: progress.fraction,
            eta_seconds: progress.eta_seconds,
        }
    }
}

/// For an operator: `45 %, about 12 s left`.
impl fmt::Display for ProgressDto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} %", (self.fraction * 100.0).floor())?;
        match self.eta_seconds {
            Some(seconds) => write!(f, ", about {:.0} s left", seconds.ceil()),
            None => Ok(()),
        }
    }
}

impl From<Failure> for ProjectionFailureDto {
    fn from(failure: Failure) -> Self {
        Self {
            position: ApiPosition(failure.position),
            event_type: failure.event_type.map(|name| name.to_string()),
            error: failure.error,
            remedy: failure.remedy.to_owned(),
        }
    }
}

impl From<RebuildStatus> for RebuildDto {
    fn from(rebuild: RebuildStatus) -> Self {
        Self {
            generation: rebuild.generation,
            progress: rebuild.progress.into(),
            failed: rebuild.failed.map(Into::into),
        }
    }
}

impl ProjectionDto {
    pub(crate) fn new(status: ProjectionStatus, limits: LagLimits) -> Self {
        let lag_state = match status.lag_events {
            lag if lag > limits.max => LagState::TooFarBehind,
            lag if lag > limits.warn => LagState::Behind,
            _ => LagState::Ok,
        };
        let behind = (lag_state != LagState::Ok).then(|| progress_to_head(&status));
        let (state, progress, stop) = match status.state {
            ReportedState::CatchingUp(progress) => {
                (ProjectionStateDto::CatchingUp, Some(progress.into()), None)
            }
            ReportedState::Live => (ProjectionStateDto::Live, behind, None),
            ReportedState::Paused => (ProjectionStateDto::Paused, behind, None),
            ReportedState::Stopped(stop) => (ProjectionStateDto::Stopped, behind, Some(stop)),
            ReportedState::Retrying(stop) => (ProjectionStateDto::Retrying, behind, Some(stop)),
        };
        Self {
            name: status.name.to_owned(),
            revision: status.revision,
            generation: status.generation,
            state,
            position: ApiPosition(status.position),
            head: ApiPosition(status.head),
            lag_events: status.lag_events,
            lag_state,
            lag_seconds: status.lag_seconds,
            events_per_second: status.events_per_second,
            progress,
            stop: stop.map(Into::into),
            rebuild: status.rebuild.map(Into::into),
        }
    }

    pub fn condition(&self) -> Condition {
        let failed_rebuild = self.rebuild.as_ref().is_some_and(|rebuild| rebuild.failed.is_some());
        match (self.state, self.lag_state) {
            (ProjectionStateDto::Stopped | ProjectionStateDto::Retrying, _) => Condition::Failed,
            (ProjectionStateDto::CatchingUp, _) => Condition::Starting,
            (_, LagState::TooFarBehind) => Condition::Failed,
            _ if self.generation.is_none() => Condition::Starting,
            // A pause is an operator's decision, which a restart would not undo.
            (ProjectionStateDto::Paused, _) | (_, LagState::Behind) => Condition::Warning,
            _ if failed_rebuild => Condition::Warning,
            _ => Condition::Ok,
        }
    }

    /// The state in one sentence, without the remedy.
    pub fn detail(&self) -> String {
        let mut detail = match (self.state, &self.stop) {
            (ProjectionStateDto::Retrying, Some(stop)) => {
                format!("its store failed at position {}, and is retried: {}", stop.position.0, stop.error)
            }
            (_, Some(stop)) => format!("stopped at position {}: {}", stop.position.0, stop.error),
            (ProjectionStateDto::Paused, None) => "paused by an operator".to_owned(),
            _ if self.generation.is_none() => "being built".to_owned(),
            (ProjectionStateDto::CatchingUp, None) => "catching up".to_owned(),
            _ if self.lag_events == 0 => "up to date".to_owned(),
            _ => "live".to_owned(),
        };
        if self.lag_events > 0 {
            detail.push_str(&format!(", {} events behind the head", self.lag_events));
        }
        if let Some(progress) = &self.progress {
            detail.push_str(&format!(", {progress}"));
        }
        match &self.rebuild {
            Some(RebuildDto { generation, failed: Some(failure), .. }) => detail.push_str(&format!(
                "; the rebuild of generation {generation} failed at position {}: {}",
                failure.position.0, failure.error
            )),
            Some(RebuildDto { generation, progress, failed: None }) => {
                detail.push_str(&format!("; generation {generation} is being built: {progress}"));
            }
            None => {}
        }
        detail
    }

    /// The next step for an operator; none if nothing is to be done.
    pub fn remedy(&self) -> Option<String> {
        if let Some(stop) = &self.stop {
            return Some(stop.remedy.clone());
        }
        if self.state == ProjectionStateDto::Paused {
            return Some(format!("resume it with POST /internal/projections/{}/resume", self.name));
        }
        match (self.condition(), &self.rebuild) {
            (Condition::Starting, _) => Some("wait until it has caught up".to_owned()),
            (_, Some(RebuildDto { failed: Some(failure), .. })) => Some(failure.remedy.clone()),
            (Condition::Ok, _) => None,
            (Condition::Warning | Condition::Failed, _) => Some(
                "wait; if it falls further behind, send fewer commands, or use a faster disk or processor"
                    .to_owned(),
            ),
        }
    }
}

/// The progress of a projection that follows the log, at its recent speed.
fn progress_to_head(status: &ProjectionStatus) -> ProgressDto {
    let moves = matches!(status.state, ReportedState::Live) && status.events_per_second > 0.0;
    ProgressDto {
        at: ApiPosition(status.position),
        target: ApiPosition(status.head),
        fraction: status.position.0 as f64 / status.head.0.max(1) as f64,
        eta_seconds: moves.then(|| status.lag_events as f64 / status.events_per_second),
    }
}
