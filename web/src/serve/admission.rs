//! Who sends a request, and what the caller may use for it: its quotas, a turn for a costly read, a place for a stream.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use poem::http::{Method, StatusCode, header};
use poem::{Body, Request, Response};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::{Layers, origin};
use crate::caller::limits::{Callers, CostlyReads, Quotas, Turn};
use crate::caller::{Authentication, Caller, CallerId, Identity, Share, TicketHash, bad_credentials};
use crate::json;
use crate::problem::Problem;
use crate::routes::{Route, RouteLimits};
use crate::shutdown::{self, Shutdown, Trigger};
use crate::sse::OpenStream;
use crate::stream_permit::{PermitSlot, StreamPermit};

/// Reads of the whole log, which no other parameter marks as costly.
const AUDIT: &str = "/audit/";

/// Routes that a monitor must reach however busy its caller is.
const UNLIMITED: [&str; 3] = ["/live", "/ready", "/health"];

/// A request whose caller is within its limits.
pub(super) struct Admission {
    /// None for a caller without valid credentials, which only public routes answer.
    identity: Option<Identity>,
    /// Whether the read is computed from the log.
    pub(super) is_costly: bool,
    /// Whether it is a read that takes a turn but is not costly.
    is_brief: bool,
    /// The share of its caller in the threads that execute requests.
    pub(super) share: Share,
    stream: Option<AdmittedStream>,
    /// The place of a long poll, which holds a connection as a stream does.
    _long_poll: Option<OwnedSemaphorePermit>,
}

/// What a stream gets when its response is sent.
struct AdmittedStream {
    path: String,
    permit: PermitSlot,
    /// The ticket that opens it, and what ends the stream when the ticket opens it again.
    ticket: Option<(TicketHash, Trigger)>,
}

impl Admission {
    pub(super) fn has_caller(&self) -> bool {
        self.identity.is_some()
    }
}

impl Layers {
    /// Checks the origin, the caller and its limits, before the body is read.
    pub(super) fn admit(
        &self,
        request: &mut Request,
        route: Option<&Route>,
        quotas: &mut Quotas,
    ) -> Result<Admission, Problem> {
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        let is_stream = is_read && (route.is_some_and(|route| route.is_stream) || is_web_socket(request));
        let is_costly = is_read && is_costly(request, route);
        if !is_read || is_stream || is_costly {
            origin::check(request, &self.settings.cors)?;
        }
        let auth = &self.settings.auth;
        let identity = if is_stream {
            auth.stream_caller(request)
        } else {
            auth.caller(request).map(|caller| Identity { caller, ticket: None })
        };
        request.set_data(Authentication(identity.clone().map(|identity| identity.caller)));
        let Ok(identity) = identity else {
            return Ok(Admission {
                identity: None,
                is_costly: false,
                is_brief: false,
                share: Share::default(),
                stream: None,
                _long_poll: None,
            });
        };
        let is_unlimited = route.is_some_and(|route| UNLIMITED.contains(&&*route.template));
        // A read of a position may wait for it, and computes nothing meanwhile.
        let may_wait = request.headers().contains_key("x-min-position");
        let is_brief = is_read && !is_stream && !is_costly && !is_unlimited && !may_wait;
        if !is_unlimited {
            self.callers.count(&identity.caller.id(), is_costly, quotas)?;
        }
        let share = match is_unlimited {
            true => Share::default(),
            false => self.callers.share(&identity.caller.id()),
        };
        request.set_data(share.clone());
        // A request that is costly itself has its turn already.
        let budget = (Arc::clone(&self.callers), identity.caller.id(), self.settings.limits.deadline);
        request.set_data(CostlyReads((!is_costly).then_some(budget)));
        let mut stream = None;
        if is_stream && request.method() == Method::GET {
            let (ticket, replaced) = match identity.ticket {
                Some(ticket) => {
                    let (replace, replaced) = shutdown::channel();
                    (Some((ticket, replace)), replaced)
                }
                None => (None, Shutdown::never()),
            };
            let permit = PermitSlot::default();
            permit.put(self.stream_permit(&identity.caller, replaced)?);
            request.set_data(permit.clone());
            stream = Some(AdmittedStream { path: request.uri().path().to_owned(), permit, ticket });
        }
        let is_long_poll = route.is_some_and(|route| route.limits == RouteLimits::LongPoll);
        let long_poll = is_long_poll.then(|| self.callers.stream(&identity.caller.id())).transpose()?;
        Ok(Admission { identity: Some(identity), is_costly, is_brief, share, stream, _long_poll: long_poll })
    }

