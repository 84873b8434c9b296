//! `matchbook events repair`: what can be kept of a damaged log, and what is set aside.

use std::path::{Path, PathBuf};

use clap::Args;
use event_log::clock::Clock;
use event_log::embedded::{self, Plan, Repaired, Report, Salvaged, SetAside, Settings};
use serde_json::{Value, json};

use super::events_folder;
use super::pace::Pace;
use super::verify::failure;
use crate::cli::{Failure, print};

#[derive(Args, Debug)]
pub(crate) struct Repair {
    /// The data folder of the server, which must be stopped
    #[arg(long, env = "MATCHBOOK_DATA", value_name = "FOLDER", default_value = "./data")]
    data: PathBuf,
    /// Do it, instead of showing what would be done. The log ends before the first damage from then on; everything behind it
    /// is moved, whole, into a folder beside it
    #[arg(long)]
    apply: bool,
}

/// Streams that are named on the screen; the report names all.
const STREAMS_SHOWN: usize = 10;

impl Repair {
    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        let settings = Settings::new(events_folder(&self.data));
        let folder = settings.folder.clone();
        let apply = self.apply;
        let working = tokio::task::spawn_blocking(move || {
            let mut pace = Pace::new("verified");
            let watch = |progress: embedded::Progress| {
                pace.bytes(progress.events, progress.bytes, progress.bytes_total);
            };
            if apply {
                embedded::repair(&settings, &Clock::System, watch)
                    .map(|done| Outcome::Done(done.map(Box::new)))
            } else {
                embedded::plan(&settings, watch).map(|plan| Outcome::Planned(Box::new(plan)))
            }
        });
        let outcome = working
            .await
            .map_err(|error| Failure::Failed(format!("repairing broke off: {error}")))?
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
    Planned(Box<Plan>),
    Done(Option<Box<Repaired>>),
}

fn show_plan(plan: &Plan, folder: &Path, json: bool) -> Result<(), Failure> {
    if json {
        print(&plan_as_json(plan))?;
    } else {
        say_plan(plan, folder)?;
    }
    if plan.half_done {
        return Err(Failure::Damaged(
            "a repair was begun and not ended; end it with `matchbook events repair --apply`".to_owned(),
        ));
    }
    if plan.is_needed() {
        return Err(Failure::Damaged(
            "the event log is damaged, and nothing was changed; put back what is damaged from a backup if there is one: then \
             nothing is lost. Otherwise run `matchbook events repair --apply`"
                .to_owned(),
        ));
    }
    Ok(())
}

fn say_plan(plan: &Plan, folder: &Path) -> Result<(), Failure> {
    for damage in &plan.found.damages {
        let embedded::Damage { file, offset, position, what, .. } = damage;
        print(&format_args!("damaged: {file} at byte {offset}, position {position}: {what}"))?;
    }
    if !plan.is_needed() {
        return print(&format_args!("no damage in {} events: there is nothing to repair", plan.found.events));
    }
    print(&format_args!("would stay: events 1 to {}", plan.kept))?;
    for index in &plan.indexes {
        print(&format_args!("would be made anew: {index}"))?;
    }
    if plan.log_file {
        print(&"would be made anew: log.json, from what the segments say")?;
    }
    if !plan.set_aside.is_empty() {
        let aside = folder.join(plan.folder());
        print(&format_args!("would be moved into {}:", aside.display()))?;
        say_files(&plan.set_aside)?;
        say_salvaged(&plan.salvaged)?;
    }
    Ok(())
}

fn say_files(files: &[SetAside]) -> Result<(), Failure> {
    for SetAside { file, bytes } in files {
        print(&format_args!("  {file}  {bytes} bytes"))?;
    }
    Ok(())
}

fn say_salvaged(salvaged: &Salvaged) -> Result<(), Failure> {
    print(&format_args!(
        "of what is moved, {} events can be read, of {} streams, and {} cannot",
        salvaged.readable,
        salvaged.streams.len(),
        salvaged.lost(),
    ))?;
    for (from, to) in &salvaged.unreadable {
        print(&format_args!("  unreadable: positions {from} to {to}"))?;
    }
    for stream in salvaged.streams.iter().take(STREAMS_SHOWN) {
        let embedded::StreamSetAside { stream, first, last, events } = stream;
        print(&format_args!("  {stream}: {events} events, revisions {first} to {last}"))?;
    }
    if let Some(more) = salvaged.streams.len().checked_sub(STREAMS_SHOWN).filter(|more| *more > 0) {
        print(&format_args!("  and {more} streams more"))?;
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
        print(&format_args!("made anew: {index}"))?;
    }
    let Some(Report { folder: aside, kept, epoch, set_aside, salvaged, .. }) = &repaired.report else {
        return print(&"the log is as it was; start the server");
    };
    let aside = folder.join(aside);
    print(&format_args!("moved into {}:", aside.display()))?;
    say_files(set_aside)?;
    say_salvaged(salvaged)?;
    print(&format_args!(
        "the log holds events 1 to {kept} and is in epoch {epoch}; the read models are made anew at the next start\n\
         {} lists what can be read of the rest, and report.json says what was done; nothing was deleted",
        aside.join("events.ndjson").display(),
    ))
}

fn plan_as_json(plan: &Plan) -> Value {
    let damages: Vec<Value> = plan
        .found
        .damages
        .iter()
        .map(|embedded::Damage { file, offset, position, what, .. }| {
            json!({ "file": file, "offset": offset, "position": position, "what": what })
        })
        .collect();
    json!({
        "needed": plan.is_needed(),
        "half_done": plan.half_done,
        "damages": damages,
        "kept": plan.kept,
        "folder": plan.folder(),
        "set_aside": plan.set_aside,
        "salvaged": plan.salvaged,
        "indexes": plan.indexes,
        "log_file": plan.log_file,
    })
}
