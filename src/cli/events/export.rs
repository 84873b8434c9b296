//! `matchbook events export`: writes the log as lines to a file, which a later export continues.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use event_log::cloud_event;
use event_log_embedded::transfer::TransferSource;
use event_schemas::ids::Position;
use serde::Deserialize;
use serde_json::json;

use super::backup::offline_read_failure;
use super::import::transfer_failure;
use super::progress::ProgressReporter;
use super::{Selection, copy, events_folder, head};
use matchbook::client::Client;
use matchbook::failure::{Failure, output_failure, print};

#[derive(Args, Debug)]
pub(crate) struct Export {
    #[command(flatten)]
    selection: Selection,
    /// Read the log in this data folder, of a stopped or running server, instead of a server's API
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["stream", "category", "event_type", "format"])]
    data: Option<PathBuf>,
    /// Start after this position
    #[arg(long, value_name = "POSITION", default_value_t = 0)]
    from: u64,
    /// End with this position instead of the last event
    #[arg(long, value_name = "POSITION")]
    to: Option<u64>,
    /// The format of an event: a CloudEvent, which can be imported, or the envelope of the API
    #[arg(long, value_name = "FORMAT", default_value = "cloudevents", value_enum)]
    format: Format,
    /// The output file; standard output by default. An earlier export in it is continued
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Cloudevents,
    Envelope,
}

impl Export {
    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        let client = match &self.data {
            Some(_) => None,
            None => Some(Client::new(self.selection.server.clone())?),
        };
        let end = match (&client, self.to) {
            (_, Some(to)) => to,
            (Some(client), None) => head(client).await?,
            (None, None) => u64::MAX,
        };
        // Opened before the output file is created.
        let source = match &self.data {
            Some(data) => Some(open(data, Position(self.from))?),
            None => None,
        };
        let mut lines = ExportOutput::open(self.output.as_deref(), self.from, end)?;
        let from = Position(lines.after());
        if end > from.0 {
            match (&client, &self.data) {
                (Some(client), _) => self.ask(client, from, end, &mut lines).await?,
                (None, Some(data)) => {
                    let source = match source {
                        Some(source) if from.0 == self.from => source,
                        _ => open(data, from)?,
                    };
                    read(source, end, &mut lines).await?;
                }
                (None, None) => {}
            }
        }
        lines.finish(json)
    }

    async fn ask(
        &self,
        client: &Client,
        from: Position,
        end: u64,
        lines: &mut ExportOutput,
    ) -> Result<(), Failure> {
        let mut query = self.selection.query(from.0, Some(end));
        if self.format == Format::Cloudevents {
            query.push_str("&format=cloudevents");
        }
        copy(client, &query, |line| {
            let position = position_of(line).ok_or_else(|| {
                Failure::Failed(
                    "the server's response is not a line with an event; is it a matchbook server?".to_owned(),
                )
            })?;
            lines.push(position, line)?;
            lines.reporter.share("events", lines.events, position - from.0, end - from.0);
            Ok(())
        })
        .await
    }
}

fn open(data: &Path, after: Position) -> Result<TransferSource, Failure> {
    TransferSource::folder(&events_folder(data), after).map_err(|error| offline_read_failure(&error))
}

async fn read(mut source: TransferSource, end: u64, lines: &mut ExportOutput) -> Result<(), Failure> {
    let mut line = Vec::new();
    while let Some(events) = source.next_events().await.map_err(|error| transfer_failure(&error))? {
        for event in events {
            if event.position.0 > end {
                return Ok(());
            }
            line.clear();
            cloud_event::write_line(&event, &mut line);
            lines.push(event.position.0, &line)?;
        }
        let (done, total) = source.progress();
        lines.reporter.share("events", lines.events, done, total);
    }
    Ok(())
}

/// The position members of a line in either format.
#[derive(Deserialize)]
struct LinePosition<'a> {
    sequence: Option<&'a str>,
    position: Option<u64>,
}

fn position_of(line: &[u8]) -> Option<u64> {
    let LinePosition { sequence, position } = serde_json::from_slice(line).ok()?;
    position.or_else(|| sequence?.parse().ok())
}

/// The output of an export.
struct ExportOutput {
    out: Out,
    /// The last line of an earlier export, which must be the first line of this one.
    last: Option<LastLine>,
    from: u64,
    position: u64,
    events: u64,
    reporter: ProgressReporter,
}

struct LastLine {
    position: u64,
    /// Including the line break.
    bytes: Vec<u8>,
}

enum Out {
    File(BufWriter<File>, PathBuf),
    Standard(BufWriter<std::io::Stdout>),
}

