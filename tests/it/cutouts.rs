//! Cutouts and embedding models on the real program: lists, filters, numbers and deleted models, over a kill and a rebuild.

use serde_json::{Value, json};

use crate::support::server::Server;
use crate::support::server_state::rebuild;

const CUTOUTS: &str = "/api/v1/cutouts";
const MODELS: &str = "/api/v1/embeddings/models";

fn ids(page: &Value) -> Vec<u64> {
    page["items"].as_array().unwrap().iter().map(|item| item["id"].as_u64().unwrap()).collect()
}

/// Ten cutouts, the even ones with a code, and vectors of the first four. The newest vector of the last of them is of `clip`.
async fn with_cutouts(server: &Server) {
    let cutouts: Value = (0..10)
        .map(|n| {
            let upc = (n % 2 == 0).then(|| (n % 4).to_string());
            json!({"external_id": n, "image_url": format!("/cutouts/{n}.jpg"), "predicted_upc": upc})
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cutouts.ndjson");
    let lines: Vec<String> = cutouts.as_array().unwrap().iter().map(Value::to_string).collect();
    std::fs::write(&file, lines.join("\n")).unwrap();
    let printed = server.cli(&["cutouts", "import", file.to_str().unwrap()]);
    assert!(printed.status.success() && printed.stdout.starts_with(b"imported 10 cutouts"), "{printed:?}");
    let of = |n: u32, model: &str| json!({"cutout_id": n, "model_id": model, "vector": [n + 1, 1]});
    let vectors = json!([of(0, "clip"), of(1, "clip"), of(2, "siglip"), of(3, "siglip")]);
    server.post("/api/v1/cutouts/embeddings/batch", &vectors).await.expect(200);
    server.post("/api/v1/cutouts/embeddings/batch", &json!([of(3, "clip")])).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn cutouts_are_listed_in_pages_and_by_filter() {
    let server = Server::start(&[]).await;
    with_cutouts(&server).await;
    let listed = async |query: &str| ids(&server.get_at_head(&format!("{CUTOUTS}?{query}")).await);
    for (query, expected) in [
        ("limit=3", vec![0, 1, 2]),
        ("limit=3&page=4", vec![9]),
        ("limit=3&page=5", vec![]),
        ("has_embedding=true", vec![0, 1, 2, 3]),
        ("has_embedding=false&limit=2", vec![4, 5]),
        ("predicted_upc=2", vec![2, 6]),
        ("matched=true", vec![]),
        ("matched=false&predicted_upc=0&has_embedding=true", vec![0]),
    ] {
        assert_eq!(listed(query).await, expected, "{query}");
    }
    // On a cluster the cutouts of a batch come in any order.
    let newest = server.get_at_head(&format!("{CUTOUTS}?order=newest")).await;
    let created = newest["items"].as_array().unwrap().iter().map(|item| item["created_at"].as_str().unwrap());
    assert!(created.clone().zip(created.skip(1)).all(|(one, next)| one >= next), "{newest}");
    for page in [1, 2] {
        let expected = ids(&newest)[2 * page - 2..2 * page].to_vec();
        assert_eq!(listed(&format!("order=newest&limit=2&page={page}")).await, expected);
    }
    for order in ["id", "newest"] {
        let (mut all, mut next) = (Vec::new(), String::new());
        loop {
            let page = server.get(&format!("{CUTOUTS}?order={order}&limit=3{next}")).await.expect(200);
            all.extend(ids(&page));
            let Some(cursor) = page["next_cursor"].as_str() else { break };
            next = format!("&cursor={cursor}");
        }
        all.sort_unstable();
        assert_eq!(all, (0..10).collect::<Vec<_>>(), "{order}");
    }
    for wrong in ["page=0", "page=a", "limit=501", "order=oldest", "cursor=x", "matched=maybe"] {
        server.get(&format!("{CUTOUTS}?{wrong}")).await.expect(400);
    }
    for unknown in ["10", "007", "x", "-1"] {
        server.get(&format!("{CUTOUTS}/{unknown}")).await.expect(404);
    }
    let other = [("x-tenant", "other")];
    server.send(reqwest::Method::GET, "/api/v1/cutouts/1", &other, None).await.expect(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_of_a_deleted_model_do_not_count() {
    let mut server = Server::start(&[]).await;
    with_cutouts(&server).await;
    let first = server.get_at_head(MODELS).await;
    let model = |models: &Value, id: &str| {
        models["items"].as_array().unwrap().iter().find(|model| model["id"] == id).cloned()
    };
    for (id, counted, active) in
        [("clip", 3, false), ("siglip", 2, false), ("dinov2-base", 0, true), ("lexical", 0, true)]
    {
        let model = model(&first, id).unwrap();
        assert_eq!(
            (&model["vector_count"], &model["is_matching_active"]),
            (&json!(counted), &json!(active)),
            "{model}"
        );
    }
    assert_eq!(model(&first, "dinov2-base").unwrap()["embedding_dim"], 768);
    server.send(reqwest::Method::DELETE, &format!("{MODELS}/clip"), &[], None).await.expect(200);
    let responses = async |server: &Server| {
        let mut all = Vec::new();
        for path in [
            MODELS,
            CUTOUTS,
            "/api/v1/cutouts/stats",
            "/api/v1/cutouts?has_embedding=true",
            "/api/v1/embeddings/stats",
        ] {
            all.push(server.get_at_head(path).await);
        }
        all
    };
    let before = responses(&server).await;
    assert_eq!(model(&before[0], "clip"), None);
    assert_eq!(ids(&before[3]), [2]);
    let three = &before[1]["items"][3];
    assert_eq!((&three["has_embedding"], &three["embedding_model_id"]), (&json!(false), &json!(null)));
    for (member, number) in [
        ("total", 10),
        ("matched", 0),
        ("unmatched", 10),
        ("with_embedding", 1),
        ("without_embedding", 9),
        ("with_predicted_upc", 5),
    ] {
        assert_eq!(before[2][member], number, "{member}");
    }
    let counts = ["model_count", "vector_count", "cutouts_with_embedding"].map(|name| &before[4][name]);
    assert_eq!(counts, [&json!(3), &json!(2), &json!(1)]);
    assert_eq!(before[4]["active_image_model_id"], "dinov2-base");
    server.get(&format!("{MODELS}/clip")).await.expect(404);
    server.kill();
    server.restart().await;
    assert_eq!(responses(&server).await, before);
    rebuild(&server, "cutouts").await;
    rebuild(&server, "search").await;
    assert_eq!(responses(&server).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn candidates_are_near_and_matched_ones_become_images() {
    let server = Server::start(&[]).await;
    for (id, upc) in [(1, "4711"), (2, "0815")] {
        let product = json!({"name": "Shoe", "upc": upc, "images": [format!("/own/{id}.jpg")]});
        server.put(&format!("/api/v1/products/{id}"), &product).await.expect(200);
    }
    let cutouts: Value = (0..4)
        .map(|n| {
            let upc = (n == 1).then_some("4711");
            json!({"external_id": n, "image_url": format!("/cutouts/{n}.jpg"), "predicted_upc": upc})
        })
        .collect();
    server.post(CUTOUTS, &cutouts).await.expect(200);
    let model = json!({"name": "clip", "model_type": "clip", "purpose": "image", "embedding_dim": 2});
    server.post(MODELS, &model).await.expect(201);
    server.post(&format!("{MODELS}/clip/activate"), &json!({})).await.expect(200);
    let of = |n: u32, x: f64, y: f64| json!({"cutout_id": n, "model_id": "clip", "vector": [x, y]});
    let vectors = json!([of(0, 1.0, 0.0), of(1, 0.96, 0.28), of(2, 0.0, 1.0), of(3, -1.0, 0.0)]);
    server.post("/api/v1/cutouts/embeddings/batch", &vectors).await.expect(200);
    let front = json!({"model_id": "clip", "image_id": "front", "vector": [1, 0]});
    server.post("/api/v1/products/1/embeddings", &front).await.expect(200);
    let path = "/api/v1/matching/products/1/candidates";
    let found = server.get_at_head(path).await;
    assert_eq!(ids(&found), [1, 0, 2, 3], "the code is a boost: {found}");
    let first = &found["items"][0];
    assert_eq!((&first["similarity"], &first["upc_agrees"]), (&json!(0.96), &json!(true)));
    assert_eq!((&found["model_id"], &found["vector_count"]), (&json!("clip"), &json!(1)));
    let page = server.get_at_head(&format!("{path}?limit=3")).await;
    let next = page["next_cursor"].as_str().unwrap();
    assert_eq!(ids(&server.get_at_head(&format!("{path}?limit=3&cursor={next}")).await), [3]);
    let matches = |id: u32| json!({"cutouts": [{"cutout_id": id, "similarity": 0.96}]});
    server.post("/api/v1/matching/products/1/matches", &matches(2)).await.expect(200);
    server.post("/api/v1/matching/products/2/matches", &matches(0)).await.expect(200);
    let found = server.get_at_head(path).await;
    assert_eq!(ids(&found), [1, 3, 0], "its own cutout is one of its images, another's comes last");
    assert_eq!(found["items"][2]["matched_product_id"], 2);
    assert_eq!(ids(&server.get_at_head(&format!("{path}?matched=false")).await), [1, 3]);
    let product = server.get_at_head("/api/v1/products/1").await;
    assert_eq!(product["images"], json!(["/own/1.jpg", "/cutouts/2.jpg"]));
    let target = server.get_at_head("/api/v1/matching/products/1").await;
    assert_eq!((&target["matched_count"], &target["image_vector_count"]), (&json!(1), &json!(1)));
    assert_eq!(target["matches"][0]["match_similarity"], 0.96);
    assert!(target["matches"][0]["matched_by"].is_string(), "{target}");
    let listed = server.get_at_head("/api/v1/matching/products?limit=1").await;
    assert_eq!((&listed["items"][0]["id"], &listed["items"][0]["matched_count"]), (&json!(1), &json!(1)));
    let undo = "/api/v1/matching/products/1/matches?cutout_id=2";
    server.send(reqwest::Method::DELETE, undo, &[], None).await.expect(200);
    let product = server.get_at_head("/api/v1/products/1").await;
    assert_eq!(product["images"], json!(["/own/1.jpg"]));
    assert_eq!(ids(&server.get_at_head(path).await), [1, 2, 3, 0]);
    for (query, status) in
        [("?model_id=none", 404), ("?model_id=lexical", 200), ("?limit=0", 400), ("?cursor=x", 400)]
    {
        server.get(&format!("{path}{query}")).await.expect(status);
    }
    server.get("/api/v1/matching/products/3/candidates").await.expect(404);
    server.get("/api/v1/matching/products/3").await.expect(404);
}
