//! A file as a response: whole, or one range of its bytes (RFC 9110, section 14).

use std::io;
use std::ops::Range;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use poem::http::{HeaderValue, StatusCode, header};
use poem::{Body, IntoResponse, Response};
use poem_openapi::ApiResponse;
use poem_openapi::registry::{
    MetaHeader, MetaMediaType, MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef, Registry,
};
use web::problem::{Code, Problem};

/// The part of a file that a caller asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RequestedPart {
    Whole,
    Range(Range<u64>),
}

impl RequestedPart {
    /// A range of another unit, several ranges and a malformed one count as none, as does one of an earlier file.
    ///
    /// # Errors
    /// 416 for a range without any byte of the file.
    pub(crate) fn new(
        range: Option<&str>,
        if_range: Option<&str>,
        etag: &str,
        size: u64,
    ) -> Result<Self, Problem> {
        let is_current = if_range.is_none_or(|tag| tag.trim() == etag);
        let Some((first, last)) = range.filter(|_| is_current).and_then(bounds) else {
            return Ok(Self::Whole);
        };
        let range = match (first, last) {
            (Some(first), last) => first..last.map_or(size, |last| last.saturating_add(1).min(size)),
            (None, Some(length)) => size.saturating_sub(length)..size,
            (None, None) => return Ok(Self::Whole),
        };
        if range.is_empty() {
            let detail = format!("the file has {size} bytes; ask for a range within them");
            let problem = Problem::new(Code::RangeNotSatisfiable, detail);
            let whole = HeaderValue::from_str(&format!("bytes */{size}")).expect("digits are a header");
            return Err(problem.header(header::CONTENT_RANGE, whole));
        }
        Ok(Self::Range(range))
    }

    /// The range; none for the whole file.
    pub(crate) fn range(&self) -> Option<Range<u64>> {
        match self {
            Self::Whole => None,
            Self::Range(range) => Some(range.clone()),
        }
    }
}

/// The two numbers of `bytes=1-2`, of which one may be missing. None for anything else.
fn bounds(range: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (unit, range) = range.split_once('=')?;
    let (first, last) = range.trim().split_once('-')?;
    let number = |text: &str| {
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = if text.is_empty() { None } else { Some(text.parse().unwrap_or(u64::MAX)) };
        is_number.then_some(number)
    };
    let (first, last) = (number(first)?, number(last)?);
    let is_ordered = first.zip(last).is_none_or(|(first, last)| first <= last);
    (unit.trim().eq_ignore_ascii_case("bytes") && is_ordered && first.or(last).is_some())
        .then_some((first, last))
}

/// A file that is sent.
pub struct StoredFile {
    pub(crate) file_name: String,
    pub(crate) etag: String,
    /// The bytes of the whole file.
    pub(crate) size: u64,
    pub(crate) part: RequestedPart,
    pub(crate) bytes: BoxStream<'static, io::Result<Bytes>>,
}

impl std::fmt::Debug for StoredFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoredFile").field("file_name", &self.file_name).finish_non_exhaustive()
    }
}

/// A file, a part of it, or 304 if the caller has it.
#[derive(Debug)]
pub enum FileResponse {
    Content(StoredFile),
    Unchanged(String),
}

impl IntoResponse for FileResponse {
    fn into_response(self) -> Response {
        let response = Response::builder()
            .header(header::CACHE_CONTROL, "private, no-cache, no-transform")
            .header(header::ACCEPT_RANGES, "bytes")
            .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
        let file = match self {
            Self::Content(file) => file,
            Self::Unchanged(etag) => {
                return response.header(header::ETAG, etag).status(StatusCode::NOT_MODIFIED).finish();
            }
        };
        let StoredFile { file_name, etag, size, part, bytes } = file;
        let response = response
            .header(header::ETAG, etag)
            .header(header::CONTENT_DISPOSITION, format!("attachment; filename=\"{file_name}\""))
            .content_type(MEDIA_TYPE);
        let response = match part.range() {
            None => response.header(header::CONTENT_LENGTH, size),
            Some(Range { start, end }) => response
                .status(StatusCode::PARTIAL_CONTENT)
                .header(header::CONTENT_LENGTH, end - start)
                .header(header::CONTENT_RANGE, format!("bytes {start}-{}/{size}", end - 1)),
        };
        response.body(Body::from_bytes_stream(bytes))
    }
}

/// One type for files in all formats, as clients expect of a download; the name of the file says the format.
const MEDIA_TYPE: &str = "application/octet-stream";

impl ApiResponse for FileResponse {
    fn meta() -> MetaResponses {
        let file = || {
            let schema = MetaSchemaRef::Inline(Box::new(MetaSchema::new_with_format("string", "binary")));
            vec![MetaMediaType { content_type: MEDIA_TYPE, schema }]
        };
        let response = |status: StatusCode, description, content, headers| MetaResponse {
            description,
            status: Some(status.as_u16()),
            status_range: None,
            content,
            headers,
        };
        let content_range = MetaHeader {
            name: "content-range".to_owned(),
            description: Some("The range, and the size of the whole file".to_owned()),
            required: true,
            deprecated: false,
            schema: MetaSchemaRef::Inline(Box::new(MetaSchema::new("string"))),
        };
        MetaResponses {
            responses: vec![
                response(StatusCode::OK, "The file", file(), vec![]),
                response(StatusCode::PARTIAL_CONTENT, "A part of the file", file(), vec![content_range]),
                response(StatusCode::NOT_MODIFIED, "Not modified", vec![], vec![]),
            ],
        }
    }

    fn register(_: &mut Registry) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(range: &str) -> Result<RequestedPart, u16> {
        let part = RequestedPart::new(Some(range), None, "\"a\"", 100);
        part.map_err(|problem| problem.status().as_u16())
    }

    #[test]
    fn one_range_of_bytes_is_a_part() {
        for (range, expected) in [
            ("bytes=0-0", 0..1),
            ("bytes=10-", 10..100),
            ("bytes=-10", 90..100),
            ("bytes=-1000", 0..100),
            ("Bytes=5-1000", 5..100),
            ("bytes=99-99999999999999999999999", 99..100),
        ] {
            assert_eq!(part(range), Ok(RequestedPart::Range(expected)), "{range}");
        }
    }

    #[test]
    fn other_ranges_are_ignored_and_ranges_beyond_the_end_refused() {
        for range in ["bytes=0-1,5-6", "lines=1-2", "bytes=2-1", "bytes=-", "bytes=a-b", "bytes=+1-2", "0-1"]
        {
            assert_eq!(part(range), Ok(RequestedPart::Whole), "{range}");
        }
        for range in ["bytes=100-", "bytes=-0", "bytes=99999999999999999999999-"] {
            assert_eq!(part(range), Err(416), "{range}");
        }
    }

    #[test]
    fn range_of_an_earlier_file_is_ignored() {
        let part = |tag| RequestedPart::new(Some("bytes=1-2"), Some(tag), "\"a\"", 100).unwrap();
        assert_eq!(part("\"b\""), RequestedPart::Whole);
        assert_eq!(part("W/\"a\""), RequestedPart::Whole, "a weak tag is no proof of equal bytes");
        assert_eq!(part("\"a\""), RequestedPart::Range(1..3));
    }
}
