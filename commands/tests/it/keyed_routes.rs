//! Every route with an idempotency key, in one table: its first response holds after a restart, whatever has changed
//! since, and whether or not the command changed anything.

use std::collections::BTreeSet;
use std::time::Duration;

use commands::ExternalServices;
use commands::cutout_sync::upstream::{CutoutUpstream, Settings};
use serde_json::{Value, json};

use crate::support::{TestApp, TestResponse, a_match, lease, request};

/// A command with a key.
struct KeyedCommand {
    operation: &'static str,
    method: &'static str,
    path: String,
    user: &'static str,
    body: Value,
    /// Another body for the same key; none for a route without a body.
    other: Option<Value>,
}

/// The commands, in the order in which they are sent.
#[derive(Default)]
struct Table(Vec<KeyedCommand>);

impl Table {
    fn add(
        &mut self,
        operation: &'static str,
        (method, path): (&'static str, impl Into<String>),
        body: Value,
        other: impl Into<Option<Value>>,
    ) {
        self.add_as("local", operation, (method, path), body, other);
    }

    fn add_as(
        &mut self,
        user: &'static str,
        operation: &'static str,
        (method, path): (&'static str, impl Into<String>),
        body: Value,
        other: impl Into<Option<Value>>,
    ) {
        let (path, other) = (path.into(), other.into());
        self.0.push(KeyedCommand { operation, method, path, user, body, other });
    }

    /// A command without a body.
    fn bare(&mut self, user: &'static str, operation: &'static str, route: (&'static str, String)) {
        self.add_as(user, operation, route, Value::Null, None);
    }

    /// A command twice, under two keys: the second one changes nothing.
    fn twice(
        &mut self,
        operation: &'static str,
        (method, path): (&'static str, String),
        body: &Value,
        other: &Value,
    ) {
        for _ in 0..2 {
            self.add(operation, (method, path.clone()), body.clone(), other.clone());
        }
    }
}

impl KeyedCommand {
    async fn send(&self, app: &TestApp, key: usize, body: &Value) -> TestResponse {
        let call = app.call(self.method, &self.path).user(self.user).key(&format!("key {key}"));
        let call = if body.is_null() { call } else { call.body(body) };
        call.send().await
    }
}

fn id(response: &Value) -> String {
    response["id"].as_str().unwrap().to_owned()
}

const CLAIM: (&str, &str) = ("POST", "/internal/work/claim");

fn video(n: u32) -> Value {
    json!({"url": format!("https://www.twitch.tv/videos/{n}")})
}

async fn analysis(app: &TestApp, n: u32) -> String {
    id(&app.post("/api/v1/analysis", &video(n)).await.ok())
}

async fn claim_analysis(app: &TestApp) -> String {
    let body = json!({"worker_id": "analyst", "kinds": ["video_analysis"]});
    lease(&app.post(CLAIM.1, &body).await.ok()["items"][0]).to_owned()
}

/// Commands on matching jobs.
async fn on_matching(app: &TestApp, table: &mut Table) {
    table.add("create_job", ("POST", "/jobs"), json!({"name": "a"}), json!({"name": "b"}));
    let named = |n: u32| json!({"job_id": format!("018f0000-0000-7000-8000-00000000000{n}")});
    table.add("create_job", ("POST", "/jobs"), named(1), named(2));
    let job = app.job_with_requests(2).await;
    app.post(format!("{job}/matches"), &json!([a_match(1)])).await.ok();
    let at = |route: &str| ("POST", format!("{job}/{route}"));
    let product = |id: &str| json!([{"product_id": id, "images": [{"img_id": "x"}]}]);
    let video = |id: &str| json!([{"video_id": id, "frame_count": 7}]);
    let progress = |n: u64| json!([{"request_id": "a", "candidates_processed": n, "vector_pass_done": n, "ransac_checked": 0}]);
    for (operation, route, body, other) in [
        ("register_products", "products", product("a"), product("b")),
        ("register_videos", "videos", video("a"), video("b")),
        ("issue_match_requests", "match-requests", json!([request("a")]), json!([request("b")])),
        ("report_match_progress", "match-progress", progress(3), progress(4)),
        ("report_matches", "matches", json!([a_match(1), a_match(2), a_match(3)]), json!([a_match(4)])),
    ] {
        table.twice(operation, at(route), &body, &other);
        table.add(operation, at(route), json!([]), other);
    }
    let path = |path: &str| json!({"evidence_path": path});
    let evidence = ("PUT", format!("{job}/matches/m1/evidence"));
    table.twice("attach_evidence", evidence, &path("a.jpg"), &path("b.jpg"));
    let phase = |phase: &str| json!({"phase": phase});
    let phase_route = ("PUT", format!("{job}/phase"));
    table.add("change_job_phase", phase_route.clone(), phase("matching"), phase("evidence"));
    table.add("change_job_phase", phase_route, phase("evidence"), phase("completed"));

    let (failed, cancelled) = (app.job().await, app.job().await);
    app.put(format!("{failed}/phase"), &phase("failed")).await.ok();
    for _ in 0..2 {
        table.bare("local", "retry_job", ("POST", format!("{failed}/retry")));
        table.bare("local", "cancel_job", ("POST", format!("{cancelled}/cancel")));
    }
}

/// Commands on work and workers.
async fn on_work(app: &TestApp, table: &mut Table) {
    let claim = |kind: &str, max: u32| json!({"worker_id": "w", "kinds": [kind], "max": max});
    table.add("claim_work", CLAIM, claim("match_request", 2), claim("match_request", 3));
    table.add("claim_work", CLAIM, claim("model_training", 1), claim("model_training", 2));
    let report = |lease: &str, route: &str| ("POST", format!("/internal/work/{lease}/{route}"));
    let at = |fraction: f64| json!({"stage": "transcribing", "fraction": fraction});
    analysis(app, 1).await;
    let (first, error) = (claim_analysis(app).await, |text: &str| json!({"error": text}));
    table.twice("work_progress", report(&first, "progress"), &at(0.5), &at(0.6));
    let result = |n: u32| json!({"result": n});
    table.twice("complete_work", report(&first, "complete"), &result(1), &result(2));
    analysis(app, 2).await;
    let second = claim_analysis(app).await;
    table.twice("fail_work", report(&second, "fail"), &error("timeout"), &error("oom"));
    let kinds = |kind: &str| json!({"kinds": [kind]});
    let worker = ("PUT", "/internal/workers/v".to_owned());
    table.twice("register_worker", worker, &kinds("match_request"), &kinds("model_training"));
    let exit = ("POST", "/internal/workers/v/exit".to_owned());
    table.twice("worker_exit", exit, &json!({"exit_code": 0}), &json!({"exit_code": 1}));
}

/// Commands on analyses.
async fn on_analyses(app: &TestApp, table: &mut Table) {
    // The second one finds the analysis of the first, and the third one an analysis that others advance.
    let start = ("POST", "/api/v1/analysis".to_owned());
    table.twice("start_analysis", start.clone(), &video(11), &video(12));
    analysis(app, 13).await;
    table.add("start_analysis", start, video(13), video(12));
    let job = analysis(app, 14).await;
    let cancel = ("POST", format!("/api/v1/analysis/{job}/cancel"));
    table.bare("local", "cancel_analysis", cancel.clone());
    table.bare("local", "cancel_analysis", cancel);
    let failed = analysis(app, 15).await;
    app.put(format!("/jobs/{failed}/phase"), &json!({"phase": "failed"})).await.ok();
    table.bare("local", "retry_job", ("POST", format!("/jobs/{failed}/retry")));
}

/// Commands on extractions.
async fn on_extractions(app: &TestApp, table: &mut Table) {
    const EXTRACT: &str = "/api/v1/embeddings/extract";
    let of = |kind: &str| json!({"job_type": kind});
    let start = ("POST", EXTRACT.to_owned());
    table.twice("start_extraction", start, &of("extract_cutouts"), &of("extract_products"));
    let job = id(&app.post(EXTRACT, &of("extract_cutouts")).await.ok());
    for _ in 0..2 {
        let cancel = ("POST", format!("/api/v1/embeddings/jobs/{job}/cancel"));
        table.bare("local", "cancel_extraction", cancel);
    }
}

/// Commands of matchmaking.
async fn on_matchmaking(app: &TestApp, table: &mut Table) {
    let pool = |window: u32| json!({"window": window});
    table.twice("configure_pool", ("PUT", "/internal/pools/blitz".to_owned()), &pool(50), &pool(60));
    let join = |gap: u32| json!({"pool_key": "blitz", "max_rating_gap": gap});
    table.add_as("eve", "join_queue", ("POST", "/v1/matchmaking/queue"), join(0), join(1));
    let entry = app.call("POST", "/v1/matchmaking/queue").user("fay").body(&join(0)).send().await.ok();
    for _ in 0..2 {
        table.bare("fay", "leave_queue", ("DELETE", format!("/v1/matchmaking/queue/{}", id(&entry))));
        table.bare("ann", "block_user", ("PUT", "/v1/matchmaking/blocks/mallory".to_owned()));
        table.bare("ann", "unblock_user", ("DELETE", "/v1/matchmaking/blocks/trudy".to_owned()));
        table.bare("ann", "unblock_user", ("DELETE", "/v1/matchmaking/blocks/stranger".to_owned()));
    }
    app.call("PUT", "/v1/matchmaking/blocks/trudy").user("ann").send().await.ok();
    const CHALLENGES: &str = "/v1/matchmaking/challenges";
    let challenge = |opponent: &str| json!({"opponent_id": opponent, "pool_key": "rapid"});
    table.add_as("ann", "create_challenge", ("POST", CHALLENGES), challenge("bob"), challenge("cat"));
    let verb = |challenge: &Value, verb: &str| ("POST", format!("{CHALLENGES}/{}/{verb}", id(challenge)));
    for (operation, user, name) in [
        ("accept_challenge", "bob", "accept"),
        ("decline_challenge", "cat", "decline"),
        ("cancel_challenge", "ann", "cancel"),
    ] {
        let opponent = if user == "ann" { "dan" } else { user };
        let created = app.call("POST", CHALLENGES).user("ann").body(&challenge(opponent)).send().await.ok();
        table.bare(user, operation, verb(&created, name));
    }
    let played = app.call("POST", CHALLENGES).user("gus").body(&challenge("hal")).send().await.ok();
    let (_, accept) = verb(&played, "accept");
    let game = app.call("POST", accept).user("hal").send().await.ok();
    let result = ("POST", format!("/internal/matches/{}/result", game["match_id"].as_str().unwrap()));
    let outcome = |result: &str| json!({"result": result});
    table.twice("report_result", result, &outcome("first"), &outcome("draw"));
}

/// Commands of the catalogue.
fn on_catalogue(table: &mut Table) {
    let product = |name: &str| json!({"name": name});
    let path = ("PUT", "/api/v1/products/1".to_owned());
    table.twice("upsert_product", path, &product("shoe"), &product("boot"));
    let batch = |name: &str| json!([{"id": 2, "name": name}, {"id": 3}, {"id": "a", "name": name}]);
    let path = ("POST", "/api/v1/products/batch".to_owned());
    table.twice("upsert_products", path.clone(), &batch("hat"), &batch("cap"));
    table.add("upsert_products", path, json!([]), batch("cap"));
    for _ in 0..2 {
        table.bare("local", "deactivate_product", ("DELETE", "/api/v1/products/1".to_owned()));
    }
    let embedding = |value: f64| json!({"model_id": "clip", "vector": [value, 1.0]});
    let path = ("POST", "/api/v1/products/1/embeddings".to_owned());
    table.twice("embed_product", path, &embedding(0.5), &embedding(0.25));
    let of = |id: u32, value: f64| json!({"product_id": id, "model_id": "clip", "vector": [value, 1.0]});
    let batch = |value: f64| json!([of(1, value), of(99, value), {"product_id": 2}]);
    let path = ("POST", "/api/v1/products/embeddings/batch".to_owned());
    table.twice("embed_products", path, &batch(0.5), &batch(0.25));
    let feedback = |kind: &str| json!({"user_id": 7, "product_id": 1, "interaction_type": kind});
    let path = ("POST", "/api/v1/feedback".to_owned());
    table.twice("record_feedback", path.clone(), &feedback("view"), &feedback("click"));
    let of_other = json!({"user_id": 8, "product_id": 1, "interaction_type": "view"});
    table.add("record_feedback", path, feedback("view"), of_other);
    let batch = |kind: &str| json!([feedback(kind), {"user_id": 8}, feedback("like")]);
    let path = ("POST", "/api/v1/feedback/batch".to_owned());
    table.twice("record_feedback_batch", path, &batch("view"), &batch("click"));
    let rule = |kind: &str| json!({"kind": kind, "product_ids": [1]});
    let path = "/api/v1/merchandising/rules/spring";
    table.twice("set_rule", ("PUT", path.to_owned()), &rule("pin"), &rule("ban"));
    table.bare("local", "remove_rule", ("DELETE", path.to_owned()));
}

/// Commands on people.
async fn on_subjects(app: &TestApp, table: &mut Table) {
    let view = json!({"user_id": "zoe", "product_id": 1, "interaction_type": "view"});
    app.post("/api/v1/feedback", &view).await.ok();
    table.bare("local", "erase_user", ("POST", "/audit/subjects/zoe/erase".to_owned()));
}

/// Commands of cutouts and embedding models.
fn on_cutouts(table: &mut Table) {
    let cutout = |id: u32, upc: &str| json!({"external_id": id, "image_url": "/a.jpg", "predicted_upc": upc});
    let path = ("POST", "/api/v1/cutouts".to_owned());
    table.twice("push_cutouts", path.clone(), &cutout(1, "a"), &cutout(1, "b"));
    let batch = |upc: &str| json!([cutout(1, upc), {"external_id": 2}, cutout(3, upc)]);
    table.twice("push_cutouts", path, &batch("a"), &batch("b"));
    let model = |name: &str| json!({"id": "dinov3", "name": name, "model_type": "dinov3", "purpose": "image", "embedding_dim": 2});
    let path = "/api/v1/embeddings/models";
    table.twice("register_model", ("POST", path.to_owned()), &model("a"), &model("b"));
    for _ in 0..2 {
        table.bare("local", "activate_model", ("POST", format!("{path}/dinov3/activate")));
    }
    let matches = |similarity: f64| json!({"cutouts": [{"cutout_id": 3, "similarity": similarity}]});
    let to = ("POST", "/api/v1/matching/products/1/matches".to_owned());
    table.twice("save_matches", to.clone(), &matches(0.5), &matches(0.25));
    table.bare("local", "undo_match", ("DELETE", format!("{}?cutout_id=3", to.1)));
    let embedding = |value: f64| json!({"model_id": "dinov3", "vector": [value, 1.0]});
    let to = ("POST", "/api/v1/cutouts/1/embeddings".to_owned());
    table.twice("embed_cutout", to, &embedding(0.5), &embedding(0.25));
    let of = |id: u32, value: f64| json!({"cutout_id": id, "model_id": "dinov3", "vector": [value, 1.0]});
    let batch = |value: f64| json!([of(1, value), of(99, value), {"cutout_id": 3}]);
    let to = ("POST", "/api/v1/cutouts/embeddings/batch".to_owned());
    table.twice("embed_cutouts", to, &batch(0.5), &batch(0.25));
    let export = |format: &str| json!({"model_id": "dinov3", "format": format});
    table.twice("start_export", ("POST", "/api/v1/export".to_owned()), &export("json"), &export("faiss"));
    table.bare("local", "activate_model", ("POST", format!("{path}/dinov2-base/activate")));
    table.bare("local", "delete_model", ("DELETE", format!("{path}/dinov3")));
}

/// The upstream of cutouts on this listener.
fn syncs_from(listener: &std::net::TcpListener) -> ExternalServices {
    let url = format!("http://{}", listener.local_addr().unwrap());
    let settings = Settings { url, token: None, page_size: 1, timeout: Duration::from_secs(600) };
    let cutouts = Some(CutoutUpstream::new(&settings).unwrap());
    ExternalServices { cutouts, ..ExternalServices::default() }
}

/// Syncs of cutouts: the second one finds the job of the first.
fn on_syncs(table: &mut Table) {
    let from_start = |from_start: bool| json!({"from_start": from_start});
    let path = ("POST", "/api/v1/cutouts/sync".to_owned());
    table.twice("sync_cutouts", path, &from_start(true), &from_start(false));
}

/// Changes what the commands were about.
async fn change_everything(app: &TestApp, responses: &[TestResponse]) {
    let progress = json!({"stage": "transcribing", "fraction": 0.5});
    let mut leases = Vec::new();
    for n in 0..4 {
        let body = json!({"worker_id": format!("other {n}"), "kinds": ["video_analysis"]});
        let claimed = app.post(CLAIM.1, &body).await.ok();
        leases.extend(claimed["items"].as_array().unwrap().iter().map(|item| lease(item).to_owned()));
    }
    for lease in leases {
        app.post(format!("/internal/work/{lease}/progress"), &progress).await.ok();
    }
    for item in responses.iter().flat_map(|response| response.body["items"].as_array().into_iter().flatten())
    {
        let job = item["job_id"].as_str().unwrap();
        let report = json!([{
            "request_id": item["request_id"], "lease_id": item["lease_id"], "candidates_processed": 7,
            "vector_pass_done": 7, "ransac_checked": 7,
        }]);
        app.post(format!("/jobs/{job}/match-progress"), &report).await.ok();
        app.post(
            format!("/jobs/{job}/products"),
            &json!([{"product_id": "hedge", "images": [{"img_id": "late"}]}]),
        )
        .await
        .ok();
    }
    for event in app.events().await {
        if event.event.event_type().as_str() == "JobCreated" {
            let job = event.stream.job_id().unwrap();
            // Refused for a job that has ended already.
            app.call("POST", format!("/jobs/{job}/cancel")).send().await;
        }
    }
    // Later analyses of the same videos.
    for n in [1, 2, 11, 13, 14, 15] {
        analysis(app, n).await;
    }
    app.put("/internal/workers/v", &json!({"kinds": ["extract_cutouts"]})).await.ok();
    app.put("/internal/pools/blitz", &json!({"window": 70})).await.ok();
    for product in [1, 2, 3] {
        app.put(format!("/api/v1/products/{product}"), &json!({"name": "sock"})).await.ok();
    }
    for (method, user) in [("DELETE", "mallory"), ("PUT", "trudy"), ("PUT", "stranger")] {
        app.call(method, format!("/v1/matchmaking/blocks/{user}")).user("ann").send().await.ok();
    }
    for response in responses {
        // The answer of an accepted challenge.
        if let (Some(game), true) = (response.body["match_id"].as_str(), response.body["side"].is_string()) {
            app.post(format!("/internal/matches/{game}/result"), &json!({"result": "first"})).await.ok();
        }
        if response.body["status"] == "searching" {
            let entry = format!("/v1/matchmaking/queue/{}", id(&response.body));
            app.call("DELETE", entry).user("eve").send().await.ok();
        }
    }
}

/// The operations of the document that take an idempotency key.
fn keyed_operations(app: &TestApp) -> BTreeSet<&str> {
    let paths = app.document["paths"].as_object().unwrap().values();
    let operations = paths.flat_map(|path| path.as_object().unwrap().values());
    let is_keyed = |operation: &&Value| {
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        parameters.into_iter().any(|parameter| parameter["name"] == "Idempotency-Key")
    };
    operations.filter(is_keyed).map(|operation| operation["operationId"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn every_keyed_route_remembers_its_answer() {
    // An upstream that never answers, so that a sync stays in progress.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let app = TestApp::with_external_services(syncs_from(&silent)).await;
    let mut table = Table::default();
    on_work(&app, &mut table).await;
    on_matching(&app, &mut table).await;
    on_analyses(&app, &mut table).await;
    on_extractions(&app, &mut table).await;
    on_matchmaking(&app, &mut table).await;
    on_catalogue(&mut table);
    on_subjects(&app, &mut table).await;
    on_cutouts(&mut table);
    on_syncs(&mut table);
    let Table(commands) = table;
    let tested: BTreeSet<&str> = commands.iter().map(|command| command.operation).collect();
    assert_eq!(tested, keyed_operations(&app), "every route with a key is in the table");

    let mut first = Vec::new();
    for (key, command) in commands.iter().enumerate() {
        let response = command.send(&app, key, &command.body).await;
        assert!(response.status < 300, "{} {}: {response:?}", command.operation, command.path);
        first.push(response);
    }
    change_everything(&app, &first).await;
    app.run_ready_tasks().await;
    let app = app.restarted().await;
    app.run_ready_tasks().await;
    let head = app.head();
    for (key, (command, first)) in commands.iter().zip(&first).enumerate() {
        let again = command.send(&app, key, &command.body).await;
        assert_eq!(&again, first, "{} {}", command.operation, command.path);
        if let Some(other) = &command.other {
            let other = command.send(&app, key, other).await;
            assert_eq!(other.status, 422, "{} {}: {other:?}", command.operation, command.path);
            assert_eq!(other.body["code"], "IDEMPOTENCY_KEY_REUSED", "{}", command.operation);
        }
    }
    assert_eq!(app.head(), head, "nothing was recorded again");
}
