//! A number of events of the whole log.

use std::sync::Arc;

use event_schemas::envelope::Recorded;
use event_schemas::ids::Position;
use tonic::Status;

use super::form::Form;
use super::plan::{Direction, From};
use super::{PageSize, Reader};
use crate::EventLog;
use crate::wire::filter::Filter;
use crate::wire::node::Node;
use crate::wire::proto::event_store::client::streams::ReadResp;
use crate::wire::refusal::Refusal;

/// Reads the log from a position on: forwards that one included, backwards not.
#[derive(Debug)]
pub(in crate::wire) struct AllEvents {
    node: Arc<Node>,
    form: Form,
    direction: Direction,
    filter: Filter,
    of_log: crate::Filter,
    left: u64,
    /// Forwards: everything up to here was looked at. Backwards: everything from here on.
    at: Position,
    /// The last event when the reading began: what comes later is not part of it.
    end: Position,
    page: PageSize,
}

impl AllEvents {
    pub(in crate::wire) fn new(
        node: Arc<Node>,
        form: Form,
        from: From<Position>,
        direction: Direction,
        count: u64,
        filter: Filter,
    ) -> Self {
        let end = *node.log.head().borrow();
        let at = match (direction, from) {
            (Direction::Forwards, From::Start) => Position::START,
            (Direction::Forwards, From::At(position)) => Position(position.0.saturating_sub(1)),
            (Direction::Forwards, From::End) => end,
            (Direction::Backwards, From::Start) => Position::START,
            (Direction::Backwards, From::At(position)) => position.min(Position(end.0 + 1)),
            (Direction::Backwards, From::End) => Position(end.0 + 1),
        };
        let of_log = filter.of_log();
        Self { node, form, direction, filter, of_log, left: count, at, end, page: PageSize::new() }
    }

    async fn page(&mut self) -> Result<Vec<Recorded>, Refusal> {
        let log = &self.node.log;
        let events = match self.direction {
            Direction::Forwards => {
                let events_max = self.page.events(self.end.0 - self.at.0);
                let mut page = log.read_all(self.at, &self.of_log, events_max).await?;
                self.at = page.next.min(self.end);
                page.events.retain(|event| event.position <= self.end);
                page.events
            }
            Direction::Backwards => {
                let events = log.read_all_back(self.at, self.page.events(u64::MAX)).await?;
                self.at = events.last().map_or(Position::START, |event| event.position);
                events
            }
        };
        self.page.learn(&events);
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
        self.node.observer.check()?;
        if self.is_over() {
            return Ok(None);
        }
        let mut answers = Vec::new();
        for recorded in self.page().await? {
            if self.left > 0 && self.filter.matches(&recorded)? {
                self.left -= 1;
                answers.push(self.form.tell(&self.node, recorded).await?);
            }
        }
        Ok(Some(answers))
    }
}
