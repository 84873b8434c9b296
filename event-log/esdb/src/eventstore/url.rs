//! The URL of a cluster: its options, and its display form without secrets.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The supported options, in lower case for comparison.
const KNOWN_OPTIONS: [&str; 14] = [
    "tls",
    "tlsverifycert",
    "tlscafile",
    "usercertfile",
    "userkeyfile",
    "nodepreference",
    "defaultdeadline",
    "connectionname",
    "maxdiscoverattempts",
    "discoveryinterval",
    "gossiptimeout",
    "keepaliveinterval",
    "keepalivetimeout",
    "throwonappendfailure",
];

/// The address of a cluster and the options of the connection. `Display` and `Debug` omit user name and password.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterUrl {
    /// The form that the client library reads: with its own scheme, without credentials.
    plain: String,
    credentials: Option<Credentials>,
    options: Vec<(String, String)>,
}

/// A user of the cluster, decoded.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) user: String,
    pub(super) password: String,
}

/// The text is not the URL of a cluster. The message never contains the text, because there may be a password in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not the URL of a cluster: {0}; write it as esdb://HOST:2113, esdb://HOST1,HOST2,HOST3 or esdb+discover://NAME, with ?tls=false for a server without TLS and USER:PASSWORD@ before the host if it requires them"
)]
pub struct InvalidClusterUrl(pub(super) String);

impl ClusterUrl {
    pub(super) fn plain(&self) -> &str {
        &self.plain
    }

    pub(super) fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }

    /// Whether it names several nodes, or a DNS name of several.
    pub(super) fn is_cluster(&self) -> bool {
        self.plain.starts_with("esdb+discover:") || self.hosts().contains(',')
    }

    fn hosts(&self) -> &str {
        let rest = self.plain.split_once("://").map_or("", |(_, rest)| rest);
        rest.split(['/', '?']).next().unwrap_or_default()
    }

    /// The last value of an option, whose name is given in lower case.
    pub(super) fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn tls(&self) -> bool {
        self.option("tls") != Some("false")
    }

    /// The deadline of one call, if the URL sets it.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.option("defaultdeadline")?.parse().ok().map(Duration::from_millis)
    }

    /// Options that this program does not support, and ignores as other clients do.
    pub fn unknown_options(&self) -> impl Iterator<Item = &str> {
        self.options.iter().map(|(key, _)| key.as_str()).filter(|key| !KNOWN_OPTIONS.contains(key))
    }

    /// Whether a text has the scheme of a cluster URL.
    pub fn has_cluster_scheme(text: &str) -> bool {
        text.split_once("://").is_some_and(|(scheme, _)| library_scheme(scheme).is_some())
    }
}

/// The client library's scheme for any of the schemes that such clusters use.
fn library_scheme(scheme: &str) -> Option<&'static str> {
    match scheme.to_ascii_lowercase().as_str() {
        "esdb" | "kurrentdb" | "kurrent" | "kdb" => Some("esdb"),
        "esdb+discover" | "kurrentdb+discover" | "kurrent+discover" | "kdb+discover" => Some("esdb+discover"),
        _ => None,
    }
}

impl FromStr for ClusterUrl {
    type Err = InvalidClusterUrl;

    fn from_str(text: &str) -> Result<Self, InvalidClusterUrl> {
        let invalid = |reason: &str| InvalidClusterUrl(reason.to_owned());
        let (scheme, rest) = text.split_once("://").ok_or_else(|| invalid("it has no scheme"))?;
        let scheme = library_scheme(scheme).ok_or_else(|| invalid("its scheme is not esdb"))?;
        let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (credentials, hosts) = match address.rsplit_once('@') {
            Some((login, hosts)) => (Some(credentials(login)?), hosts),
            None => (None, address),
        };
        let hosts = hosts.strip_suffix('/').unwrap_or(hosts);
        for host in hosts.split(',') {
            check_host(host)?;
        }
        let mut options = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or_else(|| invalid("an option has no value"))?;
            let value = decode(value).ok_or_else(|| invalid("an option is not percent-encoded correctly"))?;
            options.push((key.to_ascii_lowercase(), value));
        }
        let question = if query.is_empty() { "" } else { "?" };
        let url = Self { plain: format!("{scheme}://{hosts}{question}{query}"), credentials, options };
        if let Some(tls) = url.option("tls").filter(|tls| !matches!(*tls, "true" | "false")) {
            return Err(InvalidClusterUrl(format!("tls must be true or false, not {tls:?}")));
        }
        super::client::check(&url)?;
        Ok(url)
    }
}

