//! The socket of a connection, which hyper reads and writes, while the requests on it ask whether their client has closed
//! its side.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use poem::{FromRequest, Request, RequestBody};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::refusal;

/// The interval of checks while a client has sent more than its request.
const RECHECK: Duration = Duration::from_secs(1);

/// The most bytes that are read and discarded of a client that was refused, and the longest time for it: if the connection
/// were closed while it sends, it might not receive the response.
const DISCARDED_MAX: usize = 1 << 20;
const DISCARD_TIME_MAX: Duration = Duration::from_secs(1);

/// hyper's half of a connection. The responses of hyper to what is not HTTP become problems.
pub(super) struct Socket {
    stream: Arc<TcpStream>,
    /// What is still to be written in place of a response of hyper.
    refusal: Option<Bytes>,
    /// Whether something was read since the last response.
    has_read: Arc<AtomicBool>,
}

impl Socket {
    pub(super) fn new(stream: Arc<TcpStream>, has_read: Arc<AtomicBool>) -> Self {
        Self { stream, refusal: None, has_read }
    }

    fn poll_write_raw(&self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(context))?;
            match self.stream.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    /// Writes the problem of a response that hyper made, and counts it as that response.
    fn poll_refuse(&mut self, context: &mut Context<'_>, replaced: usize) -> Poll<io::Result<usize>> {
        while let Some(rest) = self.refusal.take_if(|rest| !rest.is_empty()) {
            match self.poll_write_raw(context, &rest) {
                Poll::Ready(Ok(written)) => self.refusal = Some(rest.slice(written..)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.refusal = Some(rest);
                    return Poll::Pending;
                }
            }
        }
        self.refusal = None;
        Poll::Ready(Ok(replaced))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(context))?;
            match self.stream.try_read(buffer.initialize_unfilled()) {
                Ok(read) => {
                    if read > 0 {
                        self.has_read.store(true, Ordering::Relaxed);
                    }
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.has_read.store(false, Ordering::Relaxed);
        if self.refusal.is_none() {
            self.refusal = refusal::in_place_of(bytes);
        }
        if self.refusal.is_some() {
            self.poll_refuse(context, bytes.len())
        } else {
            self.poll_write_raw(context, bytes)
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first: &[u8] = parts.first().map_or(&[], |part| part);
        if self.refusal.is_none() {
            self.refusal = refusal::in_place_of(first);
        }
        if self.refusal.is_some() {
            return self.poll_refuse(context, first.len());
        }
        self.has_read.store(false, Ordering::Relaxed);
        loop {
            ready!(self.stream.poll_write_ready(context))?;
            match self.stream.try_write_vectored(parts) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(close_sending(&self.stream))
    }
}

fn close_sending(stream: &TcpStream) -> io::Result<()> {
    Ok(rustix::net::shutdown(stream, rustix::net::Shutdown::Write)?)
}

/// Closes a connection whose client was refused, once it has had the time to read the response.
pub(super) async fn close(stream: &TcpStream) {
    if close_sending(stream).is_err() {
        return;
    }
    let discard = async {
        let (mut buffer, mut left) = ([0; 4096], DISCARDED_MAX);
        while left > 0 && stream.readable().await.is_ok() {
            match stream.try_read(&mut buffer) {
                Ok(0) => return,
                Ok(read) => left = left.saturating_sub(read),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    };
    let _ = tokio::time::timeout(DISCARD_TIME_MAX, discard).await;
}

/// The client's side of the connection of a request. A client that has closed it may still read, as `nc -N` does, or may be
/// gone; only an attempt to write shows which. So a request that it has sent is answered, but nothing waits for it.
#[derive(Clone, Debug, Default)]
pub struct ClientSide(Option<Arc<TcpStream>>);

impl ClientSide {
    pub(super) fn new(stream: Arc<TcpStream>) -> Self {
        Self(Some(stream))
    }

    /// Completes when the client has closed its side; never over HTTP/2, which has streams for that.
    pub async fn closed(&self) {
        let Some(stream) = &self.0 else { return std::future::pending().await };
        let mut byte = [0];
        // More than the request is read with the next one.
        while matches!(stream.peek(&mut byte).await, Ok(1..)) {
            tokio::time::sleep(RECHECK).await;
        }
    }
}

impl<'a> FromRequest<'a> for ClientSide {
    async fn from_request(request: &'a Request, _: &mut RequestBody) -> poem::Result<Self> {
        Ok(request.data::<Self>().cloned().unwrap_or_default())
    }
}
