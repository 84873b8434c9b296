//! The choice of a media type by the `Accept` header.

/// The one of the offered media types that the caller prefers: that with the greatest weight, of equal ones the one that the
/// header names first, and the first one if the header is missing or accepts none.
pub fn preferred(accept: Option<&str>, offered: &'static [&'static str]) -> &'static str {
    let ranges: Vec<Range> = accept.unwrap_or("*/*").split(',').filter_map(Range::parse).collect();
    let rated = offered.iter().filter_map(|media_type| {
        // The most specific range counts, whatever the weights of the others are.
        let matching =
            ranges.iter().enumerate().filter_map(|(at, range)| Some((range.specificity(media_type)?, at)));
        let (_, at) = matching.min_by_key(|(specificity, at)| (std::cmp::Reverse(*specificity), *at))?;
        (ranges[at].weight > 0.0).then_some((media_type, ranges[at].weight, at))
    });
    let best = rated.reduce(|best, next| {
        let is_better = next.1 > best.1 || (next.1 == best.1 && next.2 < best.2);
        if is_better { next } else { best }
    });
    best.map_or(offered[0], |(media_type, ..)| *media_type)
}

struct Range {
    media_type: String,
    weight: f64,
}

impl Range {
    /// None for a weight that is not a number from 0 to 1.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let media_type = parts.next()?.to_ascii_lowercase();
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        let weight = weight.map_or(Some(1.0), |weight| weight.trim().parse().ok())?;
        (0.0..=1.0).contains(&weight).then_some(Self { media_type, weight })
    }

    /// How closely the range describes a media type that it includes.
    fn specificity(&self, media_type: &str) -> Option<u8> {
        let family = media_type.split('/').next().unwrap_or_default();
        match self.media_type.as_str() {
            "*/*" => Some(0),
            range if range.strip_suffix("/*") == Some(family) => Some(1),
            range if range == media_type => Some(2),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caller_chooses_the_media_type() {
        let offered: &[&str] = &["application/json", "application/x-ndjson", "text/html"];
        for (accept, chosen) in [
            ("*/*", "application/json"),
            ("application/*", "application/json"),
            ("", "application/json"),
            ("image/png", "application/json"),
            ("application/x-ndjson", "application/x-ndjson"),
            ("application/x-ndjson; charset=utf-8", "application/x-ndjson"),
            ("application/x-ndjson, application/json", "application/x-ndjson"),
            ("application/json, application/x-ndjson", "application/json"),
            ("application/x-ndjson;q=0, application/json;q=0.1", "application/json"),
            ("application/x-ndjson;q=0.5, application/json;q=0.6", "application/json"),
            ("text/html,application/xhtml+xml,*/*;q=0.8", "text/html"),
            ("text/html;q=0", "application/json"),
            ("text/html;q=0, */*", "application/json"),
            ("TEXT/HTML;Q=1", "text/html"),
            ("text/*;q=0.9, application/json;q=x", "text/html"),
            ("*/*, application/json;q=0", "application/x-ndjson"),
        ] {
            assert_eq!(preferred(Some(accept), offered), chosen, "{accept}");
        }
        assert_eq!(preferred(None, offered), "application/json");
    }
}
