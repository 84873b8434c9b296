//! Connections: accepted up to a limit, without delayed acknowledgements, with per-connection limits.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{self, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

mod socket;
pub(in crate::wire) mod state;

use super::guard::{MessageBudget, TotalBudget};
use socket::Socket;
pub use state::Connections;
pub(super) use state::{Call, ConnectionState};

/// The pause after a failed `accept`, which is unlikely to succeed immediately.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

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
    /// The memory for messages.
    pub(super) budget: MessageBudget,
    pub(super) connection: Arc<ConnectionState>,
    pub(super) call_timeout: Duration,
}

/// The limits of connections, from the settings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) connections_max: usize,
    pub(super) subscriptions_max: usize,
    pub(super) call_timeout: Duration,
}

/// Accepts connections, as many at a time as there are places. The stream never ends.
pub(super) fn accept(
    listener: TcpListener,
    connections: Connections,
    limits: Limits,
    tls: Option<TlsAcceptor>,
) -> impl Stream<Item = io::Result<Connection>> {
    let Limits { connections_max: handshakes_max, subscriptions_max, call_timeout } = limits;
    let total = TotalBudget::default();
    let sockets = stream::unfold(
        (listener, connections, total),
        move |(listener, connections, total)| async move {
            let accepted = loop {
                match listener.accept().await {
                    Ok((stream, address)) => match connections.place(address.ip().to_canonical()).await {
                        Some(place) => {
                            break stream.set_nodelay(true).map(|()| {
                                let peer = Peer {
                                    subscriptions: Arc::new(Semaphore::new(subscriptions_max)),
                                    budget: MessageBudget::new(&total),
                                    connection: Arc::clone(&place.state),
                                    call_timeout,
                                };
                                Socket::new(stream, peer, place)
                            });
                        }
                        None => {
                            tracing::warn!(%address, "all connections of the EventStoreDB protocol are in use; another one was refused");
                        }
                    },
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection of the EventStoreDB protocol; with too many open files, raise the limit with ulimit -n or LimitNOFILE");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        break Err(error);
                    }
                }
            };
            Some((accepted, (listener, connections, total)))
        },
    );
    // A slow handshake does not delay other connections.
    sockets.map(move |socket| secure(socket, tls.clone())).buffer_unordered(handshakes_max)
}

/// The handshake ends with the deadline of the socket.
async fn secure(socket: io::Result<Socket>, tls: Option<TlsAcceptor>) -> io::Result<Connection> {
    let socket = socket?;
    match tls {
        None => Ok(Connection::Plain(socket)),
        Some(tls) => Ok(Connection::Secure(Box::new(tls.accept(socket).await?))),
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
