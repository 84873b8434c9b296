use futures_util::future::join_all;
use serde_json::{Value, json};
use web::caller::Role;

use crate::support::{TestApp, TestResponse, lease};

const START: &str = "/api/v1/analysis";

fn video(number: u32) -> Value {
    json!({"url": format!("https://www.twitch.tv/videos/{number}")})
}

fn id(response: &Value) -> &str {
    response["job_id"].as_str().unwrap()
}

impl TestApp {
    async fn start(&self, number: u32) -> TestResponse {
        self.post(START, &video(number)).await
    }

    /// Claims the work of an analysis.
    async fn claim_analysis(&self) -> Value {
        self.run_ready_tasks().await;
        let body = json!({"worker_id": "w", "kinds": ["video_analysis"]});
        self.post("/internal/work/claim", &body).await.ok()["items"][0].clone()
    }
}

#[tokio::test]
async fn analysis_is_accepted_at_once_with_its_location() {
    let app = TestApp::new().await;
    let response =
        app.post(START, &json!({"url": "https://twitch.tv/videos/2039", "options": {"a": 1}})).await;
    assert_eq!(response.status, 202);
    assert_eq!(response.location, Some(format!("/api/v1/analysis/{}", id(&response.body))));
    assert_eq!(response.body["id"], response.body["job_id"]);
    assert_eq!(response.body["video_id"], "2039");
    assert_eq!(response.body["url"], "https://twitch.tv/videos/2039");
    assert_eq!((&response.body["status"], &response.body["phase"]), (&json!("pending"), &json!("queued")));
    assert_eq!((&response.body["current_stage"], &response.body["attempt"]), (&json!("Queued"), &json!(1)));
    assert_eq!((&response.body["progress_percentage"], &response.body["position"]), (&json!(0.0), &json!(1)));
    let item = app.claim_analysis().await;
    let source = json!({
        "type": "video", "video_id": "2039", "url": "https://twitch.tv/videos/2039", "options": {"a": 1},
    });
    assert_eq!((&item["kind"], &item["source"]), (&json!("video_analysis"), &source));
}

#[tokio::test]
async fn url_without_a_recording_is_refused_with_the_reason() {
    let app = TestApp::new().await;
    for (url, wrong) in [
        ("http://www.twitch.tv/videos/2039", "https://"),
        ("https://www.youtube.com/watch?v=1", "host"),
        ("https://www.twitch.tv/streamer", "recording"),
        ("https://www.twitch.tv/videos/2039?t=1", "remove the rest"),
        ("https://www.twitch.tv/videos/x", "number"),
    ] {
        let response = app.post(START, &json!({"url": url})).await;
        assert_eq!(response.fields(), ["url"]);
        let reason = response.body["errors"][0]["reason"].as_str().unwrap();
        assert!(reason.contains(wrong), "{url}: {reason}");
        response.refused(422, "UNPROCESSABLE");
    }
    app.post(START, &json!({})).await.refused(400, "INVALID_REQUEST");
    app.post(START, &json!({"url": 7})).await.refused(400, "INVALID_REQUEST");
    assert_eq!(app.head(), 0);
}

#[tokio::test]
async fn video_in_progress_returns_the_existing_job() {
    let app = TestApp::new().await;
    let first = app.start(2039).await.ok();
    let item = app.claim_analysis().await;
    let progress = json!({"stage": "transcribing", "fraction": 0.25});
    app.post(format!("/internal/work/{}/progress", lease(&item)), &progress).await.ok();
    let again = app.post(START, &json!({"url": "https://twitch.tv/videos/2039"})).await;
    assert_eq!((again.status, id(&again.body)), (200, id(&first)));
    assert_eq!(again.location, Some(format!("/api/v1/analysis/{}", id(&first))));
    assert_eq!(
        (&again.body["status"], &again.body["current_stage"]),
        (&json!("running"), &json!("Transcribing"))
    );
    assert_eq!(again.body["progress_percentage"], 42.5);
    let other = app.call("POST", START).tenant("other").body(&video(2039)).send().await;
    assert_eq!(other.status, 202);
    assert_ne!(id(&other.body), id(&first));
    assert_eq!(app.start(2040).await.status, 202);
    assert_eq!(app.count("JobCreated").await, 3);
}

