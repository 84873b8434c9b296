//! The programs of this repository, as child processes.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::Value;
use tempfile::TempDir;

use super::TIMEOUT;
use super::cluster::{self, Cluster};
use super::postgres::{self, Database};

/// The arguments with which a test chooses the log itself.
const LOG_SETTINGS: [&str; 2] = ["--event-log", "--esdb-listen"];

/// A running `matchbook serve`. It is killed when dropped, and its folder removed.
pub(crate) struct Server {
    child: Child,
    pub(crate) url: String,
    pub(crate) folder: TempDir,
    data: PathBuf,
    arguments: Vec<String>,
    /// The process with its log, if the tests run on a remote log.
    cluster: Option<Cluster>,
    /// The database of its read models, if the tests run on PostgreSQL.
    database: Option<Database>,
    pub(crate) http: reqwest::Client,
}

/// A response, with its whole body.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: StatusCode,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
}

impl Response {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        self.json()
    }

    /// Asserts that the response is a complete problem document with the status, and returns it.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        let kind = self.headers.get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        assert!(kind.starts_with("application/problem+json"), "{kind}: {}", self.text);
        let problem = self.json();
        for member in ["type", "title", "status", "detail", "code", "request_id"] {
            assert!(problem.get(member).is_some(), "no {member} in {problem}");
        }
        problem
    }
}

impl Server {
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), arguments).await
    }

    pub(crate) async fn start_in(folder: TempDir, arguments: &[&str]) -> Self {
        let data = folder.path().join("data");
        Self::start_with_data(data, folder, arguments).await
    }

    /// Starts a server whose data folder is not in `folder`, where its server log is written.
    pub(crate) async fn start_with_data(data: PathBuf, folder: TempDir, arguments: &[&str]) -> Self {
        let port = free_port();
        let mut all = vec![
            "serve".to_owned(),
            format!("--listen=127.0.0.1:{port}"),
            format!("--data={}", data.display()),
        ];
        all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        let has_log = arguments.iter().any(|given| LOG_SETTINGS.iter().any(|flag| given.starts_with(flag)));
        let cluster = (cluster::runs_on_remote_log() && !has_log).then(Cluster::start);
        all.extend(cluster.iter().map(|cluster| format!("--event-log={}", cluster.url())));
        let has_store = arguments.iter().any(|given| given.starts_with("--read-store"));
        let database = (postgres::is_read_store() && !has_store).then(postgres::database);
        all.extend(database.iter().map(|database| format!("--read-store={}", database.url())));
        let child = spawn(&[], &all, folder.path());
        let url = format!("http://127.0.0.1:{port}");
        let http = reqwest::Client::new();
        let mut server = Self { child, url, folder, data, arguments: all, cluster, database, http };
        server.wait_until_ready().await;
        server
    }

    /// Sends SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGTERM and returns the exit code.
    pub(crate) fn terminate(&mut self) -> Option<i32> {
        terminate(&mut self.child)
    }

    /// Restarts the server with the same folder and port.
    pub(crate) async fn restart(&mut self) {
        self.restart_under(&[]).await;
    }

    /// Restarts the server as the child of another command, which receives it as its last arguments.
    pub(crate) async fn restart_under(&mut self, command: &[String]) {
        self.spawn_under(command);
        self.wait_until_ready().await;
    }

    /// Restarts the server without waiting until it is ready.
    pub(crate) fn spawn_under(&mut self, command: &[String]) {
        self.child = spawn(command, &self.arguments, self.folder.path());
    }

    /// Restarts the server once with further arguments.
    pub(crate) async fn restart_with(&mut self, arguments: &[&str]) {
        let mut all = self.arguments.clone();
        all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self.child = spawn(&[], &all, self.folder.path());
        self.wait_until_ready().await;
    }

    /// Restarts the server; false if it refuses to start, or reports damage that keeps it from being ready.
    pub(crate) async fn try_restart(&mut self) -> bool {
        self.spawn_under(&[]);
        let start = Instant::now();
        while start.elapsed() < TIMEOUT {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            if let Ok(response) = self.http.get(format!("{}/ready", self.url)).send().await {
                let is_ready = response.status().is_success();
                if is_ready || response.text().await.unwrap().contains(" at byte ") {
                    return is_ready;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the server neither started nor ended:\n{}", self.log());
    }

    /// Restarts a server that refuses to start: its exit code, and the last line of its log.
    pub(crate) fn start_refused(&mut self) -> (Option<i32>, String) {
        self.spawn_under(&[]);
        let code = self.wait_for_exit();
        (code, self.log().lines().last().unwrap_or_default().to_owned())
    }

    /// Waits until the process ends, and returns its exit code.
    pub(crate) fn wait_for_exit(&mut self) -> Option<i32> {
        let start = Instant::now();
        while start.elapsed() < TIMEOUT {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the server did not end:\n{}", self.log());
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The folder of its event log, also if that is in another process.
    pub(crate) fn events_folder(&self) -> PathBuf {
        let data = self.cluster.as_ref().map_or_else(|| self.data(), Cluster::data);
        data.join("events")
    }

    /// True if its log can contain other events between those of the program, as on a cluster.
    pub(crate) fn has_gaps(&self) -> bool {
        self.arguments.iter().any(|given| given.starts_with("--event-log=esdb:"))
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.data.clone()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("server.log")).unwrap_or_default()
    }

    async fn wait_until_ready(&mut self) {
        let start = Instant::now();
        while start.elapsed() < TIMEOUT && self.child.try_wait().unwrap().is_none() {
            if let Ok(response) = self.http.get(format!("{}/ready", self.url)).send().await
                && response.status().is_success()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the server did not become ready:\n{}", self.log());
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.send(Method::GET, path, &[], None).await
    }

    /// Gets a successful response that reflects the whole log.
    pub(crate) async fn get_at_head(&self, path: &str) -> Value {
        let head = self.get("/status").await.expect(200)["log"]["head"].to_string();
        self.send(Method::GET, path, &[("x-min-position", head.as_str())], None).await.expect(200)
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Response {
        self.send(Method::POST, path, &[], Some(body.to_string())).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Response {
        self.send(Method::PUT, path, &[], Some(body.to_string())).await
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<String>,
    ) -> Response {
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        let mut typed = false;
        for (name, value) in headers {
            typed |= name.eq_ignore_ascii_case("content-type");
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            if !typed {
                request = request.header("content-type", "application/json");
            }
            request = request.body(body);
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        Response { status, headers, text: response.text().await.unwrap() }
    }

    /// Runs another command of the program against this server.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// The command that [`Self::cli`] runs.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_matchbook"));
        let data = self.data();
        command
            .args(arguments)
            .env("MATCHBOOK_URL", &self.url)
            .env("MATCHBOOK_DATA", data)
            .envs(self.database.iter().map(|database| ("MATCHBOOK_READ_STORE", database.url())))
            .stdin(Stdio::null());
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the server's log ---\n{}", self.log());
        }
    }
}

/// A port that is free now. A race is unlikely, because other programs do not choose a port of this range by number.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The program under test: the one that was built with the tests, or the one of `MATCHBOOK_TEST_PROGRAM`.
pub(crate) fn program() -> String {
    std::env::var("MATCHBOOK_TEST_PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_matchbook").to_owned())
}

pub(super) fn spawn(under: &[String], arguments: &[String], folder: &Path) -> Child {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("server.log")).unwrap();
    let program = program();
    let mut words = under.iter().chain([&program]).chain(arguments);
    Command::new(words.next().unwrap())
        .args(words)
        // Tests share the disk with other programs. A flag of the test overrides these.
        .env("MATCHBOOK_RESERVE_BYTES", "1000000")
        .env("MATCHBOOK_SEGMENT_BYTES", "8000000")
        .stdin(Stdio::null())
        .stdout(Stdio::from(log.try_clone().unwrap()))
        .stderr(Stdio::from(log))
        .spawn()
        .unwrap()
}

/// Sends SIGTERM and returns the exit code.
pub(crate) fn terminate(child: &mut Child) -> Option<i32> {
    signal(child.id(), "TERM");
    child.wait().unwrap().code()
}

pub(crate) fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &pid.to_string()]).status().unwrap();
    assert!(sent.success());
}

