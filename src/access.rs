//! Authentication from the settings: keys, or an open server on loopback.

use web::caller::{Auth, Keys, Now};

use crate::api_keys;
use crate::config::Config;
use crate::failure::Failure;

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
    let api_keys = config.api_keys_file.as_deref().map(api_keys::load).transpose()?;
    // A file without keys may get some later; until then every request is refused.
    if config.jwks_url.is_some() {
        return Ok(Auth::with_identity_provider(tokens, api_keys.unwrap_or_default(), Now::system()));
    }
    if !tokens.is_empty() || api_keys.is_some() {
        let api_keys = api_keys.unwrap_or_default();
        return Ok(Auth::with_keys(tokens, api_keys, Now::system()));
    }
    if config.listen.ip().is_loopback() {
        return Ok(Auth::open(Now::system()));
    }
    Err(Failure::Usage(format!(
        "refusing to listen on {} without keys: every client that can reach it would have every role; \
         set MATCHBOOK_JWT_SECRET (32 bytes or more), --jwt-key-files, --jwks-url or --api-keys-file, or listen on 127.0.0.1",
        config.listen
    )))
}
