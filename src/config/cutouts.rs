//! The settings of the upstream of cutouts.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use commands::cutout_sync::upstream::{CutoutUpstream, Settings};

use super::duration;
use crate::failure::Failure;

/// The system that cutouts come from, if there is one.
#[derive(Args, Clone, Debug)]
pub struct CutoutSettings {
    /// The system that cutouts come from, such as `https://cutouts.example/api/cutouts`: `POST /api/v1/cutouts/sync` reads its pages as docs/cutouts.md describes them. Without it, cutouts come by push only
    #[arg(long, env = "MATCHBOOK_CUTOUTS_UPSTREAM", value_name = "URL", hide_env_values = true)]
    cutouts_upstream: Option<String>,

    /// The token for the upstream of cutouts, sent as `Authorization: Bearer`; prefer the environment, or the file
    #[arg(
        long,
        env = "MATCHBOOK_CUTOUTS_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true,
        conflicts_with = "cutouts_token_file"
    )]
    cutouts_token: Option<String>,

    /// The file with the token for the upstream of cutouts
    #[arg(long, env = "MATCHBOOK_CUTOUTS_TOKEN_FILE", value_name = "FILE")]
    cutouts_token_file: Option<PathBuf>,

    /// The number of cutouts that the upstream is asked for at a time
    #[arg(long, env = "MATCHBOOK_CUTOUTS_PAGE_SIZE", value_name = "NUMBER", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    cutouts_page_size: u32,

    /// The timeout of a call to the upstream of cutouts
    #[arg(long, env = "MATCHBOOK_CUTOUTS_TIMEOUT", value_name = "DURATION", default_value = "30s", value_parser = duration)]
    cutouts_timeout: Duration,
}

impl CutoutSettings {
    /// The client of the upstream, if one is configured.
    ///
    /// # Errors
    /// The setting that cannot be used.
    pub(crate) fn upstream(&self) -> Result<Option<CutoutUpstream>, Failure> {
        let Some(url) = &self.cutouts_upstream else { return Ok(None) };
        let token = match &self.cutouts_token_file {
            Some(file) => {
                let read = std::fs::read_to_string(file).map_err(|error| {
                    Failure::Usage(format!("--cutouts-token-file: cannot read {}: {error}", file.display()))
                })?;
                Some(read.trim().to_owned())
            }
            None => self.cutouts_token.clone(),
        };
        let (page_size, timeout) = (self.cutouts_page_size, self.cutouts_timeout);
        let settings = Settings { url: url.clone(), token, page_size, timeout };
        let upstream = CutoutUpstream::new(&settings);
        upstream.map(Some).map_err(|error| Failure::Usage(format!("--cutouts-upstream: {error}")))
    }
}
