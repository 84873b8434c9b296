//! Batches over many streams: one command for each stream, an outcome for each item, and one answer for the whole.

use domain::decider::{Decider, Refused};
use event_schemas::envelope::{Cause, Event};
use event_schemas::ids::Position;
use event_schemas::stream::StreamId;
use futures_util::StreamExt;
use futures_util::stream;
use poem_openapi::types::ToJSON;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};
use web::json::BatchItem;
use web::problem::{FieldError, Problem};
use web::progress::RequestProgress;

use super::Catalogue;
use crate::engine::batch_parts::BatchParts;
use crate::engine::execute::Streams;
use crate::engine::problem;

/// The most streams of a batch that are written to at a time.
const STREAMS_AT_ONCE: usize = 256;

/// The outcome of a batch.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(super) struct BatchOutcome {
    /// The number of items that were taken; those that change nothing, too.
    accepted: u64,
    rejected: u64,
    /// The outcome of each item, in their order.
    results: Vec<ItemOutcome>,
    /// Log position from which the whole batch is visible. Send it as `X-Min-Position` to read your own write.
    position: Position,
}

/// The outcome of an item of a batch.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(super) struct ItemOutcome {
    /// Its place in the batch, from 0.
    index: u64,
    /// The number of its line, in a batch of lines.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    status: ItemStatus,
    /// What is wrong with a rejected item.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<ItemError>,
}

/// Whether an item of a batch was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum ItemStatus {
    Accepted,
    /// Nothing of it was recorded. Correct it and send it again, alone or in another batch.
    Rejected,
}

/// A mistake in an item of a batch.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(super) struct ItemError {
    /// The path of the member in the item, or `body` for the whole item.
    field: String,
    reason: String,
}

/// What is to be done with each item of a batch.
#[derive(Debug, Default)]
pub(super) struct CheckedItems(Vec<ItemOutcome>);

impl CheckedItems {
    /// Checks the items that could be read. Returns those that are taken, with their places, and the outcome of all.
    ///
    /// # Errors
    /// 400 or 422 if every item is wrong.
    pub(super) fn check<R, T>(
        items: Vec<BatchItem<R>>,
        mut check: impl FnMut(R) -> Result<T, Problem>,
    ) -> Result<(Vec<(u32, T)>, Self), Problem> {
        let (mut taken, mut outcomes, mut first) = (Vec::with_capacity(items.len()), Self::default(), None);
        for (index, BatchItem { line, read }) in items.into_iter().enumerate() {
            let (status, errors) = match read.and_then(&mut check) {
                Ok(item) => {
                    taken.push((index as u32, item));
                    (ItemStatus::Accepted, Vec::new())
                }
                Err(problem) => {
                    let errors = problem
                        .errors
                        .iter()
                        .map(|error| ItemError { field: error.field.clone(), reason: error.reason.clone() });
                    let errors = errors.collect();
                    first.get_or_insert(problem);
                    (ItemStatus::Rejected, errors)
                }
            };
            let (index, line) = (index as u64, line.map(|line| line as u64));
            outcomes.0.push(ItemOutcome { index, line, status, errors });
        }
        match first {
            Some(first) if taken.is_empty() => Err(outcomes.nothing_taken(&first)),
            _ => Ok((taken, outcomes)),
        }
    }

    fn nothing_taken(&self, first: &Problem) -> Problem {
        let detail = match self.0.as_slice() {
            [_] => first.detail.clone(),
            _ => format!("no item can be taken, so nothing was recorded; the first: {}", first.detail).into(),
        };
        let errors = self.0.iter().flat_map(|outcome| {
            let place = match outcome.line {
                Some(line) => format!("line {line}"),
                None => format!("body[{}]", outcome.index),
            };
            let separator = if outcome.line.is_some() { ": " } else { "." };
            outcome.errors.iter().map(move |error| match error.field.as_str() {
                "body" => FieldError::new(place.clone(), error.reason.clone()),
                field => FieldError::new(format!("{place}{separator}{field}"), error.reason.clone()),
            })
        });
        errors.take(ERRORS_MAX).fold(Problem::new(first.code, detail), Problem::error)
    }

