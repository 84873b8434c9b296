//! An error message in the form that patterns are compared with.

/// The words of a message, in lower case. A word of several parts is both divided into them and kept whole, so
/// that `DeadlineExceeded`, `DEADLINE_EXCEEDED` and "deadline exceeded" are the same.
pub(super) struct Text {
    /// What the message says, without the addresses and files that it says it of.
    said: [String; 3],
    /// The whole message, in which a service may be named.
    whole: [String; 2],
    statuses: Vec<u16>,
}

impl Text {
    pub(super) fn new(message: &str) -> Self {
        let message = without_stack_trace(message);
        let said = without_addresses(&message);
        let divided = words(&said, true);
        let statuses = statuses(&divided);
        // "video 2039 not found" and "video 'clip 7' not found" are "video not found".
        let bare = words(&without_quotes(&said), true);
        let is_a_name = |word: &&str| word.contains(|c: char| c.is_ascii_digit());
        let bare: Vec<&str> = bare.iter().map(String::as_str).filter(|word| !is_a_name(word)).collect();
        Self {
            said: [line(&divided), line(&words(&said, false)), line(&bare)],
            whole: [line(&words(&message, true)), line(&words(&message, false))],
            statuses,
        }
    }

    /// Whether the phrase occurs. Its last word may be the start of a longer one, unless a space follows it; a
    /// `$` is the end of the message.
    pub(super) fn says(&self, phrase: &str) -> bool {
        self.said.iter().any(|line| occurs(line, phrase))
    }

    /// Whether a word of each list occurs, close to one of the other.
    pub(super) fn has_near(&self, one: &str, other: &str) -> bool {
        let is_in = |list: &str, word: &str| list.split(' ').any(|listed| listed == word);
        self.said.iter().any(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let found =
                |list| words.iter().enumerate().filter(move |(_, word)| is_in(list, word)).map(|(at, _)| at);
            found(one).any(|first| found(other).any(|second| first.abs_diff(second) <= NEAR))
        })
    }

    pub(super) fn names(&self, phrase: &str) -> bool {
        self.whole.iter().any(|line| occurs(line, phrase))
    }

    pub(super) fn has_status(&self, status: u16) -> bool {
        self.statuses.contains(&status)
    }
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

/// The message without the indented lines of a stack trace, which name every function on the way.
fn without_stack_trace(message: &str) -> String {
    let is_traced =
        ["Traceback (most recent", "\n    at ", "\n\tat "].iter().any(|mark| message.contains(mark));
    if !is_traced {
        return message.to_owned();
    }
    let is_frame = |line: &&str| {
        line.starts_with("  ") && !line.trim_start().starts_with('[') || line.starts_with("\tat ")
    };
    message.lines().filter(|line| !is_frame(line)).collect::<Vec<_>>().join("\n")
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

/// Words at most this far apart belong together.
const NEAR: usize = 5;

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

/// The words before or after a number that make it an HTTP status.
const BEFORE_STATUS: [&str; 16] = [
    "http", "https", "status", "code", "error", "returned", "response", "reply", "occurred", "many", "1",
    "0", "2", "with", "got", "received",
];
const AFTER_STATUS: [&str; 18] = [
    "client",
    "server",
    "error",
    "message",
    "too",
    "unauthorized",
    "forbidden",
    "not",
    "gone",
    "internal",
    "bad",
    "service",
    "gateway",
    "proxy",
    "payload",
    "request",
    "unprocessable",
    "overloaded",
];

fn statuses(words: &[String]) -> Vec<u16> {
    let is_one = |at: usize| {
        let before = at.checked_sub(1).and_then(|before| words.get(before));
        before.is_some_and(|word| BEFORE_STATUS.contains(&word.as_str()))
            || words.get(at + 1).is_some_and(|word| AFTER_STATUS.contains(&word.as_str()))
    };
    let numbers = words.iter().enumerate().filter(|(at, word)| word.len() == 3 && is_one(*at));
    numbers.filter_map(|(_, word)| word.parse().ok()).filter(|status| (400..600).contains(status)).collect()
}
