//! Stream tickets: each opens one stream, because a browser's `EventSource` cannot send headers.
//!
//! The first use within a minute binds a ticket to the path that it opened. From then on it opens this path only, again
//! and again until the token ends, because an `EventSource` reconnects with the URL that it has. It keeps one stream
//! open: a later one replaces the earlier.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::{digest, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use event_schemas::time::Timestamp;

use super::{Caller, CallerId};
use crate::problem::Problem;
use crate::shutdown::Trigger;

/// The time within which a ticket must be used first.
pub const TICKET_TTL: Duration = Duration::from_secs(60);

/// The time for which a used ticket may reconnect if its caller's credentials do not expire.
const RECONNECT_TTL: Duration = Duration::from_secs(12 * 60 * 60);

/// The most unused tickets of a caller.
const UNUSED_MAX: usize = 16;

/// The most used tickets of a caller without an open stream; the oldest is forgotten first.
const IDLE_MAX: usize = 64;

/// The most tickets of all callers. Reached only by hundreds of callers that request tickets and do not use them.
const TICKETS_MAX: usize = 10_000;

/// A ticket, to be sent as `?ticket=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub ticket: String,
    pub expires_at: Timestamp,
}

/// The hash of a ticket, so that the time of a lookup does not depend on what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TicketHash([u8; 32]);

impl TicketHash {
    pub(crate) fn of(ticket: &str) -> Self {
        let digest = digest::digest(&digest::SHA256, ticket.as_bytes());
        Self(digest.as_ref().try_into().expect("a SHA-256 has 32 bytes"))
    }
}

#[derive(Debug)]
struct IssuedTicket {
    owner: CallerId,
    caller: Caller,
    issued_at: Timestamp,
    /// The end of a ticket that was not used until then.
    unused_until: Timestamp,
    /// The end of a used ticket.
    until: Timestamp,
    /// The only path that it opens; none before the first use of a ticket that was issued for any stream.
    path: Option<String>,
    /// Ends the latest stream that it opened; none before the first use.
    stream: Option<Trigger>,
}

impl IssuedTicket {
    fn opens(&self, path: &str, now: Timestamp) -> bool {
        let until = if self.stream.is_some() { self.until } else { self.unused_until };
        now < until && self.path.as_ref().is_none_or(|bound| bound == path)
    }

    fn is_unused(&self) -> bool {
        self.stream.is_none()
    }

    /// Used, and its stream is closed.
    fn is_idle(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| !stream.is_awaited())
    }

    fn is_expired(&self, now: Timestamp) -> bool {
        let until = if self.is_unused() { self.unused_until } else { self.until };
        now >= until && (self.is_unused() || self.is_idle())
    }
}

/// All tickets. Kept in memory: after a restart a browser requests a new one, as it does when its token has expired.
#[derive(Debug, Default)]
pub(super) struct Tickets(Mutex<HashMap<TicketHash, IssuedTicket>>);

impl Tickets {
    pub(super) fn issue(
        &self,
        caller: Caller,
        path: Option<String>,
        now: Timestamp,
    ) -> Result<Ticket, Problem> {
        let mut bytes = [0; 32];
        rand::fill(&mut bytes).map_err(|_| Problem::internal(&"the system provides no random bytes"))?;
        let ticket = URL_SAFE_NO_PAD.encode(bytes);
        let until = caller.expires_at.unwrap_or_else(|| now.after(RECONNECT_TTL));
        let expires_at = now.after(TICKET_TTL).min(until);
        let mut issued = self.issued();
        let owner = caller.id();
        make_room(&mut issued, &owner, now)?;
        let new = IssuedTicket {
            owner,
            caller,
            issued_at: now,
            unused_until: expires_at,
            until,
            path,
            stream: None,
        };
        issued.insert(TicketHash::of(&ticket), new);
        Ok(Ticket { ticket, expires_at })
    }

    /// The caller of a ticket that opens `path`. The ticket is not used by this.
    pub(super) fn caller(&self, ticket: TicketHash, path: &str, now: Timestamp) -> Option<Caller> {
        let issued = self.issued();
        issued.get(&ticket).filter(|ticket| ticket.opens(path, now)).map(|ticket| ticket.caller.clone())
    }

    /// Uses the ticket for a stream that is about to be sent, and ends the earlier one. False if another request has used it
    /// for another path.
    pub(super) fn open(&self, ticket: TicketHash, path: &str, stream: Trigger, now: Timestamp) -> bool {
        let mut issued = self.issued();
        let Some(ticket) = issued.get_mut(&ticket).filter(|ticket| ticket.opens(path, now)) else {
            return false;
        };
        ticket.path = Some(path.to_owned());
        ticket.stream = Some(stream);
        true
    }

    fn issued(&self) -> MutexGuard<'_, HashMap<TicketHash, IssuedTicket>> {
        // Each change of the map is one step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes what is over, and the oldest idle tickets over a limit.
///
/// # Errors
/// 429 if the caller, or all callers together, have too many tickets that are not used or have an open stream.
fn make_room(
    issued: &mut HashMap<TicketHash, IssuedTicket>,
    caller: &CallerId,
    now: Timestamp,
) -> Result<(), Problem> {
    issued.retain(|_, ticket| !ticket.is_expired(now));
    let of_caller = |ticket: &IssuedTicket| ticket.owner == *caller;
    let unused = issued.values().filter(|ticket| ticket.is_unused() && of_caller(ticket));
    let ends: Vec<Timestamp> = unused.map(|ticket| ticket.unused_until).collect();
    if ends.len() >= UNUSED_MAX {
        let seconds = ends.iter().min().map_or(0.0, |end| end.seconds_since(now));
        let wait = Duration::from_secs_f64(seconds.max(0.0));
        let detail = format!(
            "{UNUSED_MAX} stream tickets of this caller are unused; use them, or wait until they end"
        );
        return Err(Problem::rate_limited(detail, wait));
    }
    if issued.values().filter(|ticket| ticket.is_idle() && of_caller(ticket)).count() >= IDLE_MAX {
        forget_oldest_idle(issued, of_caller);
    }
    if issued.len() >= TICKETS_MAX {
        forget_oldest_idle(issued, |_| true);
    }
    if issued.len() >= TICKETS_MAX {
        return Err(Problem::rate_limited("too many stream tickets are in use on this server", TICKET_TTL));
    }
    Ok(())
}

fn forget_oldest_idle(
    issued: &mut HashMap<TicketHash, IssuedTicket>,
    counts: impl Fn(&IssuedTicket) -> bool,
) {
    let idle = issued.iter().filter(|(_, ticket)| ticket.is_idle() && counts(ticket));
    let oldest = idle.min_by_key(|(_, ticket)| ticket.issued_at).map(|(hash, _)| *hash);
    if let Some(oldest) = oldest {
        issued.remove(&oldest);
    }
}

#[cfg(test)]
#[path = "ticket_tests.rs"]
mod tests;
