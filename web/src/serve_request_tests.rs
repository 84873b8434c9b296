use super::*;

#[tokio::test]
async fn parameter_or_header_that_is_given_twice_is_refused() {
    let response = open().get("/things?limit=1&limit=abc").send().await;
    assert_eq!(problem(response, 400).await["errors"][0]["field"], "limit");
    let twice = open().get("/things").header("x-tenant", "a").header("x-tenant", "b").send().await;
    assert_eq!(problem(twice, 400).await["errors"][0]["field"], "x-tenant");
    open().get("/things").header("last-event-id", "").send().await.assert_status_is_ok();
}

#[tokio::test]
async fn body_without_memory_is_to_be_sent_again() {
    let limits = Limits { bodies_in_flight_bytes: 64, ..Limits::default() };
    let client = client_with(Auth::open(Now::new(now)), limits);
    let body = |length: usize| format!(r#"{{"name": "a", "size": 1{}}}"#, " ".repeat(length - 24));
    let send = |length: usize| {
        client
            .post("/things")
            .header("X-User", "ann")
            .content_type("application/json")
            .body(body(length))
            .send()
    };
    for _ in 0..3 {
        assert_eq!(send(32).await.0.status(), StatusCode::CREATED);
    }
    let response = send(33).await;
    response.assert_header("retry-after", "1");
    problem(response, 429).await;
}

#[tokio::test(start_paused = true)]
async fn batch_past_its_deadline_names_the_recorded_items() {
    let problem = problem(open().post("/things/batch/hang").send().await, 503).await;
    let parts = problem["parts"].as_array().unwrap().iter();
    let parts: Vec<_> = parts.map(|part| (&part["outcome"], &part["items"], &part["position"])).collect();
    let (recorded, unknown) = (serde_json::json!("recorded"), serde_json::json!("unknown"));
    let (items, rest) = (serde_json::json!([1]), serde_json::json!([0, 2]));
    let (position, none) = (serde_json::json!(5), serde_json::Value::Null);
    assert_eq!(parts, [(&recorded, &items, &position), (&unknown, &rest, &none)]);
}

#[tokio::test]
async fn options_lists_the_methods() {
    let response = open().options("/things").send().await;
    response.assert_status(StatusCode::NO_CONTENT);
    response.assert_header("allow", "GET, HEAD, OPTIONS, POST");
    problem(open().options("/nothing").send().await, 404).await;
}
