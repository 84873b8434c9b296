//! Matches with a game service whose responses the test controls.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use commands::ExternalServices;
use commands::matchmaking::live_game::{LiveGame, Settings};
use domain::breaker::CircuitState;
use event_schemas::envelope::Event;
use event_schemas::game_match::{AbandonReason, GameMatchEvent, MatchProposed};
use poem::http::StatusCode;
use poem::listener::{Acceptor, Listener, TcpListener};
use poem::web::{Data, Json};
use poem::{EndpointExt, Route, Server, handler, post};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};

use crate::support::TestApp;

/// The behaviour of the service.
#[derive(Clone, Copy, Debug, PartialEq)]
enum FaultMode {
    None,
    /// It reports a failure, and creates nothing.
    Failing,
    Refusing,
    /// It limits the rate of calls.
    Limiting,
    /// It creates the game, and its response is lost.
    Silent,
    /// It creates the game once it gets a permit.
    Paused,
}

#[derive(Clone)]
struct FakeGameService {
    url: String,
    mode: watch::Sender<FaultMode>,
    permits: Arc<Semaphore>,
    calls: Arc<Mutex<Vec<Value>>>,
}

#[handler]
async fn create(
    request: &poem::Request,
    Json(body): Json<Value>,
    service: Data<&FakeGameService>,
) -> (StatusCode, Json<Value>) {
    // A repeated call has the same key.
    assert_eq!(request.header("Idempotency-Key"), body["match_id"].as_str());
    let game = format!("game of {}", body["match_id"].as_str().unwrap());
    service.calls.lock().unwrap().push(body);
    let mode = *service.mode.borrow();
    match mode {
        FaultMode::None => {}
        FaultMode::Failing => return (StatusCode::BAD_GATEWAY, Json(json!({"error": "no room"}))),
        FaultMode::Limiting => {
            return (StatusCode::TOO_MANY_REQUESTS, Json(json!({"error": "slow down"})));
        }
        FaultMode::Refusing => {
            return (StatusCode::UNPROCESSABLE_ENTITY, Json(json!({"error": "no such pool"})));
        }
        FaultMode::Silent => std::future::pending().await,
        FaultMode::Paused => service.permits.acquire().await.unwrap().forget(),
    }
    (StatusCode::CREATED, Json(json!({"game_id": game})))
}

impl FakeGameService {
    async fn start() -> Self {
        let acceptor = TcpListener::bind("127.0.0.1:0").into_acceptor().await.unwrap();
        let address = acceptor.local_addr()[0].as_socket_addr().copied().unwrap();
        let service = Self {
            url: format!("http://{address}"),
            mode: watch::Sender::new(FaultMode::None),
            permits: Arc::new(Semaphore::new(0)),
            calls: Arc::default(),
        };
        let route = Route::new().at("/games", post(create)).data(service.clone());
        tokio::spawn(Server::new_with_acceptor(acceptor).run(route));
        service
    }

    /// A server that calls it with this timeout.
    async fn app(&self, timeout: Duration) -> TestApp {
        let settings = Settings { url: self.url.clone(), timeout };
        let games = Some(LiveGame::new(&settings).unwrap());
        TestApp::with_external_services(ExternalServices { games, ..ExternalServices::default() }).await
    }

    /// A server whose calls do not time out within a test.
    async fn app_without_timeouts(&self) -> TestApp {
        self.app(Duration::from_secs(600)).await
    }

    fn set_mode(&self, mode: FaultMode) {
        self.mode.send_replace(mode);
    }

    fn calls(&self) -> Vec<Value> {
        self.calls.lock().unwrap().clone()
    }

