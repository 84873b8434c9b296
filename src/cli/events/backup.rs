//! `matchbook events backup` and `restore`: copies the log's files, also while a server writes to them, and restores them.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use event_log::clock::Clock;
use event_log_embedded as embedded;
use event_log_embedded::{BackedUp, BackupError, OfflineReadError, Restored};
use event_schemas::time::Timestamp;
use serde_json::json;

use super::super::counted;
use super::events_folder;
use super::progress::ProgressReporter;
use matchbook::failure::{Failure, open_failure, print};

#[derive(Args, Debug)]
pub(crate) struct Backup {
    /// The data folder of the server, which may be running
    #[arg(long, env = "MATCHBOOK_DATA", value_name = "FOLDER", default_value = "./data")]
    data: PathBuf,
    /// The backup: a new folder, or an existing backup to update
    #[arg(long, value_name = "FOLDER")]
    to: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct Restore {
    /// The backup
    #[arg(long, value_name = "FOLDER")]
    from: PathBuf,
    /// The data folder of the server, which must not have events
    #[arg(long, env = "MATCHBOOK_DATA", value_name = "FOLDER", default_value = "./data")]
    data: PathBuf,
    /// The folder of the events, if it is not `events` in the data folder
    #[arg(long, value_name = "FOLDER")]
    events: Option<PathBuf>,
    /// Only verify the backup, without restoring it
    #[arg(long)]
    check: bool,
}

impl Backup {
    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        let (from, to) = (events_folder(&self.data), self.to.clone());
        let copying = tokio::task::spawn_blocking(move || {
            let mut reporter = ProgressReporter::new("backed up");
            let backed_up = embedded::backup(&from, &to, Clock::System.now(), |progress| {
                reporter.bytes(progress.events, progress.bytes, progress.bytes_total);
            });
            backed_up.map(|backed_up| (backed_up, reporter.elapsed()))
        });
        let (backed_up, took) = finished(copying).await?;
        self.report(&backed_up, took, json)
    }

    fn report(&self, backed_up: &BackedUp, took: Duration, json: bool) -> Result<(), Failure> {
        let BackedUp { log, head, recorded_at, files, bytes, copied_bytes, copied_events, new_events } =
            backed_up;
        if json {
            return print(&json!({
                "log": log.id, "epoch": log.epoch, "head": head, "recorded_at": recorded_at, "files": files,
                "bytes": bytes, "copied_bytes": copied_bytes, "copied_events": copied_events, "new_events": new_events,
                "seconds": took.as_secs_f64(), "vault": "not included",
            }));
        }
        print(&format_args!(
            "{} contains all events up to position {head}{}: {} in {}; {}, {} copied in {:.1} s",
            self.to.display(),
            recorded(*recorded_at),
            size(*bytes),
            counted(*files as u64, "file", "files"),
            counted(*new_events, "event is new", "events are new"),
            size(*copied_bytes),
            took.as_secs_f64(),
        ))?;
        print(
            &"it does not include the names of users: back them up with `matchbook vault backup`, or a restored log has no names",
        )
    }
}

impl Restore {
    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        let to = self.events.clone().unwrap_or_else(|| self.data.join("events"));
        let (from, check, target) = (self.from.clone(), self.check, to.clone());
        let copying = tokio::task::spawn_blocking(move || {
            let mut reporter = ProgressReporter::new(if check { "checked" } else { "restored" });
            let mut watch = |progress: embedded::Progress| {
                reporter.bytes(progress.events, progress.bytes, progress.bytes_total);
            };
            let restored = if check {
                embedded::check_backup(&from, &mut watch)
            } else {
                embedded::restore(&from, &target, Clock::System.now(), &mut watch)
            };
            restored.map(|restored| (restored, reporter.elapsed()))
        });
        let (restored, took) = finished(copying).await?;
        let Restored { log, head, recorded_at, segments, bytes } = restored;
        let vault = self.data.join("vault.sqlite");
        if json {
            return print(&json!({
                "log": log.id, "epoch": log.epoch, "head": head, "recorded_at": recorded_at, "segments": segments,
                "bytes": bytes, "seconds": took.as_secs_f64(), "checked_only": check, "vault_present": vault.exists(),
            }));
        }
        let seconds = took.as_secs_f64();
        let what = format!("all events up to position {head}{}, {}", recorded(recorded_at), size(bytes));
        if check {
            return print(&format_args!("the backup is complete: {what}; verified in {seconds:.1} s"));
        }
        print(&format_args!(
            "{} contains {what}; restored and verified in {seconds:.1} s, in epoch {}",
            to.display(),
            log.epoch
        ))?;
        if !vault.exists() && !vault::has_moved(&vault) {
            print(&format_args!(
                "the vault is missing: copy its backup to {} before the start; a server without it does not start, if the log has subjects",
                vault.display()
            ))?;
        }
        print(&"start the server: read models are rebuilt automatically")
    }
}

async fn finished<T>(work: tokio::task::JoinHandle<Result<T, BackupError>>) -> Result<T, Failure> {
    let outcome = work.await.map_err(|error| Failure::Failed(format!("copying failed: {error}")))?;
    outcome.map_err(|error| failure(&error))
}

fn failure(error: &BackupError) -> Failure {
    let message = error.to_string();
    match error {
        BackupError::Source(error) => offline_read_failure(error),
        BackupError::InUse { .. } => Failure::InUse(message),
        BackupError::NotEmpty { .. }
        | BackupError::Within { .. }
        | BackupError::NoBackup(_)
        | BackupError::NewerFormat { .. }
        | BackupError::OtherHistory { .. } => Failure::Usage(message),
        BackupError::Damaged { .. } => Failure::Damaged(message),
        BackupError::Full { .. } | BackupError::Io(_) => Failure::Disk(message),
    }
}

pub(super) fn offline_read_failure(error: &OfflineReadError) -> Failure {
    match error {
        OfflineReadError::NoLog(_) => Failure::Usage(error.to_string()),
        OfflineReadError::Open(error) => open_failure(error),
    }
}

fn recorded(at: Option<Timestamp>) -> String {
    at.map_or_else(String::new, |at| format!(", recorded at {at}"))
}

/// `12.3 MiB`
fn size(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
