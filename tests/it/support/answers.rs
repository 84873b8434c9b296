//! What a server says as a whole, to be compared with what it says at another time or in another place.

use std::process::Output;

use serde_json::Value;

use super::job::summary;
use super::server::Server;

/// The whole log, as the command line exports it.
pub(crate) fn exported(server: &Server) -> Vec<Value> {
    let export = server.cli(&["events", "export", "--format=envelope"]);
    assert!(export.status.success(), "{export:?}");
    lines(&export)
}

/// The JSON values that a command printed, one a line.
pub(crate) fn lines(output: &Output) -> Vec<Value> {
    let text = std::str::from_utf8(&output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What the read models say, page by page.
pub(crate) async fn answers(server: &Server, job: &str) -> Vec<Value> {
    let mut answers = vec![
        summary(server, job, "").await,
        server.get(&format!("/jobs/{job}")).await.expect(200),
        server.get("/internal/workers").await.expect(200),
    ];
    for list in ["/jobs".to_owned(), format!("/jobs/{job}/matches")] {
        let mut cursor = String::new();
        loop {
            let page = server.get(&format!("{list}?limit=100{cursor}")).await.expect(200);
            let next = page["next_cursor"].as_str().map(|next| format!("&cursor={next}"));
            answers.push(at_rest(page));
            match next {
                Some(next) => cursor = next,
                None => break,
            }
        }
    }
    answers
}

/// Without how long what has not started has been waiting, which goes on while one looks.
fn at_rest(mut answer: Value) -> Value {
    match &mut answer {
        Value::Object(members) => {
            if members.get("started_at").is_some_and(Value::is_null) {
                members.remove("queue_seconds");
            }
            members.values_mut().for_each(|value| *value = at_rest(value.take()));
        }
        Value::Array(items) => items.iter_mut().for_each(|value| *value = at_rest(value.take())),
        _ => {}
    }
    answer
}
