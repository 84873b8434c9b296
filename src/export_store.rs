//! The store of exported vectors: a local folder, or a bucket of an S3-compatible service.
//!
//! The credentials, the region and the endpoint of a bucket are the usual variables of the environment, `AWS_ACCESS_KEY_ID` and so
//! on, and are read by the client of the service.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http_body_util::BodyExt;
use object_store::ClientOptions;
use object_store::aws::AmazonS3Builder;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
    HttpService,
};
use object_store::path::Path;
use projections::export::files::ExportFiles;
use reqwest::redirect::Policy;

use crate::config::{Config, ExportStore};
use crate::failure::Failure;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The time without a byte of an answer after which a request has failed. A part of a file is sent within it.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Opens the store of the files; none if another process on the same log makes the exports.
///
/// # Errors
/// The folder cannot be used, or the environment is not that of a bucket.
pub(crate) fn open(config: &Config) -> Result<Option<ExportFiles>, Failure> {
    match config.export_store() {
        ExportStore::None => Ok(None),
        ExportStore::Folder(folder) => {
            let files = ExportFiles::in_folder(&folder);
            // A server that only reads may have the folder of the one that writes.
            let cleaned = || if config.read_only { Ok(()) } else { ExportFiles::delete_incomplete(&folder) };
            files.and_then(|files| cleaned().map(|()| Some(files))).map_err(|error| {
                let shown = folder.display();
                Failure::Disk(format!(
                    "cannot use the folder of exports {shown}: {error}; check the disk, or name another one with --exports"
                ))
            })
        }
        ExportStore::Bucket { name, folder } => {
            let store = AmazonS3Builder::from_env().with_bucket_name(&name).with_http_connector(Connector);
            let wrong = |error: &dyn std::fmt::Display| {
                Failure::Usage(format!(
                    "--exports: the bucket {name} cannot be used: {error}; set AWS_REGION, AWS_ACCESS_KEY_ID and \
                     AWS_SECRET_ACCESS_KEY, and AWS_ENDPOINT for another service than that of Amazon"
                ))
            };
            let store = store.build().map_err(|error| wrong(&error))?;
            let folder = Path::parse(folder).map_err(|error| wrong(&error))?;
            Ok(Some(ExportFiles::in_store(Arc::new(store), folder)))
        }
    }
}

/// The HTTP client of this program for the client of the store.
#[derive(Debug)]
struct Connector;

#[derive(Debug)]
struct Client(reqwest::Client);

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let generic = |source: Box<dyn std::error::Error + Send + Sync>| object_store::Error::Generic {
            store: "S3",
            source,
        };
        // Any address of the scheme: the certificates that are trusted are the same.
        let address =
            reqwest::Url::parse("https://s3.amazonaws.com").map_err(|error| generic(error.into()))?;
        let builder = web::http_client::builder(&address).map_err(|error| generic(error.into()))?;
        let builder = builder.connect_timeout(CONNECT_TIMEOUT).read_timeout(READ_TIMEOUT);
        let client = builder.redirect(Policy::none()).build().map_err(|error| generic(error.into()))?;
        Ok(HttpClient::new(Client(client)))
    }
}

impl Client {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let unknown = |error: Box<dyn std::error::Error + Send + Sync>| {
            HttpError::new_boxed(HttpErrorKind::Unknown, error)
        };
        let url = reqwest::Url::parse(&parts.uri.to_string()).map_err(|error| unknown(error.into()))?;
        let mut request = reqwest::Request::new(parts.method, url);
        *request.headers_mut() = parts.headers;
        *request.body_mut() = Some(reqwest::Body::wrap(body));
        let response = self.0.execute(request).await.map_err(failed)?;
        let (parts, body) = http::Response::<reqwest::Body>::from(response).into_parts();
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body.map_err(failed))))
    }
}

/// The trait's method is an `async fn` of `async-trait`, which is a function with a boxed future.
impl HttpService for Client {
    fn call<'a, 'b>(&'a self, request: HttpRequest) -> BoxFuture<'b, Result<HttpResponse, HttpError>>
    where
        'a: 'b,
        Self: 'b,
    {
        self.send(request).boxed()
    }
}

/// Requests that did not reach the service are sent again.
fn failed(error: reqwest::Error) -> HttpError {
    let kind = if error.is_timeout() {
        HttpErrorKind::Timeout
    } else if error.is_connect() {
        HttpErrorKind::Connect
    } else if error.is_decode() {
        HttpErrorKind::Decode
    } else {
        HttpErrorKind::Request
    };
    // The address may contain a signature.
    HttpError::new(kind, error.without_url())
}
