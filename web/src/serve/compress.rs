//! Compression of responses: gzip or zstd, for text of a known length above 1 KiB.
//!
//! Streams have no known length, so they are never delayed by a compressor.

use async_compression::tokio::bufread::{GzipEncoder, ZstdEncoder};
use hyper::body::Body as _;
use poem::http::{HeaderValue, StatusCode, header};
use poem::{Body, Response};
use tokio::io::BufReader;

/// Below this, compression saves less than its headers cost.
const BYTES_MIN: u64 = 1024;

type BoxBody = http_body_util::combinators::BoxBody<bytes::Bytes, std::io::Error>;

pub(super) fn apply(mut response: Response, accept_encoding: Option<&str>) -> Response {
    if !is_text(&response) || response.headers().contains_key(header::CONTENT_ENCODING) {
        return response;
    }
    let body: BoxBody = response.take_body().into();
    let length = body.size_hint().exact();
    response.set_body(Body::from(body));
    if response.status() == StatusCode::PARTIAL_CONTENT || length.is_none_or(|length| length <= BYTES_MIN) {
        return response;
    }
    // Set on the uncompressed response as well: a cache must not return a compressed one to a client that did not ask for it.
    response.headers_mut().append(header::VARY, HeaderValue::from_static("accept-encoding"));
    let Some(coding) = accept_encoding.and_then(best) else { return response };
    weaken_etag(&mut response);
    let reader = BufReader::new(response.take_body().into_async_read());
    let (name, body) = match coding {
        Coding::Gzip => ("gzip", Body::from_async_read(GzipEncoder::new(reader))),
        Coding::Zstd => ("zstd", Body::from_async_read(ZstdEncoder::new(reader))),
    };
    response.set_body(body);
    response.headers_mut().remove(header::CONTENT_LENGTH);
    response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static(name));
    response
}

/// A supported content coding. poem's own compression would add Brotli to every build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    Gzip,
    Zstd,
}

fn is_text(response: &Response) -> bool {
    let Some(content_type) = response.content_type() else { return false };
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence != "text/event-stream"
        && (essence.starts_with("text/")
            || essence.ends_with("json")
            || essence.ends_with("+xml")
            || essence == "application/javascript")
}

/// The compressed bytes differ, so a strong tag would be wrong for them.
fn weaken_etag(response: &mut Response) {
    let weak = response.headers().get(header::ETAG).and_then(|etag| etag.to_str().ok()).and_then(|etag| {
        let strong = !etag.starts_with("W/");
        strong.then(|| HeaderValue::from_str(&format!("W/{etag}")).ok()).flatten()
    });
    if let Some(weak) = weak {
        response.headers_mut().insert(header::ETAG, weak);
    }
}

/// The supported coding that the caller prefers; zstd if it accepts both equally.
fn best(accept_encoding: &str) -> Option<Coding> {
    let mut zstd = None;
    let mut gzip = None;
    let mut any = 0.0;
    for part in accept_encoding.split(',') {
        let mut words = part.split(';').map(str::trim);
        let coding = words.next().unwrap_or_default().to_ascii_lowercase();
        let weight =
            words.find_map(|word| word.strip_prefix("q=")).map_or(Some(1.0), |q| q.parse::<f32>().ok());
        let Some(weight) = weight else { continue };
        match coding.as_str() {
            "zstd" => zstd = Some(weight),
            "gzip" | "x-gzip" => gzip = Some(weight),
            "*" => any = weight,
            _ => {}
        }
    }
    let (zstd, gzip) = (zstd.unwrap_or(any), gzip.unwrap_or(any));
    if zstd > 0.0 && zstd >= gzip {
        Some(Coding::Zstd)
    } else if gzip > 0.0 {
        Some(Coding::Gzip)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caller_chooses_the_coding() {
        for (accept, coding) in [
            ("gzip", Some(Coding::Gzip)),
            ("gzip, deflate, br, zstd", Some(Coding::Zstd)),
            ("zstd;q=0.5, gzip", Some(Coding::Gzip)),
            ("*", Some(Coding::Zstd)),
            ("gzip;q=0", None),
            ("identity", None),
            ("br", None),
            ("gzip;q=x", None),
        ] {
            assert_eq!(best(accept), coding, "{accept}");
        }
    }
}
