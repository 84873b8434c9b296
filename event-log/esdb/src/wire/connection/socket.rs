//! A TCP connection without delayed acknowledgements.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;

use super::Peer;

/// The TCP side of a connection.
#[derive(Debug)]
pub(in crate::wire) struct Socket {
    stream: TcpStream,
    peer: Peer,
    _permit: OwnedSemaphorePermit,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, peer: Peer, permit: OwnedSemaphorePermit) -> Self {
        Self { stream, peer, _permit: permit }
    }

    pub(super) fn peer(&self) -> Peer {
        self.peer.clone()
    }

    /// Makes the system acknowledge immediately. Clients that write headers and body separately, with Nagle's algorithm on,
    /// wait for the acknowledgement between the two: 40 ms per call without this. It must be set again after every read.
    #[cfg(target_os = "linux")]
    fn acknowledge_immediately(&self) {
        // If it fails, calls are only slower.
        let _ = rustix::net::sockopt::set_tcp_quickack(&self.stream, true);
    }

    #[cfg(not(target_os = "linux"))]
    fn acknowledge_immediately(&self) {}
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Poll::Ready(Ok(())) = read {
            self.acknowledge_immediately();
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
