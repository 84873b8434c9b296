use std::sync::Mutex;

use event_schemas::time::Timestamp;
use futures_util::{SinkExt, StreamExt};
use poem::web::websocket::WebSocket;
use poem::{Body, EndpointExt, IntoResponse, Response, Route, get, handler, post};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use super::*;
use crate::caller::{Auth, Now};
use crate::problem::Problem;
use crate::routes::Routes;
use crate::serve::{Settings, layers};
use crate::shutdown::Trigger;

/// The timeout of a test; nothing waits for it.
const TIMEOUT: Duration = Duration::from_secs(20);

struct RunningServer {
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

#[handler]
fn endless() -> Response {
    let first = futures_util::stream::once(async { Ok::<_, io::Error>("first\n") });
    Response::builder().body(Body::from_bytes_stream(first.chain(futures_util::stream::pending())))
}

async fn start(route: Route, bounds: Bounds) -> RunningServer {
    let route = route.at("/echo", post(echo)).at("/ws", get(websocket));
    let mut settings = Settings::new(Auth::open(Now::new(|| Timestamp::EPOCH)), Routes::default());
    settings.limits.body_bytes = 1000;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (trigger, shutdown) = shutdown::channel();
    let server = tokio::spawn(run(listener, layers(route, settings).boxed(), bounds, shutdown));
    RunningServer { address, trigger, server }
}

fn quick() -> Bounds {
    Bounds { header_timeout: Duration::from_millis(100), ..Bounds::default() }
}

async fn connect(running: &RunningServer) -> TcpStream {
    TcpStream::connect(running.address).await.unwrap()
}

/// Everything that the server sends until it closes.
async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(TIMEOUT, stream.read_to_end(&mut bytes)).await;
    // An aborted connection may end with a reset, which is an end as well.
    let _ = read.expect("the server closes the connection");
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn send(running: &RunningServer, request: &str) -> String {
    let mut stream = connect(running).await;
    stream.write_all(request.as_bytes()).await.unwrap();
    read_to_end(&mut stream).await
}

#[tokio::test]
async fn connections_without_a_request_shut_no_client_out() {
    let running =
        start(Route::new(), Bounds { connections_max: 4, header_timeout: 10 * TIMEOUT, ..Bounds::default() })
            .await;
    let mut idle = Vec::new();
    for n in 0..40 {
        let mut stream = connect(&running).await;
        stream.write_all(if n % 2 == 0 { b"" } else { b"POST /echo HT" }).await.unwrap();
        idle.push(stream);
    }
    let mut honest = connect(&running).await;
    let request = b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi";
    honest.write_all(request).await.unwrap();
    let mut answer = [0; 12];
    let read = tokio::time::timeout(TIMEOUT, honest.read_exact(&mut answer)).await;
    read.unwrap().unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
}

#[tokio::test(start_paused = true)]
async fn new_connection_waits_when_all_places_are_taken() {
    let bounds = Bounds { connections_max: 4, header_timeout: 10 * TIMEOUT, ..Bounds::default() };
    let running = start(Route::new(), bounds).await;
    let started = tokio::time::Instant::now();
    let mut open = Vec::new();
    for _ in 0..24 {
        let mut stream = connect(&running).await;
        stream.write_all(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'H');
        open.push(stream);
    }
    assert!(started.elapsed() >= 20 * REPLACE_PAUSE, "{:?}", started.elapsed());
}

#[tokio::test]
async fn request_gets_a_response() {
    let running = start(Route::new(), Bounds::default()).await;
    let request = "POST /echo HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi";
    let answer = send(&running, request).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nhi"), "{answer}");
}

#[tokio::test]
async fn connection_without_a_request_is_closed() {
    let running = start(Route::new(), quick()).await;
    // Nothing; the first bytes of an unknown version; half a header.
    for prefix in ["", "P", "PRI * HTTP/2", "GET / HTTP/1.1\r\nhost:"] {
        let answer = send(&running, prefix).await;
        assert!(!answer.contains(" 200 "), "{prefix:?}: {answer}");
    }
}

#[tokio::test]
async fn connection_with_half_a_second_request_is_closed() {
    let running = start(Route::new(), quick()).await;
    let request = "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhiGET / HTTP/1.1\r\n";
    let answer = send(&running, request).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn slow_request_header_is_closed() {
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
    let _ = tokio::time::timeout(TIMEOUT, read.read_to_end(&mut bytes)).await.expect("it is closed");
    trickle.abort();
}

#[tokio::test]
async fn request_header_over_the_limit_is_refused() {
    let running = start(Route::new(), Bounds::default()).await;
    let request = format!("GET /echo HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(17 * 1024));
    let answer = send(&running, &request).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test]
async fn chunked_body_over_the_limit_is_refused() {
    let running = start(Route::new(), Bounds::default()).await;
    let chunk = format!("{:x}\r\n{}\r\n", 600, "y".repeat(600));
    let request = format!(
        "POST /echo HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n{chunk}{chunk}0\r\n\r\n"
    );
    let answer = send(&running, &request).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("PAYLOAD_TOO_LARGE"), "{answer}");
}

#[tokio::test]
async fn body_in_wrong_chunks_is_told_from_one_that_ended_early() {
    let running = start(Route::new(), Bounds::default()).await;
    for (chunks, reason) in [
        ("z\r\nabc\r\n0\r\n\r\n", "valid chunks"),
        ("3\r\nabc\r\n-1\r\n", "valid chunks"),
        ("3\r\nabcd\r\n0\r\n\r\n", "valid chunks"),
        ("11111111111111111\r\n", "valid chunks"),
        ("3\r\nab", "ended before it was complete"),
        ("3\r\nabc\r\n", "ended before it was complete"),
    ] {
        let request = format!(
            "POST /echo HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n{chunks}"
        );
        let mut stream = connect(&running).await;
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let answer = read_to_end(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains(reason), "{chunks:?}: {answer}");
    }
}

#[handler]
fn refuse() -> poem::Result<()> {
    Err(Problem::forbidden("not you").into())
}

#[tokio::test]
async fn refusal_reaches_a_client_that_first_sends_all_of_its_body() {
    let running = start(Route::new().at("/refuse", post(refuse)), Bounds::default()).await;
    let chunks = format!("{:x}\r\n{}\r\n", 4_000, "y".repeat(4_000)).repeat(250);
    let request = format!(
        "POST /refuse HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n{chunks}0\r\n\r\n"
    );
    let answer = send(&running, &request).await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
}

#[tokio::test]
async fn websocket_works() {
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
    tokio::time::timeout(TIMEOUT, stream.read_exact(&mut frame)).await.unwrap().unwrap();
    assert_eq!(frame, [0x81, 2, b'h', b'i']);
}

#[tokio::test]
async fn connection_over_the_limit_waits_while_others_have_requests() {
    let (reached, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let bounds = Bounds { connections_max: 1, ..Bounds::default() };
    let running = start(blocking_route(reached.clone(), release.clone()), bounds).await;
    let request = "POST /echo HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi";
    let mut first = connect(&running).await;
    first.write_all(b"GET /held HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    reached.notified().await;
    let mut second = connect(&running).await;
    second.write_all(request.as_bytes()).await.unwrap();
    let waiting = tokio::time::timeout(3 * CLOSING, second.readable()).await;
    assert!(waiting.is_err(), "the second connection has no slot");
    release.notify_one();
    assert!(read_to_end(&mut first).await.ends_with("held"));
    assert!(read_to_end(&mut second).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn idle_connections_of_an_address_make_room_for_others() {
    let bounds = Bounds { connections_max: 4, header_timeout: 10 * TIMEOUT, ..Bounds::default() };
    let running = start(Route::new().at("/endless", get(endless)), bounds).await;
    let mut streaming = connect(&running).await;
    streaming.write_all(b"GET /endless HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert_ne!(streaming.read_u8().await.unwrap(), 0);
    // Each had a request, and stays open.
    let mut idle = Vec::new();
    for _ in 0..12 {
        let mut stream = connect(&running).await;
        stream.write_all(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi").await.unwrap();
        let mut answer = [0; 12];
        let read = tokio::time::timeout(TIMEOUT, stream.read_exact(&mut answer)).await;
        read.unwrap().unwrap();
        idle.push(stream);
    }
    assert!(read_to_end(&mut idle[0]).await.ends_with("hi"));
    // The response is still being sent.
    let mut rest = [0; 4096];
    assert_ne!(streaming.read(&mut rest).await.unwrap(), 0);
    let open =
        tokio::time::timeout(CLOSING, async { while streaming.read(&mut rest).await.unwrap() != 0 {} });
    assert!(open.await.is_err(), "the stream was closed");
}

/// A route that signals when it is reached, and then waits for `release`.
fn blocking_route(reached: Arc<Notify>, release: Arc<Notify>) -> Route {
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
async fn shutdown_finishes_requests_and_closes_idle_connections() {
    let (reached, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let running = start(blocking_route(reached.clone(), release.clone()), Bounds::default()).await;
    let mut idle = connect(&running).await;
    idle.write_all(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi").await.unwrap();
    assert_ne!(idle.read_u8().await.unwrap(), 0);
    let mut busy = connect(&running).await;
    busy.write_all(b"GET /held HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    reached.notified().await;
    running.trigger.request();
    read_to_end(&mut idle).await;
    release.notify_one();
    assert!(read_to_end(&mut busy).await.ends_with("held"));
    tokio::time::timeout(TIMEOUT, running.server).await.expect("the server ends").unwrap();
    assert!(TcpStream::connect(running.address).await.is_err());
}

#[tokio::test]
async fn request_during_shutdown_gets_a_last_response() {
    let running = start(Route::new(), Bounds::default()).await;
    let mut client = connect(&running).await;
    let request = b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi";
    client.write_all(request).await.unwrap();
    let mut first = [0; 4096];
    assert_ne!(client.read(&mut first).await.unwrap(), 0);
    running.trigger.request();
    client.write_all(request).await.unwrap();
    let answer = read_to_end(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    assert!(answer.ends_with("hi"), "{answer}");
    tokio::time::timeout(TIMEOUT, running.server).await.expect("the server ends").unwrap();
}

#[tokio::test]
async fn request_over_the_drain_time_is_aborted() {
    let (reached, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let bounds = Bounds { drain: Duration::from_millis(50), ..Bounds::default() };
    let running = start(blocking_route(reached.clone(), release), bounds).await;
    let mut busy = connect(&running).await;
    busy.write_all(b"GET /held HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    reached.notified().await;
    running.trigger.request();
    assert_eq!(read_to_end(&mut busy).await, "");
    tokio::time::timeout(TIMEOUT, running.server).await.expect("the server ends").unwrap();
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn stalled_client_is_disconnected() {
    let (alive, dropped) = oneshot::channel::<()>();
    let alive = Mutex::new(Some(alive));
    let flood = poem::endpoint::make_sync(move |_| {
        let guard = alive.lock().unwrap().take();
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
    let ended = tokio::time::timeout(TIMEOUT, dropped).await;
    assert!(ended.expect("the body is dropped").is_err());
}

#[tokio::test]
async fn half_closed_client_gets_its_response() {
    let running = start(Route::new(), Bounds::default()).await;
    let mut stream = connect(&running).await;
    stream.write_all(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi").await.unwrap();
    stream.shutdown().await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("hi"), "{answer}");
}

#[tokio::test]
async fn wait_ends_when_its_client_closes_its_side() {
    #[handler]
    async fn wait(client: ClientSide) -> &'static str {
        client.closed().await;
        "closed"
    }
    let running = start(Route::new().at("/wait", get(wait)), Bounds::default()).await;
    let mut stream = connect(&running).await;
    stream.write_all(b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    stream.shutdown().await.unwrap();
    assert!(read_to_end(&mut stream).await.ends_with("closed"));
}

#[tokio::test]
async fn event_stream_ends_when_its_client_closes_its_side() {
    #[handler]
    fn events() -> Response {
        let first = futures_util::stream::once(async { Ok::<_, std::io::Error>("data: 1\n\n") });
        let body = Body::from_bytes_stream(first.chain(futures_util::stream::pending()));
        Response::builder().content_type("text/event-stream").body(body)
    }
    let running = start(Route::new().at("/events", get(events)), Bounds::default()).await;
    let mut stream = connect(&running).await;
    stream.write_all(b"GET /events HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    stream.shutdown().await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.contains("data: 1\n\n") && answer.ends_with("0\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn request_without_one_valid_host_is_refused() {
    let running = start(Route::new(), Bounds::default()).await;
    for hosts in ["", "host: a\r\nhost: a\r\n", "host: a b\r\n", "host: u@a\r\n"] {
        let answer = send(&running, &format!("GET /echo HTTP/1.1\r\n{hosts}connection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("\"field\":\"Host\""), "{answer}");
    }
    for accepted in [
        "POST /echo HTTP/1.1\r\nhost:\r\n",
        "POST /echo HTTP/1.1\r\nhost: [::1]:80\r\n",
        "POST /echo HTTP/1.0\r\n",
    ] {
        let answer =
            send(&running, &format!("{accepted}connection: close\r\ncontent-length: 0\r\n\r\n")).await;
        assert!(answer.contains(" 200 OK\r\n"), "{answer}");
    }
}

#[tokio::test]
async fn what_is_not_http_is_refused_with_a_problem() {
    let running = start(Route::new(), Bounds::default()).await;
    let long_header = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(17 * 1024));
    let long_url = format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "y".repeat(70_000));
    for (request, status) in [
        ("GET / HTTP/9.9\r\n\r\n", "400"),
        ("G\u{1}T / HTTP/1.1\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nhost : a\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nhost: a\r\nx\r\n\r\n", "400"),
        ("POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n", "400"),
        ("POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nz\r\n", "400"),
        (&long_header, "431"),
        (&long_url, "4"),
    ] {
        let answer = send(&running, request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request:.60}: {answer}");
        assert!(answer.contains("content-type: application/problem+json"), "{request:.60}: {answer}");
    }
}

#[tokio::test]
async fn slow_header_is_refused_with_a_problem() {
    let running = start(Route::new(), quick()).await;
    let answer = send(&running, "GET / HTTP/1.1\r\nhost:").await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("REQUEST_TIMEOUT"), "{answer}");
}
