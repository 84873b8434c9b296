//! The status of a read model, as the API returns it and the command line shows it.

use std::borrow::Cow;
use std::fmt;

use event_schemas::ids::Position;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One projection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Projection")]
pub struct ProjectionStatus {
    pub name: String,
    /// The revision of the projection's code; a higher one triggers a rebuild.
    pub revision: u32,
    /// The live generation; null while the first is being built.
    pub generation: Option<u64>,
    pub state: ReportedState,
    /// The position that reads reflect.
    pub position: Position,
    /// The durable head of the log.
    pub head: Position,
    /// The number of positions that it is behind.
    pub lag_events: u64,
    pub lag_state: LagState,
    /// The age of the first event that it does not reflect; 0 if it reflects all. While it is further behind than the
    /// server remembers, the age of the last event that it reflects.
    pub lag_seconds: f64,
    /// The recent speed in positions per second, including events of other categories.
    pub events_per_second: f64,
    /// The progress towards the head, while it catches up or `lag_state` is not `ok`.
    pub progress: Option<Progress>,
    /// Why it stopped, is retried, or is being rebuilt after damage.
    pub stop: Option<Failure>,
    pub rebuild: Option<RebuildStatus>,
}

/// The state of a projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, strum::IntoStaticStr)]
#[schemars(rename = "ProjectionState")]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case", const_into_str)]
pub enum ReportedState {
    CatchingUp,
    Live,
    Paused,
    /// It failed and does not continue automatically.
    Stopped,
    /// Its store failed; it is retried automatically.
    Retrying,
}

/// As in JSON.
impl fmt::Display for ReportedState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.into_str())
    }
}

/// The judgement of a projection's lag by the server's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LagState {
    Ok,
    /// It is further behind than `--read-model-lag-warn`.
    Behind,
    /// It is further behind than `--read-model-lag-max`, and the server is not ready.
    TooFarBehind,
}

/// The progress towards a position.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Progress {
    pub at: Position,
    pub target: Position,
    /// From 0 to 1.
    pub fraction: f64,
    /// Null until there is progress.
    pub eta_seconds: Option<f64>,
}

/// The failure of a projection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ProjectionFailure")]
pub struct Failure {
    /// The position of the event that it could not apply, or the last position that it reached.
    pub position: Position,
    pub event_type: Option<String>,
    pub error: String,
    /// The remedy for an operator.
    pub remedy: Cow<'static, str>,
}

/// A generation under construction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ProjectionRebuild")]
pub struct RebuildStatus {
    pub generation: u64,
    pub progress: Progress,
    /// Why the rebuild failed, if it did; the live generation is not affected.
    pub failed: Option<Failure>,
}

/// For an operator: `45 %, about 12 s left`.
impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} %", (self.fraction * 100.0).floor())?;
        match self.eta_seconds {
            Some(seconds) => write!(f, ", about {:.0} s left", seconds.ceil()),
            None => Ok(()),
        }
    }
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

impl ProjectionStatus {
    pub fn condition(&self) -> Condition {
        let failed_rebuild = self.rebuild.as_ref().is_some_and(|rebuild| rebuild.failed.is_some());
        match (self.state, self.lag_state) {
            (ReportedState::Stopped | ReportedState::Retrying, _) => Condition::Failed,
            (ReportedState::CatchingUp, _) => Condition::Starting,
            (_, LagState::TooFarBehind) => Condition::Failed,
            _ if self.generation.is_none() => Condition::Starting,
            // A pause is an operator's decision, which a restart would not undo.
            (ReportedState::Paused, _) | (_, LagState::Behind) => Condition::Warning,
            _ if failed_rebuild || self.stop.is_some() => Condition::Warning,
            _ => Condition::Ok,
        }
    }

    /// The state in one sentence, without the remedy.
    pub fn detail(&self) -> String {
        let mut detail = match (self.state, &self.stop) {
            (ReportedState::Retrying, Some(stop)) => {
                format!("its store failed at position {}, and is retried: {}", stop.position, stop.error)
            }
            (ReportedState::CatchingUp | ReportedState::Live, Some(stop)) => {
                format!("being rebuilt: {}", stop.error)
            }
            (_, Some(stop)) => format!("stopped at position {}: {}", stop.position, stop.error),
            (ReportedState::Paused, None) => "paused by an operator".to_owned(),
            _ if self.generation.is_none() => "being built".to_owned(),
            (ReportedState::CatchingUp, None) => "catching up".to_owned(),
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
            Some(RebuildStatus { generation, failed: Some(failure), .. }) => detail.push_str(&format!(
                "; the rebuild of generation {generation} failed at position {}: {}",
                failure.position, failure.error
            )),
            Some(RebuildStatus { generation, progress, failed: None }) => {
                detail.push_str(&format!("; generation {generation} is being built: {progress}"));
            }
            None => {}
        }
        detail
    }

    /// The next step for an operator; none if nothing is to be done.
    pub fn remedy(&self) -> Option<String> {
        if let Some(stop) = &self.stop {
            return Some(stop.remedy.clone().into_owned());
        }
        if self.state == ReportedState::Paused {
            return Some(format!("resume it with `matchbook projections resume {}`", self.name));
        }
        match (self.condition(), &self.rebuild) {
            (Condition::Starting, _) => Some("wait until it has caught up".to_owned()),
            (_, Some(RebuildStatus { failed: Some(failure), .. })) => {
                Some(failure.remedy.clone().into_owned())
            }
            (Condition::Ok, _) => None,
            (Condition::Warning | Condition::Failed, _) => Some(
                "wait; if it falls further behind, send fewer commands, or use a faster disk or processor"
                    .to_owned(),
            ),
        }
    }
}
