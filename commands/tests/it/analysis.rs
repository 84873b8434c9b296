use futures_util::future::join_all;
use serde_json::{Value, json};
use web::caller::Role;

use crate::support::{Answer, Bench, lease};

const START: &str = "/api/v1/analysis";

fn video(number: u32) -> Value {
    json!({"url": format!("https://www.twitch.tv/videos/{number}")})
}

fn id(answer: &Value) -> &str {
    answer["job_id"].as_str().unwrap()
}

impl Bench {
    async fn start(&self, number: u32) -> Answer {
        self.post(START, &video(number)).await
    }

    /// The work of an analysis.
    async fn analyse(&self) -> Value {
        self.rest().await;
        let body = json!({"worker_id": "w", "kinds": ["video_analysis"]});
        self.post("/internal/work/claim", &body).await.ok()["items"][0].clone()
    }
}

#[tokio::test]
async fn an_analysis_is_accepted_at_once_and_says_where_it_is() {
    let bench = Bench::new().await;
    let answer =
        bench.post(START, &json!({"url": "https://twitch.tv/videos/2039", "options": {"a": 1}})).await;
    assert_eq!(answer.status, 202);
    assert_eq!(answer.location, Some(format!("/api/v1/analysis/{}", id(&answer.body))));
    assert_eq!(answer.body["id"], answer.body["job_id"]);
    assert_eq!(answer.body["video_id"], "2039");
    assert_eq!(answer.body["url"], "https://twitch.tv/videos/2039");
    assert_eq!((&answer.body["status"], &answer.body["phase"]), (&json!("pending"), &json!("queued")));
    assert_eq!((&answer.body["current_stage"], &answer.body["attempt"]), (&json!("Queued"), &json!(1)));
    assert_eq!((&answer.body["progress_percentage"], &answer.body["position"]), (&json!(0.0), &json!(1)));
    let item = bench.analyse().await;
    let source = json!({
        "type": "video", "video_id": "2039", "url": "https://twitch.tv/videos/2039", "options": {"a": 1},
    });
    assert_eq!((&item["kind"], &item["source"]), (&json!("video_analysis"), &source));
}

#[tokio::test]
async fn a_url_that_names_no_recording_is_refused_with_what_is_wrong() {
    let bench = Bench::new().await;
    for (url, wrong) in [
        ("http://www.twitch.tv/videos/2039", "https://"),
        ("https://www.youtube.com/watch?v=1", "host"),
        ("https://www.twitch.tv/somebody", "recording"),
        ("https://www.twitch.tv/videos/2039?t=1", "leave out"),
        ("https://www.twitch.tv/videos/x", "number"),
    ] {
        let answer = bench.post(START, &json!({"url": url})).await;
        assert_eq!(answer.fields(), ["url"]);
        let reason = answer.body["errors"][0]["reason"].as_str().unwrap();
        assert!(reason.contains(wrong), "{url}: {reason}");
        answer.refused(422, "UNPROCESSABLE");
    }
    bench.post(START, &json!({})).await.refused(400, "INVALID_REQUEST");
    bench.post(START, &json!({"url": 7})).await.refused(400, "INVALID_REQUEST");
    assert_eq!(bench.head(), 0);
}

#[tokio::test]
async fn a_video_that_is_under_way_is_not_begun_again_for_the_tenant() {
    let bench = Bench::new().await;
    let first = bench.start(2039).await.ok();
    let item = bench.analyse().await;
    let progress = json!({"stage": "transcribing", "fraction": 0.25});
    bench.post(format!("/internal/work/{}/progress", lease(&item)), &progress).await.ok();
    let again = bench.post(START, &json!({"url": "https://twitch.tv/videos/2039"})).await;
    assert_eq!((again.status, id(&again.body)), (200, id(&first)));
    assert_eq!(again.location, Some(format!("/api/v1/analysis/{}", id(&first))));
    assert_eq!(
        (&again.body["status"], &again.body["current_stage"]),
        (&json!("running"), &json!("Transcribing"))
    );
    assert_eq!(again.body["progress_percentage"], 42.5);
    let other = bench.call("POST", START).tenant("other").body(&video(2039)).send().await;
    assert_eq!(other.status, 202);
    assert_ne!(id(&other.body), id(&first));
    assert_eq!(bench.start(2040).await.status, 202);
    assert_eq!(bench.count("JobCreated").await, 3);
}