impl ExportOutput {
    fn open(path: Option<&Path>, from: u64, end: u64) -> Result<Self, Failure> {
        let (out, last) = match path {
            None => (Out::Standard(BufWriter::new(std::io::stdout())), None),
            Some(path) => {
                let (file, last) = create_or_resume(path)?;
                (Out::File(BufWriter::new(file), path.to_owned()), last)
            }
        };
        if let (Some(LastLine { position, .. }), Some(path)) = (&last, path)
            && *position > end
        {
            return Err(Failure::Usage(format!(
                "{} reaches position {position} already, beyond {end}; choose a new file",
                path.display()
            )));
        }
        Ok(Self { out, last, from, position: from, events: 0, reporter: ProgressReporter::new("exported") })
    }

    /// The position after which to read. The last line of an earlier export is read again, and compared.
    fn after(&self) -> u64 {
        self.last.as_ref().map_or(self.from, |last| last.position - 1)
    }

    fn push(&mut self, position: u64, line: &[u8]) -> Result<(), Failure> {
        self.position = position;
        if let Some(last) = self.last.take() {
            return if last.bytes == line { Ok(()) } else { Err(self.different_log()) };
        }
        self.events += 1;
        match &mut self.out {
            Out::File(file, path) => {
                file.write_all(line).map_err(|error| file_failure("write", path, &error))
            }
            Out::Standard(out) => out.write_all(line).map_err(|error| output_failure(&error)),
        }
    }

    fn different_log(&self) -> Failure {
        let path = match &self.out {
            Out::File(_, path) => path.display().to_string(),
            Out::Standard(_) => "the output".to_owned(),
        };
        Failure::Usage(format!(
            "{path} was exported from another log, or in another format: its last line differs from this log; \
             choose a new file"
        ))
    }

    fn finish(mut self, json: bool) -> Result<(), Failure> {
        if self.last.is_some() {
            // The log ends before the file.
            return Err(self.different_log());
        }
        let (events, position, seconds) = (self.events, self.position, self.reporter.elapsed().as_secs_f64());
        match &mut self.out {
            Out::File(file, path) => {
                let synced = file.flush().and_then(|()| file.get_ref().sync_all());
                synced.map_err(|error| file_failure("write", path, &error))?;
                if json {
                    print(
                        &json!({ "file": path, "events": events, "position": position, "seconds": seconds }),
                    )?;
                }
            }
            Out::Standard(out) => out.flush().map_err(|error| output_failure(&error))?,
        }
        eprintln!("exported {events} events up to position {position} in {seconds:.1} s");
        Ok(())
    }
}

/// The size of the blocks in which a file is read backwards to find its last line.
const BLOCK_BYTES: u64 = 1 << 16;

/// Opens or creates the file, to append after its last complete line, and returns this line with its position. An
/// incomplete line of an interrupted export is truncated.
fn create_or_resume(path: &Path) -> Result<(File, Option<LastLine>), Failure> {
    let failed = |action| move |error| file_failure(action, path, &error);
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(failed("open"))?;
    let length = file.metadata().map_err(failed("open"))?.len();
    let mut tail = Vec::new();
    let mut start = length;
    // Until two lines' ends are in it, or all of the file.
    while start > 0 && tail.iter().filter(|byte| **byte == b'\n').count() < 2 {
        start = start.saturating_sub(BLOCK_BYTES);
        file.seek(SeekFrom::Start(start)).map_err(failed("read"))?;
        tail.clear();
        Read::by_ref(&mut file).take(length - start).read_to_end(&mut tail).map_err(failed("read"))?;
    }
    let complete = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let before = tail.get(..complete.saturating_sub(1)).unwrap_or_default();
    let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let line = tail.get(line_start..complete).unwrap_or_default().to_vec();
    let position = if line.is_empty() { None } else { position_of(&line) };
    let last = match position {
        Some(position) if position > 0 => Some(LastLine { position, bytes: line }),
        // An incomplete first line starts like every line of this program.
        _ if complete == 0 && tail.iter().zip(b"{\"").all(|(actual, expected)| actual == expected) => None,
        _ => {
            return Err(Failure::Usage(format!(
                "{} contains something else than exported events; choose a new file",
                path.display()
            )));
        }
    };
    let end = start + complete as u64;
    file.set_len(end).map_err(failed("write"))?;
    file.seek(SeekFrom::Start(end)).map_err(failed("write"))?;
    Ok((file, last))
}

fn file_failure(action: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::Disk(format!(
        "cannot {action} {}: {error}; check that there is space and that this user may write there",
        path.display()
    ))
}
