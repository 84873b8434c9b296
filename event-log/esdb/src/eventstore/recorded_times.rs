//! The recorded times of events, collected by one reader of the whole log from its start.
//!
//! A cluster's events have the time of the node that accepted them, which may decrease: a clock was set back, or another node
//! became the leader. The contract requires that times never decrease, so an event with an earlier time gets the latest time
//! before it. The ranges of the log where that happened are kept; they are few and short if the clocks are synchronised. So
//! an event that is read from its stream has the same time as in the order of the whole log.

use std::collections::VecDeque;

use event_schemas::ids::Position;
use event_schemas::time::Timestamp;

/// One position is kept for every so many events. A read can start there, and the lookup of an instant scans as many.
const MARK_EVERY: u64 = 1024;

/// The number of latest events whose times are kept: each append looks up the time of its event.
const RECENT_MAX: usize = 65_536;

/// The recorded times of the log up to its head.
#[derive(Debug, Default)]
pub(super) struct RecordedTimes {
    events: u64,
    head: Position,
    latest: Timestamp,
    marks: Vec<TimePoint>,
    setbacks: Vec<Setback>,
    recent: VecDeque<TimePoint>,
}

/// An event's position and its recorded time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TimePoint {
    position: Position,
    at: Timestamp,
}

/// A range of the log whose clocks are behind `at`, the latest time before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Setback {
    first: Position,
    last: Position,
    at: Timestamp,
}

/// The position of the last event at or before an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PositionLookup {
    Exact(Position),
    /// The event is this one or one of the next [`MARK_EVERY`].
    ScanFrom(Position),
}

impl RecordedTimes {
    /// Adds the next event of the log, and returns its recorded time.
    pub(super) fn observe(&mut self, position: Position, created: Timestamp) -> Timestamp {
        if created < self.latest && self.events > 0 {
            match self.setbacks.last_mut() {
                Some(setback) if setback.at == self.latest => setback.last = position,
                _ => self.setbacks.push(Setback { first: position, last: position, at: self.latest }),
            }
        }
        self.latest = if self.events == 0 { created } else { self.latest.max(created) };
        let point = TimePoint { position, at: self.latest };
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

    /// The recorded time of an event. An event beyond the head has at least the latest time.
    pub(super) fn recorded_at(&self, position: Position, created: Timestamp) -> Timestamp {
        if position > self.head {
            return if self.events == 0 { created } else { created.max(self.latest) };
        }
        let index = self.setbacks.partition_point(|setback| setback.last < position);
        match self.setbacks.get(index) {
            Some(setback) if setback.first <= position => created.max(setback.at),
            _ => created,
        }
    }

    /// The recorded time of one of the latest events.
    pub(super) fn recent(&self, position: Position) -> Option<Timestamp> {
        let index = self.recent.binary_search_by_key(&position, |point| point.position).ok()?;
        self.recent.get(index).map(|point| point.at)
    }

    /// A position at or before this one that is known to be readable in the cluster; `None` if only the start is.
    pub(super) fn start_for(&self, position: Position) -> Option<Position> {
        if self.recent(position).is_some() {
            return Some(position);
        }
        let index = self.marks.partition_point(|mark| mark.position <= position);
        self.marks.get(index.checked_sub(1)?).map(|mark| mark.position)
    }

    /// Looks up the last event at or before `at`.
    pub(super) fn position_at(&self, at: Timestamp) -> PositionLookup {
        if at >= self.latest {
            return PositionLookup::Exact(self.head);
        }
        if self.recent.front().is_some_and(|oldest| oldest.at <= at) {
            let index = self.recent.partition_point(|point| point.at <= at);
            let last = index.checked_sub(1).and_then(|index| self.recent.get(index));
            return PositionLookup::Exact(last.map_or(Position::START, |point| point.position));
        }
        let index = self.marks.partition_point(|mark| mark.at <= at);
        match index.checked_sub(1).and_then(|index| self.marks.get(index)) {
            Some(mark) => PositionLookup::ScanFrom(mark.position),
            // The first event is a mark, so all events are later.
            None => PositionLookup::Exact(Position::START),
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
    fn a_clock_set_back_repeats_the_latest_time_until_it_catches_up() {
        let mut times = RecordedTimes::default();
        let created = [10, 20, 5, 7, 20, 19, 21, 21, 3];
        for (n, created) in (1..).zip(created) {
            times.observe(Position(n * 10), at(created));
        }
        let recorded_at: Vec<i64> = (1..)
            .zip(created)
            .map(|(n, created)| times.recorded_at(Position(n * 10), at(created)).micros())
            .collect();
        assert_eq!(recorded_at, [10, 20, 20, 20, 20, 20, 21, 21, 21]);
        assert_eq!(times.setbacks.len(), 2);
    }

    proptest! {
        /// Compares with a list of all events and the running maximum of their times.
        #[test]
        fn times_match_a_plain_list(
            steps in proptest::collection::vec((1_u64..400, -50_i64..100), 1..6000),
            queried in proptest::collection::vec(0_u64..1_000_000, 20),
        ) {
            let mut times = RecordedTimes::default();
            let (mut position, mut created, mut list) = (0, 0, Vec::new());
            for (gap, step) in steps {
                position += gap;
                created += step;
                times.observe(Position(position), at(created));
                let latest = list.last().map_or(created, |(_, _, latest): &(u64, i64, i64)| created.max(*latest));
                list.push((position, created, latest));
            }
            for (position, created, latest) in &list {
                prop_assert_eq!(times.recorded_at(Position(*position), at(*created)), at(*latest));
            }
            for queried in queried {
                let start = times.start_for(Position(queried)).map_or(0, |start| start.0);
                prop_assert!(start <= queried);
                prop_assert!(start == 0 || list.iter().any(|(position, ..)| *position == start));
                let instant = at(queried as i64 % (created.max(1)));
                let last = list.iter().rev().find(|(.., latest)| at(*latest) <= instant).map_or(0, |found| found.0);
                match times.position_at(instant) {
                    PositionLookup::Exact(position) => prop_assert_eq!(position, Position(last)),
                    PositionLookup::ScanFrom(position) => prop_assert!(position <= Position(last)),
                }
            }
        }
    }
}
