//! Extractions on the real program: workers that are killed, images that are no images, and what is listed.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use poem::listener::{Acceptor, Listener, TcpListener};
use poem::web::Path as Segment;
use poem::{IntoResponse, Response, Route, Server as HttpServer, handler};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::TIMEOUT;
use crate::support::job::events;
use crate::support::server::{Server, WorkerProcess};

const MODEL: &str = "hog-816";
const EXTRACT: &str = "/api/v1/embeddings/extract";
const JOBS: &str = "/api/v1/embeddings/jobs";

/// A picture of the example, a part of one, a drawing, or nothing.
#[handler]
fn image(Segment(name): Segment<String>) -> Response {
    let products = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/matching/products");
    let number: usize = name.split('.').next().unwrap().parse().unwrap_or_default();
    let pictures = ["hedge-1", "rabbit-belly-1", "yellow-bush-1", "not-there-coffee-1"];
    let picture = std::fs::read(products.join(format!("{}.jpg", pictures[number % pictures.len()]))).unwrap();
    match name.rsplit('.').next() {
        Some("jpg") => picture.into_response(),
        Some("truncated") => picture[..picture.len() / 20].to_vec().into_response(),
        Some("svg") => "<svg xmlns='http://www.w3.org/2000/svg'/>".into_response(),
        _ => StatusCode::NOT_FOUND
            .as_u16()
            .to_string()
            .with_status(poem::http::StatusCode::NOT_FOUND)
            .into_response(),
    }
}

/// The address of a server with images: `N.jpg` is a picture, and other endings are none.
async fn images() -> String {
    let acceptor = TcpListener::bind("127.0.0.1:0").into_acceptor().await.unwrap();
    let address = acceptor.local_addr()[0].to_string();
    let app = Route::new().at("/:name", image);
    tokio::spawn(HttpServer::new_with_acceptor(acceptor).run(app));
    format!("http://{}", address.trim_start_matches("socket://"))
}

async fn push_cutouts(server: &Server, images: &str, endings: &[&str]) {
    let cutout = |(n, ending): (usize, &&str)| json!({"external_id": n, "image_url": format!("{images}/{n}.{ending}")});
    let cutouts: Vec<Value> = endings.iter().enumerate().map(cutout).collect();
    for part in cutouts.chunks(500) {
        server.post("/api/v1/cutouts", &json!(part)).await.expect(200);
    }
}

async fn register(server: &Server) {
    let model = json!({"id": MODEL, "name": "Histogram of oriented gradients, with colours", "model_type": "hog",
        "purpose": "image", "embedding_dim": 816});
    server.post("/api/v1/embeddings/models", &model).await.expect(201);
}

/// Starts an extraction with the worker's model, and returns the path of its job.
async fn extract(server: &Server, mut body: Value) -> String {
    body["model_id"] = json!(MODEL);
    let started = server.post(EXTRACT, &body).await;
    let location = started.headers.get("location").unwrap().to_str().unwrap().to_owned();
    started.expect(202);
    location
}

