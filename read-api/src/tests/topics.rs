//! Streams of the same object to many clients, which share one topic.

use event_schemas::ids::JobId;
use event_schemas::job::Phase;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use super::analysis::{analysis_created, phase_changed};
use super::events::{cancelled, created, job, phase, progress};
use super::fixture::ReadApiFixture;
use super::sse_reader::{ReceivedEvent, SseReader, event_names};
use web::sse::queue::{BEHIND_EVENTS_MAX, UPDATES};

const CLIENTS: usize = 100;

impl ReadApiFixture {
    /// The number of reads of single streams of the log.
    fn stream_reads(&self) -> u64 {
        self.memory.stream_reads()
    }

    /// Waits until the streams of all clients that have left are released.
    async fn topics_released(&self) {
        while self.api.topics.count() > 0 {
            tokio::task::yield_now().await;
        }
    }
}

/// The number of updates that were made, for all clients together.
fn updates_made(metrics: &PrometheusHandle) -> u64 {
    let text = metrics.render();
    text.lines().find_map(|line| line.strip_prefix(UPDATES)?.trim().parse().ok()).unwrap_or(0)
}

fn matching(id: JobId) -> String {
    format!("/jobs/{id}/matching/stream")
}

fn analysis(id: JobId) -> String {
    format!("/api/v1/analysis/{id}/stream")
}

async fn open(fixture: &ReadApiFixture, path: &str, last: Option<u64>) -> SseReader {
    SseReader::open_at(fixture, path, last).await.unwrap()
}

/// Opens clients that have received the present state.
async fn clients(fixture: &ReadApiFixture, path: &str) -> Vec<SseReader> {
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(open(fixture, path, None).await);
    }
    for client in &mut clients {
        client.skip_to("progress").await;
    }
    clients
}

#[tokio::test]
async fn change_is_read_and_serialised_once_for_100_clients() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let fixture = ReadApiFixture::open().await;
    // The clock stands still, so that nothing is polled.
    fixture.pace.set(std::time::Duration::ZERO);
    fixture.running_job(job(1)).await;
    fixture.append_job_events(job(2), [analysis_created(job(2), "1")]).await;
    let summary = format!("/jobs/{}/matching/summary", job(1));
    fixture.get(&summary).await;
    let mut matching = clients(&fixture, &matching(job(1))).await;
    let mut analysis = clients(&fixture, &analysis(job(2))).await;
    assert_eq!(fixture.api.topics.count(), 2);

    let count = || (fixture.stream_reads(), updates_made(&recorder.handle()));
    let before = count();
    fixture.append_job_events(job(2), [phase_changed(Phase::Queued, Phase::Downloading)]).await;
    for client in &mut analysis {
        assert_eq!(client.skip_to("progress").await.data["phase"], "downloading");
    }
    assert_eq!(count(), (before.0 + 1, before.1 + 1), "an analysis");

    let before = count();
    fixture.job_event(job(1), phase(Phase::Matching, Phase::Evidence)).await;
    for client in &mut matching {
        assert_eq!(client.skip_to("progress").await.data["summary"]["phase"], "evidence");
    }
    assert_eq!(count(), (before.0 + 1, before.1 + 1), "a state change of a matching job");

    // Progress needs the fold only.
    let before = count();
    fixture.matching_event(job(1), progress(2, 5)).await;
    for client in &mut matching {
        assert_eq!(client.skip_to("progress").await.data["summary"]["candidates_processed"], 15);
    }
    assert_eq!(count(), (before.0, before.1 + 1), "progress of a matching job");
}

#[tokio::test]
async fn clients_count_updates_for_themselves() {
    let fixture = ReadApiFixture::open().await;
    fixture.append_job_events(job(1), [analysis_created(job(1), "1")]).await;
    let mut early = open(&fixture, &analysis(job(1)), None).await;
    early.skip_to("progress").await;
    fixture.append_job_events(job(1), [phase_changed(Phase::Queued, Phase::Downloading)]).await;
    early.skip_to("progress").await;
    let mut late = open(&fixture, &analysis(job(1)), None).await;
    late.skip_to("progress").await;
    fixture.append_job_events(job(1), [phase_changed(Phase::Downloading, Phase::Transcribing)]).await;
    let (early, late) = (early.skip_to("progress").await, late.skip_to("progress").await);
    assert_eq!((&early.data["update_count"], &late.data["update_count"]), (&3.into(), &2.into()));
    assert_ne!(early.data["connection_id"], late.data["connection_id"]);
    assert_eq!((early.id, &early.data["progress"]), (late.id, &late.data["progress"]));
}

