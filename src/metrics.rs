//! The metrics recorder of all components, and what each metric means.

use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::failure::Failure;

/// Histogram buckets in seconds, for requests and batches.
const LATENCY_BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The interval at which measured times are added to their histograms.
const UPKEEP: Duration = Duration::from_secs(5);

const COUNTERS: &[(&str, &str)] = &[
    (
        "matchbook_cache_requests_total",
        "Requests for an answer that may be kept, by cache and outcome: hit or miss.",
    ),
    (
        "matchbook_claims_total",
        "Claims of work that were decided, by outcome: claimed, or lost to another worker.",
    ),
    ("matchbook_commands_total", "Executed commands, by outcome."),
    ("matchbook_game_calls_failed_total", "Failed calls of the game service."),
    (
        "matchbook_http_stream_updates_total",
        "Updates made for live streams, each for all of its subscribers.",
    ),
    ("matchbook_leases_expired_total", "Leases that ended without a report of their worker."),
    ("matchbook_log_bytes_appended_total", "Bytes appended to the log, with padding."),
    ("matchbook_log_cluster_lost_total", "Interruptions of the subscription to the cluster."),
    ("matchbook_log_events_appended_total", "Events appended to the log."),
    ("matchbook_matches_accepted_total", "New image matches."),
    ("matchbook_matches_placed_total", "Matches of players that were confirmed."),
    (
        "matchbook_matching_summary_repairs_total",
        "Summaries that a forced refresh found to be wrong and repaired. Anything but 0 is an error of the program.",
    ),
    ("matchbook_projection_events_total", "Events applied by a projection."),
    ("matchbook_rating_calls_total", "Calls of the rating service, by outcome."),
    ("matchbook_read_model_damage_total", "Damaged read models, which are rebuilt from the log, by name."),
];

const GAUGES: &[(&str, &str)] = &[
    ("matchbook_http_active_requests", "Requests in progress."),
    ("matchbook_http_connections", "Open connections."),
    (
        "matchbook_http_request_duration_max_seconds",
        "The longest time until a response started, by method, route and status.",
    ),
    (
        "matchbook_http_request_duration_min_seconds",
        "The shortest time until a response started, by method, route and status.",
    ),
    ("matchbook_http_streams", "Open live streams."),
    ("matchbook_log_head_position", "The position of the last event in the log."),
    ("matchbook_log_segments", "Segment files of the log."),
    (
        "matchbook_projection_lag_seconds",
        "The age of the oldest event that a projection has not applied; 0 if it is up to date.",
    ),
    ("matchbook_projection_position", "The position up to which a projection is complete."),
];

const HISTOGRAMS: &[(&str, &str)] = &[
    ("matchbook_http_request_duration_seconds", "Time until a response starts, by method, route and status."),
    ("matchbook_log_group_events", "Events that were written and synchronised together."),
    ("matchbook_log_sync_seconds", "Time to synchronise a group with the disk."),
    ("matchbook_projection_batch_seconds", "Time to apply and store a batch of events."),
];

/// Installs the recorder.
///
/// # Errors
/// There is one already.
pub(crate) fn install() -> Result<PrometheusHandle, Failure> {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), LATENCY_BUCKETS)
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(|error| Failure::Failed(format!("cannot install the metrics recorder: {error}")))?;
    for (name, meaning) in COUNTERS {
        metrics::describe_counter!(*name, *meaning);
    }
    for (name, meaning) in GAUGES {
        metrics::describe_gauge!(*name, *meaning);
    }
    for (name, meaning) in HISTOGRAMS {
        metrics::describe_histogram!(*name, *meaning);
    }
    // Otherwise the recorder keeps every measured time until the metrics are read.
    let upkept = recorder.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(UPKEEP).await;
            upkept.run_upkeep();
        }
    });
    Ok(recorder)
}
