use std::sync::Mutex;
use std::time::Instant;

use matchbook_arena::api::Api;
use matchbook_arena::game::State;
use poem::http::StatusCode;
use poem::listener::{Acceptor, Listener, TcpListener as PoemListener};
use poem::web::{Data, Json, Path};
use poem::{EndpointExt, Route, Server, handler, post};

use super::*;

/// A fake Matchbook: records reports, and responds with these statuses in turn, then always with 200.
#[derive(Default)]
struct FakeMatchbook {
    reports: Vec<(String, String, Value)>,
    statuses: Vec<u16>,
}

#[handler]
fn record(
    Path(id): Path<String>,
    Json(body): Json<Value>,
    request: &poem::Request,
    Data(fake): Data<&Arc<Mutex<FakeMatchbook>>>,
) -> StatusCode {
    let mut fake = fake.lock().unwrap();
    let tenant = request.header("x-tenant").unwrap_or_default().to_owned();
    fake.reports.push((id, tenant, body["result"].clone()));
    if fake.statuses.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::from_u16(fake.statuses.remove(0)).unwrap()
    }
}

/// Starts a fake Matchbook with these responses.
async fn fake_matchbook(statuses: &[u16]) -> (Reporter, Arc<Mutex<FakeMatchbook>>) {
    let fake = Arc::new(Mutex::new(FakeMatchbook { reports: Vec::new(), statuses: statuses.to_vec() }));
    let app = Route::new().at("/internal/matches/:id/result", post(record)).data(Arc::clone(&fake));
    let acceptor = PoemListener::bind("127.0.0.1:0").into_acceptor().await.unwrap();
    let url = format!("http://{}", acceptor.local_addr()[0].as_socket_addr().unwrap());
    tokio::spawn(Server::new_with_acceptor(acceptor).run(app));
    (Reporter::new(Api::new(&url, None).unwrap()), fake)
}

async fn until(server: &RunningArena, match_id: Uuid, state: State) {
    let start = Instant::now();
    while server.arena.games.get(match_id).map(|game| game.state) != Some(state) {
        assert!(start.elapsed() < TIMEOUT, "{:?}", server.arena.games.get(match_id));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn result_is_reported_until_it_is_accepted() {
    let (reporter, fake) = fake_matchbook(&[503, 409]).await;
    let server = RunningArena::start(Duration::from_millis(10), Some(reporter)).await;
    let match_id = Uuid::from_u128(1);
    server.create_game(match_id).await.unwrap();
    until(&server, match_id, State::Reported).await;
    let fake = fake.lock().unwrap();
    assert_eq!(fake.reports.len(), 3);
    let expected = server.arena.games.get(match_id).unwrap().result;
    let expected = (match_id.to_string(), "acme".to_owned(), json!(expected));
    assert!(fake.reports.iter().all(|report| *report == expected), "{:?}", fake.reports);
}

#[tokio::test]
async fn rejected_result_is_reported_again_after_a_new_request() {
    let (reporter, fake) = fake_matchbook(&[403]).await;
    let server = RunningArena::start(Duration::from_millis(10), Some(reporter)).await;
    let match_id = Uuid::from_u128(1);
    server.create_game(match_id).await.unwrap();
    until(&server, match_id, State::Rejected).await;
    assert_eq!(server.create_game(match_id).await.unwrap().0, 200);
    until(&server, match_id, State::Reported).await;
    assert_eq!(fake.lock().unwrap().reports.len(), 2);
}

#[tokio::test]
async fn stopping_game_server_aborts_running_games() {
    let (reporter, fake) = fake_matchbook(&[]).await;
    let server = RunningArena::start(Duration::from_secs(3600), Some(reporter)).await;
    for number in 0..40 {
        server.create_game(Uuid::from_u128(number)).await.unwrap();
    }
    server.arena.stop().await;
    let fake = fake.lock().unwrap();
    assert_eq!(fake.reports.len(), 40);
    assert!(fake.reports.iter().all(|(_, _, result)| result == "aborted"));
}
