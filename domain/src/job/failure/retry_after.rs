//! The retry delay in the text of a refusal.

/// The texts before a delay.
const BEFORE: [&str; 14] = [
    "retry-after-ms",
    "retry-after",
    "retry after",
    "retry_after",
    "retryafter",
    "retry in",
    "retrydelay",
    "retry_delay",
    "again in",
    "again after",
    "available in",
    "reset in",
    "resets in",
    "wait",
];

/// The words between such a text and the delay.
const BETWEEN: [&str; 8] = ["for", "at least", "about", "approximately", "another", "seconds", "is", "of"];

const UNITS: [(&str, f64); 18] = [
    ("ms", 0.001),
    ("millisecond", 0.001),
    ("milliseconds", 0.001),
    ("s", 1.0),
    ("sec", 1.0),
    ("secs", 1.0),
    ("second", 1.0),
    ("seconds", 1.0),
    ("m", 60.0),
    ("min", 60.0),
    ("mins", 60.0),
    ("minute", 60.0),
    ("minutes", 60.0),
    ("h", 3600.0),
    ("hr", 3600.0),
    ("hour", 3600.0),
    ("hours", 3600.0),
    ("day", 86_400.0),
];

const NUMBERS: [(&str, f64); 10] = [
    ("a", 1.0),
    ("an", 1.0),
    ("one", 1.0),
    ("two", 2.0),
    ("three", 3.0),
    ("five", 5.0),
    ("ten", 10.0),
    ("fifteen", 15.0),
    ("thirty", 30.0),
    ("sixty", 60.0),
];

/// A delay longer than a day is considered a mistake.
const SECONDS_MAX: f64 = 86_400.0;

/// The seconds that the message contains; none if it contains no delay.
pub(super) fn seconds(message: &str) -> Option<u32> {
    let message = &message.to_lowercase();
    let delays = BEFORE.iter().flat_map(|before| {
        let unit = if before.ends_with("ms") { 0.001 } else { 1.0 };
        message.match_indices(before).map(move |(at, before)| (&message[at + before.len()..], unit))
    });
    let mut found = delays.filter_map(|(text, unit)| delay(text, unit));
    let seconds = found.next()?;
    (seconds <= SECONDS_MAX).then(|| seconds.ceil() as u32)
}

/// The delay at the start, such as "1m30s" or ": 2 minutes and 5 seconds". `unit` is that of a number alone.
fn delay(text: &str, unit: f64) -> Option<f64> {
    let mut rest = after_punctuation(text);
    while let Some(after) = BETWEEN.iter().find_map(|word| after_word(rest, word)) {
        rest = after_punctuation(after);
    }
    let mut seconds = None;
    while let Some((number, after)) = number(rest) {
        let after_number = after.trim_start_matches([' ', '-']);
        let end = after_number.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after_number.len());
        let named = UNITS.iter().find(|(name, _)| *name == &after_number[..end]);
        let Some((_, size)) = named else {
            // "a moment" is not a number.
            return seconds.or(rest.starts_with(|c: char| c.is_ascii_digit()).then_some(number * unit));
        };
        seconds = Some(seconds.unwrap_or(0.0) + number * size);
        rest = after_number[end..].trim_start_matches([' ', ',']);
        rest = after_word(rest, "and").map_or(rest, str::trim_start);
    }
    seconds
}

fn after_punctuation(text: &str) -> &str {
    text.trim_start_matches(|c: char| {
        c.is_whitespace() || matches!(c, ':' | '=' | '"' | '\'' | '(' | '{' | '_')
    })
}

/// The text after this word.
fn after_word<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    text.strip_prefix(word).filter(|after| !after.starts_with(|c: char| c.is_alphanumeric()))
}

/// The number at the start, in digits or a word, and the text after it.
fn number(text: &str) -> Option<(f64, &str)> {
    if let Some(named) = NUMBERS.iter().find_map(|(word, number)| Some((*number, after_word(text, word)?))) {
        return Some(named);
    }
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number = text[..end].trim_end_matches('.').parse().ok()?;
    Some((number, &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delay_in_the_message_is_parsed() {
        for (message, expected) in [
            ("HTTP 429 Too Many Requests, Retry-After: 17", 17),
            ("Rate limit reached for requests. Please try again in 1.2s.", 2),
            ("rate limited; retry after 3 minutes", 180),
            ("429: retry in 1500ms", 2),
            ("throttled, wait 2 hours", 7200),
            ("{\"retry-after\": \"30\"}", 30),
            ("Limit 7200, Used 7139. Please try again in 1m45.5s. Visit the console", 106),
            ("{\"message\": \"You are being rate limited.\", \"retry_after\": 2.5, \"global\": false}", 3),
            ("too many requests, wait for 30 seconds", 30),
            ("Please wait 1 minute and 30 seconds before trying again", 90),
            ("try again in 1h2m3s", 3723),
            ("retry-after-ms: 1500", 2),
            ("{\"retryDelay\": \"34.07s\"}", 35),
            ("Request was throttled. Expected available in 86 seconds.", 86),
            ("Please try again in a minute.", 60),
            ("we waited in vain; try again after one hour", 3600),
        ] {
            assert_eq!(seconds(message), Some(expected), "{message}");
        }
    }

    #[test]
    fn missing_or_implausible_delay_is_ignored() {
        for message in [
            "too many requests",
            "retry after the meeting",
            "Retry-After: 99999999",
            "wait",
            "Retry-After: Wed, 21 Oct 2015 07:28:00 GMT",
            "waited 30 s for it",
            "please wait a moment",
        ] {
            assert_eq!(seconds(message), None, "{message}");
        }
    }
}
