//! `matchbook events import`: exported lines into a log, which nobody can tell from the one they came from.

use std::fs::File;
use std::io::{BufRead, BufReader, Stdin};
use std::path::{Path, PathBuf};

use clap::Args;
use event_log::cloud_event;
use event_log::transfer::{Copied, Copier, TransferError};
use event_log::{AppendError, ImportError, ReadError};
use serde_json::json;

use super::backup::walk_failure;
use super::pace::Pace;
use super::place::{self, Making};
use crate::cli::{Failure, print};
use crate::config::EventLogUrl;

#[derive(Args, Debug)]
pub(crate) struct Import {
    /// The exported events; `-` for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The log, which no server may be using: embedded:FOLDER, or the URL of a cluster. It must be new, or hold the first
    /// events of the file
    #[arg(long, value_name = "URL")]
    to: EventLogUrl,
    #[command(flatten)]
    making: Making,
}

impl Import {
    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        let mut lines = Lines::open(&self.file)?;
        // The first line is looked at before a log is made.
        let mut next = lines.next_event()?;
        let log = place::target(&self.to, &self.making).await?;
        let mut pace = Pace::new("imported");
        let mut copier = Copier::new(log.clone());
        let copied = async {
            while let Some(event) = next {
                copier.give(event).await.map_err(|error| lines.failure(&error))?;
                pace.share("events", copier.events(), lines.bytes, lines.bytes_total);
                next = lines.next_event()?;
            }
            copier.finish().await.map_err(|error| lines.failure(&error))
        }
        .await;
        let head = place::head(&log);
        place::close(log).await;
        let Copied { sum, found, added, .. } = copied?;
        let seconds = pace.took().as_secs_f64();
        if json {
            return print(&json!({
                "events": sum.events, "added": added, "found": found, "streams": sum.streams, "head": head,
                "content": sum.content, "times": sum.times, "seconds": seconds,
            }));
        }
        print(&format_args!(
            "imported {added} events in {seconds:.1} s; {found} were there before; the log ends at position {head}"
        ))
    }
}

/// A file of exported lines.
struct Lines {
    name: String,
    input: Input,
    number: u64,
    bytes: u64,
    /// Not known of standard input.
    bytes_total: u64,
    line: Vec<u8>,
}

enum Input {
    File(BufReader<File>),
    Standard(BufReader<Stdin>),
}

impl Lines {
    fn open(path: &Path) -> Result<Self, Failure> {
        let (input, bytes_total) = if path == Path::new("-") {
            (Input::Standard(BufReader::new(std::io::stdin())), 0)
        } else {
            let failed = |error: std::io::Error| match error.kind() {
                std::io::ErrorKind::NotFound => {
                    Failure::Usage(format!("{} is not there; name a file that was exported", path.display()))
                }
                _ => Failure::Disk(format!("cannot read {}: {error}", path.display())),
            };
            let file = File::open(path).map_err(failed)?;
            let bytes = file.metadata().map_err(failed)?.len();
            (Input::File(BufReader::with_capacity(1 << 20, file)), bytes)
        };
        let name = path.display().to_string();
        Ok(Self { name, input, number: 0, bytes: 0, bytes_total, line: Vec::new() })
    }

    fn next_event(&mut self) -> Result<Option<event_schemas::envelope::Recorded>, Failure> {
        self.line.clear();
        self.number += 1;
        let read = match &mut self.input {
            Input::File(file) => file.read_until(b'\n', &mut self.line),
            Input::Standard(input) => input.read_until(b'\n', &mut self.line),
        };
        let read = read.map_err(|error| Failure::Disk(format!("cannot read {}: {error}", self.name)))?;
        if read == 0 {
            return Ok(None);
        }
        self.bytes += read as u64;
        let Some(line) = self.line.strip_suffix(b"\n") else {
            return Err(self.refused("it is cut short; export again into this file, which goes on with it"));
        };
        cloud_event::read_line(line).map(Some).map_err(|error| {
            self.refused(&format!(
                "{error}; export again, or repair the line. What came before it is in the log"
            ))
        })
    }

    fn refused(&self, why: &str) -> Failure {
        Failure::Damaged(format!("line {} of {}: {why}", self.number, self.name))
    }

    /// With the number of the line at which it was noticed. Events are put into the log some at a time, so it may have come
    /// from a line a little earlier; the message names the event.
    fn failure(&self, error: &TransferError) -> Failure {
        let at = |failure: String| format!("up to line {} of {}: {failure}", self.number, self.name);
        match transfer_failure(error) {
            Failure::Damaged(text) => Failure::Damaged(at(text)),
            Failure::Usage(text) => Failure::Usage(at(text)),
            other => other,
        }
    }
}

pub(super) fn transfer_failure(error: &TransferError) -> Failure {
    let message = error.to_string();
    let again = || format!("{message}. Run it again: it goes on where it stopped");
    match error {
        TransferError::Folder(error) => walk_failure(error),
        TransferError::Read(ReadError::Corrupt(_))
        | TransferError::Import(ImportError::Revision { .. } | ImportError::Time { .. }) => {
            Failure::Damaged(message)
        }
        TransferError::Read(ReadError::Unavailable(_))
        | TransferError::Import(ImportError::Append(AppendError::Unavailable { .. })) => {
            Failure::Unreachable(again())
        }
        TransferError::Import(ImportError::Append(
            AppendError::Full { .. } | AppendError::Unknown { .. },
        )) => Failure::Disk(again()),
        TransferError::Import(ImportError::Append(_)) => Failure::Failed(message),
        TransferError::Import(ImportError::System { .. })
        | TransferError::Differs { .. }
        | TransferError::NotEmpty { .. } => Failure::Usage(message),
    }
}
