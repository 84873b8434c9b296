//! The error codes that clients may match on. `docs/problems.md` is this table as text; a test compares the two.

use poem::http::StatusCode;
use strum::VariantArray;

/// A machine-readable error code. Codes are added, never changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE", const_into_str)]
pub enum Code {
    InvalidRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    NotAcceptable,
    RequestTimeout,
    Conflict,
    Gone,
    PayloadTooLarge,
    UnsupportedMediaType,
    RangeNotSatisfiable,
    Unprocessable,
    IdempotencyKeyReused,
    UpgradeRequired,
    RateLimited,
    HeadersTooLarge,
    UriTooLong,
    Internal,
    Unavailable,
    OutcomeUnknown,
    InsufficientStorage,
}

/// The description of a code.
struct CodeInfo {
    status: StatusCode,
    title: &'static str,
    meaning: &'static str,
    remedy: &'static str,
}

impl Code {
    pub const ALL: &[Self] = Self::VARIANTS;

    pub fn status(self) -> StatusCode {
        self.info().status
    }

    pub fn title(self) -> &'static str {
        self.info().title
    }

    /// The meaning, in a sentence.
    pub fn meaning(self) -> &'static str {
        self.info().meaning
    }

    /// The remedy for the caller.
    pub fn remedy(self) -> &'static str {
        self.info().remedy
    }

    /// `/docs/problems#not-found`: a relative reference, so that it leads to the server that responded.
    pub fn type_uri(self) -> String {
        format!("/docs/problems#{}", self.anchor())
    }

    pub fn anchor(self) -> String {
        self.into_str().to_ascii_lowercase().replace('_', "-")
    }

    fn info(self) -> CodeInfo {
        let info = |status, title, meaning, remedy| CodeInfo { status, title, meaning, remedy };
        match self {
            Self::InvalidRequest => info(
                StatusCode::BAD_REQUEST,
                "The request is not valid",
                "The JSON is malformed, or a field or parameter is missing, of another type, unknown or out of range.",
                "Correct the fields in `errors`; `/openapi.json` has the schema of every request.",
            ),
            Self::Unauthorized => info(
                StatusCode::UNAUTHORIZED,
                "Credentials are missing or not valid",
                "There is no token or API key, or it is expired, not yet valid, not for this server, or not signed by a known key.",
                "Send `Authorization: Bearer <JWT>` or `X-API-Key`; `matchbook token` mints a token from the shared secret.",
            ),
            Self::Forbidden => info(
                StatusCode::FORBIDDEN,
                "The caller lacks a role",
                "The credentials are valid, and none of their roles allows this; or a web page of another origin sent the request.",
                "Use credentials with one of the roles that `detail` names; allow the page's origin with `--cors-origins`.",
            ),
            Self::NotFound => info(
                StatusCode::NOT_FOUND,
                "Not found",
                "The path is unknown, or the resource does not exist, or it belongs to another tenant or user; the response is the same.",
                "Check the id and the tenant of the credentials. Just created it? Send its `position` as `X-Min-Position`.",
            ),
            Self::MethodNotAllowed => info(
                StatusCode::METHOD_NOT_ALLOWED,
                "The path has other methods",
                "The path exists, but not with this method.",
                "Use a method of the `Allow` header.",
            ),
            Self::NotAcceptable => info(
                StatusCode::NOT_ACCEPTABLE,
                "No acceptable media type",
                "The `Accept` header allows none of the media types of this path.",
                "Accept one of the media types that `/openapi.json` lists for it.",
            ),
            Self::RequestTimeout => info(
                StatusCode::REQUEST_TIMEOUT,
                "The request took too long to arrive",
                "The body was not complete in time; nothing was done.",
                "Send it again, in smaller parts if the connection is slow.",
            ),
            Self::Conflict => info(
                StatusCode::CONFLICT,
                "The state of the resource does not allow it",
                "The request is valid, and the resource is in a state that does not allow it: it has ended, is leased by another worker, or exists already.",
                "Read the resource again and decide again; `existing`, if present, is the conflicting resource.",
            ),
            Self::Gone => info(
                StatusCode::GONE,
                "It no longer exists",
                "It existed, and has expired or was removed.",
                "Create a new one.",
            ),
            Self::PayloadTooLarge => info(
                StatusCode::PAYLOAD_TOO_LARGE,
                "The request is too large",
                "The body is larger than the limit of this path: 1 MiB, or 16 MiB on batch paths.",
                "Split it into several requests.",
            ),
            Self::UnsupportedMediaType => info(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "The media type is not supported",
                "The `Content-Type` is missing or not supported by this path, or the body is compressed.",
                "Send `Content-Type: application/json`, uncompressed.",
            ),
            Self::RangeNotSatisfiable => info(
                StatusCode::RANGE_NOT_SATISFIABLE,
                "The range is not satisfiable",
                "The `Range` header requests bytes after the end of the file.",
                "Request a range within the size in `Content-Range`.",
            ),
            Self::Unprocessable => info(
                StatusCode::UNPROCESSABLE_ENTITY,
                "The content is refused",
                "The request is well-formed, and its content is refused: a vector of another dimension, a URL that is not supported.",
                "Correct the fields in `errors`.",
            ),
            Self::IdempotencyKeyReused => info(
                StatusCode::UNPROCESSABLE_ENTITY,
                "The idempotency key belongs to another request",
                "The same caller sent this key before on the same path, with another body.",
                "Repeat the first request unchanged, or use a new key for the new one.",
            ),
            Self::UpgradeRequired => info(
                StatusCode::UPGRADE_REQUIRED,
                "Another protocol version is required",
                "The WebSocket client speaks another version of the protocol.",
                "Use the version in `Sec-WebSocket-Version`.",
            ),
            Self::HeadersTooLarge => info(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "The headers are too large",
                "The header of the request is larger than 16 KiB.",
                "Send fewer or shorter headers, cookies among them.",
            ),
            Self::UriTooLong => info(
                StatusCode::URI_TOO_LONG,
                "The URL is too long",
                "The request line is longer than the server reads.",
                "Shorten the URL.",
            ),
            Self::RateLimited => info(
                StatusCode::TOO_MANY_REQUESTS,
                "Too many requests",
                "The caller or its tenant has reached a limit; nothing was done.",
                "Wait for `Retry-After` seconds.",
            ),
            Self::Internal => info(
                StatusCode::INTERNAL_SERVER_ERROR,
                "The server failed",
                "An error in the server, not in the request.",
                "Report the `request_id`: the server's log has the cause under it.",
            ),
            Self::Unavailable => info(
                StatusCode::SERVICE_UNAVAILABLE,
                "Temporarily unavailable",
                "A required component is starting, stopping, behind or not reachable; nothing was done, except for what `parts` lists as recorded.",
                "Retry after `Retry-After` seconds; `/status` names the component.",
            ),
            Self::OutcomeUnknown => info(
                StatusCode::SERVICE_UNAVAILABLE,
                "The outcome is unknown",
                "The connection to the log broke, or the deadline passed, while the command was being stored. `parts` lists what of a batch is recorded.",
                "Repeat the request with the same `Idempotency-Key`: it takes effect once, whatever happened before.",
            ),
            Self::InsufficientStorage => info(
                StatusCode::INSUFFICIENT_STORAGE,
                "The disk is full",
                "There is no space to store the command, or the rest of it; nothing was done, except for what `parts` lists as recorded. Reads still work.",
                "Free space on the log's disk; the server resumes automatically. Then send the same request again.",
            ),
        }
    }
}

