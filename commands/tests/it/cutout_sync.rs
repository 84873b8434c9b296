//! Syncs of cutouts from an upstream, over HTTP.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use commands::ExternalServices;
use commands::cutout_sync::upstream::{CutoutUpstream, Settings};
use event_schemas::envelope::Event;
use event_schemas::failure::FailureCode;
use event_schemas::job::{JobEvent, JobSource};
use poem::http::{StatusCode, header};
use poem::listener::{Acceptor, Listener, TcpListener};
use poem::{EndpointExt, Request, Response, Server, endpoint};
use serde_json::{Value, json};
use tokio::sync::watch;
use web::caller::Role;

use crate::support::{TestApp, TestResponse};

const SYNC: &str = "/api/v1/cutouts/sync";

/// A response of the upstream.
type Answer = (StatusCode, Vec<(&'static str, String)>, Value);

/// A stand-in upstream: it answers the `n`th call, counted from 1, with what the function returns.
#[derive(Clone)]
struct Upstream {
    calls: Arc<Mutex<Vec<String>>>,
    /// The number of calls that it answers; later ones wait.
    answered: watch::Sender<usize>,
    url: String,
}

impl Upstream {
    async fn start(answer: impl Fn(usize, &str) -> Answer + Send + Sync + 'static) -> Self {
        let calls: Arc<Mutex<Vec<String>>> = Arc::default();
        let (answered, answer) = (watch::Sender::new(usize::MAX), Arc::new(answer));
        let (log, gate) = (calls.clone(), answered.clone());
        let endpoint = endpoint::make(move |request: Request| {
            let (log, mut gate, answer) = (log.clone(), gate.subscribe(), answer.clone());
            async move {
                let token = request.header(header::AUTHORIZATION).unwrap_or("none");
                let line = format!("{} {token}", request.original_uri().path_and_query().unwrap());
                let call = {
                    let mut log = log.lock().unwrap();
                    log.push(line.clone());
                    log.len()
                };
                gate.wait_for(|answered| *answered >= call).await.unwrap();
                let (status, headers, body) = answer(call, &line);
                let response = headers
                    .into_iter()
                    .fold(Response::builder(), |response, (name, value)| response.header(name, value));
                response.status(status).body(body.to_string())
            }
        });
        let acceptor = TcpListener::bind("127.0.0.1:0").into_acceptor().await.unwrap();
        let address = acceptor.local_addr()[0].as_socket_addr().copied().unwrap();
        tokio::spawn(Server::new_with_acceptor(acceptor).run(endpoint.map_to_response()));
        Self { calls, answered, url: format!("http://{address}/v1/cutouts?shop=7") }
    }

    fn services(&self) -> ExternalServices {
        let (url, token) = (self.url.clone(), Some("secret".to_owned()));
        let settings = Settings { url, token, page_size: 2, timeout: Duration::from_secs(60) };
        let cutouts = Some(CutoutUpstream::new(&settings).unwrap());
        ExternalServices { cutouts, ..ExternalServices::default() }
    }

    fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }

    async fn until_called(&self, times: usize) {
        while self.calls().len() < times {
            tokio::task::yield_now().await;
        }
    }
}

fn page(ids: &[u64], has_more: bool) -> Answer {
    let item = |id: &u64| json!({"id": id, "image_url": format!("/{id}.jpg")});
    let items: Vec<Value> = ids.iter().map(item).collect();
    (StatusCode::OK, Vec::new(), json!({"items": items, "has_more": has_more, "total": 5}))
}

/// The five cutouts 1 to 5 in pages of two, by number.
fn by_number(line: &str) -> Answer {
    match line {
        line if line.contains("page=1") => page(&[1, 2], true),
        line if line.contains("page=2") => page(&[3, 4], true),
        _ => page(&[5], false),
    }
}

fn status(status: StatusCode) -> Answer {
    (status, Vec::new(), json!({"error": "text of the upstream"}))
}

async fn sync(app: &TestApp) -> TestResponse {
    app.call("POST", SYNC).send().await
}

async fn of_jobs(app: &TestApp) -> Vec<JobEvent> {
    let of_job = |event| match event {
        Event::Job(event) => Some(event),
        _ => None,
    };
    app.events().await.into_iter().filter_map(|envelope| of_job(envelope.event)).collect()
}

async fn result(app: &TestApp) -> Value {
    match of_jobs(app).await.pop() {
        Some(JobEvent::JobCompleted(completed)) => completed.result.unwrap().to_value(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn sync_reads_all_pages_and_answers_with_its_job() {
    let upstream = Upstream::start(|_, line| by_number(line)).await;
    let app = TestApp::with_external_services(upstream.services()).await;
    upstream.answered.send_replace(1);
    let started = sync(&app).await;
    assert_eq!((started.status, &started.body["kind"]), (202, &json!("cutout_sync")));
    let id = started.body["id"].as_str().unwrap().to_owned();
    assert_eq!(started.location, Some(format!("/jobs/{id}")));
    upstream.until_called(2).await;
    let again = app.post(SYNC, &json!({"from_start": true})).await;
    assert_eq!((again.status, again.body["id"].as_str()), (200, Some(id.as_str())));
    upstream.answered.send_replace(usize::MAX);
    app.until_recorded("JobCompleted", 1).await;
    let expected = json!({"fetched": 5, "new": 5, "changed": 0, "unchanged": 0, "failed": 0, "pages": 3, "failures": []});
    assert_eq!(result(&app).await, expected);
    let called =
        |page: u32| format!("/v1/cutouts?shop=7&tenant=default&limit=2&sort=id&page={page} Bearer secret");
    assert_eq!(upstream.calls(), [1, 2, 3].map(called));
    assert_eq!(app.count("CutoutSynced").await, 5);
    // The next one is another job, and records no cutout again.
    let next = sync(&app).await;
    assert_eq!(next.status, 202);
    assert_ne!(next.body["id"], started.body["id"]);
    app.until_recorded("JobCompleted", 2).await;
    assert_eq!(result(&app).await["unchanged"], 5);
    assert_eq!(app.count("CutoutSynced").await, 5);
}

#[tokio::test]
async fn sync_without_an_upstream_says_how_to_configure_one() {
    let app = TestApp::new().await;
    let problem = sync(&app).await.refused(422, "UNPROCESSABLE");
    assert!(problem["detail"].as_str().unwrap().contains("--cutouts-upstream"), "{problem}");
    for wrong in [json!([]), json!({"from_start": 1})] {
        app.post(SYNC, &wrong).await.refused(400, "INVALID_REQUEST");
    }
    let untyped = app.call("POST", SYNC).untyped("{}").send().await;
    untyped.refused(415, "UNSUPPORTED_MEDIA_TYPE");
    assert_eq!(app.head(), 0);
}

#[tokio::test]
async fn sync_is_for_services_and_admins() {
    let upstream = Upstream::start(|_, line| by_number(line)).await;
    let app = TestApp::with_keys().await.with_services(upstream.services()).await;
    app.call("POST", SYNC).roles("ann", Role::User).send().await.refused(403, "FORBIDDEN");
    app.call("POST", SYNC).roles("w", Role::Worker).send().await.refused(403, "FORBIDDEN");
    assert_eq!(app.call("POST", SYNC).roles("shop", Role::Service).send().await.status, 202);
}

#[tokio::test]
async fn cancelled_sync_is_continued_where_it_stopped() {
    let upstream = Upstream::start(|_, line| by_number(line)).await;
    let app = TestApp::with_external_services(upstream.services()).await;
    upstream.answered.send_replace(2);
    let job = sync(&app).await.body["id"].as_str().unwrap().to_owned();
    upstream.until_called(3).await;
    app.post(format!("/jobs/{job}/cancel"), &json!({})).await.ok();
    upstream.answered.send_replace(usize::MAX);
    sync(&app).await;
    app.until_recorded("JobCompleted", 1).await;
    let counts = result(&app).await;
    assert_eq!((&counts["fetched"], &counts["new"]), (&json!(1), &json!(1)));
    // The page before the third one shows that no cutout has moved.
    let pages: Vec<char> =
        upstream.calls().iter().filter_map(|line| line.split("page=").nth(1)?.chars().next()).collect();
    assert_eq!(pages, ['1', '2', '3', '3', '2', '3']);
    app.post(SYNC, &json!({"from_start": true})).await;
    app.until_recorded("JobCompleted", 2).await;
    assert_eq!(result(&app).await["fetched"], 5);
    let sources = of_jobs(&app).await.into_iter().filter_map(|event| match event {
        JobEvent::JobCreated(created) => created.source,
        _ => None,
    });
    let started_at: Vec<Value> = sources
        .map(|source| match source {
            JobSource::ServerWork { options } => options.to_value()["continue_at"]["page"].clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(started_at, [Value::Null, json!(3), Value::Null]);
}

#[tokio::test]
async fn workers_cannot_report_on_work_of_the_server() {
    let upstream = Upstream::start(|_, line| by_number(line)).await;
    let app = TestApp::with_external_services(upstream.services()).await;
    upstream.answered.send_replace(0);
    let job = sync(&app).await.body["id"].as_str().unwrap().to_owned();
    upstream.until_called(1).await;
    app.put(format!("/jobs/{job}/phase"), &json!({"phase": "completed"})).await.refused(409, "CONFLICT");
    let lease = of_jobs(&app).await.into_iter().find_map(|event| match event {
        JobEvent::JobClaimed(claimed) => Some(claimed.lease_id),
        _ => None,
    });
    let path = |route: &str| format!("/internal/work/{}/{route}", lease.unwrap());
    app.call("POST", path("heartbeat")).send().await.refused(404, "NOT_FOUND");
    app.post(path("complete"), &json!({"result": {}})).await.refused(404, "NOT_FOUND");
    app.post(path("fail"), &json!({"error": "x"})).await.refused(404, "NOT_FOUND");
    let progress = json!({"stage": "processing", "fraction": 0.5});
    app.post(path("progress"), &progress).await.refused(404, "NOT_FOUND");
    upstream.answered.send_replace(usize::MAX);
    app.until_recorded("JobCompleted", 1).await;
}

#[tokio::test]
async fn rate_limit_waits_for_the_header_of_the_upstream() {
    let upstream = Upstream::start(|call, line| match call {
        2 => (StatusCode::TOO_MANY_REQUESTS, vec![("retry-after", "9".to_owned())], Value::Null),
        _ => by_number(line),
    })
    .await;
    let app = TestApp::with_external_services(upstream.services()).await;
    let start = app.clock.now();
    sync(&app).await;
    upstream.until_called(2).await;
    while app.clock.next_sleeper() != Some(start.after(Duration::from_secs(9))) {
        tokio::task::yield_now().await;
    }
    app.advance(8).await;
    assert_eq!(upstream.calls().len(), 2);
    app.advance(1).await;
    app.until_recorded("JobCompleted", 1).await;
    assert_eq!(upstream.calls().len(), 4);
    assert_eq!(app.count("JobFailed").await, 0);
}

#[tokio::test]
async fn expired_token_of_a_page_is_replaced_by_its_number() {
    let upstream = Upstream::start(|call, line| {
        let with_token = |(status, headers, mut body): Answer, token: &str| {
            body["next_cursor"] = token.into();
            (status, headers, body)
        };
        match call {
            1 => with_token(by_number(line), "a"),
            2 => status(StatusCode::GONE),
            3 | 4 => with_token(by_number(line), "b"),
            5 => with_token(page(&[3, 4], true), "c"),
            _ => page(&[5], false),
        }
    })
    .await;
    let app = TestApp::with_external_services(upstream.services()).await;
    sync(&app).await;
    app.until_recorded("JobCompleted", 1).await;
    let calls = upstream.calls();
    let asked: Vec<&str> = calls.iter().map(|line| line.split("sort=id&").nth(1).unwrap()).collect();
    let expected = ["page=1", "cursor=a", "page=2", "page=1", "cursor=b", "cursor=c"];
    assert_eq!(asked, expected.map(|place| format!("{place} Bearer secret")));
    assert_eq!(app.count("CutoutSynced").await, 5, "{calls:?}");
}

#[tokio::test]
async fn refusals_of_the_upstream_name_the_setting() {
    for (code, failure, setting) in [
        (StatusCode::UNAUTHORIZED, FailureCode::ServiceAuthentication, "--cutouts-token-file"),
        (StatusCode::FORBIDDEN, FailureCode::ServiceAuthentication, "--cutouts-token-file"),
        (StatusCode::NOT_FOUND, FailureCode::InvalidUrl, "--cutouts-upstream"),
        (StatusCode::FOUND, FailureCode::InvalidUrl, "--cutouts-upstream"),
    ] {
        let upstream = Upstream::start(move |_, _| status(code)).await;
        let app = TestApp::with_external_services(upstream.services()).await;
        sync(&app).await;
        app.until_recorded("JobFailed", 1).await;
        let Some(JobEvent::JobFailed(failed)) = of_jobs(&app).await.pop() else { panic!("{code}") };
        assert_eq!((failed.error.code, failed.error.retryable), (failure, false), "{:?}", failed.error);
        let message = failed.error.message;
        assert!(message.contains(setting) && !message.contains("text of the upstream"), "{message}");
        assert_eq!(upstream.calls().len(), 1);
    }
}

#[tokio::test]
async fn page_that_cannot_be_read_is_asked_for_again() {
    let upstream = Upstream::start(|call, line| match call {
        1 => status(StatusCode::BAD_GATEWAY),
        2 => (StatusCode::OK, Vec::new(), json!("no page")),
        3 => (StatusCode::OK, Vec::new(), json!({"items": []})),
        _ => by_number(line),
    })
    .await;
    let app = TestApp::with_external_services(upstream.services()).await;
    sync(&app).await;
    for call in 1..=3 {
        upstream.until_called(call).await;
        let due = Duration::from_secs(1 << (call - 1));
        while app.clock.next_sleeper() != Some(app.clock.now().after(due)) {
            tokio::task::yield_now().await;
        }
        app.advance(due.as_secs()).await;
    }
    app.until_recorded("JobCompleted", 1).await;
    assert_eq!(app.count("CutoutSynced").await, 5);
    assert_eq!(app.count("JobFailed").await, 0);
}
