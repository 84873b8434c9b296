//! Repairing a damaged log: it is cut where the first hole is, and all that is behind it is set aside, whole and readable.
//!
//! Positions have no gap and a stream's revisions follow each other, so what lies behind a hole cannot stay: a fold over
//! it would silently be another one. Nothing is deleted. Files go as they are into a folder within the log's, with a report
//! and the events that can still be read, and the epoch is raised, so that nobody trusts a position of before. What is to be
//! done is written down first; a repair that breaks off is gone on with, and until it is ended the log cannot be opened.

use event_schemas::ids::{LogId, Position};
use event_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::disk::{Disk, Fault};
use super::keeper::put_index;
use super::recovery::{LOG_FILE, OpenError, look, not_locked, read_header_of, scan_all};
use super::segment::{HEADER_BYTES, index_name, position_of_name, segment_name};
use super::verify::{Extent, Hole, Progress, Verified, VerifyError, check_there, verify_locked};
use super::{Limits, Settings};
use crate::Identity;
use crate::clock::Clock;

mod salvage;
mod steps;

use salvage::Salvage;
pub use salvage::{Salvaged, StreamSetAside};
use steps::{REPORT_FILE, begun, finish, prepare};

/// What is wrong with a log, and what a repair would do about it.
#[derive(Clone, Debug)]
pub struct Plan {
    pub found: Verified,
    /// The events that stay: those up to this position.
    pub kept: Position,
    /// A repair was begun before, and will be gone on with. Then nothing else is told.
    pub half_done: bool,
    /// What would be set aside.
    pub set_aside: Vec<SetAside>,
    /// What can be read of it, if there is any.
    pub salvaged: Salvaged,
    /// Index files that would be made anew.
    pub indexes: Vec<String>,
    /// Whether `log.json` would be made anew, from what the segments say.
    pub log_file: bool,
    folder: String,
    identity: Identity,
    replaced: Option<Replaced>,
}

impl Plan {
    /// Whether there is anything to do.
    pub fn is_needed(&self) -> bool {
        self.half_done || !self.set_aside.is_empty() || !self.indexes.is_empty() || self.log_file
    }

    /// The folder, within that of the log, that things would be set aside in.
    pub fn folder(&self) -> &str {
        &self.folder
    }

    fn moves(&self) -> bool {
        !self.set_aside.is_empty() || self.replaced.is_some() || self.log_file
    }
}

/// A file that is taken out of the log as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAside {
    pub file: String,
    pub bytes: u64,
}

/// What stands in place of a segment afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Replaced {
    first: Position,
    /// Of the bytes that it had; none if a new, empty segment is begun.
    kept: Option<u64>,
}

/// What was found and done, as the report says it. It is also what tells a repair that broke off how to go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    format: u32,
    pub log: LogId,
    pub epoch_before: u32,
    pub epoch: u32,
    pub repaired_at: Timestamp,
    /// The folder, within that of the log, that things were set aside in.
    pub folder: String,
    /// The events that stayed: those up to this position.
    pub kept: Position,
    pub damages: Vec<Found>,
    pub set_aside: Vec<SetAside>,
    /// The segment that was replaced by what could be kept of it.
    replaced: Option<Position>,
    #[serde(flatten)]
    pub salvaged: Salvaged,
}

/// A damage, as the report says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    pub file: String,
    pub offset: u64,
    pub position: Position,
    pub what: String,
}

/// What a repair did.
#[derive(Clone, Debug)]
pub struct Repaired {
    /// None if nothing but index files had to be made.
    pub report: Option<Report>,
    /// Index files that were made anew.
    pub indexes: Vec<String>,
}

/// Reads the whole log in the settings' folder, which no process may have open, and says what a repair would do. Nothing
/// is changed.
///
/// `O(bytes)`; holds one segment in memory, and the names of the streams that would be set aside.
///
/// # Errors
/// [`VerifyError`] if the log cannot be looked at, or nothing in it says which log it is.
pub fn plan(settings: &Settings, watch: impl FnMut(Progress)) -> Result<Plan, VerifyError> {
    let disk = folder(settings)?;
    let _lock = disk.lock_to_read().map_err(|fault| not_locked(&disk, fault))?;
    plan_on(&disk, watch)
}

/// Repairs the log as [`plan`] says, or goes on with a repair that broke off; none if there is nothing to do. Calling it
/// again after an error, or after the process or the machine has died in it, is always right.
///
/// # Errors
/// As [`plan`], and if the disk fails or is full.
pub fn repair(
    settings: &Settings,
    clock: &Clock,
    watch: impl FnMut(Progress),
) -> Result<Option<Repaired>, VerifyError> {
    let disk = folder(settings)?;
    match look(&disk) {
        Err(OpenError::HalfRepaired { .. } | OpenError::Damaged { .. }) | Ok(()) => {}
        Err(OpenError::NotALog { folder, .. }) => return Err(VerifyError::NoLog(folder)),
        Err(error) => return Err(error.into()),
    }
    check_there(&disk, &disk.list()?)?;
    let _lock = disk.lock().map_err(|fault| not_locked(&disk, fault))?;
    repair_on(&disk, &settings.limits(), clock, watch)
}

fn folder(settings: &Settings) -> Result<Disk, VerifyError> {
    if !settings.folder.is_dir() {
        return Err(VerifyError::NoLog(settings.folder.clone()));
    }
    Ok(Disk::Real(settings.folder.clone()))
}

