use std::sync::Mutex;

use event_schemas::time::Timestamp;
use futures_util::{SinkExt, StreamExt};
use poem::web::websocket::WebSocket;
use poem::{Body, IntoResponse, Response, Route, get, handler, post};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use super::*;
use crate::caller::{Auth, Now};
use crate::routes::Routes;
use crate::serve::{Settings, layers};
use crate::shutdown::Trigger;

/// Only the time after which a test gives up; nothing waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

struct Running {
    address: SocketAddr,
    trigger: Trigger,
    server: JoinHandle<()>,
}

#[handler]
async fn echo(body: Body) -> poem::Result<Vec<u8>> {
    Ok(body.into_vec().await?)
}

#[handler]
fn websocket(socket: WebSocket) -> impl IntoResponse {
    socket.on_upgrade(|socket| async move {
        let (mut to, mut from) = socket.split();
        if let Some(Ok(message)) = from.next().await {
            let _ = to.send(message).await;
        }
    })
}

async fn start(route: Route, bounds: Bounds) -> Running {
    let route = route.at("/echo", post(echo)).at("/ws", get(websocket));
    let mut settings = Settings::new(Auth::open(Now::new(|| Timestamp::EPOCH)), Routes::default());
    settings.limits.body_bytes = 1000;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (trigger, shutdown) = shutdown::channel();
    let server = tokio::spawn(run(listener, layers(route, settings), bounds, shutdown));
    Running { address, trigger, server }
}

fn quick() -> Bounds {
    Bounds { header_timeout: Duration::from_millis(100), ..Bounds::default() }
}

async fn connect(running: &Running) -> TcpStream {
    TcpStream::connect(running.address).await.unwrap()
}

