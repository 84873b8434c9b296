//! `matchbook vault`: the subject vault with the names and keys of users, which is not part of the event log or its backups.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;
use vault::BackupError;

use matchbook::failure::{Failure, print, vault_failure};

#[derive(Subcommand, Debug)]
pub(crate) enum Vault {
    /// Back up the vault of a running or stopped server to a file
    Backup(Backup),
}

#[derive(Args, Debug)]
pub(crate) struct Backup {
    /// The data folder of the server, which may be running
    #[arg(long, env = "MATCHBOOK_DATA", value_name = "FOLDER", default_value = "./data")]
    data: PathBuf,
    /// The file to create; an existing file is not overwritten
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
}

impl Vault {
    pub(crate) async fn run(self, json: bool) -> Result<(), Failure> {
        let Self::Backup(Backup { data, to }) = self;
        let vault = data.join("vault.sqlite");
        let users = vault::back_up(&vault, &to).await.map_err(|error| {
            let message = error.to_string();
            match error {
                BackupError::NotAVault(_) | BackupError::Exists(_) => Failure::Usage(message),
                BackupError::Vault(error) => vault_failure(&vault, &error),
                BackupError::File { .. } => Failure::Disk(message),
            }
        })?;
        if json {
            return print(&json!({ "file": to, "users": users }));
        }
        print(&format_args!(
            "{} contains the names and keys of {users} users, and only its owner can read it; store it separately from the log's backup, and no longer than data of erased users may be retained",
            to.display()
        ))
    }
}
