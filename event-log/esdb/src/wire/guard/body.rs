//! The body of a call: each message has a limit, a deadline, and memory that is reserved before it is received.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hyper::body::{Body as HttpBody, Frame};
use tokio::time::{Instant, Sleep};
use tonic::Status;
use tonic::body::Body;

use super::budget::{MessageBudget, Reservation};
use crate::wire::connection::Call;
use crate::wire::refusal::Refusal;
use event_log_embedded::CLIENT_APPEND_BYTES_MAX;

/// The largest message of a call with a single one: such messages name streams and options.
pub(super) const SMALL_BYTES_MAX: usize = 64 << 10;
/// The largest message of an append. Its data has a limit of its own.
const APPEND_BYTES_MAX: usize = CLIENT_APPEND_BYTES_MAX + SMALL_BYTES_MAX;
/// The largest acknowledgement of a consumer, which lists events.
const ACKNOWLEDGEMENT_BYTES_MAX: usize = 1 << 20;
/// The largest message of a batch, which is the limit of clients.
pub(in crate::wire) const MESSAGE_BYTES_MAX: usize = 17 << 20;

/// A message starts with a flag and its length.
const PREFIX_BYTES: usize = 5;

/// The rules for the messages of a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    /// One small message.
    Unary,
    /// Messages that together are one append.
    Append,
    /// Messages for as long as the client wants, up to this size.
    Open { bytes_max: usize },
}

impl Method {
    fn of(path: &str) -> Self {
        match path {
            "/event_store.client.streams.Streams/Append" => Self::Append,
            "/event_store.client.streams.Streams/BatchAppend" => Self::Open { bytes_max: MESSAGE_BYTES_MAX },
            "/event_store.client.persistent_subscriptions.PersistentSubscriptions/Read" => {
                Self::Open { bytes_max: ACKNOWLEDGEMENT_BYTES_MAX }
            }
            _ => Self::Unary,
        }
    }

    fn check(self, bytes: usize) -> Result<(), Status> {
        match self {
            Self::Append if bytes > APPEND_BYTES_MAX => Err(Refusal::TooLarge.into()),
            Self::Unary if bytes > SMALL_BYTES_MAX => Err(too_large(bytes, SMALL_BYTES_MAX)),
            Self::Open { bytes_max } if bytes > bytes_max => Err(too_large(bytes, bytes_max)),
            Self::Append | Self::Unary | Self::Open { .. } => Ok(()),
        }
    }
}

fn too_large(bytes: usize, bytes_max: usize) -> Status {
    Status::out_of_range(format!("a message of {bytes} bytes exceeds the limit of {bytes_max} bytes"))
}

enum State {
    Prefix,
    Reserving(BoxFuture<'static, Option<Reservation>>),
    Message { left: usize },
}

/// A body that follows these rules.
pub(super) struct GuardedBody {
    body: Body,
    method: Method,
    budget: MessageBudget,
    /// The longest time that a message may take, and that a call waits for a message that must follow.
    timeout: Duration,
    state: State,
    prefix: [u8; PREFIX_BYTES],
    prefix_bytes: usize,
    /// Received, and not passed on yet.
    received: Bytes,
    /// The announced bytes of the messages of an append.
    announced: usize,
    reserved: Vec<Reservation>,
    deadline: Pin<Box<Sleep>>,
    pub(super) has_deadline: bool,
}

impl GuardedBody {
    pub(super) fn new(body: Body, path: &str, budget: MessageBudget, timeout: Duration) -> Self {
        let method = Method::of(path);
        Self {
            body,
            method,
            budget,
            timeout,
            state: State::Prefix,
            prefix: [0; PREFIX_BYTES],
            prefix_bytes: 0,
            received: Bytes::new(),
            announced: 0,
            reserved: Vec::new(),
            deadline: Box::pin(tokio::time::sleep(timeout)),
            has_deadline: !matches!(method, Method::Open { .. }),
        }
    }

    fn start_deadline(&mut self) {
        self.deadline.as_mut().reset(Instant::now() + self.timeout);
        self.has_deadline = true;
    }

    fn poll_deadline(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.has_deadline && self.deadline.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(Status::deadline_exceeded(
                "the message was not received in time; retry, on several connections if messages are large",
            ))));
        }
        Poll::Pending
    }

    /// Checks a complete prefix, and reserves memory for its message.
    fn start_message(&mut self) -> Result<(), Status> {
        let [_, length @ ..] = self.prefix;
        let bytes = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        self.method.check(bytes)?;
        self.start_deadline();
        let needed = match self.method {
            Method::Unary | Method::Open { .. } => bytes,
            // An append keeps its messages, so it takes at most one share of each kind.
            Method::Append => {
                let before = self.announced;
                self.announced = before.saturating_add(bytes);
                match (self.reserved.len(), before <= SMALL_BYTES_MAX && self.announced > SMALL_BYTES_MAX) {
                    (_, true) => APPEND_BYTES_MAX,
                    (0, false) => SMALL_BYTES_MAX,
                    (_, false) => 0,
                }
            }
        };
        self.state = State::Reserving(self.budget.clone().reserve(needed).boxed());
        Ok(())
    }

    /// Ends a message that was passed on completely.
    fn end_message(&mut self) {
        (self.state, self.prefix_bytes) = (State::Prefix, 0);
        match self.method {
            Method::Unary | Method::Append => self.start_deadline(),
            Method::Open { .. } => {
                self.reserved.clear();
                self.has_deadline = false;
            }
        }
    }

    fn take_prefix(&mut self) {
        let part = self.received.split_to(self.received.len().min(PREFIX_BYTES - self.prefix_bytes));
        self.prefix[self.prefix_bytes..self.prefix_bytes + part.len()].copy_from_slice(&part);
        self.prefix_bytes += part.len();
    }
}

impl HttpBody for GuardedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let body = self.get_mut();
        loop {
            match &mut body.state {
                State::Reserving(reserving) => {
                    let Poll::Ready(reserved) = reserving.as_mut().poll(context) else {
                        return body.poll_deadline(context);
                    };
                    body.reserved.extend(reserved);
                    let [_, length @ ..] = body.prefix;
                    let left = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
                    body.state = State::Message { left };
                    if left == 0 {
                        body.end_message();
                    }
                    return Poll::Ready(Some(Ok(Frame::data(Bytes::copy_from_slice(&body.prefix)))));
                }
                State::Message { left } if !body.received.is_empty() => {
                    let part = body.received.split_to(body.received.len().min(*left));
                    *left -= part.len();
                    if *left == 0 {
                        body.end_message();
                    }
                    return Poll::Ready(Some(Ok(Frame::data(part))));
                }
                State::Prefix if !body.received.is_empty() => {
                    body.take_prefix();
                    if body.prefix_bytes == PREFIX_BYTES
                        && let Err(status) = body.start_message()
                    {
                        return Poll::Ready(Some(Err(status)));
                    }
                }
                State::Prefix | State::Message { .. } => match Pin::new(&mut body.body).poll_frame(context) {
                    Poll::Pending => return body.poll_deadline(context),
                    Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                        Ok(data) => body.received = data,
                        Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                    },
                    Poll::Ready(end) => return Poll::Ready(end),
                },
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.received.is_empty() && matches!(self.state, State::Prefix) && self.body.is_end_stream()
    }
}

/// The body of a response, whose call counts as in progress until it ends.
pub(super) struct CountedBody {
    body: Body,
    _call: Call,
}

impl CountedBody {
    pub(super) fn new(body: Body, call: Call) -> Self {
        Self { body, _call: call }
    }
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}
