//! Appends the events to a log that it does not have yet.

use std::collections::VecDeque;

use event_schemas::envelope::Recorded;
use event_schemas::ids::Position;

use super::{LogDigest, LogDigestBuilder, PAGE_EVENTS, TransferError};
use event_log::{EventLog, Filter, Log};

/// The size of one import, in bytes of metadata and data.
const BATCH_BYTES: usize = 2 << 20;
const BATCH_EVENTS: usize = 4_096;

/// Appends events to a log in the order of [`Self::push`]. Events that the log has already are compared.
#[derive(Debug)]
pub struct LogCopier {
    target: Log,
    phase: CopyPhase,
    /// The position in the target before the first pushed event.
    start: Option<Position>,
    pending: Vec<Recorded>,
    pending_bytes: usize,
    found: u64,
    added: u64,
    digest: LogDigestBuilder,
}

#[derive(Debug)]
enum CopyPhase {
    /// Before the first event.
    New,
    /// Pushed events are compared with those of the target, which was read up to `after`; `ahead` is not compared yet.
    Comparing { after: Position, ahead: VecDeque<Recorded> },
    /// The target has no more events to compare.
    Appending,
}

/// The result of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyReport {
    /// The digest of all pushed events.
    pub digest: LogDigest,
    /// The number of events that the target had already.
    pub found: u64,
    pub added: u64,
    /// The position in the target before the first of the events.
    pub start: Position,
}

impl LogCopier {
    pub fn new(target: Log) -> Self {
        Self {
            target,
            phase: CopyPhase::New,
            start: None,
            pending: Vec::new(),
            pending_bytes: 0,
            found: 0,
            added: 0,
            digest: LogDigestBuilder::default(),
        }
    }

    /// The number of events pushed so far.
    pub fn events(&self) -> u64 {
        self.digest.events()
    }

    /// Adds the next event. It is durable once [`Self::finish`] has returned.
    ///
    /// # Errors
    /// [`TransferError`] if it, or one that was pushed shortly before, cannot be imported.
    pub async fn push(&mut self, event: Recorded) -> Result<(), TransferError> {
        self.digest.add(&event)?;
        if matches!(self.phase, CopyPhase::New) {
            self.phase = self.find_start(&event).await?;
        }
        if !self.is_in_target(&event).await? {
            self.pending_bytes += event.metadata.len() + event.data.len();
            self.pending.push(event);
            if self.pending_bytes >= BATCH_BYTES || self.pending.len() >= BATCH_EVENTS {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Waits until all events are in the log.
    ///
    /// # Errors
    /// [`TransferError`] if the last events cannot be imported.
    pub async fn finish(mut self) -> Result<CopyReport, TransferError> {
        self.flush().await?;
        Ok(CopyReport {
            digest: self.digest.finish(),
            found: self.found,
            added: self.added,
            start: self.start.unwrap_or(Position::START),
        })
    }

    /// Looks up the first event in the target.
    async fn find_start(&mut self, event: &Recorded) -> Result<CopyPhase, TransferError> {
        let head = *self.target.head().borrow();
        if let Some(known) =
            self.target.read_stream(&event.stream, event.revision, 1).await?.into_iter().next()
        {
            let after = Position(known.position.0.saturating_sub(1));
            self.start = Some(after);
            return Ok(CopyPhase::Comparing { after, ahead: VecDeque::new() });
        }
        // Whether the event continues the target is only known if positions have no gaps.
        if head > Position::START && event.position.0 != head.0 + 1 {
            return Err(TransferError::NotEmpty { head });
        }
        self.start = Some(head);
        Ok(CopyPhase::Appending)
    }

    /// Whether the target has the event as its next one.
    async fn is_in_target(&mut self, event: &Recorded) -> Result<bool, TransferError> {
        let CopyPhase::Comparing { after, ahead } = &mut self.phase else { return Ok(false) };
        while ahead.is_empty() {
            let page = self.target.read_all(*after, &Filter::All, PAGE_EVENTS).await?;
            *after = page.next;
            ahead.extend(page.events);
            if ahead.is_empty() && page.at_head {
                self.phase = CopyPhase::Appending;
                return Ok(false);
            }
        }
        match ahead.pop_front() {
            Some(known) if same(&known, event) => {
                self.found += 1;
                Ok(true)
            }
            Some(known) => Err(TransferError::Differs {
                target: known.position,
                stream: known.stream,
                revision: known.revision,
            }),
            None => Ok(false),
        }
    }

    async fn flush(&mut self) -> Result<(), TransferError> {
        let events = std::mem::take(&mut self.pending);
        self.pending_bytes = 0;
        let count = events.len() as u64;
        if count > 0 {
            self.target.import(events).await?;
            self.added += count;
        }
        Ok(())
    }
}

/// Whether the events of two logs are the same, except for their positions.
fn same(one: &Recorded, other: &Recorded) -> bool {
    (&one.stream, one.revision, one.id, &one.event_type)
        == (&other.stream, other.revision, other.id, &other.event_type)
        && (one.recorded_at, &one.metadata, &one.data) == (other.recorded_at, &other.metadata, &other.data)
}
