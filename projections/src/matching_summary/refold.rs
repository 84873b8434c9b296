//! The fold of a job made anew from the log, for now or for any earlier position.

use std::sync::Arc;

use domain::matching::summary::JobFold;
use domain::worker::presence::Presence;
use event_log::{EventLog, Filter, Log, ReadError};
use event_schemas::envelope::{Event, Unreadable};
use event_schemas::ids::{JobId, Position, Revision, Tenant};
use event_schemas::matching::MatchingEvent;
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;

use super::hot::{CountedFold, Folded};

/// How many events are read at once.
const PAGE_EVENTS: usize = 4096;

/// The log did not give what is to be folded.
#[derive(Debug, thiserror::Error)]
pub enum RefoldError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error("the fold broke off: {0}; the server's log has the details")]
    BrokenOff(#[from] tokio::task::JoinError),
}

/// Up to where a job is folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpTo {
    /// All that is durable now.
    Head,
    /// Nothing beyond this position.
    Position(Position),
    /// Nothing that was recorded after this instant.
    Instant(Timestamp),
}

/// Where a fold begins: at the start, or from what was folded before.
#[derive(Clone, Debug)]
pub(super) struct Base {
    pub(super) counted: CountedFold,
    pub(super) position: Position,
}

impl Default for Base {
    fn default() -> Self {
        Self { counted: CountedFold { fold: Arc::default(), events: 0 }, position: Position::START }
    }
}

/// Whose the job is; none if it was not created at or before `upto`.
pub(super) async fn tenant_of(log: &Log, job: JobId, upto: Position) -> Result<Option<Tenant>, RefoldError> {
    let first = log.read_stream(&StreamId::job(job), Revision(0), 1).await?;
    match first.first() {
        Some(event) if event.position <= upto => Ok(Some(event.metadata()?.tenant)),
        _ => Ok(None),
    }
}

/// Folds on from `base`, up to and including `upto`. O(events of the job and of the tenant's workers).
pub(super) async fn fold_on(
    log: &Log,
    job: JobId,
    tenant: &Tenant,
    base: Base,
    upto: Position,
) -> Result<(CountedFold, Folded), RefoldError> {
    let prefixes = vec![StreamId::job(job).to_string(), StreamId::matching(job).to_string()];
    let CountedFold { fold, events } = base.counted;
    let fold = Arc::unwrap_or_clone(fold);
    let (fold, events) = over(log, prefixes, base.position, upto, (fold, events), |state, envelope| {
        let (fold, events): &mut (JobFold, u64) = state;
        // The prefix of a stream is that of the job's shards, too, and of no other job.
        fold.apply(envelope);
        *events += 1;
    })
    .await?;
    let workers = vec![StreamId::workers_prefix(tenant)];
    let presence = over(log, workers, Position::START, upto, Presence::default(), |presence, envelope| {
        presence.apply(envelope);
    })
    .await?;
    let fold = Arc::new(fold);
    let folded = Folded { fold: Arc::clone(&fold), presence: Arc::new(presence), position: upto };
    Ok((CountedFold { fold, events }, folded))
}

/// The scores between two, both included, of the job's matches up to `upto`, from the log.
pub(super) async fn scores(
    log: &Log,
    job: JobId,
    range: std::ops::RangeInclusive<f64>,
    upto: Position,
) -> Result<Vec<f64>, RefoldError> {
    let shards = vec![format!("{}.", StreamId::matching(job))];
    over(log, shards, Position::START, upto, Vec::new(), move |scores, envelope| {
        if let Event::Matching(MatchingEvent::MatchFound(found)) = &envelope.event
            && range.contains(&found.score.get())
        {
            scores.push(found.score.get());
        }
    })
    .await
}

/// Applies all events of some streams between two positions, in their order.
async fn over<S: Send + 'static>(
    log: &Log,
    prefixes: Vec<String>,
    mut after: Position,
    upto: Position,
    mut state: S,
    apply: impl Fn(&mut S, &event_schemas::envelope::Envelope) + Clone + Send + 'static,
) -> Result<S, RefoldError> {
    let filter = Filter::StreamPrefixes(prefixes);
    while after < upto {
        let page = log.read_all(after, &filter, PAGE_EVENTS).await?;
        after = page.next;
        let (events, at_head) = (page.events, page.at_head);
        if !events.is_empty() {
            let apply = apply.clone();
            // A page takes milliseconds, which others on this thread need not wait.
            state = tokio::task::spawn_blocking(move || -> Result<S, Unreadable> {
                for event in events.iter().take_while(|event| event.position <= upto) {
                    apply(&mut state, &event.decode()?);
                }
                Ok(state)
            })
            .await??;
        }
        if at_head {
            break;
        }
    }
    Ok(state)
}

/// When the event at the position was recorded; none if there is no event at just this position.
pub(super) async fn recorded_at(log: &Log, position: Position) -> Result<Option<Timestamp>, RefoldError> {
    let before = Position(position.0.saturating_sub(1));
    let page = log.read_all(before, &Filter::All, 1).await?;
    Ok(page.events.first().filter(|event| event.position == position).map(|event| event.recorded_at))
}
