//! Experiments on the real program: the lists of variants, what users do with them, and the results.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::server::Server;

/// An experiment on feeds by hash, and one on categories by interleaving.
const EXPERIMENTS: &str = r#"{
    "blend": {"context": "feed", "variants": {"control": {}, "popular": {"weights":
        {"long_term": 0, "session": 0, "query": 0, "product": 0, "collaborative": 0}}}},
    "draft": {"context": "category", "assignment": "team_draft", "variants": {"control": {}, "popular": {"weights":
        {"long_term": 0, "session": 0, "query": 0, "product": 0, "collaborative": 0}}}}
}"#;

/// Thirty products, and users who like every third of them.
async fn catalogue(server: &Server) {
    let products: Value =
        (0..30).map(|n| json!({"id": n, "name": format!("Shoe {n}"), "category_id": 1})).collect();
    server.post("/api/v1/products/batch", &products).await.expect(200);
    let feedback: Value = (0..300)
        .map(|n| json!({"user_id": n % 17, "product_id": n * (n % 17) % 30, "interaction_type": "view"}))
        .collect();
    let position = server.post("/api/v1/feedback/batch", &feedback).await.expect(202)["position"].to_string();
    // Until lists can be made from it.
    let headers = [("x-min-position", position.as_str())];
    let search = json!({"query": "shoe"}).to_string();
    server.send(Method::POST, "/api/v1/search", &headers, Some(search)).await.expect(200);
}

async fn list(server: &Server, user: u32, context: &str) -> Value {
    let mut body = json!({"user_id": user, "context": context, "limit": 6});
    if context == "category" {
        body["category_id"] = 1.into();
    }
    server.post("/api/v1/recommend", &body).await.expect(200)
}

fn items(list: &Value) -> &Vec<Value> {
    list["results"].as_array().unwrap()
}

async fn click(server: &Server, list: &Value, item: &Value) {
    let click = json!({"user_id": list["user_id"], "product_id": item["product_id"], "interaction_type": "click",
        "request_id": list["request_id"], "position": item["slot"]});
    server.post("/api/v1/feedback", &click).await.expect(202);
}

async fn served(server: &Server, list: &Value) -> Value {
    server.get_at_head(&format!("/api/v1/recommendations/{}", list["request_id"].as_str().unwrap())).await
}

