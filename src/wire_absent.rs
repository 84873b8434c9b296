//! In place of the EventStoreDB protocol, where the program is built without it.

use event_log::Log;
use event_log::clock::Clock;
use read_api::server::Part;

use crate::cli::Failure;
use crate::config::Config;

/// There is none.
pub(crate) enum Wire {}

impl Wire {
    /// # Errors
    /// The settings ask for the protocol.
    pub(crate) async fn start(config: &Config, _: &Log, _: Clock) -> Result<Option<Self>, Failure> {
        match config.esdb_listen {
            None => Ok(None),
            Some(_) => Err(Failure::Usage(
                "--esdb-listen: this program was built without the EventStoreDB protocol; build it with the feature `wire`"
                    .to_owned(),
            )),
        }
    }

    pub(crate) fn part(&self) -> Part {
        match *self {}
    }

    pub(crate) fn send_home(&self) {
        match *self {}
    }

    pub(crate) async fn stop(self) {
        match self {}
    }
}
