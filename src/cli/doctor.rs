//! `matchbook doctor`: diagnoses this machine, the data folder and a running server, and prints remedies.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use event_log_embedded::{OfflineReadError, OfflineReader};
use event_schemas::ids::Position;
use projections::VectorIndexStatus;
use projections::status::{Condition, ProjectionStatus};
use read_api::routes::operations::dto::{Ready, Status};
use read_api::routes::performance::{Grade, Performance};
use read_api::server::Access;
use serde::Serialize;
use serde_json::json;

use super::events::events_folder;
use matchbook::client::{Client, DEFAULT_URL, Server};
use matchbook::failure::{Failure, print};

/// The number of small writes that measure the disk.
const PROBE_WRITES: usize = 50;
/// Above this, a durable write is noticeably slow for a single caller, in spite of group commit.
const FSYNC_SLOW: Duration = Duration::from_millis(20);
/// With fewer open files than this, the server cannot reach its limit of connections.
const OPEN_FILES_MIN: u64 = 20_000;
const RESERVE_BYTES: u64 = 256 * 1024 * 1024;
/// A larger difference between the clocks makes tokens invalid.
const CLOCK_SECONDS_MAX: u64 = 30;

#[derive(Args, Debug)]
pub(crate) struct Doctor {
    #[command(flatten)]
    server: Server,
    /// The data folder to check
    #[arg(long, env = "MATCHBOOK_DATA", value_name = "FOLDER", default_value = "./data")]
    data: PathBuf,
    /// Only check whether the server is ready
    #[arg(long)]
    ready: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

#[derive(Clone, Debug, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

fn ok(check: &'static str, found: impl Into<String>) -> Finding {
    Finding { check, verdict: Verdict::Ok, found: found.into(), remedy: None }
}

fn warn(check: &'static str, found: impl Into<String>, remedy: &str) -> Finding {
    Finding { check, verdict: Verdict::Warn, found: found.into(), remedy: Some(remedy.to_owned()) }
}

fn fail(check: &'static str, found: impl Into<String>, remedy: &str) -> Finding {
    Finding { check, verdict: Verdict::Fail, found: found.into(), remedy: Some(remedy.to_owned()) }
}

impl Doctor {
    pub(crate) async fn run(self, json: bool) -> Result<(), Failure> {
        let client = Client::new(self.server)?;
        if self.ready {
            return match failed_checks(&client.ready().await?) {
                None => Ok(()),
                Some(failed) => Err(Failure::Failed(format!("the server is not ready: {failed}"))),
            };
        }
        let mut findings = vec![
            folder(&self.data),
            privacy(&self.data),
            log_end(&self.data),
            space(&self.data),
            disk(&self.data),
            open_files(),
        ];
        findings.extend(server(&client).await);
        let worst = findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok);
        if json {
            print(&json!({ "verdict": worst, "findings": findings }))?;
        } else {
            for finding in &findings {
                show(finding)?;
            }
        }
        match worst {
            Verdict::Fail => Err(Failure::Failed("a check failed".to_owned())),
            Verdict::Ok | Verdict::Warn => Ok(()),
        }
    }
}

fn show(finding: &Finding) -> Result<(), Failure> {
    let mark = match finding.verdict {
        Verdict::Ok => "ok  ",
        Verdict::Warn => "warn",
        Verdict::Fail => "FAIL",
    };
    print(&format_args!("{mark}  {:<14} {}", finding.check, finding.found))?;
    if let Some(remedy) = &finding.remedy {
        print(&format_args!("                      → {remedy}"))?;
    }
    Ok(())
}

/// The nearest existing parent: the data folder is created at the first start.
fn existing(data: &Path) -> &Path {
    data.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("."))
}

fn folder(data: &Path) -> Finding {
    let shown = data.display();
    let parent = existing(data);
    match tempfile_in(parent) {
        Ok(_) if data.is_dir() => ok("data folder", format!("{shown} is writable")),
        Ok(_) => ok("data folder", format!("{shown} does not exist yet, and can be created")),
        Err(error) => fail(
            "data folder",
            format!("cannot write in {}: {error}", parent.display()),
            "grant write access to the user that runs matchbook, or choose another folder with --data",
        ),
    }
}

