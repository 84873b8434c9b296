//! What of a request is recorded so far, for the response at its deadline.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use event_schemas::ids::Position;
use poem::{FromRequest, Request, RequestBody};

use crate::problem::{Part, Problem};

/// The items of a batch that are recorded so far. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct RequestProgress(Arc<Mutex<Progress>>);

#[derive(Debug, Default)]
struct Progress {
    /// The items whose outcome is not known yet, by their indexes in the body.
    open: BTreeSet<u32>,
    recorded: BTreeSet<u32>,
    position: Position,
}

impl<'a> FromRequest<'a> for RequestProgress {
    async fn from_request(request: &'a Request, _: &mut RequestBody) -> poem::Result<Self> {
        Ok(request.data::<Self>().cloned().unwrap_or_default())
    }
}

impl RequestProgress {
    /// Starts a batch of these items.
    pub fn begin(&self, items: impl IntoIterator<Item = u32>) {
        self.change(|progress| progress.open.extend(items));
    }

    /// These items are recorded, and visible from the position.
    pub fn recorded(&self, items: &[u32], position: Position) {
        self.change(|progress| {
            items.iter().for_each(|item| {
                progress.open.remove(item);
            });
            progress.recorded.extend(items);
            progress.position = progress.position.max(position);
        });
    }

    /// The problem of a request whose deadline has passed, with the items that are recorded.
    pub(crate) fn outcome_unknown(&self) -> Problem {
        let problem = Problem::outcome_unknown();
        self.change(|progress| {
            if progress.recorded.is_empty() {
                return problem;
            }
            let recorded = progress.recorded.iter().copied().collect();
            let mut parts = vec![Part::recorded(progress.position).of_items(recorded)];
            if !progress.open.is_empty() {
                parts.push(Part::failed(&problem).of_items(progress.open.iter().copied().collect()));
            }
            problem.parts(parts)
        })
    }

    fn change<T>(&self, change: impl FnOnce(&mut Progress) -> T) -> T {
        // Items that were noted before a panic are recorded.
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