#[tokio::test]
async fn video_is_analysed_again_after_its_job_ended() {
    let app = TestApp::new().await;
    let mut ids = Vec::new();
    for round in 0..9 {
        let response = app.start(2039).await;
        assert_eq!(response.status, 202, "round {round}");
        ids.push(id(&response.body).to_owned());
        assert_eq!(app.start(2039).await.status, 200);
        match round % 3 {
            0 => {
                app.post(format!("{START}/{}/cancel", ids[round]), &json!({})).await.ok();
            }
            1 => {
                let item = app.claim_analysis().await;
                app.post(format!("/internal/work/{}/complete", lease(&item)), &json!({})).await.ok();
            }
            _ => {
                let item = app.claim_analysis().await;
                let error = json!({"error": "video not found"});
                app.post(format!("/internal/work/{}/fail", lease(&item)), &error).await.ok();
            }
        }
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 9);
}

#[tokio::test]
async fn only_the_latest_analysis_of_a_video_can_be_retried() {
    let app = TestApp::new().await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        ids.push(id(&app.start(2039).await.ok()).to_owned());
        let item = app.claim_analysis().await;
        let error = json!({"error": "video not found"});
        app.post(format!("/internal/work/{}/fail", lease(&item)), &error).await.ok();
    }
    let retry = |n: usize| format!("/jobs/{}/retry", ids[n]);
    let refused = app.post(retry(0), &json!({})).await.refused(409, "CONFLICT");
    assert!(refused["detail"].as_str().unwrap().contains(&ids[1]), "{refused}");
    app.post(retry(1), &json!({})).await.ok();
    assert_eq!(id(&app.start(2039).await.ok()), ids[1]);
}

#[tokio::test]
async fn analysis_with_a_scheduled_retry_is_in_progress() {
    let app = TestApp::new().await;
    let first = app.start(2039).await.ok();
    let item = app.claim_analysis().await;
    let error = json!({"error": "read timed out"});
    app.post(format!("/internal/work/{}/fail", lease(&item)), &error).await.ok();
    let again = app.start(2039).await;
    assert_eq!((again.status, id(&again.body)), (200, id(&first)));
    assert_eq!(again.body["attempt"], 2);
}

#[tokio::test]
async fn concurrent_requests_for_a_video_start_one_job() {
    let app = TestApp::new().await;
    let responses = join_all((0..32).map(|_| app.start(2039))).await;
    let accepted = responses.iter().filter(|response| response.status == 202).count();
    assert_eq!((accepted, responses.iter().filter(|response| response.status == 200).count()), (1, 31));
    assert!(responses.iter().all(|response| id(&response.body) == id(&responses[0].body)));
    assert_eq!(app.count("JobCreated").await, 1);
}

#[tokio::test]
async fn two_servers_start_one_job_for_a_video() {
    let app = TestApp::new().await;
    let other = app.second_server().await;
    let both = (0..16).flat_map(|_| [app.start(2039), other.start(2039)]);
    let responses = join_all(both).await;
    assert!(responses.iter().all(|response| id(&response.body) == id(&responses[0].body)));
    assert_eq!(app.count("JobCreated").await, 1);
}

#[tokio::test]
async fn repeated_key_gets_its_first_result_after_the_job_ended() {
    let app = TestApp::new().await;
    let send = async |app: &TestApp, body: &Value| app.call("POST", START).key("k").body(body).send().await;
    let first = send(&app, &video(2039)).await;
    assert_eq!(send(&app, &video(2039)).await, first);
    app.post(format!("{START}/{}/cancel", id(&first.body)), &json!({})).await.ok();
    assert_eq!(send(&app, &video(2039)).await, first);
    let app = app.restarted().await;
    assert_eq!(send(&app, &video(2039)).await, first);
    send(&app, &video(2040)).await.refused(422, "IDEMPOTENCY_KEY_REUSED");
    assert_eq!(app.count("JobCreated").await, 1);
    let keyed = join_all((0..8).map(|_| app.call("POST", START).key("l").body(&video(2039)).send())).await;
    assert!(keyed.iter().all(|response| response == &keyed[0] && response.status == 202));
    assert_eq!(app.count("JobCreated").await, 2);
}

