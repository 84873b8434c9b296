//! Tickets: a right to open one stream, good once and for a minute, because a browser's `EventSource` sends no headers.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::{digest, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use event_schemas::time::Timestamp;

use super::Caller;
use crate::problem::Problem;

/// How long a ticket is good for.
pub const TICKET_TTL: Duration = Duration::from_secs(60);

/// Tickets issued and not yet used. Reached only by a caller who asks and never comes.
const WAITING_MAX: usize = 10_000;

/// To be sent as `?ticket=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub ticket: String,
    pub expires_at: Timestamp,
}

#[derive(Debug)]
struct Waiting {
    caller: Caller,
    expires_at: Timestamp,
}

/// Kept in memory: after a restart a browser asks for a new one, as it does after a minute.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    /// By the hash of the ticket, so that looking one up takes the same time whatever was sent.
    waiting: Mutex<HashMap<[u8; 32], Waiting>>,
}

fn hash(ticket: &str) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, ticket.as_bytes());
    digest.as_ref().try_into().expect("a SHA-256 has 32 bytes")
}

impl Tickets {
    pub(super) fn issue(&self, caller: Caller, now: Timestamp) -> Result<Ticket, Problem> {
        let mut bytes = [0; 32];
        rand::fill(&mut bytes).map_err(|_| Problem::internal(&"the system gives no random bytes"))?;
        let ticket = URL_SAFE_NO_PAD.encode(bytes);
        let expires_at = now.after(TICKET_TTL);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= WAITING_MAX {
            waiting.retain(|_, ticket| now < ticket.expires_at);
        }
        if waiting.len() >= WAITING_MAX {
            return Err(Problem::rate_limited("too many stream tickets wait to be used", TICKET_TTL));
        }
        waiting.insert(hash(&ticket), Waiting { caller, expires_at });
        Ok(Ticket { ticket, expires_at })
    }

    pub(super) fn redeem(&self, ticket: &str, now: Timestamp) -> Option<Caller> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.remove(&hash(ticket)).filter(|ticket| now < ticket.expires_at).map(|ticket| ticket.caller)
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
    fn a_ticket_is_good_once() {
        let tickets = Tickets::default();
        let ticket = tickets.issue(caller(), Timestamp::EPOCH).unwrap().ticket;
        assert_eq!(tickets.redeem(&ticket, Timestamp::EPOCH), Some(caller()));
        assert_eq!(tickets.redeem(&ticket, Timestamp::EPOCH), None);
    }

    #[test]
    fn a_ticket_is_good_for_a_minute() {
        let tickets = Tickets::default();
        let ticket = tickets.issue(caller(), Timestamp::EPOCH).unwrap();
        assert_eq!(tickets.redeem(&ticket.ticket, Timestamp::EPOCH.after(TICKET_TTL)), None);
    }

    #[test]
    fn tickets_nobody_uses_make_room_when_they_expire() {
        let tickets = Tickets::default();
        for _ in 0..WAITING_MAX {
            tickets.issue(caller(), Timestamp::EPOCH).unwrap();
        }
        assert!(tickets.issue(caller(), Timestamp::EPOCH).is_err());
        assert!(tickets.issue(caller(), Timestamp::EPOCH.after(TICKET_TTL)).is_ok());
    }
}
