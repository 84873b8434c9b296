//! Authentication of requests.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use event_schemas::ids::{Tenant, UserId};
use event_schemas::time::Timestamp;
use poem::Request;
use poem::http::{HeaderMap, header};

use super::api_key::{self, ApiKey};
use super::ticket::{Ticket, Tickets};
use super::token::Keys;
use super::{Caller, Credential, DEFAULT_TENANT, Roles, bad_credentials, missing_credentials};
use crate::problem::Problem;

const API_KEY: &str = "x-api-key";
const TENANT: &str = "x-tenant";
const USER: &str = "x-user";

/// The user of a request to an open server that names none.
pub(super) const LOCAL_USER: &str = "local";

/// The source of the current time: the system clock, or a test's.
#[derive(Clone)]
pub struct Now(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Now {
    pub fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    pub fn system() -> Self {
        Self::new(|| std::time::SystemTime::now().into())
    }

    pub fn get(&self) -> Timestamp {
        (self.0)()
    }
}

impl fmt::Debug for Now {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Now({})", self.get())
    }
}

#[derive(Debug)]
enum Trust {
    /// No keys: the caller is the user that it names, with every role.
    Open,
    Keys {
        tokens: Keys,
        api_keys: Vec<ApiKey>,
    },
}

/// Authenticates requests. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Auth {
    trust: Arc<Trust>,
    tickets: Arc<Tickets>,
    now: Now,
}

impl Auth {
    /// Every caller has every role, and names its tenant and user itself. For loopback only.
    pub fn open(now: Now) -> Self {
        Self { trust: Arc::new(Trust::Open), tickets: Arc::default(), now }
    }

    /// Accepts tokens signed with one of `tokens`, and API keys. With neither, every request is refused.
    pub fn with_keys(tokens: Keys, api_keys: Vec<ApiKey>, now: Now) -> Self {
        Self { trust: Arc::new(Trust::Keys { tokens, api_keys }), tickets: Arc::default(), now }
    }

    pub fn is_open(&self) -> bool {
        matches!(*self.trust, Trust::Open)
    }

    /// Authenticates a request.
    ///
    /// # Errors
    /// 401 for missing or invalid credentials; on an open server 400 for an invalid tenant or user, and 403 for a foreign
    /// host name.
    pub fn caller(&self, request: &Request) -> Result<Caller, Problem> {
        if let Some(ticket) = query_value(request, "ticket") {
            return self.tickets.redeem(&ticket, self.now.get()).ok_or_else(bad_credentials);
        }
        match &*self.trust {
            Trust::Open => {
                check_host(request)?;
                open_caller(request.headers())
            }
            Trust::Keys { tokens, api_keys } => self.keyed_caller(tokens, api_keys, request.headers()),
        }
    }

    /// Issues a ticket for one stream, for a browser's `EventSource`, which cannot send headers.
    ///
    /// # Errors
    /// 429 if too many tickets are unused.
    pub fn ticket(&self, caller: Caller) -> Result<Ticket, Problem> {
        self.tickets.issue(caller, self.now.get())
    }

    fn keyed_caller(
        &self,
        tokens: &Keys,
        api_keys: &[ApiKey],
        headers: &HeaderMap,
    ) -> Result<Caller, Problem> {
        if let Some(value) = headers.get(header::AUTHORIZATION) {
            let token = value.to_str().ok().and_then(bearer).ok_or_else(bad_credentials)?;
            return tokens.verify(token, self.now.get()).map_err(|reason| {
                tracing::info!(%reason, "refused a token");
                bad_credentials()
            });
        }
        let Some(key) = headers.get(API_KEY) else { return Err(missing_credentials()) };
        key.to_str().ok().and_then(|key| api_key::find(api_keys, key)).ok_or_else(|| {
            tracing::info!("refused an API key");
            bad_credentials()
        })
    }
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn query_value(request: &Request, name: &str) -> Option<String> {
    let query = request.uri().query()?;
    // A ticket is base64url, so nothing in it is ever escaped.
    query
        .split('&')
        .find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name))
        .map(|(_, v)| v.into())
}

/// Protects an open server against DNS rebinding: a web page can resolve its own host name to 127.0.0.1 and read the
/// responses. It cannot do so with `localhost` or an address.
fn check_host(request: &Request) -> Result<(), Problem> {
    let host = request.header(header::HOST).or_else(|| request.uri().authority().map(|host| host.as_str()));
    let Some(host) = host else { return Ok(()) };
    let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    let name = name.map_or(host, |(name, _)| name).to_ascii_lowercase();
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
    if address || name == "localhost" || name.ends_with(".localhost") {
        return Ok(());
    }
    Err(Problem::forbidden("a server without keys accepts the host names localhost and IP addresses only"))
}

fn open_caller(headers: &HeaderMap) -> Result<Caller, Problem> {
    let value = |name: &'static str, default: &'static str| match headers.get(name) {
        None => Ok(default),
        Some(value) => value.to_str().map_err(|_| Problem::invalid(name, "must be printable ASCII")),
    };
    let tenant: Tenant = value(TENANT, DEFAULT_TENANT)?
        .parse()
        .map_err(|error| Problem::invalid("X-Tenant", format!("{error}")))?;
    let user: UserId =
        value(USER, LOCAL_USER)?.parse().map_err(|error| Problem::invalid("X-User", format!("{error}")))?;
    Ok(Caller {
        tenant,
        user: Some(user),
        roles: Roles::all(),
        ratings: Default::default(),
        via: Credential::Open,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::{Role, api_key_hash};

    fn now() -> Timestamp {
        "2026-11-20T10:00:00Z".parse().unwrap()
    }

    fn request(name: &str, value: &str) -> Request {
        Request::builder().header(name, value).finish()
    }

    #[test]
    fn open_server_refuses_foreign_host_names() {
        let auth = Auth::open(Now::new(now));
        for host in ["localhost", "localhost:8080", "127.0.0.1:8080", "[::1]:8080", "[::1]", "a.localhost:1"]
        {
            assert!(auth.caller(&request("host", host)).is_ok(), "{host}");
        }
        for host in ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example"]
        {
            assert!(auth.caller(&request("host", host)).is_err(), "{host}");
        }
    }

    #[test]
    fn api_key_authenticates_its_owner() {
        let key = ApiKey::new("ci", &api_key_hash("k"), "acme".parse().unwrap(), None, Role::Service.into());
        let auth = Auth::with_keys(Keys::default(), vec![key.unwrap()], Now::new(now));
        let caller = auth.caller(&request("x-api-key", "k")).unwrap();
        assert_eq!((caller.tenant.as_str(), caller.via), ("acme", Credential::ApiKey("ci".into())));
        assert!(caller.user.is_none());
        assert!(auth.caller(&request("x-api-key", "other")).is_err());
    }

    #[test]
    fn server_without_any_key_refuses_all_requests() {
        let auth = Auth::with_keys(Keys::default(), vec![], Now::new(now));
        assert!(auth.caller(&Request::default()).is_err());
        assert!(auth.caller(&request("x-user", "ann")).is_err());
    }
}
