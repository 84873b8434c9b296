//! Who asks: from a JSON Web Token, an API key, a stream ticket, or, on an open server, from two headers.
//!
//! A route takes a [`Caller`] as an argument. That alone authenticates the request and shows both security schemes in the
//! OpenAPI document; `caller.require(Role::Worker | Role::Service)?` then asks for a right. The tenant comes from the
//! credentials and from nowhere else.

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

pub use api_key::{ApiKey, NotAnApiKey, hash_of as api_key_hash};
use auth::LOCAL_USER;
pub use auth::{Auth, Now};
pub use extract::Authenticated;
pub use role::{Role, Roles, UnknownRole};
pub use ticket::{TICKET_TTL, Ticket};
pub use token::{Claims, KeyError, Keys, SECRET_BYTES_MIN, mint};

/// The tenant of whoever names none.
pub const DEFAULT_TENANT: &str = "default";

/// An auditor of this tenant may read all tenants.
pub const ALL_TENANTS: &str = "*";

/// How a caller was recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// The server has no keys and believes what it is told. Loopback only.
    Open,
    Token,
    /// The key's id, never the key.
    ApiKey(String),
}

/// Who asks, with what rights.
#[derive(Clone, Debug, PartialEq)]
pub struct Caller {
    pub tenant: Tenant,
    /// A person, or the name of the program that the credentials were issued to.
    pub user: Option<UserId>,
    pub roles: Roles,
    /// Pool key → rating, as the token claims.
    pub ratings: BTreeMap<String, f64>,
    pub via: Credential,
}

impl Caller {
    /// Asks for one of `roles`.
    ///
    /// # Errors
    /// 403, naming what is needed.
    pub fn require(&self, roles: impl Into<Roles>) -> Result<(), Problem> {
        let needed = roles.into();
        if self.roles.any_of(needed) {
            return Ok(());
        }
        tracing::info!(tenant = %self.tenant, %needed, has = %self.roles, "refused for want of a role");
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
    /// 403 for credentials that name none, as an API key without a user.
    pub fn user(&self) -> Result<&UserId, Problem> {
        self.user
            .as_ref()
            .ok_or_else(|| Problem::forbidden("this is done by a user, and these credentials name none"))
    }

    /// Whether these credentials reach over what is others' in the tenant, as those of a trusted program or an operator. On an
    /// open server everybody has every role: who says there who they are is taken at their word, and sees what is theirs.
    pub fn sees_others(&self) -> bool {
        let is_anybody = self.via == Credential::Open
            && self.user.as_ref().is_some_and(|user| user.as_str() != LOCAL_USER);
        self.has(Role::Service | Role::Admin) && !is_anybody
    }

    /// Whether these credentials reach over all tenants.
    pub fn sees_all_tenants(&self) -> bool {
        self.tenant.as_str() == ALL_TENANTS
    }
}

fn challenge(value: &'static str, detail: &'static str) -> Problem {
    Problem::new(Code::Unauthorized, detail).header(header::WWW_AUTHENTICATE, HeaderValue::from_static(value))
}

/// 401 where there are no credentials at all.
pub(crate) fn missing_credentials() -> Problem {
    challenge(
        r#"Bearer realm="matchbook""#,
        "credentials are missing; send `Authorization: Bearer <JWT>` or `X-API-Key`",
    )
}

/// 401 for credentials that do not hold. Which check failed is for the server's log, as it would help a forger.
fn bad_credentials() -> Problem {
    challenge(
        r#"Bearer realm="matchbook", error="invalid_token""#,
        "the credentials are not valid here; get new ones and check that they are meant for this server",
    )
}
