//! The retry delay in the text of a refusal.

/// The texts before a delay, which start at the start of a word.
const BEFORE: [&str; 32] = [
    "retry-after-ms",
    "retry_after_ms",
    "retryafterms",
    "retry-after-seconds",
    "retry_after_seconds",
    "retry-after",
    "retry after",
    "retry_after",
    "retryafter",
    "retry in",
    "retry again in",
    "retry your request in",
    "retry your request after",
    "retrydelay",
    "retry_delay",
    "retry delay",
    "retryin",
    "again in",
    "again after",
    "again within",
    "available in",
    "reset in",
    "reset after",
    "reset-after",
    "resets in",
    "resets after",
    "wait",
    "a wait of",
    "flood_wait_",
    "backoff time",
    "back off for",
    "cooldown",
];

/// The words between such a text and the delay.
const BETWEEN: [&str; 15] = [
    "for",
    "at least",
    "about",
    "approximately",
    "around",
    "another",
    "seconds",
    "secs",
    "time",
    "is",
    "of",
    "in",
    "up to",
    "more",
    "value",
];

const UNITS: [(&str, f64); 27] = [
    ("ns", 1e-9),
    ("us", 1e-6),
    ("µs", 1e-6),
    ("microseconds", 1e-6),
    ("ms", 0.001),
    ("msec", 0.001),
    ("msecs", 0.001),
    ("millis", 0.001),
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
    ("hrs", 3600.0),
    ("hour", 3600.0),
    ("hours", 3600.0),
    ("day", 86_400.0),
    ("days", 86_400.0),
];

const NUMBERS: [(&str, f64); 19] = [
    ("a", 1.0),
    ("an", 1.0),
    ("one", 1.0),
    ("two", 2.0),
    ("three", 3.0),
    ("four", 4.0),
    ("five", 5.0),
    ("six", 6.0),
    ("seven", 7.0),
    ("eight", 8.0),
    ("nine", 9.0),
    ("ten", 10.0),
    ("twelve", 12.0),
    ("fifteen", 15.0),
    ("twenty", 20.0),
    ("thirty", 30.0),
    ("forty", 40.0),
    ("forty-five", 45.0),
    ("sixty", 60.0),
];

/// The words after a number without a unit with which it is a delay: "wait 5 before the next request".
const AFTER: [&str; 7] = ["before", "and", "then", "until", "to", "for", "or"];

/// A delay longer than a day is shortened to it. A bare number beyond it is an instant or an identifier.
const SECONDS_MAX: f64 = 86_400.0;

/// The seconds that the message contains; none if it contains no delay.
pub(super) fn seconds(message: &str) -> Option<u32> {
    let message = &message.to_lowercase();
    // "retry after" in a longer text such as "retry after ms" is found there, too: the first text decides.
    let mut found = BEFORE.iter().flat_map(|before| {
        let unit = if before.ends_with("ms") { 0.001 } else { 1.0 };
        let starts = message.match_indices(before).filter(|(at, _)| starts_word(message, *at));
        starts.map(move |(at, before)| (&message[at + before.len()..], unit))
    });
    let seconds = found.find_map(|(text, unit)| delay(text, unit))?;
    Some(seconds.min(SECONDS_MAX).ceil() as u32)
}

fn starts_word(message: &str, at: usize) -> bool {
    !message[..at].ends_with(char::is_alphanumeric)
}

/// The delay at the start, such as "1m30s", ": 2 minutes and 5 seconds" or "PT30S". `unit` is that of a number
/// alone.
fn delay(text: &str, unit: f64) -> Option<f64> {
    let mut rest = after_punctuation(text);
    let mut is_header = rest.len() < text.trim_start().len();
    while let Some(after) = BETWEEN.iter().find_map(|word| after_word(rest, word)) {
        rest = after_punctuation(after);
        is_header = is_header || after.trim_start().starts_with([':', '=']);
    }
    // ISO 8601.
    rest =
        rest.strip_prefix("pt").filter(|iso| iso.starts_with(|c: char| c.is_ascii_digit())).unwrap_or(rest);
    let mut seconds = None;
    while let Some((number, after)) = number(rest) {
        let after_number = after.trim_start_matches([' ', '-']);
        let end = after_number.find(|c: char| !c.is_alphabetic()).unwrap_or(after_number.len());
        let Some((_, size)) = UNITS.iter().find(|(name, _)| *name == &after_number[..end]) else {
            let is_bare = seconds.is_none() && rest.starts_with(|c: char| c.is_ascii_digit());
            let bare = (is_bare && is_alone(after, is_header)).then_some(number * unit);
            return seconds.or(bare.filter(|seconds| *seconds <= SECONDS_MAX));
        };
        seconds = Some(seconds.unwrap_or(0.0) + number * size);
        rest = after_number[end..].trim_start_matches([' ', ',']);
        rest = after_word(rest, "and").map_or(rest, str::trim_start);
    }
    seconds
}

