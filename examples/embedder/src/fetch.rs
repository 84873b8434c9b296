//! Downloading of images. Their addresses come from elsewhere, so they must not lead into the network of the worker.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use matchbook_worker::client::{causes, pause};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy;
use reqwest::{Client, Url};

use crate::picture::BYTES_MAX;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(30);
/// The number of attempts, if an image's server is busy or unreachable.
const ATTEMPTS: u32 = 3;

/// Why an image was not downloaded.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("the address `{0}` is not one of http or https")]
    Address(String),
    #[error("the address leads to {0}, which is not public; --allow-private-addresses allows it")]
    Private(String),
    #[error("the server of the image answered {0}")]
    Status(u16),
    #[error("the image has more than {BYTES_MAX} bytes")]
    Large,
    #[error("the image cannot be downloaded: {0}")]
    Network(String),
}

impl FetchError {
    /// Whether a further attempt may succeed.
    fn is_transient(&self) -> bool {
        match self {
            Self::Network(_) => true,
            Self::Status(status) => *status >= 500 || *status == 429,
            _ => false,
        }
    }
}

/// Whether an address is reachable from anywhere, and so no part of an inner network.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(mapped) => is_public_v4(mapped),
            None => is_public_v6(address),
        },
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [first, second, third, _] = address.octets();
    let is_shared = first == 100 && (64..128).contains(&second);
    let is_reserved = first == 0 || first >= 240 || (first, second, third) == (192, 0, 0);
    let is_benchmark = first == 198 && (18..20).contains(&second);
    !(address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation()
        || is_shared
        || is_reserved
        || is_benchmark)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [first, second, ..] = address.segments();
    // Global unicast addresses start with 001. Some of them carry an IPv4 address, to which a router would send the packet.
    let is_global = first & 0xe000 == 0x2000;
    let carries_v4 = first == 0x2002 || (first == 0x2001 && second == 0);
    let is_documentation = first == 0x2001 && second == 0x0db8;
    is_global && !carries_v4 && !is_documentation
}

/// Resolves names to public addresses only, so that the address that was checked is the one that is connected to.
#[derive(Clone, Copy, Debug)]
struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            if let Some(private) = found.iter().find(|address| !is_public(address.ip())) {
                return Err(FetchError::Private(format!("{} ({})", name.as_str(), private.ip())).into());
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// Downloads images.
#[derive(Clone, Debug)]
pub struct Fetcher {
    client: Client,
    allow_private: bool,
    /// The Matchbook server, where paths without a host lead.
    server: String,
}

impl Fetcher {
    /// # Errors
    /// If the HTTP client cannot be set up.
    pub fn new(server: &str, allow_private: bool) -> Result<Self, reqwest::Error> {
        let builder = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            // A redirect could lead into the inner network.
            .redirect(Policy::none())
            .user_agent(concat!("matchbook-embedder/", env!("CARGO_PKG_VERSION")))
            .no_proxy();
        let builder = if allow_private { builder } else { builder.dns_resolver(Arc::new(PublicOnly)) };
        Ok(Self { client: builder.build()?, allow_private, server: server.to_owned() })
    }

    /// The bytes of an image.
    ///
    /// # Errors
    /// [`FetchError`], after three attempts if the server of the image is busy or unreachable.
    pub async fn fetch(&self, address: &str) -> Result<Vec<u8>, FetchError> {
        let url = self.url(address)?;
        let mut attempts = 0;
        loop {
            let fetched = self.attempt(url.clone()).await;
            attempts += 1;
            match fetched {
                Err(error) if error.is_transient() && attempts < ATTEMPTS => {
                    tokio::time::sleep(pause(attempts, None)).await;
                }
                fetched => return fetched,
            }
        }
    }

    fn url(&self, address: &str) -> Result<Url, FetchError> {
        let wrong = || FetchError::Address(address.chars().take(200).collect());
        let address = if address.starts_with('/') && !address.starts_with("//") {
            // The operator has named this server.
            return Url::parse(&format!("{}{address}", self.server)).map_err(|_| wrong());
        } else {
            address
        };
        let url = Url::parse(address).map_err(|_| wrong())?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(wrong());
        }
        // A literal address is not resolved.
        let literal = url.host_str().and_then(|host| host.trim_matches(['[', ']']).parse::<IpAddr>().ok());
        match literal {
            Some(literal) if !self.allow_private && !is_public(literal) => {
                Err(FetchError::Private(literal.to_string()))
            }
            _ => Ok(url),
        }
    }

    async fn attempt(&self, url: Url) -> Result<Vec<u8>, FetchError> {
        let network = |error: &reqwest::Error| {
            let text = causes(error);
            if text.contains("which is not public") {
                FetchError::Private(error.url().and_then(Url::host_str).unwrap_or("a host").to_owned())
            } else {
                FetchError::Network(text.chars().take(300).collect())
            }
        };
        let mut response = self.client.get(url).send().await.map_err(|error| network(&error))?;
        if !response.status().is_success() {
            return Err(FetchError::Status(response.status().as_u16()));
        }
        if response.content_length().is_some_and(|length| length > BYTES_MAX as u64) {
            return Err(FetchError::Large);
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| network(&error))? {
            if bytes.len() + chunk.len() > BYTES_MAX {
                return Err(FetchError::Large);
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_inner_networks_are_not_public() {
        for inner in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "192.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "ff02::1",
            "2002:7f00:1::",
            "64:ff9b::a00:1",
            "2001:db8::1",
        ] {
            assert!(!is_public(inner.parse().unwrap()), "{inner}");
        }
        for public in ["8.8.8.8", "1.1.1.1", "172.32.0.1", "2606:4700::1111", "::ffff:8.8.8.8"] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
    }

    fn fetcher(allow_private: bool) -> Fetcher {
        let _ = matchbook_worker::client::Client::new("http://127.0.0.1", None).unwrap();
        Fetcher::new("http://127.0.0.1:1", allow_private).unwrap()
    }

    #[tokio::test]
    async fn private_addresses_are_refused_by_number_and_by_name() {
        for address in [
            "http://127.0.0.1/a.png",
            "http://[::1]/a",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://localhost/a",
        ] {
            let refused = fetcher(false).fetch(address).await.unwrap_err();
            assert!(matches!(refused, FetchError::Private(_)), "{address}: {refused}");
        }
    }

    #[tokio::test]
    async fn other_schemes_are_refused() {
        for address in
            ["file:///etc/passwd", "ftp://a.example/a", "data:image/png;base64,AA", "//a.example/a", "a"]
        {
            let refused = fetcher(true).fetch(address).await.unwrap_err();
            assert!(matches!(refused, FetchError::Address(_)), "{address}: {refused}");
        }
    }
}
