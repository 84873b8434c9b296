//! The permission to keep one stream open: its place among the caller's streams, and its end.
//!
//! The layers of [`serve`](crate::serve) issue it. A stream of server-sent events gets it from them; a WebSocket takes it
//! with [`StreamPermit::take`].

use std::sync::{Arc, Mutex, PoisonError};

use poem::Request;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::shutdown::Shutdown;

/// Why a stream ends although its object has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    /// The `exp` of the token that opened it has passed.
    TokenExpired,
    /// The API key that opened it was revoked.
    KeyRevoked,
    /// Its ticket opened the stream again.
    Replaced,
}

impl StreamEnd {
    /// The name of the last event.
    pub fn event(self) -> &'static str {
        match self {
            Self::TokenExpired => "token_expired",
            Self::KeyRevoked => "key_revoked",
            Self::Replaced => "replaced",
        }
    }
}

/// The permission of one open stream. The place is free again when it is dropped.
#[derive(Debug)]
pub struct StreamPermit {
    _place: OwnedSemaphorePermit,
    /// The `exp` of the token.
    expires_at: Option<Instant>,
    revoked: Shutdown,
    replaced: Shutdown,
}

impl StreamPermit {
    pub(crate) fn new(
        place: OwnedSemaphorePermit,
        expires_at: Option<Instant>,
        revoked: Shutdown,
        replaced: Shutdown,
    ) -> Self {
        Self { _place: place, expires_at, revoked, replaced }
    }

    /// The permit of the request, for a handler that keeps the connection after its response, such as a WebSocket.
    pub fn take(request: &Request) -> Option<Self> {
        request.data::<PermitSlot>().and_then(PermitSlot::take)
    }

    /// Whether the stream must end now, and why.
    pub(crate) fn end(&self) -> Option<StreamEnd> {
        if self.replaced.is_requested() {
            return Some(StreamEnd::Replaced);
        }
        if self.revoked.is_requested() {
            return Some(StreamEnd::KeyRevoked);
        }
        self.expires_at.filter(|at| *at <= Instant::now()).map(|_| StreamEnd::TokenExpired)
    }

    /// Waits until the stream must end. Cancel-safe.
    pub(crate) async fn ended(&self) -> StreamEnd {
        let expired = async {
            match self.expires_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.replaced.requested() => StreamEnd::Replaced,
            () = self.revoked.requested() => StreamEnd::KeyRevoked,
            () = expired => StreamEnd::TokenExpired,
        }
    }
}

/// A permit on its way to the stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct PermitSlot(Arc<Mutex<Option<StreamPermit>>>);

impl PermitSlot {
    pub(crate) fn put(&self, permit: StreamPermit) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(permit);
    }

    pub(crate) fn take(&self) -> Option<StreamPermit> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
