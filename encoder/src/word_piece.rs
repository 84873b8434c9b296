//! BERT's tokenizer: a text is split at spaces and punctuation, and each word into the longest parts that the vocabulary has.
//!
//! The tokens are those of Hugging Face's `tokenizers`, except that the name of a special token in a text, such as `[SEP]`, is
//! text like any other: a query cannot contain the end of itself.

use std::collections::HashMap;

use serde::Deserialize;
use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory};

/// The tokens at the start and at the end of every text.
pub(crate) const MARKS: usize = 2;

/// A longer word is unknown as a whole.
const WORD_CHARS_MAX: usize = 100;

/// The parts of `tokenizer.json` that the tokens depend on.
#[derive(Deserialize)]
struct TokenizerFile {
    model: ModelPart,
    normalizer: NormalizerPart,
    pre_tokenizer: TypedPart,
    truncation: Option<Truncation>,
}

#[derive(Deserialize)]
struct ModelPart {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    max_input_chars_per_word: Option<usize>,
    vocab: HashMap<String, u32>,
}

#[derive(Deserialize)]
struct NormalizerPart {
    #[serde(rename = "type")]
    kind: String,
    clean_text: Option<bool>,
    handle_chinese_chars: Option<bool>,
    strip_accents: Option<bool>,
    lowercase: Option<bool>,
}

#[derive(Deserialize)]
struct TypedPart {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Truncation {
    max_length: usize,
}

/// A vocabulary, and how texts are written in it.
#[derive(Debug)]
pub(crate) struct WordPiece {
    vocabulary: HashMap<String, u32>,
    unknown: u32,
    start: u32,
    end: u32,
    word_chars_max: usize,
    is_lower_case: bool,
    strips_accents: bool,
}

impl WordPiece {
    /// From `tokenizer.json`, with the most tokens of a text if the file says it. Its padding is ignored: the mean of a padded
    /// text costs as much as that of the longest one.
    pub(crate) fn from_json(json: &[u8]) -> Result<(Self, Option<usize>), String> {
        let file: TokenizerFile = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let is_known = file.model.kind.as_deref().is_none_or(|kind| kind == "WordPiece")
            && file.model.continuing_subword_prefix.as_deref() == Some("##")
            && file.normalizer.kind == "BertNormalizer"
            && file.normalizer.clean_text != Some(false)
            && file.normalizer.handle_chinese_chars != Some(false)
            && file.pre_tokenizer.kind == "BertPreTokenizer";
        if !is_known {
            return Err("it splits texts in another way".to_owned());
        }
        let is_lower_case = file.normalizer.lowercase.unwrap_or(true);
        let mut tokenizer = Self::new(file.model.vocab, is_lower_case)?;
        tokenizer.strips_accents = file.normalizer.strip_accents.unwrap_or(is_lower_case);
        tokenizer.word_chars_max = file.model.max_input_chars_per_word.unwrap_or(WORD_CHARS_MAX);
        Ok((tokenizer, file.truncation.map(|truncation| truncation.max_length)))
    }

    /// From `vocab.txt`: one token per line, without regard to case and accents.
    pub(crate) fn from_list(list: &str) -> Result<Self, String> {
        Self::new((0..).zip(list.lines()).map(|(id, token)| (token.to_owned(), id)).collect(), true)
    }

    fn new(vocabulary: HashMap<String, u32>, is_lower_case: bool) -> Result<Self, String> {
        let special =
            |token: &str| vocabulary.get(token).copied().ok_or_else(|| format!("it has no token {token}"));
        let (unknown, start, end) = (special("[UNK]")?, special("[CLS]")?, special("[SEP]")?);
        let word_chars_max = WORD_CHARS_MAX;
        let strips_accents = is_lower_case;
        Ok(Self { vocabulary, unknown, start, end, word_chars_max, is_lower_case, strips_accents })
    }

    /// The tokens of a text between its marks, not more than `max` with them.
    pub(crate) fn tokens(&self, text: &str, max: usize) -> Vec<u32> {
        let mut tokens = vec![self.start];
        let text = self.normalised(text);
        // Punctuation is a word of its own.
        let words = text.split_whitespace().flat_map(|words| words.split_inclusive(is_punctuation));
        for word in words {
            match word.char_indices().next_back() {
                Some((at, mark)) if is_punctuation(mark) => {
                    self.push_word(&mut tokens, &word[..at]);
                    self.push_word(&mut tokens, &word[at..]);
                }
                _ => self.push_word(&mut tokens, word),
            }
            if tokens.len() >= max {
                break;
            }
        }
        tokens.truncate(max.saturating_sub(1));
        tokens.push(self.end);
        tokens
    }

    /// As many tokens as a text can have, with the largest id.
    pub(crate) fn longest(&self, max: usize) -> Vec<u32> {
        vec![self.vocabulary.values().copied().max().unwrap_or(self.end); max]
    }

    fn push_word(&self, tokens: &mut Vec<u32>, word: &str) {
        if word.chars().count() > self.word_chars_max {
            tokens.push(self.unknown);
            return;
        }
        let (known, mut rest, mut part) = (tokens.len(), word, String::new());
        while !rest.is_empty() {
            let ends = rest.char_indices().map(|(at, char)| at + char.len_utf8());
            let longest = ends.rev().find_map(|end| {
                part.clear();
                part.push_str(if rest.len() == word.len() { "" } else { "##" });
                part.push_str(&rest[..end]);
                Some((end, *self.vocabulary.get(&part)?))
            });
            let Some((end, token)) = longest else {
                tokens.truncate(known);
                tokens.push(self.unknown);
                return;
            };
            tokens.push(token);
            rest = &rest[end..];
        }
    }

    /// The text without control characters, with each Chinese character as a word, and, as the model demands, without accents
    /// and in lower case.
    fn normalised(&self, text: &str) -> String {
        let mut spaced = String::with_capacity(text.len());
        for char in text.chars().filter(|char| !is_control(*char)) {
            if is_chinese(char) {
                spaced.extend([' ', char, ' ']);
            } else {
                spaced.push(char);
            }
        }
        if self.strips_accents {
            spaced = spaced
                .nfd()
                .filter(|char| char.general_category() != GeneralCategory::NonspacingMark)
                .collect();
        }
        if self.is_lower_case {
            // Letter by letter: the last sigma of a Greek word is as the others.
            spaced = spaced.chars().flat_map(char::to_lowercase).collect();
        }
        spaced
    }
}

fn is_control(char: char) -> bool {
    use GeneralCategory::{Control, Format, PrivateUse};
    let is_space = matches!(char, '\t' | '\n' | '\r');
    char == '\u{fffd}' || !is_space && matches!(char.general_category(), Control | Format | PrivateUse)
}

fn is_punctuation(char: char) -> bool {
    char.is_ascii_punctuation() || char.general_category_group() == GeneralCategoryGroup::Punctuation
}

/// The blocks of ideographs.
fn is_chinese(char: char) -> bool {
    matches!(char,
        '\u{4e00}'..='\u{9fff}' | '\u{3400}'..='\u{4dbf}' | '\u{20000}'..='\u{2a6df}' | '\u{2a700}'..='\u{2b73f}'
        | '\u{2b740}'..='\u{2b81f}' | '\u{2b920}'..='\u{2ceaf}' | '\u{f900}'..='\u{faff}' | '\u{2f800}'..='\u{2fa1f}')
}

#[cfg(test)]
mod tests;
