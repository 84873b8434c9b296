//! `matchbook workers`: the workers of a running server.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::counted;
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
                workers.retain(|worker| !list.present || text(worker, "presence") == "present");
                workers.iter().try_for_each(|worker| if json { print(worker) } else { print(&line(worker)) })
            }
            Self::Show(show) => {
                let workers = all(show.server).await?;
                let found = workers.iter().find(|worker| text(worker, "id") == show.id);
                let worker = found.ok_or_else(|| {
                    let id = &show.id;
                    Failure::Failed(format!(
                        "there is no worker `{id}`; `matchbook workers list` lists all of them"
                    ))
                })?;
                if json { print(worker) } else { print(&details(worker)) }
            }
        }
    }
}

async fn all(server: Server) -> Result<Vec<Value>, Failure> {
    Ok(Client::new(server)?.list("/internal/workers", &[], usize::MAX).await?.items)
}

fn text<'a>(object: &'a Value, member: &str) -> &'a str {
    object.get(member).and_then(Value::as_str).unwrap_or("–")
}

fn kinds(worker: &Value) -> String {
    let kinds = worker.get("kinds").and_then(Value::as_array).into_iter().flatten();
    kinds.filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
}

/// A worker on one line.
fn line(worker: &Value) -> String {
    format!(
        "{:<24} {:<13} since {}  {}",
        text(worker, "id"),
        text(worker, "presence"),
        text(worker, "since"),
        kinds(worker),
    )
}

/// A worker on several lines.
fn details(worker: &Value) -> String {
    let returns = worker.get("returns").and_then(Value::as_u64).unwrap_or_default();
    let mut lines = vec![
        line(worker),
        format!(
            "registered {}, last event {}, version {}, returned {} after a loss",
            text(worker, "registered_at"),
            text(worker, "last_seen_at"),
            text(worker, "version"),
            counted(returns, "time", "times"),
        ),
    ];
    if let Some(end) = worker.get("last_end").filter(|end| !end.is_null()) {
        let mut detail = format!("last end: {} at {}", text(end, "end"), text(end, "at"));
        for (member, name) in [("exit_code", "exit code"), ("signal", "signal"), ("reason", "reason")] {
            if let Some(value) = end.get(member).filter(|value| !value.is_null()) {
                detail.push_str(&format!(", {name} {value}"));
            }
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
        let worker = serde_json::json!({
            "id": "gpu-1", "presence": "out_of_memory", "since": "T2", "kinds": ["match_request"], "version": null,
            "registered_at": "T1", "last_seen_at": "T2", "returns": 1,
            "last_end": { "end": "out_of_memory", "at": "T2", "exit_code": 137, "signal": null, "reason": "oom" },
        });
        insta::assert_snapshot!(details(&worker), @r#"
        gpu-1                    out_of_memory since T2  match_request
        registered T1, last event T2, version –, returned 1 time after a loss
        last end: out_of_memory at T2, exit code 137, reason "oom"
        "#);
    }
}
