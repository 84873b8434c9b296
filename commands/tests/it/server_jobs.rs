//! Jobs that the server itself performs, as callers and workers see them.

use serde_json::json;

use crate::support::TestApp;

#[tokio::test]
async fn work_of_the_server_is_refused_to_workers() {
    let app = TestApp::new().await;
    for kind in ["cutout_sync", "embedding_export"] {
        let kinds = json!(["match_request", kind]);
        let claim = app.post("/internal/work/claim", &json!({"worker_id": "w", "kinds": kinds})).await;
        assert_eq!(claim.fields(), ["kinds"]);
        claim.refused(422, "UNPROCESSABLE");
        let registered = app.put("/internal/workers/w", &json!({"kinds": kinds})).await;
        assert_eq!(registered.fields(), ["kinds"]);
        registered.refused(422, "UNPROCESSABLE");
    }
    assert_eq!(app.head(), 0);
}

#[tokio::test]
async fn no_worker_may_act_as_that_of_the_server() {
    let app = TestApp::new().await;
    let kinds = json!({"kinds": ["match_request"]});
    let claim = json!({"worker_id": "server", "kinds": ["match_request"]});
    for refused in [
        app.put("/internal/workers/server", &kinds).await,
        app.post("/internal/workers/server/exit", &json!({"exit_code": 137})).await,
        app.post("/internal/workers/server/heartbeat", &json!({})).await,
        app.post("/internal/work/claim", &claim).await,
    ] {
        assert_eq!(refused.fields(), ["worker_id"]);
        refused.refused(422, "UNPROCESSABLE");
    }
    assert_eq!(app.head(), 0);
}

#[tokio::test]
async fn job_of_the_server_is_created_by_its_own_route_only() {
    let app = TestApp::new().await;
    for (kind, route) in [("cutout_sync", "/api/v1/cutouts/sync"), ("embedding_export", "/api/v1/export")] {
        let refused = app.post("/jobs", &json!({"kind": kind})).await;
        assert_eq!(refused.fields(), ["kind"]);
        let problem = refused.refused(422, "UNPROCESSABLE");
        assert!(problem.to_string().contains(route), "{problem}");
    }
    assert_eq!(app.head(), 0);
}