#[tokio::test]
async fn analyses_in_progress_are_limited_per_tenant() {
    let app = TestApp::with_analyses_max(3).await;
    let mut ids = Vec::new();
    for number in 0..3 {
        ids.push(id(&app.start(number).await.ok()).to_owned());
    }
    app.start(3).await.refused(429, "RATE_LIMITED");
    assert_eq!(app.start(1).await.status, 200);
    let other = app.call("POST", START).tenant("other").body(&video(3)).send().await;
    assert_eq!(other.status, 202);
    app.post(format!("{START}/{}/cancel", ids[0]), &json!({})).await.ok();
    assert_eq!(app.start(3).await.status, 202);
    app.start(4).await.refused(429, "RATE_LIMITED");
    let app = app.restarted().await;
    app.start(4).await.refused(429, "RATE_LIMITED");
    // A permanently failed job no longer counts for the limit, until it is retried.
    let item = app.claim_analysis().await;
    let error = json!({"error": "private video"});
    app.post(format!("/internal/work/{}/fail", lease(&item)), &error).await.ok();
    assert_eq!(app.start(4).await.status, 202);
    app.post(format!("/jobs/{}/retry", item["job_id"].as_str().unwrap()), &json!({})).await.ok();
    app.post(format!("{START}/{}/cancel", ids[2]), &json!({})).await.ok();
    app.start(5).await.refused(429, "RATE_LIMITED");
}

#[tokio::test]
async fn cancelled_analysis_refuses_reports_and_ends_once() {
    let app = TestApp::new().await;
    let started = app.start(2039).await.ok();
    let item = app.claim_analysis().await;
    let cancel = format!("{START}/{}/cancel", id(&started));
    let cancelled = app.call("POST", &cancel).key("c").send().await;
    assert_eq!((cancelled.status, &cancelled.body["status"]), (200, &json!("cancelled")));
    assert_eq!(app.call("POST", &cancel).key("c").send().await, cancelled);
    assert_eq!(app.post(&cancel, &json!({})).await, cancelled);
    assert_eq!(app.count("JobCancelled").await, 1);
    app.run_ready_tasks().await;
    let work = format!("/internal/work/{}", lease(&item));
    app.post(format!("{work}/heartbeat"), &json!({})).await.refused(409, "CONFLICT");
    let progress = json!({"stage": "downloading", "fraction": 0.5});
    app.post(format!("{work}/progress"), &progress).await.refused(409, "CONFLICT");
    app.post(format!("{work}/complete"), &json!({})).await.refused(409, "CONFLICT");
}

#[tokio::test]
async fn cancelling_another_tenants_job_or_no_analysis_is_404() {
    let app = TestApp::new().await;
    let started = app.start(2039).await.ok();
    let cancel = format!("{START}/{}/cancel", id(&started));
    app.call("POST", &cancel).tenant("other").send().await.refused(404, "NOT_FOUND");
    let job = app.post("/jobs", &json!({})).await.ok();
    app.post(format!("{START}/{}/cancel", id(&job)), &json!({})).await.refused(404, "NOT_FOUND");
    app.post(format!("{START}/x/cancel"), &json!({})).await.refused(404, "NOT_FOUND");
}

#[tokio::test]
async fn analysis_requires_a_job_role() {
    let app = TestApp::with_keys().await;
    app.call("POST", START).body(&video(1)).send().await.refused(401, "UNAUTHORIZED");
    for role in [Role::Worker, Role::Auditor] {
        app.call("POST", START).roles("w", role).body(&video(1)).send().await.refused(403, "FORBIDDEN");
        let cancel = format!("{START}/018f0000-0000-7000-8000-000000000001/cancel");
        app.call("POST", cancel).roles("w", role).send().await.refused(403, "FORBIDDEN");
    }
    for (n, role) in (1..).zip([Role::User, Role::Service, Role::Admin]) {
        let started = app.call("POST", START).roles("a", role).body(&video(n)).send().await.ok();
        let cancel = format!("{START}/{}/cancel", id(&started));
        app.call("POST", cancel).roles("a", role).send().await.ok();
    }
}
