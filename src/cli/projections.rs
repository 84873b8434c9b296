//! `matchbook projections`: the read models of a running server.

use std::io::IsTerminal;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use projections::Name;
use projections::status::{Condition, ProjectionStatus, RebuildStatus, ReportedState};
use read_api::routes::projection::dto::{ProjectionCommandAccepted, ProjectionList, RebuildAccepted};
use serde_json::json;

use matchbook::client::{Client, Server};
use matchbook::failure::{Failure, print, print_progress};

/// The first and the longest pause between two looks at a rebuild.
const POLL_AFTER: Duration = Duration::from_millis(20);
const POLL_EVERY: Duration = Duration::from_millis(500);

#[derive(Subcommand, Debug)]
pub(crate) enum Projections {
    /// List the read models, with their lag, progress, rebuilds and errors
    List(List),
    /// Rebuild a read model from the log alongside the live generation, switch to it (blue/green), and wait for that
    Rebuild(Rebuild),
    /// Pause a read model at its position; reads continue
    Pause(Control),
    /// Resume a paused read model, or let a stopped one try its event again
    Resume(Control),
}

#[derive(Args, Debug)]
pub(crate) struct Control {
    #[command(flatten)]
    server: Server,
    /// The name of the read model
    #[arg(value_name = "NAME", value_parser = PossibleValuesParser::new(Name::NAMES))]
    name: String,
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
    /// The name of the read model
    #[arg(value_name = "NAME", value_parser = PossibleValuesParser::new(Name::NAMES))]
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
            Self::Pause(control) => control.run("pause", json).await,
            Self::Resume(control) => control.run("resume", json).await,
        }
    }
}

async fn all(client: &Client) -> Result<Vec<ProjectionStatus>, Failure> {
    let list: ProjectionList = client.get("/internal/projections").await?;
    Ok(list.items)
}

/// A projection on one line, and what an operator should know on the next ones.
fn lines(projection: &ProjectionStatus) -> String {
    let generation = projection.generation.map_or("–".to_owned(), |number| number.to_string());
    let mut lines = format!(
        "{:<19} {:<11} generation {generation:>3}  position {:>10}  lag {:>8} events",
        projection.name, projection.state, projection.position.0, projection.lag_events,
    );
    if projection.condition() != Condition::Ok || projection.rebuild.is_some() {
        lines.push_str(&format!("\n  {}", projection.detail()));
    }
    if let Some(remedy) = projection.remedy() {
        lines.push_str(&format!("\n  → {remedy}"));
    }
    lines
}

impl List {
    async fn run(self, json: bool) -> Result<(), Failure> {
        for projection in all(&Client::new(self.server)?).await? {
            if json {
                print(&json!(projection))?;
            } else {
                print(&lines(&projection))?;
            }
        }
        Ok(())
    }
}

impl Control {
    async fn run(self, command: &str, json: bool) -> Result<(), Failure> {
        let path = format!("/internal/projections/{}/{command}", self.name);
        let accepted: ProjectionCommandAccepted = Client::new(self.server)?.post(&path, &json!({})).await?;
        if json {
            print(&json!(accepted))
        } else {
            print(&format_args!("{}: {}", accepted.name, accepted.detail))
        }
    }
}

impl Rebuild {
    async fn run(self, json: bool) -> Result<(), Failure> {
        let client = Client::new(self.server.clone())?;
        let path = format!("/internal/projections/{}/rebuild", self.name);
        let accepted: RebuildAccepted = client.post(&path, &json!({})).await?;
        if self.no_wait {
            return if json {
                print(&json!(accepted))
            } else {
                print(&format_args!("{}: {}", accepted.name, accepted.detail))
            };
        }
        let rebuilt = self.wait(&client, accepted.generation, json).await?;
        if json { print(&json!(rebuilt)) } else { print(&lines(&rebuilt)) }
    }

    /// Shows the progress until the generation is live.
    async fn wait(&self, client: &Client, generation: u64, json: bool) -> Result<ProjectionStatus, Failure> {
        let (mut shown, mut pause) = (String::new(), POLL_AFTER);
        loop {
            let found = all(client).await?.into_iter().find(|projection| projection.name == self.name);
            let projection =
                found.ok_or_else(|| Failure::Failed(format!("the server no longer has {}", self.name)))?;
            let done = is_done(&projection, generation);
            let line = format!("{}: {}", self.name, projection.detail());
            if !json && line != shown && !matches!(done, Ok(true)) {
                print_progress(&line)?;
                shown = line;
            }
            if !matches!(done, Ok(false)) && !shown.is_empty() && std::io::stdout().is_terminal() {
                print(&"")?;
            }
            if done? {
                return Ok(projection);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(POLL_EVERY);
        }
    }
}

/// Reports whether the generation is live. A blue/green rebuild leaves the projection's state as it is, so the number of
/// the live generation decides.
///
/// # Errors
/// The rebuild failed, or is not in progress any more; with the reason and the remedy.
fn is_done(projection: &ProjectionStatus, generation: u64) -> Result<bool, Failure> {
    if projection.generation.is_some_and(|live| live >= generation) {
        return Ok(true);
    }
    let failure = match (&projection.rebuild, &projection.stop, projection.state) {
        (Some(RebuildStatus { failed: Some(failure), .. }), ..) => Some(failure),
        // Its files are reopened, and the rebuild then continues.
        (Some(_), ..) | (None, _, ReportedState::Retrying) => return Ok(false),
        // After its live generation was lost, the one under construction became the first one.
        (None, ..) if projection.generation.is_none() && projection.state == ReportedState::CatchingUp => {
            return Ok(false);
        }
        (None, stop, _) => stop.as_ref(),
    };
    let (reason, remedy) = match failure {
        Some(failure) => (
            format!("at position {}: {}", failure.position, failure.error),
            failure.remedy.clone().into_owned(),
        ),
        None => (
            format!("it is not in progress any more, and the projection is {}", projection.state),
            "see the server's log, and start the rebuild again".to_owned(),
        ),
    };
    let name = &projection.name;
    Err(Failure::Failed(format!(
        "the rebuild of {name} as generation {generation} failed: {reason}; {remedy}"
    )))
}

#[cfg(test)]
pub(super) mod tests;
