//! The console's files, inside the binary: nothing is fetched from another host, and nothing has to be built.

use std::fmt;
use std::sync::{Arc, LazyLock};

use poem::error::MethodNotAllowedError;
use poem::http::{HeaderValue, Method, StatusCode, header};
use poem::web::Path;
use poem::{Endpoint, IntoResponse, Request, Response, Route, handler};
use serde::Serialize;
use web::problem::Problem;

use crate::ReadApi;

/// The page may load, and talk to, this server alone; nobody may frame it.
const POLICY: &str =
    "default-src 'self'; base-uri 'none'; object-src 'none'; form-action 'self'; frame-ancestors 'none'";

/// A browser asks again each time, which costs a 304; a new binary's page is never mixed with an old one's script.
const CACHE: &str = "no-cache";

struct File {
    name: &'static str,
    media_type: &'static str,
    bytes: &'static [u8],
}

macro_rules! file {
    ($name:literal, $media_type:literal) => {
        File { name: $name, media_type: $media_type, bytes: include_bytes!(concat!("../console/", $name)) }
    };
}

static PAGE: File = file!("index.html", "text/html; charset=utf-8");

static FILES: [File; 11] = [
    file!("analysis.js", "text/javascript; charset=utf-8"),
    file!("app.js", "text/javascript; charset=utf-8"),
    file!("api.js", "text/javascript; charset=utf-8"),
    file!("dom.js", "text/javascript; charset=utf-8"),
    file!("job.js", "text/javascript; charset=utf-8"),
    file!("jobs.js", "text/javascript; charset=utf-8"),
    file!("meetings.js", "text/javascript; charset=utf-8"),
    file!("picture.js", "text/javascript; charset=utf-8"),
    file!("pools.js", "text/javascript; charset=utf-8"),
    file!("style.css", "text/css; charset=utf-8"),
    file!("icon.svg", "image/svg+xml"),
];

impl File {
    /// Quoted, as RFC 9110 wants it. FNV-1a: any change of the bytes changes it, and it need not withstand anybody.
    fn etag(&self) -> String {
        let hash = self.bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        format!("\"{hash:016x}\"")
    }

    fn respond(&self, request: &Request, etag: &str) -> Response {
        let response = Response::builder()
            .header(header::ETAG, etag)
            .header(header::CACHE_CONTROL, CACHE)
            .header(header::CONTENT_SECURITY_POLICY, POLICY)
            .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
            .header(header::REFERRER_POLICY, "no-referrer");
        let known = request.header(header::IF_NONE_MATCH).unwrap_or_default();
        if known.split(',').any(|tag| tag.trim().trim_start_matches("W/") == etag) {
            return response.status(StatusCode::NOT_MODIFIED).finish();
        }
        response.content_type(self.media_type).body(self.bytes)
    }
}

/// Answers `/` (the console for a browser, the API's facts for anyone else) and hands all other paths on.
pub struct Front {
    pub(crate) api: Arc<ReadApi>,
    pub(crate) routes: Route,
}

impl fmt::Debug for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Front").field("api", &self.api).finish_non_exhaustive()
    }
}

/// What a program that asks for `/` wants to know.
#[derive(Serialize)]
struct Facts<'a> {
    name: &'static str,
    version: &'a str,
    documentation: &'static str,
    openapi: &'static str,
    health: &'static str,
    status: &'static str,
    jobs: &'static str,
}

impl Endpoint for Front {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        if request.uri().path() != "/" {
            return self.routes.call(request).await;
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Err(MethodNotAllowedError.into());
        }
        let accepts_html = request.header(header::ACCEPT).is_some_and(|accept| accept.contains("text/html"));
        if accepts_html {
            return Ok(page(&request));
        }
        let facts = Facts {
            name: "matchbook",
            version: self.api.server.version,
            documentation: "/docs",
            openapi: "/openapi.json",
            health: "/health",
            status: "/status",
            jobs: "/jobs",
        };
        Ok(poem::web::Json(facts).with_header(header::VARY, "accept").into_response())
    }
}

/// The page. Which of its answers `GET /` gives depends on what the caller accepts, so caches are told.
fn page(request: &Request) -> Response {
    static ETAG: LazyLock<String> = LazyLock::new(|| PAGE.etag());
    let mut response = PAGE.respond(request, &ETAG);
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    response
}

/// One of the page's files.
#[handler]
pub(crate) fn file(Path(name): Path<String>, request: &Request) -> poem::Result<Response> {
    static ETAGS: LazyLock<[String; FILES.len()]> =
        LazyLock::new(|| FILES.each_ref().map(|file| file.etag()));
    let found = FILES.iter().zip(ETAGS.iter()).find(|(file, _)| file.name == name);
    let (file, etag) = found.ok_or_else(|| Problem::not_found("the console has no such file"))?;
    Ok(file.respond(request, etag))
}
