//! Connections: accepted up to a limit, without delayed acknowledgements, with per-connection limits.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::stream::{self, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

mod socket;

use socket::Socket;

/// The timeout of the TLS handshake.
const HANDSHAKE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// The pause after a failed `accept`, which is unlikely to succeed immediately.
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// A connection, with TLS or without.
#[derive(Debug)]
pub(super) enum Connection {
    Plain(Socket),
    Secure(Box<TlsStream<Socket>>),
}

/// The state that all calls of one connection share.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// The permits for further subscriptions.
    pub(super) subscriptions: Arc<Semaphore>,
}

/// The permits for connections.
#[derive(Clone, Debug)]
pub struct Connections {
    permits: Arc<Semaphore>,
    max: usize,
}

impl Connections {
    pub(super) fn new(max: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(max)), max }
    }

    /// The number of open connections.
    pub fn open(&self) -> usize {
        // One permit is held for the connection that is accepted next.
        self.max.saturating_sub(self.permits.available_permits() + 1)
    }
}

/// Accepts connections, as many at a time as there are permits. The stream never ends.
pub(super) fn accept(
    listener: TcpListener,
    connections: Connections,
    subscriptions_max: usize,
    tls: Option<TlsAcceptor>,
) -> impl Stream<Item = io::Result<Connection>> {
    let handshakes_max = connections.max;
    let sockets = stream::unfold((listener, connections), move |(listener, connections)| async move {
        let permit = Arc::clone(&connections.permits).acquire_owned().await.ok()?;
        let accepted = match listener.accept().await {
            Ok((stream, _)) => stream.set_nodelay(true).map(|()| {
                let peer = Peer { subscriptions: Arc::new(Semaphore::new(subscriptions_max)) };
                Socket::new(stream, peer, permit)
            }),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection of the EventStoreDB protocol");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                Err(error)
            }
        };
        Some((accepted, (listener, connections)))
    });
    // A slow handshake does not delay other connections.
    sockets.map(move |socket| secure(socket, tls.clone())).buffer_unordered(handshakes_max)
}

async fn secure(socket: io::Result<Socket>, tls: Option<TlsAcceptor>) -> io::Result<Connection> {
    let socket = socket?;
    match tls {
        None => Ok(Connection::Plain(socket)),
        Some(tls) => {
            let secured = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(socket)).await??;
            Ok(Connection::Secure(Box::new(secured)))
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        match self {
            Self::Plain(socket) => socket.peer(),
            Self::Secure(stream) => stream.get_ref().0.peer(),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(context, buffer),
            Self::Secure(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(context, bytes),
            Self::Secure(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write_vectored(context, parts),
            Self::Secure(stream) => Pin::new(stream).poll_write_vectored(context, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.is_write_vectored(),
            Self::Secure(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(context),
            Self::Secure(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(context),
            Self::Secure(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