/// The table of all codes as an HTML page, the target of [`Code::type_uri`].
pub fn page() -> String {
    let mut text = String::from(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Problems</title>\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <style>body{font:16px/1.5 system-ui;max-width:44rem;margin:2rem auto;padding:0 1rem}\
         :target{outline:2px solid;outline-offset:.5rem}</style><h1>Problems</h1>",
    );
    for &code in Code::ALL {
        let info = code.info();
        text += &format!(
            "<section id=\"{}\"><h2>{} <small><code>{}</code> {}</small></h2><p>{}</p><p>{}</p></section>",
            code.anchor(),
            info.title,
            code.into_str(),
            info.status.as_u16(),
            info.meaning,
            info.remedy.replace('<', "&lt;"),
        );
    }
    text
}

/// The table of all codes as Markdown: the text of `docs/problems.md`.
pub fn markdown() -> String {
    let mut text = String::from(
        "# Problems\n\nEvery error is an `application/problem+json` response (RFC 9457):\n\n\
         | member | |\n|---|---|\n\
         | `type` | a link to the section below |\n\
         | `title`, `status` | the same for every problem of a code |\n\
         | `code` | the machine-readable code |\n\
         | `detail` | a sentence about this request |\n\
         | `errors` | the invalid fields, each with a `reason`, where they are known |\n\
         | `request_id` | as in the `X-Request-Id` header and in the server's log |\n\
         | `existing` | for some conflicts: the conflicting resource |\n\
         | `parts` | for a request that was recorded in part: what happened to each part |\n\n\
         `Retry-After` is the number of seconds after which to retry the same request.\n\n\
         ## Requests that were recorded in part\n\n\
         A batch, and a command with effects on several objects, is more than one append. If a later append fails, because the disk is\n\
         full or the log cannot be reached, the earlier ones stay recorded. Then `parts` has an object for each part:\n\n\
         | member | |\n|---|---|\n\
         | `outcome` | `recorded`, by this request or by an earlier one; `not_recorded`; or `unknown`, if the confirmation was lost |\n\
         | `items` | of a batch: the indexes of the items in the body, from 0; empty lines of NDJSON are not counted |\n\
         | `step` | of another command: the name of the step |\n\
         | `position` | the log position from which a recorded part is visible |\n\
         | `code`, `reason` | why the part is not recorded |\n\n\
         Without `parts`, the request had no effect, unless the code is `OUTCOME_UNKNOWN` or `INTERNAL`. To complete the request, send it\n\
         again, unchanged and with the same `Idempotency-Key` if it had one: what is recorded is not recorded again, also after a restart\n\
         of the server. With the key, the response is that of the whole request; without one, the items that were recorded before count as\n\
         known.\n",
    );
    for &code in Code::ALL {
        let info = code.info();
        text += &format!(
            "\n## {}\n\n`{}`, {}. {}\n\n{}\n",
            code.anchor(),
            code.into_str(),
            info.status.as_u16(),
            info.meaning,
            info.remedy,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Set `MATCHBOOK_BLESS=1` to write the file after a change of the table.
    #[test]
    fn documentation_matches_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/problems.md");
        if std::env::var_os("MATCHBOOK_BLESS").is_some() {
            std::fs::write(path, markdown()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), markdown());
    }

    #[test]
    fn every_code_has_its_own_section() {
        let anchors: std::collections::BTreeSet<_> = Code::ALL.iter().map(|code| code.anchor()).collect();
        assert_eq!(anchors.len(), Code::ALL.len());
    }
}
