//! The access log: each read and write by an auditor or an admin, and each refusal, with who did what.
//!
//! Its lines are those of the server's log with the target `access`, so that a filter or a collector can take them apart.
//! They name people; they are kept for as long as the operator of the server keeps its log.

use std::net::IpAddr;

use event_schemas::ids::{Tenant, UserId};
use poem::Request;
use poem::http::{Method, StatusCode, Uri};

use crate::caller::{Authentication, Caller, Credential, Role, Roles};

const TARGET: &str = "access";

/// The longest path or query in a line, in bytes.
const TEXT_BYTES_MAX: usize = 1024;

/// The parameter of a query that is a secret.
const TICKET: &str = "ticket";

/// What is done to the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
enum Kind {
    Read,
    Write,
    /// The credentials are missing or not valid, the rights are missing, or the limits of the caller are reached.
    Refused,
}

/// A request, until its response starts.
pub(super) struct Access {
    is_read: bool,
    method: Method,
    uri: Uri,
    address: Option<IpAddr>,
    who: Option<Who>,
}

struct Who {
    tenant: Tenant,
    user: Option<UserId>,
    roles: Roles,
    via: Credential,
}

impl Access {
    pub(super) fn start(request: &Request, address: Option<IpAddr>) -> Self {
        Self {
            is_read: matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS),
            method: request.method().clone(),
            uri: request.uri().clone(),
            address,
            who: None,
        }
    }

    /// Remembers the caller, once the request has been authenticated.
    pub(super) fn identify(&mut self, request: &Request) {
        let Some(Authentication(Ok(caller))) = request.data() else { return };
        let Caller { tenant, user, roles, via, .. } = caller;
        self.who = Some(Who { tenant: tenant.clone(), user: user.clone(), roles: *roles, via: via.clone() });
    }

    /// The response starts.
    pub(super) fn end(self, status: StatusCode) {
        let Some(kind) = self.kind(status) else { return };
        let kind: &str = kind.into();
        let (tenant, user, roles, credential) = match &self.who {
            None => (None, None, String::new(), "none"),
            Some(who) => {
                let roles: Vec<&str> = who.roles.iter().map(|role| role.into_str()).collect();
                let credential = match &who.via {
                    Credential::Open => "open",
                    Credential::Token => "token",
                    Credential::ApiKey(id) => id,
                };
                (
                    Some(who.tenant.as_str()),
                    who.user.as_ref().map(UserId::as_str),
                    roles.join(","),
                    credential,
                )
            }
        };
        tracing::info!(
            target: TARGET,
            kind,
            method = %self.method,
            path = bounded(self.uri.path()),
            query = without_ticket(self.uri.query()),
            status = status.as_u16(),
            tenant,
            user,
            roles,
            credential,
            address = self.address.map(tracing::field::display),
        );
    }

    /// None if the request needs no line. On an open server every caller has every role, so that the roles say nothing.
    fn kind(&self, status: StatusCode) -> Option<Kind> {
        const REFUSALS: [StatusCode; 3] =
            [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::TOO_MANY_REQUESTS];
        if REFUSALS.contains(&status) {
            return Some(Kind::Refused);
        }
        let who = self.who.as_ref().filter(|who| who.via != Credential::Open)?;
        let is_watched = who.roles.any_of(Role::Auditor | Role::Admin);
        is_watched.then_some(if self.is_read { Kind::Read } else { Kind::Write })
    }
}

/// The query without tickets, which open streams.
fn without_ticket(query: Option<&str>) -> Option<String> {
    let is_ticket = |pair: &str| {
        form_urlencoded::parse(pair.as_bytes()).any(|(name, _)| name.eq_ignore_ascii_case(TICKET))
    };
    let kept: Vec<&str> = query?.split('&').filter(|pair| !is_ticket(pair)).collect();
    (!kept.is_empty()).then(|| bounded(&kept.join("&")).to_owned())
}

/// The first bytes of a path or query. It may contain other characters than ASCII.
fn bounded(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
}

#[cfg(test)]
#[path = "access_log_tests.rs"]
mod tests;
