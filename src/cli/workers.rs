//! `matchbook workers`: the workers of a running server.

use clap::{Args, Subcommand};
use projections::worker::WorkerPresence;
use read_api::routes::worker::Worker;
use serde_json::json;

use super::{counted, text};
use matchbook::client::{Client, Server};
use matchbook::failure::{Failure, print};

#[derive(Subcommand, Debug)]
pub(crate) enum Workers {
    /// List the workers by id, past ones included
    List(List),
    /// Show a worker, with its latest exit or loss
    Show(Show),
}

#[derive(Args, Debug)]
pub(crate) struct List {
    #[command(flatten)]
    server: Server,
    /// Only workers that are present
    #[arg(long)]
    present: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Show {
    #[command(flatten)]
    server: Server,
    /// The id of the worker
    #[arg(value_name = "ID")]
    id: String,
}

impl Workers {
    pub(crate) async fn run(self, json: bool) -> Result<(), Failure> {
        match self {
            Self::List(list) => {
                let mut workers = all(list.server).await?;
                workers.retain(|worker| !list.present || worker.view.presence == WorkerPresence::Present);
                workers
                    .iter()
                    .try_for_each(|worker| if json { print(&json!(worker)) } else { print(&line(worker)) })
            }
            Self::Show(show) => {
                let workers = all(show.server).await?;
                let found = workers.iter().find(|worker| worker.id.as_str() == show.id);
                let worker = found.ok_or_else(|| {
                    let id = &show.id;
                    Failure::Failed(format!(
                        "there is no worker `{id}`; `matchbook workers list` lists all of them"
                    ))
                })?;
                if json { print(&json!(worker)) } else { print(&details(worker)) }
            }
        }
    }
}

async fn all(server: Server) -> Result<Vec<Worker>, Failure> {
    Ok(Client::new(server)?.list("/internal/workers", &[], usize::MAX).await?.items)
}

/// A worker on one line.
fn line(worker: &Worker) -> String {
    let (id, view) = (worker.id.as_str(), &worker.view);
    let kinds: Vec<String> = view.kinds.iter().map(text).collect();
    format!("{id:<24} {:<13} since {}  {}", text(&view.presence), view.since, kinds.join(", "))
}

/// A worker on several lines.
fn details(worker: &Worker) -> String {
    let view = &worker.view;
    let mut lines = vec![
        line(worker),
        format!(
            "registered {}, last event {}, version {}, returned {} after a loss",
            view.registered_at,
            view.last_seen_at,
            text(&view.version),
            counted(view.returns, "time", "times"),
        ),
    ];
    if let Some(end) = &view.last_end {
        let mut detail = format!("last end: {} at {}", text(&end.end), end.at);
        if let Some(code) = end.exit_code {
            detail.push_str(&format!(", exit code {code}"));
        }
        if let Some(signal) = end.signal {
            detail.push_str(&format!(", signal {signal}"));
        }
        if let Some(reason) = &end.reason {
            detail.push_str(&format!(", reason {reason:?}"));
        }
        lines.push(detail);
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_contain_the_latest_end() {
        let (registered, ended) = ("2026-11-20T10:00:00.000000Z", "2026-11-20T11:00:00.000000Z");
        // A later server may send more than this program knows.
        let worker = json!({
            "id": "gpu-1", "worker_id": "gpu-1", "presence": "out_of_memory", "since": ended, "kinds": ["match_request"],
            "version": null, "registered_at": registered, "last_seen_at": ended, "returns": 1, "position": 7, "later": 1,
            "last_end": { "end": "out_of_memory", "at": ended, "exit_code": 137, "signal": null, "reason": "oom", "later": 1 },
        });
        let worker: Worker = serde_json::from_value(worker).unwrap();
        insta::assert_snapshot!(details(&worker), @r#"
        gpu-1                    out_of_memory since 2026-11-20T11:00:00.000000Z  match_request
        registered 2026-11-20T10:00:00.000000Z, last event 2026-11-20T11:00:00.000000Z, version –, returned 1 time after a loss
        last end: out_of_memory at 2026-11-20T11:00:00.000000Z, exit code 137, reason "oom"
        "#);
    }
}
