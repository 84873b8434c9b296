//! The URLs of supported videos: recordings on Twitch, as `https://www.twitch.tv/videos/<digits>`.

use event_schemas::ids::VideoId;

/// The maximum number of digits of a video's number.
const DIGITS_MAX: usize = 20;

/// The reason why a URL does not name a supported video.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WrongUrl {
    #[error("must start with https://")]
    Scheme,
    #[error("must have the host www.twitch.tv or twitch.tv; other hosts are not supported")]
    Host,
    #[error(
        "must name a recording, as https://www.twitch.tv/videos/2039; clips and channels are not supported"
    )]
    NotAVideo,
    #[error("must end with the video's number; remove the rest")]
    TooMuch,
    #[error("must name the video by its number, in at most {DIGITS_MAX} digits")]
    Number,
}

/// The video that the URL names.
///
/// # Errors
/// The reason why it is not supported.
pub fn video_id(url: &str) -> Result<VideoId, WrongUrl> {
    let rest = url.strip_prefix("https://").ok_or(WrongUrl::Scheme)?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if !matches!(host, "www.twitch.tv" | "twitch.tv") {
        return Err(WrongUrl::Host);
    }
    let number = path.strip_prefix("videos/").ok_or(WrongUrl::NotAVideo)?;
    let digits = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
    if digits == 0 || digits > DIGITS_MAX {
        return Err(WrongUrl::Number);
    }
    if digits < number.len() {
        let follows = number[digits..].starts_with(['/', '?', '#']);
        return Err(if follows { WrongUrl::TooMuch } else { WrongUrl::Number });
    }
    number.parse().map_err(|_| WrongUrl::Number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn recording_is_identified_with_or_without_www() {
        for url in ["https://www.twitch.tv/videos/2039", "https://twitch.tv/videos/2039"] {
            assert_eq!(video_id(url).map(|video| video.to_string()), Ok("2039".to_owned()));
        }
    }

    #[test]
    fn unsupported_url_is_refused_with_a_reason() {
        for (url, wrong) in [
            ("", WrongUrl::Scheme),
            ("http://www.twitch.tv/videos/2039", WrongUrl::Scheme),
            ("HTTPS://www.twitch.tv/videos/2039", WrongUrl::Scheme),
            (" https://www.twitch.tv/videos/2039", WrongUrl::Scheme),
            ("https://", WrongUrl::Host),
            ("https://www.youtube.com/watch?v=2039", WrongUrl::Host),
            ("https://www.twitch.tv.example.org/videos/2039", WrongUrl::Host),
            ("https://user@www.twitch.tv/videos/2039", WrongUrl::Host),
            ("https://www.twitch.tv:443/videos/2039", WrongUrl::Host),
            ("https://m.twitch.tv/videos/2039", WrongUrl::Host),
            ("https://www.twitch.tv", WrongUrl::NotAVideo),
            ("https://www.twitch.tv/a_channel", WrongUrl::NotAVideo),
            ("https://www.twitch.tv/a_channel/clip/Funny", WrongUrl::NotAVideo),
            ("https://www.twitch.tv//videos/2039", WrongUrl::NotAVideo),
            ("https://www.twitch.tv/videos/", WrongUrl::Number),
            ("https://www.twitch.tv/videos/v2039", WrongUrl::Number),
            ("https://www.twitch.tv/videos/20x39", WrongUrl::Number),
            ("https://www.twitch.tv/videos/٢٠٣٩", WrongUrl::Number),
            ("https://www.twitch.tv/videos/123456789012345678901", WrongUrl::Number),
            ("https://www.twitch.tv/videos/2039/", WrongUrl::TooMuch),
            ("https://www.twitch.tv/videos/2039?t=1h", WrongUrl::TooMuch),
            ("https://www.twitch.tv/videos/2039#chat", WrongUrl::TooMuch),
        ] {
            assert_eq!(video_id(url), Err(wrong), "{url}");
        }
    }

    proptest! {
        #[test]
        fn video_ids_consist_of_digits_only(url in r"https://(www\.)?twitch\.tv/videos/\PC{0,24}") {
            if let Ok(video) = video_id(&url) {
                prop_assert!(video.as_str().bytes().all(|byte| byte.is_ascii_digit()));
                prop_assert_eq!(url.rsplit('/').next(), Some(video.as_str()));
            }
        }
    }
}
