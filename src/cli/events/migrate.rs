//! `matchbook events migrate`: copies a log to another location, and verifies that both are equal.

use clap::Args;
use event_log::{EventLog, Log};
use event_log_embedded::transfer::{CopyReport, LogCopier, LogDigest, LogDigestBuilder, TransferSource};
use event_schemas::ids::Position;
use serde_json::{Value, json};

use super::import::transfer_failure;
use super::log_location::{self, NewLogOptions};
use super::progress::ProgressReporter;
use matchbook::config::EventLogUrl;
use matchbook::failure::{Failure, print};

#[derive(Args, Debug)]
pub(crate) struct Migrate {
    /// The source log: embedded:FOLDER, or the URL of a cluster. It is only read; stop its server first, so that no events
    /// are added meanwhile
    #[arg(long, value_name = "URL")]
    from: EventLogUrl,
    /// The target log: embedded:FOLDER, or the URL of a cluster. It must be new, or contain the events of an earlier run
    #[arg(long, value_name = "URL")]
    to: EventLogUrl,
    #[command(flatten)]
    options: NewLogOptions,
}

/// The comparison of both logs.
struct Report {
    copied: CopyReport,
    target: LogDigest,
    /// The number of additional events of the target after those of the source.
    beyond: u64,
    seconds: f64,
}

impl Migrate {
    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        let source = log_location::source(&self.from, Position::START).await?;
        let target = log_location::target(&self.to, &self.options).await?;
        let outcome = copy_all(source, &target).await;
        target.close().await;
        let report = outcome?;
        report.show(json)?;
        report.verdict()
    }
}

async fn copy_all(mut source: TransferSource, target: &Log) -> Result<Report, Failure> {
    let failed = |error| transfer_failure(&error);
    let mut reporter = ProgressReporter::new("copied");
    let mut copier = LogCopier::new(target.clone());
    while let Some(events) = source.next_events().await.map_err(failed)? {
        for event in events {
            copier.push(event).await.map_err(failed)?;
        }
        let (done, total) = source.progress();
        reporter.share("events", copier.events(), done, total);
    }
    let copied = copier.finish().await.map_err(failed)?;
    let mut verifying = ProgressReporter::new("verified");
    let mut copy = TransferSource::log(target.clone(), copied.start);
    let (mut digest, mut beyond) = (LogDigestBuilder::default(), 0);
    while let Some(events) = copy.next_events().await.map_err(failed)? {
        for event in events {
            if digest.events() < copied.digest.events {
                digest.add(&event).map_err(|error| transfer_failure(&error.into()))?;
            } else {
                beyond += 1;
            }
        }
        let (done, total) = copy.progress();
        verifying.share("events", digest.events(), done, total);
    }
    Ok(Report { copied, target: digest.finish(), beyond, seconds: reporter.elapsed().as_secs_f64() })
}

impl Report {
    fn show(&self, json: bool) -> Result<(), Failure> {
        let Self { copied: CopyReport { digest: sum, found, added, .. }, target, beyond, seconds } = self;
        if json {
            return print(&json!({
                "same": sum == target, "source": as_json(sum), "target": as_json(target), "added": added,
                "found": found, "beyond": beyond, "seconds": seconds,
            }));
        }
        print(&format_args!("copied {added} events in {seconds:.1} s; {found} existed already"))?;
        for (side, sum) in [("source", sum), ("target", target)] {
            print(&format_args!(
                "{side}: {} events of {} streams; content sha256 {}, times sha256 {}",
                sum.events, sum.streams, sum.content, sum.times
            ))?;
        }
        if *beyond > 0 {
            print(&format_args!("the target has {beyond} additional events at its end"))?;
        }
        if sum == target {
            print(&"both contain the same events, in the same order, with the same times")
        } else {
            Ok(())
        }
    }

    fn verdict(&self) -> Result<(), Failure> {
        let (source, target) = (&self.copied.digest, &self.target);
        if source == target {
            return Ok(());
        }
        let differs = if source.events != target.events {
            format!("it has {} of {} events", target.events, source.events)
        } else if source.content != target.content {
            "its events have different content".to_owned()
        } else {
            "its events have different times; if it is a cluster, check whether its clock is behind"
                .to_owned()
        };
        Err(Failure::Damaged(format!(
            "the target differs from the source: {differs}; keep using the source, and migrate it to a new location"
        )))
    }
}

fn as_json(sum: &LogDigest) -> Value {
    json!({ "events": sum.events, "streams": sum.streams, "content": sum.content, "times": sum.times })
}
