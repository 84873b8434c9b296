//! The words of a text, in a form in which spelling variants are equal: without case, accents and typographic forms.

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// The longest word, in characters; the rest of a longer one is ignored.
const WORD_MAX: usize = 64;
/// A word of at most this length before a hyphen is joined with the next one as well: `wi-fi`, `t-shirt`.
const JOINED_PREFIX_MAX: usize = 2;

/// What a character is for the division into words.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Letter,
    Digit,
    /// Of a script without spaces between words.
    Ideograph,
    /// Joins the parts of a name or a model code: `WH-1000XM4`.
    Joint,
    Other,
}

/// The text without case and accents, and with compatible characters replaced (`ﬁ`, `Ａ`, `½`).
///
/// Marks are removed only where they are accents or points of an alphabet; they belong to the letters of Indic scripts.
pub fn fold(text: &str) -> String {
    let mut folded = String::with_capacity(text.len());
    for character in text.nfkd().filter(|character| !is_removed(*character)) {
        for lower in character.to_lowercase() {
            match lower {
                'ß' => folded.push_str("ss"),
                'æ' => folded.push_str("ae"),
                'œ' => folded.push_str("oe"),
                'þ' => folded.push_str("th"),
                'ø' => folded.push('o'),
                'đ' | 'ð' => folded.push('d'),
                'ł' => folded.push('l'),
                'ı' => folded.push('i'),
                // At the end of a word it has another form.
                'ς' => folded.push('σ'),
                other => folded.push(other),
            }
        }
    }
    folded.nfc().collect()
}

/// Accents of Latin, Greek and Cyrillic, points of Hebrew and Arabic, and invisible characters.
fn is_removed(character: char) -> bool {
    matches!(character,
        '\u{300}'..='\u{36F}' | '\u{591}'..='\u{5C7}' | '\u{610}'..='\u{61A}' | '\u{640}' | '\u{64B}'..='\u{65F}'
        | '\u{670}' | '\u{AD}' | '\u{200B}'..='\u{200D}' | '\u{2060}' | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}')
}

/// Han, Kana, Thai, Lao, Khmer and Burmese are written without spaces.
fn is_ideograph(character: char) -> bool {
    matches!(character,
        '\u{E00}'..='\u{EFF}' | '\u{1000}'..='\u{109F}' | '\u{1780}'..='\u{17FF}' | '\u{3005}'..='\u{3007}'
        | '\u{3040}'..='\u{30FF}' | '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}' | '\u{F900}'..='\u{FAFF}'
        | '\u{20000}'..='\u{323AF}')
}

fn class(character: char) -> Class {
    match character {
        '-' | '_' | '\u{2010}' | '\u{2011}' => Class::Joint,
        _ if is_ideograph(character) => Class::Ideograph,
        _ if character.is_numeric() => Class::Digit,
        _ if character.is_alphabetic() || is_combining_mark(character) => Class::Letter,
        _ => Class::Other,
    }
}

/// The words of a text, in order.
///
/// - A text in a script without spaces gives each two neighbouring characters, as a word of a query may start anywhere.
/// - The parts of a model code (`WH-1000XM4`) are words, and so is the code without its hyphens.
/// - A number keeps its decimal point or comma: `5.5`.
pub fn words(text: &str) -> Vec<String> {
    let folded: Vec<char> = fold(text).chars().collect();
    let mut words = Vec::new();
    // The words since the last character that is neither of a word nor a joint.
    let mut joined_from = 0;
    let mut start = 0;
    while let Some(character) = folded.get(start) {
        let class_here = class(*character);
        if matches!(class_here, Class::Other | Class::Joint) {
            if class_here == Class::Other {
                join(&mut words, joined_from);
                joined_from = words.len();
            }
            start += 1;
            continue;
        }
        let end = word_end(&folded, start);
        let run = &folded[start..end];
        if class_here == Class::Ideograph {
            words.extend(run.windows(run.len().min(2)).map(|pair| pair.iter().collect::<String>()));
            joined_from = words.len();
        } else {
            words.push(run.iter().take(WORD_MAX).collect());
        }
        start = end;
        // A run that ends without a joint is not joined with the next one.
        if folded.get(start).is_none_or(|next| class(*next) != Class::Joint) {
            join(&mut words, joined_from);
            joined_from = words.len();
        }
    }
    words
}

