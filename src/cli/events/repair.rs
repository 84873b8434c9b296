//! `matchbook events repair`: repairs a damaged log, and quarantines what cannot be kept.

use std::path::{Path, PathBuf};

use clap::Args;
use event_log::clock::Clock;
use event_log_embedded as embedded;
use event_log_embedded::{QuarantinedFile, RepairPlan, RepairReport, Repaired, Salvaged, Settings};
use serde_json::{Value, json};

use super::events_folder;
use super::progress::ProgressReporter;
use super::verify::failure;
use matchbook::failure::{Failure, print};

#[derive(Args, Debug)]
pub(crate) struct Repair {
    /// The data folder of the server, which must be stopped
    #[arg(long, env = "MATCHBOOK_DATA", value_name = "FOLDER", default_value = "./data")]
    data: PathBuf,
    /// Repair the log instead of showing the plan. It then ends before the first damage; everything after the damage is moved,
    /// unchanged, into a quarantine folder
    #[arg(long)]
    apply: bool,
}

/// The most streams that are printed; the report lists all of them.
const STREAMS_SHOWN: usize = 10;

impl Repair {
    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        let settings = Settings::new(events_folder(&self.data));
        let folder = settings.folder.clone();
        let apply = self.apply;
        let working = tokio::task::spawn_blocking(move || {
            let mut reporter = ProgressReporter::new("verified");
            let watch = |progress: embedded::Progress| {
                reporter.bytes(progress.events, progress.bytes, progress.bytes_total);
            };
            if apply {
                embedded::repair(&settings, &Clock::System, watch)
                    .map(|done| Outcome::Done(done.map(Box::new)))
            } else {
                embedded::plan_repair(&settings, watch).map(|plan| Outcome::Planned(Box::new(plan)))
            }
        });
        let outcome = working
            .await
            .map_err(|error| Failure::Failed(format!("repairing failed: {error}")))?
            .map_err(|error| failure(&error))?;
        match outcome {
            Outcome::Planned(plan) => show_plan(&plan, &folder, json),
            Outcome::Done(None) if json => print(&json!({ "repaired": false })),
            Outcome::Done(None) => print(&"no damage: there is nothing to repair"),
            Outcome::Done(Some(repaired)) => show_repaired(&repaired, &folder, json),
        }
    }
}

enum Outcome {
    Planned(Box<RepairPlan>),
    Done(Option<Box<Repaired>>),
}

fn show_plan(plan: &RepairPlan, folder: &Path, json: bool) -> Result<(), Failure> {
    if json {
        print(&plan_as_json(plan))?;
    } else {
        print_plan(plan, folder)?;
    }
    if plan.unfinished {
        return Err(Failure::Damaged(
            "a repair was started and not finished; finish it with `matchbook events repair --apply`"
                .to_owned(),
        ));
    }
    if plan.is_needed() {
        return Err(Failure::Damaged(
            "the event log is damaged, and nothing was changed; restore the damaged files from a backup if you have one, so that \
             nothing is lost. Otherwise run `matchbook events repair --apply`"
                .to_owned(),
        ));
    }
    Ok(())
}

fn print_plan(plan: &RepairPlan, folder: &Path) -> Result<(), Failure> {
    for damage in &plan.verified.damages {
        let embedded::Damage { file, offset, position, what, .. } = damage;
        print(&format_args!("damaged: {file} at byte {offset}, position {position}: {what}"))?;
    }
    if !plan.is_needed() {
        return print(&format_args!(
            "no damage in {} events: there is nothing to repair",
            plan.verified.events
        ));
    }
    print(&format_args!("would be kept: events 1 to {}", plan.kept))?;
    for index in &plan.indexes {
        print(&format_args!("would be rebuilt: {index}"))?;
    }
    if plan.log_file {
        print(&"would be rebuilt: log.json, from the segments")?;
    }
    if !plan.quarantined.is_empty() {
        let quarantine = folder.join(plan.folder());
        print(&format_args!("would be moved into {}:", quarantine.display()))?;
        print_files(&plan.quarantined)?;
    }
    print_salvaged(&plan.salvaged)
}

fn print_files(files: &[QuarantinedFile]) -> Result<(), Failure> {
    for QuarantinedFile { file, bytes } in files {
        print(&format_args!("  {file}  {bytes} bytes"))?;
    }
    Ok(())
}

fn print_salvaged(salvaged: &Salvaged) -> Result<(), Failure> {
    if salvaged.readable == 0 && salvaged.unreadable.is_empty() {
        return Ok(());
    }
    print(&format_args!(
        "of the events after that, {} in {} streams are readable, and {} are not",
        salvaged.readable,
        salvaged.streams.len(),
        salvaged.lost(),
    ))?;
    for (from, to) in &salvaged.unreadable {
        print(&format_args!("  unreadable: positions {from} to {to}"))?;
    }
    for stream in salvaged.streams.iter().take(STREAMS_SHOWN) {
        let embedded::QuarantinedStream { stream, first, last, events } = stream;
        print(&format_args!("  {stream}: {events} events, revisions {first} to {last}"))?;
    }
    if let Some(more) = salvaged.streams.len().checked_sub(STREAMS_SHOWN).filter(|more| *more > 0) {
        print(&format_args!("  and {more} more streams"))?;
    }
    Ok(())
}

fn show_repaired(repaired: &Repaired, folder: &Path, json: bool) -> Result<(), Failure> {
    if json {
        return print(&json!({
            "repaired": true, "indexes": repaired.indexes, "report": repaired.report.as_ref(),
        }));
    }
    for index in &repaired.indexes {
        print(&format_args!("rebuilt: {index}"))?;
    }
    let Some(RepairReport { folder: name, kept, epoch, quarantined, salvaged, .. }) = &repaired.report else {
        return print(&"the log is unchanged; start the server");
    };
    let quarantine = folder.join(name);
    if !quarantined.is_empty() {
        print(&format_args!("moved into {}:", quarantine.display()))?;
        print_files(quarantined)?;
    }
    print_salvaged(salvaged)?;
    print(&format_args!(
        "the log contains events 1 to {kept} and is in epoch {epoch}; the read models are rebuilt at the next start\n\
         {} lists the readable events of the rest, and report.json describes the repair; nothing was deleted",
        quarantine.join("events.ndjson").display(),
    ))
}

fn plan_as_json(plan: &RepairPlan) -> Value {
    let damages: Vec<Value> = plan
        .verified
        .damages
        .iter()
        .map(|embedded::Damage { file, offset, position, what, .. }| {
            json!({ "file": file, "offset": offset, "position": position, "what": what })
        })
        .collect();
    json!({
        "needed": plan.is_needed(),
        "unfinished": plan.unfinished,
        "damages": damages,
        "kept": plan.kept,
        "folder": plan.folder(),
        "quarantined": plan.quarantined,
        "salvaged": plan.salvaged,
        "indexes": plan.indexes,
        "log_file": plan.log_file,
    })
}