    /// Waits for the turn of a read.
    pub(super) async fn turn(&self, admission: &Admission) -> Result<Option<Turn>, Problem> {
        match &admission.identity {
            Some(identity) if admission.is_costly => {
                self.callers.turn(&identity.caller.id(), self.settings.limits.deadline).await.map(Some)
            }
            Some(identity) if admission.is_brief => {
                let (caller, is_alone) = (identity.caller.id(), admission.share.is_whole());
                self.callers.read_turn(&caller, is_alone, self.settings.limits.deadline).await.map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Gives a stream its permit, and uses the ticket that opened it.
    pub(super) fn start_stream(
        &self,
        admission: Admission,
        mut response: Response,
    ) -> Result<Response, Problem> {
        let Some(identity) = admission.identity else { return Ok(response) };
        let opened = response.extensions_mut().remove::<OpenStream>();
        if let Some(AdmittedStream { path, permit, ticket }) = admission.stream {
            if opened.is_none() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                return Ok(response);
            }
            if let Some((ticket, replace)) = ticket {
                self.settings.auth.use_ticket(ticket, &path, replace)?;
            }
            // A WebSocket has taken its permit already.
            if let (Some(stream), Some(permit)) = (opened, permit.take()) {
                stream.govern(permit);
            }
        } else if response.content_type().is_some_and(json::is_ndjson) {
            let permit = self.stream_permit(&identity.caller, Shutdown::never())?;
            let (body, callers) = (response.take_body(), self.callers.clone());
            let costly = admission.is_costly.then(|| (callers, identity.caller.id()));
            response.set_body(lines(body, permit, costly));
        }
        Ok(response)
    }

    fn stream_permit(&self, caller: &Caller, replaced: Shutdown) -> Result<StreamPermit, Problem> {
        let place = self.callers.stream(&caller.id())?;
        let auth = &self.settings.auth;
        // A time after the end of the clock never comes.
        let expires_at = auth.time_left(caller).and_then(|left| Instant::now().checked_add(left));
        let revoked = auth.revocation(caller).ok_or_else(bad_credentials)?;
        Ok(StreamPermit::new(place, expires_at, revoked, replaced))
    }
}

fn is_web_socket(request: &Request) -> bool {
    request.header(header::UPGRADE).is_some_and(|protocol| protocol.eq_ignore_ascii_case("websocket"))
}

/// Lines until the permit ends. A range of events that is cut short must not look complete. Each part of a costly read waits
/// for its turn; a client that reads slowly has none meanwhile.
fn lines(body: Body, permit: StreamPermit, costly: Option<(Arc<Callers>, CallerId)>) -> Body {
    let chunks = body.into_bytes_stream().boxed();
    Body::from_bytes_stream(stream::unfold(
        (chunks, permit, costly),
        |(mut chunks, permit, costly)| async move {
            let next = async {
                let _turn = match &costly {
                    Some((callers, caller)) => callers.turn(caller, Duration::MAX).await.ok(),
                    None => None,
                };
                chunks.next().await
            };
            let chunk = tokio::select! {
                chunk = next => chunk?,
                end = permit.ended() => Err(std::io::Error::other(end.event())),
            };
            Some((chunk, (chunks, permit, costly)))
        },
    ))
}

/// Whether the read computes its result from the log.
fn is_costly(request: &Request, route: Option<&Route>) -> bool {
    let query = request.uri().query().unwrap_or_default();
    route.is_some_and(|route| route.template.starts_with(AUDIT))
        || form_urlencoded::parse(query.as_bytes())
            .any(|(name, value)| name == "as_of" || (name == "force_refresh" && value != "false"))
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
