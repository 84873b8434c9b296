//! An error message in the form that patterns are compared with.

use std::borrow::Cow;

/// The words of a message, in lower case. A word of several parts is both divided into them and kept whole, so
/// that `DeadlineExceeded`, `DEADLINE_EXCEEDED` and "deadline exceeded" are the same.
pub(super) struct Text {
    /// What the message says, without the addresses and files that it says it of.
    said: [String; 3],
    /// The words of each sentence of it.
    sentences: Vec<Vec<String>>,
    /// The whole message, in which a service may be named.
    whole: [String; 2],
    statuses: Vec<u16>,
    numbers: Vec<(Numbering, u32)>,
}

/// The system or program to which the number of an error belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Numbering {
    /// `errno` of Linux and macOS, and the same of sockets on Windows.
    Errno,
    Windows,
    Curl,
}

impl Text {
    pub(super) fn new(message: &str) -> Self {
        let message = without_stack_trace(&without_warnings(&ends(message))).into_owned();
        // Python gives the errors of name resolution negative numbers.
        let said = without_addresses(&message).replace("[Errno -", "[gaierror ");
        let divided = words(&said, true);
        let mut statuses = statuses(&divided);
        statuses.extend(statuses_in_brackets(&said));
        let numbers = numbers(&words(&said, false));
        // "video 2039 not found" and "video 'clip 7' not found" are "video not found".
        let bare = sentences(&without_quotes(&said));
        Self {
            said: [line(&divided), line(&words(&said, false)), line(&bare.join(&"-".to_owned()))],
            sentences: bare,
            whole: [line(&words(&message, true)), line(&words(&message, false))],
            statuses,
            numbers,
        }
    }

    /// Whether the phrase occurs. Its last word may be the start of a longer one, unless a space follows it; a
    /// `$` is the end of the message.
    pub(super) fn says(&self, phrase: &str) -> bool {
        self.said.iter().any(|line| occurs(line, phrase))
    }

    /// Whether a word of each list occurs, close to one of the other in a sentence. A `*` is any rest of a word.
    pub(super) fn has_near(&self, one: &str, other: &str) -> bool {
        let is_in = |list: &str, word: &str| {
            list.split(' ').any(|listed| match listed.strip_suffix('*') {
                Some(start) => word.starts_with(start),
                None => word == listed,
            })
        };
        self.sentences.iter().any(|words| {
            words.iter().enumerate().filter(|(_, word)| is_in(one, word)).any(|(at, _)| {
                let near = &words[at.saturating_sub(NEAR)..words.len().min(at + NEAR + 1)];
                near.iter().any(|word| is_in(other, word))
            })
        })
    }

    pub(super) fn names(&self, phrase: &str) -> bool {
        self.whole.iter().any(|line| occurs(line, phrase))
    }

    pub(super) fn has_number(&self, numbering: Numbering, number: u32) -> bool {
        self.numbers.contains(&(numbering, number))
    }

    pub(super) fn has_status(&self, status: u16) -> bool {
        self.statuses.contains(&status)
    }
}

/// The start and the end of a long message: what happened is said there, and the time to find it stays bounded.
fn ends(message: &str) -> Cow<'_, str> {
    if message.len() <= 2 * END_BYTES {
        return Cow::Borrowed(message);
    }
    let start = &message[..message.floor_char_boundary(END_BYTES)];
    let end = &message[message.ceil_char_boundary(message.len() - END_BYTES)..];
    Cow::Owned(format!("{start}\n{end}"))
}

fn occurs(line: &str, phrase: &str) -> bool {
    line.match_indices(phrase).any(|(at, _)| line[..at].ends_with(' '))
}

fn line<S: AsRef<str>>(words: &[S]) -> String {
    let mut line = String::from(" ");
    for word in words {
        line.push_str(word.as_ref());
        line.push(' ');
    }
    line.push('$');
    line
}

/// The message without its warnings and notices, if it names an error beside them.
fn without_warnings(message: &str) -> Cow<'_, str> {
    let level = |line: &str| line.trim_start_matches(['[', ' ']).to_ascii_uppercase();
    let is_error = |line: &str| level(line).starts_with("ERROR");
    let is_notice = |line: &str| NOTICES.iter().any(|notice| level(line).starts_with(notice));
    if !message.contains('\n') || !message.lines().any(is_error) {
        return Cow::Borrowed(message);
    }
    Cow::Owned(message.lines().filter(|line| !is_notice(line)).collect::<Vec<_>>().join("\n"))
}

const NOTICES: [&str; 4] = ["WARN", "INFO", "DEBUG", "NOTICE"];

