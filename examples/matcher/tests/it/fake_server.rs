//! As much of a Matchbook server as a worker sees: it hands out what it was given, remembers every call, and can be
//! killed, with every open connection, and started again at the same address with its memory kept.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use poem::http::{StatusCode, header};
use poem::listener::TcpAcceptor;
use poem::{Request, Response, Server, endpoint};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// Generous: it only bounds how long a broken test hangs.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy)]
pub(crate) enum Misbehaviour {
    Answer(u16),
    /// The call is remembered, its answer never sent.
    TakeAndNeverAnswer,
}

#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub method: String,
    pub path: String,
    pub body: Value,
    pub key: String,
    pub token: String,
}

#[derive(Debug, Default)]
struct Memory {
    offered: Vec<Value>,
    calls: Vec<Call>,
    /// Each is applied once, to the first call whose path ends so.
    misbehaviours: Vec<(String, Misbehaviour)>,
}

pub(crate) struct FakeServer {
    address: SocketAddr,
    memory: Arc<watch::Sender<Memory>>,
    runtime: Option<Runtime>,
}

impl FakeServer {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("some port is free");
        let address = listener.local_addr().expect("a bound listener has an address");
        let memory = Arc::new(watch::Sender::new(Memory::default()));
        let runtime = Some(serve(listener, Arc::clone(&memory)));
        Self { address, memory, runtime }
    }

    pub(crate) fn address(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn offer(&self, item: Value) {
        self.memory.send_modify(|memory| memory.offered.push(item));
    }

    pub(crate) fn misbehave(&self, path_end: &str, how: Misbehaviour) {
        self.memory.send_modify(|memory| memory.misbehaviours.push((path_end.to_owned(), how)));
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.memory.borrow().calls.clone()
    }

    /// The bodies of all calls whose path ends so, in order.
    pub(crate) fn bodies(&self, path_end: &str) -> Vec<Value> {
        let calls = self.calls().into_iter().filter(|call| call.path.ends_with(path_end));
        calls.map(|call| call.body).collect()
    }

    /// Waits until a call whose path ends so has come.
    pub(crate) fn called(&self, path_end: &'static str) -> impl Future<Output = ()> + use<> {
        let mut memory = self.memory.subscribe();
        async move {
            let came =
                memory.wait_for(|memory| memory.calls.iter().any(|call| call.path.ends_with(path_end)));
            tokio::time::timeout(PATIENCE, came).await.expect("the call comes").expect("the memory is kept");
        }
    }

    /// Every task and connection ends at once, unanswered.
    pub(crate) fn kill(&mut self) {
        self.runtime.take().expect("killed while running").shutdown_background();
    }

    pub(crate) fn start_again(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        // The old listener closes in its own time after the kill.
        let listener = loop {
            match TcpListener::bind(self.address) {
                Ok(listener) => break listener,
                Err(error) => assert!(Instant::now() < deadline, "the port stays taken: {error}"),
            }
            std::thread::yield_now();
        };
        self.runtime = Some(serve(listener, Arc::clone(&self.memory)));
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waiting for it to end, as a plain drop does, is forbidden inside another runtime.
            runtime.shutdown_background();
        }
    }
}

fn serve(listener: TcpListener, memory: Arc<watch::Sender<Memory>>) -> Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("threads can be started");
    listener.set_nonblocking(true).expect("sockets can be non-blocking");
    runtime.spawn(async move {
        let acceptor = TcpAcceptor::from_std(listener).expect("the listener is non-blocking");
        let answers = endpoint::make(move |request: Request| answer(request, Arc::clone(&memory)));
        Server::new_with_acceptor(acceptor).run(answers).await
    });
    runtime
}

async fn answer(mut request: Request, memory: Arc<watch::Sender<Memory>>) -> poem::Result<Response> {
    let header = |name: &str| request.header(name).unwrap_or_default().to_owned();
    let (key, token) = (header("idempotency-key"), header("authorization"));
    let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
    let body: Value = request.take_body().into_json().await?;
    let (mut how, mut item) = (None, None);
    memory.send_modify(|memory| {
        memory.calls.push(Call { method, path: path.clone(), body: body.clone(), key, token });
        let matching = memory.misbehaviours.iter().position(|(path_end, _)| path.ends_with(path_end));
        how = matching.map(|index| memory.misbehaviours.remove(index).1);
        if how.is_none() && path.ends_with("/claim") && !memory.offered.is_empty() {
            item = Some(memory.offered.remove(0));
        }
    });
    match how {
        Some(Misbehaviour::Answer(status)) => return Ok(problem(status)),
        Some(Misbehaviour::TakeAndNeverAnswer) => std::future::pending().await,
        None => {}
    }
    let answer = if path.ends_with("/claim") {
        json!({"items": item.into_iter().collect::<Vec<_>>(), "position": "1"})
    } else if path.ends_with("/matches") {
        json!({"accepted": body.as_array().map_or(0, Vec::len), "duplicates": 0, "position": "1"})
    } else {
        json!({"position": "1"})
    };
    Ok(Response::builder().content_type("application/json").body(answer.to_string()))
}

fn problem(status: u16) -> Response {
    let body = json!({
        "type": "about:blank", "title": "as asked", "status": status, "detail": format!("the fake says {status}"),
        "code": "AS_ASKED", "request_id": "0", "errors": [],
    });
    Response::builder()
        .status(StatusCode::from_u16(status).expect("tests ask for real statuses"))
        .header(header::RETRY_AFTER, "0")
        .content_type("application/problem+json")
        .body(body.to_string())
}
