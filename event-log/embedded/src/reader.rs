//! Reading: the state that writer and readers share, and the queries on it.
//!
//! Everything here is synchronous. A query runs on memory first; if it needs the disk, it runs again on a thread that
//! may block.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use event_schemas::envelope::Recorded;
use event_schemas::ids::{Position, Revision};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;

use super::record::{self, EntryBody, EntryError, NameCache};
use super::segment::{Segment, SegmentFault, Window};
use super::tail::{Tail, TailGroup};
use event_log::{Filter, Page};

mod backwards;

/// The most bytes that one page reads from a segment, whether the events match or not.
const PAGE_BYTES_MAX: usize = 2 << 20;

/// The most events in memory that one page examines.
const PAGE_EXAMINED_MAX: u64 = 8192;

/// The number of bytes that are read for a single event.
const WINDOW_BYTES: usize = 4096;

/// A filter that matches more than one event in this many is applied to the whole segment in order.
const SELECTIVITY: u32 = 8;

/// Whether a query may wait for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Memory,
    Disk,
}

/// The log as readers see it. Only the writer changes it, and only after a sync.
#[derive(Debug)]
pub(super) struct LogView {
    /// All segments, oldest first; the last one is the active one. Never empty.
    segments: RwLock<Arc<[Arc<Segment>]>>,
    tail: RwLock<Tail>,
    durable: AtomicU64,
    /// The recorded time of the last durable event.
    recorded_at: AtomicI64,
}

impl LogView {
    pub(super) fn new(
        segments: Vec<Arc<Segment>>,
        durable: Position,
        recorded_at: Timestamp,
        tail_bytes: usize,
    ) -> Self {
        Self {
            segments: RwLock::new(segments.into()),
            tail: RwLock::new(Tail::new(tail_bytes)),
            durable: AtomicU64::new(durable.0),
            recorded_at: AtomicI64::new(recorded_at.micros()),
        }
    }