/// An example program, which `./test` builds before it runs the tests.
pub(super) fn example(name: &str) -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_matchbook")).with_file_name(name);
    assert!(program.exists(), "{} is missing: run `cargo build --workspace --bins` first", program.display());
    program
}

/// A running example worker. It is killed when dropped.
pub(crate) struct WorkerProcess(Child);

impl WorkerProcess {
    /// A worker for analyses.
    pub(crate) fn analyst(server: &Server, id: &str, media: &Path, arguments: &[&str]) -> Self {
        let mut command = Self::command(server, "matchbook-analyst", id);
        command.arg("--media").arg(media).args(arguments);
        Self::start(&mut command)
    }

    /// A worker for matching.
    pub(crate) fn matcher(server: &Server, id: &str, media: &Path, arguments: &[&str]) -> Self {
        let mut command = Self::command(server, "matchbook-matcher", id);
        command.arg("--media").arg(media);
        command.arg("--evidence").arg(server.folder.path().join("evidence")).args(arguments);
        Self::start(&mut command)
    }

    /// A worker for vectors of images, which are on this machine.
    pub(crate) fn embedder(server: &Server, id: &str, arguments: &[&str]) -> Self {
        let mut command = Self::command(server, "matchbook-embedder", id);
        command.arg("--allow-private-addresses").args(arguments);
        Self::start(&mut command)
    }

    fn command(server: &Server, program: &str, id: &str) -> Command {
        let mut command = Command::new(example(program));
        command.args(["--url", &server.url, "--worker-id", id]);
        command
    }

    fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// Waits until it ends, and returns its exit code.
    pub(crate) fn wait_for_exit(&mut self) -> Option<i32> {
        self.0.wait().unwrap().code()
    }

    /// Sends SIGTERM and returns the exit code.
    pub(crate) fn terminate(mut self) -> Option<i32> {
        terminate(&mut self.0)
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
