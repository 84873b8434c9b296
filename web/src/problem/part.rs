//! What happened to the parts of a request that failed before all of it was recorded.

use std::fmt::Write as _;

use event_schemas::ids::Position;
use schemars::JsonSchema;
use serde::Serialize;

use super::Problem;

/// The outcome of a part of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "ProblemPartOutcome")]
pub enum Outcome {
    /// It is in the log, by this request or by an earlier one.
    Recorded,
    /// It is not in the log, or not completely: an item with a long list fills several events.
    NotRecorded,
    /// It may or may not be in the log.
    Unknown,
}

/// A part of a request that failed before all of it was recorded: some items of a batch, or a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "ProblemPart")]
pub struct Part {
    pub outcome: Outcome,
    /// The name of the step, if the request has several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<&'static str>,
    /// The items of a batch, by their indexes in the body, from 0. The empty lines of an NDJSON body are not counted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<u32>,
    /// The log position from which a recorded part is visible.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// The code of the reason why it is not recorded, one of the codes of problems.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    /// The reason why it is not recorded, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Part {
    pub fn recorded(position: Position) -> Self {
        Self {
            outcome: Outcome::Recorded,
            step: None,
            items: Vec::new(),
            position: Some(position),
            code: None,
            reason: None,
        }
    }

    /// A part that this problem kept from being recorded, or left unknown.
    pub fn failed(problem: &Problem) -> Self {
        Self {
            outcome: if problem.leaves_outcome_unknown() { Outcome::Unknown } else { Outcome::NotRecorded },
            position: None,
            code: Some(problem.code.into()),
            reason: Some(problem.detail.clone().into_owned()),
            ..Self::recorded(Position::START)
        }
    }

    #[must_use]
    pub fn of_items(self, items: Vec<u32>) -> Self {
        Self { items, ..self }
    }

    #[must_use]
    pub fn of_step(self, step: &'static str) -> Self {
        Self { step: Some(step), ..self }
    }
}

/// The parts in a sentence, such as "3 of 5 items are recorded, 2 are not".
pub(super) fn summary(parts: &[Part]) -> String {
    let count = |outcome| -> usize {
        parts.iter().filter(|part| part.outcome == outcome).map(|part| part.items.len()).sum()
    };
    let (recorded, missing, unknown) =
        (count(Outcome::Recorded), count(Outcome::NotRecorded), count(Outcome::Unknown));
    let total = recorded + missing + unknown;
    if total == 0 {
        return steps(parts);
    }
    let mut text = format!("{recorded} of {total} items are recorded");
    if missing > 0 {
        let _ = write!(text, ", {missing} are not");
    }
    if unknown > 0 {
        let _ = write!(text, ", of {unknown} it is not known");
    }
    text
}

fn steps(parts: &[Part]) -> String {
    let words = parts.iter().map(|part| {
        let step = part.step.unwrap_or("the command").replace('_', " ");
        match part.outcome {
            Outcome::Recorded => format!("{step}: recorded"),
            Outcome::NotRecorded => format!("{step}: not recorded"),
            Outcome::Unknown => format!("{step}: not known"),
        }
    });
    words.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Code;

    fn body(problem: &Problem) -> serde_json::Value {
        serde_json::from_str(&problem.text()).unwrap()
    }

    #[test]
    fn nothing_is_claimed_once_a_part_is_recorded() {
        let full = Problem::insufficient_storage("the disk is full").nothing_recorded();
        assert_eq!(body(&full)["detail"], "the disk is full; nothing was recorded");
        let parts = vec![
            Part::recorded(Position(7)).of_items(vec![0, 2, 3]),
            Part::failed(&full).of_items(vec![1]),
            Part::failed(&Problem::outcome_unknown()).of_items(vec![4]),
        ];
        let body = body(&full.parts(parts));
        assert_eq!(
            body["detail"],
            "the disk is full; 3 of 5 items are recorded, 1 are not, of 1 it is not known; \
             send the same request again to complete it: nothing is recorded twice"
        );
        let expected = serde_json::json!([
            { "outcome": "recorded", "items": [0, 2, 3], "position": 7 },
            { "outcome": "not_recorded", "items": [1], "code": "INSUFFICIENT_STORAGE", "reason": "the disk is full" },
            {
                "outcome": "unknown", "items": [4], "code": "OUTCOME_UNKNOWN",
                "reason": Problem::outcome_unknown().detail,
            },
        ]);
        assert_eq!(body["parts"], expected);
    }

    #[test]
    fn refused_rest_is_not_asked_for_again() {
        let refused = Problem::conflict("the job has ended").nothing_recorded();
        let rest = Part::failed(&refused).of_step("answer");
        let body = body(&refused.parts(vec![Part::recorded(Position(7)).of_step("worker_exit"), rest]));
        assert_eq!(
            (&body["code"], body["parts"].as_array().map(Vec::len)),
            (&Code::Conflict.into_str().into(), Some(2))
        );
        assert_eq!(body["detail"], "the job has ended; worker exit: recorded, answer: not recorded");
    }
}
