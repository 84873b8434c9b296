use super::*;

#[tokio::test]
async fn a_match_that_is_asked_for_again_has_the_same_game() {
    let server = Running::start(Duration::from_secs(3600), None).await;
    let match_id = Uuid::from_u128(1);
    let (status, made) = server.order(match_id).await.unwrap();
    assert_eq!((status, made["game_id"].is_string()), (201, true), "{made}");
    assert_eq!(server.order(match_id).await, Some((200, made.clone())));
    let (_, other) = server.order(Uuid::from_u128(2)).await.unwrap();
    assert_ne!(other["game_id"], made["game_id"]);
    let games: Value =
        server.http.get(format!("{}/games", server.url)).send().await.unwrap().json().await.unwrap();
    assert_eq!(games["items"].as_array().unwrap().len(), 2);
    assert_eq!(games["items"][0]["state"], "playing");
}

#[tokio::test]
async fn each_fault_fails_in_its_own_way_and_only_some_of_them_make_a_game() {
    let server = Running::start(Duration::from_secs(3600), None).await;
    let cases = [
        ("refuse", Some(422), false),
        ("error", Some(500), false),
        ("garbage", Some(201), false),
        ("down", None, false),
        ("lost_answer", None, true),
        ("slow", Some(201), true),
    ];
    for (number, (kind, status, is_made)) in (1..).zip(cases) {
        assert_eq!(server.fail(json!({"kind": kind, "times": 1})).await, 201);
        let match_id = Uuid::from_u128(number);
        let answer = server.order(match_id).await;
        assert_eq!(answer.as_ref().map(|(status, _)| *status), status, "{kind}");
        let names_game = answer.is_some_and(|(_, body)| body["game_id"].is_string());
        assert_eq!(names_game, kind == "slow", "{kind}");
        assert_eq!(server.arena.games.get(match_id).is_some(), is_made, "{kind}");
        let (again, body) = server.order(match_id).await.unwrap();
        assert_eq!((again, body["game_id"].is_string()), (if is_made { 200 } else { 201 }, true), "{kind}");
    }
}

#[tokio::test]
async fn a_call_that_hangs_has_no_answer_and_no_game_until_the_fault_is_taken_away() {
    let server = Running::start(Duration::from_secs(3600), None).await;
    server.fail(json!({"kind": "hang"})).await;
    let call = server.order(Uuid::from_u128(1));
    assert!(tokio::time::timeout(Duration::from_millis(300), call).await.is_err());
    assert_eq!(server.arena.games.all(), []);
    server.recover().await;
    assert_eq!(server.order(Uuid::from_u128(1)).await.unwrap().0, 201);
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let server = Running::start(Duration::from_secs(3600), None).await;
    for fault in [json!({"kind": "boom"}), json!({"kind": "error", "times": 0}), json!([])] {
        assert_eq!(server.fail(fault.clone()).await, 400, "{fault}");
    }
    let mut alone = order(Uuid::from_u128(1));
    alone["players"][0]["side"] = "first".into();
    let answer = server.http.post(format!("{}/games", server.url)).json(&alone).send().await.unwrap();
    assert_eq!(answer.status(), 422);
    let answer = server.http.get(format!("{}/elsewhere", server.url)).send().await.unwrap();
    assert_eq!(answer.status(), 404);
}
