//! A fake Matchbook server for workers: it returns the offered items, records every call, and can be killed with all open
//! connections and restarted at the same address with its state.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use poem::http::{StatusCode, header};
use poem::listener::TcpAcceptor;
use poem::{Request, Response, Server, endpoint};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// A generous timeout for a test that hangs.
const TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    Respond(u16),
    /// The call is recorded, and never gets a response.
    NeverRespond,
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
struct ServerState {
    offered: Vec<Value>,
    calls: Vec<Call>,
    /// Each is applied once, to the first call whose path has this suffix.
    faults: Vec<(String, Fault)>,
}

pub(crate) struct FakeServer {
    address: SocketAddr,
    state: Arc<watch::Sender<ServerState>>,
    runtime: Option<Runtime>,
}

impl FakeServer {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("some port is free");
        let address = listener.local_addr().expect("a bound listener has an address");
        let state = Arc::new(watch::Sender::new(ServerState::default()));
        let runtime = Some(serve(listener, Arc::clone(&state)));
        Self { address, state, runtime }
    }

    pub(crate) fn address(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn offer(&self, item: Value) {
        self.state.send_modify(|state| state.offered.push(item));
    }

    pub(crate) fn inject(&self, path_end: &str, fault: Fault) {
        self.state.send_modify(|state| state.faults.push((path_end.to_owned(), fault)));
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.state.borrow().calls.clone()
    }

    /// The bodies of all calls whose path has this suffix, in order.
    pub(crate) fn bodies(&self, path_end: &str) -> Vec<Value> {
        let calls = self.calls().into_iter().filter(|call| call.path.ends_with(path_end));
        calls.map(|call| call.body).collect()
    }

    /// Waits for a call whose path has this suffix.
    pub(crate) fn called(&self, path_end: &'static str) -> impl Future<Output = ()> + use<> {
        let mut state = self.state.subscribe();
        async move {
            let called = state.wait_for(|state| state.calls.iter().any(|call| call.path.ends_with(path_end)));
            tokio::time::timeout(TIMEOUT, called).await.expect("the call arrives").expect("the state exists");
        }
    }

    /// Ends all tasks and connections immediately, without responses.
    pub(crate) fn kill(&mut self) {
        self.runtime.take().expect("killed while running").shutdown_background();
    }

    pub(crate) fn restart(&mut self) {
        let deadline = Instant::now() + TIMEOUT;
        // The old listener closes some time after the kill.
        let listener = loop {
            match TcpListener::bind(self.address) {
                Ok(listener) => break listener,
                Err(error) => assert!(Instant::now() < deadline, "the port is still in use: {error}"),
            }
            std::thread::yield_now();
        };
        self.runtime = Some(serve(listener, Arc::clone(&self.state)));
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A plain drop would wait, which is not allowed inside another runtime.
            runtime.shutdown_background();
        }
    }
}

fn serve(listener: TcpListener, state: Arc<watch::Sender<ServerState>>) -> Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("threads can be started");
    listener.set_nonblocking(true).expect("sockets can be non-blocking");
    runtime.spawn(async move {
        let acceptor = TcpAcceptor::from_std(listener).expect("the listener is non-blocking");
        let answers = endpoint::make(move |request: Request| answer(request, Arc::clone(&state)));
        Server::new_with_acceptor(acceptor).run(answers).await
    });
    runtime
}

async fn answer(mut request: Request, state: Arc<watch::Sender<ServerState>>) -> poem::Result<Response> {
    let header = |name: &str| request.header(name).unwrap_or_default().to_owned();
    let (key, token) = (header("idempotency-key"), header("authorization"));
    let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
    let body: Value = request.take_body().into_json().await?;
    let (mut fault, mut item) = (None, None);
    state.send_modify(|state| {
        state.calls.push(Call { method, path: path.clone(), body: body.clone(), key, token });
        let matching = state.faults.iter().position(|(path_end, _)| path.ends_with(path_end));
        fault = matching.map(|index| state.faults.remove(index).1);
        if fault.is_none() && path.ends_with("/claim") && !state.offered.is_empty() {
            item = Some(state.offered.remove(0));
        }
    });
    match fault {
        Some(Fault::Respond(status)) => return Ok(problem(status)),
        Some(Fault::NeverRespond) => std::future::pending().await,
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
        "type": "about:blank", "title": "injected", "status": status, "detail": format!("injected {status}"),
        "code": "INJECTED", "request_id": "0", "errors": [],
    });
    Response::builder()
        .status(StatusCode::from_u16(status).expect("tests use valid statuses"))
        .header(header::RETRY_AFTER, "0")
        .content_type("application/problem+json")
        .body(body.to_string())
}
