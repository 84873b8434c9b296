//! `matchbook-bench matchmaking`: measures pairing, queue joins, and replay of a long history of queue entries.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use event_log::clock::Clock;
use event_log_embedded::{EmbeddedLog, Settings};
use serde_json::Value;
use tempfile::TempDir;

use super::percentile;
use matchbook::failure::{Failure, open_failure, print};

mod crowd;
mod joins;
mod pass;
mod replay;

#[derive(Args, Debug)]
pub(crate) struct Matchmaking {
    /// The parent of temporary folders for the runs, on the disk to measure
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    folder: PathBuf,
    /// The parts to measure; all by default
    #[arg(long, value_name = "PARTS", value_delimiter = ',')]
    parts: Vec<Part>,
    /// The number of queued players for the pairing pass
    #[arg(long, value_name = "NUMBER", default_value_t = 100_000)]
    waiting: u64,
    /// The number of joins per second, over HTTP
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// The duration of the joins
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    lasts: Duration,
    /// The number of matched queue entries to replay
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000_000)]
    entries: u64,
    /// The number of rounds
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
}

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Pairing all queued players: deciding and recording the pairs
    Pass,
    /// Joining over HTTP at a fixed rate until matched
    Joins,
    /// Replaying a long history
    Replay,
}

/// The name and the unit of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Metric {
    /// The name in JSON.
    name: &'static str,
    /// The text output.
    text: &'static str,
}

pub(super) const fn metric(name: &'static str, text: &'static str) -> Metric {
    Metric { name, text }
}

/// The results of one round, in the order of the output.
pub(super) type Figures = Vec<(Metric, f64)>;

impl Matchmaking {
    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        let wanted = |part| self.parts.is_empty() || self.parts.contains(&part);
        if wanted(Part::Pass) {
            let mut rounds = Vec::new();
            for round in 0..self.rounds {
                rounds.push(pass::measure(&self.fresh()?, self.waiting, round.into()).await?);
            }
            report("matchmaking pass", &rounds, json)?;
        }
        if wanted(Part::Joins) {
            let mut rounds = Vec::new();
            for _ in 0..self.rounds {
                rounds.push(joins::measure(&self.fresh()?, self.rate, self.lasts).await?);
            }
            report("matchmaking joins", &rounds, json)?;
        }
        if wanted(Part::Replay) {
            let folder = self.fresh()?;
            replay::fill(&folder, self.entries).await?;
            let mut rounds = Vec::new();
            for _ in 0..self.rounds {
                rounds.push(replay::measure(&folder).await?);
            }
            report("matchmaking replay", &rounds, json)?;
        }
        Ok(())
    }

    fn fresh(&self) -> Result<TempDir, Failure> {
        tempfile::tempdir_in(&self.folder).map_err(|error| {
            Failure::Disk(format!("cannot create a folder in {}: {error}", self.folder.display()))
        })
    }
}

/// The log in the data folder of a run.
async fn open(folder: &TempDir) -> Result<EmbeddedLog, Failure> {
    let settings = Settings { reserve_bytes: 0, ..Settings::new(folder.path().join("events")) };
    event_log_embedded::make_folder(&folder.path().join("events"))
        .map_err(|error| Failure::Disk(format!("cannot create the log's folder: {error}")))?;
    let opening = tokio::task::spawn_blocking(move || EmbeddedLog::open(&settings, Clock::System)).await;
    let opened = opening.map_err(|error| Failure::Failed(format!("opening the log failed: {error}")))?;
    Ok(opened.map_err(|error| open_failure(&error))?.0)
}

/// Prints the median of each result over the rounds, with minimum and maximum.
pub(super) fn report(bench: &str, rounds: &[Figures], json: bool) -> Result<(), Failure> {
    let mut line = serde_json::Map::new();
    line.insert("bench".to_owned(), bench.into());
    line.insert("rounds".to_owned(), rounds.len().into());
    if !json {
        print(&format_args!("{bench}, {} rounds: median [min..max]", rounds.len()))?;
    }
    for (index, (metric, _)) in rounds.first().into_iter().flatten().enumerate() {
        let mut values: Vec<f64> =
            rounds.iter().filter_map(|round| round.get(index)).map(|(_, value)| *value).collect();
        values.sort_by(f64::total_cmp);
        let [min, median, max] = [0.0, 0.5, 1.0].map(|share| percentile(&values, share));
        line.insert(metric.name.to_owned(), Value::from(median));
        if !json {
            print(&format_args!("  {:<60} {median:>12.3} [{min:.3}..{max:.3}]", metric.text))?;
        }
    }
    if json { print(&Value::Object(line)) } else { Ok(()) }
}
