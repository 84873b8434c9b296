use std::time::Duration;

use futures_util::StreamExt;
use poem::http::{Method, StatusCode};
use poem::test::{TestClient, TestResponse};
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::{Binary, PlainText};
use poem_openapi::{OpenApi, OpenApiService};
use serde_json::{Value, json};

use crate::caller::{Auth, Caller, CallerLimits, Claims, Keys, Now, Role, Roles, mint};
use crate::json::Json;
use crate::problem::Problem;
use crate::routes::{RouteLimits, Routes};
use crate::serve::{Layers, Settings, layers};
use crate::shutdown::Shutdown;
use crate::sse::{self, StreamResponse};

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

struct Things;

#[OpenApi]
impl Things {
    #[oai(path = "/things/:id/stream", method = "get")]
    async fn stream(&self, _caller: Caller, id: Path<String>) -> Result<StreamResponse<Value>, Problem> {
        if id.0 == "unknown" {
            return Err(Problem::not_found("no such thing"));
        }
        let events = sse::stream(&json!({}), &Shutdown::never(), |sender| async move {
            let _sender = sender;
            std::future::pending::<()>().await;
        });
        Ok(StreamResponse::Open(events))
    }

    #[oai(path = "/things/:id", method = "get")]
    async fn read(
        &self,
        _caller: Caller,
        id: Path<String>,
        #[oai(name = "force_refresh")] _force_refresh: Query<Option<String>>,
        #[oai(name = "as_of")] _as_of: Query<Option<String>>,
    ) -> Result<Json<String>, Problem> {
        Ok(Json(id.0))
    }

    #[oai(path = "/things/:id", method = "put")]
    async fn write(&self, _caller: Caller, id: Path<String>) -> Result<Json<String>, Problem> {
        Ok(Json(id.0))
    }

    #[oai(path = "/poll", method = "post")]
    async fn poll(&self, _caller: Caller, body: PlainText<String>) -> Result<Json<String>, Problem> {
        tokio::time::sleep(Duration::from_secs(60)).await;
        Ok(Json(body.0))
    }

    #[oai(path = "/slow", method = "get")]
    async fn slow(&self, _caller: Caller) -> Result<Json<String>, Problem> {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(Json("done".to_owned()))
    }

    #[oai(path = "/audit/lines", method = "get")]
    async fn lines(&self, _caller: Caller) -> Result<Lines, Problem> {
        Ok(Lines::Open(Binary(poem::Body::from_bytes_stream(futures_util::stream::iter(
            ["1\n", "2\n", "3\n"].map(Ok::<_, std::io::Error>),
        )))))
    }

    #[oai(path = "/ready", method = "get")]
    async fn ready(&self) -> Result<Json<String>, Problem> {
        Ok(Json("ready".to_owned()))
    }
}

#[derive(poem_openapi::ApiResponse)]
enum Lines {
    #[oai(status = 200, content_type = "application/x-ndjson")]
    Open(Binary<poem::Body>),
}

fn now() -> event_schemas::time::Timestamp {
    "2026-11-20T10:00:00Z".parse().unwrap()
}

fn keys() -> Auth {
    Auth::with_keys(Keys::default().secret(SECRET).unwrap(), vec![], Now::new(now))
}

fn client(auth: &Auth, caller_limits: CallerLimits) -> TestClient<Layers> {
    let service = OpenApiService::new(Things, "things", "1");
    let routes = Routes::from_document(&crate::openapi::document(&service.spec()).unwrap());
    let routes = routes.limits("/poll", RouteLimits::LongPoll).unwrap();
    let settings = Settings { caller_limits, ..Settings::new(auth.clone(), routes) };
    TestClient::new(layers(service, settings))
}

fn token(roles: impl Into<Roles>) -> String {
    token_of("ann", roles)
}

fn token_of(user: &str, roles: impl Into<Roles>) -> String {
    let claims = Claims::new(&"acme".parse().unwrap(), user, roles.into(), now(), Duration::from_secs(60));
    mint(SECRET, &claims).unwrap()
}

fn bearer() -> String {
    format!("Bearer {}", token(Role::User))
}

/// A ticket of ann's.
fn ticket(auth: &Auth, path: Option<&str>) -> String {
    let request = poem::Request::builder().header("authorization", bearer()).finish();
    let caller = auth.caller(&request).unwrap();
    auth.ticket(caller, path.map(str::to_owned)).unwrap().ticket
}

async fn status(client: &TestClient<Layers>, method: Method, path: &str) -> u16 {
    client.request(method, path).send().await.0.status().as_u16()
}

fn names(body: &str) -> Vec<&str> {
    body.lines().filter_map(|line| line.strip_prefix("event: ")).collect()
}

async fn events(response: TestResponse) -> Vec<String> {
    let body = response.0.into_body().into_string().await.unwrap();
    names(&body).into_iter().map(str::to_owned).collect()
}

