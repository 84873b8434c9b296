//! `matchbook jobs`: the jobs of a running server.

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use domain::job::history::Status;
use serde_json::{Value, json};
use uuid::Uuid;

use super::counted;
use matchbook::client::{Client, Server};
use matchbook::failure::{Failure, print};

const STATUSES: [&str; 5] = [
    Status::Pending.into_str(),
    Status::Running.into_str(),
    Status::Completed.into_str(),
    Status::Failed.into_str(),
    Status::Cancelled.into_str(),
];

#[derive(Subcommand, Debug)]
pub(crate) enum Jobs {
    /// List jobs, newest first
    List(List),
    /// Show a job: its progress, attempts, blockers and error
    Show(OneJob),
    /// Cancel a job
    Cancel(OneJob),
    /// Retry a failed job; a scheduled retry starts now
    Retry(OneJob),
}

#[derive(Args, Debug)]
pub(crate) struct List {
    #[command(flatten)]
    server: Server,
    /// Only jobs with this status
    #[arg(long, value_name = "STATUS", value_parser = PossibleValuesParser::new(STATUSES))]
    status: Option<String>,
    /// Only jobs in this phase, such as matching
    #[arg(long, value_name = "PHASE")]
    phase: Option<String>,
    /// Only jobs of this kind, such as product_video_matching or video_analysis
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// Only jobs that were created at or after this instant, such as 2026-11-20T10:00:00Z
    #[arg(long, value_name = "INSTANT")]
    since: Option<String>,
    /// Only jobs with this text in their name or id
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    /// The most jobs to list
    #[arg(long, value_name = "NUMBER", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

#[derive(Args, Debug)]
pub(crate) struct OneJob {
    #[command(flatten)]
    server: Server,
    /// The id of the job
    #[arg(value_name = "ID")]
    id: Uuid,
}

impl Jobs {
    pub(crate) async fn run(self, json: bool) -> Result<(), Failure> {
        match self {
            Self::List(list) => list.run(json).await,
            Self::Show(job) => job.show(json).await,
            Self::Cancel(job) => job.command("cancel", json).await,
            Self::Retry(job) => job.command("retry", json).await,
        }
    }
}

impl List {
    async fn run(self, json: bool) -> Result<(), Failure> {
        let filters = [
            ("status", &self.status),
            ("phase", &self.phase),
            ("kind", &self.kind),
            ("since", &self.since),
            ("q", &self.search),
        ];
        let query = filters.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?)));
        let client = Client::new(self.server)?;
        let list = client.list("/jobs", &query.collect::<Vec<_>>(), self.limit as usize).await?;
        for job in &list.items {
            if json {
                print(job)?;
            } else {
                print(&line(job))?;
            }
        }
        if list.has_more {
            eprintln!("there are more; list them with a higher --limit than {}", self.limit);
        }
        Ok(())
    }
}

impl OneJob {
    async fn show(self, json: bool) -> Result<(), Failure> {
        let job: Value = Client::new(self.server)?.get(&format!("/jobs/{}", self.id)).await?;
        if json { print(&job) } else { print(&details(&job)) }
    }

    async fn command(self, command: &str, json: bool) -> Result<(), Failure> {
        let path = format!("/jobs/{}/{command}", self.id);
        let changed: Value = Client::new(self.server)?.post(&path, &json!({})).await?;
        if json {
            print(&changed)
        } else {
            print(&format_args!("job {}: {}", self.id, text(&changed, "phase")))
        }
    }
}

fn text<'a>(object: &'a Value, member: &str) -> &'a str {
    object.get(member).and_then(Value::as_str).unwrap_or("–")
}

fn count(object: &Value, member: &str) -> u64 {
    object.get(member).and_then(Value::as_u64).unwrap_or_default()
}

fn number(object: &Value, member: &str) -> f64 {
    object.get(member).and_then(Value::as_f64).unwrap_or_default()
}

/// A job on one line.
fn line(job: &Value) -> String {
    format!(
        "{}  {:<9} {:<18} {:>5.1} %  {:<22}  {}  {}",
        text(job, "id"),
        text(job, "status"),
        text(job, "phase"),
        number(job, "progress_percentage"),
        text(job, "kind"),
        text(job, "created_at"),
        text(job, "name"),
    )
}

/// A job on several lines, without those that do not apply to it.
fn details(job: &Value) -> String {
    let mut lines = vec![
        format!("job {}: {}", text(job, "id"), text(job, "name")),
        format!(
            "{}, {}, in phase {}, attempt {}, {:.1} %",
            text(job, "kind"),
            text(job, "status"),
            text(job, "phase"),
            count(job, "attempt"),
            number(job, "progress_percentage"),
        ),
        format!(
            "created {}, started {}, ended {}; waited {:.1} s for workers, worked {:.1} s",
            text(job, "created_at"),
            text(job, "started_at"),
            text(job, "ended_at"),
            number(job, "queue_seconds"),
            number(job, "run_seconds"),
        ),
    ];
    if let (Some(counters), Some(matching)) =
        (job.get("counters"), job.get("matching").filter(|m| !m.is_null()))
    {
        lines.push(format!(
            "{} of {} candidates processed, {} found, {} with an evidence image; {} open",
            count(counters, "candidates_processed"),
            count(counters, "candidates_total"),
            counted(count(counters, "matches_found"), "match", "matches"),
            count(counters, "matches_with_evidence"),
            counted(count(matching, "queue_depth"), "match request is", "match requests are"),
        ));
        let blockers = matching.get("blockers").and_then(Value::as_array);
        lines.extend(
            blockers
                .into_iter()
                .flatten()
                .filter_map(|blocker| Some(format!("blocked: {}", blocker.as_str()?))),
        );
    }
    if let Some(error) = job.get("error").filter(|error| !error.is_null()) {
        lines.push(format!("error {}: {}", text(error, "code"), text(error, "user_message")));
        lines.push(format!("  reported as: {}", text(error, "message")));
    }
    if let Some(retry) = job.get("retry").filter(|retry| !retry.is_null()) {
        lines.push(format!("attempt {} starts at {}", count(retry, "attempt"), text(retry, "due_at")));
    } else if text(job, "status") == "failed" {
        lines.push(format!(
            "retries: {}; retry it with `matchbook jobs retry {}`",
            text(job, "retry_state"),
            text(job, "id")
        ));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests;
