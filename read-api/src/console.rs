//! The console's files, embedded in the binary: no other host and no build step are involved.

use std::fmt;
use std::sync::{Arc, LazyLock};

use poem::error::MethodNotAllowedError;
use poem::http::{HeaderValue, Method, StatusCode, header};
use poem::web::Path;
use poem::{Endpoint, IntoResponse, Request, Response, Route, handler};
use serde::Serialize;
use web::problem::Problem;

use crate::ReadApi;

/// The page may load from and connect to this server only, and may not be framed. It shows images that it has fetched with a token,
/// and those of the origins of the settings.
fn policy(image_origins: &[String]) -> String {
    let origins: String = image_origins.iter().map(|origin| format!(" {origin}")).collect();
    format!(
        "default-src 'self'; img-src 'self' blob:{origins}; base-uri 'none'; object-src 'none'; form-action 'self'; \
         frame-ancestors 'none'"
    )
}

/// A browser revalidates each time, which costs a 304, so a new binary's page is never mixed with an old one's script.
const CACHE: &str = "no-cache";

struct ConsoleFile {
    name: &'static str,
    media_type: &'static str,
    bytes: &'static [u8],
}

macro_rules! file {
    ($name:literal, $media_type:literal) => {
        ConsoleFile {
            name: $name,
            media_type: $media_type,
            bytes: include_bytes!(concat!("../console/", $name)),
        }
    };
}

static PAGE: ConsoleFile = file!("index.html", "text/html; charset=utf-8");

static FILES: [ConsoleFile; 28] = [
    file!("actions.js", "text/javascript; charset=utf-8"),
    file!("analysis.js", "text/javascript; charset=utf-8"),
    file!("app.js", "text/javascript; charset=utf-8"),
    file!("api.js", "text/javascript; charset=utf-8"),
    file!("candidates.js", "text/javascript; charset=utf-8"),
    file!("chart.js", "text/javascript; charset=utf-8"),
    file!("dom.js", "text/javascript; charset=utf-8"),
    file!("events.js", "text/javascript; charset=utf-8"),
    file!("evidence.js", "text/javascript; charset=utf-8"),
    file!("experiments.js", "text/javascript; charset=utf-8"),
    file!("job.js", "text/javascript; charset=utf-8"),
    file!("jobs.js", "text/javascript; charset=utf-8"),
    file!("matches.js", "text/javascript; charset=utf-8"),
    file!("matching.js", "text/javascript; charset=utf-8"),
    file!("models.js", "text/javascript; charset=utf-8"),
    file!("operations.js", "text/javascript; charset=utf-8"),
    file!("pool-chart.js", "text/javascript; charset=utf-8"),
    file!("pools.js", "text/javascript; charset=utf-8"),
    file!("product.js", "text/javascript; charset=utf-8"),
    file!("recent-matches.js", "text/javascript; charset=utf-8"),
    file!("search.js", "text/javascript; charset=utf-8"),
    file!("time-travel.js", "text/javascript; charset=utf-8"),
    file!("user.js", "text/javascript; charset=utf-8"),
    file!("what-if.js", "text/javascript; charset=utf-8"),
    file!("work.js", "text/javascript; charset=utf-8"),
    file!("style.css", "text/css; charset=utf-8"),
    file!("icon.svg", "image/svg+xml"),
    file!("products.svg", "image/svg+xml"),
];

impl ConsoleFile {
    /// Quoted, as RFC 9110 requires. FNV-1a: it detects changes and needs no resistance to attacks.
    fn etag(&self) -> String {
        let hash = self.bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        format!("\"{hash:016x}\"")
    }

    fn respond(&self, request: &Request, etag: &str, policy: &str) -> Response {
        let response = Response::builder()
            .header(header::ETAG, etag)
            .header(header::CACHE_CONTROL, CACHE)
            .header(header::CONTENT_SECURITY_POLICY, policy)
            .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
            .header(header::REFERRER_POLICY, "no-referrer");
        let known = request.header(header::IF_NONE_MATCH).unwrap_or_default();
        if known.split(',').any(|tag| tag.trim().trim_start_matches("W/") == etag) {
            return response.status(StatusCode::NOT_MODIFIED).finish();
        }
        response.content_type(self.media_type).body(self.bytes)
    }
}

/// Serves `/` (the console for browsers, [`ApiInfo`] for other clients) and passes all other paths on.
pub struct RootEndpoint {
    pub(crate) api: Arc<ReadApi>,
    pub(crate) routes: Route,
}

impl fmt::Debug for RootEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RootEndpoint").field("api", &self.api).finish_non_exhaustive()
    }
}

/// The body of `/` for clients that are not browsers.
#[derive(Serialize)]
struct ApiInfo<'a> {
    name: &'static str,
    version: &'a str,
    documentation: &'static str,
    openapi: &'static str,
    health: &'static str,
    status: &'static str,
    jobs: &'static str,
    /// The origins of product pictures that the page may show, besides this server's.
    image_origins: &'a [String],
}

impl Endpoint for RootEndpoint {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        if request.uri().path() != "/" {
            return self.routes.call(request).await;
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Err(MethodNotAllowedError.into());
        }
        let accept = request.header(header::ACCEPT);
        let image_origins = &self.api.server.image_origins;
        if web::negotiation::preferred(accept, &["application/json", "text/html"]) == "text/html" {
            return Ok(page(&request, &policy(image_origins)));
        }
        let info = ApiInfo {
            name: "matchbook",
            version: self.api.server.version,
            documentation: "/docs",
            openapi: "/openapi.json",
            health: "/health",
            status: "/status",
            jobs: "/jobs",
            image_origins,
        };
        Ok(poem::web::Json(info).with_header(header::VARY, "accept").into_response())
    }
}

/// The page. `Vary` is set because the response of `GET /` depends on what the client accepts.
fn page(request: &Request, policy: &str) -> Response {
    static ETAG: LazyLock<String> = LazyLock::new(|| PAGE.etag());
    let mut response = PAGE.respond(request, &ETAG, policy);
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    response
}

/// Serves one of the page's files.
#[handler]
pub(crate) fn file(Path(name): Path<String>, request: &Request) -> poem::Result<Response> {
    static ETAGS: LazyLock<[String; FILES.len()]> =
        LazyLock::new(|| FILES.each_ref().map(|file| file.etag()));
    let found = FILES.iter().zip(ETAGS.iter()).find(|(file, _)| file.name == name);
    let (file, etag) = found.ok_or_else(|| Problem::not_found("the console has no such file"))?;
    Ok(file.respond(request, etag, &policy(&[])))
}
