use super::*;

#[tokio::test]
async fn repeated_request_returns_the_same_game() {
    let server = RunningArena::start(Duration::from_secs(3600), None).await;
    let match_id = Uuid::from_u128(1);
    let (status, made) = server.create_game(match_id).await.unwrap();
    assert_eq!((status, made["game_id"].is_string()), (201, true), "{made}");
    assert_eq!(server.create_game(match_id).await, Some((200, made.clone())));
    let (_, other) = server.create_game(Uuid::from_u128(2)).await.unwrap();
    assert_ne!(other["game_id"], made["game_id"]);
    let games: Value =
        server.http.get(format!("{}/games", server.url)).send().await.unwrap().json().await.unwrap();
    assert_eq!(games["items"].as_array().unwrap().len(), 2);
    assert_eq!(games["items"][0]["state"], "playing");
}

#[tokio::test]
async fn each_fault_has_its_effect() {
    let server = RunningArena::start(Duration::from_secs(3600), None).await;
    let cases = [
        ("refuse", Some(422), false),
        ("error", Some(500), false),
        ("garbage", Some(201), false),
        ("down", None, false),
        ("lost_answer", None, true),
        ("slow", Some(201), true),
    ];
    for (number, (kind, status, is_made)) in (1..).zip(cases) {
        assert_eq!(server.inject(json!({"kind": kind, "times": 1})).await, 201);
        let match_id = Uuid::from_u128(number);
        let answer = server.create_game(match_id).await;
        assert_eq!(answer.as_ref().map(|(status, _)| *status), status, "{kind}");
        let names_game = answer.is_some_and(|(_, body)| body["game_id"].is_string());
        assert_eq!(names_game, kind == "slow", "{kind}");
        assert_eq!(server.arena.games.get(match_id).is_some(), is_made, "{kind}");
        let (again, body) = server.create_game(match_id).await.unwrap();
        assert_eq!((again, body["game_id"].is_string()), (if is_made { 200 } else { 201 }, true), "{kind}");
    }
}

#[tokio::test]
async fn hanging_call_has_no_response_until_the_fault_is_removed() {
    let server = RunningArena::start(Duration::from_secs(3600), None).await;
    server.inject(json!({"kind": "hang"})).await;
    let call = server.create_game(Uuid::from_u128(1));
    assert!(tokio::time::timeout(Duration::from_millis(300), call).await.is_err());
    assert_eq!(server.arena.games.all(), []);
    server.clear_faults().await;
    assert_eq!(server.create_game(Uuid::from_u128(1)).await.unwrap().0, 201);
}

#[tokio::test]
async fn invalid_requests_are_refused() {
    let server = RunningArena::start(Duration::from_secs(3600), None).await;
    for fault in [json!({"kind": "boom"}), json!({"kind": "error", "times": 0}), json!([])] {
        assert_eq!(server.inject(fault.clone()).await, 400, "{fault}");
    }
    let mut alone = game_request(Uuid::from_u128(1));
    alone["players"][0]["side"] = "first".into();
    let answer = server.http.post(format!("{}/games", server.url)).json(&alone).send().await.unwrap();
    assert_eq!(answer.status(), 422);
    let answer = server.http.get(format!("{}/elsewhere", server.url)).send().await.unwrap();
    assert_eq!(answer.status(), 404);
}
