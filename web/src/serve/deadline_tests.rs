use std::time::Duration;

use poem::http::Method;
use poem::test::TestClient;
use poem::{Route, handler};

use super::{Settings, layers};
use crate::caller::{Auth, Now};
use crate::routes::{RouteLimits, Routes};

/// Answers after the seconds in its path.
#[handler]
async fn wait(seconds: poem::web::Path<u64>) -> &'static str {
    tokio::time::sleep(Duration::from_secs(*seconds)).await;
    "done"
}

#[tokio::test(start_paused = true)]
async fn read_that_is_computed_from_the_log_has_more_time() {
    let routes =
        Routes::default().with("/wait/{seconds}", &[Method::GET]).with("/list/{seconds}", &[Method::GET]);
    let routes = routes.limits("/list/{seconds}", RouteLimits::Costly).unwrap();
    let auth = Auth::open(Now::new(|| "2026-11-20T10:00:00Z".parse().unwrap()));
    let endpoint = Route::new().at("/wait/:seconds", poem::get(wait)).at("/list/:seconds", poem::get(wait));
    let client = TestClient::new(layers(endpoint, Settings::new(auth, routes)));
    for (path, status) in [
        ("/wait/9", 200),
        ("/wait/11", 503),
        ("/wait/11?as_of=1", 200),
        ("/wait/61?as_of=1", 503),
        ("/list/11", 200),
        ("/list/61", 503),
    ] {
        let response = client.get(path).send().await;
        assert_eq!(response.0.status().as_u16(), status, "{path}");
    }
}
