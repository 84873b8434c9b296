//! The game server's HTTP: games for Matchbook, faults for whoever tries it out. Plain hyper, because breaking a connection
//! instead of answering is what frameworks keep one from.

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
use crate::fault::{Fault, Kind};
use crate::game::{Made, Order};

const BODY_BYTES_MAX: usize = 64 * 1024;
/// How long a slow answer takes: long, but not too long for a caller that waits 3 s.
const SLOW: Duration = Duration::from_millis(1500);
/// How long a connection that hangs is kept.
const HANG: Duration = Duration::from_secs(120);

/// The connection is to break instead of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the connection is broken on purpose")]
struct Broken;

type Answer = Response<Full<Bytes>>;

/// Serves for ever.
pub async fn serve(arena: Arc<Arena>, listener: TcpListener) -> Infallible {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // As when there are too many open files: others must close theirs first.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let arena = Arc::clone(&arena);
        let answering = service_fn(move |request| answer(Arc::clone(&arena), request));
        let connection =
            http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), answering);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended");
            }
        });
    }
}

async fn answer(arena: Arc<Arena>, request: Request<Incoming>) -> Result<Answer, Broken> {
    let (parts, body) = request.into_parts();
    Ok(match (&parts.method, parts.uri.path()) {
        (&Method::POST, "/games") => return make(&arena, body).await,
        (&Method::GET, "/games") => json(StatusCode::OK, &json!({ "items": arena.games.all() })),
        (&Method::GET, "/faults") => json(StatusCode::OK, &json!({ "items": arena.faults.all() })),
        (&Method::POST, "/faults") => match read::<Fault>(body).await {
            Ok(fault) => match arena.faults.add(fault) {
                Ok(()) => {
                    tracing::warn!(
                        kind = fault.kind.name(),
                        times = fault.times,
                        share = fault.share,
                        "failing"
                    );
                    json(StatusCode::CREATED, &fault)
                }
                Err(error) => refuse(StatusCode::BAD_REQUEST, &error.to_string()),
            },
            Err(refusal) => refusal,
        },
        (&Method::DELETE, "/faults") => {
            arena.faults.clear();
            tracing::warn!("no longer failing");
            json(StatusCode::OK, &json!({ "items": [] }))
        }
        (&Method::GET, "/health") => json(StatusCode::OK, &json!({ "status": "ok" })),
        (_, "/games" | "/faults" | "/health") => refuse(
            StatusCode::METHOD_NOT_ALLOWED,
            "there are GET and POST /games, and GET, POST and DELETE /faults",
        ),
        _ => refuse(StatusCode::NOT_FOUND, "there are /games, /faults and /health"),
    })
}

/// `POST /games`, or what goes wrong with it.
async fn make(arena: &Arc<Arena>, body: Incoming) -> Result<Answer, Broken> {
    let order: Order = match read(body).await {
        Ok(order) => order,
        Err(refusal) => return Ok(refusal),
    };
    let fault = arena.faults.strike();
    match fault {
        Some(Kind::Refuse) => {
            return Ok(refuse(StatusCode::UNPROCESSABLE_ENTITY, "this match is not played here"));
        }
        Some(Kind::Error) => return Ok(refuse(StatusCode::INTERNAL_SERVER_ERROR, "the game server failed")),
        Some(Kind::Garbage) => {
            return Ok(Response::builder()
                .status(StatusCode::CREATED)
                .body(Full::from("<html>the game is on its way</html>"))
                .expect("a status and a body make a response"));
        }
        Some(Kind::Down) => return Err(Broken),
        Some(Kind::Hang) => {
            tokio::time::sleep(HANG).await;
            return Err(Broken);
        }
        Some(Kind::Slow | Kind::LostAnswer) | None => {}
    }
    let made = arena.make(&order);
    match fault {
        Some(Kind::LostAnswer) => return Err(Broken),
        Some(Kind::Slow) => tokio::time::sleep(SLOW).await,
        _ => {}
    }
    Ok(match made {
        Ok((game_id, made)) => {
            let status = if made == Made::New { StatusCode::CREATED } else { StatusCode::OK };
            json(status, &json!({ "game_id": game_id }))
        }
        Err(error) => refuse(StatusCode::UNPROCESSABLE_ENTITY, &error.to_string()),
    })
}

async fn read<T: DeserializeOwned>(body: Incoming) -> Result<T, Answer> {
    let bad = |error: String| refuse(StatusCode::BAD_REQUEST, &error);
    let body = Limited::new(body, BODY_BYTES_MAX).collect().await.map_err(|error| bad(error.to_string()))?;
    serde_json::from_slice(&body.to_bytes()).map_err(|error| bad(error.to_string()))
}

fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    let text = serde_json::to_vec(value).expect("plain structures have a JSON form");
    Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(Full::from(text))
        .expect("a status, a header and a body make a response")
}

fn refuse(status: StatusCode, detail: &str) -> Answer {
    json(status, &json!({ "status": status.as_u16(), "detail": detail }))
}