pub(super) fn plan_on(disk: &Disk, watch: impl FnMut(Progress)) -> Result<Plan, VerifyError> {
    let found = match verify_locked(disk, Extent::All, watch) {
        Ok(found) => found,
        Err(VerifyError::Open(OpenError::HalfRepaired { .. })) => return half_done(disk),
        Err(error) => return Err(error),
    };
    let names = disk.list()?;
    let firsts: Vec<Position> = names.iter().filter_map(|name| position_of_name(name)).collect();
    let nameless = || OpenError::Damaged {
        file: LOG_FILE.to_owned(),
        offset: 0,
        position: Position::START,
        what: "neither this file nor a segment says which log it is".to_owned(),
        remedy: "nothing was changed; put back this file from a backup",
    };
    let identity = found.identity.ok_or_else(nameless)?;
    let mut plan = Plan {
        kept: found.hole.map_or(Position(found.events), |hole| Position(hole.position.0 - 1)),
        half_done: false,
        set_aside: Vec::new(),
        salvaged: Salvaged::default(),
        indexes: Vec::new(),
        log_file: found.wrong_log_file,
        folder: free_folder(disk, &names)?,
        identity,
        replaced: None,
        found,
    };
    if let Some(hole) = plan.found.hole {
        cut(disk, &firsts, &names, hole, &mut plan)?;
    }
    let of_kept = |first: &&Position| **first <= plan.kept && !is_set_aside(&plan, **first);
    plan.indexes = plan.found.wrong_indexes.iter().filter(of_kept).map(|first| index_name(*first)).collect();
    if plan.log_file && disk.has(LOG_FILE)? {
        plan.set_aside.push(set_aside(disk, LOG_FILE.to_owned())?);
    }
    Ok(plan)
}

fn is_set_aside(plan: &Plan, first: Position) -> bool {
    plan.set_aside.iter().any(|aside| aside.file == index_name(first) || aside.file == segment_name(first))
}

/// Finds out what lies behind the hole, and what can be read of it.
fn cut(
    disk: &Disk,
    firsts: &[Position],
    names: &[String],
    hole: Hole,
    plan: &mut Plan,
) -> Result<(), VerifyError> {
    let behind = firsts.get(hole.whole..).unwrap_or_default();
    plan.replaced = match (hole.within, behind.first(), hole.whole) {
        (Some(kept), Some(first), _) => Some(Replaced { first: *first, kept: Some(kept) }),
        // A log has at least one segment.
        (_, _, 0) => Some(Replaced { first: Position(1), kept: None }),
        _ => None,
    };
    // The segment that is the last one from now on will be written to, and has no index file meanwhile.
    let last = firsts.get(hole.whole.wrapping_sub(1)).filter(|_| hole.within.is_none());
    for first in behind {
        plan.set_aside.push(set_aside(disk, segment_name(*first))?);
    }
    for first in last.into_iter().chain(behind) {
        let index = index_name(*first);
        if names.contains(&index) {
            plan.set_aside.push(set_aside(disk, index)?);
        }
    }
    let mut salvage = Salvage::new(plan.identity.id, hole.position);
    for (n, first) in behind.iter().enumerate() {
        let from = hole.within.filter(|_| n == 0).unwrap_or(HEADER_BYTES);
        salvage.segment(disk, *first, from, &mut None)?;
    }
    plan.salvaged = salvage.end();
    Ok(())
}

fn set_aside(disk: &Disk, file: String) -> Result<SetAside, Fault> {
    let bytes = disk.open_to_read(&file)?.len()?;
    Ok(SetAside { file, bytes })
}

/// What is to be done next in a repair that broke off.
fn half_done(disk: &Disk) -> Result<Plan, VerifyError> {
    let report = begun(disk)?;
    Ok(Plan {
        found: Verified::nothing(),
        kept: report.kept,
        half_done: true,
        set_aside: report.set_aside,
        salvaged: report.salvaged,
        indexes: Vec::new(),
        log_file: false,
        folder: report.folder,
        identity: Identity { id: report.log, epoch: report.epoch },
        replaced: None,
    })
}

/// The first folder that no ended repair has used. What one that never began left there is written over.
fn free_folder(disk: &Disk, names: &[String]) -> Result<String, Fault> {
    for n in 1_u32.. {
        let name = format!("quarantine-{n}");
        if !names.contains(&name) || !disk.has(&format!("{name}/{REPORT_FILE}"))? {
            return Ok(name);
        }
    }
    unreachable!("a folder holds fewer than 2³² files")
}

pub(super) fn repair_on(
    disk: &Disk,
    limits: &Limits,
    clock: &Clock,
    watch: impl FnMut(Progress),
) -> Result<Option<Repaired>, VerifyError> {
    // What an earlier process wrote last may be in memory only, names included.
    disk.sync()?;
    let plan = plan_on(disk, watch)?;
    if plan.half_done {
        let report = begun(disk)?;
        finish(disk, &report)?;
        return Ok(Some(Repaired { report: Some(report), indexes: Vec::new() }));
    }
    for first in &plan.found.wrong_indexes {
        if plan.indexes.contains(&index_name(*first)) {
            let file = disk.open_to_read(&segment_name(*first))?;
            let header = read_header_of(&file, Some(plan.identity.id), *first)?;
            let (index, scanned) = scan_all(&file, &header)?;
            put_index(disk, header, &index, scanned.end)?;
        }
    }
    if !plan.moves() {
        let indexes = plan.indexes.clone();
        return Ok(plan.is_needed().then_some(Repaired { report: None, indexes }));
    }
    let report = prepare(disk, limits, clock, &plan)?;
    finish(disk, &report)?;
    Ok(Some(Repaired { report: Some(report), indexes: plan.indexes }))
}
