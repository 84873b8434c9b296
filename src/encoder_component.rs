//! The encoder of texts as `/status` and `matchbook doctor` show it.

use domain::search::encoder::MODEL;
use projections::{EncoderStatus, ReadModels};
use read_api::server::{Component, ComponentHealth};

/// The encoder of texts. The server is ready without its vectors: until then the built-in one is used.
pub(crate) fn encoder_component(models: &ReadModels) -> Component {
    let models = models.clone();
    Component::new("text_encoder", move || ComponentHealth {
        ready: true,
        position: None,
        detail: encoder_detail(models.search().encoder()),
    })
}

fn encoder_detail(status: Option<EncoderStatus>) -> String {
    let Some(EncoderStatus { model, dimension, encoded, pending, failed, is_complete }) = status else {
        return format!("`{MODEL}`, which is built in; --text-encoder names another one");
    };
    let until =
        if is_complete { String::new() } else { format!("; searches use `{MODEL}` until all have them") };
    let progress = format!("{encoded} products have vectors, {pending} are being encoded{until}");
    let failures = if failed == 0 {
        String::new()
    } else {
        format!("; {failed} texts could not be encoded, see the server's log")
    };
    format!("`{model}` with {dimension} numbers: {progress}{failures}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detail_names_the_encoder_that_serves() {
        assert!(encoder_detail(None).starts_with("`lexical`"));
        let status = EncoderStatus {
            model: "mini".parse().unwrap(),
            dimension: 384,
            encoded: 10,
            pending: 5,
            failed: 0,
            is_complete: false,
        };
        let starting = encoder_detail(Some(status.clone()));
        assert!(starting.starts_with("`mini` with 384 numbers: 10 products"), "{starting}");
        assert!(starting.contains("searches use `lexical`"), "{starting}");
        let complete = encoder_detail(Some(EncoderStatus { is_complete: true, failed: 2, ..status }));
        assert!(!complete.contains("lexical") && complete.contains("2 texts"), "{complete}");
    }
}
