//! The sentence encoder of `--text-encoder`.

use std::sync::Arc;

use encoder::Encoder;
use projections::TextEncoder;

use crate::config::Config;
use crate::failure::Failure;

/// Loads the encoder that the settings name.
///
/// # Errors
/// What is wrong with its folder.
pub(crate) async fn load(config: &Config) -> Result<Option<TextEncoder>, Failure> {
    let Some(folder) = config.text_encoder.clone() else { return Ok(None) };
    let refused = |reason: String| Failure::Usage(format!("--text-encoder: {reason}"));
    let loading = tokio::task::spawn_blocking(move || Encoder::load(&folder)).await;
    let encoder = loading
        .map_err(|error| Failure::Failed(format!("loading the text encoder failed: {error}")))?
        .map_err(|error| refused(error.to_string()))?;
    tracing::info!(model = encoder.name(), dimension = encoder.dimension(), "loaded the text encoder");
    let model = encoder
        .name()
        .parse()
        .map_err(|_| refused("the name of the folder is not that of a model".to_owned()))?;
    let (dimension, fingerprint) = (encoder.dimension(), encoder.fingerprint().to_owned());
    let encoder = Arc::new(encoder);
    let encode = move |text: &str| encoder.encode(text).map_err(|error| error.to_string());
    Ok(Some(TextEncoder::new(model, dimension, fingerprint, encode)))
}
