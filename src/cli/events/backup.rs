//! `matchbook events backup` and `restore`: the log's files, copied while a server writes to them, and put back.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use event_log::clock::Clock;
use event_log::embedded::{self, BackedUp, BackupError, Restored, WalkError};
use event_schemas::time::Timestamp;
use serde_json::json;

use super::events_folder;
use super::pace::Pace;
use crate::cli::{Failure, print};
use crate::wiring::open_failure;

#[derive(Args, Debug)]
pub(crate) struct Backup {
    /// The data folder of the server, which may be running
    #[arg(long, env = "MATCHBOOK_DATA", value_name = "FOLDER", default_value = "./data")]
    data: PathBuf,
    /// The backup: a new folder, or one of before, to which what is new is added
    #[arg(long, value_name = "FOLDER")]
    to: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct Restore {
    /// The backup
    #[arg(long, value_name = "FOLDER")]
    from: PathBuf,
    /// The data folder of the server, which must have no events
    #[arg(long, env = "MATCHBOOK_DATA", value_name = "FOLDER", default_value = "./data")]
    data: PathBuf,
    /// The folder of the events, if it is not `events` in the data folder
    #[arg(long, value_name = "FOLDER")]
    events: Option<PathBuf>,
    /// Only read the whole backup, and tell whether it can be restored
    #[arg(long)]
    check: bool,
}

impl Backup {
    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        let (from, to) = (events_folder(&self.data), self.to.clone());
        let copying = tokio::task::spawn_blocking(move || {
            let mut pace = Pace::new("backed up");
            let backed_up = embedded::backup(&from, &to, Clock::System.now(), |progress| {
                pace.bytes(progress.events, progress.bytes, progress.bytes_total);
            });
            backed_up.map(|backed_up| (backed_up, pace.took()))
        });
        let (backed_up, took) = finished(copying).await?;
        self.report(&backed_up, took, json)
    }

    fn report(&self, backed_up: &BackedUp, took: Duration, json: bool) -> Result<(), Failure> {
        let BackedUp { log, head, recorded_at, files, bytes, copied_bytes, copied_events } = backed_up;
        if json {
            return print(&json!({
                "log": log.id, "epoch": log.epoch, "head": head, "recorded_at": recorded_at, "files": files,
                "bytes": bytes, "copied_bytes": copied_bytes, "copied_events": copied_events,
                "seconds": took.as_secs_f64(), "vault": "not included",
            }));
        }
        print(&format_args!(
            "{} holds all events up to position {head}{}: {} in {files} files; {copied_events} events copied, {}, in {:.1} s",
            self.to.display(),
            recorded(*recorded_at),
            size(*bytes),
            size(*copied_bytes),
            took.as_secs_f64(),
        ))?;
        print(
            &"the names of people are not in it: copy them with `matchbook vault backup`, or a restored log knows nobody's name",
        )
    }
}

impl Restore {
    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        let to = self.events.clone().unwrap_or_else(|| self.data.join("events"));
        let (from, check, target) = (self.from.clone(), self.check, to.clone());
        let copying = tokio::task::spawn_blocking(move || {
            let mut pace = Pace::new(if check { "checked" } else { "restored" });
            let mut watch = |progress: embedded::Progress| {
                pace.bytes(progress.events, progress.bytes, progress.bytes_total);
            };
            let restored = if check {
                embedded::check_backup(&from, &mut watch)
            } else {
                embedded::restore(&from, &target, Clock::System.now(), &mut watch)
            };
            restored.map(|restored| (restored, pace.took()))
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
            return print(&format_args!("the backup is whole: {what}; read in {seconds:.1} s"));
        }
        print(&format_args!(
            "{} holds {what}; restored and verified in {seconds:.1} s, in epoch {}",
            to.display(),
            log.epoch
        ))?;
        if !vault.exists() {
            print(&format_args!(
                "no names of people are here: put your copy of the vault at {} before the start, or nobody of before has a name",
                vault.display()
            ))?;
        }
        print(&"start the server: read models are made again by themselves")
    }
}

async fn finished<T>(work: tokio::task::JoinHandle<Result<T, BackupError>>) -> Result<T, Failure> {
    let outcome = work.await.map_err(|error| Failure::Failed(format!("copying broke off: {error}")))?;
    outcome.map_err(|error| failure(&error))
}

fn failure(error: &BackupError) -> Failure {
    let message = error.to_string();
    match error {
        BackupError::Source(error) => walk_failure(error),
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

pub(super) fn walk_failure(error: &WalkError) -> Failure {
    match error {
        WalkError::NoLog(_) => Failure::Usage(error.to_string()),
        WalkError::Open(error) => open_failure(error),
    }
}

fn recorded(at: Option<Timestamp>) -> String {
    at.map_or_else(String::new, |at| format!(", recorded at {at}"))
}

/// `12.3 MiB`
fn size(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
