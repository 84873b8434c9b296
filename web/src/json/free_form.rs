//! Free-form JSON in a request: data of the caller that is stored and not interpreted.

/// The longest free-form value, in bytes of JSON without insignificant white space.
pub(crate) const BYTES_MAX: usize = 16 * 1024;

/// Refuses a free-form value that is too large, or that would not be read as it was written: most JSON parsers, this
/// server's too, change whole numbers that do not fit into 64 bits.
///
/// # Errors
/// With the reason.
pub(super) fn check(text: &str) -> Result<(), String> {
    let (mut length, mut is_text, mut is_escaped) = (0, false, false);
    let mut number_start = None;
    for (at, byte) in text.bytes().chain(*b" ").enumerate() {
        if is_text {
            is_text = is_escaped || byte != b'"';
            is_escaped = !is_escaped && byte == b'\\';
            length += 1;
            continue;
        }
        let is_number = byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E');
        match number_start {
            None if byte.is_ascii_digit() || byte == b'-' => number_start = Some(at),
            Some(start) if !is_number => {
                check_number(&text[start..at])?;
                number_start = None;
            }
            _ => {}
        }
        is_text = byte == b'"';
        length += usize::from(!byte.is_ascii_whitespace());
    }
    if length > BYTES_MAX {
        return Err(format!("has {length} bytes of JSON; at most {BYTES_MAX} are allowed"));
    }
    Ok(())
}

fn check_number(text: &str) -> Result<(), String> {
    let is_whole = !text.contains(['.', 'e', 'E']);
    if is_whole && text.parse::<i64>().is_err() && text.parse::<u64>().is_err() {
        let shown: String = text.chars().take(40).collect();
        return Err(format!("has the number {shown}, which does not fit into 64 bits; send it as a string"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_beyond_64_bits_are_refused() {
        for accepted in ["18446744073709551615", "-9223372036854775808", "[1.5, -0, 1e300]", r#"{"9": 9}"#] {
            assert_eq!(check(accepted), Ok(()), "{accepted}");
        }
        assert_eq!(check(r#"{"a": ["\"18446744073709551616"]}"#), Ok(()));
        for refused in
            ["18446744073709551616", "-9223372036854775809", r#"{"a":["\\",18446744073709551616]}"#]
        {
            assert!(check(refused).unwrap_err().contains("does not fit into 64 bits"), "{refused}");
        }
    }

    #[test]
    fn length_counts_without_white_space() {
        let text = format!("{{\n  \"a\": \"{}\"\n}}", "é ".repeat((BYTES_MAX - 8) / 3));
        let spare = BYTES_MAX - 8 - 3 * ((BYTES_MAX - 8) / 3);
        let text = text.replace("\"\n}", &format!("{}\"\n}}", "x".repeat(spare)));
        assert_eq!(check(&text), Ok(()));
        assert!(check(&text.replace("\"\n}", "x\"\n}")).unwrap_err().starts_with("has 16385 bytes"));
    }
}
