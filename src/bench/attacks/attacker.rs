//! The attacks: each from one caller, or from a client without credentials.

use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use super::{Victim, http2};
use crate::image_match;

/// The length of a large body, which is under the limit of bulk bodies.
const BODY_BYTES: usize = 14_500_000;

/// What an attacker does.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(in crate::attacks) enum Attack {
    /// Two bodies of 14.5 MB of empty objects at once, from a caller that may not send them.
    BodiesWithoutRole,
    /// The same from a caller that may.
    BodiesOfEmptyItems,
    /// Batches of 10,000 valid matches, two at once.
    Matches,
    /// Jobs with much metadata, and lists of them.
    Metadata,
    /// 500 bodies of long polls that never arrive.
    SlowBodies,
    /// 5,000 connections that send nothing or half a header.
    IdleConnections,
    /// 50 summaries of the largest job at once, recomputed from the log.
    ForcedRefreshes,
    /// The whole log as lines, eight times at once.
    AuditLines,
    /// Streams that are opened and not read.
    UnreadStreams,
    /// WebSockets that send pings and read nothing.
    Pings,
    /// 64 requests at once without credentials.
    Unauthorized,
    /// 64 lists at once.
    Lists,
    /// Requests over HTTP/2 that are reset at once.
    Resets,
    /// Calls of the EventStoreDB protocol without credentials that announce 16 MiB.
    WireBodies,
    /// 2,000 connections to the EventStoreDB protocol that send nothing or half a preface.
    WireConnections,
}

impl Attack {
    pub(super) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Starts the attackers, which end with their runtime.
    pub(super) fn start(self, victim: &Arc<Victim>, attackers: &Runtime) {
        let connections = match self {
            Self::BodiesWithoutRole | Self::BodiesOfEmptyItems | Self::Matches => 2,
            Self::Metadata | Self::AuditLines => 8,
            Self::SlowBodies => 500,
            Self::IdleConnections => 5_000,
            Self::ForcedRefreshes => 50,
            Self::UnreadStreams => 1_000,
            Self::Pings | Self::WireBodies | Self::Resets => 4,
            Self::Unauthorized | Self::Lists => 64,
            Self::WireConnections => 2_000,
        };
        let body: Arc<[u8]> = self.body().into();
        for number in 0..connections {
            let (victim, body) = (victim.clone(), body.clone());
            attackers.spawn(async move {
                loop {
                    // A refused connection is tried again.
                    let _ = self.attack(&victim, number, &body).await;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            });
        }
    }

    fn body(self) -> Vec<u8> {
        match self {
            Self::BodiesWithoutRole | Self::BodiesOfEmptyItems => {
                let mut body = vec![b'['];
                body.extend(b"{},".repeat(BODY_BYTES / 3));
                body.extend(b"{}]");
                body
            }
            Self::Matches => {
                let matches: Vec<Value> = (200_000..210_000).map(image_match).collect();
                Value::from(matches).to_string().into_bytes()
            }
            Self::Metadata => json!({ "metadata": { "text": "x".repeat(16_000) } }).to_string().into_bytes(),
            _ => Vec::new(),
        }
    }

    async fn attack(self, victim: &Victim, number: usize, body: &[u8]) -> std::io::Result<()> {
        let matches = format!("/jobs/{}/matches", victim.job);
        let job = format!("/jobs/{}", victim.job);
        match self {
            Self::BodiesWithoutRole => request(victim, Method::POST, &matches, &victim.user, body).await,
            Self::BodiesOfEmptyItems | Self::Matches => {
                request(victim, Method::POST, &matches, &victim.worker, body).await
            }
            Self::Metadata if number < 2 => {
                request(victim, Method::GET, "/jobs?limit=500", &victim.user, b"").await
            }
            Self::Metadata => request(victim, Method::POST, "/jobs", &victim.user, body).await,
            Self::SlowBodies => {
                let mut stream =
                    open(victim, Method::POST, "/internal/work/claim", &victim.worker, 10).await?;
                wait_for_end(&mut stream).await
            }
            Self::IdleConnections => {
                hold(victim.address(), if number.is_multiple_of(2) { b"" } else { b"GET /jo" }).await
            }
            Self::ForcedRefreshes => {
                let path = format!("{job}/matching/summary?force_refresh=true");
                request(victim, Method::GET, &path, &victim.user, b"").await
            }
            Self::AuditLines => {
                let mut stream = open(victim, Method::GET, "/audit/events", &victim.user, 0).await?;
                wait_for_end(&mut stream).await
            }
            Self::UnreadStreams => {
                let path = format!("{job}/matching/stream");
                let _stream = open(victim, Method::GET, &path, &victim.user, 0).await?;
                std::future::pending().await
            }
            Self::Pings => pings(victim, &job).await,
            Self::Unauthorized => request(victim, Method::GET, "/jobs", "no.such.token", b"").await,
            Self::Lists => request(victim, Method::GET, "/jobs?limit=100", &victim.user, b"").await,
            Self::Resets => http2::reset_requests(victim.address()).await,
            Self::WireBodies => http2::announce_bodies(&victim.wire).await,
            Self::WireConnections => {
                hold(&victim.wire, if number.is_multiple_of(2) { b"" } else { b"PRI * HT" }).await
            }
        }
    }
}

/// Sends the head of a request over HTTP/1.1.
async fn open(
    victim: &Victim,
    method: Method,
    path: &str,
    token: &str,
    length: usize,
) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(victim.address()).await?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\
         accept: application/x-ndjson, application/json, text/event-stream\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    Ok(stream)
}

/// Sends a request, and reads and discards its response.
async fn request(
    victim: &Victim,
    method: Method,
    path: &str,
    token: &str,
    body: &[u8],
) -> std::io::Result<()> {
    let mut stream = open(victim, method, path, token, body.len()).await?;
    stream.write_all(body).await?;
    wait_for_end(&mut stream).await
}

async fn wait_for_end(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}

/// Keeps a connection until the server closes it.
async fn hold(address: &str, first: &[u8]) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(first).await?;
    wait_for_end(&mut stream).await
}

/// Opens a WebSocket, and sends pings of the greatest length without reading.
async fn pings(victim: &Victim, job: &str) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(victim.address()).await?;
    let head = format!(
        "GET {job}/matching/ws HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\nconnection: upgrade\r\n\
         upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        victim.user
    );
    stream.write_all(head.as_bytes()).await?;
    // Masked with zeros.
    let ping = [&[0x89, 0x80 | 125, 0, 0, 0, 0][..], &[b'p'; 125]].concat().repeat(100);
    loop {
        stream.write_all(&ping).await?;
    }
}
