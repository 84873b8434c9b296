//! The whole visible state of a server, for comparison with another server or another time.

use std::process::Output;

use serde_json::Value;

use super::job::summary;
use super::server::Server;

/// The status of one read model.
pub(crate) async fn projection(server: &Server, name: &str) -> Value {
    let list = server.get("/internal/projections").await.expect(200);
    list["items"].as_array().unwrap().iter().find(|projection| projection["name"] == name).unwrap().clone()
}

/// Rebuilds a read model, and asserts that the new generation answers when the command returns.
pub(crate) async fn rebuild(server: &Server, name: &str) {
    let before = projection(server, name).await["generation"].as_u64().unwrap();
    let rebuilt = server.cli(&["projections", "rebuild", name, "--json"]);
    assert!(rebuilt.status.success(), "{rebuilt:?}");
    let printed = &lines(&rebuilt)[0];
    let now = projection(server, name).await;
    for status in [printed, &now] {
        assert!(status["generation"].as_u64().unwrap() > before, "{status}");
        assert!(status["rebuild"].is_null(), "{status}");
    }
}

/// The whole log, as the command line exports it.
pub(crate) fn exported_events(server: &Server) -> Vec<Value> {
    let export = server.cli(&["events", "export", "--format=envelope"]);
    assert!(export.status.success(), "{export:?}");
    lines(&export)
}

/// The JSON values that a command printed, one per line.
pub(crate) fn lines(output: &Output) -> Vec<Value> {
    let text = std::str::from_utf8(&output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The responses of the read models, including every page of the lists.
pub(crate) async fn read_model_responses(server: &Server, job: &str) -> Vec<Value> {
    let mut responses = vec![
        summary(server, job, "").await,
        server.get_at_head(&format!("/jobs/{job}")).await,
        server.get_at_head("/internal/workers").await,
    ];
    for list in ["/jobs".to_owned(), format!("/jobs/{job}/matches")] {
        let mut cursor = String::new();
        loop {
            let page = server.get_at_head(&format!("{list}?limit=100{cursor}")).await;
            let next = page["next_cursor"].as_str().map(|next| format!("&cursor={next}"));
            responses.push(without_waiting_times(page));
            match next {
                Some(next) => cursor = next,
                None => break,
            }
        }
    }
    responses
}

/// Removes the waiting time of jobs that have not started, because it changes from one read to the next.
fn without_waiting_times(mut response: Value) -> Value {
    match &mut response {
        Value::Object(members) => {
            if members.get("started_at").is_some_and(Value::is_null) {
                members.remove("queue_seconds");
            }
            members.values_mut().for_each(|value| *value = without_waiting_times(value.take()));
        }
        Value::Array(items) => {
            items.iter_mut().for_each(|value| *value = without_waiting_times(value.take()));
        }
        _ => {}
    }
    response
}
