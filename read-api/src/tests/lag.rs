//! Read models that are behind the head of the log.

use std::time::Duration;

use event_schemas::ids::Position;
use event_schemas::stream::StreamId;
use projections::Name;
use projections::status::{Failure, LagState, Progress, ProjectionStatus, RebuildStatus, ReportedState};
use serde_json::{Value, json};

use super::events::registered;
use super::fixture::{LAG_LIMITS, ReadApiFixture, acme};
use crate::routes::operations::dto::Check;
use crate::routes::projection::dto::judge;
use crate::server::LagLimits;

const HEAD: u64 = 10_000_000;
const LIMITS: LagLimits = LagLimits { warn: 10_000, max: 1_000_000 };

/// A read model that was live, and is now this many events behind.
fn status(lag: u64, state: ReportedState) -> ProjectionStatus {
    ProjectionStatus {
        name: "jobs".to_owned(),
        revision: 1,
        generation: Some(1),
        state,
        position: Position(HEAD - lag),
        head: Position(HEAD),
        lag_events: lag,
        lag_state: LagState::Ok,
        lag_seconds: 60.0,
        events_per_second: 50_000.0,
        progress: None,
        stop: None,
        rebuild: None,
    }
}

/// Whether the server is ready with this read model, whether it warns, and the sentence for the operator.
fn check(status: ProjectionStatus) -> (bool, bool, String) {
    let check = Check::from(judge(status, LIMITS));
    (check.ok, check.warning, check.detail)
}

fn failure() -> Failure {
    Failure {
        position: Position(7),
        event_type: None,
        error: "disk I/O error".to_owned(),
        remedy: "check the disk".into(),
    }
}

fn failed(state: ReportedState) -> ProjectionStatus {
    ProjectionStatus { stop: Some(failure()), ..status(1, state) }
}

fn halfway() -> Progress {
    Progress { at: Position(HEAD / 2), target: Position(HEAD), fraction: 0.5, eta_seconds: Some(33.2) }
}

#[test]
fn live_model_far_behind_is_not_ready_and_says_how_far() {
    let (ok, warning, detail) = check(status(3_144_723, ReportedState::Live));
    assert_eq!((ok, warning), (false, false));
    assert!(
        detail.starts_with("live, 3144723 events behind the head, 68 %, about 63 s left; wait; if it falls"),
        "{detail}"
    );
    let projection = judge(status(3_144_723, ReportedState::Live), LIMITS);
    assert_eq!(projection.lag_state, LagState::TooFarBehind);
    let progress = projection.progress.unwrap();
    assert_eq!((progress.target.0, progress.fraction), (HEAD, 0.685_527_7));
}

#[test]
fn lag_limits_are_exceeded_by_one_event_more() {
    for (lag, expected) in [
        (0, (true, false)),
        (10_000, (true, false)),
        (10_001, (true, true)),
        (1_000_000, (true, true)),
        (1_000_001, (false, false)),
    ] {
        let (ok, warning, detail) = check(status(lag, ReportedState::Live));
        assert_eq!((ok, warning), expected, "{lag}: {detail}");
    }
    assert_eq!(check(status(0, ReportedState::Live)).2, "up to date");
    assert_eq!(check(status(9, ReportedState::Live)).2, "live, 9 events behind the head");
}

#[test]
fn catch_up_after_a_start_has_progress_and_eta() {
    let catching_up =
        ProjectionStatus { progress: Some(halfway()), ..status(HEAD / 2, ReportedState::CatchingUp) };
    let (ok, _, detail) = check(catching_up.clone());
    assert!(!ok);
    assert_eq!(
        detail,
        "catching up, 5000000 events behind the head, 50 %, about 34 s left; wait until it has caught up"
    );
    let first = ProjectionStatus { generation: None, ..catching_up };
    assert!(check(first).2.starts_with("being built, 5000000 events behind the head, 50 %"));
}

#[test]
fn model_that_does_not_move_has_no_eta() {
    for state in [ReportedState::Paused, ReportedState::Stopped] {
        let projection = judge(status(20_000, state), LIMITS);
        assert_eq!(projection.progress.unwrap().eta_seconds, None);
    }
}

#[test]
fn failures_have_their_reason_and_remedy() {
    let (ok, _, detail) = check(failed(ReportedState::Stopped));
    assert!(!ok);
    assert_eq!(detail, "stopped at position 7: disk I/O error, 1 events behind the head; check the disk");
    assert!(!check(failed(ReportedState::Retrying)).0);
    let rebuild = RebuildStatus { generation: 2, progress: halfway(), failed: Some(failure()) };
    let half_built = ProjectionStatus { rebuild: Some(rebuild), ..status(0, ReportedState::Live) };
    assert_eq!(
        check(half_built),
        (
            true,
            true,
            "up to date; the rebuild of generation 2 failed at position 7: disk I/O error; check the disk"
                .to_owned()
        )
    );
}

/// The check of `jobs` in a response with checks.
fn jobs(response: &Value) -> Value {
    let checks = response["checks"].as_array().unwrap();
    checks.iter().find(|check| check["name"] == "jobs").unwrap().clone()
}

#[tokio::test]
async fn every_status_route_reports_the_lag() {
    let fixture = ReadApiFixture::open().await;
    fixture.post("/internal/projections/jobs/pause").await;
    let append = async |count: u64| {
        for _ in 0..count {
            let worker = StreamId::worker(&acme(), &"worker-1".parse().unwrap());
            fixture.append(worker, &[registered(1)]).await;
        }
        let others: Vec<Name> = Name::ALL.into_iter().filter(|name| *name != Name::Jobs).collect();
        fixture.api.models.wait_for(&others, fixture.head(), Duration::from_secs(60)).await.unwrap();
    };
    append(LAG_LIMITS.warn + 1).await;
    let ready = fixture.get("/ready").await;
    assert_eq!(ready.status, 200, "{}", ready.text);
    let health = fixture.get("/health").await.json();
    assert_eq!((&health["status"], &jobs(&health)["warning"]), (&json!("degraded"), &json!(true)));
    let detail = "jobs: paused by an operator, 4 events behind the head, 0 %; resume it with `matchbook projections resume jobs`";
    let warnings = fixture.get("/status").await.json()["warnings"].clone();
    assert!(warnings.as_array().unwrap().contains(&json!(detail)), "{warnings}");

    append(LAG_LIMITS.max - LAG_LIMITS.warn).await;
    let ready = fixture.get("/ready").await;
    assert_eq!(ready.status, 503, "{}", ready.text);
    let progress = json!({ "at": 0, "target": 7, "fraction": 0.0, "eta_seconds": null });
    let check = jobs(&ready.json());
    assert_eq!((&check["lag_events"], &check["progress"]), (&json!(7), &progress), "{check}");
    for (path, list) in [("/internal/projections", "items"), ("/status", "projections")] {
        let listed = fixture.get(path).await.json();
        let jobs = listed[list].as_array().unwrap().iter().find(|model| model["name"] == "jobs").unwrap();
        assert_eq!((&jobs["lag_state"], &jobs["progress"]), (&json!("too_far_behind"), &progress), "{jobs}");
    }
}