    /// Waits until it was called so often.
    async fn until_called(&self, times: usize) {
        let waiting = async {
            while self.calls().len() < times {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap();
    }
}

impl TestApp {
    async fn match_events(&self) -> Vec<GameMatchEvent> {
        let of_match = |envelope: event_schemas::envelope::Envelope| match envelope.event {
            Event::GameMatch(event) => Some(event),
            _ => None,
        };
        self.events().await.into_iter().filter_map(of_match).collect()
    }

    async fn proposed(&self) -> Vec<MatchProposed> {
        let proposed = |event| match event {
            GameMatchEvent::MatchProposed(proposed) => Some(proposed),
            _ => None,
        };
        self.match_events().await.into_iter().filter_map(proposed).collect()
    }

    async fn reasons(&self) -> Vec<AbandonReason> {
        let reason = |event| match event {
            GameMatchEvent::MatchAbandoned(abandoned) => Some(abandoned.reason),
            _ => None,
        };
        self.match_events().await.into_iter().filter_map(reason).collect()
    }

    /// The games of the matches that have one.
    async fn games(&self) -> Vec<String> {
        let game = |event| match event {
            GameMatchEvent::MatchConfirmed(confirmed) => confirmed.game_id.map(|game| game.to_string()),
            _ => None,
        };
        self.match_events().await.into_iter().filter_map(game).collect()
    }

    async fn existing(&self, user: &str) -> Value {
        let refused = self.join_as(user, &json!({"pool_key": "blitz"})).await;
        refused.refused(409, "CONFLICT")["existing"].clone()
    }
}

#[tokio::test]
async fn game_request_names_players_and_match_gets_its_id() {
    let service = FakeGameService::start().await;
    let app = service.app_without_timeouts().await;
    app.join_as("ann", &json!({"pool_key": "blitz", "rating": 1510})).await.ok();
    app.join_as("bob", &json!({"pool_key": "blitz", "rating": 1490})).await.ok();
    app.until_recorded("MatchConfirmed", 1).await;
    let call = service.calls().remove(0);
    let id = call["match_id"].as_str().unwrap();
    assert_eq!(app.games().await, [format!("game of {id}")]);
    assert_eq!((&call["tenant"], &call["pool_key"]), (&json!("default"), &json!("blitz")));
    let mut players = call["players"].as_array().unwrap().clone();
    assert_eq!((&players[0]["side"], &players[1]["side"]), (&json!("first"), &json!("second")));
    players.sort_by_key(|player| player["user_id"].to_string());
    let of = |n: usize| (players[n]["user_id"].clone(), players[n]["rating"].clone());
    assert_eq!((of(0), of(1)), ((json!("ann"), json!(1510)), (json!("bob"), json!(1490))));
}

#[tokio::test]
async fn lost_response_is_retried_for_the_same_match() {
    let service = FakeGameService::start().await;
    let app = service.app(Duration::from_secs(2)).await;
    service.set_mode(FaultMode::Silent);
    app.queue_in_blitz("ann").await;
    app.queue_in_blitz("bob").await;
    service.until_called(1).await;
    service.set_mode(FaultMode::None);
    app.until_recorded("MatchConfirmed", 1).await;
    let calls = service.calls();
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[0], calls[1]);
    assert_eq!(app.proposed().await.len(), 1);
}

#[tokio::test]
async fn entry_cannot_be_cancelled_while_its_game_is_created() {
    let service = FakeGameService::start().await;
    let app = service.app_without_timeouts().await;
    service.set_mode(FaultMode::Paused);
    let path = app.queue_in_blitz("ann").await;
    app.queue_in_blitz("bob").await;
    service.until_called(1).await;
    assert_eq!(app.existing("ann").await["status"], "placing");
    let refused = app.delete_as("ann", &path).await.refused(409, "CONFLICT");
    assert!(refused["detail"].as_str().unwrap().contains("its game is being created"), "{refused}");
    service.permits.add_permits(1);
    app.until_recorded("MatchConfirmed", 1).await;
    assert_eq!(app.existing("ann").await["status"], "matched");
}

#[tokio::test]
async fn failed_game_requeues_both_players_with_their_waiting_time() {
    for (mode, calls, reason) in [
        (FaultMode::Failing, 2, AbandonReason::GameServiceFailed),
        (FaultMode::Refusing, 1, AbandonReason::GameRefused),
    ] {
        let service = FakeGameService::start().await;
        let app = service.app_without_timeouts().await;
        app.queue_in_blitz("ann").await;
        app.advance(7).await;
        service.set_mode(mode);
        let path = app.queue_in_blitz("bob").await;
        app.until_recorded("QueueEntryReleased", 2).await;
        assert_eq!((app.reasons().await, service.calls().len()), (vec![reason], calls));
        let ann = app.existing("ann").await;
        assert_eq!(
            (&ann["status"], &ann["queued_at"]),
            (&json!("searching"), &json!("2026-11-20T10:00:00.000000Z"))
        );
        service.set_mode(FaultMode::None);
        app.run_ready_tasks().await;
        assert_eq!(app.proposed().await.len(), 1, "they are in their cooldown");
        app.advance(1).await;
        app.until_recorded("MatchConfirmed", 1).await;
        let proposed = app.proposed().await;
        let since = |n: usize| {
            let mut since = [proposed[n].first.queued_at, proposed[n].second.queued_at];
            since.sort_unstable();
            since
        };
        assert_eq!(since(1), since(0));
        assert_ne!(proposed[0].match_id, proposed[1].match_id);
        app.delete_as("bob", &path).await.refused(409, "CONFLICT");
    }
}

#[tokio::test]
async fn released_player_can_leave_the_queue() {
    let service = FakeGameService::start().await;
    let app = service.app_without_timeouts().await;
    service.set_mode(FaultMode::Failing);
    let path = app.queue_in_blitz("ann").await;
    app.queue_in_blitz("bob").await;
    app.until_recorded("QueueEntryReleased", 2).await;
    app.delete_as("ann", &path).await.ok();
    service.set_mode(FaultMode::None);
    app.advance(60).await;
    assert_eq!(app.proposed().await.len(), 1);
}

#[tokio::test]
async fn repeated_failures_open_the_breaker_until_a_probe() {
    let service = FakeGameService::start().await;
    let app = service.app_without_timeouts().await;
    let breaker = || {
        let services = app.commands.services(&"default".parse().unwrap());
        services.into_iter().find(|(name, _, _)| *name == "game_service").unwrap()
    };
    service.set_mode(FaultMode::Failing);
    app.queue_in_blitz("ann").await;
    app.queue_in_blitz("bob").await;
    for round in 1..=5 {
        app.until_recorded("QueueEntryReleased", 2 * round).await;
        app.run_ready_tasks().await;
        if round < 5 {
            assert_eq!(breaker().1, CircuitState::Closed);
            app.advance(16).await;
        }
    }
    assert_eq!(service.calls().len(), 10);
    assert!(matches!(breaker(), (_, CircuitState::Open { .. }, 1)), "{:?}", breaker());
    assert_eq!(app.commands.matchmaking().games, Some((1, 0)));
    app.advance(29).await;
    assert_eq!(
        (app.proposed().await.len(), service.calls().len()),
        (5, 10),
        "no players are paired while the breaker is open"
    );
    service.set_mode(FaultMode::None);
    app.advance(1).await;
    app.until_recorded("MatchConfirmed", 1).await;
    assert_eq!((breaker().1, service.calls().len()), (CircuitState::HalfOpen, 11));
    let waited = app.proposed().await.pop().unwrap();
    let since = Some("2026-11-20T10:00:00Z".parse().unwrap());
    assert_eq!((waited.first.queued_at, waited.second.queued_at), (since, since));
}

#[tokio::test]
async fn open_breaker_of_the_game_service_survives_a_restart() {
    let service = FakeGameService::start().await;
    let mut app = service.app_without_timeouts().await;
    service.set_mode(FaultMode::Failing);
    app.queue_in_blitz("ann").await;
    app.queue_in_blitz("bob").await;
    for round in 1..=5 {
        app.until_recorded("QueueEntryReleased", 2 * round).await;
        app.run_ready_tasks().await;
        app.advance(if round < 5 { 16 } else { 10 }).await;
    }
    // One server continues from a snapshot; the other one has only the log, as after a crash.
    let crashed = app.second_server().await;
    app = app.restarted().await;
    for app in [&app, &crashed] {
        app.run_ready_tasks().await;
        let of_tenant = |tenant: &str| {
            let services = app.commands.services(&tenant.parse().unwrap());
            services.into_iter().find(|(name, _, _)| *name == "game_service").unwrap()
        };
        assert!(
            matches!(of_tenant("default"), (_, CircuitState::Open { .. }, 1)),
            "{:?}",
            of_tenant("default")
        );
        assert_eq!(of_tenant("other").1, CircuitState::Closed);
    }
    assert_eq!(service.calls().len(), 10);
}

#[tokio::test]
async fn rate_limits_of_the_game_service_do_not_open_its_breaker() {
    let service = FakeGameService::start().await;
    let app = service.app_without_timeouts().await;
    service.set_mode(FaultMode::Limiting);
    app.queue_in_blitz("ann").await;
    app.queue_in_blitz("bob").await;
    for round in 1..=11 {
        app.until_recorded("QueueEntryReleased", 2 * round).await;
        app.run_ready_tasks().await;
        app.advance(31).await;
    }
    let services = app.commands.services(&"default".parse().unwrap());
    let (_, state, _) = services.into_iter().find(|(name, _, _)| *name == "game_service").unwrap();
    assert_eq!(state, CircuitState::Closed);
    assert!(app.reasons().await.iter().all(|reason| *reason == AbandonReason::GameServiceParked));
}

#[tokio::test]
async fn crash_during_game_creation_leaves_one_game() {
    let service = FakeGameService::start().await;
    let app = service.app_without_timeouts().await;
    service.set_mode(FaultMode::Paused);
    app.queue_in_blitz("ann").await;
    app.queue_in_blitz("bob").await;
    service.until_called(1).await;
    service.set_mode(FaultMode::None);
    let app = app.restarted().await;
    app.until_recorded("MatchConfirmed", 1).await;
    let calls = service.calls();
    assert_eq!((calls.len(), &calls[0]["match_id"]), (2, &calls[1]["match_id"]));
    assert_eq!((app.proposed().await.len(), app.games().await.len()), (1, 1));
}