#[tokio::test]
async fn ticket_opens_nothing_but_streams() {
    let auth = keys();
    let client = client(&auth, CallerLimits::default());
    let ticket = ticket(&auth, None);
    for (method, path) in [
        (Method::GET, "/things/a"),
        (Method::PUT, "/things/a"),
        (Method::POST, "/poll"),
        (Method::POST, "/things/a/stream"),
        (Method::PUT, "/things/a/stream"),
    ] {
        let answer = status(&client, method.clone(), &format!("{path}?ticket={ticket}")).await;
        assert!(matches!(answer, 401 | 405), "{method} {path}: {answer}");
    }
    assert_eq!(status(&client, Method::GET, &format!("/things/a/stream?ticket={ticket}")).await, 200);
}

#[tokio::test]
async fn failed_stream_and_head_do_not_use_a_ticket_up() {
    let auth = keys();
    let client = client(&auth, CallerLimits::default());
    let ticket = ticket(&auth, None);
    for (method, id, expected) in [
        (Method::GET, "unknown", 404),
        (Method::HEAD, "a", 200),
        (Method::HEAD, "b", 200),
        (Method::GET, "a", 200),
        (Method::GET, "b", 401),
        (Method::GET, "a", 200),
    ] {
        let path = format!("/things/{id}/stream?ticket={ticket}");
        assert_eq!(status(&client, method.clone(), &path).await, expected, "{method} {id}");
    }
}

