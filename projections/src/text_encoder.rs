//! The encoder of texts that the program passes in: this crate runs no model.

use std::fmt;
use std::sync::Arc;

use event_schemas::ids::ModelId;

type Encode = dyn Fn(&str) -> Result<Option<Vec<f32>>, String> + Send + Sync;

/// An encoder of texts, with the name of its model. Cheap to clone.
#[derive(Clone)]
pub struct TextEncoder {
    pub model: ModelId,
    /// The length of its vectors.
    pub dimension: usize,
    /// A hash of everything that its vectors depend on.
    pub fingerprint: String,
    encode: Arc<Encode>,
}

impl TextEncoder {
    /// `encode` returns the vector of a text, or none if the text has none. It is called on threads for blocking work, and must
    /// return equal vectors for equal texts.
    pub fn new(
        model: ModelId,
        dimension: usize,
        fingerprint: String,
        encode: impl Fn(&str) -> Result<Option<Vec<f32>>, String> + Send + Sync + 'static,
    ) -> Self {
        Self { model, dimension, fingerprint, encode: Arc::new(encode) }
    }

    pub(crate) fn encode(&self, text: &str) -> Result<Option<Vec<f32>>, String> {
        (self.encode)(text)
    }
}

impl fmt::Debug for TextEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TextEncoder").field("model", &self.model).finish_non_exhaustive()
    }
}