/// Whether the number before this text has no unit and is no part of a date, a time, a count or a percentage.
/// After a colon, such as that of a header, any word may follow.
fn is_alone(after: &str, is_header: bool) -> bool {
    if after.starts_with(['-', ':', '/', '%', '.']) && after[1..].starts_with(|c: char| c.is_ascii_digit()) {
        return false;
    }
    let word = after.trim_start();
    let is_attached = word.len() == after.len();
    let starts_word = word.starts_with(char::is_alphabetic);
    !after.starts_with('%') && (!starts_word || (!is_attached && (is_header || begins_with_any(word))))
}

fn begins_with_any(text: &str) -> bool {
    AFTER.iter().any(|word| after_word(text, word).is_some())
}

fn after_punctuation(text: &str) -> &str {
    text.trim_start_matches(|c: char| {
        c.is_whitespace() || matches!(c, ':' | '=' | '"' | '\'' | '(' | '{' | '[' | '_' | '~' | '\\' | '>')
    })
}

/// The text after this word.
fn after_word<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    text.strip_prefix(word).filter(|after| !after.starts_with(|c: char| c.is_alphanumeric()))
}

/// The number at the start, in digits or a word, and the text after it. Thousands may be divided by commas.
fn number(text: &str) -> Option<(f64, &str)> {
    if let Some(named) = NUMBERS.iter().find_map(|(word, number)| Some((*number, after_word(text, word)?))) {
        return Some(named);
    }
    let bytes = text.as_bytes();
    let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let mut end = 0;
    loop {
        let divides = bytes.get(end) == Some(&b',') && (1..4).all(|ahead| is_digit(end + ahead));
        if !(is_digit(end) || (bytes.get(end) == Some(&b'.') && is_digit(end + 1)) || divides)
            || end > DIGITS_MAX
        {
            break;
        }
        end += 1;
    }
    let number = text[..end].replace(',', "").parse().ok()?;
    Some((number, &text[end..]))
}

const DIGITS_MAX: usize = 32;

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
            ("Please retry in 45.06576809s.", 46),
            ("throttled: try again in 250 ms", 1),
            ("limit reached, try again in 1h13m", 4380),
            ("BAD Request is throttled. Suggested Backoff Time: 30000 milliseconds", 30),
            ("[420 FLOOD_WAIT_X] - A wait of 30 seconds is required", 30),
            ("FLOOD_WAIT_42", 42),
            ("{\"retryAfter\":\"PT1M30S\"}", 90),
            ("Retry-After: PT30S", 30),
            ("Retry-After: 120\r\nContent-Length: 5", 120),
            ("Retry-After: 120 Server: nginx", 120),
            ("retry_after=7, scope=user", 7),
            ("Your rate limit resets in ~30s.", 30),
            ("x-ratelimit-reset-after: 1.5", 2),
            ("Please wait 1,200 seconds", 1200),
            ("wait 5 before the next request", 5),
            ("retry after 500ms", 1),
            ("Try again in about 2 minutes", 120),
            ("try again in 10h 37m", 38_220),
            ("try again in 3 days", 86_400),
            ("{retry_after_seconds: 12}", 12),
            ("retryAfterMs: 2500", 3),
        ] {
            assert_eq!(seconds(message), Some(expected), "{message}");
        }
    }

    #[test]
    fn number_that_is_not_a_delay_is_ignored() {
        for message in [
            "too many requests",
            "retry after the meeting",
            "Retry-After: 99999999",
            "rate limit exceeded, retry after 1784728800",
            "wait",
            "Retry-After: Wed, 21 Oct 2015 07:28:00 GMT",
            "retry after 2026-11-29T10:00:00Z",
            "try again after 10:30",
            "waited 30 s for it",
            "timed out after 30 seconds",
            "request canceled after 5s, port 443",
            "gave up; retry after 3 attempts failed",
            "await 30",
            "connect to 10.0.0.7:9000 failed (read timeout=20)",
            "please wait a moment",
            "wait 50% longer",
            "try again in a few minutes",
            "Limit 7200, Used 7139, Requested 272",
            "resets 3am",
        ] {
            assert_eq!(seconds(message), None, "{message}");
        }
    }
}
