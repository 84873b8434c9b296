//! A limited read of the whole log.

use std::sync::Arc;

use event_schemas::envelope::Recorded;
use event_schemas::ids::Position;
use tonic::Status;

use super::plan::{Direction, StartFrom};
use super::read_format::ReadFormat;
use super::{PageSize, Reader};
use crate::wire::filter::Filter;
use crate::wire::node::Node;
use crate::wire::proto::event_store::client::streams::ReadResp;
use crate::wire::refusal::Refusal;
use event_log::EventLog;

/// Reads the log from a position: inclusive forwards, exclusive backwards.
#[derive(Debug)]
pub(in crate::wire) struct AllEvents {
    node: Arc<Node>,
    format: ReadFormat,
    direction: Direction,
    filter: Filter,
    log_filter: event_log::Filter,
    left: u64,
    /// Forwards: events up to here were read. Backwards: events from here on were read.
    at: Position,
    /// The head when the read started; later events are not included.
    end: Position,
    page: PageSize,
}

impl AllEvents {
    pub(in crate::wire) fn new(
        node: Arc<Node>,
        format: ReadFormat,
        from: StartFrom<Position>,
        direction: Direction,
        count: u64,
        filter: Filter,
    ) -> Self {
        let end = *node.log.head().borrow();
        let at = match (direction, from) {
            (Direction::Forwards, StartFrom::Start) => Position::START,
            (Direction::Forwards, StartFrom::At(position)) => Position(position.0.saturating_sub(1)),
            (Direction::Forwards, StartFrom::End) => end,
            (Direction::Backwards, StartFrom::Start) => Position::START,
            (Direction::Backwards, StartFrom::At(position)) => position.min(Position(end.0 + 1)),
            (Direction::Backwards, StartFrom::End) => Position(end.0 + 1),
        };
        let log_filter = filter.log_filter();
        Self { node, format, direction, filter, log_filter, left: count, at, end, page: PageSize::new() }
    }

    async fn page(&mut self) -> Result<Vec<Recorded>, Refusal> {
        let log = &self.node.log;
        let events = match self.direction {
            Direction::Forwards => {
                let events_max = self.page.events(self.end.0 - self.at.0);
                let mut page = log.read_all(self.at, &self.log_filter, events_max).await?;
                self.at = page.next.min(self.end);
                page.events.retain(|event| event.position <= self.end);
                page.events
            }
            Direction::Backwards => {
                let events = log.read_all_backwards(self.at, self.page.events(u64::MAX)).await?;
                self.at = events.last().map_or(Position::START, |event| event.position);
                events
            }
        };
        self.page.adapt(&events);
        Ok(events)
    }

    fn is_over(&self) -> bool {
        let nothing_left = match self.direction {
            Direction::Forwards => self.at >= self.end,
            Direction::Backwards => self.at <= Position(1),
        };
        self.left == 0 || nothing_left
    }
}

impl Reader for AllEvents {
    async fn next(&mut self) -> Result<Option<Vec<ReadResp>>, Status> {
        self.node.server_state.check()?;
        if self.is_over() {
            return Ok(None);
        }
        let mut answers = Vec::new();
        for recorded in self.page().await? {
            if self.left > 0 && self.filter.matches(&recorded)? {
                self.left -= 1;
                answers.push(self.format.convert(&self.node, recorded).await?);
            }
        }
        Ok(Some(answers))
    }
}