#[tokio::test]
async fn a_video_is_analysed_again_once_the_job_that_was_on_it_has_ended() {
    let bench = Bench::new().await;
    let mut ids = Vec::new();
    for round in 0..9 {
        let answer = bench.start(2039).await;
        assert_eq!(answer.status, 202, "round {round}");
        ids.push(id(&answer.body).to_owned());
        assert_eq!(bench.start(2039).await.status, 200);
        match round % 3 {
            0 => {
                bench.post(format!("{START}/{}/cancel", ids[round]), &json!({})).await.ok();
            }
            1 => {
                let item = bench.analyse().await;
                bench.post(format!("/internal/work/{}/complete", lease(&item)), &json!({})).await.ok();
            }
            _ => {
                let item = bench.analyse().await;
                let error = json!({"error": "video not found"});
                bench.post(format!("/internal/work/{}/fail", lease(&item)), &error).await.ok();
            }
        }
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 9);
}

#[tokio::test]
async fn of_a_video_only_the_latest_analysis_may_be_taken_up_again() {
    let bench = Bench::new().await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        ids.push(id(&bench.start(2039).await.ok()).to_owned());
        let item = bench.analyse().await;
        let error = json!({"error": "video not found"});
        bench.post(format!("/internal/work/{}/fail", lease(&item)), &error).await.ok();
    }
    let retry = |n: usize| format!("/jobs/{}/retry", ids[n]);
    let refused = bench.post(retry(0), &json!({})).await.refused(409, "CONFLICT");
    assert!(refused["detail"].as_str().unwrap().contains(&ids[1]), "{refused}");
    bench.post(retry(1), &json!({})).await.ok();
    assert_eq!(id(&bench.start(2039).await.ok()), ids[1]);
}

#[tokio::test]
async fn an_analysis_that_waits_for_its_retry_is_under_way() {
    let bench = Bench::new().await;
    let first = bench.start(2039).await.ok();
    let item = bench.analyse().await;
    let error = json!({"error": "read timed out"});
    bench.post(format!("/internal/work/{}/fail", lease(&item)), &error).await.ok();
    let again = bench.start(2039).await;
    assert_eq!((again.status, id(&again.body)), (200, id(&first)));
    assert_eq!(again.body["attempt"], 2);
}

#[tokio::test]
async fn of_many_who_ask_for_the_same_video_at_once_one_begins_and_all_get_the_same_job() {
    let bench = Bench::new().await;
    let answers = join_all((0..32).map(|_| bench.start(2039))).await;
    let accepted = answers.iter().filter(|answer| answer.status == 202).count();
    assert_eq!((accepted, answers.iter().filter(|answer| answer.status == 200).count()), (1, 31));
    assert!(answers.iter().all(|answer| id(&answer.body) == id(&answers[0].body)));
    assert_eq!(bench.count("JobCreated").await, 1);
}

#[tokio::test]
async fn two_servers_over_one_log_begin_the_same_video_once() {
    let bench = Bench::new().await;
    let other = bench.beside().await;
    let both = (0..16).flat_map(|_| [bench.start(2039), other.start(2039)]);
    let answers = join_all(both).await;
    assert!(answers.iter().all(|answer| id(&answer.body) == id(&answers[0].body)));
    assert_eq!(bench.count("JobCreated").await, 1);
}

#[tokio::test]
async fn a_key_answers_as_the_first_time_even_after_the_job_has_ended() {
    let bench = Bench::new().await;
    let send = async |bench: &Bench, body: &Value| bench.call("POST", START).key("k").body(body).send().await;
    let first = send(&bench, &video(2039)).await;
    assert_eq!(send(&bench, &video(2039)).await, first);
    bench.post(format!("{START}/{}/cancel", id(&first.body)), &json!({})).await.ok();
    assert_eq!(send(&bench, &video(2039)).await, first);
    let bench = bench.restarted().await;
    assert_eq!(send(&bench, &video(2039)).await, first);
    send(&bench, &video(2040)).await.refused(422, "IDEMPOTENCY_KEY_REUSED");
    assert_eq!(bench.count("JobCreated").await, 1);
    let keyed = join_all((0..8).map(|_| bench.call("POST", START).key("l").body(&video(2039)).send())).await;
    assert!(keyed.iter().all(|answer| answer == &keyed[0] && answer.status == 202));
    assert_eq!(bench.count("JobCreated").await, 2);
}