#[tokio::test(start_paused = true)]
async fn long_polls_of_a_caller_take_places_of_streams() {
    let client = client(&keys(), CallerLimits { streams: Some(2), ..CallerLimits::default() });
    let poll = || {
        let request = client.post("/poll").header("authorization", bearer()).content_type("text/plain");
        async { request.body("a").send().await.0.status() }
    };
    let statuses = futures_util::future::join_all([poll(), poll(), poll()]).await;
    assert_eq!(statuses, [StatusCode::OK, StatusCode::OK, StatusCode::TOO_MANY_REQUESTS]);
    assert_eq!(poll().await, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn ninth_read_of_a_caller_waits_and_others_do_not() {
    let client = client(&keys(), CallerLimits::default());
    let started = tokio::time::Instant::now();
    let read = |token: String| {
        let request = client.get("/slow").header("authorization", token);
        async move {
            request.send().await.assert_status_is_ok();
            started.elapsed().as_secs()
        }
    };
    let of_ann: Vec<_> = (0..9).map(|_| read(bearer())).collect();
    let (of_ann, of_bob) = tokio::join!(
        futures_util::future::join_all(of_ann),
        read(format!("Bearer {}", token_of("bob", Role::User)))
    );
    assert_eq!(of_ann, [1, 1, 1, 1, 1, 1, 1, 1, 2]);
    assert_eq!(of_bob, 1);
}

#[tokio::test]
async fn reader_that_stops_reading_lines_leaves_their_turn_to_others() {
    let client = client(&keys(), CallerLimits::default());
    let read = || client.get("/audit/lines").header("authorization", bearer()).send();
    let mut stopped = Vec::new();
    for _ in 0..20 {
        let mut lines = read().await.0.into_body().into_bytes_stream();
        assert_eq!(lines.next().await.unwrap().unwrap(), "1\n");
        stopped.push(lines);
    }
    read().await.assert_text("1\n2\n3\n").await;
    for mut lines in stopped {
        assert_eq!(lines.next().await.unwrap().unwrap(), "2\n");
    }
}

#[tokio::test]
async fn ticket_of_one_stream_opens_no_other() {
    let auth = keys();
    let client = client(&auth, CallerLimits::default());
    let ticket = ticket(&auth, Some("/things/a/stream"));
    assert_eq!(status(&client, Method::GET, &format!("/things/b/stream?ticket={ticket}")).await, 401);
    assert_eq!(status(&client, Method::GET, &format!("/things/a/stream?ticket={ticket}")).await, 200);
}

#[tokio::test]
async fn reconnect_replaces_the_stream_of_the_ticket() {
    let auth = keys();
    let client = client(&auth, CallerLimits::default());
    let path = format!("/things/a/stream?ticket={}", ticket(&auth, None));
    let first = client.get(&path).send().await;
    let _second = client.get(&path).send().await;
    assert_eq!(events(first).await, ["replaced"]);
}

#[tokio::test(start_paused = true)]
async fn stream_ends_when_its_token_expires() {
    let auth = keys();
    let client = client(&auth, CallerLimits::default());
    let ticket = ticket(&auth, None);
    let by_ticket = client.get(format!("/things/a/stream?ticket={ticket}")).send().await;
    let by_token = client.get("/things/a/stream").header("authorization", bearer()).send().await;
    let start = tokio::time::Instant::now();
    for received in <[_; 2]>::from(tokio::join!(events(by_ticket), events(by_token))) {
        assert_eq!(received, ["connected", "token_expired"]);
    }
    assert_eq!(start.elapsed().as_secs(), 60);
}

#[tokio::test]
async fn caller_without_a_role_has_no_rights() {
    let client = client(&keys(), CallerLimits::default());
    let bearer = format!("Bearer {}", token(Roles::NONE));
    for (method, path) in
        [(Method::GET, "/things/a"), (Method::PUT, "/things/a"), (Method::GET, "/things/a/stream")]
    {
        let answer = client.request(method, path).header("authorization", &bearer).send().await;
        answer.assert_status(StatusCode::FORBIDDEN);
    }
}

#[tokio::test]
async fn page_of_another_origin_changes_nothing() {
    let client = client(&Auth::open(Now::new(now)), CallerLimits::default());
    for (method, path) in [
        (Method::PUT, "/things/a"),
        (Method::POST, "/poll"),
        (Method::DELETE, "/nothing"),
        (Method::PATCH, "/things/a"),
        (Method::GET, "/things/a/stream"),
        (Method::GET, "/things/a?as_of=1"),
    ] {
        for (name, value) in
            [("origin", "http://evil.example"), ("origin", "null"), ("sec-fetch-site", "cross-site")]
        {
            let answer = client.request(method.clone(), path).header("host", "localhost").header(name, value);
            answer.send().await.assert_status(StatusCode::FORBIDDEN);
        }
    }
    let link = client.get("/things/a").header("host", "localhost").header("sec-fetch-site", "cross-site");
    link.send().await.assert_status_is_ok();
}

#[tokio::test(start_paused = true)]
async fn body_of_a_long_poll_must_arrive_in_time() {
    let client = client(&keys(), CallerLimits::default());
    let poll = |body| {
        let request = client.post("/poll").header("authorization", bearer()).content_type("text/plain");
        request.body(body).send()
    };
    let slow = futures_util::stream::iter([Ok::<_, std::io::Error>(bytes::Bytes::from_static(b"a"))]);
    let slow = poem::Body::from_bytes_stream(slow.chain(futures_util::stream::pending()));
    poll(slow).await.assert_status(StatusCode::REQUEST_TIMEOUT);
    poll("a".into()).await.assert_status_is_ok();
}

#[tokio::test]
async fn caller_over_its_quota_gets_429() {
    let limits = CallerLimits { requests_per_minute: Some(2), ..CallerLimits::default() };
    let client = client(&keys(), limits);
    let read = || client.get("/things/a").header("authorization", bearer()).send();
    let first = read().await;
    first.assert_header("ratelimit-policy", "\"requests\";q=2;w=60");
    first.assert_header("ratelimit", "\"requests\";r=1;t=30");
    read().await.assert_status_is_ok();
    let refused = read().await;
    refused.assert_status(StatusCode::TOO_MANY_REQUESTS);
    refused.assert_content_type("application/problem+json");
    refused.assert_header("retry-after", "30");
    client.get("/ready").header("authorization", bearer()).send().await.assert_status_is_ok();
}

#[tokio::test]
async fn escaped_name_of_a_costly_parameter_has_the_same_quota() {
    let limits = CallerLimits { costly_reads_per_minute: Some(1), ..CallerLimits::default() };
    let client = client(&keys(), limits);
    let read =
        |query: &str| client.get(format!("/things/a?{query}")).header("authorization", bearer()).send();
    read("force_refresh=false").await.assert_header_is_not_exist("ratelimit");
    read("force%5Frefresh=true").await.assert_status_is_ok();
    for query in ["as_of=7", "%61s_of=7", "force_refresh=true", "force_refresh=1"] {
        read(query).await.assert_status(StatusCode::TOO_MANY_REQUESTS);
    }
}

#[tokio::test]
async fn unknown_parameter_is_refused_once_the_caller_is_known() {
    let client = client(&keys(), CallerLimits::default());
    let refused = client.get("/things/a?as_off=7").header("authorization", bearer()).send().await;
    refused.assert_status(StatusCode::BAD_REQUEST);
    let refused = client.put("/things/a?ticket=t").header("authorization", bearer()).send().await;
    refused.assert_status(StatusCode::BAD_REQUEST);
    client.put("/things/a?ticket=t").send().await.assert_status(StatusCode::UNAUTHORIZED);
    client.get("/ready?probe=7").send().await.assert_status_is_ok();
}

#[tokio::test]
async fn caller_with_too_many_streams_gets_429() {
    let limits = CallerLimits { streams: Some(1), ..CallerLimits::default() };
    let client = client(&keys(), limits);
    let open = || client.get("/things/a/stream").header("authorization", bearer()).send();
    let first = open().await;
    first.assert_status_is_ok();
    open().await.assert_status(StatusCode::TOO_MANY_REQUESTS);
    drop(first);
    open().await.assert_status_is_ok();
}
