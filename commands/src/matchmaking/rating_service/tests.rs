use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// A service that sends this response, and keeps the request. Without a response it is silent.
async fn service(answer: Option<&'static str>) -> (Settings, Arc<Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let requested = Arc::new(Mutex::new(String::new()));
    let log = requested.clone();
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
    // A service that responds does so at once; the timeout is long for the sake of a busy machine.
    let timeout = if answer.is_some() { Duration::from_secs(60) } else { Duration::from_millis(100) };
    (Settings { url: format!("http://{address}/v2/"), timeout }, requested)
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
async fn request_names_tenant_user_and_pool_and_rating_is_rounded() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\n{\"rating\":1640.5}";
    let (settings, requested) = service(Some(answer)).await;
    assert_eq!(rating_of(&settings, "ann/?#é").await, Ok(Some(Rating::nearest(1641.0))));
    let requested = requested.lock().unwrap().clone();
    let line = "GET /v2/ratings/arena/ann%2F%3F%23%C3%A9?pool_key=blitz+3%2B2 HTTP/1.1";
    assert!(requested.starts_with(line), "{requested}");
}

#[tokio::test]
async fn unknown_player_has_no_rating() {
    assert_eq!(ask(Some("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")).await, Ok(None));
}

#[tokio::test]
async fn name_that_is_not_a_path_segment_is_not_requested() {
    let (settings, requested) = service(Some("HTTP/1.1 500 Failed\r\ncontent-length: 0\r\n\r\n")).await;
    for name in [".", ".."] {
        assert_eq!(rating_of(&settings, name).await, Ok(None));
    }
    assert_eq!(*requested.lock().unwrap(), "");
}

#[tokio::test]
async fn invalid_rating_is_a_failure() {
    for answer in [
        "HTTP/1.1 500 Failed\r\ncontent-length: 0\r\n\r\n",
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
async fn unreachable_service_is_a_failure_without_its_address() {
    let late = CallError::Failed("the rating service did not respond in time".to_owned());
    assert_eq!(ask(None).await, Err(late));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let settings = Settings { url, timeout: Duration::from_secs(60) };
    let gone = CallError::Failed("the rating service cannot be reached".to_owned());
    assert_eq!(rating_of(&settings, "ann").await, Err(gone));
}

#[tokio::test]
async fn refused_request_is_not_a_failure() {
    for answer in [
        "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n",
    ] {
        let refused = ask(Some(answer)).await;
        assert!(matches!(&refused, Err(CallError::Refused(_))), "{refused:?}");
    }
}

#[test]
fn invalid_address_is_refused_and_never_shown() {
    for url in ["", "ratings.example", "wss://ann:secret@ratings.example", "ftp://ratings.example", "http://"]
    {
        let settings = Settings { url: url.to_owned(), timeout: Duration::from_secs(1) };
        let error = RatingService::new(&settings).unwrap_err();
        assert!(matches!(error, InvalidService::Address) && !error.to_string().contains("secret"), "{url}");
    }
}
