//! The metrics of the log.

use std::time::Duration;

use event_schemas::ids::Position;

pub(super) fn synced(took: Duration, events: u32, bytes: usize) {
    metrics::histogram!("matchbook_log_sync_seconds").record(took.as_secs_f64());
    metrics::histogram!("matchbook_log_group_events").record(f64::from(events));
    metrics::counter!("matchbook_log_events_appended_total").increment(u64::from(events));
    metrics::counter!("matchbook_log_bytes_appended_total").increment(bytes as u64);
}

pub(super) fn head(head: Position) {
    metrics::gauge!("matchbook_log_head_position").set(head.0 as f64);
}

pub(super) fn segments(segments: usize) {
    metrics::gauge!("matchbook_log_segments").set(segments as f64);
}
