//! `matchbook-bench log`: measures the embedded log on this machine's disk, compared with other stores and the bare disk.
//!
//! The stores and the bare disk take turns within every round, so that other load on the machine affects all of them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use event_log::clock::Clock;
use event_log::{EventLog, Filter};
use event_log_embedded::{EmbeddedLog, Settings};
use event_schemas::ids::Position;

use matchbook::failure::{Failure, open_failure};

mod appenders;
#[cfg(feature = "peers")]
mod grpc;
mod nothing;
mod report;
#[cfg(feature = "peers")]
mod rusqlite;
mod sqlite;
mod stores;
#[cfg(feature = "peers")]
mod umadb;

use appenders::{Level, Material, Measured, append, measure};
use stores::{Name, Store};

#[derive(Args, Debug)]
pub(crate) struct Log {
    /// The parent of a temporary folder for the run, on the disk to measure
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    folder: PathBuf,
    /// The number of events in the log before it is opened and read
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000_000)]
    events: u64,
    /// The number of streams of these events
    #[arg(long, value_name = "NUMBER", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=20_000_000))]
    streams: u64,
    /// Appends in flight, and events in each
    #[arg(long, value_name = "LEVELS", value_delimiter = ',', default_value = "1x1,64x1,1024x1,64x100")]
    levels: Vec<Level>,
    /// The stores to measure; all stores of this build by default
    #[arg(long, value_name = "STORES", value_delimiter = ',')]
    stores: Vec<Name>,
    /// The duration of each level of a round, for each store
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = humantime::parse_duration)]
    level: Duration,
    /// The number of rounds
    #[arg(long, value_name = "NUMBER", default_value_t = 5)]
    rounds: u32,
}

/// The results of one level in one round.
struct Turn {
    level: Level,
    bare_syncs_per_second: f64,
    measured: Vec<(Name, Measured)>,
}

impl Turn {
    fn of(&self, store: Name) -> Option<&Measured> {
        self.measured.iter().find(|(name, _)| *name == store).map(|(_, measured)| measured)
    }
}

/// The results of opening and reading.
struct Reading {
    events: u64,
    open_milliseconds: f64,
    read_events_per_second: f64,
}

impl Log {
    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        let folder = tempfile::tempdir_in(&self.folder).map_err(|error| {
            Failure::Disk(format!("cannot create a folder in {}: {error}", self.folder.display()))
        })?;
        let settings = Settings { reserve_bytes: 0, ..Settings::new(folder.path().join("events")) };
        let (log, _) = open(&settings)?;
        let names = if self.stores.is_empty() { Name::ALL } else { &self.stores };
        let material = Material::new(self.streams);
        let mut stores = Vec::new();
        for name in names {
            stores.push((*name, Store::open(*name, &log, folder.path()).await?));
        }
        let mut turns = Vec::new();
        for round in 0..self.rounds {
            for level in &self.levels {
                let bare = bare_syncs(folder.path())
                    .map_err(|error| Failure::Disk(format!("cannot probe the disk: {error}")))?;
                eprint!(
                    "round {} of {}: {} in flight, {} each: bare syncs {bare:.0}/s",
                    round + 1,
                    self.rounds,
                    level.in_flight,
                    level.each
                );
                let mut measured = Vec::new();
                for turn in 0..stores.len() {
                    let (name, store) = &stores[(turn + round as usize) % stores.len()];
                    let figures = measure(store, &material, *level, self.level).await?;
                    eprint!(", {name} {:.0}/s", figures.events_per_second);
                    measured.push((*name, figures));
                }
                eprintln!();
                turns.push(Turn { level: *level, bare_syncs_per_second: bare, measured });
            }
        }
        drop(stores);
        let left = self.events.saturating_sub(log.head().borrow().0);
        let filling = Level { in_flight: 64, each: 100 };
        append(&Store::Log(log.clone()), &material, filling, None, left).await?;
        log.close().await;
        drop(log);
        let reading = read(&settings).await?;
        report::turns(&turns, &self.levels, names, json)?;
        report::reading(&reading, json)
    }
}

fn open(settings: &Settings) -> Result<(EmbeddedLog, Duration), Failure> {
    let (log, opened) = EmbeddedLog::open(settings, Clock::System).map_err(|error| open_failure(&error))?;
    Ok((log, opened.duration))
}

/// Opens the closed log and reads all its envelopes twice; the second time is measured.
async fn read(settings: &Settings) -> Result<Reading, Failure> {
    let (log, opening) = open(settings)?;
    let (mut events, mut rate) = (0, 0.0);
    for _ in 0..2 {
        let (started, mut after) = (Instant::now(), Position::START);
        events = 0;
        loop {
            let page = log.read_all(after, &Filter::All, 4096).await;
            let page = page.map_err(|error| Failure::Failed(error.to_string()))?;
            events += page.events.len() as u64;
            after = page.next;
            if page.at_head {
                break;
            }
        }
        rate = events as f64 / started.elapsed().as_secs_f64();
    }
    log.close().await;
    Ok(Reading { events, open_milliseconds: opening.as_secs_f64() * 1e3, read_events_per_second: rate })
}

/// The number of times per second that 400 bytes can be written over zeros and synced.
fn bare_syncs(folder: &Path) -> std::io::Result<f64> {
    let path = folder.join("probe");
    let file = File::create(&path)?;
    file.write_all_at(&vec![0; 4 << 20], 0)?;
    file.sync_all()?;
    let (started, mut syncs) = (Instant::now(), 0_u64);
    while started.elapsed() < Duration::from_millis(500) && syncs < 10_000 {
        file.write_all_at(&[1; 400], syncs * 400)?;
        file.sync_data()?;
        syncs += 1;
    }
    let rate = syncs as f64 / started.elapsed().as_secs_f64();
    std::fs::remove_file(path)?;
    Ok(rate)
}
