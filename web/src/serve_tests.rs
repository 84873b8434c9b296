use event_schemas::ids::Position;
use event_schemas::time::Timestamp;
use insta::assert_json_snapshot;
use poem::test::{TestClient, TestResponse};
use poem_openapi::param::{Header, Path, Query};
use poem_openapi::{Object, OpenApi, OpenApiService};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::*;
use crate::caller::{Caller, Claims, Keys, Now, Role, mint};
use crate::etag::Cached;
use crate::idempotency::{IdempotencyKey, idempotency};
use crate::json::{Created, Json};
use crate::openapi::document;
use crate::paging::{Cursor, Limit, Page};
use crate::schema::Api;
use crate::value::ApiTimestamp;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

#[derive(Debug, Object)]
struct Create {
    #[oai(validator(max_length = 20))]
    name: String,
    size: u32,
    since: Option<ApiTimestamp>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Thing {
    id: String,
    tenant: String,
    user: String,
    key: Option<String>,
    position: Position,
}

struct Things;

#[OpenApi]
impl Things {
    #[oai(path = "/things", method = "get")]
    async fn list(
        &self,
        _caller: Caller,
        #[oai(default)] limit: Query<Limit>,
        cursor: Query<Option<Cursor>>,
    ) -> Result<Json<Api<Page<u32>>>, Problem> {
        let after: u32 = cursor.0.map(|cursor| cursor.key("things")).transpose()?.unwrap_or(0);
        let items = (after + 1..=5).take(limit.get() + 1).collect();
        Ok(Json(Api(Page::of(items, limit.0, "things", |item| *item))))
    }

    #[oai(path = "/things", method = "post")]
    async fn create(
        &self,
        caller: Caller,
        #[oai(name = "Idempotency-Key")] key: Header<Option<IdempotencyKey>>,
        request: Json<Create>,
    ) -> Result<Created<Api<Thing>>, Problem> {
        caller.require(Role::Worker | Role::Service)?;
        let key = key.0.map(|key| idempotency(&caller, "POST /things", &key, &request.0));
        Ok(Created {
            location: format!("/things/{}", request.name),
            body: Api(Thing {
                id: request.name.clone(),
                tenant: caller.tenant.to_string(),
                user: caller.user()?.to_string(),
                key: key.map(|key| key.key.to_string()),
                position: Position(7),
            }),
        })
    }

