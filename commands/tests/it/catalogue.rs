use event_schemas::envelope::Event;
use event_schemas::product::ProductEvent;
use event_schemas::user::UserEvent;
use serde_json::{Value, json};
use web::caller::Role;

use crate::failing_log::{FailingLog, Fault};
use crate::support::TestApp;

const PRODUCT: &str = "/api/v1/products/1";
const PRODUCTS: &str = "/api/v1/products/batch";
const FEEDBACK: &str = "/api/v1/feedback";
const FEEDBACKS: &str = "/api/v1/feedback/batch";
const RULE: &str = "/api/v1/merchandising/rules/spring";

fn view_of(user: impl Into<Value>, product: impl Into<Value>) -> Value {
    json!({"user_id": user.into(), "product_id": product.into(), "interaction_type": "view"})
}

#[tokio::test]
async fn product_is_created_replaced_and_deactivated() {
    let app = TestApp::new().await;
    let shoe = json!({"name": "Trail shoe", "price": 89.95, "currency": "EUR", "brand_id": 12,
        "aw_image_url": "https://feed.example/1.jpg", "stock_quantity": 0});
    let created = app.put(PRODUCT, &shoe).await.ok();
    for (member, value) in [
        ("id", json!(1)),
        ("price", json!(89.95)),
        ("brand_id", json!("12")),
        ("image_url", json!("https://feed.example/1.jpg")),
        ("in_stock", json!(false)),
        ("is_active", json!(true)),
        ("description", json!(null)),
        ("position", json!(1)),
    ] {
        assert_eq!(created[member], value, "{member}");
    }
    assert_eq!(app.put(PRODUCT, &shoe).await.ok(), created);
    assert_eq!(app.head(), 1, "the same facts record nothing");
    let replaced = app.put(PRODUCT, &json!({"name": "Trail shoe"})).await.ok();
    assert_eq!((&replaced["price"], &replaced["in_stock"]), (&json!(null), &json!(true)));
    let off = || app.call("DELETE", PRODUCT).send();
    assert_eq!(off().await.ok(), json!({"id": 1, "product_id": 1, "is_active": false, "position": 3}));
    assert_eq!(off().await.ok()["position"], 3);
    assert_eq!(app.put(PRODUCT, &json!({"name": "Trail shoe"})).await.ok()["is_active"], true);
    app.call("DELETE", "/api/v1/products/2").send().await.refused(404, "NOT_FOUND");
}

