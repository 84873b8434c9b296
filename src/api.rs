//! The complete HTTP API: write and read routes under one OpenAPI document, its pages, and the layers around them.

use std::sync::Arc;
use std::time::Duration;

use commands::Commands;
use poem::endpoint::make_sync;
use poem::error::{MethodNotAllowedError, NotFoundError};
use poem::http::Method;
use poem::{Endpoint, EndpointExt, IntoResponse, Response, Route};
use poem_openapi::{OpenApi, OpenApiService};
use projections::ReadModels;
use read_api::{ReadApi, RootEndpoint};
use serde_json::Value;
use web::caller::{Auth, CallerLimits};
use web::problem::Problem;
use web::routes::Routes;
use web::serve::{Cors, Layers, Settings, layers};

use crate::failure::Failure;

const DESCRIPTION: &str = "An event-sourced backend for image matching, matchmaking and background jobs. Every change is an event in \
one durable log, and every response is derived from these events. A command returns its log `position`; a read with \
`X-Min-Position` waits until this position is applied. Errors are `application/problem+json`.\n\n\
Ids have 1–128 visible characters: neither control nor formatting characters such as U+200B, and not only spaces. They are compared \
in Unicode's composed form (NFC), in which they are stored and answered. JSON that gives a member of an object twice is refused, and \
so are query parameters that are given twice, or that an operation does not have. Free-form data (`metadata`, `options`, `result`) has up to 16,384 bytes of JSON, and \
its whole numbers fit into 64 bits. When the memory for request bodies is used up, the answer is 429 or 503 with `Retry-After`.";

/// The routes and their OpenAPI document.
pub(crate) struct Api {
    front: RootEndpoint,
    document: Value,
    has_commands: bool,
}

impl Api {
    /// Without commands, a server offers the read routes only.
    pub(crate) fn new(commands: Option<&Commands>, read: &Arc<ReadApi>) -> Self {
        match commands {
            Some(commands) => Self::of((commands.routes(), read.routes()), read, true),
            None => Self::of(read.routes(), read, false),
        }
    }

    fn of<T: OpenApi + 'static>(routes: T, read: &Arc<ReadApi>, has_commands: bool) -> Self {
        let service = OpenApiService::new(routes, "Matchbook", env!("CARGO_PKG_VERSION"))
            .description(DESCRIPTION)
            .license("MIT OR Apache-2.0");
        let mut document = web::openapi::document(&service.spec()).expect("poem-openapi writes JSON");
        document["info"]["license"]["identifier"] = "MIT OR Apache-2.0".into();
        document["info"]["contact"]["name"] = "The operator of this server".into();
        web::openapi::require_one_of(&mut document, "JoinQueue", ["pool_key", "pool_keys"]);
        web::openapi::require_one_of(&mut document, "NewVideo", ["frames", "frame_count"]);
        if read.is_open() {
            web::openapi::open(&mut document);
        }
        let text = document.to_string();
        let (docs, redoc) = pages(&service.spec(), &text, &service.swagger_ui_html(), &service.redoc_html());
        let route = Route::new()
            .at("/docs", make_sync(move |_| html(docs.clone())))
            .at("/redoc", make_sync(move |_| html(redoc.clone())))
            .at("/docs/problems", make_sync(|_| html(web::problem::page())))
            .at("/openapi.json", make_sync(move |_| json(text.clone())));
        let front = read.mount(route.nest_no_strip("/", service));
        Self { front, document, has_commands }
    }

    /// The OpenAPI document.
    pub(crate) fn document(&self) -> &Value {
        &self.document
    }

    /// The routes with all layers around them.
    ///
    /// # Errors
    /// An invalid origin in the settings.
    pub(crate) fn endpoint(
        self,
        auth: Auth,
        caller_limits: CallerLimits,
        cors_origins: &[String],
        slowdown: Slowdown,
    ) -> Result<Layers, Failure> {
        let cors = Cors::new(cors_origins).map_err(|error| Failure::Usage(error.to_string()))?;
        let settings = Settings {
            cors,
            caller_limits,
            ..Settings::new(auth, routes(&self.document, self.has_commands))
        };
        let has_commands = self.has_commands;
        let front = self.front.around(move |front, request| {
            let slowdown = slowdown.clone();
            async move {
                if !changes(request.method()) {
                    return front.call(request).await;
                }
                slowdown.apply().await;
                let response = front.call(request).await;
                if has_commands { response } else { response.map_err(no_commands) }
            }
        });
        Ok(layers(front, settings))
    }
}

fn changes(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// The time after which a server that stands by may have taken over.
const TAKEN_OVER_AFTER: Duration = Duration::from_secs(1);

/// The error for a command, whose route a server without commands does not have.
fn no_commands(error: poem::Error) -> poem::Error {
    if error.is::<NotFoundError>() || error.is::<MethodNotAllowedError>() {
        let detail = "this server answers only reads; send commands to the server that writes, which is the one without \
            --read-only, and of those with --standby the one that has the writer lease (see `standby` in /status)";
        return Problem::unavailable(detail, TAKEN_OVER_AFTER).into();
    }
    error
}

/// Slows writers down before a read model falls further behind than the setting from which the server warns.
#[derive(Clone, Debug)]
pub(crate) struct Slowdown {
    pub(crate) models: ReadModels,
    pub(crate) lag_warn: u64,
}

impl Slowdown {
    async fn apply(&self) {
        // Writes that are in progress add to the lag.
        self.models.slow_down(self.lag_warn / 2).await;
    }
}

/// The two pages that show the document. poem-openapi puts its own specification into them, which has a path twice if both
/// write and read routes serve it; a browser would keep only one. So the specification is replaced.
fn pages(specification: &str, document: &str, swagger: &str, redoc: &str) -> (String, String) {
    // A text in the document must not end the script element that contains it.
    let document = document.replace("</", "<\\/");
    let redoc = redoc.replace(specification, &document);
    // Pages load nothing from other hosts; the page does without these fonts.
    let redoc = match redoc.split_once("<link href=\"https://fonts.googleapis.com/") {
        Some((before, link)) => {
            let (_, after) = link.split_once('>').expect("a tag has an end");
            format!("{before}{after}")
        }
        None => redoc,
    };
    (swagger.replace(specification, &document), redoc)
}

fn routes(document: &Value, has_commands: bool) -> Routes {
    let mut routes = Routes::from_document(document);
    for path in ["/docs", "/redoc", "/docs/problems", "/openapi.json"].into_iter().chain(read_api::RAW_PATHS)
    {
        routes = routes.with(path, &[Method::GET]);
    }
    let of_commands = commands::route_limits().filter(|_| has_commands);
    for (path, limits) in of_commands.chain(read_api::ROUTE_LIMITS) {
        routes =
            routes.limits(path, limits).expect("both sides name their own paths; every start checks this");
    }
    routes
}

fn json(text: String) -> Response {
    text.with_content_type("application/json").into_response()
}

fn html(text: String) -> Response {
    text.with_content_type("text/html; charset=utf-8").into_response()
}
