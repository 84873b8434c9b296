use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use event_log::clock::Clock;
use event_log_embedded as embedded;
use event_log_embedded::EmbeddedLog;
use futures_util::FutureExt;
use hyper::body::{Body as HttpBody, Frame};
use tokio::sync::Semaphore;
use tonic::Code;

use super::*;
use crate::wire::access::{Access, Right, User};
use crate::wire::connection::Connections;
use crate::wire::server_state::{self, EndPoint};
use crate::wire::stream_metadata::StreamStatusCache;

const READ: &str = "/event_store.client.streams.Streams/Read";
const APPEND: &str = "/event_store.client.streams.Streams/Append";
const BATCH: &str = "/event_store.client.streams.Streams/BatchAppend";

/// A body of these parts, which does not end if it is `open`.
struct Parts {
    parts: VecDeque<Bytes>,
    open: bool,
}

impl HttpBody for Parts {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.parts.pop_front() {
            Some(part) => Poll::Ready(Some(Ok(Frame::data(part)))),
            None if self.open => Poll::Pending,
            None => Poll::Ready(None),
        }
    }
}

fn body(parts: Vec<Vec<u8>>, open: bool) -> Body {
    Body::new(Parts { parts: parts.into_iter().map(Bytes::from).collect(), open })
}

fn guarded(path: &str, parts: Vec<Vec<u8>>, open: bool, budget: &MessageBudget) -> GuardedBody {
    GuardedBody::new(body(parts, open), path, budget.clone(), Duration::from_secs(600))
}

fn budget() -> MessageBudget {
    MessageBudget::new(&TotalBudget::default())
}

/// The prefix of a message of this length.
fn prefix(bytes: usize) -> Vec<u8> {
    let mut prefix = vec![0];
    prefix.extend(u32::try_from(bytes).unwrap().to_be_bytes());
    prefix
}

/// The next part of a body; `None` at the end.
async fn next(body: &mut GuardedBody) -> Option<Result<Bytes, Status>> {
    let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await;
    frame.map(|frame| frame.map(|frame| frame.into_data().unwrap()))
}

/// The length of what a body passes on before it ends or waits.
fn passed_now(body: &mut GuardedBody) -> usize {
    let mut passed = 0;
    while let Some(Some(Ok(part))) = next(body).now_or_never() {
        passed += part.len();
    }
    passed
}

#[tokio::test]
async fn message_over_its_limit_is_refused_by_its_prefix() {
    for (path, bytes, code) in [
        (READ, 65 << 10, Code::OutOfRange),
        ("/event_store.client.streams.Streams/Delete", 16 << 20, Code::OutOfRange),
        (
            "/event_store.client.persistent_subscriptions.PersistentSubscriptions/Create",
            1 << 20,
            Code::OutOfRange,
        ),
        (
            "/event_store.client.persistent_subscriptions.PersistentSubscriptions/Read",
            2 << 20,
            Code::OutOfRange,
        ),
        ("/event_store.client.gossip.Gossip/Read", 65 << 10, Code::OutOfRange),
        (APPEND, 16 << 20, Code::InvalidArgument),
        (BATCH, 18 << 20, Code::OutOfRange),
    ] {
        let mut body = guarded(path, vec![prefix(bytes)], true, &budget());
        let status = next(&mut body).await.unwrap().unwrap_err();
        assert_eq!(status.code(), code, "{path}: {status}");
    }
}

#[tokio::test]
async fn body_is_passed_on_unchanged_in_any_parts() {
    let mut bytes = Vec::new();
    for length in [0, 1, 70_000, 0, 300] {
        bytes.extend(prefix(length));
        bytes.extend((0..length).map(|n| u8::try_from(n % 251).unwrap()));
    }
    for path in [APPEND, BATCH] {
        for size in [1, 2, 5, 7, 1_000, 100_000] {
            let parts = bytes.chunks(size).map(<[u8]>::to_vec).collect();
            let mut body = guarded(path, parts, false, &budget());
            let mut passed = Vec::new();
            while let Some(part) = next(&mut body).await {
                passed.extend(part.unwrap());
            }
            assert!(passed == bytes, "{path} in parts of {size} bytes");
        }
    }
}

#[tokio::test]
async fn messages_of_a_connection_share_its_memory() {
    let budget = budget();
    let large = || guarded(BATCH, vec![prefix(16 << 20), vec![7; 15]], true, &budget);
    let mut first = large();
    assert_eq!(passed_now(&mut first), 5 + 15);
    let mut others: Vec<GuardedBody> = (0..49).map(|_| large()).collect();
    assert_eq!(others.iter_mut().map(passed_now).sum::<usize>(), 0, "none of them may be received");
    // Small messages do not wait for large ones.
    assert_eq!(passed_now(&mut guarded(READ, vec![prefix(2), vec![1, 2]], false, &budget)), 7);
    drop(first);
    assert_eq!(passed_now(&mut others[0]), 5 + 15);
}