#[tokio::test]
async fn wrong_products_are_refused_with_their_member() {
    let app = TestApp::new().await;
    for (member, wrong) in [
        ("price", json!(-1)),
        ("price", json!("12")),
        ("currency", json!("EUX")),
        ("currency", json!("euro")),
        ("name", json!("")),
        ("name", json!("  ")),
        ("name", json!("x".repeat(501))),
        ("average_rating", json!(5.1)),
        ("stock_quantity", json!(-1)),
        ("images", json!(vec!["/a"; 101])),
        ("images[1]", json!(["/a", format!("/{}", "a".repeat(2048))])),
        ("id", json!(2)),
        ("attributes", json!([])),
    ] {
        let mut product = json!({"name": "Trail shoe"});
        let name = member.split('[').next().unwrap();
        product[name] = wrong;
        let refused = app.put(PRODUCT, &product).await;
        assert_eq!(refused.fields(), [member], "{refused:?}");
        refused.refused(400, "INVALID_REQUEST");
    }
    let call = app.call("PUT", PRODUCT).text("application/json", r#"{"name": "x", "price": 1e309}"#.into());
    call.send().await.refused(400, "INVALID_REQUEST");
    let script = json!({"name": "x", "product_url": "javascript:alert(1)"});
    let refused = app.put(PRODUCT, &script).await;
    assert_eq!(refused.fields(), ["product_url"]);
    refused.refused(422, "UNPROCESSABLE");
    let long = format!("/api/v1/products/{}", "a".repeat(129));
    app.put(long, &json!({"name": "x"})).await.refused(400, "INVALID_REQUEST");
    app.put("/api/v1/products/1", &json!({})).await.refused(400, "INVALID_REQUEST");
    assert_eq!(app.head(), 0);
}

#[tokio::test]
async fn wrong_items_of_a_batch_do_not_affect_the_others() {
    let app = TestApp::new().await;
    let batch = json!([
        {"id": 1, "name": "a"},
        {"id": 2, "name": "b", "price": -1},
        {"name": "c"},
        {"id": "d", "name": "d", "image_url": "x"},
        {"id": "1", "name": "e"},
    ]);
    let outcome = app.post(PRODUCTS, &batch).await.ok();
    assert_eq!((&outcome["accepted"], &outcome["rejected"]), (&json!(2), &json!(3)));
    let results = outcome["results"].as_array().unwrap();
    let fields: Vec<_> = results.iter().map(|result| &result["errors"][0]["field"]).collect();
    assert_eq!(fields, [&json!(null), &json!("price"), &json!("id"), &json!("image_url"), &json!(null)]);
    assert_eq!(results[1]["status"], "rejected");
    let events = app.events().await;
    let [only] = events.as_slice() else { panic!("{events:?}") };
    let Event::Product(ProductEvent::ProductUpserted(upserted)) = &only.event else { panic!("{only:?}") };
    assert_eq!(upserted.details.name, "e", "the last one of an id counts");

    let lines = "{\"id\": 7, \"name\": \"a\"}\n{broken\n\n{\"id\": 8, \"name\": \"b\"}\n";
    let sent = app.call("POST", PRODUCTS).text("application/x-ndjson", lines.to_owned()).send().await;
    let outcome = sent.ok();
    assert_eq!((&outcome["accepted"], &outcome["results"][1]["line"]), (&json!(2), &json!(2)));
    assert_eq!(outcome["results"][2]["line"], 4);
    assert_eq!(outcome["position"], app.head());
}

#[tokio::test]
async fn batch_without_any_right_item_is_a_problem() {
    let app = TestApp::new().await;
    let refused = app.post(PRODUCTS, &json!([{"id": 1}, {"name": "b"}])).await;
    assert_eq!(refused.fields(), ["body[0].name", "body[1].id"]);
    refused.refused(400, "INVALID_REQUEST");
    for body in [json!({"id": 1, "name": "a"}), json!("x"), json!(vec![json!({}); 10_001])] {
        app.post(PRODUCTS, &body).await.refused(400, "INVALID_REQUEST");
    }
    let refused = app.post(FEEDBACKS, &json!([view_of("u".repeat(129), 1)])).await;
    refused.refused(400, "INVALID_REQUEST");
    assert_eq!(app.head(), 0);
}

#[tokio::test]
async fn interrupted_batch_is_completed_without_doubles() {
    let app = TestApp::new().await;
    let batch: Value = (0..40).map(|n| view_of(n % 20, n)).collect();
    let send = |key: &str| app.call("POST", FEEDBACKS).key(key).body(&batch).send();
    let first = send("k").await.ok();
    let head = app.head();
    // 40 interactions of 20 users, and the answer.
    assert_eq!((head, first["accepted"].as_u64()), (41, Some(40)));
    assert_eq!(send("k").await.ok(), first);
    let app = app.restarted().await;
    assert_eq!(app.call("POST", FEEDBACKS).key("k").body(&batch).send().await.ok(), first);
    assert_eq!(app.head(), head);
    let answers = futures_util::future::join_all((0..32).map(|_| {
        let call = app.call("POST", FEEDBACK).key("same").body(&view_of(1, 2));
        call.send()
    }));
    let answers = answers.await;
    assert!(answers.iter().all(|answer| *answer == answers[0] && answer.status == 202), "{answers:?}");
    // The interaction, and the answer.
    assert_eq!(app.head(), head + 2);
}

#[tokio::test]
async fn full_disk_within_a_batch_names_the_recorded_items() {
    let (app, log) = FailingLog::server().await;
    let mut items: Vec<Value> = (0..40).map(|n| view_of(n % 10, n)).collect();
    items.push(json!({"user_id": 1}));
    let batch = Value::from(items);
    log.fail_after(3, Fault::Full);
    let send = || app.call("POST", FEEDBACKS).key("k").body(&batch).send();
    let refused = send().await;
    let count = |outcome: &str| {
        let parts = refused.body["parts"].as_array().unwrap().iter();
        let items = parts.filter(|part| part["outcome"] == outcome).map(|part| part["items"].as_array());
        items.flatten().map(Vec::len).sum::<usize>()
    };
    assert_eq!((count("recorded"), count("not_recorded")), (12, 28), "{refused:?}");
    assert_eq!(app.count("InteractionRecorded").await, 12);
    refused.refused(507, "INSUFFICIENT_STORAGE");
    log.mend();
    let completed = send().await.ok();
    assert_eq!((&completed["accepted"], &completed["rejected"]), (&json!(40), &json!(1)));
    assert_eq!(app.count("InteractionRecorded").await, 40);
    assert_eq!(send().await.ok(), completed);
}

#[tokio::test]
async fn feedback_is_recorded_with_all_of_its_members() {
    let app = TestApp::new().await;
    let body = json!({
        "user_id": "ann", "product_id": 456, "interaction_type": "rating", "value": 4, "context": "search",
        "position": 2, "session_id": "s", "request_id": "018f0000-0000-7000-8000-000000000001",
        "occurred_at": "2026-11-20T09:00:00Z",
    });
    let recorded = app.post(FEEDBACK, &body).await.ok();
    assert_eq!((&recorded["user_id"], &recorded["product_id"]), (&json!("ann"), &json!(456)));
    let events = app.events().await;
    let Event::User(UserEvent::InteractionRecorded(event)) = &events[0].event else { panic!("{events:?}") };
    let stored = serde_json::to_value(event).unwrap();
    for (member, value) in [
        ("product_id", json!("456")),
        ("interaction_type", json!("rating")),
        ("value", json!(4.0)),
        ("context", json!("search")),
        ("slot", json!(2)),
        ("session_id", json!("s")),
        ("list_id", body["request_id"].clone()),
    ] {
        assert_eq!(stored[member], value, "{member}");
    }
    assert!(!stored.to_string().contains("ann"), "the log knows subjects only");
    assert_eq!(events[0].metadata.subject, Some(event.subject_id));
    assert_eq!(events[0].metadata.occurred_at.to_string(), "2026-11-20T09:00:00.000000Z");
}

#[tokio::test]
async fn wrong_feedback_is_refused_with_its_member() {
    let app = TestApp::new().await;
    for (member, wrong) in [
        ("interaction_type", json!("look")),
        ("context", json!("shelf")),
        ("position", json!(-1)),
        ("value", json!(0)),
        ("value", json!(5.5)),
        ("value", json!(null)),
        ("occurred_at", json!("2026-11-20T10:06:00Z")),
        ("user_id", json!(1.5)),
    ] {
        let mut body = json!({"user_id": 1, "product_id": 1, "interaction_type": "rating", "value": 3});
        body[member] = wrong;
        let refused = app.post(FEEDBACK, &body).await;
        assert_eq!(refused.fields(), [member], "{refused:?}");
        refused.refused(400, "INVALID_REQUEST");
    }
    assert_eq!(app.head(), 0);
    // Ids may have any visible characters.
    app.post(FEEDBACK, &view_of("😀", "../")).await.ok();
}

#[tokio::test]
async fn users_send_the_feedback_of_themselves_only() {
    let app = TestApp::with_keys().await;
    let send = |path, body: Value, role| app.call("POST", path).roles("ann", role).body(&body).send();
    send(FEEDBACK, view_of("ann", 1), Role::User).await.ok();
    send(FEEDBACK, view_of("bob", 1), Role::User).await.refused(403, "FORBIDDEN");
    let both = json!([view_of("ann", 1), view_of("bob", 1)]);
    send(FEEDBACKS, both.clone(), Role::User).await.refused(403, "FORBIDDEN");
    assert_eq!(app.head(), 1);
    send(FEEDBACKS, both, Role::Service).await.ok();
    send(FEEDBACK, view_of("ann", 1), Role::Worker).await.refused(403, "FORBIDDEN");
    let rule = json!({"kind": "ban", "product_ids": [1]});
    let set = |role| app.call("PUT", RULE).roles("ann", role).body(&rule).send();
    for role in [Role::User, Role::Worker, Role::Auditor] {
        set(role).await.refused(403, "FORBIDDEN");
    }
    set(Role::Service).await.ok();
}

const EMBEDDINGS: &str = "/api/v1/products/embeddings/batch";

/// The types of the recorded events, without those of products' facts.
async fn embedding_events(app: &TestApp) -> Vec<String> {
    let types = app.events().await.into_iter().map(|event| event.event.event_type().as_str().to_owned());
    types.filter(|name| name != "ProductUpserted").collect()
}

#[tokio::test]
async fn first_vector_of_a_model_registers_it() {
    let app = TestApp::new().await;
    app.put(PRODUCT, &json!({"name": "a"})).await.ok();
    let path = "/api/v1/products/1/embeddings";
    let body = json!({"model_id": "clip", "vector": [3, 4]});
    let embedded = app.post(path, &body).await.ok();
    let expected =
        json!({"product_id": 1, "model_id": "clip", "image_id": null, "dimension": 2, "position": 3});
    assert_eq!(embedded, expected);
    assert_eq!(app.post(path, &body).await.ok(), expected, "an unchanged vector records nothing");
    let image = json!({"model_id": "clip", "vector": [3, 4], "image_id": 7, "product_id": "1"});
    assert_eq!(app.post(path, &image).await.ok()["image_id"], "7");
    let app = app.restarted().await;
    app.post(path, &json!({"model_id": "clip", "vector": [1, 2, 3]})).await.refused(422, "UNPROCESSABLE");
    let app = app.restarted().await;
    assert_eq!(app.post(path, &body).await.ok()["position"], 4);
    assert_eq!(
        embedding_events(&app).await,
        ["EmbeddingModelRegistered", "ProductEmbedded", "ProductEmbedded"]
    );
}

#[tokio::test]
async fn wrong_vectors_are_refused_and_register_no_model() {
    let app = TestApp::new().await;
    app.put(PRODUCT, &json!({"name": "a"})).await.ok();
    let path = "/api/v1/products/1/embeddings";
    for (member, value, status) in [
        ("vector", json!([0, 0]), 422),
        ("vector", json!([1e39, 0]), 422),
        ("vector", json!([1e-60, 0]), 422),
        ("vector", json!([]), 400),
        ("vector", json!(["1"]), 400),
        ("vector", json!([null]), 400),
        ("vector", json!(vec![1; 4_097]), 400),
        ("model_id", json!("lexical"), 422),
        ("model_id", json!(""), 400),
        ("model_id", json!("m".repeat(129)), 400),
        ("product_id", json!(2), 400),
    ] {
        let mut body = json!({"model_id": "clip", "vector": [1, 0]});
        body[member] = value.clone();
        let refused = app.post(path, &body).await;
        assert!(refused.fields()[0].starts_with(member), "{value}: {refused:?}");
        assert_eq!(refused.status, status, "{value}: {refused:?}");
    }
    for number in ["NaN", "1e400", "Infinity"] {
        let text = format!("{{\"model_id\": \"clip\", \"vector\": [{number}, 1]}}");
        app.call("POST", path).text("application/json", text).send().await.refused(400, "INVALID_REQUEST");
    }
    let body = json!({"model_id": "clip", "vector": [1, 0]});
    app.post("/api/v1/products/2/embeddings", &body).await.refused(404, "NOT_FOUND");
    assert_eq!(app.head(), 1);
    let app = TestApp::with_keys().await;
    for role in [Role::User, Role::Worker, Role::Auditor] {
        let sent = app.call("POST", path).roles("ann", role).body(&body).send();
        sent.await.refused(403, "FORBIDDEN");
    }
    assert_eq!(app.head(), 0);
}

#[tokio::test]
async fn wrong_vectors_of_a_batch_do_not_affect_the_others() {
    let app = TestApp::new().await;
    for id in 1..=3 {
        app.put(format!("/api/v1/products/{id}"), &json!({"name": "a"})).await.ok();
    }
    let item = |id: u32, vector: &[f64]| json!({"product_id": id, "model_id": "clip", "vector": vector});
    let batch = json!([
        item(1, &[0.0, 0.0, 0.0]),
        item(1, &[1.0, 0.0]),
        item(2, &[1.0, 0.0, 0.0]),
        item(9, &[1.0, 0.0]),
        item(2, &[0.5, 0.0]),
        item(1, &[0.0, 1.0]),
        {"model_id": "clip", "vector": [1, 0]},
    ]);
    let outcome = app.post(EMBEDDINGS, &batch).await.ok();
    let results = outcome["results"].as_array().unwrap();
    let fields: Vec<_> =
        results.iter().map(|result| result["errors"][0]["field"].as_str().unwrap_or_default()).collect();
    assert_eq!(fields, ["vector", "", "vector", "product_id", "", "", "product_id"]);
    assert_eq!((&outcome["accepted"], &outcome["position"]), (&json!(3), &json!(app.head())));
    let expected = ["EmbeddingModelRegistered", "ProductEmbedded", "ProductEmbedded"];
    assert_eq!(embedding_events(&app).await, expected, "the last vector of a product counts");
    let again = app.post(EMBEDDINGS, &json!([item(1, &[0.0, 1.0]), item(2, &[0.5, 0.0])])).await.ok();
    assert_eq!((&again["accepted"], embedding_events(&app).await.len()), (&json!(2), 3));
    let wrong = app.post(EMBEDDINGS, &json!([item(9, &[1.0, 0.0]), item(1, &[1.0])])).await;
    assert_eq!(wrong.fields(), ["body[0].product_id", "body[1].vector"]);
    let long: Vec<_> = (0..1_001).map(|_| item(1, &[1.0, 0.0])).collect();
    app.post(EMBEDDINGS, &json!(long)).await.refused(400, "INVALID_REQUEST");
}

#[tokio::test]
async fn tenants_have_products_and_rules_of_their_own() {
    let app = TestApp::new().await;
    app.put(PRODUCT, &json!({"name": "a"})).await.ok();
    app.put(RULE, &json!({"kind": "ban", "product_ids": [1]})).await.ok();
    let other = |method, path: &str| app.call(method, path).tenant("other").send();
    other("DELETE", PRODUCT).await.refused(404, "NOT_FOUND");
    other("DELETE", RULE).await.refused(404, "NOT_FOUND");
    let body = json!({"name": "b"});
    app.call("PUT", PRODUCT).tenant("other").body(&body).send().await.ok();
    let streams: Vec<_> = app.events().await.iter().map(|event| event.stream.to_string()).collect();
    assert_eq!(streams, ["product-default.1", "merchandising-default", "product-other.1"]);
}

#[tokio::test]
async fn rules_are_set_replaced_and_removed() {
    let app = TestApp::new().await;
    let pin = json!({"kind": "pin", "product_ids": [1, "b"], "context": "feed", "valid_until": "2026-12-01T00:00:00Z"});
    let set = app.put(RULE, &pin).await.ok();
    assert_eq!(set, json!({"id": "spring", "rule_id": "spring", "exists": true, "position": 1}));
    assert_eq!(app.put(RULE, &pin).await.ok(), set);
    app.put(RULE, &json!({"kind": "boost", "product_ids": [1], "factor": 1.5})).await.ok();
    let remove = || app.call("DELETE", RULE).send();
    assert_eq!(remove().await.ok()["exists"], false);
    remove().await.refused(404, "NOT_FOUND");
    for (field, body) in [
        ("factor", json!({"kind": "boost", "product_ids": [1]})),
        ("factor", json!({"kind": "boost", "product_ids": [1], "factor": 0})),
        ("factor", json!({"kind": "ban", "product_ids": [1], "factor": 2})),
        ("slot", json!({"kind": "ban", "product_ids": [1], "slot": 2})),
        ("slot", json!({"kind": "pin", "product_ids": [1], "slot": 0})),
        ("product_ids", json!({"kind": "ban", "product_ids": []})),
        ("kind", json!({"kind": "hide", "product_ids": [1]})),
    ] {
        let refused = app.put(RULE, &body).await;
        assert_eq!(refused.fields(), [field], "{refused:?}");
        refused.refused(400, "INVALID_REQUEST");
    }
    let twice = json!({"kind": "ban", "product_ids": [1, "1"]});
    app.put(RULE, &twice).await.refused(422, "UNPROCESSABLE");
    assert_eq!(app.head(), 3);
}
