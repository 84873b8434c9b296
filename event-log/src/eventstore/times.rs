//! When things were recorded, as seen by one reader of the whole log from its start.
//!
//! A cluster's events carry the clock of the node that took them, which may go back: the clock was set, or another node
//! leads. The contract says that times never go back, so an event is shown with the latest time before it if its own is
//! earlier. The stretches of the log where that happened are remembered, few and short with clocks that are kept right;
//! so a single event, read from its stream, is shown with the same time as in the order of all.

use std::collections::VecDeque;

use event_schemas::ids::Position;
use event_schemas::time::Timestamp;

/// Every so many events one position is kept. Reading may begin there, and finding an instant reads as many.
const MARK_EVERY: u64 = 1024;

/// Of so many of the latest events the time is kept: who appends one asks for it at once.
const RECENT_MAX: usize = 65_536;

/// What has been learned about the log up to some position.
#[derive(Debug, Default)]
pub(super) struct Times {
    events: u64,
    head: Position,
    latest: Timestamp,
    marks: Vec<Point>,
    setbacks: Vec<Setback>,
    recent: VecDeque<Point>,
}

/// An event's place and the time that it is shown with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Point {
    position: Position,
    at: Timestamp,
}

/// A stretch of the log with clocks behind `at`, which was the latest time before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Setback {
    first: Position,
    last: Position,
    at: Timestamp,
}

/// Where the last event by some instant is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Here(Position),
    /// At this event or up to [`MARK_EVERY`] behind it.
    From(Position),
}

impl Times {
    /// Takes in the next event of the log, and answers the time that it is shown with.
    pub(super) fn learn(&mut self, position: Position, created: Timestamp) -> Timestamp {
        if created < self.latest && self.events > 0 {
            match self.setbacks.last_mut() {
                Some(setback) if setback.at == self.latest => setback.last = position,
                _ => self.setbacks.push(Setback { first: position, last: position, at: self.latest }),
            }
        }
        self.latest = if self.events == 0 { created } else { self.latest.max(created) };
        let point = Point { position, at: self.latest };
        if self.events.is_multiple_of(MARK_EVERY) {
            self.marks.push(point);
        }
        self.recent.push_back(point);
        if self.recent.len() > RECENT_MAX {
            self.recent.pop_front();
        }
        self.events += 1;
        self.head = position;
        self.latest
    }

    /// The time that an event is shown with. One beyond the head is shown at the latest time at least.
    pub(super) fn shown(&self, position: Position, created: Timestamp) -> Timestamp {
        if position > self.head {
            return if self.events == 0 { created } else { created.max(self.latest) };
        }
        let index = self.setbacks.partition_point(|setback| setback.last < position);
        match self.setbacks.get(index) {
            Some(setback) if setback.first <= position => created.max(setback.at),
            _ => created,
        }
    }

    /// The time of one of the latest events.
    pub(super) fn of_recent(&self, position: Position) -> Option<Timestamp> {
        let index = self.recent.binary_search_by_key(&position, |point| point.position).ok()?;
        self.recent.get(index).map(|point| point.at)
    }

    /// A position at or before this one from which a cluster can surely be read; none if only its start is.
    pub(super) fn start_for(&self, position: Position) -> Option<Position> {
        if self.of_recent(position).is_some() {
            return Some(position);
        }
        let index = self.marks.partition_point(|mark| mark.position <= position);
        self.marks.get(index.checked_sub(1)?).map(|mark| mark.position)
    }

    /// Where the last event by `at` is.
    pub(super) fn place_at(&self, at: Timestamp) -> Place {
        if at >= self.latest {
            return Place::Here(self.head);
        }
        if self.recent.front().is_some_and(|oldest| oldest.at <= at) {
            let index = self.recent.partition_point(|point| point.at <= at);
            let last = index.checked_sub(1).and_then(|index| self.recent.get(index));
            return Place::Here(last.map_or(Position::START, |point| point.position));
        }
        let index = self.marks.partition_point(|mark| mark.at <= at);
        match index.checked_sub(1).and_then(|index| self.marks.get(index)) {
            Some(mark) => Place::From(mark.position),
            // The first event is a mark, so all are later.
            None => Place::Here(Position::START),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    #[test]
    fn a_clock_that_goes_back_is_shown_as_standing_still_until_it_has_caught_up() {
        let mut times = Times::default();
        let created = [10, 20, 5, 7, 20, 19, 21, 21, 3];
        for (n, created) in (1..).zip(created) {
            times.learn(Position(n * 10), at(created));
        }
        let shown: Vec<i64> = (1..)
            .zip(created)
            .map(|(n, created)| times.shown(Position(n * 10), at(created)).micros())
            .collect();
        assert_eq!(shown, [10, 20, 20, 20, 20, 20, 21, 21, 21]);
        assert_eq!(times.setbacks.len(), 2);
    }

    proptest! {
        /// Against a list of all events with the running maximum.
        #[test]
        fn times_agree_with_a_plain_list(
            steps in proptest::collection::vec((1_u64..400, -50_i64..100), 1..6000),
            asked in proptest::collection::vec(0_u64..1_000_000, 20),
        ) {
            let mut times = Times::default();
            let (mut position, mut created, mut list) = (0, 0, Vec::new());
            for (gap, step) in steps {
                position += gap;
                created += step;
                times.learn(Position(position), at(created));
                let latest = list.last().map_or(created, |(_, _, latest): &(u64, i64, i64)| created.max(*latest));
                list.push((position, created, latest));
            }
            for (position, created, latest) in &list {
                prop_assert_eq!(times.shown(Position(*position), at(*created)), at(*latest));
            }
            for asked in asked {
                let start = times.start_for(Position(asked)).map_or(0, |start| start.0);
                prop_assert!(start <= asked);
                prop_assert!(start == 0 || list.iter().any(|(position, ..)| *position == start));
                let instant = at(asked as i64 % (created.max(1)));
                let last = list.iter().rev().find(|(.., latest)| at(*latest) <= instant).map_or(0, |found| found.0);
                match times.place_at(instant) {
                    Place::Here(position) => prop_assert_eq!(position, Position(last)),
                    Place::From(position) => prop_assert!(position <= Position(last)),
                }
            }
        }
    }
}
