//! Connections: accepted up to a number, answered without delay, and told apart for their limits.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::stream::{self, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::transport::server::Connected;

/// How long to wait when the system cannot accept: it will not be better at once.
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// A connection.
#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    peer: Peer,
    _place: OwnedSemaphorePermit,
}

/// What all calls of one connection share.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// How many more subscriptions it may have.
    pub(super) subscriptions: Arc<Semaphore>,
}

/// The places for connections.
#[derive(Clone, Debug)]
pub struct Connections {
    places: Arc<Semaphore>,
    max: usize,
}

impl Connections {
    pub(super) fn new(max: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(max)), max }
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        // One place is held for the connection that is waited for.
        self.max.saturating_sub(self.places.available_permits() + 1)
    }
}

/// The connections that come in, as many at a time as there are places. Never ends.
pub(super) fn accept(
    listener: TcpListener,
    connections: Connections,
    subscriptions_max: usize,
) -> impl Stream<Item = io::Result<Socket>> {
    stream::unfold((listener, connections), move |(listener, connections)| async move {
        let place = Arc::clone(&connections.places).acquire_owned().await.ok()?;
        let accepted = match listener.accept().await {
            Ok((stream, _)) => stream.set_nodelay(true).map(|()| Socket {
                stream,
                peer: Peer { subscriptions: Arc::new(Semaphore::new(subscriptions_max)) },
                _place: place,
            }),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection of the EventStoreDB protocol");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                Err(error)
            }
        };
        Some((accepted, (listener, connections)))
    })
}

impl Connected for Socket {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl Socket {
    /// Has the system acknowledge at once. Clients that write headers and body apart, and do not switch Nagle's algorithm
    /// off, wait for that between the two: 40 ms a call without it. It must be asked for again after every read.
    #[cfg(target_os = "linux")]
    fn acknowledge_at_once(&self) {
        // Without it, calls are slower and still right.
        let _ = rustix::net::sockopt::set_tcp_quickack(&self.stream, true);
    }

    #[cfg(not(target_os = "linux"))]
    fn acknowledge_at_once(&self) {}
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Poll::Ready(Ok(())) = read {
            self.acknowledge_at_once();
        }
        read
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
