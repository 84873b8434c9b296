//! Analyses as a caller reads them, polled and streamed.

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

use super::reader::{Reader, Told, names};
use super::script::{created, failed, job};
use super::stage::Stage;

const LEASE: LeaseId = LeaseId(Uuid::from_u128(0x1ea5e));

fn analysis(id: JobId, video: &str) -> JobEvent {
    let url = format!("https://www.twitch.tv/videos/{video}");
    let options = serde_json::from_str(r#"{"highlights_max": 5}"#).unwrap();
    let source = JobSource::Video { video_id: video.parse().unwrap(), url, options };
    let kind = JobKind::VideoAnalysis;
    JobCreated { job_id: id, kind, source: Some(source), name: None, metadata: serde_json::Map::new() }.into()
}

fn claimed(worker: &str, lease_until: Timestamp) -> JobEvent {
    JobClaimed { lease_id: LEASE, worker_id: worker.parse().unwrap(), attempt: 1, lease_until }.into()
}

fn entered(from: Phase, to: Phase) -> JobEvent {
    JobPhaseChanged { from, to, reason: None, eta_priors: Vec::new() }.into()
}

fn reported(stage: Phase, fraction: f64) -> JobEvent {
    let (items_done, items_total) = (Some(3), Some(12));
    JobProgressReported { lease_id: LEASE, stage, fraction, items_done, items_total }.into()
}

fn failed_with(retry_state: RetryState) -> JobEvent {
    let Event::Job(JobEvent::JobFailed(failed)) = failed() else { unreachable!("it is a failed job") };
    JobFailed { retry_state: Some(retry_state), ..failed }.into()
}

fn retried(attempt: u32, due_at: Timestamp) -> JobEvent {
    JobRetryScheduled { attempt, due_at, reason: Some(RetryReason::Backoff) }.into()
}

fn done() -> JobEvent {
    JobCompleted {
        from: Phase::FindingHighlights,
        lease_id: Some(LEASE),
        result: Some(json!({"highlights": []})),
    }
    .into()
}

impl Stage {
    async fn tell(&self, id: JobId, events: impl IntoIterator<Item = JobEvent>) -> u64 {
        let events: Vec<Event> = events.into_iter().map(Event::Job).collect();
        self.append(StreamId::job(id), &events).await.0
    }

    /// An analysis that was downloaded, and is being transcribed.
    async fn transcribing(&self, id: JobId) {
        self.tell(id, [analysis(id, "2039")]).await;
        let until = self.clock.now().after(Duration::from_secs(45));
        self.tell(id, [claimed("w-1", until)]).await;
        self.tell(id, [entered(Phase::Queued, Phase::Downloading), reported(Phase::Downloading, 0.5)]).await;
        self.tell(
            id,
            [entered(Phase::Downloading, Phase::Transcribing), reported(Phase::Transcribing, 0.25)],
        )
        .await;
    }

    async fn listen(&self, id: JobId, last: Option<u64>) -> Result<Reader, u16> {
        Reader::open_at(self, &format!("/api/v1/analysis/{id}/stream"), last).await
    }
}

fn ids(told: &[Told]) -> Vec<u64> {
    told.iter().filter_map(|told| told.id).collect()
}

#[tokio::test]
async fn an_analysis_is_shown_with_its_stages_attempts_and_estimate() {
    let stage = Stage::open().await;
    stage.transcribing(job(1)).await;
    insta::assert_snapshot!(stage.get(&format!("/api/v1/analysis/{}", job(1))).await.whole());
    insta::assert_snapshot!(stage.get(&format!("/api/v1/analysis/{}/status", job(1))).await.whole());
}

#[tokio::test]
async fn an_analysis_that_waits_to_be_tried_again_shows_why_and_until_when() {
    let stage = Stage::open().await;
    stage.transcribing(job(1)).await;
    let due = stage.clock.now().after(Duration::from_secs(20));
    stage.tell(job(1), [failed_with(RetryState::InProgress), retried(2, due)]).await;
    insta::assert_snapshot!(stage.get(&format!("/api/v1/analysis/{}", job(1))).await.whole());
}

#[tokio::test]
async fn the_list_is_the_tenants_analyses_the_newest_first_page_by_page() {
    let stage = Stage::open().await;
    for n in 1..=5 {
        stage.tell(job(n), [analysis(job(n), &n.to_string())]).await;
    }
    stage.tell(job(2), [entered(Phase::Queued, Phase::Downloading)]).await;
    stage.job_event(job(9), created(job(9), "no analysis")).await;
    let theirs = [Event::Job(analysis(job(8), "8"))];
    stage.append_for(&"other".parse().unwrap(), StreamId::job(job(8)), &theirs).await;
    let videos = |page: &Value| -> Vec<String> {
        let items = page["items"].as_array().unwrap();
        items.iter().map(|item| item["video_id"].as_str().unwrap().to_owned()).collect()
    };
    let first = stage.get("/api/v1/jobs?limit=3").await.json();
    assert_eq!(videos(&first), ["5", "4", "3"]);
    let next = format!("/api/v1/jobs?limit=3&cursor={}", first["next_cursor"].as_str().unwrap());
    let second = stage.get(&next).await.json();
    assert_eq!(
        (videos(&second), &second["next_cursor"]),
        (vec!["2".to_owned(), "1".to_owned()], &Value::Null)
    );
    assert_eq!(videos(&stage.get("/api/v1/jobs?status=running").await.json()), ["2"]);
    assert_eq!(stage.get(&format!("{next}&status=running")).await.status, 400);
    assert_eq!(stage.get("/api/v1/jobs?status=lost").await.status, 400);
}

#[tokio::test]
async fn an_unchanged_analysis_is_not_sent_again() {
    let stage = Stage::open().await;
    stage.tell(job(1), [analysis(job(1), "1")]).await;
    let path = format!("/api/v1/analysis/{}", job(1));
    let first = stage.get(&path).await;
    stage.clock.advance(Duration::from_secs(5));
    let again = stage.get_with(&path, &[("If-None-Match", first.header("etag"))]).await;
    assert_eq!((again.status, again.text.as_str()), (304, ""));
    stage.tell(job(1), [entered(Phase::Queued, Phase::Downloading)]).await;
    assert_eq!(stage.get_with(&path, &[("If-None-Match", first.header("etag"))]).await.status, 200);
}

#[tokio::test]
async fn what_is_no_analysis_or_not_the_callers_is_not_there() {
    let stage = Stage::open().await;
    stage.job_event(job(1), created(job(1), "no analysis")).await;
    let theirs = [Event::Job(analysis(job(2), "2"))];
    stage.append_for(&"other".parse().unwrap(), StreamId::job(job(2)), &theirs).await;
    for id in [job(1), job(2), job(3)] {
        for path in ["", "/status", "/stream"] {
            assert_eq!(stage.get(&format!("/api/v1/analysis/{id}{path}")).await.status, 404, "{id}{path}");
        }
    }
    assert_eq!(stage.get("/api/v1/analysis/x").await.status, 404);
    assert_eq!(stage.get("/api/v1/analysis/x/stream").await.status, 404);
}

#[tokio::test]
async fn a_stream_begins_with_how_the_analysis_stands() {
    let stage = Stage::open().await;
    stage.transcribing(job(1)).await;
    let mut reader = stage.listen(job(1), None).await.unwrap();
    let connected = reader.next().await.unwrap();
    assert_eq!((connected.event.as_str(), connected.id), ("connected", None));
    let first = reader.next().await.unwrap();
    assert_eq!((first.event.as_str(), first.id), ("progress", Some(6)));
    assert_eq!(first.data["job_id"], job(1).to_string());
    assert_eq!((&first.data["event"], &first.data["update_count"]), (&json!("progress"), &json!(1)));
    assert_eq!(first.data["connection_id"], connected.data["connection_id"]);
    assert_eq!(first.data["progress"]["percentage"], 42.5);
    assert_eq!(first.data["progress"]["current_stage"], "Transcribing");
    let status = stage.get(&format!("/api/v1/analysis/{}/status", job(1))).await.json();
    for field in ["status", "phase", "attempt"] {
        assert_eq!(first.data[field], status[field], "{field}");
    }
    let estimate = &first.data["progress"]["estimated_completion_seconds"];
    assert_eq!((estimate, &first.data["eta"]), (&status["estimated_completion_seconds"], &status["eta"]));
}

#[tokio::test]
async fn what_happens_is_told_until_the_end() {
    let stage = Stage::open().await;
    stage.transcribing(job(1)).await;
    let mut reader = stage.listen(job(1), None).await.unwrap();
    reader.skip_to("progress").await;
    let position = stage.tell(job(1), [reported(Phase::Transcribing, 0.75)]).await;
    let told = reader.skip_to("progress").await;
    assert_eq!((told.id, &told.data["progress"]["percentage"]), (Some(position), &json!(57.5)));
    stage.tell(job(1), [entered(Phase::Transcribing, Phase::Analyzing)]).await;
    stage.tell(job(1), [done()]).await;
    let rest = reader.rest().await;
    assert_eq!(names(&rest), ["progress", "completed", "stream_ended"]);
    assert_eq!(rest[1].data["progress"]["percentage"], 100.0);
    assert_eq!(rest[1].data["progress"]["current_stage"], "Completed");
    assert_eq!(stage.listen(job(1), rest[1].id).await.err(), Some(204));
    let anew = stage.listen(job(1), None).await.unwrap().rest().await;
    assert_eq!(names(&anew), ["connected", "completed", "stream_ended"]);
}

#[tokio::test]
async fn a_failure_that_is_tried_again_is_told_as_a_retry_and_one_for_good_as_the_end() {
    let stage = Stage::open().await;
    stage.transcribing(job(1)).await;
    let mut reader = stage.listen(job(1), None).await.unwrap();
    reader.skip_to("progress").await;
    let due = stage.clock.now().after(Duration::from_secs(2));
    let retry = stage.tell(job(1), [failed_with(RetryState::InProgress), retried(2, due)]).await;
    let told = reader.next().await.unwrap();
    assert_eq!((told.event.as_str(), told.id), ("retrying", Some(retry)));
    assert_eq!(told.data["retry"], json!({"attempt": 2, "due_at": due.to_string(), "reason": "backoff"}));
    assert_eq!(told.data["error"]["code"], "out_of_memory");
    assert_eq!((&told.data["attempt"], &told.data["retry_state"]), (&json!(2), &json!("in_progress")));
    let mut late = stage.listen(job(1), None).await.unwrap();
    late.skip_to("connected").await;
    assert_eq!(late.next().await.unwrap().event, "retrying");
    let quarantined = JobQuarantined { reason: QuarantineReason::CrashLoop }.into();
    let end = stage.tell(job(1), [failed_with(RetryState::CrashLoop), quarantined]).await;
    let rest = reader.rest().await;
    assert_eq!((names(&rest), ids(&rest)), (vec!["failed", "stream_ended"], vec![end - 1]));
    assert_eq!((&rest[0].data["retry_state"], rest[0].data.get("retry")), (&json!("crash_loop"), None));
    assert_eq!(stage.listen(job(1), Some(end - 1)).await.err(), Some(204));
    stage.tell(job(1), [entered(Phase::Failed, Phase::Queued)]).await;
    let mut again = stage.listen(job(1), Some(end - 1)).await.unwrap();
    again.skip_to("connected").await;
    assert_eq!(again.next().await.unwrap().event, "retrying");
}

#[tokio::test]
async fn progress_is_told_four_times_a_second_at_most_and_changes_always() {
    let stage = Stage::open().await;
    stage.pace.set(Duration::ZERO);
    stage.tell(job(1), [analysis(job(1), "1"), entered(Phase::Queued, Phase::Downloading)]).await;
    let mut reader = stage.listen(job(1), None).await.unwrap();
    reader.skip_to("progress").await;
    let begun = std::time::Instant::now();
    for n in 1..=200 {
        stage.tell(job(1), [reported(Phase::Downloading, f64::from(n) / 200.0)]).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let mut progress = Vec::new();
    while progress.last() != Some(&30.0) {
        progress.push(reader.skip_to("progress").await.data["progress"]["percentage"].as_f64().unwrap());
    }
    let most = begun.elapsed().as_millis() / 250 + 2;
    assert!(progress.len() as u128 <= most, "{} in {:?}: {progress:?}", progress.len(), begun.elapsed());
    assert!(progress.is_sorted());
    let phases = [Phase::Downloading, Phase::FetchingChat, Phase::Transcribing, Phase::Analyzing];
    for pair in phases.windows(2) {
        stage.tell(job(1), [entered(pair[0], pair[1]), reported(pair[1], 0.5)]).await;
    }
    stage.tell(job(1), [JobCancelled { from: Phase::Analyzing, reason: None }.into()]).await;
    let rest = reader.rest().await;
    let told: Vec<&str> = rest.iter().filter_map(|told| told.data["phase"].as_str()).collect();
    let mut told_once = told.clone();
    told_once.dedup();
    assert_eq!(told_once, ["fetching_chat", "transcribing", "analyzing", "cancelled"]);
}

#[tokio::test]
async fn whoever_comes_back_is_told_what_they_missed_and_nothing_twice() {
    let stage = Stage::open().await;
    stage.transcribing(job(1)).await;
    let due = stage.clock.now().after(Duration::from_secs(2));
    stage.tell(job(1), [failed_with(RetryState::InProgress), retried(2, due)]).await;
    stage.tell(job(2), [analysis(job(2), "2")]).await;
    stage.tell(job(1), [entered(Phase::Queued, Phase::Analyzing), reported(Phase::Analyzing, 0.5)]).await;
    let end = stage.tell(job(1), [done()]).await;
    // 1 created, 2 claimed, 3 downloading, 5 transcribing, 8 tried again, 10 analyzing, 12 completed.
    assert_eq!(end, 12);
    for last in 1..=end {
        let expected: Vec<u64> = [3, 5, 8, 10, 12].into_iter().filter(|id| *id > last).collect();
        match stage.listen(job(1), Some(last)).await {
            Ok(reader) => {
                let rest = reader.rest().await;
                assert_eq!(ids(&rest), expected, "after {last}");
                assert_eq!(names(&rest).last(), Some(&"stream_ended"));
            }
            Err(status) => assert_eq!((status, expected), (204, vec![]), "after {last}"),
        }
    }
}

#[tokio::test]
async fn what_is_told_of_an_earlier_state_is_what_was_known_then() {
    let stage = Stage::open().await;
    stage.transcribing(job(1)).await;
    stage.tell(job(1), [done()]).await;
    let told = stage.listen(job(1), Some(2)).await.unwrap().rest().await;
    let percentages: Vec<_> =
        told.iter().filter_map(|told| told.data["progress"]["percentage"].as_f64()).collect();
    assert_eq!(percentages, [0.0, 35.0, 100.0]);
}

#[tokio::test]
async fn progress_that_was_missed_is_told_as_it_is_now() {
    let stage = Stage::open().await;
    stage.transcribing(job(1)).await;
    let mut reader = stage.listen(job(1), Some(5)).await.unwrap();
    reader.skip_to("connected").await;
    let told = reader.next().await.unwrap();
    assert_eq!((told.id, &told.data["progress"]["percentage"]), (Some(6), &json!(42.5)));
    let mut nothing_missed = stage.listen(job(1), Some(6)).await.unwrap();
    nothing_missed.skip_to("connected").await;
    stage.tell(job(1), [reported(Phase::Transcribing, 0.5)]).await;
    assert_eq!(nothing_missed.next().await.unwrap().id, Some(7));
}

#[tokio::test]
async fn an_id_of_another_log_begins_anew() {
    let stage = Stage::open().await;
    stage.transcribing(job(1)).await;
    let mut reader = stage.listen(job(1), Some(99_999)).await.unwrap();
    assert_eq!(reader.skip_to("progress").await.id, Some(6));
}

#[tokio::test]
async fn a_stream_can_be_opened_as_soon_as_the_analysis_is_in_the_log_and_by_a_ticket() {
    let stage = Stage::open().await;
    for n in 1..=20 {
        stage.tell(job(n), [analysis(job(n), "1")]).await;
        assert!(stage.listen(job(n), None).await.is_ok());
    }
    let ticket = stage.post("/v1/stream-tickets").await.json()["ticket"].as_str().unwrap().to_owned();
    let path = format!("/api/v1/analysis/{}/stream?ticket={ticket}", job(1));
    assert_eq!(stage.client.get(&path).send().await.0.status(), 200);
    assert_eq!(stage.client.get(&path).send().await.0.status(), 401);
}
