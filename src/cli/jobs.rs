//! `matchbook jobs`: the jobs of a running server.

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use commands::jobs::routes::ChangedPhase;
use domain::job::history::Status;
use domain::job::view::JobView;
use serde_json::json;
use uuid::Uuid;

use super::{counted, text};
use matchbook::client::{self, Client, Server};
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
        let list: client::List<JobView> =
            client.list("/jobs", &query.collect::<Vec<_>>(), self.limit as usize).await?;
        for job in &list.items {
            if json {
                print(&json!(job))?;
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
        let job: JobView = Client::new(self.server)?.get(&format!("/jobs/{}", self.id)).await?;
        if json { print(&json!(job)) } else { print(&details(&job)) }
    }

    async fn command(self, command: &str, json: bool) -> Result<(), Failure> {
        let path = format!("/jobs/{}/{command}", self.id);
        let changed: ChangedPhase = Client::new(self.server)?.post(&path, &json!({})).await?;
        if json {
            print(&json!(changed))
        } else {
            print(&format_args!("job {}: {}", self.id, text(&changed.phase)))
        }
    }
}

/// A job on one line.
fn line(job: &JobView) -> String {
    format!(
        "{}  {:<9} {:<18} {:>5.1} %  {:<22}  {}  {}",
        job.id,
        text(&job.status),
        text(&job.phase),
        job.progress_percentage,
        text(&job.kind),
        job.created_at,
        text(&job.name),
    )
}

/// A job on several lines, without those that do not apply to it.
fn details(job: &JobView) -> String {
    let mut lines = vec![
        format!("job {}: {}", job.id, text(&job.name)),
        format!(
            "{}, {}, in phase {}, attempt {}, {:.1} %",
            text(&job.kind),
            text(&job.status),
            text(&job.phase),
            job.attempt,
            job.progress_percentage,
        ),
        format!(
            "created {}, started {}, ended {}; waited {:.1} s for workers, worked {:.1} s",
            job.created_at,
            text(&job.started_at),
            text(&job.ended_at),
            job.queue_seconds,
            job.run_seconds,
        ),
    ];
    if let (counters, Some(matching)) = (&job.counters, &job.matching) {
        lines.push(format!(
            "{} of {} candidates processed, {} found, {} with an evidence image; {} open",
            counters.candidates_processed,
            counters.candidates_total,
            counted(counters.matches_found, "match", "matches"),
            counters.matches_with_evidence,
            counted(matching.queue_depth, "match request is", "match requests are"),
        ));
        lines.extend(matching.blockers.iter().map(|blocker| format!("blocked: {blocker}")));
    }
    if let Some(error) = &job.error {
        lines.push(format!("error {}: {}", text(&error.code), error.user_message));
        lines.extend(error.message.iter().map(|message| format!("  reported as: {message}")));
    }
    if let Some(retry) = &job.retry {
        lines.push(format!("attempt {} starts at {}", retry.attempt, retry.due_at));
    } else if job.status == Status::Failed {
        lines.push(format!(
            "retries: {}; retry it with `matchbook jobs retry {}`",
            text(&job.retry_state),
            job.id
        ));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests;