/// All that the server sends until it closes.
async fn to_the_end(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
    // A connection that is cut may end with a reset, which is an end as well.
    let _ = read.expect("the server closes the connection");
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn ask(running: &Running, request: &str) -> String {
    let mut stream = connect(running).await;
    stream.write_all(request.as_bytes()).await.unwrap();
    to_the_end(&mut stream).await
}

#[tokio::test]
async fn a_request_is_answered() {
    let running = start(Route::new(), Bounds::default()).await;
    let request = "POST /echo HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi";
    let answer = ask(&running, request).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nhi"), "{answer}");
}

#[tokio::test]
async fn a_connection_that_does_not_ask_is_closed() {
    let running = start(Route::new(), quick()).await;
    // Nothing; the first letters of a version yet unknown; half a head.
    for beginning in ["", "P", "PRI * HTTP/2", "GET / HTTP/1.1\r\nhost:"] {
        let answer = ask(&running, beginning).await;
        assert!(!answer.contains(" 200 "), "{beginning:?}: {answer}");
    }
}

#[tokio::test]
async fn a_connection_that_asks_half_of_a_second_question_is_closed() {
    let running = start(Route::new(), quick()).await;
    let request = "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhiGET / HTTP/1.1\r\n";
    let answer = ask(&running, request).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn a_head_that_trickles_is_closed() {
    let running = start(Route::new(), quick()).await;
    let (mut read, mut write) = connect(&running).await.into_split();
    let trickle = tokio::spawn(async move {
        loop {
            for byte in b"GET / HTTP/1.1\r\nx: ".iter().chain(std::iter::repeat(&b'y')) {
                if write.write_all(&[*byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    });
    let mut bytes = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, read.read_to_end(&mut bytes)).await.expect("it is closed");
    trickle.abort();
}

#[tokio::test]
async fn a_head_over_the_limit_is_refused() {
    let running = start(Route::new(), Bounds::default()).await;
    let request = format!("GET /echo HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(17 * 1024));
    let answer = ask(&running, &request).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_though_its_length_is_not_announced() {
    let running = start(Route::new(), Bounds::default()).await;
    let chunk = format!("{:x}\r\n{}\r\n", 600, "y".repeat(600));
    let request = format!(
        "POST /echo HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n{chunk}{chunk}0\r\n\r\n"
    );
    let answer = ask(&running, &request).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("PAYLOAD_TOO_LARGE"), "{answer}");
}

#[tokio::test]
async fn a_websocket_is_opened_and_used() {
    let running = start(Route::new(), Bounds::default()).await;
    let mut stream = connect(&running).await;
    let request = "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                   sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    // A text of two letters, masked with zeros; the answer is the same, unmasked.
    stream.write_all(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']).await.unwrap();
    let mut frame = [0; 4];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut frame)).await.unwrap().unwrap();
    assert_eq!(frame, [0x81, 2, b'h', b'i']);
}

#[tokio::test]
async fn beyond_the_limit_a_connection_waits_for_a_place() {
    let running = start(Route::new(), Bounds { connections_max: 1, ..Bounds::default() }).await;
    let request = "POST /echo HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi";
    let mut first = connect(&running).await;
    // An answer shows that the first one has its place.
    first.write_all(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi").await.unwrap();
    assert_ne!(first.read_u8().await.unwrap(), 0);
    let mut second = connect(&running).await;
    second.write_all(request.as_bytes()).await.unwrap();
    let mut byte = [0];
    assert!(second.try_read(&mut byte).is_err());
    drop(first);
    assert!(to_the_end(&mut second).await.starts_with("HTTP/1.1 200 "));
}

/// A route that says when it is reached and then waits to be let go.
fn held(reached: Arc<Notify>, release: Arc<Notify>) -> Route {
    let hold = poem::endpoint::make(move |_| {
        let (reached, release) = (reached.clone(), release.clone());
        async move {
            reached.notify_one();
            release.notified().await;
            Ok::<_, poem::Error>("held")
        }
    });
    Route::new().at("/held", hold)
}

#[tokio::test]
async fn at_the_end_a_request_under_way_is_answered_and_an_idle_connection_closed() {
    let (reached, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let running = start(held(reached.clone(), release.clone()), Bounds::default()).await;
    let mut idle = connect(&running).await;
    idle.write_all(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi").await.unwrap();
    assert_ne!(idle.read_u8().await.unwrap(), 0);
    let mut busy = connect(&running).await;
    busy.write_all(b"GET /held HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    reached.notified().await;
    running.trigger.begin();
    to_the_end(&mut idle).await;
    release.notify_one();
    assert!(to_the_end(&mut busy).await.ends_with("held"));
    tokio::time::timeout(PATIENCE, running.server).await.expect("the server ends").unwrap();
    assert!(TcpStream::connect(running.address).await.is_err());
}

#[tokio::test]
async fn who_asks_when_the_end_has_begun_is_answered_for_the_last_time() {
    let running = start(Route::new(), Bounds::default()).await;
    let mut asking = connect(&running).await;
    let request = b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi";
    asking.write_all(request).await.unwrap();
    let mut first = [0; 4096];
    assert_ne!(asking.read(&mut first).await.unwrap(), 0);
    running.trigger.begin();
    asking.write_all(request).await.unwrap();
    let answer = to_the_end(&mut asking).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    assert!(answer.ends_with("hi"), "{answer}");
    tokio::time::timeout(PATIENCE, running.server).await.expect("the server ends").unwrap();
}

#[tokio::test]
async fn what_does_not_end_is_cut() {
    let (reached, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let bounds = Bounds { drain: Duration::from_millis(50), ..Bounds::default() };
    let running = start(held(reached.clone(), release), bounds).await;
    let mut busy = connect(&running).await;
    busy.write_all(b"GET /held HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    reached.notified().await;
    running.trigger.begin();
    assert_eq!(to_the_end(&mut busy).await, "");
    tokio::time::timeout(PATIENCE, running.server).await.expect("the server ends").unwrap();
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_client_that_does_not_read_is_let_go() {
    let (given_up, is_given_up) = oneshot::channel::<()>();
    let given_up = Mutex::new(Some(given_up));
    let flood = poem::endpoint::make_sync(move |_| {
        let guard = given_up.lock().unwrap().take();
        let chunks = futures_util::stream::repeat_with(move || {
            let _ = &guard;
            Ok::<_, io::Error>(vec![0; 1 << 16])
        });
        Response::builder().body(Body::from_bytes_stream(chunks))
    });
    let bounds = Bounds { stall_timeout: Duration::from_millis(200), ..Bounds::default() };
    let running = start(Route::new().at("/flood", flood), bounds).await;
    let mut stream = connect(&running).await;
    stream.write_all(b"GET /flood HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, is_given_up).await;
    assert!(ended.expect("the body is dropped").is_err());
}