    #[oai(path = "/things/:id", method = "get")]
    async fn read(
        &self,
        _caller: Caller,
        id: Path<String>,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<String>, Problem> {
        let id: uuid::Uuid = crate::path::uuid("thing", &id)?;
        Ok(Cached::new(&id.to_string().repeat(100), if_none_match.0.as_deref()))
    }

    #[oai(path = "/things/:id/panic", method = "post")]
    async fn panic(&self, id: Path<String>) -> Result<Json<String>, Problem> {
        panic!("the secret of {}", id.0)
    }

    #[oai(path = "/things/:id/conflict", method = "post")]
    async fn conflict(&self, id: Path<String>) -> Result<Json<String>, Problem> {
        Err(Problem::conflict("the thing has ended").with("existing", serde_json::json!({"id": id.0})))
    }

    #[oai(path = "/things/:id/hang", method = "post")]
    async fn hang(&self, id: Path<String>, progress: RequestProgress) -> Result<Json<String>, Problem> {
        if *id == "batch" {
            progress.begin(0..3);
            progress.recorded(&[1], event_schemas::ids::Position(5));
        }
        std::future::pending().await
    }

    #[oai(path = "/health", method = "get")]
    async fn health(&self) -> Result<Json<String>, Problem> {
        Ok(Json("ok".into()))
    }
}

fn now() -> Timestamp {
    "2026-11-20T10:00:00Z".parse().unwrap()
}

fn client(auth: Auth) -> TestClient<Layers> {
    client_with(auth, Limits { body_bytes: 1000, ..Limits::default() })
}

fn client_with(auth: Auth, limits: Limits) -> TestClient<Layers> {
    let service = OpenApiService::new(Things, "things", "1");
    let routes = Routes::from_document(&document(&service.spec()).unwrap());
    let mut settings = Settings::new(auth, routes);
    settings.limits = limits;
    settings.cors = Cors::new(&["https://console.example.org"]).unwrap();
    TestClient::new(layers(service, settings))
}

fn open() -> TestClient<Layers> {
    client(Auth::open(Now::new(now)))
}

fn keyed() -> TestClient<Layers> {
    client(Auth::with_keys(Keys::default().secret(SECRET).unwrap(), vec![], Now::new(now)))
}

fn token(role: Role) -> String {
    let claims = Claims::new(&"acme".parse().unwrap(), "ann", role.into(), now(), Duration::from_secs(60));
    format!("Bearer {}", mint(SECRET, &claims).unwrap())
}

async fn body(response: TestResponse) -> Value {
    serde_json::from_slice(&response.0.into_body().into_bytes().await.unwrap()).unwrap()
}

/// The problem, checked for its status and the request id.
async fn problem(response: TestResponse, status: u16) -> Value {
    response.assert_status(StatusCode::from_u16(status).unwrap());
    response.assert_content_type("application/problem+json");
    let id = response.0.header("x-request-id").unwrap().to_owned();
    let mut body = body(response).await;
    assert_eq!(body["request_id"], id.as_str());
    body["request_id"] = "…".into();
    body
}

#[tokio::test]
async fn created_resource_has_a_location() {
    let response = open()
        .post("/things")
        .header("x-tenant", "acme")
        .header("x-user", "ann")
        .header("idempotency-key", "k")
        .content_type("application/json")
        .body(r#"{"name": "a", "size": 1}"#)
        .send()
        .await;
    response.assert_status(StatusCode::CREATED);
    response.assert_header("location", "/things/a");
    response.assert_header("x-content-type-options", "nosniff");
    response.assert_header("cache-control", "no-store");
    response.assert_header("content-security-policy", "default-src 'none'; frame-ancestors 'none'");
    assert_json_snapshot!(body(response).await);
}

#[tokio::test]
async fn unknown_path_is_a_problem() {
    assert_json_snapshot!(problem(open().get("/nothing").send().await, 404).await);
}

#[tokio::test]
async fn wrong_method_is_a_problem_with_the_allowed_ones() {
    let response = open().delete("/things").send().await;
    response.assert_header("allow", "GET, HEAD, OPTIONS, POST");
    assert_json_snapshot!(problem(response, 405).await);
}

#[tokio::test]
async fn malformed_json_is_a_problem_with_line_and_column() {
    let response = open().post("/things").content_type("application/json").body("{").send().await;
    assert_json_snapshot!(problem(response, 400).await);
}

#[tokio::test]
async fn invalid_fields_are_a_problem_that_lists_them() {
    let body = r#"{"name": "a name far longer than twenty", "since": "yesterday"}"#;
    let response = open().post("/things").content_type("application/json").body(body).send().await;
    assert_json_snapshot!(problem(response, 400).await);
}

#[tokio::test]
async fn parameter_out_of_range_is_a_problem_that_names_it() {
    assert_json_snapshot!(problem(open().get("/things?limit=0").send().await, 400).await);
}

#[tokio::test]
async fn cursor_of_another_list_is_a_problem() {
    let cursor = Page::of(vec![1, 2], "1".parse_limit(), "other", |n| *n).next_cursor.unwrap();
    assert_json_snapshot!(problem(open().get(format!("/things?cursor={cursor}")).send().await, 400).await);
}

trait ParseLimit {
    fn parse_limit(&self) -> Limit;
}

impl ParseLimit for str {
    fn parse_limit(&self) -> Limit {
        poem_openapi::types::ParseFromParameter::parse_from_parameter(self).unwrap()
    }
}

#[tokio::test]
async fn cursors_lead_through_the_whole_list() {
    let client = open();
    let mut seen = Vec::new();
    let mut path = "/things?limit=2".to_owned();
    loop {
        let page = body(client.get(&path).send().await).await;
        seen.extend(page["items"].as_array().unwrap().iter().map(|item| item.as_u64().unwrap()));
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/things?limit=2&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(seen, [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn unsupported_media_type_is_a_problem() {
    let response = open().post("/things").content_type("text/plain").body("a").send().await;
    assert_json_snapshot!(problem(response, 415).await);
    problem(open().post("/things").body("{}").send().await, 415).await;
    let zipped = open()
        .post("/things")
        .content_type("application/json")
        .header("content-encoding", "gzip")
        .body("{}")
        .send()
        .await;
    problem(zipped, 415).await;
}

#[tokio::test]
async fn body_over_the_limit_is_a_problem() {
    let client = open();
    let send = |length: usize| {
        let body = format!(r#"{{"name": "a", "size": 1{}}}"#, " ".repeat(length - 24));
        client.post("/things").content_type("application/json").body(body).send()
    };
    send(1000).await.assert_status(StatusCode::CREATED);
    assert_json_snapshot!(problem(send(1001).await, 413).await);
    let announced = open()
        .post("/things")
        .content_type("application/json")
        .header("content-length", "1001")
        .body("{}")
        .send()
        .await;
    problem(announced, 413).await;
}

#[tokio::test]
async fn id_that_is_not_a_uuid_is_not_found() {
    assert_json_snapshot!(problem(open().get("/things/42").send().await, 404).await);
}

#[tokio::test]
async fn conflict_shows_the_existing_resource() {
    assert_json_snapshot!(problem(open().post("/things/7/conflict").send().await, 409).await);
}

#[tokio::test]
async fn panic_is_a_problem_without_details() {
    let response = open().post("/things/7/panic").send().await;
    assert_json_snapshot!(problem(response, 500).await);
}

#[tokio::test(start_paused = true)]
async fn command_past_its_deadline_has_an_unknown_outcome() {
    let response = open().post("/things/7/hang").send().await;
    response.assert_header("retry-after", "1");
    assert_json_snapshot!(problem(response, 503).await);
}

#[tokio::test(start_paused = true)]
async fn incomplete_body_is_a_request_timeout() {
    let never = poem::Body::from_bytes_stream(futures_util::stream::pending::<
        Result<bytes::Bytes, std::io::Error>,
    >());
    let response = open().post("/things").content_type("application/json").body(never).send().await;
    problem(response, 408).await;
}

#[tokio::test]
async fn missing_credentials_are_a_problem_with_a_remedy() {
    let response = keyed().get("/things").send().await;
    response.assert_header("www-authenticate", r#"Bearer realm="matchbook""#);
    assert_json_snapshot!(problem(response, 401).await);
}

#[tokio::test]
async fn invalid_credentials_are_a_problem_without_the_cause() {
    let expired = mint(
        SECRET,
        &Claims::new(&"acme".parse().unwrap(), "ann", Role::User.into(), Timestamp::EPOCH, Duration::ZERO),
    );
    let mut seen = Vec::new();
    for bad in [format!("Bearer {}", expired.unwrap()), "Bearer x".into(), "Basic YTpi".into(), "x".into()] {
        let response = keyed().get("/things").header("authorization", bad).send().await;
        response.assert_header("www-authenticate", r#"Bearer realm="matchbook", error="invalid_token""#);
        seen.push(problem(response, 401).await);
    }
    seen.dedup();
    assert_eq!(seen.len(), 1);
    assert_json_snapshot!(seen[0]);
}

#[tokio::test]
async fn missing_role_is_a_problem_that_names_it() {
    let client = keyed();
    let send = |role| {
        client
            .post("/things")
            .header("authorization", token(role))
            .content_type("application/json")
            .body(r#"{"name": "a", "size": 1}"#)
            .send()
    };
    assert_json_snapshot!(problem(send(Role::User).await, 403).await);
    let answer = body(send(Role::Worker).await).await;
    assert_eq!((&answer["tenant"], &answer["user"]), (&"acme".into(), &"ann".into()));
}

#[tokio::test]
async fn tenant_header_is_ignored_with_keys() {
    let response = keyed()
        .post("/things")
        .header("authorization", token(Role::Worker))
        .header("x-tenant", "other")
        .header("x-user", "other")
        .content_type("application/json")
        .body(r#"{"name": "a", "size": 1}"#)
        .send()
        .await;
    assert_eq!(body(response).await["tenant"], "acme");
}

#[tokio::test]
async fn open_server_refuses_an_invalid_tenant() {
    let response = open().get("/things").header("x-tenant", "a".repeat(129)).send().await;
    assert_eq!(problem(response, 400).await["errors"][0]["field"], "X-Tenant");
}

#[tokio::test]
async fn header_that_is_not_ascii_is_refused() {
    let unreadable = poem::http::HeaderValue::from_bytes(b"k\xe4").unwrap();
    let response = open().get("/things").header("idempotency-key", unreadable).send().await;
    assert_eq!(problem(response, 400).await["errors"][0]["field"], "idempotency-key");
}

#[tokio::test]
async fn request_id_of_the_caller_is_kept() {
    let response = open().get("/health").header("x-request-id", "abc-1").send().await;
    response.assert_header("x-request-id", "abc-1");
}

#[tokio::test]
async fn unchanged_response_is_not_modified() {
    let client = open();
    let path = "/things/018f0000-0000-7000-8000-000000000001";
    let first = client.get(path).send().await;
    let etag = first.0.header("etag").unwrap().to_owned();
    first.assert_header("cache-control", "private, no-cache");
    let second = client.get(path).header("if-none-match", etag.as_str()).send().await;
    second.assert_status(StatusCode::NOT_MODIFIED);
    second.assert_header("etag", etag);
    second.assert_header_is_not_exist("content-encoding");
}

#[tokio::test]
async fn only_large_responses_are_compressed() {
    let client = open();
    let path = "/things/018f0000-0000-7000-8000-000000000001";
    for coding in ["gzip", "zstd"] {
        let response = client.get(path).header("accept-encoding", coding).send().await;
        response.assert_header("content-encoding", coding);
        response.assert_header_all("vary", ["accept-encoding", "origin"]);
        assert!(response.0.header("etag").unwrap().starts_with("W/"));
        assert!(response.0.into_body().into_bytes().await.unwrap().len() < 1000);
    }
    let plain = client.get(path).send().await;
    plain.assert_header_all("vary", ["accept-encoding", "origin"]);
    let small = client.get("/health").header("accept-encoding", "gzip").send().await;
    small.assert_header_is_not_exist("content-encoding");
}

#[tokio::test]
async fn page_has_the_content_security_policy_of_pages() {
    let page = poem::endpoint::make_sync(|_| poem::web::Html("<p>hello"));
    let settings = Settings::new(Auth::open(Now::new(now)), Routes::default());
    let response = TestClient::new(layers(page, settings)).get("/").send().await;
    let policy = response.0.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'self'") && policy.contains("frame-ancestors 'none'"), "{policy}");
}

#[tokio::test]
async fn only_allowed_origins_get_cors_headers() {
    let client = open();
    let preflight = |origin: &'static str| {
        let request = client.options("/things").header("origin", origin);
        request.header("access-control-request-method", "POST").send()
    };
    let allowed = preflight("https://console.example.org").await;
    allowed.assert_header("access-control-allow-origin", "https://console.example.org");
    allowed.assert_header("access-control-allow-methods", "GET, HEAD, OPTIONS, POST");
    let other = preflight("https://evil.example").await;
    other.assert_header_is_not_exist("access-control-allow-origin");
    other.assert_header_is_not_exist("access-control-allow-methods");
    let answer = open().get("/health").header("origin", "https://console.example.org").send().await;
    answer.assert_header("access-control-allow-origin", "https://console.example.org");
}

#[path = "serve_request_tests.rs"]
mod requests;