    /// The outcome, once all items that are taken have been recorded. An earlier answer to the same key says which items
    /// were taken then.
    pub(super) fn outcome(mut self, recorded: &RecordedBatch) -> BatchOutcome {
        if let Some(rejected) = &recorded.earlier_rejected {
            for (index, outcome) in self.0.iter_mut().enumerate() {
                let was_rejected = rejected.contains(&(index as u64));
                if was_rejected && outcome.errors.is_empty() {
                    outcome.errors.push(ItemError {
                        field: "body".to_owned(),
                        reason:
                            "was wrong when the batch was first sent; send the item again with another key"
                                .to_owned(),
                    });
                }
                outcome.status = if was_rejected { ItemStatus::Rejected } else { ItemStatus::Accepted };
            }
        }
        let rejected = self.rejected().count() as u64;
        BatchOutcome {
            accepted: self.0.len() as u64 - rejected,
            rejected,
            results: self.0,
            position: recorded.position,
        }
    }

    fn rejected(&self) -> impl Iterator<Item = u64> {
        let rejected = self.0.iter().filter(|outcome| outcome.status == ItemStatus::Rejected);
        rejected.map(|outcome| outcome.index)
    }
}

/// The most errors that a problem lists.
const ERRORS_MAX: usize = 20;

/// The items as JSON, for the hash of a batch with an idempotency key.
pub(super) fn hashed<T: ToJSON>(items: &[BatchItem<T>]) -> Vec<Value> {
    let value = |item: &BatchItem<T>| match &item.read {
        Ok(item) => item.to_json().unwrap_or_default(),
        Err(problem) => json!({"rejected": problem.detail}),
    };
    items.iter().map(value).collect()
}

/// A batch that is in the log.
#[derive(Debug)]
pub(super) struct RecordedBatch {
    position: Position,
    /// The places of the items that were rejected when the batch was first sent, if this was a repetition.
    earlier_rejected: Option<Vec<u64>>,
}

/// The commands of a batch to one stream.
#[derive(Debug)]
pub(super) struct BatchPart<C> {
    pub(super) stream: StreamId,
    pub(super) cause: Cause,
    pub(super) command: C,
    /// The places of its items in the batch.
    pub(super) items: Vec<u32>,
}

impl Catalogue {
    /// Executes the commands of a batch, each part on its stream. A batch with a known key changes nothing; one that was
    /// interrupted is completed.
    ///
    /// # Errors
    /// The problem of the parts that failed, which says of each item whether it is recorded.
    pub(super) async fn record_batch<D>(
        &self,
        streams: &Streams<D>,
        cause: &Cause,
        items: &CheckedItems,
        parts: Vec<BatchPart<D::Command>>,
        progress: &RequestProgress,
    ) -> Result<RecordedBatch, Problem>
    where
        D: Decider<Refusal: Refused> + 'static,
        D::State: Clone + Send,
        D::Command: Send + Sync,
        D::Event: TryFrom<Event> + Into<Event> + Clone,
    {
        let _guard = match cause.idempotency {
            Some(idempotency) => Some(self.engine.key_locks.acquire(idempotency.key).await),
            None => None,
        };
        if let Some(earlier) = self.engine.earlier_answer(cause).await? {
            let rejected = earlier.details.and_then(|details| serde_json::from_value(details).ok());
            return Ok(RecordedBatch {
                position: earlier.position,
                earlier_rejected: Some(rejected.unwrap_or_default()),
            });
        }
        let all = parts.iter().flat_map(|part| part.items.iter().copied());
        let mut outcome = BatchParts::of_request(progress, all);
        let executing = parts.into_iter().map(|part| async move {
            let executed = streams.execute_part(&part.stream, &part.cause, &part.command).await;
            (part.items, executed)
        });
        let mut executing = stream::iter(executing).buffer_unordered(STREAMS_AT_ONCE);
        let mut position = self.engine.head();
        let mut is_first = true;
        while let Some((items, executed)) = executing.next().await {
            match executed {
                Ok(executed) => {
                    position = if is_first { executed.position } else { position.max(executed.position) };
                    is_first = false;
                    outcome.recorded(items, executed.position);
                }
                Err(error) => {
                    let (is_begun, error) = error.into_rest();
                    let nothing = Ok((vec![false; items.len()], Position::START));
                    outcome.failed(items, problem::from_execute_error(error), is_begun, nothing);
                }
            }
        }
        if let Some(problem) = outcome.into_problem() {
            return Err(problem);
        }
        let answer = self.engine.record_answer(cause, Some(items.rejected().collect())).await?;
        let position = answer.map_or(position, |answer| answer.position);
        Ok(RecordedBatch { position, earlier_rejected: None })
    }
}
