//! Matches with a game service that can be told how to answer.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use commands::Outside;
use commands::client::live_game::{LiveGame, Settings};
use domain::breaker::Phase;
use event_schemas::envelope::Event;
use event_schemas::match_record::{AbandonReason, MatchProposed, MatchRecordEvent};
use poem::http::StatusCode;
use poem::listener::{Acceptor, Listener, TcpListener};
use poem::web::{Data, Json};
use poem::{EndpointExt, Route, Server, handler, post};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};

use crate::support::Bench;

/// How the service treats those who ask.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    Well,
    /// It says that it failed, and has made nothing.
    Failing,
    Refusing,
    /// It makes the game, and its answer is lost.
    Silent,
    /// It makes the game once it is let.
    Waiting,
}

#[derive(Clone)]
struct Service {
    url: String,
    mood: watch::Sender<Mood>,
    may: Arc<Semaphore>,
    asked: Arc<Mutex<Vec<Value>>>,
}

#[handler]
async fn make(
    request: &poem::Request,
    Json(order): Json<Value>,
    service: Data<&Service>,
) -> (StatusCode, Json<Value>) {
    // A call that comes twice is known by its key.
    assert_eq!(request.header("Idempotency-Key"), order["match_id"].as_str());
    let game = format!("game of {}", order["match_id"].as_str().unwrap());
    service.asked.lock().unwrap().push(order);
    let mood = *service.mood.borrow();
    match mood {
        Mood::Well => {}
        Mood::Failing => return (StatusCode::BAD_GATEWAY, Json(json!({"error": "no room"}))),
        Mood::Refusing => return (StatusCode::UNPROCESSABLE_ENTITY, Json(json!({"error": "no such pool"}))),
        Mood::Silent => std::future::pending().await,
        Mood::Waiting => service.may.acquire().await.unwrap().forget(),
    }
    (StatusCode::CREATED, Json(json!({"game_id": game})))
}

impl Service {
    async fn start() -> Self {
        let acceptor = TcpListener::bind("127.0.0.1:0").into_acceptor().await.unwrap();
        let address = acceptor.local_addr()[0].as_socket_addr().copied().unwrap();
        let service = Self {
            url: format!("http://{address}"),
            mood: watch::Sender::new(Mood::Well),
            may: Arc::new(Semaphore::new(0)),
            asked: Arc::default(),
        };
        let route = Route::new().at("/games", post(make)).data(service.clone());
        tokio::spawn(Server::new_with_acceptor(acceptor).run(route));
        service
    }

    /// A server that asks it, and gives up on a call after so long.
    async fn bench(&self, timeout: Duration) -> Bench {
        let settings = Settings { url: self.url.clone(), timeout };
        let games = Some(LiveGame::new(&settings).unwrap());
        Bench::with_outside(Outside { games, ..Outside::default() }).await
    }

    /// One that does not give up in the time of a test.
    async fn patient(&self) -> Bench {
        self.bench(Duration::from_secs(600)).await
    }

