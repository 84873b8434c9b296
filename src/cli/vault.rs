//! `matchbook vault`: the subject vault with the names and keys of users, which is not part of the event log or its backups.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use projections::PostgresUrl;
use serde_json::json;
use vault::BackupError;

use matchbook::config::secret_url;
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
    /// The `postgres://` URL of the database that contains the vault; prefer the environment if it contains a password. Default: the vault is in the data folder
    #[arg(long, env = "MATCHBOOK_READ_STORE", value_name = "URL", hide_env_values = true, value_parser = secret_url::<PostgresUrl>())]
    read_store: Option<PostgresUrl>,
    /// The file to create; an existing file is not overwritten
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
}

impl Vault {
    pub(crate) async fn run(self, json: bool) -> Result<(), Failure> {
        let Self::Backup(Backup { data, read_store, to }) = self;
        let (backup, place) = match read_store {
            Some(url) => (vault::back_up_database(url.options(), &to).await, url.to_string()),
            None => {
                let vault = data.join("vault.sqlite");
                (vault::back_up(&vault, &to).await, vault.display().to_string())
            }
        };
        let users = backup.map_err(|error| {
            let message = error.to_string();
            match error {
                BackupError::NotAVault(_) | BackupError::Exists(_) => Failure::Usage(message),
                BackupError::NoVault => Failure::Usage(format!("{place}: {message}")),
                BackupError::Vault(error) => vault_failure(&place, &error),
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
