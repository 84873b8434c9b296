//! Replaces `wire.rs` in a program that is built without the feature `wire`.

use event_log::clock::Clock;
use event_log_embedded::EmbeddedLog;
use read_api::server::Component;

use crate::address::ReservedAddress;
use crate::config::Config;
use crate::failure::Failure;

/// The server of the EventStoreDB protocol, which this program does not support.
pub(crate) enum Wire {}

impl Wire {
    /// # Errors
    /// The settings enable the protocol.
    pub(crate) fn reserve(config: &Config) -> Result<Option<ReservedAddress>, Failure> {
        match config.esdb_listen {
            None => Ok(None),
            Some(_) => Err(Failure::Usage(
                "--esdb-listen: this program was built without the EventStoreDB protocol; build it with the feature `wire`"
                    .to_owned(),
            )),
        }
    }

    /// # Errors
    /// None: the settings were checked.
    pub(crate) async fn start(
        _: &Config,
        _: Option<ReservedAddress>,
        _: Option<&EmbeddedLog>,
        _: Clock,
    ) -> Result<Option<Self>, Failure> {
        Ok(None)
    }

    pub(crate) fn component(&self) -> Component {
        match *self {}
    }

    pub(crate) fn cancel_waiters(&self) {
        match *self {}
    }

    pub(crate) async fn stop(self) {
        match self {}
    }
}
