//! The folder of a model, as sentence encoders are published.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use serde::Deserialize;

use super::LoadError;
use super::word_piece::WordPiece;

const MODEL: &str = "model.onnx";
const TOKENIZER: &str = "tokenizer.json";
const VOCABULARY: &str = "vocab.txt";
const POOLING: &str = "1_Pooling/config.json";
const LIMITS: &str = "sentence_bert_config.json";

/// The most tokens of a text if no file says it.
const TOKENS_MAX: usize = 256;
/// The time of a text grows with its tokens, so a larger limit of a file does not count.
const TOKENS_LIMIT: usize = 512;

/// How the vectors of the tokens become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pooling {
    Mean,
    /// The vector of the token that marks the start.
    First,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PoolingFile {
    pooling_mode_cls_token: bool,
    pooling_mode_mean_tokens: bool,
}

#[derive(Deserialize)]
struct LimitsFile {
    max_seq_length: Option<usize>,
}

/// What a folder contains.
pub(crate) struct ModelFolder {
    pub(crate) name: String,
    pub(crate) model_file: PathBuf,
    pub(crate) model: Vec<u8>,
    pub(crate) tokenizer: WordPiece,
    pub(crate) pooling: Pooling,
    pub(crate) tokens_max: usize,
    pub(crate) fingerprint: String,
}

pub(crate) fn read(folder: &Path) -> Result<ModelFolder, LoadError> {
    if !folder.is_dir() {
        return Err(LoadError::NoFolder(folder.to_owned()));
    }
    let name = name(folder)?;
    let missing = |file| LoadError::Missing { folder: folder.to_owned(), file };
    let model = contents(folder, MODEL)?.ok_or_else(|| missing(MODEL))?;
    let mut hash = Context::new(&SHA256);
    hash.update(&model);
    let refused = |file: &str, reason| LoadError::Tokenizer { file: folder.join(file), reason };
    let (tokenizer, truncation) = if let Some(json) = contents(folder, TOKENIZER)? {
        hash.update(&json);
        WordPiece::from_json(&json).map_err(|reason| refused(TOKENIZER, reason))?
    } else {
        let list = contents(folder, VOCABULARY)?.ok_or_else(|| missing(TOKENIZER))?;
        hash.update(&list);
        let list = String::from_utf8(list).map_err(|error| refused(VOCABULARY, error.to_string()))?;
        (WordPiece::from_list(&list).map_err(|reason| refused(VOCABULARY, reason))?, None)
    };
    let limit: Option<LimitsFile> = settings(folder, LIMITS)?;
    let tokens_max = limit.and_then(|limit| limit.max_seq_length).or(truncation).unwrap_or(TOKENS_MAX);
    let tokens_max = tokens_max.clamp(3, TOKENS_LIMIT);
    let pooling = match settings::<PoolingFile>(folder, POOLING)? {
        None => Pooling::Mean,
        Some(PoolingFile { pooling_mode_mean_tokens: true, pooling_mode_cls_token: false }) => Pooling::Mean,
        Some(PoolingFile { pooling_mode_mean_tokens: false, pooling_mode_cls_token: true }) => Pooling::First,
        Some(_) => {
            let reason = "the pooling must be the mean of the tokens, or the first one alone".to_owned();
            return Err(LoadError::Settings { file: folder.join(POOLING), reason });
        }
    };
    hash.update(format!("{pooling:?} {tokens_max}").as_bytes());
    let fingerprint = hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(ModelFolder {
        name,
        model_file: folder.join(MODEL),
        model,
        tokenizer,
        pooling,
        tokens_max,
        fingerprint,
    })
}

fn name(folder: &Path) -> Result<String, LoadError> {
    let full = folder.canonicalize().map_err(|source| LoadError::Read { file: folder.to_owned(), source })?;
    let name = full.file_name().unwrap_or(OsStr::new("")).to_string_lossy().into_owned();
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "._-".contains(char);
    if (1..=128).contains(&name.len()) && name.chars().all(is_plain) && name != "lexical" {
        Ok(name)
    } else {
        Err(LoadError::Name(name))
    }
}

/// The contents of a file; none if there is no such file.
fn contents(folder: &Path, name: &str) -> Result<Option<Vec<u8>>, LoadError> {
    let file = folder.join(name);
    match std::fs::read(&file) {
        Ok(contents) => Ok(Some(contents)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(LoadError::Read { file, source }),
    }
}

fn settings<T: for<'a> Deserialize<'a>>(folder: &Path, name: &str) -> Result<Option<T>, LoadError> {
    let Some(json) = contents(folder, name)? else { return Ok(None) };
    let parsed = serde_json::from_slice(&json);
    parsed
        .map(Some)
        .map_err(|error| LoadError::Settings { file: folder.join(name), reason: error.to_string() })
}
