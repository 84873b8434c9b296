//! Every write route checks the caller's role before it reads the body.

use serde_json::Value;
use web::caller::Role;

use super::support::TestApp;

/// The most bytes that any route accepts.
const BODY_BYTES: usize = 16 << 20;

#[tokio::test]
async fn write_routes_refuse_a_wrong_role_before_the_body_is_read() {
    let app = TestApp::with_keys().await;
    // Not JSON, so that a route that reads it answers 400.
    let body = "[".repeat(BODY_BYTES);
    let mut count = 0;
    for (path, operations) in app.document["paths"].as_object().unwrap() {
        let parts = path.split('/').map(|part| if part.starts_with('{') { "x" } else { part });
        let path = parts.collect::<Vec<_>>().join("/");
        for method in operations.as_object().unwrap().keys().filter(|method| *method != "get") {
            let call = app.call(&method.to_uppercase(), &path);
            let refused =
                call.roles("ann", Role::Auditor).text("application/json", body.clone()).send().await;
            assert_eq!(
                (refused.status, &refused.body["code"]),
                (403, &Value::from("FORBIDDEN")),
                "{method} {path}"
            );
            count += 1;
        }
    }
    assert!(count > 25, "found only {count} write routes");
}
