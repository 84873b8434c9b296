//! The server of the EventStoreDB protocol and its users, from the settings.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use event_log::clock::Clock;
use event_log_embedded::EmbeddedLog;
use event_log_esdb::wire::{
    Access, EndPoint, Fault, FaultSwitch, Right, Server, Settings, StartError, TlsIdentity, User,
};
use read_api::server::{Component, ComponentHealth};
use tokio::signal::unix::{SignalKind, signal};

use crate::address::ReservedAddress;
use crate::config::Config;
use crate::failure::Failure;
use crate::open_files;

/// The server of the protocol.
pub(crate) struct Wire {
    server: Server,
    grace: Duration,
}

impl Wire {
    /// Serves the log, if the settings name an address.
    ///
    /// # Errors
    /// An invalid setting, an address in use, or an address that other machines can reach without a password.
    pub(crate) async fn start(
        config: &Config,
        reserved: Option<ReservedAddress>,
        log: Option<&EmbeddedLog>,
        clock: Clock,
    ) -> Result<Option<Self>, Failure> {
        let Some((address, reserved)) = config.esdb_listen.zip(reserved) else { return Ok(None) };
        let Some(log) = log else {
            return Err(Failure::Usage(
                "--esdb-listen serves the embedded log only; a log on a cluster is served by the cluster itself"
                    .to_owned(),
            ));
        };
        let mut settings = settings(config, address)?;
        settings.connections_max = open_files::protocol_connections_max(settings.connections_max);
        let (anonymous, tls) = (settings.access.anonymous.is_some(), settings.tls.is_some());
        let listener = reserved.listen()?;
        let server = Server::start(listener, log.clone(), clock, settings).map_err(|error| match error {
            StartError::Listener(error) => open_files::listen_failure(address, "--esdb-listen", &error),
            StartError::TlsIdentity(error) => Failure::Usage(format!("--esdb-tls-cert: {error}")),
        })?;
        if let Some(file) = &config.esdb_faults {
            watch_fault_file(file.clone(), server.faults())?;
        }
        tracing::info!(address = %server.address(), tls, "serving the EventStoreDB protocol");
        if !tls && !address.ip().is_loopback() {
            tracing::warn!(
                "the EventStoreDB protocol sends passwords and events unencrypted; set \
                 MATCHBOOK_ESDB_TLS_CERT and MATCHBOOK_ESDB_TLS_KEY to change that"
            );
        }
        if anonymous {
            tracing::warn!(
                "the EventStoreDB protocol needs no password: every user of this machine can read all events; set \
                 MATCHBOOK_ESDB_USERS to change that"
            );
        }
        Ok(Some(Self { server, grace: config.shutdown_grace }))
    }

    /// Checks its settings and reserves its address, before anything is opened.
    ///
    /// # Errors
    /// The setting that is wrong, or an address in use.
    pub(crate) fn reserve(config: &Config) -> Result<Option<ReservedAddress>, Failure> {
        let Some(address) = config.esdb_listen else { return Ok(None) };
        settings(config, address)?;
        ReservedAddress::new(address, "--esdb-listen").map(Some)
    }

    /// Its health, for `/status`.
    pub(crate) fn component(&self) -> Component {
        let (address, connections) = (self.server.address(), self.server.connections());
        Component::new("eventstoredb_protocol", move || ComponentHealth {
            ready: true,
            position: None,
            detail: format!("listens on {address}, {} connections", connections.open()),
        })
    }

    pub(crate) fn cancel_waiters(&self) {
        self.server.cancel_waiters();
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
            users.push(user(&text.0, right)?);
        }
    }
    if users.is_empty() && !address.ip().is_loopback() {
        return Err(Failure::Usage(format!(
            "refusing to serve the EventStoreDB protocol on {address} without passwords: every client that can reach it could \
             read and append; set MATCHBOOK_ESDB_USERS, or listen on 127.0.0.1"
        )));
    }
    let has_keys =
        config.jwt_secret.is_some() || !config.jwt_key_files.is_empty() || config.api_keys_file.is_some();
    if users.is_empty() && has_keys {
        return Err(Failure::Usage(format!(
            "refusing to serve the EventStoreDB protocol on {address} without passwords: the API needs keys, and every user of \
             this machine could read and append without any; set MATCHBOOK_ESDB_USERS"
        )));
    }
    // Trusted users alone do not close the protocol for anonymous users of this machine, unless the API is closed.
    let is_open = config.esdb_users.is_empty() && address.ip().is_loopback() && !has_keys;
    let anonymous = is_open.then_some(Right::Clients);
    let advertised = config.esdb_advertise.as_deref().map(str::parse::<EndPoint>).transpose();
    let advertised = advertised.map_err(|error| Failure::Usage(format!("--esdb-advertise: {error}")))?;
    let tls = match (config.esdb_tls_cert.clone(), config.esdb_tls_key.clone()) {
        (Some(certificates), Some(key)) => Some(TlsIdentity { certificates, key }),
        (None, None) => None,
        // The parser checks this for flags, but not for the settings file.
        _ => {
            return Err(Failure::Usage("set both --esdb-tls-cert and --esdb-tls-key, or neither".to_owned()));
        }
    };
    Ok(Settings { access: Access { users, anonymous }, tls, advertised, ..Settings::default() })
}