/// Waits until the job satisfies the condition.
async fn until(server: &Server, job: &str, is_met: impl Fn(&Value) -> bool) -> Value {
    let start = Instant::now();
    loop {
        let shown = server.get_at_head(job).await;
        if is_met(&shown) {
            return shown;
        }
        assert!(start.elapsed() < TIMEOUT, "{shown}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn is_over(job: &Value) -> bool {
    job["status"] != "pending" && job["status"] != "running"
}

/// The number of vectors that were recorded of each cutout.
async fn vectors(server: &Server) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/audit/events?type=CutoutEmbedded&limit=500{cursor}");
        let page = server.get(&path).await.expect(200);
        for event in page["items"].as_array().unwrap() {
            *counts.entry(event["data"]["cutout_id"].to_string()).or_default() += 1;
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return counts,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_embedders_embed_every_image_once() {
    let items: usize = std::env::var("MATCHBOOK_TEST_ITEMS").map_or(200, |items| items.parse().unwrap());
    let server = Server::start(&["--lease-term=2s"]).await;
    let images = images().await;
    let ending = |n: usize| match n % 40 {
        7 => "truncated",
        13 => "svg",
        21 => "missing",
        _ => "jpg",
    };
    let endings: Vec<&str> = (0..items).map(ending).collect();
    push_cutouts(&server, &images, &endings).await;
    register(&server).await;
    let job = extract(&server, json!({"job_type": "extract_cutouts"})).await;
    let mut handled = 0;
    let mut kills = 0;
    let ended = loop {
        let worker = WorkerProcess::embedder(&server, &format!("embedder-{kills}"), &["--pace-ms=100"]);
        // At another moment of its work each time: before, between and after the calls that record vectors and progress.
        let has_moved = |job: &Value| is_over(job) || counted(job) > handled;
        let shown = until(&server, &job, has_moved).await;
        handled = counted(&shown);
        let moment = 37 * (kills + 1) % 140;
        tokio::time::sleep(Duration::from_millis(moment)).await;
        worker.kill();
        kills += 1;
        if shown["status"] == "failed" {
            // Killed twice at one place.
            let id = shown["id"].as_str().unwrap();
            server.post(&format!("/jobs/{id}/retry"), &json!({})).await.expect(200);
        } else if is_over(&shown) {
            break shown;
        }
    };
    let failed = endings.iter().filter(|ending| **ending != "jpg").count();
    let embedded = items - failed;
    let counts = ["total_items", "processed_items", "failed_items"].map(|name| ended[name].as_u64().unwrap());
    assert_eq!(
        (ended["status"].as_str(), counts),
        (Some("completed"), [items as u64, embedded as u64, failed as u64])
    );
    assert!(kills > 2, "{kills}");
    let vectors = vectors(&server).await;
    assert_eq!(vectors.len(), embedded);
    assert!(vectors.values().all(|count| *count == 1), "{vectors:?}");
    let failures = ended["failures"].as_array().unwrap();
    assert_eq!(failures.len(), failed.min(50), "{failures:?}");
    let reason =
        |id: &str| failures.iter().find(|failure| failure["item_id"] == id).unwrap()["reason"].to_string();
    assert!(reason("13").contains("SVG") && reason("21").contains("404"), "{failures:?}");
    assert!(reason("7").contains("truncated"), "{failures:?}");
    println!("{items} images, {kills} kills");
}

fn counted(job: &Value) -> u64 {
    job["processed_items"].as_u64().unwrap() + job["failed_items"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn images_of_products_and_cutouts_get_vectors_that_are_found() {
    let server = Server::start(&[]).await;
    let images = images().await;
    for (id, picture) in [("hedge", 0), ("rabbit", 1)] {
        let url = format!("{images}/{picture}.jpg");
        let product =
            json!({"name": id, "image_url": url, "images": [url, format!("{images}/{picture}.svg")]});
        server.put(&format!("/api/v1/products/{id}"), &product).await.expect(200);
    }
    push_cutouts(&server, &images, &["jpg"; 4]).await;
    let _worker = WorkerProcess::embedder(&server, "embedder", &["--activate"]);
    let start = Instant::now();
    while server.get_at_head("/api/v1/embeddings/stats").await["active_image_model_id"] != MODEL {
        assert!(start.elapsed() < TIMEOUT, "the worker activates its model");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let of_products = extract(&server, json!({"job_type": "extract_products"})).await;
    let of_cutouts = extract(&server, json!({"job_type": "extract_cutouts"})).await;
    let done = until(&server, &of_products, is_over).await;
    let counts = |job: &Value| {
        ["total_items", "processed_items", "failed_items"].map(|name| job[name].as_u64().unwrap())
    };
    assert_eq!((counts(&done), &done["target_type"]), ([4, 2, 2], &json!("products")), "{done}");
    assert!(done["failures"][0]["image_id"].is_string() && done["result"]["items_failed"] == 2, "{done}");
    assert_eq!(counts(&until(&server, &of_cutouts, is_over).await), [4, 4, 0]);
    for (product, cutout) in [("hedge", 0), ("rabbit", 1)] {
        let path = format!("/api/v1/matching/products/{product}/candidates?limit=1");
        let found = server.get_at_head(&path).await;
        assert_eq!(
            (&found["items"][0]["id"], &found["model_id"]),
            (&json!(cutout), &json!(MODEL)),
            "{found}"
        );
        assert!(found["items"][0]["similarity"].as_f64().unwrap() > 0.999, "{found}");
    }
    // Nothing is left, but what failed; and of one product nothing but that.
    let again = extract(&server, json!({"job_type": "extract_cutouts"})).await;
    assert_eq!(counts(&until(&server, &again, is_over).await), [0, 0, 0]);
    let again =
        extract(&server, json!({"job_type": "extract_single_product", "product_ids": ["hedge"]})).await;
    assert_eq!(counts(&until(&server, &again, is_over).await), [1, 0, 1]);
    let all = json!({"job_type": "extract_cutouts", "config": {"only_missing": false}});
    let all = extract(&server, all).await;
    assert_eq!(counts(&until(&server, &all, is_over).await), [4, 4, 0]);
    assert!(vectors(&server).await.values().all(|count| *count == 1), "the same vectors change nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn extractions_are_listed_with_filters_and_by_id() {
    let mut server = Server::start(&[]).await;
    let job = extract_default(&server, "extract_cutouts").await;
    let other = extract_default(&server, "extract_products").await;
    server.post(&format!("{other}/cancel"), &json!({})).await.expect(200);
    server.post("/jobs", &json!({"kind": "model_training"})).await.expect(201);
    let read = async |server: &Server| {
        let ids = async |query: &str| {
            let page = server.get_at_head(&format!("{JOBS}?{query}")).await;
            let items = page["items"].as_array().unwrap().clone();
            items.iter().map(|item| format!("{JOBS}/{}", item["id"].as_str().unwrap())).collect::<Vec<_>>()
        };
        assert_eq!(ids("").await, [other.clone(), job.clone()]);
        assert_eq!(ids("status=cancelled").await, std::slice::from_ref(&other));
        assert_eq!(ids("job_type=extract_cutouts").await, std::slice::from_ref(&job));
        assert_eq!(ids("job_type=extract_single_product").await, Vec::<String>::new());
        let page = server.get_at_head(&format!("{JOBS}?limit=1")).await;
        assert!(page["items"][0].get("config").is_none(), "{page}");
        let next = format!("limit=1&cursor={}", page["next_cursor"].as_str().unwrap());
        assert_eq!(ids(&next).await, std::slice::from_ref(&job));
        server.get_at_head(&job).await
    };
    let shown = read(&server).await;
    let members = json!({"job_type": "extract_cutouts", "model_id": "dinov2-base", "target_type": "cutouts",
        "product_ids": null, "only_missing": true, "status": "pending", "total_items": null, "processed_items": 0,
        "failed_items": 0, "failures": [], "config": {"note": "a"}, "result": null, "error_message": null,
        "started_at": null, "completed_at": null, "id": shown["id"], "created_at": shown["created_at"],
        "position": shown["position"]});
    assert_eq!(shown, members);
    server.kill();
    server.restart().await;
    assert_eq!(read(&server).await, shown);
    for wrong in ["status=x", "job_type=model_training", "limit=0", "cursor=x"] {
        server.get(&format!("{JOBS}?{wrong}")).await.expect(400);
    }
    let tenant = [("x-tenant", "other")];
    for path in [job.clone(), format!("{job}/items")] {
        server.send(reqwest::Method::GET, &path, &tenant, None).await.expect(404);
    }
    server.get(&format!("{JOBS}/00000000-0000-7000-8000-000000000000")).await.expect(404);
    let id = job.rsplit('/').next().unwrap();
    assert_eq!(events(&server, id).await.len(), 1);
}

async fn extract_default(server: &Server, job_type: &str) -> String {
    let started = server.post(EXTRACT, &json!({"job_type": job_type, "config": {"note": "a"}})).await;
    format!("{JOBS}/{}", started.expect(202)["id"].as_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn items_are_listed_in_pages_that_continue_at_a_checkpoint() {
    let server = Server::start(&[]).await;
    push_cutouts(&server, "https://a.example", &["jpg"; 5]).await;
    register(&server).await;
    let job = extract(&server, json!({"job_type": "extract_cutouts"})).await;
    let list = async |query: &str| server.get_at_head(&format!("{job}/items?{query}")).await;
    let page = list("limit=2&count=true").await;
    let urls: Vec<&Value> = page["items"].as_array().unwrap().iter().map(|item| &item["image_url"]).collect();
    assert_eq!((&page["total"], urls.len(), &page["model_id"]), (&json!(5), 2, &json!(MODEL)));
    let first = page["items"][0]["checkpoint"].as_str().unwrap();
    let rest = list(&format!("count=true&cursor={first}")).await;
    assert_eq!((&rest["total"], rest["items"].as_array().unwrap().len()), (&json!(4), 4));
    assert_eq!(rest["next_cursor"], Value::Null);
    let done = rest["items"][0]["cutout_id"].clone();
    let vector: Vec<f64> = (0..816).map(f64::from).collect();
    let embedding = json!({"cutout_id": done, "model_id": MODEL, "vector": vector});
    server.post("/api/v1/cutouts/embeddings/batch", &json!([embedding])).await.expect(200);
    assert_eq!(list(&format!("count=true&cursor={first}")).await["total"], 3);
    let other = extract(&server, json!({"job_type": "extract_products"})).await;
    server.get(&format!("{other}/items?cursor={first}")).await.expect(400);
    let without = server.post("/jobs", &json!({"kind": "extract_cutouts"})).await.expect(201);
    server.get(&format!("{JOBS}/{}/items", without["id"].as_str().unwrap())).await.expect(409);
}

#[tokio::test(flavor = "multi_thread")]
async fn embedder_stops_on_a_signal_and_gives_its_job_back() {
    let server = Server::start(&[]).await;
    let images = images().await;
    push_cutouts(&server, &images, &["jpg"; 120]).await;
    register(&server).await;
    let job = extract(&server, json!({"job_type": "extract_cutouts"})).await;
    let worker = WorkerProcess::embedder(&server, "first", &["--pace-ms=60000"]);
    until(&server, &job, |job| job["processed_items"] == 50).await;
    assert_eq!(worker.terminate(), Some(0));
    let mut worker = WorkerProcess::embedder(&server, "second", &["--until-idle=1"]);
    let done = until(&server, &job, is_over).await;
    assert_eq!((&done["status"], &done["processed_items"]), (&json!("completed"), &json!(120)));
    assert_eq!(worker.wait_for_exit(), Some(0));
    assert!(vectors(&server).await.values().all(|count| *count == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn job_of_another_model_fails_with_the_remedy() {
    let server = Server::start(&[]).await;
    let job = extract_default(&server, "extract_cutouts").await;
    let _worker = WorkerProcess::embedder(&server, "embedder", &[]);
    let id = job.rsplit('/').next().unwrap().to_owned();
    let start = Instant::now();
    loop {
        let failed = events(&server, &id).await.into_iter().find(|event| event["type"] == "JobFailed");
        if let Some(failed) = failed {
            let message = failed["data"]["error"]["message"].as_str().unwrap().to_owned();
            assert!(message.contains("dinov2-base") && message.contains("activate"), "{message}");
            break;
        }
        assert!(start.elapsed() < TIMEOUT, "the job does not fail");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
