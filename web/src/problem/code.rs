//! The codes a client may match on. `docs/problems.md` is this table as text; a test holds the two together.

use poem::http::StatusCode;

/// Why a request was refused, for programs. Codes are added, never changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    RateLimited,
    Internal,
    Unavailable,
    OutcomeUnknown,
    InsufficientStorage,
}

/// What is known of a code.
struct Entry {
    name: &'static str,
    status: StatusCode,
    title: &'static str,
    meaning: &'static str,
    way_out: &'static str,
}

impl Code {
    pub const ALL: [Self; 19] = [
        Self::InvalidRequest,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::NotAcceptable,
        Self::RequestTimeout,
        Self::Conflict,
        Self::Gone,
        Self::PayloadTooLarge,
        Self::UnsupportedMediaType,
        Self::RangeNotSatisfiable,
        Self::Unprocessable,
        Self::IdempotencyKeyReused,
        Self::RateLimited,
        Self::Internal,
        Self::Unavailable,
        Self::OutcomeUnknown,
        Self::InsufficientStorage,
    ];

    pub fn as_str(self) -> &'static str {
        self.entry().name
    }

    pub fn status(self) -> StatusCode {
        self.entry().status
    }

    pub fn title(self) -> &'static str {
        self.entry().title
    }

    /// What it means, in a sentence.
    pub fn meaning(self) -> &'static str {
        self.entry().meaning
    }

    /// What the caller can do.
    pub fn way_out(self) -> &'static str {
        self.entry().way_out
    }

    /// `/docs/problems#not-found`: a relative reference, so that it leads to the server that answered.
    pub fn type_uri(self) -> String {
        format!("/docs/problems#{}", self.anchor())
    }

    pub fn anchor(self) -> String {
        self.as_str().to_ascii_lowercase().replace('_', "-")
    }

    fn entry(self) -> Entry {
        let entry = |name, status, title, meaning, way_out| Entry { name, status, title, meaning, way_out };
        match self {
            Self::InvalidRequest => entry(
                "INVALID_REQUEST",
                StatusCode::BAD_REQUEST,
                "The request cannot be read",
                "The JSON is malformed, or a field or parameter is missing, of another type, unknown or out of range.",
                "Correct what `errors` names; `/openapi.json` has the schema of every request.",
            ),
            Self::Unauthorized => entry(
                "UNAUTHORIZED",
                StatusCode::UNAUTHORIZED,
                "Credentials are missing or not valid",
                "There is no token or API key, or it is expired, not yet valid, not for this server, or not signed by a known key.",
                "Send `Authorization: Bearer <JWT>` or `X-API-Key`; `matchbook token` mints a token from the shared secret.",
            ),
            Self::Forbidden => entry(
                "FORBIDDEN",
                StatusCode::FORBIDDEN,
                "The caller lacks a right",
                "The credentials are valid and none of their roles may do this.",
                "Use credentials with one of the roles that `detail` names.",
            ),
            Self::NotFound => entry(
                "NOT_FOUND",
                StatusCode::NOT_FOUND,
                "There is no such thing",
                "The path is unknown, or the thing is not there, or it belongs to another tenant or user; the answer is the same.",
                "Check the id and the tenant of the credentials. Just created it? Send its `position` as `X-Min-Position`.",
            ),
            Self::MethodNotAllowed => entry(
                "METHOD_NOT_ALLOWED",
                StatusCode::METHOD_NOT_ALLOWED,
                "The path takes other methods",
                "The path exists, and not with this method.",
                "Use a method of the `Allow` header.",
            ),
            Self::NotAcceptable => entry(
                "NOT_ACCEPTABLE",
                StatusCode::NOT_ACCEPTABLE,
                "The answer cannot be given in that form",
                "The `Accept` header admits none of the forms this path can answer in.",
                "Accept one of the media types that `/openapi.json` lists for it.",
            ),
            Self::RequestTimeout => entry(
                "REQUEST_TIMEOUT",
                StatusCode::REQUEST_TIMEOUT,
                "The request took too long to arrive",
                "The body was not complete in time; nothing was done.",
                "Send it again, in smaller parts if the connection is slow.",
            ),
            Self::Conflict => entry(
                "CONFLICT",
                StatusCode::CONFLICT,
                "The state of the thing forbids it",
                "It can be read and would be allowed in another state: it has ended, is held by another, or exists already.",
                "Read the thing again and decide anew; `existing`, where given, is what stands in the way.",
            ),
            Self::Gone => entry(
                "GONE",
                StatusCode::GONE,
                "It is no longer there",
                "It was there and has expired or was removed.",
                "Make a new one.",
            ),
            Self::PayloadTooLarge => entry(
                "PAYLOAD_TOO_LARGE",
                StatusCode::PAYLOAD_TOO_LARGE,
                "The request is too large",
                "The body is larger than this path takes: 1 MiB, or 16 MiB on batch paths.",
                "Split it into several requests.",
            ),
            Self::UnsupportedMediaType => entry(
                "UNSUPPORTED_MEDIA_TYPE",
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "The body has a form this path does not take",
                "The `Content-Type` is missing or not one of those the path takes, or the body is compressed.",
                "Send `Content-Type: application/json`, uncompressed.",
            ),
            Self::RangeNotSatisfiable => entry(
                "RANGE_NOT_SATISFIABLE",
                StatusCode::RANGE_NOT_SATISFIABLE,
                "There are no such bytes",
                "The `Range` header asks for bytes past the end of the file.",
                "Ask for a range within the size that `Content-Range` names.",
            ),
            Self::Unprocessable => entry(
                "UNPROCESSABLE",
                StatusCode::UNPROCESSABLE_ENTITY,
                "The content is refused",
                "The request can be read, and what it says is not taken: a vector of another dimension, an address that is not supported.",
                "Correct what `errors` names.",
            ),
            Self::IdempotencyKeyReused => entry(
                "IDEMPOTENCY_KEY_REUSED",
                StatusCode::UNPROCESSABLE_ENTITY,
                "The idempotency key belongs to another request",
                "The same caller sent this key before on the same path, with another body.",
                "Repeat the first request as it was, or take a new key for the new one.",
            ),
            Self::RateLimited => entry(
                "RATE_LIMITED",
                StatusCode::TOO_MANY_REQUESTS,
                "Too much at once",
                "The caller or its tenant has used up what it may ask for at present; nothing was done.",
                "Wait for `Retry-After` seconds.",
            ),
            Self::Internal => entry(
                "INTERNAL",
                StatusCode::INTERNAL_SERVER_ERROR,
                "The server failed",
                "Something went wrong that is not the caller's doing.",
                "Report the `request_id`: it finds the cause in the server's log.",
            ),
            Self::Unavailable => entry(
                "UNAVAILABLE",
                StatusCode::SERVICE_UNAVAILABLE,
                "Not available at present",
                "A part that is needed is starting, stopping, behind or not reachable; nothing was done.",
                "Try again after `Retry-After` seconds; `/status` says which part it is.",
            ),
            Self::OutcomeUnknown => entry(
                "OUTCOME_UNKNOWN",
                StatusCode::SERVICE_UNAVAILABLE,
                "It may or may not have been done",
                "The connection to the log broke, or time ran out, while the command was being stored.",
                "Repeat the request with the same `Idempotency-Key`: it is done once, whatever happened before.",
            ),
            Self::InsufficientStorage => entry(
                "INSUFFICIENT_STORAGE",
                StatusCode::INSUFFICIENT_STORAGE,
                "The disk is full",
                "There is no room to store the command; nothing was done. Reads go on.",
                "Free space on the log's disk; the server goes on by itself.",
            ),
        }
    }
}