/// The message without the lines of a stack trace, which name every function on the way.
fn without_stack_trace(message: &str) -> Cow<'_, str> {
    let is_frame = |line: &&str| {
        let indented = line.starts_with([' ', '\t']);
        indented && (line.trim_start().starts_with("at ") || line.trim_start().starts_with("File \""))
    };
    if !message.lines().any(|line| is_frame(&line)) {
        return Cow::Borrowed(message);
    }
    // Below a frame of Python is its line of code.
    let is_code = |line: &str| message.contains("Traceback") && line.starts_with("    ");
    let kept = message.lines().filter(|line| !is_frame(line) && !is_code(line));
    Cow::Owned(kept.collect::<Vec<_>>().join("\n"))
}

/// The message without URLs and absolute paths: what they contain did not happen.
fn without_addresses(message: &str) -> String {
    let mut said = String::with_capacity(message.len());
    let mut rest = message;
    while let Some(at) = address(rest) {
        said.push_str(&rest[..at]);
        said.push(' ');
        let quote = rest[..at].chars().next_back().filter(|c| matches!(c, '\'' | '"' | '`'));
        let ends = |c: char| match quote {
            Some(quote) => c == quote || c == '\n',
            None => c.is_whitespace() || matches!(c, '\'' | '"' | '`' | '<' | '>' | '(' | ')' | ',' | ';'),
        };
        rest = rest[at..].find(ends).map_or("", |end| &rest[at + end..]);
    }
    said.push_str(rest);
    said
}

/// The offset of the next URL or absolute path.
fn address(text: &str) -> Option<usize> {
    let url = text.find("://").map(|at| {
        let scheme = text[..at].trim_end_matches(|c: char| c.is_ascii_alphanumeric() || c == '+');
        scheme.len()
    });
    let is_start = |at: usize| {
        let before = text[..at].chars().next_back();
        before.is_none_or(|c| c.is_whitespace() || matches!(c, '\'' | '"' | '`' | '(' | '=' | '['))
    };
    let is_path =
        |at: usize| text[at + 1..].starts_with(|c: char| c.is_alphanumeric() || matches!(c, '.' | '_'));
    let path = text.match_indices('/').map(|(at, _)| at).find(|at| is_start(*at) && is_path(*at));
    url.into_iter().chain(path).min()
}

/// The words of each sentence, without those that are numbers or names. What follows a colon is a sentence of its
/// own, unless it is too short to be one: "processing of the video failed: no weights were found" says nothing of the
/// video, and "video: not found" does. What was done meanwhile is another.
fn sentences(text: &str) -> Vec<Vec<String>> {
    let mut sentences: Vec<Vec<String>> = vec![Vec::new()];
    let mut after_colon = false;
    let mut end = |sentences: &mut Vec<Vec<String>>, is_colon: bool| {
        if after_colon && !is_colon {
            join_short(sentences);
        }
        after_colon = is_colon;
        sentences.push(Vec::new());
    };
    for run in text.split_inclusive(char::is_whitespace) {
        let word = run.trim_end();
        if MEANWHILE.contains(&word.trim_start_matches('(')) {
            end(&mut sentences, false);
        }
        let parts = words(word, true).into_iter().filter(|part| !part.contains(|c: char| c.is_ascii_digit()));
        if let Some(sentence) = sentences.last_mut() {
            for part in parts {
                // An API key is one thing.
                let is_key = matches!(part.as_str(), "key" | "keys");
                if is_key && sentence.pop_if(|last| KEY_KINDS.contains(&last.as_str())).is_some() {
                    sentence.push("apikey".to_owned());
                } else {
                    sentence.push(part);
                }
            }
        }
        let is_colon = word.ends_with(':');
        if is_colon
            || run.ends_with('\n')
            || word.ends_with(['.', ';', '!', '?'])
            || word == "--"
            || word == "|"
        {
            end(&mut sentences, is_colon);
        }
    }
    end(&mut sentences, false);
    sentences
}

/// Joins the last sentence to the one before it, if it is too short to be one.
fn join_short(sentences: &mut Vec<Vec<String>>) {
    if let Some(short) = sentences.pop_if(|last| last.len() <= SHORT) {
        match sentences.last_mut() {
            Some(before) => before.extend(short),
            None => sentences.push(short),
        }
    }
}

/// The text without short quoted names.
fn without_quotes(text: &str) -> String {
    let mut bare = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['\'', '"', '`']) {
        let (before, quoted) = rest.split_at(at);
        let quote = &quoted[..1];
        let is_start = before.chars().next_back().is_none_or(|c| !c.is_alphanumeric());
        let end = quoted[1..].find(quote).filter(|end| is_start && *end <= QUOTED_MAX);
        bare.push_str(before);
        rest = match end {
            Some(end) => &quoted[end + 2..],
            None => &quoted[1..],
        };
    }
    bare.push_str(rest);
    bare
}

