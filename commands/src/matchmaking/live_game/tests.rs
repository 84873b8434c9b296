use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use uuid::Uuid;

use super::*;

/// A service that sends these responses, one per connection, and keeps the requests. Without a response it is silent.
async fn service(answers: Vec<Option<&'static str>>) -> (Settings, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let requested = Arc::new(Mutex::new(Vec::new()));
    let log = requested.clone();
    tokio::spawn(async move {
        let mut silent = Vec::new();
        for answer in answers {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let mut length = 0;
            while !String::from_utf8_lossy(&request[..length]).contains("\"players\"") {
                length += socket.read(&mut request[length..]).await.unwrap();
            }
            log.lock().unwrap().push(String::from_utf8_lossy(&request[..length]).into_owned());
            match answer {
                Some(answer) => socket.write_all(answer.as_bytes()).await.unwrap(),
                None => silent.push(socket),
            }
        }
    });
    let settings =
        Settings { timeout: Duration::from_millis(200), ..Settings::at(format!("http://{address}/")) };
    (settings, requested)
}

fn request() -> GameRequest {
    let player = |user: &str, side| GamePlayer {
        user_id: user.parse().unwrap(),
        rating: Rating::nearest(1500.0),
        side,
    };
    GameRequest {
        match_id: GameMatchId(Uuid::from_u128(7)),
        tenant: "arena".parse().unwrap(),
        pool_key: "blitz".parse().unwrap(),
        players: [player("ann", Side::First), player("bob", Side::Second)],
    }
}

async fn ask(answer: Option<&'static str>) -> Result<GameId, CallError> {
    let (settings, _) = service(vec![answer]).await;
    LiveGame::new(&settings).unwrap().create(&request()).await
}

#[tokio::test]
async fn request_names_the_match_and_response_names_the_game() {
    let made = "HTTP/1.1 201 Created\r\ncontent-length: 16\r\n\r\n{\"game_id\":\"g1\"}";
    let (settings, requested) = service(vec![Some(made)]).await;
    let game = LiveGame::new(&settings).unwrap().create(&request()).await;
    assert_eq!(game, Ok("g1".parse().unwrap()));
    let requested = requested.lock().unwrap()[0].clone();
    assert!(requested.starts_with("POST /games HTTP/1.1"), "{requested}");
    assert!(requested.contains("idempotency-key: 00000000-0000-0000-0000-000000000007"), "{requested}");
    let body = r#"{"match_id":"00000000-0000-0000-0000-000000000007","tenant":"arena","pool_key":"blitz","players":[{"user_id":"ann","rating":1500,"side":"first"},{"user_id":"bob","rating":1500,"side":"second"}]}"#;
    assert!(requested.ends_with(body), "{requested}");
}

#[tokio::test]
async fn failure_and_silence_are_retryable_refusal_is_not() {
    for answer in [
        Some("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"),
        Some("HTTP/1.1 307 Temporary Redirect\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"),
        Some("HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\n{}"),
        Some("HTTP/1.1 201 Created\r\ncontent-length: 40\r\n\r\n{"),
        None,
    ] {
        assert!(matches!(ask(answer).await, Err(CallError::Failed(_))), "{answer:?}");
    }
    let refused = ask(Some("HTTP/1.1 422 Unprocessable Entity\r\ncontent-length: 6\r\n\r\nbanned")).await;
    let Err(CallError::Refused(detail)) = refused else { panic!("{refused:?}") };
    assert_eq!(detail, "the game service responded 422 Unprocessable Entity");
    for answer in [
        "HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n",
    ] {
        assert!(matches!(ask(Some(answer)).await, Err(CallError::Limited(_))), "{answer:?}");
    }
}

#[tokio::test]
async fn words_of_the_service_are_in_no_reason() {
    for answer in [
        "HTTP/1.1 500 Traceback\r\ncontent-length: 6\r\n\r\nsecret",
        "HTTP/1.1 429 secret\r\ncontent-length: 6\r\n\r\nsecret",
        "HTTP/1.1 422 secret\r\ncontent-length: 6\r\n\r\nsecret",
        "HTTP/1.1 201 Created\r\ncontent-length: 22\r\n\r\n{\"game_id\":[\"secret\"]}",
        "HTTP/1.1 201 Created\r\ncontent-length: 8\r\n\r\n\"secret\"",
    ] {
        let reason = ask(Some(answer)).await.unwrap_err().to_string();
        assert!(!reason.contains("secret") && !reason.contains("Traceback"), "{reason}");
    }
}

#[tokio::test]
async fn whole_number_is_the_id_of_a_game() {
    for (answer, id) in [
        ("HTTP/1.1 201 Created\r\ncontent-length: 15\r\n\r\n{\"game_id\":123}", "123"),
        (
            "HTTP/1.1 201 Created\r\ncontent-length: 32\r\n\r\n{\"game_id\":18446744073709551615}",
            "18446744073709551615",
        ),
    ] {
        assert_eq!(ask(Some(answer)).await, Ok(id.parse().unwrap()), "{answer}");
    }
    let fraction = "HTTP/1.1 201 Created\r\ncontent-length: 15\r\n\r\n{\"game_id\":1.5}";
    assert!(matches!(ask(Some(fraction)).await, Err(CallError::Failed(_))));
}

#[tokio::test]
async fn unreachable_service_is_a_failure_without_its_address() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = Settings::at(format!("http://{}", listener.local_addr().unwrap()));
    drop(listener);
    let failed = LiveGame::new(&settings).unwrap().create(&request()).await;
    assert_eq!(failed, Err(CallError::Failed("the game service cannot be reached".to_owned())));
}

#[test]
fn invalid_address_is_refused() {
    for url in ["", "games.example", "ftp://games.example", "http://"] {
        assert!(matches!(LiveGame::new(&Settings::at(url)), Err(InvalidService::Address)), "{url}");
    }
}