/// The table of all codes as a page: what [`Code::type_uri`] leads to.
pub fn page() -> String {
    let mut text = String::from(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Problems</title>\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <style>body{font:16px/1.5 system-ui;max-width:44rem;margin:2rem auto;padding:0 1rem}\
         :target{outline:2px solid;outline-offset:.5rem}</style><h1>Problems</h1>",
    );
    for code in Code::ALL {
        let entry = code.entry();
        text += &format!(
            "<section id=\"{}\"><h2>{} <small><code>{}</code> {}</small></h2><p>{}</p><p>{}</p></section>",
            code.anchor(),
            entry.title,
            entry.name,
            entry.status.as_u16(),
            entry.meaning,
            entry.way_out.replace('<', "&lt;"),
        );
    }
    text
}

/// The table of all codes as Markdown: the text of `docs/problems.md`.
pub fn markdown() -> String {
    let mut text = String::from(
        "# Problems\n\nA refused request is answered with `application/problem+json` (RFC 9457):\n\n\
         | member | |\n|---|---|\n\
         | `type` | a link to the section below |\n\
         | `title`, `status` | the same for every problem of a code |\n\
         | `code` | what a program matches on |\n\
         | `detail` | a sentence about this request |\n\
         | `errors` | what is wrong with which `field`, and the `reason`, where it can be named |\n\
         | `request_id` | as in the `X-Request-Id` header and in the server's log |\n\
         | `existing` | with some conflicts: the thing in the way |\n\n\
         `Retry-After` says after how many seconds the same request may work.\n",
    );
    for code in Code::ALL {
        let entry = code.entry();
        text += &format!(
            "\n## {}\n\n`{}`, {}. {}\n\n{}\n",
            code.anchor(),
            entry.name,
            entry.status.as_u16(),
            entry.meaning,
            entry.way_out,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Set `MATCHBOOK_BLESS=1` to write the file anew after a change of the table.
    #[test]
    fn the_documentation_says_what_the_code_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/problems.md");
        if std::env::var_os("MATCHBOOK_BLESS").is_some() {
            std::fs::write(path, markdown()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), markdown());
    }

    #[test]
    fn every_code_leads_to_a_section_of_its_own() {
        let anchors: std::collections::BTreeSet<_> = Code::ALL.into_iter().map(Code::anchor).collect();
        assert_eq!(anchors.len(), Code::ALL.len());
    }
}