/// The words before "key" that make it a credential.
const KEY_KINDS: [&str; 4] = ["api", "access", "secret", "subscription"];

/// The words before what was done when it happened.
const MEANWHILE: [&str; 2] = ["while", "during"];

/// So many words after a colon belong to what is before it.
const SHORT: usize = 3;

/// Words at most this far apart belong together.
const NEAR: usize = 5;

/// The bytes at the start and at the end of a message that are read.
const END_BYTES: usize = 4096;

/// Longer quotes are messages, not names.
const QUOTED_MAX: usize = 48;

/// The words in lower case, divided at changes of case if asked.
fn words(text: &str, divided: bool) -> Vec<String> {
    let joined = text.replace(['\'', '\u{2019}'], "");
    let mut words = Vec::new();
    for word in joined.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        let letters: Vec<char> = word.chars().collect();
        let mut part = String::new();
        for (at, letter) in letters.iter().enumerate() {
            let follows_lower = at > 0 && letters[at - 1].is_lowercase();
            let precedes_lower = at > 0 && letters.get(at + 1).is_some_and(|next| next.is_lowercase());
            let starts = letter.is_uppercase()
                && (follows_lower || (precedes_lower && letters[at - 1].is_uppercase()));
            if divided && starts {
                words.push(std::mem::take(&mut part));
            }
            part.extend(letter.to_lowercase());
        }
        words.push(part);
    }
    words
}

/// The words before a number that make it an HTTP status.
const BEFORE_STATUS: [&str; 12] = [
    "http", "https", "status", "code", "error", "returned", "response", "reply", "occurred", "many", "with",
    "received",
];

/// The words after a number that make it an HTTP status.
const AFTER_STATUS: [&str; 7] = ["client", "server", "error", "message", "http", "response", "proxy"];

/// The first words of the reason phrases.
const REASONS: [(u16, &str); 20] = [
    (400, "bad"),
    (401, "unauthorized"),
    (401, "authorization"),
    (402, "payment"),
    (403, "forbidden"),
    (404, "not"),
    (407, "proxy"),
    (408, "request"),
    (410, "gone"),
    (413, "request"),
    (413, "payload"),
    (413, "content"),
    (415, "unsupported"),
    (422, "unprocessable"),
    (429, "too"),
    (500, "internal"),
    (502, "bad"),
    (503, "service"),
    (504, "gateway"),
    (507, "insufficient"),
];

fn statuses(words: &[String]) -> Vec<u16> {
    let word = |at: Option<usize>| at.and_then(|at| words.get(at)).map_or("", String::as_str);
    let is_version = |at: usize| {
        let is_digit = matches!(word(at.checked_sub(1)), "0" | "1" | "2" | "3");
        is_digit && (word(at.checked_sub(2)) == "http" || word(at.checked_sub(3)) == "http")
    };
    let is_status = |at: usize, number: u16| {
        let (before, after) = (word(at.checked_sub(1)), word(Some(at + 1)));
        BEFORE_STATUS.contains(&before)
            || AFTER_STATUS.contains(&after)
            || REASONS.contains(&(number, after))
            || is_version(at)
    };
    let numbers = words.iter().enumerate().filter(|(_, word)| word.len() == 3);
    let numbers = numbers.filter_map(|(at, word)| Some((at, word.parse().ok()?)));
    numbers
        .filter(|(at, number)| (400..600).contains(number) && is_status(*at, *number))
        .map(|(_, n)| n)
        .collect()
}

/// The numbers that stand alone in brackets, such as "(429)".
fn statuses_in_brackets(text: &str) -> impl Iterator<Item = u16> {
    let bracketed = text.split('(').skip(1).filter_map(|rest| rest.get(..4)?.strip_suffix(')')?.parse().ok());
    bracketed.filter(|status| (400..600).contains(status))
}

/// The words before the number of an error.
const BEFORE_NUMBER: [(Numbering, &[&str]); 9] = [
    (Numbering::Errno, &["errno"]),
    (Numbering::Errno, &["errcode"]),
    (Numbering::Errno, &["os", "error"]),
    (Numbering::Windows, &["winerror"]),
    (Numbering::Windows, &["win32", "error"]),
    (Numbering::Windows, &["socketexception"]),
    (Numbering::Curl, &["curl"]),
    (Numbering::Curl, &["curl", "error"]),
    (Numbering::Curl, &["curl", "error", "code"]),
];

fn numbers(words: &[String]) -> Vec<(Numbering, u32)> {
    let mut numbers = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let Ok(number) = word.parse() else { continue };
        for (numbering, before) in BEFORE_NUMBER {
            let start = at.saturating_sub(before.len());
            if words[start..at].iter().map(String::as_str).eq(before.iter().copied()) {
                numbers.push((numbering, number));
            }
        }
    }
    numbers
}
