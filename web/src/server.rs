//! The accept loop: what bounds a connection before any route is asked.
//!
//! poem's own server has no limit that a slow or hostile client meets: it sets no timer, so a connection that sends half a
//! header stays for ever. This one drives hyper itself.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use poem::http::Version;
use poem::http::header::{CONNECTION, HeaderValue};
use poem::http::uri::Scheme;
use poem::web::{LocalAddr, RemoteAddr};
use poem::{Endpoint, Request};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::shutdown::{self, Shutdown};

/// Gauge: open connections.
pub const CONNECTIONS: &str = "http_server_connections";

/// What a connection may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// From the beginning of a connection, or of a request on it, to the end of the request's head.
    pub header_timeout: Duration,
    /// Of a request's head.
    pub header_bytes: usize,
    /// More wait in the system's queue.
    pub connections_max: u32,
    /// How long a client may leave what was sent to it unread.
    pub stall_timeout: Duration,
    /// From the beginning of the end until what is still open is cut.
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

/// Requests that one HTTP/2 connection may have under way.
const HTTP2_STREAMS_MAX: u32 = 128;

/// An HTTP/2 connection is asked for a sign of life after so much silence.
const HTTP2_PING_EVERY: Duration = Duration::from_secs(20);

/// The pause after an accept that failed for want of something, as file descriptors: first and longest.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// About how many connections wait in the system's queue.
const BACKLOG: usize = 1_024;

/// From the beginning of the end until idle connections are closed. Who sends one request after another is told on the
/// next answer that it is the last one; closed at once, a connection might just be bringing a request, whose sender
/// would not know what became of it.
const LINGER: Duration = Duration::from_millis(500);

/// Serves `endpoint` until `shutdown`, then lets requests under way end, for at most [`Bounds::drain`].
pub async fn run<E: Endpoint + 'static>(
    listener: TcpListener,
    endpoint: E,
    bounds: Bounds,
    shutdown: Shutdown,
) {
    let places = Arc::new(Semaphore::new(bounds.connections_max as usize));
    let (cut, is_cut) = shutdown::channel();
    let server = Arc::new(Server { endpoint, bounds, shutdown: shutdown.clone(), is_cut });
    let mut pause = PAUSE_MIN;
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &places) => accepted,
            () = shutdown.begun() => break,
        };
        match accepted {
            Ok((stream, remote, place)) => {
                pause = PAUSE_MIN;
                tokio::spawn(server.clone().serve(stream, remote, place));
            }
            Err(error) if is_of_the_client(&error) => {}
            Err(error) => {
                tracing::warn!(%error, pause_ms = pause.as_millis(), "cannot accept connections; trying again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
    // Those who have knocked are let in: turned away, they would not know what became of what they sent.
    for _ in 0..BACKLOG {
        let knocked = tokio::time::timeout(Duration::ZERO, accept(&listener, &places)).await;
        let Ok(Ok((stream, remote, place))) = knocked else { break };
        tokio::spawn(server.clone().serve(stream, remote, place));
    }
    drop(listener);
    let all_closed = places.acquire_many(bounds.connections_max);
    if tokio::time::timeout(bounds.drain, all_closed).await.is_err() {
        let open = bounds.connections_max as usize - places.available_permits();
        tracing::warn!(open, "cutting connections that are still open at the end");
        cut.begin();
    }
}

/// A place first, so that beyond the limit clients wait outside.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
    let (stream, remote) = listener.accept().await?;
    Ok((stream, remote, place))
}

/// The client went away between knocking and being let in.
fn is_of_the_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

struct Server<E> {
    endpoint: E,
    bounds: Bounds,
    shutdown: Shutdown,
    is_cut: Shutdown,
}

impl<E: Endpoint + 'static> Server<E> {
    async fn serve(self: Arc<Self>, stream: TcpStream, remote: SocketAddr, place: OwnedSemaphorePermit) {
        metrics::gauge!(CONNECTIONS).increment(1.0);
        tokio::select! {
            () = self.clone().connection(stream, remote) => {}
            () = self.is_cut.begun() => {}
        }
        metrics::gauge!(CONNECTIONS).decrement(1.0);
        drop(place);
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, remote: SocketAddr) {
        let Ok(local) = stream.local_addr() else { return };
        if let Err(error) = prepare(&stream, self.bounds.stall_timeout) {
            tracing::debug!(%error, %remote, "a connection is gone already");
            return;
        }
        let asked = Arc::new(AtomicBool::new(false));
        let service = hyper::service::service_fn({
            let (server, asked) = (self.clone(), asked.clone());
            move |request: hyper::Request<Incoming>| {
                asked.store(true, Ordering::Relaxed);
                let server = server.clone();
                async move {
                    let from = (LocalAddr(local.into()), RemoteAddr(remote.into()));
                    let one_at_a_time = request.version() <= Version::HTTP_11;
                    let request = Request::from((request, from.0, from.1, Scheme::HTTP));
                    let mut response = server.endpoint.get_response(request).await;
                    if one_at_a_time && server.shutdown.has_begun() && !response.status().is_informational() {
                        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                    }
                    Ok::<hyper::Response<_>, Infallible>(response.into())
                }
            }
        });
        let builder = self.builder();
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        tokio::pin!(connection);
        // hyper's own timer begins when it has made out the version of HTTP, which takes bytes that may never come.
        let first_request = tokio::time::sleep(self.bounds.header_timeout);
        tokio::pin!(first_request);
        let (mut waits_for_first, mut goes_on) = (true, true);
        let ending = self.ending();
        tokio::pin!(ending);
        loop {
            tokio::select! {
                result = connection.as_mut() => {
                    if let Err(error) = result {
                        tracing::debug!(%error, %remote, "a connection ended early");
                    }
                    return;
                }
                () = &mut first_request, if waits_for_first => {
                    waits_for_first = false;
                    if !asked.load(Ordering::Relaxed) {
                        return;
                    }
                }
                () = &mut ending, if goes_on => {
                    goes_on = false;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }

    async fn ending(&self) {
        self.shutdown.begun().await;
        tokio::time::sleep(LINGER).await;
    }

    fn builder(&self) -> auto::Builder<TokioExecutor> {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.bounds.header_timeout)
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

/// Small writes go out at once, for streams; a client that does not read is given up by the system.
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
