//! The caller of a request, from a JSON Web Token, an API key, a stream ticket or, on an open server, two headers.
//!
//! A route takes a [`Caller`] as an argument. This authenticates the request and adds both security schemes to the
//! OpenAPI document; `caller.require(Role::Worker | Role::Service)?` then checks the role. The tenant comes from the
//! credentials only.

mod api_key;
mod auth;
mod extract;
mod jwks;
pub(crate) mod limits;
mod role;
mod share;
pub(crate) mod strangers;
mod ticket;
mod token;

use std::collections::BTreeMap;

use event_schemas::ids::{Tenant, UserId};
use event_schemas::time::Timestamp;
use poem::http::{HeaderValue, header};

use crate::problem::{Code, Problem};

pub use api_key::{ApiKey, InvalidApiKeyHash, generate as new_api_key, hash_of as api_key_hash};
pub(crate) use auth::Identity;
use auth::LOCAL_USER;
pub use auth::{Auth, Now};
pub(crate) use extract::Authentication;
pub use extract::{Authenticated, authenticate};
pub use jwks::{InvalidJwks, Jwks};
pub use limits::{CallerLimits, CostlyReads};
pub use role::{Role, Roles, UnknownRole};
pub use share::Share;
pub(crate) use ticket::TicketHash;
pub use ticket::{TICKET_TTL, Ticket};
pub use token::{Claims, KeyError, Keys, SECRET_BYTES_MIN, mint};

/// The tenant of credentials that name none.
pub const DEFAULT_TENANT: &str = "default";

/// An auditor of this tenant may read all tenants, and an admin of it may steer what all tenants share.
pub const ALL_TENANTS: &str = "*";

/// The authentication method of a caller.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Credential {
    /// The server has no keys and trusts the `X-Tenant` and `X-User` headers. Loopback only.
    Open,
    Token,
    /// The key's id, never the key.
    ApiKey(String),
}

/// An authenticated caller with its roles.
#[derive(Clone, Debug, PartialEq)]
pub struct Caller {
    pub tenant: Tenant,
    /// The id of a person, or the name of the program that the credentials were issued to.
    pub user: Option<UserId>,
    pub roles: Roles,
    /// Pool key → rating, as the token claims.
    pub ratings: BTreeMap<String, f64>,
    pub via: Credential,
    /// The `exp` of the token. API keys do not expire.
    pub expires_at: Option<Timestamp>,
}

/// What identifies a caller among all callers, for the limits of each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CallerId {
    via: Credential,
    tenant: Tenant,
    user: Option<UserId>,
}

impl Caller {
    pub(crate) fn id(&self) -> CallerId {
        CallerId { via: self.via.clone(), tenant: self.tenant.clone(), user: self.user.clone() }
    }

    /// Requires one of `roles`.
    ///
    /// # Errors
    /// 403, with the roles that are needed.
    pub fn require(&self, roles: impl Into<Roles>) -> Result<(), Problem> {
        let needed = roles.into();
        if self.roles.any_of(needed) {
            return Ok(());
        }
        tracing::info!(tenant = %self.tenant, %needed, has = %self.roles, "missing role");
        Err(Problem::forbidden(format!(
            "this needs the role {needed}; these credentials have {}",
            self.roles
        )))
    }

    pub fn has(&self, roles: impl Into<Roles>) -> bool {
        self.roles.any_of(roles.into())
    }

    /// The user of these credentials.
    ///
    /// # Errors
    /// 403 for credentials without a user, such as an API key that has none.
    pub fn user(&self) -> Result<&UserId, Problem> {
        self.user
            .as_ref()
            .ok_or_else(|| Problem::forbidden("this needs a user, and these credentials name none"))
    }

    /// Whether the caller may access the data of other users in its tenant: a service or an admin. On an open server every
    /// caller has every role, so a caller that names a user in `X-User` has access to that user's data only.
    pub fn can_access_others(&self) -> bool {
        let is_named_user = self.via == Credential::Open
            && self.user.as_ref().is_some_and(|user| user.as_str() != LOCAL_USER);
        self.has(Role::Service | Role::Admin) && !is_named_user
    }

    /// Requires an admin of all tenants, for what they share, such as read models. On an open server every caller is one.
    ///
    /// # Errors
    /// 403 for other roles, and for the admin of one tenant.
    pub fn require_admin_of_all_tenants(&self) -> Result<(), Problem> {
        self.require(Role::Admin)?;
        if self.via == Credential::Open || self.can_access_all_tenants() {
            return Ok(());
        }
        tracing::info!(tenant = %self.tenant, "not an admin of all tenants");
        Err(Problem::forbidden(
            "this affects all tenants and needs an admin of the tenant `*`; these credentials are for one tenant",
        ))
    }

    /// The tenant that a request names, or the caller's own. Only credentials of all tenants may name another one; they have
    /// none of their own.
    ///
    /// # Errors
    /// 403 for another tenant; 400 for a missing one, or a text that cannot be a tenant.
    pub fn tenant_or_own(&self, named: Option<&str>) -> Result<Tenant, Problem> {
        let Some(named) = named else {
            if self.can_access_all_tenants() {
                return Err(Problem::invalid("tenant", "is missing: name the user's tenant"));
            }
            return Ok(self.tenant.clone());
        };
        let named: Tenant =
            named.parse().map_err(|_| Problem::invalid("tenant", "is not the name of a tenant"))?;
        if named != self.tenant && !self.can_access_all_tenants() {
            return Err(Problem::forbidden("these credentials are for the users of their own tenant only"));
        }
        Ok(named)
    }

    /// Whether the caller may access the data of all tenants.
    pub fn can_access_all_tenants(&self) -> bool {
        self.tenant.as_str() == ALL_TENANTS
    }
}

fn challenge(value: &'static str, detail: &'static str) -> Problem {
    Problem::new(Code::Unauthorized, detail).header(header::WWW_AUTHENTICATE, HeaderValue::from_static(value))
}

/// 401 for a request without credentials.
pub(crate) fn missing_credentials() -> Problem {
    challenge(
        r#"Bearer realm="matchbook""#,
        "credentials are missing; send `Authorization: Bearer <JWT>` or `X-API-Key`",
    )
}

/// 401 for invalid credentials. Which check failed is only in the server's log, because it would help an attacker.
pub(crate) fn bad_credentials() -> Problem {
    challenge(
        r#"Bearer realm="matchbook", error="invalid_token""#,
        "the credentials are not valid here; get new ones and check that they are meant for this server",
    )
}