fn variant<'a>(results: &'a Value, name: &Value) -> &'a Value {
    let variants = results["variants"].as_array().unwrap();
    variants.iter().find(|variant| variant["variant"] == *name).unwrap_or_else(|| panic!("{results}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_variants_are_served_counted_and_explained() {
    let mut server = Server::start(&[]).await;
    server.kill();
    server.restart_with(&["--experiments", EXPERIMENTS]).await;
    catalogue(&server).await;
    let mut lists = Vec::new();
    for user in 0..16 {
        let one = list(&server, user, "feed").await;
        assert_eq!(one["experiment"], "blend");
        let name = &items(&one)[0]["variant"];
        assert!(items(&one).iter().all(|item| item["variant"] == *name), "{one}");
        let again = list(&server, user, "feed").await;
        assert_eq!(items(&again)[0]["variant"], *name, "a user keeps the variant");
        if *name == "popular" {
            click(&server, &one, &items(&one)[2]).await;
        }
        lists.push(one);
    }
    let by_caller = json!({"user_id": 1, "context": "feed", "blend": "joined"});
    let by_caller = server.post("/api/v1/recommend", &by_caller).await.expect(200);
    assert_eq!((&by_caller["experiment"], &by_caller["results"][0]["variant"]), (&Value::Null, &Value::Null));
    let results = server.get_at_head("/api/v1/experiments/blend").await;
    let shown = |name: &str| lists.iter().filter(|list| list["results"][0]["variant"] == name).count();
    for (name, clicks) in [("control", 0), ("popular", shown("popular"))] {
        let found = variant(&results, &name.into());
        assert!(shown(name) > 0, "both variants have users");
        assert_eq!(found["lists"], 2 * shown(name), "{found}");
        assert_eq!(
            (&found["clicks"], &found["slots"][2]["clicks"]),
            (&json!(clicks), &json!(clicks)),
            "{found}"
        );
        assert_eq!((&found["impressions"], &found["wins"]), (&json!(12 * shown(name)), &Value::Null));
        let rate = |end: &str| found["click_rate"][end].as_f64().unwrap();
        assert!(rate("low") <= rate("value") && rate("value") <= rate("high") && rate("high") > 0.0);
    }
    let shown = server.cli(&["experiments", "show", "blend"]);
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.status.success() && text.contains("popular") && text.contains("slot 2"), "{text}");
    let names = async |server: &Server| server.get_at_head("/api/v1/experiments").await["items"].clone();
    let running = |name: &str, is_running: bool| json!({"name": name, "is_running": is_running});
    assert_eq!(names(&server).await, json!([running("blend", true), running("draft", true)]));
    let page = server.get("/api/v1/experiments?limit=1").await.expect(200);
    let next = format!("/api/v1/experiments?limit=1&cursor={}", page["next_cursor"].as_str().unwrap());
    let next = server.get(&next).await.expect(200);
    assert_eq!((&next["items"], &next["next_cursor"]), (&json!([running("draft", true)]), &Value::Null));
    // Also without the experiment in the settings.
    server.kill();
    server.restart().await;
    assert_eq!(
        names(&server).await,
        json!([running("blend", false)]),
        "no list was served for the other one"
    );
    for list in &lists {
        let then = served(&server, list).await;
        assert_eq!((&then["equal"], &then["experiment"]["name"]), (&json!(true), &json!("blend")), "{then}");
        let probabilities = |list: &Value| -> Vec<Value> {
            items(list).iter().map(|item| json!([item["variant"], item["probability"]])).collect()
        };
        assert_eq!(probabilities(&then), probabilities(list));
    }
    let results = server.get_at_head("/api/v1/experiments/blend").await;
    assert_eq!(results["is_running"], false);
    server.get("/api/v1/experiments/none").await.problem(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn interleaved_lists_say_which_variant_wins() {
    let server = Server::start(&["--experiments", EXPERIMENTS]).await;
    catalogue(&server).await;
    let mut wins = 0;
    for user in 0..16 {
        let one = list(&server, user, "category").await;
        assert_eq!(one["experiment"], "draft");
        for item in items(&one) {
            let is_drawn = !item["variant"].is_null();
            assert_eq!(item["probability"], if is_drawn { 0.5 } else { 1.0 }, "{item}");
        }
        if let Some(item) = items(&one).iter().find(|item| item["variant"] == "popular") {
            click(&server, &one, item).await;
            wins += 1;
        }
        let then = served(&server, &one).await;
        assert_eq!(then["equal"], true, "{then}");
        let variants = |list: &Value, key: &str| -> Vec<Value> {
            list[key].as_array().unwrap().iter().map(|item| item["variant"].clone()).collect()
        };
        assert_eq!(variants(&then, "served"), variants(&one, "results"));
    }
    assert!(wins > 0, "the variants differ for some user");
    let results = server.get_at_head("/api/v1/experiments/draft").await;
    let (popular, control) = (variant(&results, &"popular".into()), variant(&results, &"control".into()));
    assert_eq!((&popular["wins"], &control["wins"]), (&json!(wins), &json!(0)), "{results}");
    assert_eq!(popular["win_rate"]["value"], 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_experiments_stop_the_start() {
    let server = Server::start(&["--experiments", EXPERIMENTS]).await;
    let empty = server.get_at_head("/api/v1/experiments/blend").await;
    assert_eq!((&empty["is_running"], &empty["variants"]), (&json!(true), &json!([])));
    let one = r#"{"blend": {"context": "feed", "variants": {"control": {}}}}"#;
    let refused = server.cli(&["serve", "--experiments", one]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("2 to 8 variants"), "{refused:?}");
}
