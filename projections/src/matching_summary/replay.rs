//! The replay of a job from the log, up to now or to any earlier position.

use std::sync::Arc;

use domain::image_matching::summary::JobFold;
use domain::worker::presence::Presence;
use event_log::{EventLog, Filter, Log, ReadError};
use event_schemas::envelope::{Event, EventDecoder, Unreadable};
use event_schemas::ids::{JobId, Position, Revision, Tenant};
use event_schemas::image_match::ImageMatchEvent;
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;

use super::fold_cache::{CountedFold, FoldedJob};

/// The number of events that are read at once.
const PAGE_EVENTS: usize = 4096;

/// The events of a job cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error("the replay panicked: {0}; see the server's log for details")]
    Panicked(#[from] tokio::task::JoinError),
}

/// The end of a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpTo {
    /// The durable head of the log.
    Head,
    /// The event at this position, inclusive.
    Position(Position),
    /// The last event that was recorded at or before this instant.
    Instant(Timestamp),
}

/// The start of a replay: an empty fold or a snapshot.
#[derive(Clone, Debug)]
pub(super) struct ReplayBase {
    pub(super) counted: CountedFold,
    pub(super) position: Position,
}

impl Default for ReplayBase {
    fn default() -> Self {
        Self { counted: CountedFold { fold: Arc::default(), events: 0 }, position: Position::START }
    }
}

/// The job's tenant; none if the job was not created at or before `upto`.
pub(super) async fn tenant_of(log: &Log, job: JobId, upto: Position) -> Result<Option<Tenant>, ReplayError> {
    let first = log.read_stream(&StreamId::job(job), Revision(0), 1).await?;
    match first.first() {
        Some(event) if event.position <= upto => Ok(Some(event.metadata()?.tenant)),
        _ => Ok(None),
    }
}

/// Continues from `base`, up to and including `upto`. O(events of the job and of the tenant's workers).
pub(super) async fn replay_from(
    log: &Log,
    job: JobId,
    tenant: &Tenant,
    base: ReplayBase,
    upto: Position,
) -> Result<(CountedFold, FoldedJob), ReplayError> {
    let prefixes = vec![StreamId::job(job).to_string(), StreamId::image_matching(job).to_string()];
    let CountedFold { fold, events } = base.counted;
    let fold = Arc::unwrap_or_clone(fold);
    let (fold, events) =
        for_each_event(log, prefixes, base.position, upto, (fold, events), |state, envelope| {
            let (fold, events): &mut (JobFold, u64) = state;
            // The prefix also matches the job's shards, and no other job.
            fold.apply(envelope);
            *events += 1;
        })
        .await?;
    let workers = vec![StreamId::workers_prefix(tenant)];
    let presence =
        for_each_event(log, workers, Position::START, upto, Presence::default(), |presence, envelope| {
            presence.apply(envelope);
        })
        .await?;
    let fold = Arc::new(fold);
    let folded = FoldedJob { fold: Arc::clone(&fold), presence: Arc::new(presence), position: upto };
    Ok((CountedFold { fold, events }, folded))
}

/// Reads the scores in the range of the job's matches up to `upto` from the log.
pub(super) async fn scores(
    log: &Log,
    job: JobId,
    range: std::ops::RangeInclusive<f64>,
    upto: Position,
) -> Result<Vec<f64>, ReplayError> {
    let shards = vec![format!("{}.", StreamId::image_matching(job))];
    for_each_event(log, shards, Position::START, upto, Vec::new(), move |scores, envelope| {
        if let Event::ImageMatch(ImageMatchEvent::MatchFound(found)) = &envelope.event
            && range.contains(&found.score.get())
        {
            scores.push(found.score.get());
        }
    })
    .await
}

/// Applies all events of the streams with some prefixes between two positions, in order.
pub(crate) async fn for_each_event<S: Send + 'static>(
    log: &Log,
    prefixes: Vec<String>,
    mut after: Position,
    upto: Position,
    mut state: S,
    apply: impl Fn(&mut S, &event_schemas::envelope::Envelope) + Clone + Send + 'static,
) -> Result<S, ReplayError> {
    let filter = Filter::StreamPrefixes(prefixes);
    while after < upto {
        let page = log.read_all(after, &filter, PAGE_EVENTS).await?;
        after = page.next;
        let (events, at_head) = (page.events, page.at_head);
        if !events.is_empty() {
            let apply = apply.clone();
            // A page takes milliseconds, so it is applied on the blocking pool.
            state = tokio::task::spawn_blocking(move || -> Result<S, Unreadable> {
                let mut decoder = EventDecoder::default();
                for event in events.iter().take_while(|event| event.position <= upto) {
                    apply(&mut state, &decoder.decode(event)?);
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

/// The time at which the event at the position was recorded; none if there is no event at exactly this position.
pub(super) async fn recorded_at(log: &Log, position: Position) -> Result<Option<Timestamp>, ReplayError> {
    let before = Position(position.0.saturating_sub(1));
    let page = log.read_all(before, &Filter::All, 1).await?;
    Ok(page.events.first().filter(|event| event.position == position).map(|event| event.recorded_at))
}
