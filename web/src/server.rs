//! The accept loop and the limits of connections.
//!
//! poem's own server has no limits against slow or hostile clients: it sets no timer, so a connection that sends half a
//! header stays open for ever. This one drives hyper directly.

mod connections;
mod refusal;
mod socket;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use poem::endpoint::BoxEndpoint;
use poem::http::Version;
use poem::http::header::{CONNECTION, HeaderValue};
use poem::http::uri::Scheme;
use poem::web::{LocalAddr, RemoteAddr};
use poem::{Endpoint, IntoResponse, Request};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::shutdown::{self, Shutdown};
use connections::{Connection, Connections, ResponseBody};
use socket::Socket;

pub use socket::ClientSide;

/// Gauge: open connections.
pub const CONNECTIONS: &str = "matchbook_http_connections";

/// The limits of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The longest time from the start of a connection, or of a request on it, to the end of the request's header.
    pub header_timeout: Duration,
    /// The largest header of a request.
    pub header_bytes: usize,
    /// The most open connections. For another one, a connection without a request in progress is closed, of the address with the
    /// most connections; if all have one, it waits in the listen backlog.
    pub connections_max: u32,
    /// The longest time that sent data may stay unacknowledged by the client.
    pub stall_timeout: Duration,
    /// The time from the start of the shutdown until open connections are closed.
    pub drain: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(10),
            header_bytes: 16 * 1024,
            connections_max: 16_384,
            stall_timeout: Duration::from_secs(30),
            drain: Duration::from_secs(10),
        }
    }
}

/// The most concurrent requests of one HTTP/2 connection.
const HTTP2_STREAMS_MAX: u32 = 128;

/// The interval of HTTP/2 keep-alive pings on a silent connection.
const HTTP2_PING_EVERY: Duration = Duration::from_secs(20);

/// The first and the longest pause after an accept that failed for lack of a resource, such as file descriptors.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The length of the listen backlog, unless the system limits it.
pub const BACKLOG: u32 = 4_096;

/// The time in which a closed connection releases its slot, or the next one is closed.
const CLOSING: Duration = Duration::from_millis(50);

/// The pause before a connection is closed for another one, so that clients that connect again at once when they are closed
/// take little of the processor.
const REPLACE_PAUSE: Duration = Duration::from_millis(1);

/// The time from the start of the shutdown until idle connections are closed. Meanwhile the next response on a connection
/// has `Connection: close`. If connections were closed at once, a request that is just arriving would be lost, and its
/// client would not know the outcome.
const LINGER: Duration = Duration::from_millis(500);

/// Serves `endpoint` until `shutdown`, then waits for active requests, for at most [`Bounds::drain`]. The endpoint and the
/// future are boxed, so that the code of connections is compiled once, in this crate.
pub fn run(
    listener: TcpListener,
    endpoint: BoxEndpoint<'static>,
    bounds: Bounds,
    shutdown: Shutdown,
) -> BoxFuture<'static, ()> {
    accept_loop(listener, endpoint, bounds, shutdown).boxed()
}

async fn accept_loop(
    listener: TcpListener,
    endpoint: BoxEndpoint<'static>,
    bounds: Bounds,
    shutdown: Shutdown,
) {
    let slots = Arc::new(Semaphore::new(bounds.connections_max as usize));
    let connections = Connections::default();
    let (abort, aborted) = shutdown::channel();
    let server = Arc::new(HttpServer { endpoint, bounds, shutdown: shutdown.clone(), aborted });
    let mut pause = PAUSE_MIN;
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &slots, &connections) => accepted,
            () = shutdown.requested() => break,
        };
        match accepted {
            Ok((stream, remote, slot)) => {
                pause = PAUSE_MIN;
                tokio::spawn(server.clone().serve(stream, remote, slot, connections.add(remote.ip())));
            }
            Err(error) if is_client_error(&error) => {}
            Err(error) => {
                tracing::warn!(%error, pause_ms = pause.as_millis(), "cannot accept connections; retrying; with too many open files, raise the limit with ulimit -n or LimitNOFILE");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
    // Connections in the backlog are accepted as well: if they were refused, their clients would not know the outcome of
    // requests that they have sent already.
    for _ in 0..BACKLOG {
        let accepted = tokio::time::timeout(Duration::ZERO, accept(&listener, &slots, &connections)).await;
        let Ok(Ok((stream, remote, slot))) = accepted else { break };
        tokio::spawn(server.clone().serve(stream, remote, slot, connections.add(remote.ip())));
    }
    drop(listener);
    let all_closed = slots.acquire_many(bounds.connections_max);
    if tokio::time::timeout(bounds.drain, all_closed).await.is_err() {
        let open = bounds.connections_max as usize - slots.available_permits();
        tracing::warn!(open, "closing connections that are still open after the grace period");
        abort.request();
    }
}

/// Accepts a connection that has a slot. If there is none, other clients wait in the backlog meanwhile.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
    connections: &Connections,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let (stream, remote) = listener.accept().await?;
    loop {
        if slots.available_permits() == 0 {
            tokio::time::sleep(REPLACE_PAUSE).await;
            connections.close_idle();
        }
        let slot = tokio::time::timeout(CLOSING, slots.clone().acquire_owned());
        if let Ok(slot) = slot.await {
            return Ok((stream, remote, slot.expect("the semaphore is never closed")));
        }
    }
}