    pub(super) fn segments(&self) -> Arc<[Arc<Segment>]> {
        Arc::clone(&self.segments.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn durable(&self) -> Position {
        Position(self.durable.load(Ordering::Acquire))
    }

    pub(super) fn recorded_at(&self) -> Timestamp {
        Timestamp::from_micros(self.recorded_at.load(Ordering::Acquire))
    }

    /// Adds an empty segment after the last one.
    pub(super) fn add_segment(&self, segment: Arc<Segment>) {
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        *segments = segments.iter().cloned().chain([segment]).collect();
    }

    /// Makes a durable group visible to readers. Its segment's index must contain it already.
    pub(super) fn publish(&self, group: TailGroup) {
        let Some(last) = group.events.last() else { return };
        let (position, recorded_at) = (last.position, last.recorded_at);
        let group = Arc::new(group);
        let evicted = self.tail.write().unwrap_or_else(PoisonError::into_inner).push(group);
        self.recorded_at.store(recorded_at.micros(), Ordering::Release);
        self.durable.store(position.0, Ordering::Release);
        drop(evicted);
    }

    /// The last revision of a stream.
    pub(super) fn last_revision(
        &self,
        stream: &StreamId,
        access: Access,
    ) -> Result<Option<Revision>, SegmentFault> {
        for segment in self.segments().iter().rev() {
            if let Some(run) = segment.run(stream, access == Access::Disk)? {
                return Ok(Some(run.last()));
            }
        }
        Ok(None)
    }

    /// The events of a stream from a revision on.
    pub(super) fn stream(
        &self,
        stream: &StreamId,
        from: Revision,
        events_max: usize,
        access: Access,
    ) -> Result<Vec<Recorded>, SegmentFault> {
        let durable = self.durable();
        let segments = self.segments();
        let mut runs = Vec::new();
        for segment in segments.iter().rev() {
            if let Some(run) = segment.run(stream, access == Access::Disk)? {
                if run.last() < from {
                    break;
                }
                runs.push((segment, run));
                if run.first <= from {
                    break;
                }
            }
        }
        let mut events = Vec::new();
        let mut names = NameCache::new();
        for (segment, run) in runs.into_iter().rev() {
            let skip = u32::try_from(from.0.saturating_sub(run.first.0)).unwrap_or(u32::MAX);
            let left = events_max - events.len();
            if access == Access::Memory && segment.index_file().is_some() {
                return Err(SegmentFault::NeedsDisk);
            }
            let ordinals = segment.ordinals(stream, skip, left)?;
            let first = events.len();
            self.gather(segment, &ordinals, access, &mut names, &mut events)?;
            let revisions = run.first.0 + u64::from(skip)..;
            for (revision, event) in revisions.zip(&events[first..]) {
                if event.stream != *stream || event.revision.0 != revision {
                    let ordinal = u32::try_from(event.position.0 - segment.first().0).unwrap_or(u32::MAX);
                    return Err(
                        segment.damaged(segment.offset(ordinal)?, "the event does not belong to its stream")
                    );
                }
            }
        }
        let durable_events = events.partition_point(|event| event.position <= durable);
        events.truncate(durable_events);
        Ok(events)
    }

    /// Appends the segment's events at `ordinals` to `events`.
    fn gather(
        &self,
        segment: &Segment,
        ordinals: &[u32],
        access: Access,
        names: &mut NameCache,
        events: &mut Vec<Recorded>,
    ) -> Result<(), SegmentFault> {
        let mut window = Window::new(WINDOW_BYTES);
        for ordinal in ordinals {
            let position = Position(segment.first().0 + u64::from(*ordinal));
            let kept = self.tail.read().unwrap_or_else(PoisonError::into_inner).at(position);
            match (kept, access) {
                (Some(event), _) => events.push(event),
                (None, Access::Disk) => events.push(segment.event(*ordinal, &mut window, names)?),
                (None, Access::Memory) => return Err(SegmentFault::NeedsDisk),
            }
        }
        Ok(())
    }

    /// The events after `after` that pass the filter.
    pub(super) fn page(
        &self,
        after: Position,
        filter: &Filter,
        events_max: usize,
        access: Access,
    ) -> Result<Page, SegmentFault> {
        let durable = self.durable();
        if after >= durable || events_max == 0 {
            return Ok(Page { events: Vec::new(), next: after, at_head: after >= durable });
        }
        let examined_max = usize::try_from(PAGE_EXAMINED_MAX).unwrap_or(usize::MAX).max(events_max);
        let groups = self.tail.read().unwrap_or_else(PoisonError::into_inner).after(after, examined_max);
        let (events, next) = match (groups, access) {
            (Some(groups), _) => page_of_groups(&groups, after, durable, filter, events_max),
            (None, Access::Memory) => return Err(SegmentFault::NeedsDisk),
            (None, Access::Disk) => self.page_of_segments(after, durable, filter, events_max)?,
        };
        Ok(Page { events, next, at_head: next >= durable })
    }

    fn page_of_segments(
        &self,
        after: Position,
        durable: Position,
        filter: &Filter,
        events_max: usize,
    ) -> Result<(Vec<Recorded>, Position), SegmentFault> {
        let segments = self.segments();
        let mut search =
            Search { events: Vec::new(), events_max, next: after, durable, names: NameCache::new() };
        let start = segments.partition_point(|segment| segment.first() <= Position(after.0 + 1)) - 1;
        for segment in &segments[start..] {
            let whole = match (filter, segment.index_file()) {
                (Filter::StreamPrefixes(prefixes), Some(index)) => {
                    match select_by_prefix(&index, prefixes) {
                        Ok(Some(ordinals)) => search.add_selected(segment, &ordinals, index.count())?,
                        // A damaged index is rebuilt by the reads that need it.
                        Ok(None) | Err(SegmentFault::Damaged(_)) => search.scan(segment, filter)?,
                        Err(fault) => return Err(fault),
                    }
                }
                _ => search.scan(segment, filter)?,
            };
            if !whole || search.next >= durable {
                break;
            }
        }
        Ok((search.events, search.next))
    }

    /// The last position that was recorded at or before `at`.
    pub(super) fn position_at(&self, at: Timestamp, access: Access) -> Result<Position, SegmentFault> {
        let durable = self.durable();
        if durable == Position::START || at >= self.recorded_at() {
            return Ok(durable);
        }
        if access == Access::Memory {
            return Err(SegmentFault::NeedsDisk);
        }
        let segments = self.segments();
        // No event precedes the first segment, whatever time its header has.
        let later = segments.partition_point(|segment| segment.header.recorded_before <= at).max(1);
        let segment = &segments[later - 1];
        let (mut low, mut high) = (0, segment.count());
        let (mut window, mut names) = (Window::new(WINDOW_BYTES), NameCache::new());
        while low < high {
            let middle = u32::midpoint(low, high);
            if segment.event(middle, &mut window, &mut names)?.recorded_at <= at {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(Position(segment.first().0 + u64::from(low) - 1).min(durable))
    }
}

/// The events of a sealed segment whose streams have one of these prefixes; `None` if a full scan is cheaper.
fn select_by_prefix(
    index: &super::index::IndexFile,
    prefixes: &[String],
) -> Result<Option<Vec<u32>>, SegmentFault> {
    let mut ranges = Vec::new();
    for prefix in prefixes {
        ranges.push(index.with_prefix(prefix)?);
    }
    let total: usize = ranges.iter().map(ExactSizeIterator::len).sum();
    if total > (index.count() / SELECTIVITY) as usize {
        return Ok(None);
    }
    let mut ordinals = Vec::with_capacity(total);
    for range in ranges {
        ordinals.extend(index.ordinals(range, usize::MAX)?);
    }
    // Prefixes may overlap.
    ordinals.sort_unstable();
    ordinals.dedup();
    Ok(Some(ordinals))
}

fn page_of_groups(
    groups: &[Arc<TailGroup>],
    after: Position,
    durable: Position,
    filter: &Filter,
    events_max: usize,
) -> (Vec<Recorded>, Position) {
    let last_examined = Position(after.0 + PAGE_EXAMINED_MAX.max(events_max as u64)).min(durable);
    let mut events = Vec::new();
    for group in groups {
        let start = group.events.partition_point(|event| event.position <= after);
        for event in &group.events[start..] {
            if event.position > last_examined {
                return (events, last_examined);
            }
            if filter.matches(&event.stream) {
                events.push(event.clone());
                if events.len() == events_max {
                    return (events, event.position);
                }
            }
        }
    }
    (events, last_examined)
}

/// A page that is being filled from segments.
struct Search {
    events: Vec<Recorded>,
    events_max: usize,
    /// The position up to which events were examined.
    next: Position,
    durable: Position,
    names: NameCache,
}

impl Search {
    /// Adds the selected events of a segment. Returns whether all of it was examined.
    fn add_selected(
        &mut self,
        segment: &Segment,
        ordinals: &[u32],
        count: u32,
    ) -> Result<bool, SegmentFault> {
        let base = segment.first().0;
        let start = ordinals.partition_point(|ordinal| base + u64::from(*ordinal) <= self.next.0);
        let mut window = Window::new(WINDOW_BYTES);
        for ordinal in &ordinals[start..] {
            let event = segment.event(*ordinal, &mut window, &mut self.names)?;
            self.next = event.position;
            self.events.push(event);
            if self.events.len() == self.events_max {
                return Ok(false);
            }
        }
        self.next = Position(base + u64::from(count) - 1);
        Ok(true)
    }

    /// Scans a segment in order from `next` on. Returns whether its end was reached.
    fn scan(&mut self, segment: &Segment, filter: &Filter) -> Result<bool, SegmentFault> {
        let count = segment.count();
        let ordinal = u32::try_from(self.next.0 + 1 - segment.first().0).unwrap_or(u32::MAX);
        if ordinal >= count {
            return Ok(true);
        }
        let mut offset = segment.offset(ordinal)?;
        let mut bytes = segment.read(offset, page_bytes(self.events_max))?;
        let mut at = 0;
        let mut examined_bytes = 0;
        let last = Position(segment.first().0 + u64::from(count) - 1).min(self.durable);
        while self.next < last {
            let entry = match record::parse(segment.seed, &bytes[at..]) {
                Ok(entry) => entry,
                Err(EntryError::Damaged(what)) => return Err(segment.damaged(offset, what)),
                Err(EntryError::Short(needed)) => {
                    if examined_bytes > 0 && examined_bytes + needed > PAGE_BYTES_MAX {
                        return Ok(false);
                    }
                    let more = segment.read(offset, page_bytes(self.events_max).max(needed))?;
                    if more.len() < needed {
                        return Err(
                            segment.damaged(offset, "the event extends beyond the end of the segment")
                        );
                    }
                    (bytes, at) = (more, 0);
                    continue;
                }
            };
            if let EntryBody::Event(view) = &entry.body {
                if view.position.0 != self.next.0 + 1 {
                    return Err(segment.damaged(offset, "the event is not at its position"));
                }
                let whole = bytes.slice(at..at + entry.length);
                if let Some(event) = self.filtered(view, &whole, filter) {
                    self.events.push(
                        event.ok_or_else(|| segment.damaged(offset, "the event's names are malformed"))?,
                    );
                }
                self.next = view.position;
                if self.events.len() == self.events_max {
                    return Ok(false);
                }
            }
            at += entry.length;
            offset += entry.length as u64;
            examined_bytes += entry.length;
        }
        Ok(true)
    }

    /// The event if it passes the filter; the inner value is `None` if the event is malformed.
    fn filtered(
        &mut self,
        view: &record::EventView,
        entry: &Bytes,
        filter: &Filter,
    ) -> Option<Option<Recorded>> {
        match filter {
            Filter::All => Some(view.recorded(entry, &mut self.names)),
            Filter::StreamPrefixes(prefixes) => {
                let name = &entry[view.stream.clone()];
                prefixes
                    .iter()
                    .any(|prefix| name.starts_with(prefix.as_bytes()))
                    // A copy, so that one event does not keep the whole page in memory.
                    .then(|| view.recorded(&Bytes::copy_from_slice(entry), &mut self.names))
            }
        }
    }
}

/// The number of bytes to read for this many events.
fn page_bytes(events_max: usize) -> usize {
    events_max.saturating_mul(512).clamp(WINDOW_BYTES, PAGE_BYTES_MAX)
}
