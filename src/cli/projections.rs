//! `matchbook projections`: the read models of a running server.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{Client, Server};
use super::{Failure, print};

const POLL_EVERY: Duration = Duration::from_millis(500);

#[derive(Subcommand, Debug)]
pub(crate) enum Projections {
    /// List the read models, with their progress and errors
    List(List),
    /// Rebuild a read model from the log alongside the live generation, and switch to it (blue/green)
    Rebuild(Rebuild),
}

#[derive(Args, Debug)]
pub(crate) struct List {
    #[command(flatten)]
    server: Server,
}

#[derive(Args, Debug)]
pub(crate) struct Rebuild {
    #[command(flatten)]
    server: Server,
    /// The name of the read model, as in `list`
    name: String,
    /// Return immediately, without waiting for the rebuild
    #[arg(long)]
    no_wait: bool,
}

impl Projections {
    pub(crate) async fn run(self, json: bool) -> Result<(), Failure> {
        match self {
            Self::List(list) => list.run(json).await,
            Self::Rebuild(rebuild) => rebuild.run(json).await,
        }
    }
}

async fn all(client: &Client) -> Result<Vec<Value>, Failure> {
    let answer: Value = client.get("/internal/projections").await?;
    Ok(answer.get("items").and_then(Value::as_array).cloned().unwrap_or_default())
}

fn line(projection: &Value) -> String {
    let text = |member: &str| projection.get(member).and_then(Value::as_str).unwrap_or_default();
    let number = |member: &str| projection.get(member).and_then(Value::as_u64).unwrap_or_default();
    let mut line = format!(
        "{:<18} {:<11} position {:>10}  lag {:>8} events",
        text("name"),
        text("state"),
        number("position"),
        number("lag_events"),
    );
    if let Some(progress) = projection.get("progress").and_then(Value::as_f64) {
        line.push_str(&format!("  {:.0} %", progress * 100.0));
    }
    if let Some(seconds) = projection.get("eta_seconds").and_then(Value::as_u64) {
        line.push_str(&format!(", about {seconds} s left"));
    }
    if !text("error").is_empty() {
        line.push_str(&format!("\n  {}", text("error")));
    }
    line
}

impl List {
    async fn run(self, json: bool) -> Result<(), Failure> {
        for projection in all(&Client::new(self.server)?).await? {
            if json {
                print(&projection)?;
            } else {
                print(&line(&projection))?;
            }
        }
        Ok(())
    }
}

impl Rebuild {
    async fn run(self, json: bool) -> Result<(), Failure> {
        let client = Client::new(self.server.clone())?;
        let mut answer: Value =
            client.post(&format!("/internal/projections/{}/rebuild", self.name), &json!({})).await?;
        if !self.no_wait {
            answer = self.follow(&client, json).await?;
        }
        if json {
            print(&answer)?;
        }
        Ok(())
    }

    /// Prints the progress of the rebuild until it is done.
    async fn follow(&self, client: &Client, json: bool) -> Result<Value, Failure> {
        let mut shown = String::new();
        loop {
            let named =
                |projection: &Value| projection.get("name").and_then(Value::as_str) == Some(&self.name);
            let projection = all(client).await?.into_iter().find(named).unwrap_or_default();
            let now = line(&projection);
            if !json && now != shown {
                print(&now)?;
                shown = now;
            }
            match projection.get("state").and_then(Value::as_str) {
                Some("live") => return Ok(projection),
                Some("stopped") => {
                    return Err(Failure::Failed(format!("the rebuild of {} stopped", self.name)));
                }
                _ => tokio::time::sleep(POLL_EVERY).await,
            }
        }
    }
}
