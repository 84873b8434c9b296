//! `matchbook events verify`: verifies all checksums of a stopped server's log.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use event_log_embedded as embedded;
use event_log_embedded::{Damage, Extent, Settings, Verified, VerifyError};
use serde_json::{Value, json};

use super::events_folder;
use super::progress::ProgressReporter;
use matchbook::failure::{Failure, open_failure, print};

#[derive(Args, Debug)]
pub(crate) struct Verify {
    /// The data folder of the server, which must be stopped
    #[arg(long, env = "MATCHBOOK_DATA", value_name = "FOLDER", default_value = "./data")]
    data: PathBuf,
    /// List all damage, one location per file, instead of stopping at the first
    #[arg(long)]
    all: bool,
}

impl Verify {
    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        let settings = Settings::new(events_folder(&self.data));
        let extent = if self.all { Extent::All } else { Extent::First };
        let verifying = tokio::task::spawn_blocking(move || {
            let mut reporter = ProgressReporter::new("verified");
            let found = embedded::verify(&settings, extent, |progress| {
                reporter.bytes(progress.events, progress.bytes, progress.bytes_total);
            });
            found.map(|found| (found, reporter.elapsed()))
        });
        let (found, took) = verifying
            .await
            .map_err(|error| Failure::Failed(format!("verifying failed: {error}")))?
            .map_err(|error| failure(&error))?;
        report(&found, took, json)
    }
}

pub(super) fn failure(error: &VerifyError) -> Failure {
    match error {
        VerifyError::NoLog(_) => Failure::Usage(error.to_string()),
        VerifyError::Open(error) => open_failure(error),
    }
}

fn report(found: &Verified, took: Duration, json: bool) -> Result<(), Failure> {
    if json {
        print(&as_json(found, took))?;
    } else {
        // A single damage is printed as the error of the command.
        for damage in found.damages.iter().filter(|_| found.damages.len() > 1) {
            print(&format_args!("{}", as_text(damage)))?;
        }
        if let Some(unfinished) = &found.unfinished {
            print(&format_args!(
                "{} at byte {}: {} bytes of an incomplete write that was never acknowledged; the next start quarantines them",
                unfinished.file, unfinished.offset, unfinished.bytes,
            ))?;
        }
        print(&format_args!(
            "read {} events in {} segments, {} bytes, in {:.1} s",
            found.events,
            found.segments,
            found.bytes,
            took.as_secs_f64(),
        ))?;
    }
    match &found.damages[..] {
        [] if json => Ok(()),
        [] => print(&"no damage: checksums, positions, revisions, times and index files are correct"),
        [damage] => Err(Failure::Damaged(format!("the event log is damaged: {}", as_text(damage)))),
        [first, ..] => Err(Failure::Damaged(format!(
            "the event log is damaged in {} places, the first: {}",
            found.damages.len(),
            as_text(first)
        ))),
    }
}

pub(super) fn as_text(damage: &Damage) -> String {
    let Damage { file, offset, position, what, remedy } = damage;
    format!("{file} at byte {offset}, position {position}: {what}; {remedy}")
}

fn as_json(found: &Verified, took: Duration) -> Value {
    let damages: Vec<Value> = found
        .damages
        .iter()
        .map(|Damage { file, offset, position, what, remedy }| {
            json!({ "file": file, "offset": offset, "position": position, "what": what, "remedy": remedy })
        })
        .collect();
    let unfinished = found.unfinished.as_ref();
    json!({
        "events": found.events,
        "segments": found.segments,
        "bytes": found.bytes,
        "seconds": took.as_secs_f64(),
        "revisions_checked": found.revisions_checked,
        "damages": damages,
        "unfinished": unfinished.map(|write| json!({ "file": write.file, "offset": write.offset, "bytes": write.bytes })),
    })
}
