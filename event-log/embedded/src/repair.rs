//! Repairing a damaged log: it is truncated at the first hole, and everything after the hole is quarantined, whole and
//! readable.
//!
//! Positions and a stream's revisions have no gaps, so events after a hole cannot stay in the log: a fold over them would
//! silently give another state. Nothing is deleted. Files move unchanged into a folder within the log's, with a report and
//! the events that can still be read, and the epoch is raised, which invalidates stored positions. The plan is written
//! first; an interrupted repair is resumed from it, and the log cannot be opened until the repair is finished.

use event_schemas::ids::{LogId, Position};
use event_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::disk::{Disk, Fault};
use super::maintenance::rebuild_index_file;
use super::recovery::{LOG_FILE, OpenError, check_folder, lock_error, read_header_of, scan_all};
use super::segment::{HEADER_BYTES, index_name, position_of_name, segment_name};
use super::verify::{
    Extent, Hole, Progress, Verified, VerifyError, check_has_log, existing_folder, verify_locked,
};
use super::{Limits, Settings};
use event_log::Identity;
use event_log::clock::Clock;

mod salvage;
mod steps;

use salvage::SalvageReader;
pub use salvage::{QuarantinedStream, Salvaged};
use steps::{REPORT_FILE, finish, prepare, read_unfinished};

/// The damage of a log, and what a repair would do.
#[derive(Clone, Debug)]
pub struct RepairPlan {
    pub verified: Verified,
    /// The position up to which events stay in the log.
    pub kept: Position,
    /// Whether an interrupted repair will be resumed. Then the damage is not determined again.
    pub unfinished: bool,
    /// The files that would be quarantined.
    pub quarantined: Vec<QuarantinedFile>,
    /// The readable part of these files.
    pub salvaged: Salvaged,
    /// The index files that would be rebuilt.
    pub indexes: Vec<String>,
    /// Whether `log.json` would be rebuilt from the segments' headers.
    pub log_file: bool,
    folder: String,
    identity: Identity,
    replaced: Option<ReplacedSegment>,
}

impl RepairPlan {
    /// Whether the log needs a repair.
    pub fn is_needed(&self) -> bool {
        self.moves_files() || self.unfinished || !self.indexes.is_empty()
    }

    /// The quarantine folder, within that of the log.
    pub fn folder(&self) -> &str {
        &self.folder
    }

    /// Whether the repair moves or replaces files, or ends the log before events that were acknowledged.
    fn moves_files(&self) -> bool {
        !self.quarantined.is_empty()
            || self.replaced.is_some()
            || self.log_file
            || self.verified.hole.is_some()
    }
}

/// A file that is moved out of the log unchanged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantinedFile {
    pub file: String,
    pub bytes: u64,
}

/// A segment that is replaced by its valid part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ReplacedSegment {
    first: Position,
    /// The number of bytes that are kept; `None` if a new, empty segment takes its place.
    kept: Option<u64>,
}

/// The report of a repair. An interrupted repair is resumed from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairReport {
    format: u32,
    pub log: LogId,
    pub epoch_before: u32,
    pub epoch: u32,
    pub repaired_at: Timestamp,
    /// The quarantine folder, within that of the log.
    pub folder: String,
    /// The position up to which events stayed in the log.
    pub kept: Position,
    pub damages: Vec<ReportedDamage>,
    pub quarantined: Vec<QuarantinedFile>,
    /// The segment that was replaced by its valid part.
    replaced: Option<Position>,
    #[serde(flatten)]
    pub salvaged: Salvaged,
}

/// A damage in the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedDamage {
    pub file: String,
    pub offset: u64,
    pub position: Position,
    pub what: String,
}

/// The result of a repair.
#[derive(Clone, Debug)]
pub struct Repaired {
    /// The report; `None` if only index files were rebuilt.
    pub report: Option<RepairReport>,
    /// The index files that were rebuilt.
    pub indexes: Vec<String>,
}

/// Verifies the log in the settings' folder, which no process may have open, and plans its repair. Nothing is changed.
///
/// `O(bytes)` time; holds one segment in memory, and the names of the streams that would be quarantined.
///
/// # Errors
/// [`VerifyError`] if the log could not be verified, or no file contains its identity.
pub fn plan_repair(settings: &Settings, watch: impl FnMut(Progress)) -> Result<RepairPlan, VerifyError> {
    let disk = existing_folder(settings)?;
    let _lock = disk.lock_to_read().map_err(|fault| lock_error(&disk, fault))?;
    plan_on(&disk, watch)
}

/// Repairs the log according to [`plan_repair`], or resumes an interrupted repair; `None` if there is nothing to repair. It
/// can be repeated after an error, or after a crash of the process or the machine.
///
/// # Errors
/// As [`plan_repair`], and if the disk fails or is full.
pub fn repair(
    settings: &Settings,
    clock: &Clock,
    watch: impl FnMut(Progress),
) -> Result<Option<Repaired>, VerifyError> {
    let disk = existing_folder(settings)?;
    match check_folder(&disk) {
        Err(OpenError::UnfinishedRepair { .. } | OpenError::Damaged { .. }) | Ok(()) => {}
        Err(OpenError::NotALog { folder, .. }) => return Err(VerifyError::NoLog(folder)),
        Err(error) => return Err(error.into()),
    }
    check_has_log(&disk, &disk.list()?)?;
    let _lock = disk.lock().map_err(|fault| lock_error(&disk, fault))?;
    repair_on(&disk, &settings.limits(), clock, watch)
}