fn privacy(data: &Path) -> Finding {
    match std::fs::metadata(data).map(|found| found.permissions().mode() & 0o777) {
        Ok(mode) if mode & 0o077 != 0 => warn(
            "privacy",
            format!("other users of this machine may use {} (mode {mode:o})", data.display()),
            "chmod -R go= the folder",
        ),
        Ok(_) => ok("privacy", "only its owner may use the data folder"),
        Err(_) => ok("privacy", "a new data folder is private"),
    }
}

/// Reads the newest segment, also while a server writes to it, and compares its end with the head file.
fn log_end(data: &Path) -> Finding {
    let read = || -> Result<(), OfflineReadError> {
        let mut reader = OfflineReader::open(&events_folder(data), Position(u64::MAX - 1))?;
        while reader.next_events()?.is_some() {}
        Ok(())
    };
    match read() {
        Ok(()) => ok("event log", "its newest segment is complete"),
        Err(OfflineReadError::NoLog(_)) => ok("event log", "there is none in the data folder yet"),
        Err(error @ OfflineReadError::Open(_)) => {
            fail("event log", error.to_string(), "matchbook events verify --all")
        }
    }
}

fn space(data: &Path) -> Finding {
    match rustix::fs::statvfs(existing(data)) {
        Ok(disk) => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let found = format!("{} MiB free", free / 1024 / 1024);
            if free < RESERVE_BYTES {
                fail(
                    "disk space",
                    found,
                    "the log is read-only below its reserve of 256 MiB; free disk space",
                )
            } else if free < 8 * RESERVE_BYTES {
                warn("disk space", found, "free disk space before the log becomes read-only at 256 MiB")
            } else {
                ok("disk space", found)
            }
        }
        Err(error) => warn("disk space", format!("unknown: {error}"), "check with df"),
    }
}

/// Measures a small durable write, which every acknowledgement waits for.
fn disk(data: &Path) -> Finding {
    let probe = || -> std::io::Result<Vec<Duration>> {
        let mut file = tempfile_in(existing(data))?;
        let mut took = Vec::with_capacity(PROBE_WRITES);
        for _ in 0..PROBE_WRITES {
            let start = Instant::now();
            file.write_all(&[0; 512])?;
            file.sync_data()?;
            took.push(start.elapsed());
        }
        took.sort();
        Ok(took)
    };
    match probe() {
        Ok(took) => {
            let at = |share: usize| took.get(took.len() * share / 100).copied().unwrap_or_default();
            let found = format!("a durable write takes {:.2?} (p50), {:.2?} (p98)", at(50), at(98));
            if at(50) > FSYNC_SLOW {
                warn(
                    "disk speed",
                    found,
                    "put the data folder on a faster disk; concurrent appends are affected less",
                )
            } else {
                ok("disk speed", found)
            }
        }
        Err(error) => fail("disk speed", format!("cannot write durably: {error}"), "check the disk"),
    }
}

/// A file without a name, which the system deletes automatically.
fn tempfile_in(folder: &Path) -> std::io::Result<std::fs::File> {
    tempfile::tempfile_in(folder)
}

fn open_files() -> Finding {
    // The server raises its soft limit to the hard one.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    match limit {
        Some(files) if files < OPEN_FILES_MIN => warn(
            "open files",
            format!("at most {files}"),
            "raise it with `ulimit -Hn 65536`, or with LimitNOFILE=65536 of the systemd unit, if more than a few thousand connections are expected",
        ),
        Some(files) => ok("open files", format!("at most {files}")),
        None => ok("open files", "no limit"),
    }
}

