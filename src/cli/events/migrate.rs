//! `matchbook events migrate`: a log moved to another place, and both held to being the same.

use clap::Args;
use event_log::Log;
use event_log::transfer::{Copied, Copier, Source, Sum, Summing};
use event_schemas::ids::Position;
use serde_json::{Value, json};

use super::import::transfer_failure;
use super::pace::Pace;
use super::place::{self, Making};
use crate::cli::{Failure, print};
use crate::config::EventLogUrl;

#[derive(Args, Debug)]
pub(crate) struct Migrate {
    /// The log to move: embedded:FOLDER, or the URL of a cluster. It is only read; stop its server first, so that nothing
    /// is added meanwhile
    #[arg(long, value_name = "URL")]
    from: EventLogUrl,
    /// Where to: embedded:FOLDER, or the URL of a cluster. It must be new, or hold what an earlier run brought there
    #[arg(long, value_name = "URL")]
    to: EventLogUrl,
    #[command(flatten)]
    making: Making,
}

/// What both sides hold.
struct Report {
    copied: Copied,
    target: Sum,
    /// Events of the target behind those of the source.
    beyond: u64,
    seconds: f64,
}

impl Migrate {
    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        let source = place::source(&self.from, Position::START).await?;
        let target = place::target(&self.to, &self.making).await?;
        let moved = move_all(source, &target).await;
        place::close(target).await;
        let report = moved?;
        report.show(json)?;
        report.verdict()
    }
}

async fn move_all(mut source: Source, target: &Log) -> Result<Report, Failure> {
    let failed = |error| transfer_failure(&error);
    let mut pace = Pace::new("moved");
    let mut copier = Copier::new(target.clone());
    while let Some(events) = source.next_events().await.map_err(failed)? {
        for event in events {
            copier.give(event).await.map_err(failed)?;
        }
        let (done, total) = source.progress();
        pace.share("events", copier.events(), done, total);
    }
    let copied = copier.finish().await.map_err(failed)?;
    let mut verified = Pace::new("verified");
    let mut again = Source::log(target.clone(), copied.begin);
    let (mut summing, mut beyond) = (Summing::default(), 0);
    while let Some(events) = again.next_events().await.map_err(failed)? {
        for event in events {
            if summing.events() < copied.sum.events {
                summing.add(&event).map_err(|error| transfer_failure(&error.into()))?;
            } else {
                beyond += 1;
            }
        }
        let (done, total) = again.progress();
        verified.share("events", summing.events(), done, total);
    }
    Ok(Report { copied, target: summing.sum(), beyond, seconds: pace.took().as_secs_f64() })
}

impl Report {
    fn show(&self, json: bool) -> Result<(), Failure> {
        let Self { copied: Copied { sum, found, added, .. }, target, beyond, seconds } = self;
        if json {
            return print(&json!({
                "same": sum == target, "source": as_json(sum), "target": as_json(target), "added": added,
                "found": found, "beyond": beyond, "seconds": seconds,
            }));
        }
        print(&format_args!("moved {added} events in {seconds:.1} s; {found} were there before"))?;
        for (side, sum) in [("source", sum), ("target", target)] {
            print(&format_args!(
                "{side}: {} events of {} streams; content sha256 {}, times sha256 {}",
                sum.events, sum.streams, sum.content, sum.times
            ))?;
        }
        if *beyond > 0 {
            print(&format_args!("the target goes on with {beyond} events of its own"))?;
        }
        if sum == target {
            print(&"both hold the same events, in the same order, with the same times")
        } else {
            Ok(())
        }
    }

    fn verdict(&self) -> Result<(), Failure> {
        let (source, target) = (&self.copied.sum, &self.target);
        if source == target {
            return Ok(());
        }
        let differs = if source.events != target.events {
            format!("it has {} of {} events", target.events, source.events)
        } else if source.content != target.content {
            "its events say something else".to_owned()
        } else {
            "its events have other times; if it is a cluster, look whether its clock is behind".to_owned()
        };
        Err(Failure::Damaged(format!(
            "the target is not the same as the source: {differs}; go on with the source, and move it to a new place"
        )))
    }
}

fn as_json(sum: &Sum) -> Value {
    json!({ "events": sum.events, "streams": sum.streams, "content": sum.content, "times": sum.times })
}
