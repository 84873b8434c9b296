//! The guard in front of every method: the caller is checked before the body of a call is read, and bodies have limits.

use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::metadata::MetadataMap;
use tonic::server::NamedService;

use super::connection::Peer;
use super::node::Node;

mod body;
mod budget;

pub(super) use body::MESSAGE_BYTES_MAX;
use body::{CountedBody, GuardedBody};
pub(super) use budget::{MessageBudget, Reservation, TotalBudget};

/// The services that need no authentication, because clients call them before they authenticate.
const OPEN_SERVICES: [&str; 2] =
    ["/event_store.client.gossip.Gossip/", "/event_store.client.server_features.ServerFeatures/"];

/// A service behind the guard.
#[derive(Clone, Debug)]
pub(super) struct Guarded<S> {
    service: S,
    node: Arc<Node>,
}

impl<S> Guarded<S> {
    pub(super) fn new(service: S, node: &Arc<Node>) -> Self {
        Self { service, node: Arc::clone(node) }
    }

    /// Checks the caller, and returns the connection of the call.
    fn admit(&self, request: &http::Request<Body>) -> Result<Peer, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let peer = peer.ok_or_else(|| Status::internal("the call has no connection"))?;
        let path = request.uri().path();
        let is_open = OPEN_SERVICES.iter().any(|service| path.starts_with(service));
        match self.node.admit(&MetadataMap::from_headers(request.headers().clone())) {
            Ok(_) => peer.connection.admit(),
            Err(_) if is_open => {}
            Err(status) => return Err(status),
        }
        Ok(peer)
    }
}

impl<S: NamedService> NamedService for Guarded<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Guarded<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        match self.admit(&request) {
            Err(status) => ready(Ok(status.into_http())).boxed(),
            Ok(peer) => {
                let (parts, body) = request.into_parts();
                let call = peer.connection.call();
                let body =
                    Body::new(GuardedBody::new(body, parts.uri.path(), peer.budget, peer.call_timeout));
                let response = self.service.call(http::Request::from_parts(parts, body));
                async move {
                    let (parts, body) = response.await?.into_parts();
                    Ok(http::Response::from_parts(parts, Body::new(CountedBody::new(body, call))))
                }
                .boxed()
            }
        }
    }
}

#[cfg(test)]
mod tests;
