//! Queue entries as the real program shows them across restarts and rebuilds.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::server::Server;
use crate::support::server_state::rebuild;

async fn get_as(server: &Server, user: &str, path: &str, reached: &Value) -> Value {
    let reached = reached.to_string();
    let headers = [("x-user", user), ("x-min-position", reached.as_str())];
    server.send(Method::GET, path, &headers, None).await.expect(200)
}

async fn join(server: &Server, user: &str, rating: u16) -> Value {
    let body = json!({"pool_key": "blitz", "rating": rating, "metadata": {"hat": "red"}}).to_string();
    server.send(Method::POST, "/v1/matchmaking/queue", &[("x-user", user)], Some(body)).await.expect(201)
}

/// The parts of a response that must be the same after a restart: without the members that change with time.
fn without_times(mut response: Value) -> Value {
    fn remove_times(value: &mut Value) {
        match value {
            Value::Object(members) => {
                let times = ["at", "waited_seconds", "oldest_wait_seconds", "wait", "window", "widens_at"];
                let changing = ["matches_a_minute", "next_pairing_at", "position"];
                members
                    .retain(|name, _| !times.contains(&name.as_str()) && !changing.contains(&name.as_str()));
                members.values_mut().for_each(remove_times);
            }
            Value::Array(items) => items.iter_mut().for_each(remove_times),
            _ => {}
        }
    }
    remove_times(&mut response);
    response
}

#[tokio::test(flavor = "multi_thread")]
async fn queue_answers_survive_a_kill_and_a_rebuild() {
    let mut server = Server::start(&[]).await;
    join(&server, "ann", 1000).await;
    join(&server, "ben", 3000).await;
    let cal = join(&server, "cal", 5000).await;
    let cancelled = format!("/v1/matchmaking/queue/{}", cal["entry_id"].as_str().unwrap());
    let removed = server.send(Method::DELETE, &cancelled, &[("x-user", "cal")], None).await.expect(200);
    let reached = removed["position"].clone();
    let responses = async |server: &Server| {
        let mut all = Vec::new();
        for (user, path) in [
            ("ann", "/v1/matchmaking/active"),
            ("ben", "/v1/matchmaking/active"),
            ("cal", cancelled.as_str()),
            ("local", "/internal/queues/summary"),
            ("local", "/internal/pools/blitz"),
        ] {
            all.push(without_times(get_as(server, user, path, &reached).await));
        }
        all
    };
    let before = responses(&server).await;
    assert_eq!(before[0]["entry"]["metadata"], json!({"hat": "red"}));
    assert_eq!(
        (&before[1]["entry"]["place_in_line"], &before[1]["entry"]["pools"][0]["rating"]),
        (&json!(2), &json!(3000))
    );
    assert_eq!((&before[2]["status"], &before[3]["waiting"]), (&json!("cancelled"), &json!(2)));
    server.kill();
    server.restart().await;
    assert_eq!(responses(&server).await, before);
    rebuild(&server, "queues").await;
    assert_eq!(responses(&server).await, before);
}
