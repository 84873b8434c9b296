//! `matchbook bench matchmaking`: how fast players are put together, how fast they are taken in, and how fast those who ever
//! waited are read again.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use event_log::clock::Clock;
use event_log::embedded::{EmbeddedLog, Settings};
use serde_json::Value;
use tempfile::TempDir;

use super::percentile;
use crate::cli::{Failure, print};
use crate::wiring::open_failure;

mod crowd;
mod joins;
mod pass;
mod replay;

#[derive(Args, Debug)]
pub(crate) struct Matchmaking {
    /// Where folders for the runs are made, and removed at their end: on the disk that is to be measured
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    folder: PathBuf,
    /// What is measured; everything, if nothing is named
    #[arg(long, value_name = "PARTS", value_delimiter = ',')]
    parts: Vec<Part>,
    /// How many players wait when they are put together
    #[arg(long, value_name = "NUMBER", default_value_t = 100_000)]
    waiting: u64,
    /// How many players join in a second, over HTTP
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// For how long they join
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    lasts: Duration,
    /// How many queue entries, each of which has ended in a match, are read again
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000_000)]
    entries: u64,
    /// How often each part is measured
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Putting everyone together who waits: deciding it, and recording it
    Pass,
    /// Joining over HTTP at a fixed rate, and meeting somebody
    Joins,
    /// Reading a long history again
    Replay,
}

/// One figure: what it is of, and its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct What {
    /// In JSON.
    name: &'static str,
    /// For people.
    text: &'static str,
}

const fn what(name: &'static str, text: &'static str) -> What {
    What { name, text }
}

/// The figures of one round, in the order in which they are shown.
type Figures = Vec<(What, f64)>;

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
            Failure::Disk(format!("cannot make a folder in {}: {error}", self.folder.display()))
        })
    }
}

/// The log in the data folder of a run.
async fn open(folder: &TempDir) -> Result<EmbeddedLog, Failure> {
    let settings = Settings { reserve_bytes: 0, ..Settings::new(folder.path().join("events")) };
    event_log::embedded::make_folder(&folder.path().join("events"))
        .map_err(|error| Failure::Disk(format!("cannot make the log's folder: {error}")))?;
    let opening = tokio::task::spawn_blocking(move || EmbeddedLog::open(&settings, Clock::System)).await;
    let opened = opening.map_err(|error| Failure::Failed(format!("opening the log broke off: {error}")))?;
    Ok(opened.map_err(|error| open_failure(&error))?.0)
}

/// The median of each figure over the rounds, with the least and the most.
fn report(bench: &str, rounds: &[Figures], json: bool) -> Result<(), Failure> {
    let mut line = serde_json::Map::new();
    line.insert("bench".to_owned(), bench.into());
    line.insert("rounds".to_owned(), rounds.len().into());
    if !json {
        print(&format_args!("{bench}, {} rounds: median [least..most]", rounds.len()))?;
    }
    for (index, (what, _)) in rounds.first().into_iter().flatten().enumerate() {
        let mut values: Vec<f64> =
            rounds.iter().filter_map(|round| round.get(index)).map(|(_, value)| *value).collect();
        values.sort_by(f64::total_cmp);
        let [least, median, most] = [0.0, 0.5, 1.0].map(|share| percentile(&values, share));
        line.insert(what.name.to_owned(), Value::from(median));
        if !json {
            print(&format_args!("  {:<60} {median:>12.3} [{least:.3}..{most:.3}]", what.text))?;
        }
    }
    if json { print(&Value::Object(line)) } else { Ok(()) }
}