#[tokio::test]
async fn a_tenant_has_only_so_many_analyses_under_way() {
    let bench = Bench::with_analyses_max(3).await;
    let mut ids = Vec::new();
    for number in 0..3 {
        ids.push(id(&bench.start(number).await.ok()).to_owned());
    }
    bench.start(3).await.refused(429, "RATE_LIMITED");
    assert_eq!(bench.start(1).await.status, 200);
    let other = bench.call("POST", START).tenant("other").body(&video(3)).send().await;
    assert_eq!(other.status, 202);
    bench.post(format!("{START}/{}/cancel", ids[0]), &json!({})).await.ok();
    assert_eq!(bench.start(3).await.status, 202);
    bench.start(4).await.refused(429, "RATE_LIMITED");
    let bench = bench.restarted().await;
    bench.start(4).await.refused(429, "RATE_LIMITED");
    // A job that has failed for good makes room, and takes it again when it is taken up.
    let item = bench.analyse().await;
    let error = json!({"error": "private video"});
    bench.post(format!("/internal/work/{}/fail", lease(&item)), &error).await.ok();
    assert_eq!(bench.start(4).await.status, 202);
    bench.post(format!("/jobs/{}/retry", item["job_id"].as_str().unwrap()), &json!({})).await.ok();
    bench.post(format!("{START}/{}/cancel", ids[2]), &json!({})).await.ok();
    bench.start(5).await.refused(429, "RATE_LIMITED");
}

#[tokio::test]
async fn a_cancelled_analysis_takes_nothing_more_and_is_cancelled_once() {
    let bench = Bench::new().await;
    let started = bench.start(2039).await.ok();
    let item = bench.analyse().await;
    let cancel = format!("{START}/{}/cancel", id(&started));
    let cancelled = bench.call("POST", &cancel).key("c").send().await;
    assert_eq!((cancelled.status, &cancelled.body["status"]), (200, &json!("cancelled")));
    assert_eq!(bench.call("POST", &cancel).key("c").send().await, cancelled);
    assert_eq!(bench.post(&cancel, &json!({})).await, cancelled);
    assert_eq!(bench.count("JobCancelled").await, 1);
    bench.rest().await;
    let work = format!("/internal/work/{}", lease(&item));
    bench.post(format!("{work}/heartbeat"), &json!({})).await.refused(409, "CONFLICT");
    let progress = json!({"stage": "downloading", "fraction": 0.5});
    bench.post(format!("{work}/progress"), &progress).await.refused(409, "CONFLICT");
    bench.post(format!("{work}/complete"), &json!({})).await.refused(409, "CONFLICT");
}

#[tokio::test]
async fn what_is_not_the_tenants_or_no_analysis_is_not_there_to_cancel() {
    let bench = Bench::new().await;
    let started = bench.start(2039).await.ok();
    let cancel = format!("{START}/{}/cancel", id(&started));
    bench.call("POST", &cancel).tenant("other").send().await.refused(404, "NOT_FOUND");
    let job = bench.post("/jobs", &json!({})).await.ok();
    bench.post(format!("{START}/{}/cancel", id(&job)), &json!({})).await.refused(404, "NOT_FOUND");
    bench.post(format!("{START}/x/cancel"), &json!({})).await.refused(404, "NOT_FOUND");
}

#[tokio::test]
async fn who_leads_jobs_may_ask_for_an_analysis_and_workers_and_auditors_may_not() {
    let bench = Bench::with_keys().await;
    bench.call("POST", START).body(&video(1)).send().await.refused(401, "UNAUTHORIZED");
    for role in [Role::Worker, Role::Auditor] {
        bench.call("POST", START).roles("w", role).body(&video(1)).send().await.refused(403, "FORBIDDEN");
        let cancel = format!("{START}/018f0000-0000-7000-8000-000000000001/cancel");
        bench.call("POST", cancel).roles("w", role).send().await.refused(403, "FORBIDDEN");
    }
    for (n, role) in (1..).zip([Role::User, Role::Service, Role::Admin]) {
        let started = bench.call("POST", START).roles("a", role).body(&video(n)).send().await.ok();
        let cancel = format!("{START}/{}/cancel", id(&started));
        bench.call("POST", cancel).roles("a", role).send().await.ok();
    }
}
