//! The EventStoreDB protocol beside the API: who may use it, from the settings.

use std::net::SocketAddr;
use std::time::Duration;

use event_log::Log;
use event_log::clock::Clock;
use event_log::wire::{Access, EndPoint, Right, Server, Settings, User};
use read_api::server::{Part, Standing};
use tokio::net::TcpListener;

use crate::cli::Failure;
use crate::config::Config;

/// The server of the protocol.
pub(crate) struct Wire {
    server: Server,
    grace: Duration,
}

impl Wire {
    /// Serves the log as the settings say; not at all if they name no address.
    ///
    /// # Errors
    /// A setting that is none, an address that is taken, or one that others can reach without a password.
    pub(crate) async fn start(config: &Config, log: &Log, clock: Clock) -> Result<Option<Self>, Failure> {
        let Some(address) = config.esdb_listen else { return Ok(None) };
        let Log::Embedded(log) = log else {
            return Err(Failure::Usage(
                "--esdb-listen serves the embedded log; a log on a cluster is served by the cluster itself"
                    .to_owned(),
            ));
        };
        let settings = settings(config, address)?;
        let anonymous = settings.access.anonymous.is_some();
        let cannot = |error: std::io::Error| {
            Failure::InUse(format!(
                "cannot listen on {address}: {error}; choose another address with --esdb-listen"
            ))
        };
        let listener = TcpListener::bind(address).await.map_err(cannot)?;
        let server = Server::start(listener, log.clone(), clock, settings).map_err(cannot)?;
        tracing::info!(address = %server.address(), "serving the EventStoreDB protocol");
        if anonymous {
            tracing::warn!(
                "the EventStoreDB protocol asks nobody for a password: everyone on this machine can read all events; set \
                 MATCHBOOK_ESDB_USERS to change that"
            );
        }
        Ok(Some(Self { server, grace: config.shutdown_grace }))
    }

    /// What `/status` says of it.
    pub(crate) fn part(&self) -> Part {
        let (address, connections) = (self.server.address(), self.server.connections());
        Part::new("eventstoredb_protocol", move || Standing {
            ready: true,
            position: None,
            detail: format!("listens on {address}, {} connections", connections.open()),
        })
    }

    pub(crate) fn send_home(&self) {
        self.server.send_home();
    }

    pub(crate) async fn stop(self) {
        self.server.stop(self.grace).await;
    }
}

fn settings(config: &Config, address: SocketAddr) -> Result<Settings, Failure> {
    let mut users = Vec::new();
    for (texts, right) in [(&config.esdb_users, Right::Clients), (&config.esdb_trusted_users, Right::Domain)]
    {
        for text in texts {
            users.push(user(text, right)?);
        }
    }
    if users.is_empty() && !address.ip().is_loopback() {
        return Err(Failure::Usage(format!(
            "refusing to serve the EventStoreDB protocol on {address} without passwords: everyone who can reach it could \
             read and append; set MATCHBOOK_ESDB_USERS, or listen on 127.0.0.1"
        )));
    }
    // A trusted user alone does not shut the others on this machine out.
    let is_open = config.esdb_users.is_empty() && address.ip().is_loopback();
    let anonymous = is_open.then_some(Right::Clients);
    let advertised = config.esdb_advertise.as_deref().map(advertised).transpose()?;
    Ok(Settings { access: Access { users, anonymous }, advertised, ..Settings::default() })
}

fn user(text: &str, right: Right) -> Result<User, Failure> {
    match text.split_once(':') {
        Some((name, password)) if !name.is_empty() && !password.is_empty() => {
            Ok(User { name: name.to_owned(), password: password.to_owned(), right })
        }
        // The text is not shown: it may be a password.
        _ => Err(Failure::Usage(
            "users of the EventStoreDB protocol are written as NAME:PASSWORD, separated by commas".to_owned(),
        )),
    }
}

fn advertised(text: &str) -> Result<EndPoint, Failure> {
    text.rsplit_once(':')
        .and_then(|(host, port)| Some(EndPoint { host: host.to_owned(), port: port.parse().ok()? }))
        .filter(|at| !at.host.is_empty())
        .ok_or_else(|| {
            Failure::Usage(format!(
                "--esdb-advertise: {text:?} is not written as HOST:PORT, as in localhost:2113"
            ))
        })
}
