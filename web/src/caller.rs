//! The caller of a request, from a JSON Web Token, an API key, a stream ticket or, on an open server, two headers.
//!
//! A route takes a [`Caller`] as an argument. This authenticates the request and adds both security schemes to the
//! OpenAPI document; `caller.require(Role::Worker | Role::Service)?` then checks the role. The tenant comes from the
//! credentials only.

mod api_key;
mod auth;
mod extract;
mod role;
mod ticket;
mod token;

use std::collections::BTreeMap;

use event_schemas::ids::{Tenant, UserId};
use poem::http::{HeaderValue, header};

use crate::problem::{Code, Problem};

pub use api_key::{ApiKey, InvalidApiKeyHash, hash_of as api_key_hash};
use auth::LOCAL_USER;
pub use auth::{Auth, Now};
pub use extract::Authenticated;
pub use role::{Role, Roles, UnknownRole};
pub use ticket::{TICKET_TTL, Ticket};
pub use token::{Claims, KeyError, Keys, SECRET_BYTES_MIN, mint};

/// The tenant of credentials that name none.
pub const DEFAULT_TENANT: &str = "default";

/// An auditor of this tenant may read all tenants.
pub const ALL_TENANTS: &str = "*";

/// The authentication method of a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
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
}

impl Caller {
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
fn bad_credentials() -> Problem {
    challenge(
        r#"Bearer realm="matchbook", error="invalid_token""#,
        "the credentials are not valid here; get new ones and check that they are meant for this server",
    )
}
