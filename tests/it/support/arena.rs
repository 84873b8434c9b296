//! The stand-in game server and players, as child processes.

use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::server::{Server, example, free_port, terminate};
use super::until;

/// A running `matchbook-arena serve`. It is killed when dropped.
pub(crate) struct Arena {
    child: Child,
    url: String,
    http: reqwest::Client,
}

/// Where an arena will listen, for a server that is started before it.
pub(crate) fn address() -> String {
    format!("127.0.0.1:{}", free_port())
}

impl Arena {
    pub(crate) async fn start(server: &Server, address: &str, arguments: &[&str]) -> Self {
        let child = spawn(&["serve", "--server", &server.url, "--listen", address], arguments);
        let arena = Self { child, url: format!("http://{address}"), http: reqwest::Client::new() };
        let answers = async || arena.http.get(format!("{}/health", arena.url)).send().await.is_ok();
        until("the game server answers", answers).await;
        arena
    }

    pub(crate) async fn fail(&self, fault: &Value) {
        let answer = self.http.post(format!("{}/faults", self.url)).json(fault).send().await.unwrap();
        assert_eq!(answer.status(), 201);
    }

    pub(crate) async fn recover(&self) {
        let answer = self.http.delete(format!("{}/faults", self.url)).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }

    /// What is listed there: `games`, or the `faults` that still stand.
    pub(crate) async fn list(&self, what: &str) -> Vec<Value> {
        let answer = self.http.get(format!("{}/{what}", self.url)).send().await.unwrap();
        let body: Value = answer.json().await.unwrap();
        body["items"].as_array().unwrap().clone()
    }

    /// SIGTERM, and the exit code.
    pub(crate) fn stop(&mut self) -> Option<i32> {
        terminate(&mut self.child)
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // It may be gone already, which is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Running `matchbook-arena bots`. They are killed when dropped.
pub(crate) struct Players(Child);

impl Players {
    pub(crate) fn start(server: &Server, arguments: &[&str]) -> Self {
        Self(spawn(&["bots", "--server", &server.url], arguments))
    }

    /// SIGTERM, and the exit code: each takes back what is open.
    pub(crate) fn stop(&mut self) -> Option<i32> {
        terminate(&mut self.0)
    }
}

impl Drop for Players {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn(first: &[&str], arguments: &[&str]) -> Child {
    Command::new(example("matchbook-arena"))
        .args(first)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}
