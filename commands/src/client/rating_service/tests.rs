use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// A service that gives this answer, and keeps what it was asked. Without an answer it is silent.
async fn service(answer: Option<&'static str>) -> (Settings, Arc<Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(Mutex::new(String::new()));
    let log = asked.clone();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 4096];
        let mut length = 0;
        while !request[..length].ends_with(b"\r\n\r\n") {
            length += socket.read(&mut request[length..]).await.unwrap();
        }
        *log.lock().unwrap() = String::from_utf8_lossy(&request[..length]).into_owned();
        match answer {
            Some(answer) => socket.write_all(answer.as_bytes()).await.unwrap(),
            None => std::future::pending().await,
        }
    });
    // A service that answers does so at once; the limit is long for the sake of a machine that is busy.
    let timeout = if answer.is_some() { Duration::from_secs(60) } else { Duration::from_millis(100) };
    (Settings { url: format!("http://{address}/v2/"), timeout }, asked)
}

async fn ask(answer: Option<&'static str>) -> Result<Option<Rating>, CallError> {
    let (settings, _) = service(answer).await;
    rating_of(&settings, "ann").await
}

async fn rating_of(settings: &Settings, user: &str) -> Result<Option<Rating>, CallError> {
    let client = RatingService::new(settings).unwrap();
    client.rating(&"arena".parse().unwrap(), &user.parse().unwrap(), &"blitz 3+2".parse().unwrap()).await
}

#[tokio::test]
async fn a_player_is_asked_for_by_tenant_name_and_pool_and_fractions_are_rounded() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\n{\"rating\":1640.5}";
    let (settings, asked) = service(Some(answer)).await;
    assert_eq!(rating_of(&settings, "ann/?#é").await, Ok(Some(Rating::nearest(1641.0))));
    let asked = asked.lock().unwrap().clone();
    let line = "GET /v2/ratings/arena/ann%2F%3F%23%C3%A9?pool_key=blitz+3%2B2 HTTP/1.1";
    assert!(asked.starts_with(line), "{asked}");
}

#[tokio::test]
async fn a_player_whom_the_service_does_not_know_has_no_rating_there() {
    assert_eq!(ask(Some("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")).await, Ok(None));
}

#[tokio::test]
async fn whoever_has_a_name_that_no_path_can_hold_is_not_asked_for() {
    let (settings, asked) = service(Some("HTTP/1.1 500 Failed\r\ncontent-length: 0\r\n\r\n")).await;
    for name in [".", ".."] {
        assert_eq!(rating_of(&settings, name).await, Ok(None));
    }
    assert_eq!(*asked.lock().unwrap(), "");
}

#[tokio::test]
async fn what_is_no_rating_is_a_failure_and_not_a_guess() {
    for answer in [
        "HTTP/1.1 500 Failed\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 307 Temporary Redirect\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\n{\"rating\":\"1640\"}",
        "HTTP/1.1 200 OK\r\ncontent-length: 16\r\n\r\n{\"rating\":-20.5}",
        "HTTP/1.1 200 OK\r\ncontent-length: 18\r\n\r\n{\"rating\":10000.5}",
        "HTTP/1.1 200 OK\r\ncontent-length: 40\r\n\r\n{",
    ] {
        assert!(matches!(ask(Some(answer)).await, Err(CallError::Failed(_))), "{answer:?}");
    }
}

#[tokio::test]
async fn a_service_that_is_silent_or_not_there_is_a_failure_that_names_no_address() {
    let late = CallError::Failed("the rating service did not answer in time".to_owned());
    assert_eq!(ask(None).await, Err(late));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let settings = Settings { url, timeout: Duration::from_secs(60) };
    let gone = CallError::Failed("the rating service cannot be reached".to_owned());
    assert_eq!(rating_of(&settings, "ann").await, Err(gone));
}

#[tokio::test]
async fn a_question_that_the_service_refuses_is_told_from_a_failure() {
    let refused = ask(Some("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")).await;
    assert!(matches!(&refused, Err(CallError::Refused(detail)) if detail.contains("400")), "{refused:?}");
}

#[test]
fn an_address_is_checked_when_it_is_set_and_never_shown() {
    for url in
        ["", "ratings.example", "https://ann:secret@ratings.example", "ftp://ratings.example", "http://"]
    {
        let settings = Settings { url: url.to_owned(), timeout: Duration::from_secs(1) };
        let error = RatingService::new(&settings).unwrap_err();
        assert!(matches!(error, InvalidService::Address) && !error.to_string().contains("secret"), "{url}");
    }
}