pub(super) fn plan_on(disk: &Disk, watch: impl FnMut(Progress)) -> Result<RepairPlan, VerifyError> {
    let verified = match verify_locked(disk, Extent::All, watch) {
        Ok(verified) => verified,
        Err(VerifyError::Open(OpenError::UnfinishedRepair { .. })) => return unfinished_plan(disk),
        Err(error) => return Err(error),
    };
    let names = disk.list()?;
    let firsts: Vec<Position> = names.iter().filter_map(|name| position_of_name(name)).collect();
    let unidentified = || OpenError::Damaged {
        file: LOG_FILE.to_owned(),
        offset: 0,
        position: Position::START,
        what: "neither this file nor a segment contains the identity of the log".to_owned(),
        remedy: "nothing was changed; restore this file from a backup",
    };
    let identity = verified.identity.ok_or_else(unidentified)?;
    let mut plan = RepairPlan {
        kept: verified.hole.map_or(Position(verified.events), |hole| Position(hole.position.0 - 1)),
        unfinished: false,
        quarantined: Vec::new(),
        salvaged: Salvaged::default(),
        indexes: Vec::new(),
        log_file: verified.wrong_log_file,
        folder: free_folder(disk, &names)?,
        identity,
        replaced: None,
        verified,
    };
    if let Some(hole) = plan.verified.hole {
        plan_quarantine(disk, &firsts, &names, hole, &mut plan)?;
    }
    let is_kept = |first: &&Position| **first <= plan.kept && !is_quarantined(&plan, **first);
    plan.indexes =
        plan.verified.wrong_indexes.iter().filter(is_kept).map(|first| index_name(*first)).collect();
    if plan.log_file && disk.has(LOG_FILE)? {
        plan.quarantined.push(quarantined_file(disk, LOG_FILE.to_owned())?);
    }
    Ok(plan)
}

fn is_quarantined(plan: &RepairPlan, first: Position) -> bool {
    plan.quarantined.iter().any(|moved| moved.file == index_name(first) || moved.file == segment_name(first))
}

/// Plans the quarantine of everything after the hole, and determines the readable events in it.
fn plan_quarantine(
    disk: &Disk,
    firsts: &[Position],
    names: &[String],
    hole: Hole,
    plan: &mut RepairPlan,
) -> Result<(), VerifyError> {
    let after_hole = firsts.get(hole.whole..).unwrap_or_default();
    plan.replaced = match (hole.within, after_hole.first(), hole.whole) {
        (Some(kept), Some(first), _) => Some(ReplacedSegment { first: *first, kept: Some(kept) }),
        // A log has at least one segment.
        (_, _, 0) => Some(ReplacedSegment { first: Position(1), kept: None }),
        _ => None,
    };
    // The new last segment becomes the active one, which has no index file.
    let last = firsts.get(hole.whole.wrapping_sub(1)).filter(|_| hole.within.is_none());
    for first in after_hole {
        plan.quarantined.push(quarantined_file(disk, segment_name(*first))?);
    }
    for first in last.into_iter().chain(after_hole) {
        let index = index_name(*first);
        if names.contains(&index) {
            plan.quarantined.push(quarantined_file(disk, index)?);
        }
    }
    let mut salvage = SalvageReader::new(plan.identity.id, hole.position, plan.verified.acknowledged);
    for (n, first) in after_hole.iter().enumerate() {
        let from = hole.within.filter(|_| n == 0).unwrap_or(HEADER_BYTES);
        salvage.read_segment(disk, *first, from, &mut None)?;
    }
    plan.salvaged = salvage.finish();
    Ok(())
}

fn quarantined_file(disk: &Disk, file: String) -> Result<QuarantinedFile, Fault> {
    let bytes = disk.open_to_read(&file)?.len()?;
    Ok(QuarantinedFile { file, bytes })
}

/// The plan of an interrupted repair.
fn unfinished_plan(disk: &Disk) -> Result<RepairPlan, VerifyError> {
    let report = read_unfinished(disk)?;
    Ok(RepairPlan {
        verified: Verified::nothing(),
        kept: report.kept,
        unfinished: true,
        quarantined: report.quarantined,
        salvaged: report.salvaged,
        indexes: Vec::new(),
        log_file: false,
        folder: report.folder,
        identity: Identity { id: report.log, epoch: report.epoch },
        replaced: None,
    })
}

/// The first folder without the report of a finished repair. Leftovers of an interrupted repair there are overwritten.
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
    // The last writes and renames of an earlier process may be in the cache only.
    disk.sync()?;
    let plan = plan_on(disk, watch)?;
    if plan.unfinished {
        let report = read_unfinished(disk)?;
        finish(disk, &report)?;
        return Ok(Some(Repaired { report: Some(report), indexes: Vec::new() }));
    }
    for first in &plan.verified.wrong_indexes {
        if plan.indexes.contains(&index_name(*first)) {
            let file = disk.open_to_read(&segment_name(*first))?;
            let header = read_header_of(&file, Some(plan.identity.id), *first)?;
            let (index, scanned) = scan_all(&file, &header)?;
            rebuild_index_file(disk, header, &index, scanned.end)?;
        }
    }
    if !plan.moves_files() {
        let indexes = plan.indexes.clone();
        return Ok(plan.is_needed().then_some(Repaired { report: None, indexes }));
    }
    let report = prepare(disk, limits, clock, &plan)?;
    finish(disk, &report)?;
    Ok(Some(Repaired { report: Some(report), indexes: plan.indexes }))
}
