//! The catalogue on the real program: import, feedback, profiles and rules, over kills and rebuilds.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::server::Server;
use crate::support::server_state::rebuild;

#[tokio::test(flavor = "multi_thread")]
async fn import_takes_right_lines_and_names_the_wrong_ones() {
    let server = Server::start(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("catalogue.ndjson");
    let mut lines: Vec<String> =
        (0..1_500).map(|n| json!({"id": n, "name": format!("Shoe {n}"), "price": n}).to_string()).collect();
    lines[3] = "{broken".to_owned();
    lines[1_200] = json!({"id": 1_200, "name": "Shoe", "currency": "EUX"}).to_string();
    std::fs::write(&file, lines.join("\n")).unwrap();
    let import = || server.cli(&["products", "import", file.to_str().unwrap(), "--json"]);
    let printed = import();
    let errors = String::from_utf8(printed.stderr).unwrap();
    assert_eq!(printed.status.code(), Some(1), "{errors}");
    assert!(errors.contains("line 4: body ") && errors.contains("line 1201: currency "), "{errors}");
    let report: Value = serde_json::from_slice(&printed.stdout).unwrap();
    assert_eq!((&report["imported"], &report["rejected"]), (&json!(1_498), &json!(2)));
    let product = server.get_at_head("/api/v1/products/1499").await;
    assert_eq!((&product["name"], &product["price"]), (&json!("Shoe 1499"), &json!(1499.0)));
    let events = || async {
        let (mut count, mut next) = (0, String::new());
        loop {
            let path = format!("/audit/events?type=ProductUpserted&limit=500{next}");
            let page = server.get(&path).await.expect(200);
            count += page["items"].as_array().unwrap().len();
            let Some(cursor) = page["next_cursor"].as_str() else { return count };
            next = format!("&cursor={cursor}");
        }
    };
    assert_eq!(events().await, 1_498);
    import();
    assert_eq!(events().await, 1_498, "unchanged products record nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn catalogue_answers_survive_a_kill_and_a_rebuild() {
    let mut server = Server::start(&[]).await;
    let products: Value = (0..20)
        .map(|n| json!({"id": n, "name": format!("Shoe {n}"), "category_id": n % 3, "price": 10 + n}))
        .collect();
    server.post("/api/v1/products/batch", &products).await.expect(200);
    server.send(Method::DELETE, "/api/v1/products/7", &[], None).await.expect(200);
    let kinds = ["view", "click", "purchase", "like"];
    let feedback: Value = (0..200)
        .map(|n| json!({"user_id": n % 7, "product_id": n % 20, "interaction_type": kinds[n % 4]}))
        .collect();
    server.post("/api/v1/feedback/batch", &feedback).await.expect(202);
    let rule = json!({"kind": "pin", "product_ids": [1, 2], "slot": 3});
    server.put("/api/v1/merchandising/rules/spring", &rule).await.expect(200);
    let responses = async |server: &Server| {
        let mut all = Vec::new();
        for path in
            ["/api/v1/products?category_id=1", "/api/v1/products/7", "/api/v1/merchandising/rules/spring"]
        {
            all.push(server.get_at_head(path).await);
        }
        let profile = server.get_at_head("/api/v1/users/3/profile").await;
        // The weights change with time.
        all.push(json!([profile["interactions"], profile["session"]["interactions"], profile["position"]]));
        all
    };
    let before = responses(&server).await;
    assert_eq!((&before[1]["is_active"], &before[2]["slot"]), (&json!(false), &json!(3)));
    assert_eq!(before[3][0]["total"], 29);
    server.kill();
    server.restart().await;
    assert_eq!(responses(&server).await, before);
    for name in ["products", "users", "merchandising_rules"] {
        rebuild(&server, name).await;
    }
    assert_eq!(responses(&server).await, before);
}