async fn server(client: &Client) -> Vec<Finding> {
    let Ok(date) = client.probe("/health").await else {
        let found = format!("no response from {}", client.url());
        // Without the address of a server, this machine is checked, on which there may be none yet.
        return vec![if client.url() == DEFAULT_URL {
            warn("server", found, "start one with `matchbook serve`")
        } else {
            fail("server", found, "start it with `matchbook serve`, or correct --url or MATCHBOOK_URL")
        }];
    };
    let mut findings = vec![ok("server", format!("{} responds", client.url()))];
    findings.push(match client.ready().await.map(|ready| failed_checks(&ready)) {
        Ok(None) => ok("ready", "all components have caught up"),
        Ok(Some(failed)) => warn("ready", failed, "wait, or check /status"),
        Err(failure) => warn("ready", failure.to_string(), "check the server's log"),
    });
    findings.push(clock(date));
    match client.get::<Status>("/status").await {
        Ok(status) => {
            findings.extend(components(&status));
            findings.extend(client.get("/performance").await.ok().as_ref().and_then(performance));
        }
        Err(failure) => {
            findings.push(warn("status", failure.to_string(), "use a token with the role admin or service"));
        }
    }
    findings
}

/// The durations of requests since the start; none before the first one.
fn performance(report: &Performance) -> Option<Finding> {
    let (grade, p95_ms, count) = (report.health?, report.p95_ms?, report.count);
    let found = format!("95 % of {count} responses started within {p95_ms} ms");
    Some(match report.advice.first() {
        Some(advice) if grade >= Grade::Slow => warn("performance", found, advice),
        _ => ok("performance", found),
    })
}

fn clock(theirs: Option<std::time::SystemTime>) -> Finding {
    let Some(theirs) = theirs else {
        return warn("clock", "the server sent no time", "compare the clocks manually");
    };
    let ours = std::time::SystemTime::now();
    let difference =
        ours.duration_since(theirs).or_else(|_| theirs.duration_since(ours)).unwrap_or_default().as_secs();
    if difference > CLOCK_SECONDS_MAX {
        warn(
            "clock",
            format!("differs by {difference} s from the server's"),
            "synchronise the clocks, or tokens will be refused",
        )
    } else {
        ok("clock", "agrees with the server's")
    }
}

/// The checks that keep the server from being ready; none if it is.
fn failed_checks(ready: &Ready) -> Option<String> {
    let failed = ready.checks.iter().filter(|check| !check.ok);
    let failed: Vec<String> = failed.map(|check| format!("{}: {}", check.name, check.detail)).collect();
    (!ready.ready).then(|| failed.join("; "))
}

fn components(status: &Status) -> Vec<Finding> {
    let access = match status.access {
        Access::Open => warn(
            "access",
            "the server is open: every caller has every role",
            "fine for local use; otherwise set MATCHBOOK_JWT_SECRET",
        ),
        Access::Keys => ok("access", "callers need credentials"),
    };
    let encoder = status.components.iter().find(|component| component.name == "text_encoder");
    let encoder = encoder.map(|component| ok("text encoder", component.detail.clone()));
    let indexes = status.vector_indexes.iter().filter_map(vector_index);
    let read_models = status.projections.iter().map(read_model);
    std::iter::once(access).chain(encoder).chain(read_models).chain(indexes).collect()
}

/// A vector index that is being built.
fn vector_index(index: &VectorIndexStatus) -> Option<Finding> {
    let (indexed, since) = (index.indexed?, index.since?);
    let VectorIndexStatus { tenant, model_id, vectors, .. } = index;
    let found = format!(
        "`{model_id}` of tenant {tenant}: {indexed} of {vectors} vectors are in the graph that is being built since {since}"
    );
    Some(ok("vector index", found))
}

fn read_model(projection: &ProjectionStatus) -> Finding {
    let verdict = match projection.condition() {
        Condition::Ok => Verdict::Ok,
        Condition::Warning | Condition::Starting => Verdict::Warn,
        Condition::Failed => Verdict::Fail,
    };
    let found = format!("{}: {}", projection.name, projection.detail());
    Finding { check: "read model", verdict, found, remedy: projection.remedy() }
}

#[cfg(test)]
mod tests;