    fn is(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    fn asked(&self) -> Vec<Value> {
        self.asked.lock().unwrap().clone()
    }

    /// Waits until it was asked so often.
    async fn was_asked(&self, times: usize) {
        let waiting = async {
            while self.asked().len() < times {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap();
    }
}

impl Bench {
    async fn of_matches(&self) -> Vec<MatchRecordEvent> {
        let of_match = |envelope: event_schemas::envelope::Envelope| match envelope.event {
            Event::MatchRecord(event) => Some(event),
            _ => None,
        };
        self.events().await.into_iter().filter_map(of_match).collect()
    }

    async fn proposed(&self) -> Vec<MatchProposed> {
        let proposed = |event| match event {
            MatchRecordEvent::MatchProposed(proposed) => Some(proposed),
            _ => None,
        };
        self.of_matches().await.into_iter().filter_map(proposed).collect()
    }

    async fn reasons(&self) -> Vec<AbandonReason> {
        let reason = |event| match event {
            MatchRecordEvent::MatchAbandoned(abandoned) => Some(abandoned.reason),
            _ => None,
        };
        self.of_matches().await.into_iter().filter_map(reason).collect()
    }

    /// The games of the matches that have one.
    async fn games(&self) -> Vec<String> {
        let game = |event| match event {
            MatchRecordEvent::MatchConfirmed(confirmed) => confirmed.game_id.map(|game| game.to_string()),
            _ => None,
        };
        self.of_matches().await.into_iter().filter_map(game).collect()
    }

    async fn existing(&self, user: &str) -> Value {
        let refused = self.join_as(user, &json!({"pool_key": "blitz"})).await;
        refused.refused(409, "CONFLICT")["existing"].clone()
    }
}

#[tokio::test]
async fn a_game_is_asked_for_with_the_players_names_and_its_id_is_the_matchs() {
    let service = Service::start().await;
    let bench = service.patient().await;
    bench.join_as("ann", &json!({"pool_key": "blitz", "rating": 1510})).await.ok();
    bench.join_as("bob", &json!({"pool_key": "blitz", "rating": 1490})).await.ok();
    bench.happened("MatchConfirmed", 1).await;
    let asked = service.asked().remove(0);
    let id = asked["match_id"].as_str().unwrap();
    assert_eq!(bench.games().await, [format!("game of {id}")]);
    assert_eq!((&asked["tenant"], &asked["pool_key"]), (&json!("default"), &json!("blitz")));
    let mut players = asked["players"].as_array().unwrap().clone();
    assert_eq!((&players[0]["side"], &players[1]["side"]), (&json!("first"), &json!("second")));
    players.sort_by_key(|player| player["user_id"].to_string());
    let of = |n: usize| (players[n]["user_id"].clone(), players[n]["rating"].clone());
    assert_eq!((of(0), of(1)), ((json!("ann"), json!(1510)), (json!("bob"), json!(1490))));
}

#[tokio::test]
async fn a_call_whose_answer_was_lost_is_made_again_for_the_same_match() {
    let service = Service::start().await;
    let bench = service.bench(Duration::from_secs(2)).await;
    service.is(Mood::Silent);
    bench.waits("ann").await;
    bench.waits("bob").await;
    service.was_asked(1).await;
    service.is(Mood::Well);
    bench.happened("MatchConfirmed", 1).await;
    let asked = service.asked();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[0], asked[1]);
    assert_eq!(bench.proposed().await.len(), 1);
}

#[tokio::test]
async fn while_a_game_is_being_made_nobody_can_cancel_and_everybody_is_told_so() {
    let service = Service::start().await;
    let bench = service.patient().await;
    service.is(Mood::Waiting);
    let path = bench.waits("ann").await;
    bench.waits("bob").await;
    service.was_asked(1).await;
    assert_eq!(bench.existing("ann").await["status"], "placing");
    let refused = bench.delete_as("ann", &path).await.refused(409, "CONFLICT");
    assert!(refused["detail"].as_str().unwrap().contains("its game is being made"), "{refused}");
    service.may.add_permits(1);
    bench.happened("MatchConfirmed", 1).await;
    assert_eq!(bench.existing("ann").await["status"], "matched");
}

#[tokio::test]
async fn if_no_game_comes_both_search_again_have_waited_since_they_came_and_can_cancel() {
    for (mood, calls, reason) in [
        (Mood::Failing, 2, AbandonReason::GameServiceFailed),
        (Mood::Refusing, 1, AbandonReason::GameRefused),
    ] {
        let service = Service::start().await;
        let bench = service.patient().await;
        bench.waits("ann").await;
        bench.pass(7).await;
        service.is(mood);
        let path = bench.waits("bob").await;
        bench.happened("QueueEntryReleased", 2).await;
        assert_eq!((bench.reasons().await, service.asked().len()), (vec![reason], calls));
        let ann = bench.existing("ann").await;
        assert_eq!(
            (&ann["status"], &ann["queued_at"]),
            (&json!("searching"), &json!("2026-11-20T10:00:00.000000Z"))
        );
        service.is(Mood::Well);
        bench.rest().await;
        assert_eq!(bench.proposed().await.len(), 1, "they are held back for a moment");
        bench.pass(1).await;
        bench.happened("MatchConfirmed", 1).await;
        let proposed = bench.proposed().await;
        let since = |n: usize| {
            let mut since = [proposed[n].first.queued_at, proposed[n].second.queued_at];
            since.sort_unstable();
            since
        };
        assert_eq!(since(1), since(0));
        assert_ne!(proposed[0].match_id, proposed[1].match_id);
        bench.delete_as("bob", &path).await.refused(409, "CONFLICT");
    }
}

#[tokio::test]
async fn who_was_let_go_can_leave() {
    let service = Service::start().await;
    let bench = service.patient().await;
    service.is(Mood::Failing);
    let path = bench.waits("ann").await;
    bench.waits("bob").await;
    bench.happened("QueueEntryReleased", 2).await;
    bench.delete_as("ann", &path).await.ok();
    service.is(Mood::Well);
    bench.pass(60).await;
    assert_eq!(bench.proposed().await.len(), 1);
}

#[tokio::test]
async fn a_service_that_fails_again_and_again_is_left_alone_until_it_may_be_back() {
    let service = Service::start().await;
    let bench = service.patient().await;
    let standing = || {
        let services = bench.commands.services();
        services.into_iter().find(|(name, _, _)| *name == "game_service").unwrap()
    };
    service.is(Mood::Failing);
    bench.waits("ann").await;
    bench.waits("bob").await;
    for round in 1..=5 {
        bench.happened("QueueEntryReleased", 2 * round).await;
        bench.rest().await;
        if round < 5 {
            assert_eq!(standing().1, Phase::Closed);
            bench.pass(16).await;
        }
    }
    assert_eq!(service.asked().len(), 10);
    assert!(matches!(standing(), (_, Phase::Open { .. }, 1)), "{:?}", standing());
    assert_eq!(bench.commands.matchmaking().games, Some(standing().1));
    bench.pass(29).await;
    assert_eq!(
        (bench.proposed().await.len(), service.asked().len()),
        (5, 10),
        "nobody is put together for nothing"
    );
    service.is(Mood::Well);
    bench.pass(1).await;
    bench.happened("MatchConfirmed", 1).await;
    assert_eq!((standing().1, service.asked().len()), (Phase::Probing, 11));
    let waited = bench.proposed().await.pop().unwrap();
    let since = Some("2026-11-20T10:00:00Z".parse().unwrap());
    assert_eq!((waited.first.queued_at, waited.second.queued_at), (since, since));
}

#[tokio::test]
async fn a_match_whose_server_dies_while_its_game_is_made_has_one_game_in_the_end() {
    let service = Service::start().await;
    let bench = service.patient().await;
    service.is(Mood::Waiting);
    bench.waits("ann").await;
    bench.waits("bob").await;
    service.was_asked(1).await;
    service.is(Mood::Well);
    let bench = bench.restarted().await;
    bench.happened("MatchConfirmed", 1).await;
    let asked = service.asked();
    assert_eq!((asked.len(), &asked[0]["match_id"]), (2, &asked[1]["match_id"]));
    assert_eq!((bench.proposed().await.len(), bench.games().await.len()), (1, 1));
}