#[tokio::test]
async fn all_connections_share_the_total_memory() {
    let total = TotalBudget::default();
    let mut bodies = Vec::new();
    for _ in 0..50 {
        let budget = MessageBudget::new(&total);
        bodies.push(guarded(BATCH, vec![prefix(16 << 20), vec![7; 15]], true, &budget));
    }
    let receiving = bodies.iter_mut().filter_map(|body| (passed_now(body) > 0).then_some(())).count();
    assert!((1..=5).contains(&receiving), "{receiving} messages of 16 MiB at a time");
}

#[tokio::test]
async fn concurrent_appends_do_not_wait_for_each_other() {
    let budget = budget();
    let parts = || {
        let message = || [prefix(300 << 10), vec![7; 300 << 10]].concat();
        vec![prefix(0), message(), message(), message()]
    };
    let appends = (0..60).map(|_| {
        let mut body = guarded(APPEND, parts(), false, &budget);
        async move {
            while let Some(part) = next(&mut body).await {
                part.unwrap();
                tokio::task::yield_now().await;
            }
        }
    });
    futures_util::future::join_all(appends).await;
}

#[tokio::test]
async fn message_that_does_not_arrive_ends_its_call() {
    let half = [prefix(100), vec![7; 50]].concat();
    for (path, parts) in [
        (READ, Vec::new()),
        (READ, vec![vec![0]]),
        (READ, vec![half.clone()]),
        (APPEND, vec![prefix(0)]),
        (BATCH, vec![half]),
    ] {
        let mut body = GuardedBody::new(body(parts, true), path, budget(), Duration::from_millis(20));
        let status = loop {
            if let Err(status) = next(&mut body).await.unwrap() {
                break status;
            }
        };
        assert_eq!(status.code(), Code::DeadlineExceeded, "{path}");
    }
    // A batch without a message in progress has no deadline.
    let parts = vec![[prefix(1), vec![7]].concat()];
    let mut idle = GuardedBody::new(body(parts, true), BATCH, budget(), Duration::ZERO);
    assert_eq!(passed_now(&mut idle), 6);
    assert!(!idle.has_deadline);
}

/// A service that fails the test if it is called.
#[derive(Clone, Debug)]
struct Unreachable;

impl Service<http::Request<Body>> for Unreachable {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        panic!("called with {}", request.uri())
    }
}

#[tokio::test]
async fn every_method_checks_the_caller_before_its_body() {
    let folder = tempfile::tempdir().unwrap();
    let settings =
        embedded::Settings { reserve_bytes: 0, ..embedded::Settings::new(folder.path().join("events")) };
    let (log, _) = EmbeddedLog::open(&settings, Clock::System).unwrap();
    let (_faults, server_state) = server_state::channel();
    let user = User { name: "ann".to_owned(), password: "secret".to_owned(), right: Right::Clients };
    let node = Arc::new(Node {
        log,
        clock: Clock::System,
        access: Access { users: vec![user], anonymous: None },
        server_state,
        statuses: StreamStatusCache::new(),
        advertised: EndPoint { host: "localhost".to_owned(), port: 1 },
    });
    let connections = Connections::new(1);
    let place = connections.place([127, 0, 0, 1].into()).await.unwrap();
    let peer = Peer {
        subscriptions: Arc::new(Semaphore::new(1)),
        budget: budget(),
        connection: Arc::clone(&place.state),
        call_timeout: Duration::from_secs(600),
    };
    let methods = crate::wire::discovery::METHODS.iter().filter(|(service, ..)| {
        !OPEN_SERVICES.iter().any(|open| open.to_lowercase() == format!("/{service}/"))
    });
    let mut guarded = Guarded::new(Unreachable, &node);
    for (service, method, _) in methods.chain(&[("any.Service", "AnyMethod", &[] as &[&str])]) {
        for credentials in [None, Some("Basic YW5uOndyb25n"), Some("Bearer x")] {
            let mut request = http::Request::builder().uri(format!("/{service}/{method}"));
            if let Some(credentials) = credentials {
                request = request.header("authorization", credentials);
            }
            let mut request = request.body(body(vec![prefix(16 << 20)], true)).unwrap();
            request.extensions_mut().insert(peer.clone());
            let response = guarded.call(request).await.unwrap();
            let status = Status::from_header_map(response.headers()).unwrap();
            assert_eq!(status.code(), Code::Unauthenticated, "{service}/{method}");
        }
    }
}
