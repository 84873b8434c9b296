//! The file with API keys. It contains only their hashes, so that a reader of the file has no key.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use web::caller::{ApiKey, Auth, Role};

use crate::failure::Failure;

/// The interval at which a running server looks for a changed file.
const RELOAD_EVERY: Duration = Duration::from_secs(1);

/// One key.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKeyEntry {
    /// The name of the key in lists and in the server's log.
    pub id: String,
    pub sha256: String,
    pub tenant: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    pub roles: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
}

impl ApiKeyEntry {
    fn key(&self) -> Result<ApiKey, String> {
        let of_key = |error: &dyn std::fmt::Display| format!("key `{}`: {error}", self.id);
        let tenant = self.tenant.parse().map_err(|error| of_key(&error))?;
        let user = self.user.as_ref().map(|user| user.parse()).transpose().map_err(|error| of_key(&error))?;
        let roles = self.roles.iter().map(|role| role.parse::<Role>()).collect::<Result<_, _>>();
        let roles = roles.map_err(|error| of_key(&error))?;
        ApiKey::new(&self.id, &self.sha256, tenant, user, roles).map_err(|error| error.to_string())
    }
}

fn named(file: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::Usage(format!("{}: {error}", file.display()))
}

/// Reads the entries of a file.
///
/// # Errors
/// The file cannot be read, or is not a list of keys.
pub fn read(file: &Path) -> Result<Vec<ApiKeyEntry>, Failure> {
    let text = std::fs::read(file).map_err(|error| named(file, &error))?;
    serde_json::from_slice(&text).map_err(|error| named(file, &error))
}

/// The keys of a file, as the server checks them.
///
/// # Errors
/// As [`read`], or an entry is not a key.
pub(crate) fn load(file: &Path) -> Result<Vec<ApiKey>, Failure> {
    let keys = read(file)?.iter().map(ApiKeyEntry::key).collect::<Result<_, _>>();
    keys.map_err(|error| named(file, &error))
}

/// Replaces the file in one step. It is on disk when this returns; others than its owner cannot read it.
///
/// # Errors
/// An entry is not a key, or the file cannot be written.
pub fn write(file: &Path, entries: &[ApiKeyEntry]) -> Result<(), Failure> {
    entries.iter().try_for_each(|entry| entry.key().map(drop)).map_err(|error| named(file, &error))?;
    let text = serde_json::to_string_pretty(entries).map_err(|error| named(file, &error))?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let replace = || -> std::io::Result<()> {
        let mut new = tempfile::NamedTempFile::new_in(folder)?;
        new.as_file().set_permissions(std::fs::Permissions::from_mode(0o600))?;
        writeln!(new, "{text}")?;
        new.as_file().sync_all()?;
        new.persist(file)?;
        std::fs::File::open(folder)?.sync_all()
    };
    replace().map_err(|error| {
        Failure::Disk(format!(
            "cannot write {}: {error}; check that this user may write there",
            file.display()
        ))
    })
}

/// What changes with the content of the file: it is replaced as a whole.
fn version(file: &Path) -> Option<(u64, u64, i64, i64)> {
    let found = std::fs::metadata(file).ok()?;
    Some((found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
}

/// Follows the file as long as the server runs: a new key is accepted, and a revoked one refused, within about a second.
pub(crate) async fn follow(file: PathBuf, auth: Auth) {
    let mut known = version(&file);
    let mut interval = tokio::time::interval(RELOAD_EVERY);
    loop {
        interval.tick().await;
        let current = version(&file);
        if current == known {
            continue;
        }
        known = current;
        match load(&file) {
            Ok(keys) => {
                tracing::info!(keys = keys.len(), "loaded the changed API keys");
                auth.set_api_keys(keys);
            }
            Err(error) => {
                tracing::error!(%error, "cannot load the changed API keys; the previous ones stay valid");
            }
        }
    }
}
