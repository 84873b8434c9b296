//! `matchbook vault`: the names of people and their keys, which lie outside the event log and its backups.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use commands::vault::BackupError;
use serde_json::json;

use super::{Failure, print};
use crate::wiring::vault_failure;

#[derive(Subcommand, Debug)]
pub(crate) enum Vault {
    /// Copy the vault, of a running server or a stopped one, into a file of its own
    Backup(Backup),
}

#[derive(Args, Debug)]
pub(crate) struct Backup {
    /// The data folder of the server, which may be running
    #[arg(long, env = "MATCHBOOK_DATA", value_name = "FOLDER", default_value = "./data")]
    data: PathBuf,
    /// The file to make; one that is there is left as it is
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
}

impl Vault {
    pub(crate) async fn run(self, json: bool) -> Result<(), Failure> {
        let Self::Backup(Backup { data, to }) = self;
        let vault = data.join("vault.sqlite");
        let people = commands::vault::back_up(&vault, &to).await.map_err(|error| {
            let message = error.to_string();
            match error {
                BackupError::NoVault(_) | BackupError::Taken(_) => Failure::Usage(message),
                BackupError::Vault(error) => vault_failure(&vault, &error),
                BackupError::File { .. } => Failure::Disk(message),
            }
        })?;
        if json {
            return print(&json!({ "file": to, "people": people }));
        }
        print(&format_args!(
            "{} holds the names and keys of {people} people, readable by its owner alone; keep it apart from the log's backup, and no longer than erased people may be remembered",
            to.display()
        ))
    }
}
