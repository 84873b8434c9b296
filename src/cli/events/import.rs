//! `matchbook events import`: imports exported lines into a log, which is then equal to the original.

use std::fs::File;
use std::io::{BufRead, BufReader, Stdin};
use std::path::{Path, PathBuf};

use clap::Args;
use event_log::cloud_event;
use event_log::{AppendError, EventLog, ImportError, ReadError};
use event_log_embedded::transfer::{CopyReport, LogCopier, TransferError};
use serde_json::json;

use super::backup::offline_read_failure;
use super::log_location::{self, NewLogOptions};
use super::progress::ProgressReporter;
use matchbook::config::EventLogUrl;
use matchbook::failure::{Failure, print};

#[derive(Args, Debug)]
pub(crate) struct Import {
    /// The exported events; `-` for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The log, which must not be in use by a server: embedded:FOLDER, or the URL of a cluster. It must be new, or contain
    /// the first events of the file
    #[arg(long, value_name = "URL")]
    to: EventLogUrl,
    #[command(flatten)]
    options: NewLogOptions,
}

impl Import {
    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        let mut lines = LineReader::open(&self.file)?;
        // The first line is parsed before a log is created.
        let mut next = lines.next_event()?;
        let log = log_location::target(&self.to, &self.options).await?;
        let mut reporter = ProgressReporter::new("imported");
        let mut copier = LogCopier::new(log.clone());
        let copied = async {
            while let Some(event) = next {
                copier.push(event).await.map_err(|error| lines.failure(&error))?;
                reporter.share("events", copier.events(), lines.bytes, lines.bytes_total);
                next = lines.next_event()?;
            }
            copier.finish().await.map_err(|error| lines.failure(&error))
        }
        .await;
        let head = log_location::head(&log);
        log.close().await;
        let CopyReport { digest: sum, found, added, .. } = copied?;
        let seconds = reporter.elapsed().as_secs_f64();
        if json {
            return print(&json!({
                "events": sum.events, "added": added, "found": found, "streams": sum.streams, "head": head,
                "content": sum.content, "times": sum.times, "seconds": seconds,
            }));
        }
        print(&format_args!(
            "imported {added} events in {seconds:.1} s; {found} existed already; the log ends at position {head}"
        ))
    }
}

/// A file of exported lines.
struct LineReader {
    name: String,
    input: Input,
    number: u64,
    bytes: u64,
    /// Zero for standard input.
    bytes_total: u64,
    line: Vec<u8>,
}

enum Input {
    File(BufReader<File>),
    Standard(BufReader<Stdin>),
}

impl LineReader {
    fn open(path: &Path) -> Result<Self, Failure> {
        let (input, bytes_total) = if path == Path::new("-") {
            (Input::Standard(BufReader::new(std::io::stdin())), 0)
        } else {
            let failed = |error: std::io::Error| match error.kind() {
                std::io::ErrorKind::NotFound => {
                    Failure::Usage(format!("{} does not exist; name an exported file", path.display()))
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
            return Err(
                self.refused("it is incomplete; export again into this file, which resumes the export")
            );
        };
        cloud_event::read_line(line).map(Some).map_err(|error| {
            self.refused(&format!(
                "{error}; export again, or repair the line. The lines before it are in the log"
            ))
        })
    }

    fn refused(&self, why: &str) -> Failure {
        Failure::Damaged(format!("line {} of {}: {why}", self.number, self.name))
    }

    /// The failure with the current line number. Events are appended in batches, so an earlier line may have caused it; the
    /// message names the event.
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
    let resumable = || format!("{message}. Run the command again: it resumes where it stopped");
    match error {
        TransferError::Folder(error) => offline_read_failure(error),
        TransferError::Read(ReadError::Corrupt(_))
        | TransferError::Import(ImportError::Revision { .. } | ImportError::Time { .. }) => {
            Failure::Damaged(message)
        }
        TransferError::Read(ReadError::Unavailable(_))
        | TransferError::Import(ImportError::Append(AppendError::Unavailable { .. })) => {
            Failure::Unreachable(resumable())
        }
        TransferError::Import(ImportError::Append(
            AppendError::Full { .. } | AppendError::Unknown { .. },
        )) => Failure::Disk(resumable()),
        TransferError::Import(ImportError::Append(_)) => Failure::Failed(message),
        TransferError::Import(ImportError::System { .. })
        | TransferError::Differs { .. }
        | TransferError::NotEmpty { .. } => Failure::Usage(message),
    }
}
