//! The whole log, read by an auditor and by the command line.

use reqwest::Method;
use serde_json::Value;

use crate::support::job::{events, running_job, set_phase};
use crate::support::server::Server;

#[tokio::test(flavor = "multi_thread")]
async fn export_contains_every_event_once_in_order() {
    let server = Server::start(&[]).await;
    let id = running_job(&server, 2, 3).await;
    set_phase(&server, &id, "completed").await;
    let export = server.cli(&["events", "export", "--format=envelope"]);
    assert!(export.status.success(), "{export:?}");
    let lines: Vec<Value> = String::from_utf8(export.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines, events(&server, &id).await);
    let positions: Vec<u64> = lines.iter().map(|event| event["position"].as_u64().unwrap()).collect();
    assert!(positions.is_sorted_by(|one, next| one < next), "{positions:?}");
    assert!(server.has_gaps() || positions.last() == Some(&(lines.len() as u64)), "{positions:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_and_filters_show_the_events_of_the_job() {
    let server = Server::start(&[]).await;
    let id = running_job(&server, 3, 2).await;
    let mut paged = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = server.get(&format!("/audit/events?category=matching&limit=2{cursor}")).await.expect(200);
        paged.extend(page["items"].as_array().unwrap().iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let all = events(&server, &id).await;
    let of_matching: Vec<Value> = all
        .iter()
        .filter(|event| event["stream"].as_str().unwrap().starts_with("matching-"))
        .cloned()
        .collect();
    assert_eq!(paged, of_matching);

    let requested = server.get("/audit/events?type=MatchRequested").await.expect(200);
    assert_eq!(requested["items"].as_array().unwrap().len(), 3);
    let last = all.last().unwrap();
    let from = format!("/audit/events?from={}", last["recorded_at"].as_str().unwrap());
    let latest = server.get(&from).await.expect(200);
    assert!(latest["items"].as_array().unwrap().contains(last));
}

#[tokio::test(flavor = "multi_thread")]
async fn auditor_sees_only_their_own_tenant() {
    let server = Server::start(&[]).await;
    running_job(&server, 1, 1).await;
    let event_count = |tenant: &'static str| {
        let server = &server;
        async move {
            let page =
                server.send(Method::GET, "/audit/events", &[("x-tenant", tenant)], None).await.expect(200);
            page["items"].as_array().unwrap().len()
        }
    };
    assert_eq!(event_count("another").await, 0);
    assert_ne!(event_count("default").await, 0);
    assert_ne!(event_count("*").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_bound_is_named() {
    let server = Server::start(&[]).await;
    let problem = server.get("/audit/events?from=yesterday").await.problem(400);
    assert_eq!(problem["errors"][0]["field"], "from");
    server.get("/audit/events?category=weather").await.problem(400);
    server.get("/audit/events?cursor=x").await.problem(400);
}