#[tokio::test]
async fn topic_is_released_when_its_last_client_leaves() {
    let fixture = ReadApiFixture::open().await;
    fixture.running_job(job(1)).await;
    fixture.joined(1).await;
    fixture.get("/v1/matchmaking/active").await;
    fixture.get(&format!("/jobs/{}/matching/summary", job(1))).await;
    let entry = super::entry_stream::path(1);
    let paths = [matching(job(1)), entry, "/internal/queues/stream".to_owned()];
    let mut clients = Vec::new();
    for path in paths.iter().chain(&paths) {
        let mut client = open(&fixture, path, None).await;
        client.next().await.unwrap();
        client.next().await.unwrap();
        clients.push(client);
    }
    assert_eq!(fixture.api.topics.count(), paths.len());
    clients.truncate(paths.len());
    let mut kept = clients.swap_remove(0);
    drop(clients);
    while fixture.api.topics.count() > 1 {
        tokio::task::yield_now().await;
    }
    // The client that is left still receives changes.
    fixture.job_event(job(1), cancelled()).await;
    kept.skip_to("cancelled").await;
    assert_eq!(event_names(&kept.rest().await), ["stream_ended"]);
    fixture.topics_released().await;
}

#[tokio::test]
async fn client_may_leave_and_join_a_topic_without_gap_or_repeat() {
    let fixture = ReadApiFixture::open().await;
    fixture.job_event(job(1), created(job(1), "a")).await;
    fixture.append_job_events(job(2), [analysis_created(job(2), "1")]).await;
    fixture.get(&format!("/jobs/{}/matching/summary", job(1))).await;
    let phases = [Phase::Collecting, Phase::Extracting, Phase::Matching, Phase::Evidence];
    for (id, path) in [(job(1), matching(job(1))), (job(2), analysis(job(2)))] {
        let (mut steady, mut received) = (open(&fixture, &path, Some(0)).await, Vec::new());
        let (mut last, mut pieces) = (Some(0), Vec::<ReceivedEvent>::new());
        let mut before = Phase::Queued;
        for step in 0..12 {
            let next = phases[step % phases.len()];
            // The client is connected during every other change, and reads after every third.
            let mut client = open(&fixture, &path, last).await;
            if step % 2 == 0 {
                drop(client);
                fixture.job_event(id, phase(before, next)).await;
                client = open(&fixture, &path, last).await;
            } else {
                fixture.job_event(id, phase(before, next)).await;
            }
            before = next;
            let head = fixture.head().0;
            while step % 3 == 0 && last != Some(head) {
                let event = client.next().await.unwrap();
                last = event.id.or(last);
                pieces.extend(event.id.map(|_| event));
            }
            while received.last().and_then(|event: &ReceivedEvent| event.id) != Some(head) {
                received.push(steady.next().await.unwrap());
            }
        }
        fixture.job_event(id, cancelled()).await;
        received.extend(steady.rest().await);
        let client = open(&fixture, &path, last).await;
        pieces.extend(client.rest().await.into_iter().filter(|event| event.id.is_some()));
        let ids = |events: &[ReceivedEvent]| {
            let ids = events.iter().filter_map(|event| Some((event.name.clone(), event.id?)));
            let mut ids: Vec<_> = ids.collect();
            // A blocker that time alone causes is sent with the id of the latest event.
            ids.dedup_by_key(|(_, id)| *id);
            ids
        };
        assert_eq!(ids(&pieces), ids(&received));
        // The creation of an analysis is not a change of its own.
        assert!(ids(&pieces).len() >= 13, "{pieces:?}");
    }
}

#[tokio::test]
async fn client_too_far_behind_gets_lagged_and_delays_no_other() {
    let fixture = ReadApiFixture::open().await;
    fixture.pace.set(std::time::Duration::ZERO);
    fixture.append_job_events(job(1), [analysis_created(job(1), "1")]).await;
    let path = analysis(job(1));
    let mut active = open(&fixture, &path, None).await;
    let mut stalled = open(&fixture, &path, None).await;
    active.skip_to("progress").await;
    let last = stalled.skip_to("progress").await.id;
    let mut expected = Vec::new();
    for n in 0..=BEHIND_EVENTS_MAX {
        let phases = [Phase::Downloading, Phase::Transcribing];
        let change = phase_changed(phases[n % 2], phases[(n + 1) % 2]);
        expected.push(fixture.append_job_events(job(1), [change]).await);
        assert_eq!(active.skip_to("progress").await.id, expected.last().copied());
    }
    assert_eq!(event_names(&stalled.rest().await), ["lagged"]);
    // It resumes at its last event.
    let mut resumed = open(&fixture, &path, last).await;
    for id in expected {
        assert_eq!(resumed.skip_to("progress").await.id, Some(id));
    }
}
