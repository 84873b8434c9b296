//! Invalid input of every kind: it is refused with a problem document that names the remedy, and records nothing.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::job::{events, running_job, set_phase, summary};
use crate::support::server::Server;

const UNKNOWN: &str = "018f0000-0000-7000-8000-000000000099";

/// Sends a body of any bytes, and checks the status and the detail of the refusal.
async fn refused(
    server: &Server,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
    (status, expected): (u16, &str),
) {
    let mut request = server.http.request(method.clone(), format!("{}{path}", server.url)).body(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    let kind = response.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
    let (given, text) = (response.status().as_u16(), response.text().await.unwrap());
    assert_eq!(given, status, "{method} {path}: {text}");
    assert_eq!(kind.as_deref(), Some("application/problem+json"), "{method} {path}: {text}");
    let problem: Value = serde_json::from_str(&text).unwrap();
    assert!(problem["detail"].as_str().unwrap().contains(expected), "{method} {path}: {text}");
    assert!(problem["request_id"].is_string(), "{text}");
}

/// Every operation that takes a body, with the start of the detail for a body of the wrong type.
fn bodies(job: &str) -> Vec<(Method, String, &'static str)> {
    let batch = "must be an array";
    let object = "must be an object";
    vec![
        (Method::POST, "/jobs".to_owned(), object),
        (Method::PUT, format!("/jobs/{job}/phase"), object),
        (Method::POST, format!("/jobs/{job}/products"), batch),
        (Method::POST, format!("/jobs/{job}/videos"), batch),
        (Method::POST, format!("/jobs/{job}/match-requests"), batch),
        (Method::POST, format!("/jobs/{job}/match-progress"), batch),
        (Method::POST, format!("/jobs/{job}/matches"), batch),
        (Method::PUT, format!("/jobs/{job}/matches/m/evidence"), object),
        (Method::PUT, "/internal/workers/w".to_owned(), object),
        (Method::POST, "/internal/workers/w/exit".to_owned(), object),
        (Method::POST, "/internal/work/claim".to_owned(), object),
        (Method::POST, format!("/internal/work/{UNKNOWN}/progress"), object),
        (Method::POST, format!("/internal/work/{UNKNOWN}/complete"), object),
        (Method::POST, format!("/internal/work/{UNKNOWN}/fail"), object),
        (Method::PUT, "/api/v1/products/1".to_owned(), object),
        (Method::POST, "/api/v1/products/batch".to_owned(), batch),
        (Method::POST, "/api/v1/products/1/embeddings".to_owned(), object),
        (Method::POST, "/api/v1/products/embeddings/batch".to_owned(), batch),
        (Method::POST, "/api/v1/cutouts".to_owned(), object),
        (Method::POST, "/api/v1/cutouts/1/embeddings".to_owned(), object),
        (Method::POST, "/api/v1/cutouts/embeddings/batch".to_owned(), batch),
        (Method::POST, "/api/v1/embeddings/models".to_owned(), object),
        (Method::POST, "/api/v1/embeddings/extract".to_owned(), object),
        (Method::POST, "/api/v1/matching/products/1/matches".to_owned(), object),
        (Method::POST, "/api/v1/search".to_owned(), object),
        (Method::POST, "/api/v1/search/batch".to_owned(), object),
        (Method::POST, "/api/v1/feedback".to_owned(), object),
        (Method::POST, "/api/v1/feedback/batch".to_owned(), batch),
        (Method::PUT, "/api/v1/merchandising/rules/r".to_owned(), object),
        (Method::POST, "/internal/what-if".to_owned(), object),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_body_is_refused_with_location_and_reason() {
    let server = Server::start(&[]).await;
    let job = running_job(&server, 1, 1).await;
    let before = events(&server, &job).await;
    let json = [("content-type", "application/json")];
    let deep = ["[".repeat(10_000), "]".repeat(10_000)].concat();
    for (method, path, type_expected) in bodies(&job) {
        for (body, expected) in [
            (&b"{\"a\":"[..], "line 1, column 5: EOF"),
            (b"[1,]", "line 1, column 4: trailing comma"),
            (b"NaN", "line 1, column 1: expected value"),
            (b"1e999", "number out of range"),
            (b"{\"name\":\"\xff\xfe\"}", "line 1, column 10: invalid unicode"),
            (deep.as_bytes(), "nested more than 128 levels deep"),
            (b"", "the body is empty"),
            (b"null", "the body is null"),
            (b"5", type_expected),
        ] {
            refused(&server, method.clone(), &path, &json, body.to_vec(), (400, expected)).await;
        }
        let text = [("content-type", "text/plain")];
        refused(&server, method.clone(), &path, &text, b"{}".to_vec(), (415, "send application/json")).await;
        refused(&server, method.clone(), &path, &[], b"{}".to_vec(), (415, "send application/json")).await;
        let packed = [json[0], ("content-encoding", "gzip")];
        refused(&server, method.clone(), &path, &packed, vec![0x1f, 0x8b], (415, "uncompressed")).await;
        let large = vec![b' '; (16 << 20) + 1];
        refused(&server, method.clone(), &path, &json, large, (413, "limit of this path")).await;
        let other = server.send(Method::PATCH, &path, &[], None).await;
        other.problem(405);
        assert!(other.headers["allow"].to_str().unwrap().contains(method.as_str()), "{path}");
    }
    assert_eq!(events(&server, &job).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_field_is_named_with_its_constraint() {
    let server = Server::start(&[]).await;
    let job = running_job(&server, 1, 10).await;
    let before = events(&server, &job).await;
    let soon = "2999-01-01T00:00:00Z";
    let found = |member: &str, value: Value| {
        let mut found = json!({"match_id": "m", "product_id": "p0", "video_id": "v", "img_id": "i",
                               "frame_id": "f0", "score": 0.5});
        found[member] = value;
        json!([found])
    };
    let progress = |member: &str, value: Value| {
        let mut progress = json!({"request_id": "r0", "candidates_processed": 1, "vector_pass_done": 1, "ransac_checked": 1});
        progress[member] = value;
        json!([progress])
    };
    let request = |candidates: Value| json!([{"request_id": "new", "product_id": "p0", "video_id": "v", "candidates": candidates}]);
    let in_job = |path: &str| format!("/jobs/{job}{path}");
    for (path, body, status, expected) in [
        ("/jobs".to_owned(), json!({"job_id": "x"}), 400, "`job_id`: is not a UUID"),
        ("/jobs".to_owned(), json!({"kind": "none"}), 400, "must be one of \"product_video_matching\""),
        ("/jobs".to_owned(), json!({"name": ""}), 400, "`name`: must not be empty"),
        (in_job("/products"), json!([{}]), 400, "`body[0].product_id`: is missing"),
        (
            in_job("/products"),
            json!([{"product_id": -1, "images": []}]),
            400,
            "`body[0].product_id`: must be at least 0",
        ),
        (
            in_job("/products"),
            json!([{"product_id": true, "images": []}]),
            400,
            "`body[0].product_id`: must be a string or an integer, not a boolean",
        ),
        (in_job("/videos"), json!([{"video_id": "w"}]), 400, "one of the two is required"),
        (in_job("/videos"), json!([{"video_id": "w", "frame_count": -1}]), 400, "at least 0"),
        (in_job("/match-requests"), request(json!(1_u64 << 63)), 400, "at most 9007199254740991"),
        (in_job("/match-requests"), request(json!(1.5)), 400, "must be an integer"),
        (in_job("/match-progress"), progress("candidates_processed", json!(11)), 422, "only 10 candidates"),
        (in_job("/match-progress"), progress("request_id", json!("none")), 404, "none"),
        (in_job("/match-progress"), progress("lease_id", json!(UNKNOWN)), 409, "claim work again"),
        (in_job("/match-progress"), progress("occurred_at", json!(soon)), 400, "5 minutes ahead"),
        (in_job("/matches"), found("score", json!(-0.1)), 400, "`body[0].score`: must be at least 0"),
        (in_job("/matches"), found("score", json!(1.1)), 400, "`body[0].score`: must be at most 1"),
        (
            in_job("/matches"),
            found("match_id", json!("a\nb")),
            400,
            "`body[0].match_id`: has the invisible character",
        ),
        (in_job("/matches"), found("occurred_at", json!("soon")), 400, "RFC 3339"),
        (in_job("/matches"), json!(vec![1; 10_001]), 400, "body"),
    ] {
        let response = server.post(&path, &body).await;
        let problem = response.problem(status);
        assert!(problem["detail"].as_str().unwrap().contains(expected), "{path} {body}: {problem}");
    }
    assert_eq!(events(&server, &job).await, before);
}

/// The most memory that the server has used, in MiB.
fn peak_mebibytes(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn body_takes_little_memory_whatever_its_text_is() {
    const BYTES: usize = 14 << 20;
    let server = Server::start(&[]).await;
    let job = running_job(&server, 1, 1).await;
    let before = peak_mebibytes(&server);
    let path = |of: &str| format!("/jobs/{job}/{of}");
    let repeated =
        |head: &str, part: &str, tail: &str| [head, &part.repeat(BYTES / part.len()), tail].concat();
    let unknown: String = (0..BYTES / 12).map(|n| format!("\"k{n}\":0,")).collect();
    for (path, body, expected) in [
        (path("matches"), repeated("[", "{},", "{}]"), "is missing"),
        (path("matches"), repeated("[", "1,", "1]"), "must be an object"),
        (path("matches"), "[".repeat(BYTES), "nested more than 128 levels deep"),
        (path("matches"), format!("[{{{unknown}\"x\":0}}]"), "unknown members"),
        (path("matches"), repeated("[{\"match_id\":\"", "x", "\"}]"), "at most 128 characters"),
        (path("videos"), repeated("[{\"video_id\":\"v\",\"frames\":[", "{},", "{}]}]"), "is missing"),
        (
            path("products"),
            repeated("[{\"product_id\":\"p\",\"images\":[", "{\"img_id\":\"i\"},", "{}]}]"),
            "at most 10000 items",
        ),
    ] {
        let json = [("content-type", "application/json")];
        refused(&server, Method::POST, &path, &json, body.into(), (400, expected)).await;
    }
    let peak = peak_mebibytes(&server);
    assert!(peak < before + 128, "{peak} MiB after {before} MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_ndjson_line_rejects_the_whole_batch() {
    let server = Server::start(&[]).await;
    let job = running_job(&server, 1, 1).await;
    let line = |n: u32| {
        format!(
            r#"{{"match_id":"m{n}","product_id":"p0","video_id":"v","img_id":"i","frame_id":"f0","score":1}}"#
        )
    };
    let lines = [("content-type", "application/x-ndjson")];
    for (bad, expected) in [
        ("{broken".to_owned(), "line 3: the body is not valid JSON"),
        ("null".to_owned(), "line 3: the body is null"),
        (line(9).replace("\"score\":1", "\"score\":2"), "line 3: `score`: must be at most 1"),
    ] {
        let body = [line(1), line(2), bad, line(4)].join("\n");
        refused(&server, Method::POST, &format!("/jobs/{job}/matches"), &lines, body.into(), (400, expected))
            .await;
    }
    assert_eq!(summary(&server, &job, "").await["matches_found"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_parameter_is_named_with_its_constraint() {
    let server = Server::start(&[]).await;
    let job = running_job(&server, 1, 1).await;
    let summary = format!("/jobs/{job}/matching/summary");
    for (path, expected) in [
        ("/jobs?status=none".to_owned(), "`status`: must be one of pending, running"),
        ("/jobs?limit=0".to_owned(), "`limit`: must be a whole number from 1 to 500"),
        ("/jobs?since=yesterday".to_owned(), "RFC 3339"),
        ("/jobs?cursor=abc".to_owned(), "start again without a cursor"),
        (format!("/jobs/{job}/matches?order=none"), "`order`: must be one of score_desc"),
        (format!("/jobs/{job}/matches?min_score=x"), "`min_score`: must be a number from 0 to 1"),
        (format!("/jobs/{job}/matches?min_score=2"), "between 0 and 1"),
        (format!("/jobs/{job}/events?cursor=!"), "`cursor`"),
        (format!("{summary}?as_of=then"), "neither a position of the log nor an instant"),
        (format!("{summary}?as_of=2999-01-01T00:00:00Z"), "lies in the future"),
        (format!("{summary}?as_of=999999"), "the log's head is position"),
        ("/audit/events?from=x".to_owned(), "neither a position nor an RFC 3339 instant"),
        ("/audit/events?category=none".to_owned(), "`category`: must be one of job, matching"),
        (format!("/jobs/{job}/matching/ws"), "WebSocket"),
    ] {
        let problem = server.get(&path).await.problem(400);
        assert!(problem["detail"].as_str().unwrap().contains(expected), "{path}: {problem}");
    }
    for (name, value, expected) in [
        ("x-min-position", "-1", "`X-Min-Position`: must be a position"),
        ("x-tenant", "", "`X-Tenant`: an id must not be empty"),
        ("x-user", "Ann\u{e9}", "`x-user`: must be printable ASCII"),
    ] {
        refused(&server, Method::GET, &summary, &[(name, value)], Vec::new(), (400, expected)).await;
    }
    let long = "k".repeat(256);
    let keyed = [("content-type", "application/json"), ("idempotency-key", long.as_str())];
    refused(&server, Method::POST, "/jobs", &keyed, b"{}".to_vec(), (400, "1 to 255 printable")).await;
    let behind = server.send(Method::GET, &summary, &[("x-min-position", "999999")], None).await;
    behind.problem(503);
    assert_eq!(behind.headers["retry-after"], "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_path_is_404_whatever_characters_it_has() {
    let server = Server::start(&[]).await;
    for id in [UNKNOWN, "42", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "%00", "%ff", "\u{fc}", "%F0%9F%98%80"] {
        for path in ["", "/matching/summary", "/matching/stream", "/matching/ws", "/timeline", "/events"] {
            server.get(&format!("/jobs/{id}{path}")).await.problem(404);
        }
        server.post(&format!("/internal/work/{id}/heartbeat"), &json!({})).await.problem(404);
        server.get(&format!("/console/{id}")).await.problem(404);
    }
    for name in ["%00", "a%0Ab", &"a".repeat(129)] {
        let registered =
            server.put(&format!("/internal/workers/{name}"), &json!({"kinds": ["match_request"]})).await;
        assert!(registered.problem(400)["detail"].as_str().unwrap().starts_with("`worker_id`: an id "));
    }
    for path in ["/nothing", "/jobs/", "//jobs", "/console/..%2f..%2fCargo.toml"] {
        server.get(path).await.problem(404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_phase_change_lists_the_allowed_phases() {
    let server = Server::start(&[]).await;
    let job = running_job(&server, 1, 1).await;
    let before = events(&server, &job).await;
    let put = |to: &'static str| {
        let (server, path) = (&server, format!("/jobs/{job}/phase"));
        async move { server.put(&path, &json!({ "phase": to })).await.problem(409)["detail"].to_string() }
    };
    let expected = "the job is matching and cannot go to collecting; phases only move forward, so it can go to \
                evidence, completed, failed or cancelled";
    assert!(put("collecting").await.contains(expected));
    put("transcribing").await;
    assert_eq!(events(&server, &job).await, before);
    set_phase(&server, &job, "cancelled").await;
    let ended = events(&server, &job).await;
    assert!(put("evidence").await.contains("ended as cancelled"));
    for path in ["products", "videos", "match-requests", "match-progress", "matches"] {
        // An empty batch records nothing, and is refused all the same.
        server.post(&format!("/jobs/{job}/{path}"), &json!([])).await.problem(409);
    }
    assert_eq!(events(&server, &job).await, ended);
}

#[tokio::test(flavor = "multi_thread")]
async fn unchanged_resource_is_answered_304() {
    let server = Server::start(&[]).await;
    let job = running_job(&server, 1, 1).await;
    let head = server.get("/status").await.expect(200)["log"]["head"].to_string();
    let paths =
        ["", "/matching/summary", "/matches", "/timeline", "/events"].map(|p| format!("/jobs/{job}{p}"));
    for path in paths.iter().map(String::as_str).chain(["/jobs", "/internal/workers"]) {
        let first = server.send(Method::GET, path, &[("x-min-position", head.as_str())], None).await;
        let tag = first.headers["etag"].to_str().unwrap().to_owned();
        let again = server.send(Method::GET, path, &[("if-none-match", tag.as_str())], None).await;
        assert_eq!((again.status.as_u16(), again.text.as_str()), (304, ""), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_batch_returns_the_current_position() {
    let server = Server::start(&[]).await;
    let created = server.post("/jobs", &json!({})).await.expect(201);
    let id = created["job_id"].as_str().unwrap();
    for path in ["products", "videos", "match-requests", "match-progress", "matches"] {
        let accepted = server.post(&format!("/jobs/{id}/{path}"), &json!([])).await.expect(200);
        assert_eq!(
            (&accepted["accepted"], &accepted["position"]),
            (&json!(0), &created["position"]),
            "{path}"
        );
    }
}