fn user(text: &str, right: Right) -> Result<User, Failure> {
    match text.split_once(':') {
        Some((name, password)) if !name.is_empty() && !password.is_empty() => {
            Ok(User { name: name.to_owned(), password: password.to_owned(), right })
        }
        // The text is not printed: it may be a password.
        _ => Err(Failure::Usage(
            "users of the EventStoreDB protocol are written as NAME:PASSWORD, separated by commas".to_owned(),
        )),
    }
}

/// Reads the fault to simulate from the file at each SIGUSR1.
fn watch_fault_file(file: PathBuf, faults: FaultSwitch) -> Result<(), Failure> {
    let mut signals = signal(SignalKind::user_defined1())
        .map_err(|error| Failure::Failed(format!("cannot wait for signals: {error}")))?;
    tokio::spawn(async move {
        while signals.recv().await.is_some() {
            let text = tokio::fs::read_to_string(&file).await.unwrap_or_default();
            match text.trim() {
                "" => faults.clear(),
                text => match text.parse::<Fault>() {
                    Ok(fault) => faults.set(fault),
                    Err(error) => {
                        tracing::error!(%error, "invalid fault file; the injected fault is unchanged");
                        continue;
                    }
                },
            }
            tracing::warn!(fault = text.trim(), "the EventStoreDB protocol injects a fault for a test");
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings_for(address: &str, arguments: &[&str]) -> Result<Settings, String> {
        let config = crate::config::parse(arguments).unwrap();
        settings(&config, address.parse().unwrap()).map_err(|failure| format!("{failure:?}"))
    }

    #[test]
    fn reachable_address_needs_passwords() {
        let refused = settings_for("0.0.0.0:2113", &[]).unwrap_err();
        assert!(refused.contains("MATCHBOOK_ESDB_USERS") && refused.contains("127.0.0.1"), "{refused}");
        let open = settings_for("127.0.0.1:2113", &[]).unwrap();
        assert_eq!(open.access.anonymous, Some(Right::Clients));
        for users in ["--esdb-users=ann:secret", "--esdb-trusted-users=ann:secret"] {
            let closed = settings_for("0.0.0.0:2113", &[users]).unwrap();
            assert_eq!((closed.access.users.len(), closed.access.anonymous), (1, None));
        }
    }

    #[test]
    fn trusted_users_do_not_disable_anonymous_access() {
        let both = settings_for("127.0.0.1:2113", &["--esdb-trusted-users=a:1,b:2:3"]).unwrap();
        assert_eq!(both.access.anonymous, Some(Right::Clients));
        let trusted = |name: &str, password: &str| User {
            name: name.to_owned(),
            password: password.to_owned(),
            right: Right::Domain,
        };
        assert_eq!(both.access.users, [trusted("a", "1"), trusted("b", "2:3")]);
        let closed = settings_for("127.0.0.1:2113", &["--esdb-users=c:4"]).unwrap();
        assert_eq!(closed.access.anonymous, None);
    }

    #[test]
    fn keys_of_the_api_close_the_protocol_too() {
        let secret = format!("--jwt-secret={}", "k".repeat(32));
        for key in [secret.as_str(), "--jwt-key-files=a.pem", "--api-keys-file=keys.json"] {
            let refused = settings_for("127.0.0.1:2113", &[key]).unwrap_err();
            assert!(refused.contains("MATCHBOOK_ESDB_USERS") && refused.contains("keys"), "{refused}");
            let trusted = settings_for("127.0.0.1:2113", &[key, "--esdb-trusted-users=a:1"]).unwrap();
            assert_eq!(trusted.access.anonymous, None);
        }
    }

    #[test]
    fn user_without_a_password_is_refused_and_not_printed() {
        for wrong in ["hunter2", "ann:", ":hunter2"] {
            let refused = settings_for("127.0.0.1:2113", &["--esdb-users", wrong]).unwrap_err();
            assert!(refused.contains("NAME:PASSWORD") && !refused.contains("hunter2"), "{refused}");
        }
    }

    #[test]
    fn advertised_address_is_a_host_and_a_port() {
        let advertised =
            settings_for("127.0.0.1:0", &["--esdb-advertise=db.example:2113"]).unwrap().advertised;
        assert_eq!(advertised, Some(EndPoint { host: "db.example".to_owned(), port: 2113 }));
        assert!(
            settings_for("127.0.0.1:0", &["--esdb-advertise=db.example"]).unwrap_err().contains("HOST:PORT")
        );
    }
}
