//! Vectors of sentences from a transformer model in a local folder: an ONNX file and its WordPiece tokenizer.
//!
//! [`folder`] reads the folder, [`word_piece`] turns a text into tokens, and [`graph`] runs the model. A text is always run
//! alone: in a batch, the int8 weights would be scaled by the values of all its texts, and the vector of a text would
//! depend on its neighbours.

use std::fmt;
use std::path::{Path, PathBuf};

mod folder;
mod graph;
mod word_piece;

use folder::ModelFolder;
use graph::Graph;
use word_piece::WordPiece;

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("{} is not a folder; name the folder of a sentence encoder, with model.onnx and tokenizer.json", .0.display())]
    NoFolder(PathBuf),
    #[error("{} has no {file}; export the model with it, or copy it there", folder.display())]
    Missing { folder: PathBuf, file: &'static str },
    #[error("cannot read {}: {source}; check the disk, and that this user may read it", file.display())]
    Read { file: PathBuf, source: std::io::Error },
    #[error(
        "the name of the folder, `{0}`, cannot be the name of its model: rename it to 1 to 128 letters, digits, `.`, `_` and `-`, but not `lexical`"
    )]
    Name(String),
    #[error("cannot use {}: {reason}; it must be for BERT's WordPiece, as all-MiniLM-L6-v2 has it", file.display())]
    Tokenizer { file: PathBuf, reason: String },
    #[error("cannot use {}: {reason}", file.display())]
    Settings { file: PathBuf, reason: String },
    #[error("cannot use {}: {reason}; it must be a sentence encoder in ONNX format with the inputs input_ids and attention_mask, and one vector per token as output", file.display())]
    Model { file: PathBuf, reason: String },
}

/// Why a text has no vector although the model was loaded.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    #[error(
        "the model failed: {0}; check that its file is the one of the tokenizer, and start the server again"
    )]
    Failed(String),
    #[error("the model panicked: {0}; choose another model, or start the server without it")]
    Panicked(String),
}

/// A sentence encoder. A text has the same vector on every call.
pub struct Encoder {
    name: String,
    dimension: usize,
    fingerprint: String,
    tokens_max: usize,
    tokenizer: WordPiece,
    graph: Graph,
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder")
            .field("name", &self.name)
            .field("dimension", &self.dimension)
            .finish_non_exhaustive()
    }
}

impl Encoder {
    /// Loads the model of a folder, and runs it once on its longest text.
    ///
    /// # Errors
    /// What is missing in the folder, or wrong with it, with the remedy.
    pub fn load(folder: &Path) -> Result<Self, LoadError> {
        let ModelFolder { name, model_file, model, tokenizer, pooling, tokens_max, fingerprint } =
            folder::read(folder)?;
        let refused = |reason: String| LoadError::Model { file: model_file.clone(), reason };
        let graph = Graph::load(model, pooling).map_err(&refused)?;
        // The largest token and the longest text: a tokenizer of another model fails here, not at some later text.
        let longest = tokenizer.longest(tokens_max);
        let vector = graph.run(&longest).map_err(|error| refused(error.to_string()))?;
        Ok(Self { name, dimension: vector.len(), fingerprint, tokens_max, tokenizer, graph })
    }

    /// The name of the model: that of its folder.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The length of its vectors.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// The SHA-256 hash of everything that a vector depends on: the weights, the tokenizer and their settings.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The most tokens of a text; what follows them is ignored.
    pub fn tokens_max(&self) -> usize {
        self.tokens_max
    }

    /// The tokens of a text, with those that mark its start and its end.
    pub fn tokens(&self, text: &str) -> Vec<u32> {
        self.tokenizer.tokens(text, self.tokens_max)
    }

    /// The vector of a text, of length 1; none if it contains no token. It takes one thread of the model, for which it waits.
    ///
    /// # Errors
    /// The model failed or panicked.
    pub fn encode(&self, text: &str) -> Result<Option<Vec<f32>>, EncodeError> {
        let tokens = self.tokens(text);
        if tokens.len() <= word_piece::MARKS {
            return Ok(None);
        }
        self.graph.run(&tokens).map(Some)
    }
}
