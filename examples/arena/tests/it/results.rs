use std::sync::Mutex;
use std::time::Instant;

use matchbook_arena::api::Api;
use matchbook_arena::game::State;
use poem::http::StatusCode;
use poem::listener::{Acceptor, Listener, TcpListener as PoemListener};
use poem::web::{Data, Json, Path};
use poem::{EndpointExt, Route, Server, handler, post};

use super::*;

/// What a Matchbook was told, and how it answers: with these statuses in turn, then always with 200.
#[derive(Default)]
struct Told {
    reports: Vec<(String, String, Value)>,
    answers: Vec<u16>,
}

#[handler]
fn take(
    Path(id): Path<String>,
    Json(body): Json<Value>,
    request: &poem::Request,
    Data(told): Data<&Arc<Mutex<Told>>>,
) -> StatusCode {
    let mut told = told.lock().unwrap();
    let tenant = request.header("x-tenant").unwrap_or_default().to_owned();
    told.reports.push((id, tenant, body["result"].clone()));
    if told.answers.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::from_u16(told.answers.remove(0)).unwrap()
    }
}

/// A Matchbook that answers so.
async fn matchbook(answers: &[u16]) -> (Reporter, Arc<Mutex<Told>>) {
    let told = Arc::new(Mutex::new(Told { reports: Vec::new(), answers: answers.to_vec() }));
    let app = Route::new().at("/internal/matches/:id/result", post(take)).data(Arc::clone(&told));
    let acceptor = PoemListener::bind("127.0.0.1:0").into_acceptor().await.unwrap();
    let url = format!("http://{}", acceptor.local_addr()[0].as_socket_addr().unwrap());
    tokio::spawn(Server::new_with_acceptor(acceptor).run(app));
    (Reporter::new(Api::new(&url, None).unwrap()), told)
}

async fn until(server: &Running, match_id: Uuid, state: State) {
    let start = Instant::now();
    while server.arena.games.get(match_id).map(|game| game.state) != Some(state) {
        assert!(start.elapsed() < PATIENCE, "{:?}", server.arena.games.get(match_id));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_game_that_is_over_is_reported_for_its_tenant_until_the_server_takes_it() {
    let (reporter, told) = matchbook(&[503, 409]).await;
    let server = Running::start(Duration::from_millis(10), Some(reporter)).await;
    let match_id = Uuid::from_u128(1);
    server.order(match_id).await.unwrap();
    until(&server, match_id, State::Reported).await;
    let told = told.lock().unwrap();
    assert_eq!(told.reports.len(), 3);
    let expected = server.arena.games.get(match_id).unwrap().result;
    let expected = (match_id.to_string(), "acme".to_owned(), json!(expected));
    assert!(told.reports.iter().all(|report| *report == expected), "{:?}", told.reports);
}

#[tokio::test]
async fn a_result_that_nobody_wants_is_reported_again_when_the_match_is_asked_for_again() {
    let (reporter, told) = matchbook(&[403]).await;
    let server = Running::start(Duration::from_millis(10), Some(reporter)).await;
    let match_id = Uuid::from_u128(1);
    server.order(match_id).await.unwrap();
    until(&server, match_id, State::Unwanted).await;
    assert_eq!(server.order(match_id).await.unwrap().0, 200);
    until(&server, match_id, State::Reported).await;
    assert_eq!(told.lock().unwrap().reports.len(), 2);
}

#[tokio::test]
async fn a_game_server_that_stops_aborts_what_is_played() {
    let (reporter, told) = matchbook(&[]).await;
    let server = Running::start(Duration::from_secs(3600), Some(reporter)).await;
    for number in 0..40 {
        server.order(Uuid::from_u128(number)).await.unwrap();
    }
    server.arena.stop().await;
    let told = told.lock().unwrap();
    assert_eq!(told.reports.len(), 40);
    assert!(told.reports.iter().all(|(_, _, result)| result == "aborted"));
}
