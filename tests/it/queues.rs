//! Who waits, as the program itself tells it over restarts and rebuilds.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::server::Server;

async fn ask(server: &Server, user: &str, path: &str, reached: &Value) -> Value {
    let reached = reached.to_string();
    let headers = [("x-user", user), ("x-min-position", reached.as_str())];
    server.send(Method::GET, path, &headers, None).await.expect(200)
}

async fn join(server: &Server, user: &str, rating: u16) -> Value {
    let body = json!({"pool_key": "blitz", "rating": rating, "metadata": {"hat": "red"}}).to_string();
    server.send(Method::POST, "/v1/matchmaking/queue", &[("x-user", user)], Some(body)).await.expect(201)
}

/// What of an answer must be the same after a restart: all but what goes on with time.
fn lasting(mut answer: Value) -> Value {
    fn leave_out(value: &mut Value) {
        match value {
            Value::Object(members) => {
                let running = ["at", "waited_seconds", "oldest_wait_seconds", "wait", "window", "widens_at"];
                let changing = ["matches_a_minute", "next_meeting_at", "position"];
                members.retain(|name, _| {
                    !running.contains(&name.as_str()) && !changing.contains(&name.as_str())
                });
                members.values_mut().for_each(leave_out);
            }
            Value::Array(items) => items.iter_mut().for_each(leave_out),
            _ => {}
        }
    }
    leave_out(&mut answer);
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_is_told_the_same_before_and_after_a_kill_and_a_rebuild() {
    let mut server = Server::start(&[]).await;
    join(&server, "ann", 1000).await;
    join(&server, "ben", 3000).await;
    let cal = join(&server, "cal", 5000).await;
    let left = format!("/v1/matchmaking/queue/{}", cal["entry_id"].as_str().unwrap());
    let gone = server.send(Method::DELETE, &left, &[("x-user", "cal")], None).await.expect(200);
    let reached = gone["position"].clone();
    let told = async |server: &Server| {
        let mut answers = Vec::new();
        for (user, path) in [
            ("ann", "/v1/matchmaking/active"),
            ("ben", "/v1/matchmaking/active"),
            ("cal", left.as_str()),
            ("local", "/internal/queues/summary"),
            ("local", "/internal/pools/blitz"),
        ] {
            answers.push(lasting(ask(server, user, path, &reached).await));
        }
        answers
    };
    let before = told(&server).await;
    assert_eq!(before[0]["entry"]["metadata"], json!({"hat": "red"}));
    assert_eq!(
        (&before[1]["entry"]["place_in_line"], &before[1]["entry"]["pools"][0]["rating"]),
        (&json!(2), &json!(3000))
    );
    assert_eq!((&before[2]["status"], &before[3]["waiting"]), (&json!("cancelled"), &json!(2)));
    server.kill();
    server.restart().await;
    assert_eq!(told(&server).await, before);
    let rebuilt = server.cli(&["projections", "rebuild", "queues"]);
    assert!(rebuilt.status.success(), "{rebuilt:?}");
    assert_eq!(told(&server).await, before);
}
