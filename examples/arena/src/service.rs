//! The HTTP layer of the game server: games for Matchbook, and fault injection. It uses plain hyper, because frameworks do
//! not allow to close a connection without a response.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, server::conn::http1};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::net::TcpListener;

use crate::arena::Arena;
use crate::fault::{Fault, FaultKind};
use crate::game::{CreateGame, Creation};

const BODY_BYTES_MAX: usize = 64 * 1024;
/// The delay of a slow response, below the usual timeout of 3 s.
const SLOW: Duration = Duration::from_millis(1500);
/// The time for which a hanging connection is kept open.
const HANG: Duration = Duration::from_secs(120);

/// The connection is closed instead of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the connection is closed on purpose")]
struct DropConnection;

type HttpResponse = Response<Full<Bytes>>;

/// Serves without end.
pub async fn serve(arena: Arc<Arena>, listener: TcpListener) -> Infallible {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // For example too many open files: other connections must be closed first.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let arena = Arc::clone(&arena);
        let service = service_fn(move |request| respond(Arc::clone(&arena), request));
        let connection =
            http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended");
            }
        });
    }
}

async fn respond(arena: Arc<Arena>, request: Request<Incoming>) -> Result<HttpResponse, DropConnection> {
    let (parts, body) = request.into_parts();
    Ok(match (&parts.method, parts.uri.path()) {
        (&Method::POST, "/games") => return create_game(&arena, body).await,
        (&Method::GET, "/games") => json(StatusCode::OK, &json!({ "items": arena.games.all() })),
        (&Method::GET, "/faults") => json(StatusCode::OK, &json!({ "items": arena.faults.all() })),
        (&Method::POST, "/faults") => match read::<Fault>(body).await {
            Ok(fault) => match arena.faults.add(fault) {
                Ok(()) => {
                    tracing::warn!(
                        kind = fault.kind.into_str(),
                        times = fault.times,
                        share = fault.share,
                        "fault injected"
                    );
                    json(StatusCode::CREATED, &fault)
                }
                Err(error) => refuse(StatusCode::BAD_REQUEST, &error.to_string()),
            },
            Err(refusal) => refusal,
        },
        (&Method::DELETE, "/faults") => {
            arena.faults.clear();
            tracing::warn!("faults removed");
            json(StatusCode::OK, &json!({ "items": [] }))
        }
        (&Method::GET, "/health") => json(StatusCode::OK, &json!({ "status": "ok" })),
        (_, "/games" | "/faults" | "/health") => refuse(
            StatusCode::METHOD_NOT_ALLOWED,
            "the methods are GET and POST /games, and GET, POST and DELETE /faults",
        ),
        _ => refuse(StatusCode::NOT_FOUND, "the paths are /games, /faults and /health"),
    })
}

/// `POST /games`, with injected faults.
async fn create_game(arena: &Arc<Arena>, body: Incoming) -> Result<HttpResponse, DropConnection> {
    let request: CreateGame = match read(body).await {
        Ok(request) => request,
        Err(refusal) => return Ok(refusal),
    };
    let fault = arena.faults.next_fault();
    match fault {
        Some(FaultKind::Refuse) => {
            return Ok(refuse(StatusCode::UNPROCESSABLE_ENTITY, "this match is refused"));
        }
        Some(FaultKind::Error) => {
            return Ok(refuse(StatusCode::INTERNAL_SERVER_ERROR, "the game server failed"));
        }
        Some(FaultKind::Garbage) => {
            return Ok(Response::builder()
                .status(StatusCode::CREATED)
                .body(Full::from("<html>the game is on its way</html>"))
                .expect("a status and a body make a response"));
        }
        Some(FaultKind::Down) => return Err(DropConnection),
        Some(FaultKind::Hang) => {
            tokio::time::sleep(HANG).await;
            return Err(DropConnection);
        }
        Some(FaultKind::Slow | FaultKind::LostAnswer) | None => {}
    }
    let created = arena.create_game(&request);
    match fault {
        Some(FaultKind::LostAnswer) => return Err(DropConnection),
        Some(FaultKind::Slow) => tokio::time::sleep(SLOW).await,
        _ => {}
    }
    Ok(match created {
        Ok((game_id, creation)) => {
            let status = if creation == Creation::New { StatusCode::CREATED } else { StatusCode::OK };
            json(status, &json!({ "game_id": game_id }))
        }
        Err(error) => refuse(StatusCode::UNPROCESSABLE_ENTITY, &error.to_string()),
    })
}

async fn read<T: DeserializeOwned>(body: Incoming) -> Result<T, HttpResponse> {
    let bad = |error: String| refuse(StatusCode::BAD_REQUEST, &error);
    let body = Limited::new(body, BODY_BYTES_MAX).collect().await.map_err(|error| bad(error.to_string()))?;
    serde_json::from_slice(&body.to_bytes()).map_err(|error| bad(error.to_string()))
}

fn json(status: StatusCode, value: &impl Serialize) -> HttpResponse {
    let text = serde_json::to_vec(value).expect("plain structures serialize to JSON");
    Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(Full::from(text))
        .expect("a status, a header and a body make a response")
}

fn refuse(status: StatusCode, detail: &str) -> HttpResponse {
    json(status, &json!({ "status": status.as_u16(), "detail": detail }))
}
