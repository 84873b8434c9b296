//! The retry delay in the text of a refusal.

/// The texts before the number.
const BEFORE: [&str; 5] = ["retry-after", "retry after", "retry in", "try again in", "wait"];

/// A delay longer than a day is considered a mistake.
const SECONDS_MAX: f64 = 86_400.0;

/// The seconds that the message contains; none if it contains no delay.
pub(super) fn seconds(message: &str) -> Option<u32> {
    let message = message.to_lowercase();
    BEFORE.iter().find_map(|before| {
        let (_, rest) = message.split_once(before)?;
        number(rest)
    })
}

/// A number at the start, after punctuation, in the unit that follows it; in seconds if there is no unit.
fn number(text: &str) -> Option<u32> {
    let text = text.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, ':' | '=' | '"' | '\''));
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let number: f64 = digits.trim_end_matches('.').parse().ok()?;
    let unit = unit.trim_start();
    let seconds = if unit.starts_with("ms") || unit.starts_with("milli") {
        number / 1000.0
    } else if unit.starts_with('m') {
        number * 60.0
    } else if unit.starts_with('h') {
        number * 3600.0
    } else {
        number
    };
    (seconds <= SECONDS_MAX).then(|| seconds.ceil() as u32)
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
        ] {
            assert_eq!(seconds(message), Some(expected), "{message}");
        }
    }

    #[test]
    fn missing_or_implausible_delay_is_ignored() {
        for message in ["too many requests", "retry after the meeting", "Retry-After: 99999999", "wait"] {
            assert_eq!(seconds(message), None, "{message}");
        }
    }
}
