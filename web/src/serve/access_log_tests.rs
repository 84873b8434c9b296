use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use poem::test::TestClient;
use poem::{Route, handler};
use serde_json::Value;
use tracing_subscriber::fmt::MakeWriter;

use super::*;
use crate::caller::{Auth, Claims, Keys, Now, mint};
use crate::routes::Routes;
use crate::serve::{Layers, Settings, layers};

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

/// Keeps the lines of the log.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Lines {
    fn access(&self) -> Vec<Value> {
        let bytes = self.0.lock().unwrap().clone();
        let lines = String::from_utf8(bytes).unwrap();
        let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["target"] == TARGET).map(|line| line["fields"].clone()).collect()
    }
}

#[handler]
fn thing(request: &Request) -> poem::Result<&'static str> {
    crate::caller::authenticate(request)?.require(Role::User | Role::Admin)?;
    Ok("thing")
}

fn client(auth: Auth) -> TestClient<Layers> {
    let routes = Routes::default().with("/things/:id", &[Method::GET, Method::POST]);
    let endpoint = Route::new().at("/things/:id", poem::get(thing).post(thing));
    TestClient::new(layers(endpoint, Settings::new(auth, routes)))
}

fn now() -> Now {
    Now::new(|| "2026-11-20T10:00:00Z".parse().unwrap())
}

fn keyed() -> TestClient<Layers> {
    client(Auth::with_keys(Keys::default().secret(SECRET).unwrap(), Vec::new(), now()))
}

fn bearer(role: Role) -> String {
    let start = "2026-11-20T10:00:00Z".parse().unwrap();
    let claims = Claims::new(&"acme".parse().unwrap(), "ann", role.into(), start, Duration::from_secs(60));
    format!("Bearer {}", mint(SECRET, &claims).unwrap())
}

/// Sends the request, and returns its lines of the access log.
async fn lines_of(client: &TestClient<Layers>, method: Method, path: &str, bearer: &str) -> Vec<Value> {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt().json().with_writer(lines.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    client.request(method, path).header("Authorization", bearer).send().await;
    lines.access()
}

#[tokio::test]
async fn reads_and_writes_of_admins_are_logged_with_who_and_what() {
    let client = keyed();
    for (role, method, kind) in [
        (Role::Admin, Method::GET, "read"),
        (Role::Admin, Method::POST, "write"),
        (Role::Auditor, Method::GET, "refused"),
    ] {
        let lines = lines_of(&client, method.clone(), "/things/7?a=1", &bearer(role)).await;
        let [line] = &lines[..] else { panic!("{lines:?}") };
        assert_eq!((&line["kind"], &line["method"]), (&kind.into(), &method.as_str().into()), "{line}");
        assert_eq!((&line["path"], &line["query"]), (&"/things/7".into(), &"a=1".into()));
        assert_eq!((&line["tenant"], &line["user"]), (&"acme".into(), &"ann".into()));
        assert_eq!((&line["roles"], &line["credential"]), (&role.into_str().into(), &"token".into()));
    }
}

#[tokio::test]
async fn refusals_of_every_caller_are_logged() {
    let cases =
        [(bearer(Role::Worker), 403, "acme".into()), ("Bearer nonsense".to_owned(), 401, Value::Null)];
    for (bearer, status, tenant) in cases {
        let lines = lines_of(&keyed(), Method::POST, "/things/7", &bearer).await;
        let [line] = &lines[..] else { panic!("{lines:?}") };
        assert_eq!((&line["kind"], &line["status"]), (&"refused".into(), &status.into()));
        assert_eq!(line.get("tenant").cloned().unwrap_or_default(), tenant);
    }
}

#[tokio::test]
async fn accepted_requests_of_others_have_no_line() {
    assert_eq!(lines_of(&keyed(), Method::GET, "/things/7", &bearer(Role::User)).await, Vec::<Value>::new());
    assert_eq!(lines_of(&client(Auth::open(now())), Method::GET, "/things/7", "").await, Vec::<Value>::new());
}

#[tokio::test]
async fn secrets_are_not_in_the_access_log() {
    let token = bearer(Role::Admin);
    let secret = token.rsplit('.').next().unwrap();
    for path in ["/things/7?ticket=T0P&order=asc", "/things/7?order=asc&tick%65t=T0P"] {
        let lines = lines_of(&keyed(), Method::GET, path, &token).await;
        let [line] = &lines[..] else { panic!("{lines:?}") };
        assert_eq!(line["query"], "order=asc");
        assert!(!line.to_string().contains(secret) && !line.to_string().contains("T0P"), "{line}");
    }
}
