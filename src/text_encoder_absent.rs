//! Replaces `text_encoder.rs` in a program that is built without the feature `transformer`.

use projections::TextEncoder;

use crate::config::Config;
use crate::failure::Failure;

/// # Errors
/// The settings name an encoder.
pub(crate) async fn load(config: &Config) -> Result<Option<TextEncoder>, Failure> {
    match config.text_encoder {
        None => Ok(None),
        Some(_) => Err(Failure::Usage(
            "--text-encoder: this program was built without sentence encoders; build it with the feature `transformer`"
                .to_owned(),
        )),
    }
}