/// Whether the client disconnected before the connection was accepted.
fn is_client_error(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

struct HttpServer {
    endpoint: BoxEndpoint<'static>,
    bounds: Bounds,
    shutdown: Shutdown,
    aborted: Shutdown,
}

impl HttpServer {
    async fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        remote: SocketAddr,
        slot: OwnedSemaphorePermit,
        open: Connection,
    ) {
        metrics::gauge!(CONNECTIONS).increment(1.0);
        tokio::select! {
            () = self.clone().connection(stream, remote, open) => {}
            () = self.aborted.requested() => {}
        }
        metrics::gauge!(CONNECTIONS).decrement(1.0);
        drop(slot);
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, remote: SocketAddr, open: Connection) {
        let Ok(local) = stream.local_addr() else { return };
        if let Err(error) = prepare(&stream, self.bounds.stall_timeout) {
            tracing::debug!(%error, %remote, "a connection was closed before it was served");
            return;
        }
        let stream = Arc::new(stream);
        let has_read = Arc::new(AtomicBool::new(false));
        let service = hyper::service::service_fn({
            let (server, open) = (self.clone(), &open);
            let (stream, has_read) = (stream.clone(), has_read.clone());
            move |request: hyper::Request<Incoming>| {
                let _in_progress = open.request();
                has_read.store(false, Ordering::Relaxed);
                let (server, stream) = (server.clone(), stream.clone());
                async move {
                    let sent = |response: poem::Response| {
                        hyper::Response::from(response).map(|body| ResponseBody { body, _in_progress })
                    };
                    if let Some(problem) = refusal::of_host(&request) {
                        return Ok(sent(problem.into_response()));
                    }
                    let from = (LocalAddr(local.into()), RemoteAddr(remote.into()));
                    let is_http1 = request.version() <= Version::HTTP_11;
                    let mut request = Request::from((request, from.0, from.1, Scheme::HTTP));
                    request.set_data(if is_http1 { ClientSide::new(stream) } else { ClientSide::default() });
                    let mut response = server.endpoint.get_response(request).await;
                    if is_http1 && server.shutdown.is_requested() && !response.status().is_informational() {
                        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                    }
                    Ok::<_, Infallible>(sent(response))
                }
            }
        });
        let builder = self.builder();
        let connection = builder.serve_connection_with_upgrades(
            TokioIo::new(Socket::new(stream.clone(), has_read.clone())),
            service,
        );
        tokio::pin!(connection);
        // hyper's own timer starts when it has detected the HTTP version, which needs bytes that may never arrive.
        let first_request = tokio::time::sleep(self.bounds.header_timeout);
        tokio::pin!(first_request);
        let (mut awaits_first, mut is_open) = (true, true);
        let ending = self.ending();
        tokio::pin!(ending);
        loop {
            tokio::select! {
                result = connection.as_mut() => {
                    if let Err(error) = result {
                        tracing::debug!(%error, %remote, "a connection ended early");
                        if refusal::is_timeout(&*error) {
                            refuse_slow(&stream, &has_read).await;
                        } else if refusal::is_refusal(&*error) {
                            socket::close(&stream).await;
                        }
                    }
                    return;
                }
                () = &mut first_request, if awaits_first => {
                    awaits_first = false;
                    if !open.has_had_request() {
                        return refuse_slow(&stream, &has_read).await;
                    }
                }
                () = open.closing() => {
                    if open.is_idle() {
                        return;
                    }
                }
                () = &mut ending, if is_open => {
                    is_open = false;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }

    async fn ending(&self) {
        self.shutdown.requested().await;
        tokio::time::sleep(LINGER).await;
    }

    fn builder(&self) -> auto::Builder<TokioExecutor> {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.bounds.header_timeout)
            // A client that has sent its request may close its side, and still read the response.
            .half_close(true)
            .max_buf_size(self.bounds.header_bytes)
            .http2()
            .timer(TokioTimer::new())
            .max_header_list_size(u32::try_from(self.bounds.header_bytes).unwrap_or(u32::MAX))
            .max_concurrent_streams(HTTP2_STREAMS_MAX)
            .keep_alive_interval(HTTP2_PING_EVERY)
            .keep_alive_timeout(self.bounds.stall_timeout);
        builder
    }
}

/// Closes a connection whose request did not arrive in time. A part of a request is answered.
async fn refuse_slow(stream: &TcpStream, has_read: &AtomicBool) {
    if has_read.load(Ordering::Relaxed) {
        let _ = stream.try_write(&refusal::too_slow());
        socket::close(stream).await;
    }
}

/// Sends small writes immediately, for streams; the system closes the connection of a client that does not read.
fn prepare(stream: &TcpStream, stall_timeout: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    {
        let timeout = u32::try_from(stall_timeout.as_millis()).unwrap_or(u32::MAX);
        rustix::net::sockopt::set_tcp_user_timeout(stream, timeout)?;
    }
    #[cfg(not(target_os = "linux"))]
    let _ = stall_timeout;
    Ok(())
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
