//! `matchbook events export`: the log as lines, in a file that a later export goes on with.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use event_log::cloud_event;
use event_log::transfer::Source;
use event_schemas::ids::Position;
use serde::Deserialize;
use serde_json::json;

use super::backup::walk_failure;
use super::import::transfer_failure;
use super::pace::Pace;
use super::{Selection, copy, events_folder, head};
use crate::cli::client::Client;
use crate::cli::{Failure, print, written};

#[derive(Args, Debug)]
pub(crate) struct Export {
    #[command(flatten)]
    selection: Selection,
    /// Read the log in this data folder, of a stopped server or a running one, instead of asking a server
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["stream", "category", "event_type", "format"])]
    data: Option<PathBuf>,
    /// Start after this position
    #[arg(long, value_name = "POSITION", default_value_t = 0)]
    from: u64,
    /// End with this position, and not with the last event
    #[arg(long, value_name = "POSITION")]
    to: Option<u64>,
    /// How an event is written: as a CloudEvent, which can be imported, or as the API shows it
    #[arg(long, value_name = "FORMAT", default_value = "cloudevents", value_enum)]
    format: Format,
    /// The file to write to; standard output otherwise. A file that was begun by an earlier export is gone on with
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
        // Looked for before a file is made.
        let source = match &self.data {
            Some(data) => Some(open(data, Position(self.from))?),
            None => None,
        };
        let mut lines = Lines::open(self.output.as_deref(), self.from, end)?;
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

    async fn ask(&self, client: &Client, from: Position, end: u64, lines: &mut Lines) -> Result<(), Failure> {
        let mut query = self.selection.query(from.0, Some(end));
        if self.format == Format::Cloudevents {
            query.push_str("&format=cloudevents");
        }
        copy(client, &query, |line| {
            let position = position_of(line).ok_or_else(|| {
                Failure::Failed("the server's answer is no line with an event; is it a matchbook?".to_owned())
            })?;
            lines.push(position, line)?;
            lines.pace.share("events", lines.events, position - from.0, end - from.0);
            Ok(())
        })
        .await
    }
}

fn open(data: &Path, after: Position) -> Result<Source, Failure> {
    Source::folder(&events_folder(data), after).map_err(|error| walk_failure(&error))
}

async fn read(mut source: Source, end: u64, lines: &mut Lines) -> Result<(), Failure> {
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
        lines.pace.share("events", lines.events, done, total);
    }
    Ok(())
}

/// Of a line in either format.
#[derive(Deserialize)]
struct Placed<'a> {
    sequence: Option<&'a str>,
    position: Option<u64>,
}

fn position_of(line: &[u8]) -> Option<u64> {
    let Placed { sequence, position } = serde_json::from_slice(line).ok()?;
    position.or_else(|| sequence?.parse().ok())
}

/// Where the lines go.
struct Lines {
    out: Out,
    /// The last line that an earlier export wrote, which must come first again.
    last: Option<LastLine>,
    from: u64,
    position: u64,
    events: u64,
    pace: Pace,
}

struct LastLine {
    position: u64,
    /// With its end.
    bytes: Vec<u8>,
}

enum Out {
    File(BufWriter<File>, PathBuf),
    Standard(BufWriter<std::io::Stdout>),
}

impl Lines {
    fn open(path: Option<&Path>, from: u64, end: u64) -> Result<Self, Failure> {
        let (out, last) = match path {
            None => (Out::Standard(BufWriter::new(std::io::stdout())), None),
            Some(path) => {
                let (file, last) = begin_or_go_on(path)?;
                (Out::File(BufWriter::new(file), path.to_owned()), last)
            }
        };
        if let (Some(LastLine { position, .. }), Some(path)) = (&last, path)
            && *position > end
        {
            return Err(Failure::Usage(format!(
                "{} reaches position {position} already, beyond {end}; name a new file",
                path.display()
            )));
        }
        Ok(Self { out, last, from, position: from, events: 0, pace: Pace::new("exported") })
    }

    /// What is wanted begins behind this position. The last line of before is asked for again, and compared.
    fn after(&self) -> u64 {
        self.last.as_ref().map_or(self.from, |last| last.position - 1)
    }

    fn push(&mut self, position: u64, line: &[u8]) -> Result<(), Failure> {
        self.position = position;
        if let Some(last) = self.last.take() {
            return if last.bytes == line { Ok(()) } else { Err(self.other()) };
        }
        self.events += 1;
        match &mut self.out {
            Out::File(file, path) => {
                file.write_all(line).map_err(|error| file_failure("write", path, &error))
            }
            Out::Standard(out) => out.write_all(line).map_err(|error| written(&error)),
        }
    }

    fn other(&self) -> Failure {
        let path = match &self.out {
            Out::File(_, path) => path.display().to_string(),
            Out::Standard(_) => "the output".to_owned(),
        };
        Failure::Usage(format!(
            "{path} was exported from another log, or in another format: its last line is not what this log has there; \
             name a new file"
        ))
    }

    fn finish(mut self, json: bool) -> Result<(), Failure> {
        if self.last.is_some() {
            // The log does not reach as far as the file.
            return Err(self.other());
        }
        let (events, position, seconds) = (self.events, self.position, self.pace.took().as_secs_f64());
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
            Out::Standard(out) => out.flush().map_err(|error| written(&error))?,
        }
        eprintln!("exported {events} events up to position {position} in {seconds:.1} s");
        Ok(())
    }
}

/// How much of a file's end is read at once to find its last line.
const BLOCK_BYTES: u64 = 1 << 16;

/// The file, to be written to behind its last whole line, and that line with its position. What an export that was broken
/// off has left of a line is cut off.
fn begin_or_go_on(path: &Path) -> Result<(File, Option<LastLine>), Failure> {
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
    let whole = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let before = tail.get(..whole.saturating_sub(1)).unwrap_or_default();
    let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let line = tail.get(line_start..whole).unwrap_or_default().to_vec();
    let position = if line.is_empty() { None } else { position_of(&line) };
    let begun = match position {
        Some(position) if position > 0 => Some(LastLine { position, bytes: line }),
        // A first line that was cut short begins as every line of this program does.
        _ if whole == 0 && tail.iter().zip(b"{\"").all(|(found, ours)| found == ours) => None,
        _ => {
            return Err(Failure::Usage(format!(
                "{} holds something else than exported events; name a new file",
                path.display()
            )));
        }
    };
    let end = start + whole as u64;
    file.set_len(end).map_err(failed("write"))?;
    file.seek(SeekFrom::Start(end)).map_err(failed("write"))?;
    Ok((file, begun))
}

fn file_failure(action: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::Disk(format!(
        "cannot {action} {}: {error}; check that there is room and that this user may write there",
        path.display()
    ))
}
