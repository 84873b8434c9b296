//! Stream tickets: each opens one stream, once, within a minute, because a browser's `EventSource` cannot send headers.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::{digest, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use event_schemas::time::Timestamp;

use super::Caller;
use crate::problem::Problem;

/// The lifetime of a ticket.
pub const TICKET_TTL: Duration = Duration::from_secs(60);

/// The most tickets that are issued and unused. Reached only by a caller that requests tickets and does not use them.
const PENDING_MAX: usize = 10_000;

/// A ticket, to be sent as `?ticket=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub ticket: String,
    pub expires_at: Timestamp,
}

#[derive(Debug)]
struct PendingTicket {
    caller: Caller,
    expires_at: Timestamp,
}

/// The unused tickets. Kept in memory: after a restart a browser requests a new one, as it does after a minute.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    /// Keyed by the hash of the ticket, so that the time of a lookup does not depend on what was sent.
    pending: Mutex<HashMap<[u8; 32], PendingTicket>>,
}

fn hash(ticket: &str) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, ticket.as_bytes());
    digest.as_ref().try_into().expect("a SHA-256 has 32 bytes")
}

impl Tickets {
    pub(super) fn issue(&self, caller: Caller, now: Timestamp) -> Result<Ticket, Problem> {
        let mut bytes = [0; 32];
        rand::fill(&mut bytes).map_err(|_| Problem::internal(&"the system provides no random bytes"))?;
        let ticket = URL_SAFE_NO_PAD.encode(bytes);
        let expires_at = now.after(TICKET_TTL);
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if pending.len() >= PENDING_MAX {
            pending.retain(|_, ticket| now < ticket.expires_at);
        }
        if pending.len() >= PENDING_MAX {
            return Err(Problem::rate_limited("too many stream tickets are unused", TICKET_TTL));
        }
        pending.insert(hash(&ticket), PendingTicket { caller, expires_at });
        Ok(Ticket { ticket, expires_at })
    }

    pub(super) fn redeem(&self, ticket: &str, now: Timestamp) -> Option<Caller> {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.remove(&hash(ticket)).filter(|ticket| now < ticket.expires_at).map(|ticket| ticket.caller)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::{Credential, Roles};

    fn caller() -> Caller {
        Caller {
            tenant: "acme".parse().unwrap(),
            user: None,
            roles: Roles::NONE,
            ratings: Default::default(),
            via: Credential::Token,
        }
    }

    #[test]
    fn ticket_is_valid_once() {
        let tickets = Tickets::default();
        let ticket = tickets.issue(caller(), Timestamp::EPOCH).unwrap().ticket;
        assert_eq!(tickets.redeem(&ticket, Timestamp::EPOCH), Some(caller()));
        assert_eq!(tickets.redeem(&ticket, Timestamp::EPOCH), None);
    }

    #[test]
    fn ticket_expires_after_a_minute() {
        let tickets = Tickets::default();
        let ticket = tickets.issue(caller(), Timestamp::EPOCH).unwrap();
        assert_eq!(tickets.redeem(&ticket.ticket, Timestamp::EPOCH.after(TICKET_TTL)), None);
    }

    #[test]
    fn expired_tickets_free_their_slots() {
        let tickets = Tickets::default();
        for _ in 0..PENDING_MAX {
            tickets.issue(caller(), Timestamp::EPOCH).unwrap();
        }
        assert!(tickets.issue(caller(), Timestamp::EPOCH).is_err());
        assert!(tickets.issue(caller(), Timestamp::EPOCH.after(TICKET_TTL)).is_ok());
    }
}
