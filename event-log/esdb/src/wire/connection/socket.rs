//! A TCP connection without delayed acknowledgements, which ends when its place is needed or its first call is late.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::Peer;
use super::state::Place;

/// The TCP side of a connection.
#[derive(Debug)]
pub(in crate::wire) struct Socket {
    stream: TcpStream,
    peer: Peer,
    /// The deadline of the first call; none afterwards.
    deadline: Option<Pin<Box<Sleep>>>,
    place: Place,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, peer: Peer, place: Place) -> Self {
        let deadline = Some(Box::pin(tokio::time::sleep(peer.call_timeout)));
        Self { stream, peer, deadline, place }
    }

    /// An error if the connection must end.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let state = &self.place.state;
        state.waker.register(context.waker());
        if state.is_closing() {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "another client needs the place"));
        }
        if state.is_admitted() {
            self.deadline = None;
        }
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(context).is_ready()
        {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "there was no call with valid credentials"));
        }
        Ok(())
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
        self.check(context)?;
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