/// The end of the word that starts here.
fn word_end(folded: &[char], start: usize) -> usize {
    let is_ideographic = class(folded[start]) == Class::Ideograph;
    let belongs = |index: usize| match class(folded[index]) {
        Class::Ideograph => is_ideographic,
        Class::Letter | Class::Digit => !is_ideographic,
        // Between two digits, a point or comma is a decimal sign.
        Class::Other => {
            matches!(folded[index], '.' | ',')
                && class(folded[index - 1]) == Class::Digit
                && folded.get(index + 1).is_some_and(|next| class(*next) == Class::Digit)
        }
        Class::Joint => false,
    };
    (start + 1..folded.len()).find(|index| !belongs(*index)).unwrap_or(folded.len())
}

/// Adds the word that the words from this one on form without their hyphens, if it is likely to be written that way.
fn join(words: &mut Vec<String>, from: usize) {
    let parts = &words[from..];
    let is_code = parts.iter().any(|part| has_digit(part));
    let has_prefix = parts.first().is_some_and(|first| first.chars().count() <= JOINED_PREFIX_MAX);
    if parts.len() > 1 && (is_code || has_prefix) {
        let joined = parts.concat().chars().take(WORD_MAX).collect();
        words.push(joined);
    }
}

/// Reports whether a word is a number or a code, in which a single character makes another thing.
pub fn has_digit(word: &str) -> bool {
    word.chars().any(char::is_numeric)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[&str]) {
        assert_eq!(words(text), expected, "{text}");
    }

    #[test]
    fn case_accents_and_typography_make_no_difference() {
        check("CRÈME Brûlée", &["creme", "brulee"]);
        check("cre\u{300}me", &["creme"]);
        check("ＦＵＬＬ ﬁsh", &["full", "fish"]);
        check("Straße STRASSE", &["strasse", "strasse"]);
        check("Ångström smørrebrød Łódź", &["angstrom", "smorrebrod", "lodz"]);
        check("İstanbul ısı", &["istanbul", "isi"]);
        check("ΟΔΟΣ οδός", &["οδοσ", "οδοσ"]);
        check("Ёлка ёлка", &["елка", "елка"]);
        check("soft\u{AD}ware", &["software"]);
    }

    #[test]
    fn marks_that_are_letters_are_kept() {
        check("हिन्दी किताब", &["हिन्दी", "किताब"]);
        check("が か", &["が", "か"]);
        check("한국어 책", &["한국어", "책"]);
        check("שָׁלוֹם كِتَاب", &["שלום", "كتاب"]);
    }

    #[test]
    fn scripts_without_spaces_give_pairs_of_characters() {
        check("無線耳機", &["無線", "線耳", "耳機"]);
        check("猫", &["猫"]);
        check("Sony製ヘッドホン", &["sony", "製ヘ", "ヘッ", "ッド", "ドホ", "ホン"]);
    }

    #[test]
    fn model_codes_are_found_with_and_without_hyphens() {
        check("Sony WH-1000XM4 black", &["sony", "wh", "1000xm4", "wh1000xm4", "black"]);
        check("wh1000xm4", &["wh1000xm4"]);
        check(
            "wi-fi T-shirt arrow-narrow-up",
            &["wi", "fi", "wifi", "t", "shirt", "tshirt", "arrow", "narrow", "up"],
        );
        check("-a- --", &["a"]);
    }

    #[test]
    fn numbers_keep_their_decimals() {
        check("5.5 mm, 1,000 pieces. 7", &["5.5", "mm", "1,000", "pieces", "7"]);
        check("v2.", &["v2"]);
    }

    #[test]
    fn long_words_are_cut() {
        assert_eq!(words(&"a".repeat(1_000)), ["a".repeat(WORD_MAX)]);
        check("!?… \u{1F600}", &[]);
    }
}
