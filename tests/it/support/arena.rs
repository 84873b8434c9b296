//! The stand-in game server and players, as child processes.

use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::server::{Server, example, free_port, terminate};
use super::wait_until;

/// A running `matchbook-arena serve`. It is killed when dropped.
pub(crate) struct Arena {
    child: Child,
    url: String,
    http: reqwest::Client,
}

/// A free address for an arena, so that a server can be started before it.
pub(crate) fn free_address() -> String {
    format!("127.0.0.1:{}", free_port())
}

impl Arena {
    pub(crate) async fn start(server: &Server, address: &str, arguments: &[&str]) -> Self {
        let child = spawn(&["serve", "--url", &server.url, "--listen", address], arguments);
        let arena = Self { child, url: format!("http://{address}"), http: reqwest::Client::new() };
        let is_ready = async || arena.http.get(format!("{}/health", arena.url)).send().await.is_ok();
        wait_until("the game server is ready", is_ready).await;
        arena
    }

    pub(crate) async fn inject_fault(&self, fault: &Value) {
        let response = self.http.post(format!("{}/faults", self.url)).json(fault).send().await.unwrap();
        assert_eq!(response.status(), 201);
    }

    pub(crate) async fn clear_faults(&self) {
        let response = self.http.delete(format!("{}/faults", self.url)).send().await.unwrap();
        assert_eq!(response.status(), 200);
    }

    /// The items of one of its lists: `games`, or the active `faults`.
    pub(crate) async fn list(&self, list: &str) -> Vec<Value> {
        let response = self.http.get(format!("{}/{list}", self.url)).send().await.unwrap();
        let body: Value = response.json().await.unwrap();
        body["items"].as_array().unwrap().clone()
    }

    /// Sends SIGTERM and returns the exit code.
    pub(crate) fn stop(&mut self) -> Option<i32> {
        terminate(&mut self.child)
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Running `matchbook-arena bots`. They are killed when dropped.
pub(crate) struct Players(Child);

impl Players {
    pub(crate) fn start(server: &Server, arguments: &[&str]) -> Self {
        Self(spawn(&["bots", "--url", &server.url], arguments))
    }

    /// Sends SIGTERM, on which the players cancel their entries and challenges, and returns the exit code.
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

fn spawn(command: &[&str], arguments: &[&str]) -> Child {
    Command::new(example("matchbook-arena"))
        .args(command)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}
