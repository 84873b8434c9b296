//! Authentication from the settings: keys, or an open server on loopback.

use serde::Deserialize;
use web::caller::{ApiKey, Auth, Keys, Now, Role};

use crate::config::Config;
use crate::failure::Failure;

/// An entry of the file with API keys. The file contains only hashes of the keys.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApiKeyEntry {
    id: String,
    sha256: String,
    tenant: String,
    user: Option<String>,
    roles: Vec<String>,
}

/// Loads the keys of the settings.
///
/// # Errors
/// An invalid key, or no key at all on an address that other machines can reach.
pub(crate) fn auth(config: &Config) -> Result<Auth, Failure> {
    let mut tokens = Keys::default().issuer(config.jwt_issuer.clone()).audience(config.jwt_audience.clone());
    if let Some(secret) = &config.jwt_secret {
        tokens = tokens
            .secret(secret.as_bytes())
            .map_err(|error| Failure::Usage(format!("MATCHBOOK_JWT_SECRET: {error}")))?;
    }
    for file in &config.jwt_key_files {
        let named = |error: &dyn std::fmt::Display| Failure::Usage(format!("{}: {error}", file.display()));
        let pem = std::fs::read(file).map_err(|error| named(&error))?;
        tokens = tokens.pem(&pem).map_err(|error| named(&error))?;
    }
    let api_keys = api_keys(config)?;
    if !tokens.is_empty() || !api_keys.is_empty() {
        return Ok(Auth::with_keys(tokens, api_keys, Now::system()));
    }
    if config.listen.ip().is_loopback() {
        return Ok(Auth::open(Now::system()));
    }
    Err(Failure::Usage(format!(
        "refusing to listen on {} without keys: every client that can reach it would have every role; \
         set MATCHBOOK_JWT_SECRET (32 bytes or more), --jwt-key-files or --api-keys-file, or listen on 127.0.0.1",
        config.listen
    )))
}

fn api_keys(config: &Config) -> Result<Vec<ApiKey>, Failure> {
    let Some(file) = &config.api_keys_file else { return Ok(Vec::new()) };
    let named = |error: &dyn std::fmt::Display| Failure::Usage(format!("{}: {error}", file.display()));
    let text = std::fs::read(file).map_err(|error| named(&error))?;
    let entries: Vec<ApiKeyEntry> = serde_json::from_slice(&text).map_err(|error| named(&error))?;
    entries
        .into_iter()
        .map(|entry| {
            let tenant = entry.tenant.parse().map_err(|error| named(&error))?;
            let user = entry.user.map(|user| user.parse()).transpose().map_err(|error| named(&error))?;
            let roles = entry.roles.iter().map(|role| role.parse::<Role>()).collect::<Result<_, _>>();
            let roles = roles.map_err(|error| named(&error))?;
            ApiKey::new(&entry.id, &entry.sha256, tenant, user, roles).map_err(|error| named(&error))
        })
        .collect()
}
