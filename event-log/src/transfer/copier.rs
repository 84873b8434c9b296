//! Adding to a log what it does not hold yet.

use std::collections::VecDeque;

use event_schemas::envelope::Recorded;
use event_schemas::ids::Position;

use super::{PAGE_EVENTS, Sum, Summing, TransferError};
use crate::{EventLog, Filter, Log};

/// As much is given to the log at once, in bytes of metadata and data.
const BATCH_BYTES: usize = 2 << 20;
const BATCH_EVENTS: usize = 4_096;

/// Puts events into a log in the order in which it is given them. Those that the log holds already are compared.
#[derive(Debug)]
pub struct Copier {
    target: Log,
    state: State,
    /// Behind this position the target has the first event that was given.
    begin: Option<Position>,
    pending: Vec<Recorded>,
    pending_bytes: usize,
    found: u64,
    added: u64,
    summing: Summing,
}

#[derive(Debug)]
enum State {
    /// Before the first event.
    Begun,
    /// The target has been read up to a position, and these of it not been compared.
    Comparing { after: Position, ahead: VecDeque<Recorded> },
    /// The target holds nothing that was not given.
    Adding,
}

/// What came of a copying.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Of all events that were given.
    pub sum: Sum,
    /// That the log held before.
    pub found: u64,
    pub added: u64,
    /// Behind this position the target has them all.
    pub begin: Position,
}

impl Copier {
    pub fn new(target: Log) -> Self {
        Self {
            target,
            state: State::Begun,
            begin: None,
            pending: Vec::new(),
            pending_bytes: 0,
            found: 0,
            added: 0,
            summing: Summing::default(),
        }
    }

    /// Events that were given so far.
    pub fn events(&self) -> u64 {
        self.summing.events()
    }

    /// Takes the next event. It is in the log once [`Self::finish`] has answered.
    ///
    /// # Errors
    /// [`TransferError`] if it, or one that was given shortly before, cannot be put into the log.
    pub async fn give(&mut self, event: Recorded) -> Result<(), TransferError> {
        self.summing.add(&event)?;
        if matches!(self.state, State::Begun) {
            self.state = self.begin(&event).await?;
        }
        if !self.is_there(&event).await? {
            self.pending_bytes += event.metadata.len() + event.data.len();
            self.pending.push(event);
            if self.pending_bytes >= BATCH_BYTES || self.pending.len() >= BATCH_EVENTS {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Waits until all is in the log.
    ///
    /// # Errors
    /// [`TransferError`] if the last events cannot be put into the log.
    pub async fn finish(mut self) -> Result<Copied, TransferError> {
        self.flush().await?;
        Ok(Copied {
            sum: self.summing.sum(),
            found: self.found,
            added: self.added,
            begin: self.begin.unwrap_or(Position::START),
        })
    }

    /// Looks where the first event is in the target, if it is there.
    async fn begin(&mut self, event: &Recorded) -> Result<State, TransferError> {
        let head = *self.target.head().borrow();
        if let Some(known) =
            self.target.read_stream(&event.stream, event.revision, 1).await?.into_iter().next()
        {
            let after = Position(known.position.0.saturating_sub(1));
            self.begin = Some(after);
            return Ok(State::Comparing { after, ahead: VecDeque::new() });
        }
        // Whether it goes on from the log's end can be told where positions have no gaps.
        if head > Position::START && event.position.0 != head.0 + 1 {
            return Err(TransferError::NotEmpty { head });
        }
        self.begin = Some(head);
        Ok(State::Adding)
    }

    /// Whether the target has the event at this place.
    async fn is_there(&mut self, event: &Recorded) -> Result<bool, TransferError> {
        let State::Comparing { after, ahead } = &mut self.state else { return Ok(false) };
        while ahead.is_empty() {
            let page = self.target.read_all(*after, &Filter::All, PAGE_EVENTS).await?;
            *after = page.next;
            ahead.extend(page.events);
            if ahead.is_empty() && page.at_head {
                self.state = State::Adding;
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

/// Whether two logs hold the same event.
fn same(one: &Recorded, other: &Recorded) -> bool {
    (&one.stream, one.revision, one.id, &one.event_type)
        == (&other.stream, other.revision, other.id, &other.event_type)
        && (one.recorded_at, &one.metadata, &one.data) == (other.recorded_at, &other.metadata, &other.data)
}
