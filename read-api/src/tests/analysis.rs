//! Analyses: responses and streams.

use std::sync::atomic::Ordering;
use std::time::Duration;

use event_schemas::envelope::Event;
use event_schemas::ids::{JobId, LeaseId};
use event_schemas::job::{
    JobCancelled, JobClaimed, JobCompleted, JobCreated, JobEvent, JobFailed, JobKind, JobPhaseChanged,
    JobProgressReported, JobQuarantined, JobRetryScheduled, JobSource, Phase, QuarantineReason, RetryReason,
    RetryState,
};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::events::{created, failed, job};
use super::fixture::ReadApiFixture;
use super::sse_reader::{ReceivedEvent, SseReader, event_names};

const LEASE: LeaseId = LeaseId(Uuid::from_u128(0x1ea5e));

pub(super) fn analysis_created(id: JobId, video: &str) -> JobEvent {
    let url = format!("https://www.twitch.tv/videos/{video}");
    let options = serde_json::from_str(r#"{"highlights_max": 5}"#).unwrap();
    let source = JobSource::Video { video_id: video.parse().unwrap(), url, options };
    let kind = JobKind::VideoAnalysis;
    JobCreated { job_id: id, kind, source: Some(source), name: None, metadata: Default::default() }.into()
}

fn claimed(worker: &str, lease_until: Timestamp) -> JobEvent {
    JobClaimed { lease_id: LEASE, worker_id: worker.parse().unwrap(), attempt: 1, lease_until }.into()
}

pub(super) fn phase_changed(from: Phase, to: Phase) -> JobEvent {
    JobPhaseChanged { from, to, reason: None, eta_priors: Vec::new() }.into()
}

fn progress_reported(analysis_stage: Phase, fraction: f64) -> JobEvent {
    let (items_done, items_total) = (Some(3), Some(12));
    JobProgressReported {
        lease_id: LEASE,
        stage: analysis_stage,
        fraction,
        items_done,
        items_total,
        checkpoint: None,
        items: None,
    }
    .into()
}

fn failed_with(retry_state: RetryState) -> JobEvent {
    let Event::Job(JobEvent::JobFailed(failed)) = failed() else { unreachable!("failed() is a JobFailed") };
    JobFailed { retry_state: Some(retry_state), ..failed }.into()
}

fn retry_scheduled(attempt: u32, due_at: Timestamp) -> JobEvent {
    JobRetryScheduled { attempt, due_at, reason: Some(RetryReason::Backoff) }.into()
}

fn completed() -> JobEvent {
    JobCompleted {
        from: Phase::FindingHighlights,
        lease_id: Some(LEASE),
        result: Some(json!({"highlights": []}).into()),
    }
    .into()
}

impl ReadApiFixture {
    pub(super) async fn append_job_events(
        &self,
        id: JobId,
        events: impl IntoIterator<Item = JobEvent>,
    ) -> u64 {
        let events: Vec<Event> = events.into_iter().map(Event::Job).collect();
        self.append(StreamId::job(id), &events).await.0
    }

    /// An analysis that was downloaded and is being transcribed.
    async fn transcribing(&self, id: JobId) {
        self.append_job_events(id, [analysis_created(id, "2039")]).await;
        let until = self.clock.now().after(Duration::from_secs(45));
        self.append_job_events(id, [claimed("w-1", until)]).await;
        self.append_job_events(
            id,
            [phase_changed(Phase::Queued, Phase::Downloading), progress_reported(Phase::Downloading, 0.5)],
        )
        .await;
        self.append_job_events(
            id,
            [
                phase_changed(Phase::Downloading, Phase::Transcribing),
                progress_reported(Phase::Transcribing, 0.25),
            ],
        )
        .await;
    }

    async fn open_stream(&self, id: JobId, last: Option<u64>) -> Result<SseReader, u16> {
        SseReader::open_at(self, &format!("/api/v1/analysis/{id}/stream"), last).await
    }
}

fn ids(events: &[ReceivedEvent]) -> Vec<u64> {
    events.iter().filter_map(|event| event.id).collect()
}

#[tokio::test]
async fn analysis_has_stages_attempts_and_estimate() {
    let fixture = ReadApiFixture::open().await;
    fixture.transcribing(job(1)).await;
    insta::assert_snapshot!(fixture.get(&format!("/api/v1/analysis/{}", job(1))).await.snapshot());
    insta::assert_snapshot!(fixture.get(&format!("/api/v1/analysis/{}/status", job(1))).await.snapshot());
}

#[tokio::test]
async fn analysis_waiting_for_retry_has_error_and_due_time() {
    let fixture = ReadApiFixture::open().await;
    fixture.transcribing(job(1)).await;
    let due = fixture.clock.now().after(Duration::from_secs(20));
    fixture.append_job_events(job(1), [failed_with(RetryState::InProgress), retry_scheduled(2, due)]).await;
    insta::assert_snapshot!(fixture.get(&format!("/api/v1/analysis/{}", job(1))).await.snapshot());
}

#[tokio::test]
async fn list_has_the_tenants_analyses_newest_first_in_pages() {
    let fixture = ReadApiFixture::open().await;
    for n in 1..=5 {
        fixture.append_job_events(job(n), [analysis_created(job(n), &n.to_string())]).await;
    }
    fixture.append_job_events(job(2), [phase_changed(Phase::Queued, Phase::Downloading)]).await;
    fixture.job_event(job(9), created(job(9), "no analysis")).await;
    let theirs = [Event::Job(analysis_created(job(8), "8"))];
    fixture.append_for(&"other".parse().unwrap(), StreamId::job(job(8)), &theirs).await;
    let videos = |page: &Value| -> Vec<String> {
        let items = page["items"].as_array().unwrap();
        items.iter().map(|item| item["video_id"].as_str().unwrap().to_owned()).collect()
    };
    let first = fixture.get("/api/v1/jobs?limit=3").await.json();
    assert_eq!(videos(&first), ["5", "4", "3"]);
    let next = format!("/api/v1/jobs?limit=3&cursor={}", first["next_cursor"].as_str().unwrap());
    let second = fixture.get(&next).await.json();
    assert_eq!(
        (videos(&second), &second["next_cursor"]),
        (vec!["2".to_owned(), "1".to_owned()], &Value::Null)
    );
    assert_eq!(videos(&fixture.get("/api/v1/jobs?status=running").await.json()), ["2"]);
    assert_eq!(fixture.get(&format!("{next}&status=running")).await.status, 400);
    assert_eq!(fixture.get("/api/v1/jobs?status=lost").await.status, 400);
}

#[tokio::test]
async fn unchanged_analysis_gets_304() {
    let fixture = ReadApiFixture::open().await;
    fixture.append_job_events(job(1), [analysis_created(job(1), "1")]).await;
    let path = format!("/api/v1/analysis/{}", job(1));
    let first = fixture.get(&path).await;
    fixture.clock.advance(Duration::from_secs(5));
    let again = fixture.get_with(&path, &[("If-None-Match", first.header("etag"))]).await;
    assert_eq!((again.status, again.text.as_str()), (304, ""));
    fixture.append_job_events(job(1), [phase_changed(Phase::Queued, Phase::Downloading)]).await;
    assert_eq!(fixture.get_with(&path, &[("If-None-Match", first.header("etag"))]).await.status, 200);
}

#[tokio::test]
async fn other_jobs_and_other_tenants_get_404() {
    let fixture = ReadApiFixture::open().await;
    fixture.job_event(job(1), created(job(1), "no analysis")).await;
    let theirs = [Event::Job(analysis_created(job(2), "2"))];
    fixture.append_for(&"other".parse().unwrap(), StreamId::job(job(2)), &theirs).await;
    for id in [job(1), job(2), job(3)] {
        for path in ["", "/status", "/stream"] {
            assert_eq!(fixture.get(&format!("/api/v1/analysis/{id}{path}")).await.status, 404, "{id}{path}");
        }
    }
    assert_eq!(fixture.get("/api/v1/analysis/x").await.status, 404);
    assert_eq!(fixture.get("/api/v1/analysis/x/stream").await.status, 404);
}

#[tokio::test]
async fn stream_starts_with_the_current_state() {
    let fixture = ReadApiFixture::open().await;
    fixture.transcribing(job(1)).await;
    let mut reader = fixture.open_stream(job(1), None).await.unwrap();
    let connected = reader.next().await.unwrap();
    assert_eq!((connected.name.as_str(), connected.id), ("connected", None));
    let first = reader.next().await.unwrap();
    assert_eq!((first.name.as_str(), first.id), ("progress", Some(6)));
    assert_eq!(first.data["job_id"], job(1).to_string());
    assert_eq!((&first.data["event"], &first.data["update_count"]), (&json!("progress"), &json!(1)));
    assert_eq!(first.data["connection_id"], connected.data["connection_id"]);
    assert_eq!(first.data["progress"]["percentage"], 42.5);
    assert_eq!(first.data["progress"]["current_stage"], "Transcribing");
    let status = fixture.get(&format!("/api/v1/analysis/{}/status", job(1))).await.json();
    for field in ["status", "phase", "attempt"] {
        assert_eq!(first.data[field], status[field], "{field}");
    }
    let estimate = &first.data["progress"]["estimated_completion_seconds"];
    assert_eq!((estimate, &first.data["eta"]), (&status["estimated_completion_seconds"], &status["eta"]));
}

#[tokio::test]
async fn stream_sends_progress_until_completion() {
    let fixture = ReadApiFixture::open().await;
    fixture.transcribing(job(1)).await;
    let mut reader = fixture.open_stream(job(1), None).await.unwrap();
    reader.skip_to("progress").await;
    let position = fixture.append_job_events(job(1), [progress_reported(Phase::Transcribing, 0.75)]).await;
    let event = reader.skip_to("progress").await;
    assert_eq!((event.id, &event.data["progress"]["percentage"]), (Some(position), &json!(57.5)));
    fixture.append_job_events(job(1), [phase_changed(Phase::Transcribing, Phase::Analyzing)]).await;
    fixture.append_job_events(job(1), [completed()]).await;
    let rest = reader.rest().await;
    assert_eq!(event_names(&rest), ["progress", "completed", "stream_ended"]);
    assert_eq!(rest[1].data["progress"]["percentage"], 100.0);
    assert_eq!(rest[1].data["progress"]["current_stage"], "Completed");
    assert_eq!(fixture.open_stream(job(1), rest[1].id).await.err(), Some(204));
    let late = fixture.open_stream(job(1), None).await.unwrap().rest().await;
    assert_eq!(event_names(&late), ["connected", "completed", "stream_ended"]);
}

#[tokio::test]
async fn retried_failure_sends_retrying_permanent_one_sends_failed() {
    let fixture = ReadApiFixture::open().await;
    fixture.transcribing(job(1)).await;
    let mut reader = fixture.open_stream(job(1), None).await.unwrap();
    reader.skip_to("progress").await;
    let due = fixture.clock.now().after(Duration::from_secs(2));
    let retry = fixture
        .append_job_events(job(1), [failed_with(RetryState::InProgress), retry_scheduled(2, due)])
        .await;
    let event = reader.next().await.unwrap();
    assert_eq!((event.name.as_str(), event.id), ("retrying", Some(retry)));
    assert_eq!(event.data["retry"], json!({"attempt": 2, "due_at": due.to_string(), "reason": "backoff"}));
    assert_eq!(event.data["error"]["code"], "out_of_memory");
    assert_eq!((&event.data["attempt"], &event.data["retry_state"]), (&json!(2), &json!("in_progress")));
    let mut late_client = fixture.open_stream(job(1), None).await.unwrap();
    late_client.skip_to("connected").await;
    assert_eq!(late_client.next().await.unwrap().name, "retrying");
    let quarantined = JobQuarantined { reason: QuarantineReason::CrashLoop }.into();
    let end = fixture.append_job_events(job(1), [failed_with(RetryState::CrashLoop), quarantined]).await;
    let rest = reader.rest().await;
    assert_eq!((event_names(&rest), ids(&rest)), (vec!["failed", "stream_ended"], vec![end - 1]));
    assert_eq!((&rest[0].data["retry_state"], rest[0].data.get("retry")), (&json!("crash_loop"), None));
    assert_eq!(fixture.open_stream(job(1), Some(end - 1)).await.err(), Some(204));
    fixture.append_job_events(job(1), [phase_changed(Phase::Failed, Phase::Queued)]).await;
    let mut again = fixture.open_stream(job(1), Some(end - 1)).await.unwrap();
    again.skip_to("connected").await;
    assert_eq!(again.next().await.unwrap().name, "retrying");
}

#[tokio::test]
async fn progress_is_limited_to_4_per_second_state_changes_are_not() {
    let fixture = ReadApiFixture::open().await;
    fixture.pace.set(Duration::ZERO);
    fixture
        .append_job_events(
            job(1),
            [analysis_created(job(1), "1"), phase_changed(Phase::Queued, Phase::Downloading)],
        )
        .await;
    let mut reader = fixture.open_stream(job(1), None).await.unwrap();
    reader.skip_to("progress").await;
    let started = std::time::Instant::now();
    for n in 1..=200 {
        fixture
            .append_job_events(job(1), [progress_reported(Phase::Downloading, f64::from(n) / 200.0)])
            .await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let mut progress = Vec::new();
    while progress.last() != Some(&30.0) {
        progress.push(reader.skip_to("progress").await.data["progress"]["percentage"].as_f64().unwrap());
    }
    let most = started.elapsed().as_millis() / 250 + 2;
    assert!(progress.len() as u128 <= most, "{} in {:?}: {progress:?}", progress.len(), started.elapsed());
    assert!(progress.is_sorted());
    let phases = [Phase::Downloading, Phase::FetchingChat, Phase::Transcribing, Phase::Analyzing];
    for pair in phases.windows(2) {
        fixture
            .append_job_events(job(1), [phase_changed(pair[0], pair[1]), progress_reported(pair[1], 0.5)])
            .await;
    }
    fixture.append_job_events(job(1), [JobCancelled { from: Phase::Analyzing, reason: None }.into()]).await;
    let rest = reader.rest().await;
    let mut phases: Vec<&str> = rest.iter().filter_map(|event| event.data["phase"].as_str()).collect();
    phases.dedup();
    assert_eq!(phases, ["fetching_chat", "transcribing", "analyzing", "cancelled"]);
}

#[tokio::test]
async fn reconnect_gets_missed_changes_exactly_once() {
    let fixture = ReadApiFixture::open().await;
    fixture.transcribing(job(1)).await;
    let due = fixture.clock.now().after(Duration::from_secs(2));
    fixture.append_job_events(job(1), [failed_with(RetryState::InProgress), retry_scheduled(2, due)]).await;
    fixture.append_job_events(job(2), [analysis_created(job(2), "2")]).await;
    fixture
        .append_job_events(
            job(1),
            [phase_changed(Phase::Queued, Phase::Analyzing), progress_reported(Phase::Analyzing, 0.5)],
        )
        .await;
    let end = fixture.append_job_events(job(1), [completed()]).await;
    // 1 created, 2 claimed, 3 downloading, 5 transcribing, 8 retrying, 10 analyzing, 12 completed.
    assert_eq!(end, 12);
    for last in 1..=end {
        let expected: Vec<u64> = [3, 5, 8, 10, 12].into_iter().filter(|id| *id > last).collect();
        match fixture.open_stream(job(1), Some(last)).await {
            Ok(reader) => {
                let rest = reader.rest().await;
                assert_eq!(ids(&rest), expected, "after {last}");
                assert_eq!(event_names(&rest).last(), Some(&"stream_ended"));
            }
            Err(status) => assert_eq!((status, expected), (204, vec![]), "after {last}"),
        }
    }
}

#[tokio::test]
async fn earlier_changes_have_the_state_of_their_time() {
    let fixture = ReadApiFixture::open().await;
    fixture.transcribing(job(1)).await;
    fixture.append_job_events(job(1), [completed()]).await;
    let events = fixture.open_stream(job(1), Some(2)).await.unwrap().rest().await;
    let percentages: Vec<_> =
        events.iter().filter_map(|event| event.data["progress"]["percentage"].as_f64()).collect();
    assert_eq!(percentages, [0.0, 35.0, 100.0]);
}

#[tokio::test]
async fn missed_progress_is_sent_as_the_latest() {
    let fixture = ReadApiFixture::open().await;
    fixture.transcribing(job(1)).await;
    let mut reader = fixture.open_stream(job(1), Some(5)).await.unwrap();
    reader.skip_to("connected").await;
    let event = reader.next().await.unwrap();
    assert_eq!((event.id, &event.data["progress"]["percentage"]), (Some(6), &json!(42.5)));
    let mut nothing_missed = fixture.open_stream(job(1), Some(6)).await.unwrap();
    nothing_missed.skip_to("connected").await;
    fixture.append_job_events(job(1), [progress_reported(Phase::Transcribing, 0.5)]).await;
    assert_eq!(nothing_missed.next().await.unwrap().id, Some(7));
}

#[tokio::test]
async fn id_of_another_log_restarts_the_stream() {
    let fixture = ReadApiFixture::open().await;
    fixture.transcribing(job(1)).await;
    let mut reader = fixture.open_stream(job(1), Some(99_999)).await.unwrap();
    assert_eq!(reader.skip_to("progress").await.id, Some(6));
}

#[tokio::test]
async fn stream_says_why_a_queued_analysis_is_parked_and_until_when() {
    let fixture = ReadApiFixture::open().await;
    fixture.append_job_events(job(1), [analysis_created(job(1), "1")]).await;
    let mut reader = fixture.open_stream(job(1), None).await.unwrap();
    let first = reader.skip_to("progress").await;
    let status = fixture.get(&format!("/api/v1/analysis/{}/status", job(1))).await.json();
    assert_eq!(
        (&first.data["parked"], &first.data["parked"]["service"]),
        (&status["parked"], &json!("speech_to_text"))
    );
    fixture.services_recovered.store(true, Ordering::SeqCst);
    fixture.clock.advance(Duration::from_secs(1));
    let next = reader.next().await.unwrap();
    assert_eq!((next.name.as_str(), next.id, next.data.get("parked")), ("progress", first.id, None));
    fixture.services_recovered.store(false, Ordering::SeqCst);
    let claimed = claimed("w-1", fixture.clock.now().after(Duration::from_secs(45)));
    let started = [claimed, phase_changed(Phase::Queued, Phase::Downloading)];
    let position = fixture.append_job_events(job(1), started).await;
    while reader.skip_to("progress").await.id != Some(position) {}
    fixture.append_job_events(job(1), [failed_with(RetryState::NonRetryable)]).await;
    assert_eq!(event_names(&reader.rest().await), ["failed", "stream_ended"]);
}

#[tokio::test]
async fn error_messages_of_workers_are_hidden_from_users() {
    let fixture = ReadApiFixture::open().await;
    fixture.append_job_events(job(1), [analysis_created(job(1), "1")]).await;
    fixture.append_job_events(job(1), [failed_with(RetryState::NonRetryable)]).await;
    let Event::Job(JobEvent::JobFailed(JobFailed { error, .. })) = failed() else {
        unreachable!("a JobFailed")
    };
    let id = job(1);
    for path in [
        "/jobs".to_owned(),
        format!("/jobs/{id}"),
        format!("/jobs/{id}/timeline"),
        format!("/jobs/{id}/events"),
        "/api/v1/jobs".to_owned(),
        format!("/api/v1/analysis/{id}"),
        format!("/api/v1/analysis/{id}/status"),
        format!("/api/v1/analysis/{id}/stream"),
    ] {
        let operator = fixture.get(&path).await.text;
        assert!(operator.contains(&error.message), "{path}: {operator}");
        let user = fixture.get_with(&path, &[("X-User", "ann")]).await.text;
        assert!(!user.contains(&error.message) && user.contains("out_of_memory"), "{path}: {user}");
    }
}

#[tokio::test]
async fn stream_opens_once_the_analysis_is_in_the_log_and_by_ticket() {
    let fixture = ReadApiFixture::open().await;
    for n in 1..=20 {
        fixture.append_job_events(job(n), [analysis_created(job(n), "1")]).await;
        assert!(fixture.open_stream(job(n), None).await.is_ok());
    }
    let ticket = fixture.post("/v1/stream-tickets").await.json()["ticket"].as_str().unwrap().to_owned();
    let path = |n| format!("/api/v1/analysis/{}/stream?ticket={ticket}", job(n));
    assert_eq!(fixture.client.get(path(1)).send().await.0.status(), 200);
    assert_eq!(fixture.client.get(path(2)).send().await.0.status(), 401);
}
