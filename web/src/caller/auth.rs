//! Authentication of requests.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use event_schemas::ids::{Tenant, UserId};
use event_schemas::time::Timestamp;
use poem::Request;
use poem::http::{HeaderMap, header};

use super::api_key::{self, ApiKey};
use super::jwks::{CurrentJwks, Jwks};
use super::ticket::{Ticket, TicketHash, Tickets};
use super::token::Keys;
use super::{Caller, Credential, DEFAULT_TENANT, Roles, bad_credentials, missing_credentials};
use crate::problem::Problem;
use crate::shutdown::{Shutdown, Trigger};

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
        /// None without an identity provider.
        jwks: Option<CurrentJwks>,
        api_keys: RwLock<Vec<ApiKey>>,
    },
}

/// An authenticated caller, and the ticket that it used for it.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) caller: Caller,
    pub(crate) ticket: Option<TicketHash>,
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
        let trust = Trust::Keys { tokens, jwks: None, api_keys: RwLock::new(api_keys) };
        Self { trust: Arc::new(trust), tickets: Arc::default(), now }
    }

    /// As [`Self::with_keys`], and accepts tokens signed with a key of the identity provider, once
    /// [`Self::set_jwks`] has set them.
    pub fn with_identity_provider(tokens: Keys, api_keys: Vec<ApiKey>, now: Now) -> Self {
        let jwks = Some(CurrentJwks::default());
        let trust = Trust::Keys { tokens, jwks, api_keys: RwLock::new(api_keys) };
        Self { trust: Arc::new(trust), tickets: Arc::default(), now }
    }

    fn jwks(&self) -> Option<&CurrentJwks> {
        match &*self.trust {
            Trust::Keys { jwks, .. } => jwks.as_ref(),
            Trust::Open => None,
        }
    }

    /// Replaces the keys of the identity provider; None after a failed attempt to fetch them.
    pub fn set_jwks(&self, keys: Option<Jwks>) {
        if let Some(jwks) = self.jwks() {
            jwks.set(keys);
        }
    }

    /// Waits until a token names a key of the identity provider that is not known.
    pub async fn jwks_wanted(&self) {
        match self.jwks() {
            Some(jwks) => jwks.wanted().await,
            None => std::future::pending().await,
        }
    }

    /// Gets the key of the request's token, if it is not known.
    pub(crate) async fn prepare(&self, request: &Request) {
        let Some(jwks) = self.jwks() else { return };
        if let Some(token) = request.header(header::AUTHORIZATION).and_then(bearer) {
            jwks.prepare(token).await;
        }
    }

    /// Replaces the API keys: new ones are accepted from now on, and the others refused. On an open server nothing changes.
    pub fn set_api_keys(&self, keys: Vec<ApiKey>) {
        if let Trust::Keys { api_keys, .. } = &*self.trust {
            let mut api_keys = api_keys.write().unwrap_or_else(PoisonError::into_inner);
            *api_keys = keys.into_iter().map(|key| key.continuing(&api_keys)).collect();
        }
    }

    pub fn is_open(&self) -> bool {
        matches!(*self.trust, Trust::Open)
    }

    /// Authenticates a request by its headers.
    ///
    /// # Errors
    /// 401 for missing or invalid credentials; on an open server 400 for an invalid tenant or user, and 403 for a foreign
    /// host name.
    pub fn caller(&self, request: &Request) -> Result<Caller, Problem> {
        match &*self.trust {
            Trust::Open => {
                check_host(request)?;
                open_caller(request.headers())
            }
            Trust::Keys { tokens, api_keys, .. } => self.keyed_caller(tokens, api_keys, request.headers()),
        }
    }

    /// Authenticates a request for a stream: by its headers, or by its ticket if it has no credentials.
    ///
    /// # Errors
    /// As [`Self::caller`], and 401 for a ticket that does not open this stream, and after the `exp` of a token, for which
    /// other requests have a tolerance.
    pub(crate) fn stream_caller(&self, request: &Request) -> Result<Identity, Problem> {
        let now = self.now.get();
        let has_credentials = [header::AUTHORIZATION.as_str(), API_KEY]
            .iter()
            .any(|name| request.headers().contains_key(*name));
        let ticket = query_value(request, "ticket").filter(|_| !has_credentials);
        let identity = match ticket.as_deref().map(TicketHash::of) {
            None => Identity { caller: self.caller(request)?, ticket: None },
            Some(ticket) => {
                if self.is_open() {
                    check_host(request)?;
                }
                let caller = self.tickets.caller(ticket, request.uri().path(), now);
                let caller = caller.filter(|caller| self.revocation(caller).is_some());
                Identity { caller: caller.ok_or_else(bad_credentials)?, ticket: Some(ticket) }
            }
        };
        match identity.caller.expires_at {
            Some(expires_at) if expires_at <= now => Err(bad_credentials()),
            _ => Ok(identity),
        }
    }

    /// Issues a ticket for one stream, for a browser's `EventSource`, which cannot send headers; for any stream of the
    /// caller, or only for the one at `path`.
    ///
    /// # Errors
    /// 429 if too many tickets are unused.
    pub fn ticket(&self, caller: Caller, path: Option<String>) -> Result<Ticket, Problem> {
        self.tickets.issue(caller, path, self.now.get())
    }

    /// Uses a ticket for the stream at `path`, which `stream` ends when the ticket opens it again.
    ///
    /// # Errors
    /// 401 if another request has used it for another stream.
    pub(crate) fn use_ticket(&self, ticket: TicketHash, path: &str, stream: Trigger) -> Result<(), Problem> {
        let is_opened = self.tickets.open(ticket, path, stream, self.now.get());
        if is_opened { Ok(()) } else { Err(bad_credentials()) }
    }

    /// The time until the caller's token expires.
    pub(crate) fn time_left(&self, caller: &Caller) -> Option<Duration> {
        let seconds = caller.expires_at?.seconds_since(self.now.get());
        Some(Duration::from_secs_f64(seconds.max(0.0)))
    }

    /// What ends the caller's streams when its API key is revoked; none if it was revoked already.
    pub(crate) fn revocation(&self, caller: &Caller) -> Option<Shutdown> {
        match (&*self.trust, &caller.via) {
            (Trust::Keys { api_keys, .. }, Credential::ApiKey(id)) => {
                let api_keys = api_keys.read().unwrap_or_else(PoisonError::into_inner);
                api_keys.iter().find(|key| key.id() == id).map(ApiKey::revoked)
            }
            _ => Some(Shutdown::never()),
        }
    }

    fn keyed_caller(
        &self,
        tokens: &Keys,
        api_keys: &RwLock<Vec<ApiKey>>,
        headers: &HeaderMap,
    ) -> Result<Caller, Problem> {
        if let Some(value) = headers.get(header::AUTHORIZATION) {
            let token = value.to_str().ok().and_then(bearer).ok_or_else(bad_credentials)?;
            let further = self.jwks().map(CurrentJwks::keys);
            let further = further.as_deref().map_or(&[][..], Vec::as_slice);
            return tokens.verify(token, further, self.now.get()).map_err(|reason| {
                tracing::info!(%reason, "refused a token");
                bad_credentials()
            });
        }
        let Some(key) = headers.get(API_KEY) else { return Err(missing_credentials()) };
        let api_keys = api_keys.read().unwrap_or_else(PoisonError::into_inner);
        key.to_str().ok().and_then(|key| api_key::find(&api_keys, key)).ok_or_else(|| {
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
        expires_at: None,
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
    fn revoked_api_key_and_its_tickets_are_refused() {
        let key = |text: &str| {
            let (hash, tenant) = (api_key_hash(text), "acme".parse().unwrap());
            ApiKey::new("ci", &hash, tenant, None, Role::Service.into()).unwrap()
        };
        let auth = Auth::with_keys(Keys::default(), Vec::new(), Now::new(now));
        assert!(auth.caller(&request("x-api-key", "k")).is_err());
        auth.set_api_keys(vec![key("k")]);
        let caller = auth.caller(&request("x-api-key", "k")).unwrap();
        let ticket = auth.ticket(caller.clone(), None).unwrap().ticket;
        let uri = format!("/jobs/1/stream?ticket={ticket}").parse().unwrap();
        let stream = Request::builder().uri(uri).finish();
        assert!(auth.stream_caller(&stream).is_ok());
        let revoked = auth.revocation(&caller).unwrap();
        auth.set_api_keys(vec![key("k")]);
        assert!(!revoked.is_requested());
        auth.set_api_keys(vec![key("other")]);
        assert!(revoked.is_requested());
        auth.set_api_keys(Vec::new());
        assert!(auth.caller(&request("x-api-key", "k")).is_err());
        assert!(auth.stream_caller(&stream).is_err());
    }

    #[test]
    fn server_without_any_key_refuses_all_requests() {
        let auth = Auth::with_keys(Keys::default(), vec![], Now::new(now));
        assert!(auth.caller(&Request::default()).is_err());
        assert!(auth.caller(&request("x-user", "ann")).is_err());
    }
}
