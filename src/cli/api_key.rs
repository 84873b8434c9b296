//! `matchbook api-key`: makes, lists and revokes API keys in the file that the server reads.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use event_log::clock::Clock;
use event_schemas::ids::{Tenant, UserId};
use serde_json::json;
use web::caller::{Role, api_key_hash, new_api_key};

use matchbook::api_keys::{self, ApiKeyEntry};
use matchbook::failure::{Failure, print};

/// The file with the keys.
#[derive(Args, Debug)]
pub(crate) struct KeyFile {
    /// The file with the hashed keys, as `matchbook serve --api-keys-file` reads it
    #[arg(long, env = "MATCHBOOK_API_KEYS_FILE", value_name = "FILE")]
    api_keys_file: PathBuf,
}

#[derive(Subcommand, Debug)]
pub(crate) enum ApiKey {
    /// Make a key and print it; it is shown only once. A running server accepts it within about a second
    #[command(
        after_help = "Example:\n  matchbook api-key new --api-keys-file keys.json --id ci --tenant acme --role service"
    )]
    New {
        #[command(flatten)]
        file: KeyFile,
        /// The name of the key in lists and in the server's log
        #[arg(long, value_name = "ID")]
        id: String,
        /// The tenant of the bearer
        #[arg(long, value_name = "TENANT", default_value = "default")]
        tenant: Tenant,
        /// The user id of the bearer, if it acts as one user
        #[arg(long, value_name = "USER")]
        user: Option<UserId>,
        /// A role of the bearer: user, worker, service, auditor, admin; may be repeated
        #[arg(long = "role", value_name = "ROLE", required = true)]
        roles: Vec<Role>,
    },
    /// List the keys, without anything that could be used as one
    List {
        #[command(flatten)]
        file: KeyFile,
    },
    /// Revoke a key. A running server refuses it within about a second
    Revoke {
        #[command(flatten)]
        file: KeyFile,
        /// The name of the key
        #[arg(value_name = "ID")]
        id: String,
    },
}

impl ApiKey {
    pub(crate) fn run(self, json: bool) -> Result<(), Failure> {
        match self {
            Self::New { file, id, tenant, user, roles } => {
                let entry = ApiKeyEntry {
                    id,
                    sha256: String::new(),
                    tenant: tenant.to_string(),
                    user: user.map(|user| user.to_string()),
                    roles: roles.iter().map(ToString::to_string).collect(),
                    created_at: Some(Clock::System.now().to_string()),
                };
                new(&file, entry, json)
            }
            Self::List { file } => list(&file, json),
            Self::Revoke { file, id } => revoke(&file, &id, json),
        }
    }
}

fn new(file: &KeyFile, entry: ApiKeyEntry, json: bool) -> Result<(), Failure> {
    let file = &file.api_keys_file;
    let mut entries = if file.exists() { api_keys::read(file)? } else { Vec::new() };
    let id = &entry.id;
    if id.is_empty() || id.chars().any(char::is_control) {
        return Err(Failure::Usage("--id must be a name without control characters".to_owned()));
    }
    if entries.iter().any(|existing| existing.id == *id) {
        return Err(Failure::Usage(format!(
            "{} already has a key `{id}`; choose another --id, or revoke that key first",
            file.display()
        )));
    }
    let key =
        new_api_key().ok_or_else(|| Failure::Failed("the system provides no random bytes".to_owned()))?;
    let entry = ApiKeyEntry { sha256: api_key_hash(&key), ..entry };
    let answer = json!({ "id": entry.id, "key": key });
    entries.push(entry);
    api_keys::write(file, &entries)?;
    if json { print(&answer) } else { print(&key) }
}

fn list(file: &KeyFile, json: bool) -> Result<(), Failure> {
    let entries = api_keys::read(&file.api_keys_file)?;
    if json {
        let items = entries.iter().map(|entry| {
            json!({
                "id": entry.id, "tenant": entry.tenant, "user": entry.user, "roles": entry.roles,
                "created_at": entry.created_at,
            })
        });
        return print(&json!({ "items": items.collect::<Vec<_>>() }));
    }
    for ApiKeyEntry { id, tenant, user, roles, created_at, .. } in entries {
        let user = user.map(|user| format!(", user {user}")).unwrap_or_default();
        let created_at = created_at.map(|at| format!(", made at {at}")).unwrap_or_default();
        print(&format!("{id}: tenant {tenant}{user}, roles {}{created_at}", roles.join(", ")))?;
    }
    Ok(())
}

fn revoke(file: &KeyFile, id: &str, json: bool) -> Result<(), Failure> {
    let file = &file.api_keys_file;
    let entries = api_keys::read(file)?;
    let kept: Vec<_> = entries.iter().filter(|entry| entry.id != id).cloned().collect();
    if kept.len() == entries.len() {
        return Err(Failure::Usage(format!(
            "{} has no key `{id}`; `matchbook api-key list` shows them all",
            file.display()
        )));
    }
    api_keys::write(file, &kept)?;
    if json { print(&json!({ "revoked": id })) } else { print(&format!("revoked {id}")) }
}
