//! What happened to the items of a batch that takes several appends: a later one may fail after earlier ones.

use event_schemas::ids::Position;
use web::problem::{Part, Problem};
use web::progress::RequestProgress;

use super::execute::LoadError;
use super::problem::most_severe;

/// The outcomes of the items of a batch, by their indexes in the body.
#[derive(Debug, Default)]
pub(crate) struct BatchParts {
    /// Where recorded items are noted for the response at the deadline.
    progress: RequestProgress,
    recorded: Vec<u32>,
    position: Position,
    failed: Vec<(Problem, Vec<u32>)>,
    /// Whether a failed stream has some of the batch's events.
    is_begun: bool,
}

impl BatchParts {
    /// Starts a batch of these items.
    pub(crate) fn of_request(progress: &RequestProgress, items: impl IntoIterator<Item = u32>) -> Self {
        progress.begin(items);
        Self { progress: progress.clone(), ..Self::default() }
    }

    /// These items are recorded, and visible from the position.
    pub(crate) fn recorded(&mut self, items: impl IntoIterator<Item = u32>, position: Position) {
        let first = self.recorded.len();
        self.recorded.extend(items);
        self.progress.recorded(&self.recorded[first..], position);
        self.position = self.position.max(position);
    }

    /// The problem kept these items, of one stream, from being recorded, apart from those that `known` finds in the
    /// stream at its position. `is_begun` is true if the batch recorded some events in the stream.
    pub(crate) fn failed(
        &mut self,
        items: Vec<u32>,
        problem: Problem,
        is_begun: bool,
        known: Result<(Vec<bool>, Position), LoadError>,
    ) {
        self.is_begun |= is_begun;
        let Ok((known, position)) = known else {
            self.failed.push((Problem::outcome_unknown(), items));
            return;
        };
        let (recorded, missing): (Vec<_>, Vec<_>) =
            items.into_iter().zip(known).partition(|(_, known)| *known);
        self.recorded(recorded.into_iter().map(|(item, _)| item), position);
        self.failed.push((problem, missing.into_iter().map(|(item, _)| item).collect()));
    }

    /// The problem of the batch; none if all of it is recorded.
    pub(crate) fn into_problem(self) -> Option<Problem> {
        let problem = most_severe(self.failed.iter().map(|(problem, _)| problem.clone()))?;
        let is_alike = self
            .failed
            .iter()
            .all(|(other, _)| other.leaves_outcome_unknown() == problem.leaves_outcome_unknown());
        if self.recorded.is_empty() && !self.is_begun && is_alike {
            return Some(problem);
        }
        let mut parts: Vec<Part> = Vec::new();
        if !self.recorded.is_empty() {
            parts.push(Part::recorded(self.position).of_items(self.recorded));
        }
        for (problem, items) in self.failed {
            let failed = Part::failed(&problem);
            match parts.iter_mut().find(|part| part.code == failed.code && part.reason == failed.reason) {
                Some(part) => part.items.extend(items),
                None if items.is_empty() => {}
                None => parts.push(failed.of_items(items)),
            }
        }
        parts.iter_mut().for_each(|part| part.items.sort_unstable());
        Some(problem.parts(parts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_items_are_noted_for_the_response_at_the_deadline() {
        let progress = RequestProgress::default();
        let mut parts = BatchParts::of_request(&progress, 0..4);
        parts.recorded([2], Position(7));
        let full = Problem::insufficient_storage("the disk is full");
        parts.failed(vec![0, 1], full, false, Ok((vec![true, false], Position(9))));
        let expected = RequestProgress::default();
        expected.begin(0..4);
        expected.recorded(&[0, 2], Position(9));
        assert_eq!(format!("{progress:?}"), format!("{expected:?}"));
    }
}
