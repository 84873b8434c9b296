//! The command against a server that gives prepared answers.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use event_schemas::ids::Position;
use poem::endpoint::make_sync;
use poem::listener::{Acceptor, Listener, TcpListener};
use poem::{Route, get, post};
use projections::status::{Failure as Stop, LagState, Progress, ReportedState};

use super::*;

/// A read model that is live and up to date, as generation 1.
pub(crate) fn jobs() -> ProjectionStatus {
    ProjectionStatus {
        name: "jobs".to_owned(),
        revision: 1,
        generation: Some(1),
        state: ReportedState::Live,
        position: Position(100),
        head: Position(100),
        lag_events: 0,
        lag_state: LagState::Ok,
        lag_seconds: 0.0,
        events_per_second: 0.0,
        progress: None,
        stop: None,
        rebuild: None,
    }
}

pub(crate) fn failure() -> Stop {
    Stop {
        position: Position(7),
        event_type: None,
        error: "the disk is broken".to_owned(),
        remedy: "replace the disk".into(),
    }
}

pub(crate) fn progress() -> Progress {
    let (at, target) = (Position(43), Position(100));
    Progress { at, target, fraction: 0.43, eta_seconds: Some(4.2) }
}

fn rebuilding(failed: Option<Stop>) -> ProjectionStatus {
    let rebuild = RebuildStatus { generation: 2, progress: progress(), failed };
    ProjectionStatus { rebuild: Some(rebuild), ..jobs() }
}

fn rebuilt() -> ProjectionStatus {
    ProjectionStatus { generation: Some(2), ..jobs() }
}

/// Runs `projections rebuild jobs` against a server that shows these states one after the other, and returns the number
/// of states that it did not ask for.
async fn rebuild(states: Vec<ProjectionStatus>, no_wait: bool) -> (Result<(), Failure>, usize) {
    let states = std::sync::Arc::new(Mutex::new(VecDeque::from(states)));
    let shown = std::sync::Arc::clone(&states);
    let list = make_sync(move |_| {
        let next = shown.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        json!(ProjectionList { items: next.into_iter().collect() }).to_string()
    });
    let accepted = make_sync(|_| {
        let (name, detail) = ("jobs".to_owned(), "generation 2 is being built".to_owned());
        json!(RebuildAccepted { name, generation: 2, detail }).to_string()
    });
    let routes = Route::new()
        .at("/internal/projections", get(list))
        .at("/internal/projections/jobs/rebuild", post(accepted));
    let acceptor = TcpListener::bind("127.0.0.1:0").into_acceptor().await.unwrap();
    let address = acceptor.local_addr().remove(0).as_socket_addr().copied().unwrap();
    let serving = tokio::spawn(poem::Server::new_with_acceptor(acceptor).run(routes));
    let server = Server { url: format!("http://{address}"), token: None };
    let result = Rebuild { server, name: "jobs".to_owned(), no_wait }.run(true).await;
    serving.abort();
    let left = states.lock().unwrap_or_else(PoisonError::into_inner).len();
    (result, left)
}

#[tokio::test]
async fn rebuild_waits_until_its_generation_is_live() {
    // The old generation stays live and up to date meanwhile.
    let states = vec![rebuilding(None), rebuilding(None), rebuilt(), rebuilt()];
    let (result, left) = rebuild(states, false).await;
    assert!(result.is_ok(), "{result:?}");
    assert_eq!(left, 1);
}

#[tokio::test]
async fn rebuild_without_waiting_returns_at_once() {
    let (result, left) = rebuild(vec![rebuilding(None)], true).await;
    assert!(result.is_ok(), "{result:?}");
    assert_eq!(left, 1);
}

/// The exit code and the message of a rebuild that shows these states.
async fn failed(states: Vec<ProjectionStatus>) -> (u8, String) {
    let failure = rebuild(states, false).await.0.unwrap_err();
    (failure.exit_code(), failure.to_string())
}

#[tokio::test]
async fn failed_rebuild_is_an_error_with_reason_and_remedy() {
    let (code, message) = failed(vec![rebuilding(None), rebuilding(Some(failure()))]).await;
    assert_eq!(code, 1);
    assert_eq!(
        message,
        "the rebuild of jobs as generation 2 failed: at position 7: the disk is broken; replace the disk"
    );
}

#[tokio::test]
async fn rebuild_that_is_gone_is_an_error() {
    let stopped = ProjectionStatus { state: ReportedState::Stopped, stop: Some(failure()), ..jobs() };
    let (code, message) = failed(vec![rebuilding(None), stopped]).await;
    assert_eq!(code, 1);
    assert!(message.ends_with("at position 7: the disk is broken; replace the disk"), "{message}");
    let (code, message) = failed(vec![rebuilding(None), jobs()]).await;
    assert_eq!(code, 1);
    assert!(message.contains("not in progress any more"), "{message}");
}

#[tokio::test]
async fn rebuild_continues_after_its_files_were_reopened() {
    let retrying = ProjectionStatus { state: ReportedState::Retrying, stop: Some(failure()), ..jobs() };
    let first = ProjectionStatus { generation: None, state: ReportedState::CatchingUp, ..jobs() };
    let (result, left) = rebuild(vec![rebuilding(None), retrying, first, rebuilt()], false).await;
    assert!(result.is_ok(), "{result:?}");
    assert_eq!(left, 0);
}

#[test]
fn list_shows_progress_rebuilds_errors_and_remedies() {
    let catching_up = ProjectionStatus {
        generation: None,
        state: ReportedState::CatchingUp,
        position: Position(43),
        lag_events: 57,
        progress: Some(progress()),
        ..jobs()
    };
    let retrying = ProjectionStatus { state: ReportedState::Retrying, stop: Some(failure()), ..jobs() };
    let shown = [jobs(), catching_up, retrying, rebuilding(None), rebuilding(Some(failure()))];
    insta::assert_snapshot!(shown.map(|projection| lines(&projection)).join("\n"), @r"
    jobs                live        generation   1  position        100  lag        0 events
    jobs                catching_up generation   –  position         43  lag       57 events
      being built, 57 events behind the head, 43 %, about 5 s left
      → wait until it has caught up
    jobs                retrying    generation   1  position        100  lag        0 events
      its store failed at position 7, and is retried: the disk is broken
      → replace the disk
    jobs                live        generation   1  position        100  lag        0 events
      up to date; generation 2 is being built: 43 %, about 5 s left
    jobs                live        generation   1  position        100  lag        0 events
      up to date; the rebuild of generation 2 failed at position 7: the disk is broken
      → replace the disk
    ");
}