fn credentials(login: &str) -> Result<Credentials, InvalidClusterUrl> {
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    let decoded = |text: &str| {
        decode(text).ok_or_else(|| {
            InvalidClusterUrl("the user name or password is not percent-encoded correctly".to_owned())
        })
    };
    Ok(Credentials { user: decoded(user)?, password: decoded(password)? })
}

/// Checks a name or address with an optional port. The client library would panic later on anything else.
fn check_host(host: &str) -> Result<(), InvalidClusterUrl> {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !host.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    if let Some(port) = port
        && !port.parse::<u16>().is_ok_and(|port| port > 0)
    {
        return Err(InvalidClusterUrl("a port must be a number from 1 to 65535".to_owned()));
    }
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let is_valid = match bare {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        }
    };
    if is_valid {
        Ok(())
    } else {
        Err(InvalidClusterUrl("a host is missing, or is not a name or address".to_owned()))
    }
}

/// Undoes percent-encoding; `None` if the text is not percent-encoded correctly.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

impl fmt::Display for ClusterUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.plain)
    }
}

impl fmt::Debug for ClusterUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClusterUrl").field(&self.plain).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_credentials() {
        let url: ClusterUrl = "esdb://ann:s%3Acret@db1:2113,db2?tls=false".parse().unwrap();
        let login = url.credentials().unwrap();
        assert_eq!((login.user.as_str(), login.password.as_str()), ("ann", "s:cret"));
        assert_eq!(url.to_string(), "esdb://db1:2113,db2?tls=false");
        assert!(!format!("{url:?}").contains("cret"));
        assert!(url.is_cluster() && !url.tls());
    }

    #[test]
    fn errors_explain_the_url_without_credentials() {
        for wrong in [
            "esdb://",
            "esdb://ann:se/cret@",
            "esdb://ann:secret@host:port",
            "esdb://ann:secret@host:0",
            "esdb://ann:secret@ho st",
            "esdb://ann:secret@host/secret",
            "esdb://ann:%zzsecret@host",
            "esdb://ann:secret@host?tls=maybe",
            "esdb://ann:secret@host?tls",
            "esdb://ann:secret@host?nodePreference=best",
            "esdb://ann:secret@host?keepAliveInterval=soon",
            "esdb://ann:secret@host?userCertFile=alone.pem",
            "esdb://ann:secret@a,,b",
            "esdb://ann:secret@[::g]:2113",
            "http://ann:secret@host",
            "secret",
        ] {
            let message = wrong.parse::<ClusterUrl>().unwrap_err().to_string();
            assert!(message.contains("write it as esdb://HOST:2113"), "{message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }

    #[test]
    fn kurrentdb_schemes_are_equivalent() {
        let urls = ["esdb+discover://db", "kurrentdb+discover://db", "kdb+discover://db"];
        let urls = urls.map(|url| url.parse::<ClusterUrl>().unwrap());
        assert!(urls.iter().all(|url| *url == urls[0] && url.is_cluster() && url.tls()));
    }

    #[test]
    fn unknown_options_are_listed() {
        let url: ClusterUrl = "esdb://[::1]:2113?tlsVerifyCerts=false&defaultDeadline=500".parse().unwrap();
        assert_eq!(url.unknown_options().collect::<Vec<_>>(), ["tlsverifycerts"]);
        assert_eq!(url.deadline(), Some(Duration::from_millis(500)));
    }
}
