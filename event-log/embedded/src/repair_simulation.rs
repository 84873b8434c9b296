//! Repair simulation: repairs of a damaged log on a simulated disk with injected faults, and the checks after a repair that
//! has completed.

use std::collections::{BTreeMap, BTreeSet};

use event_schemas::envelope::Recorded;
use event_schemas::ids::Position;

use super::disk::Disk;
use super::harness::{Oracle, SeededRng, Violation, open, read_all, settings};
use super::recovery::{LOG_FILE, REPAIR_FILE, TRUNCATED_PREFIX};
use super::repair::{RepairPlan, Repaired, plan_on, repair_on};
use super::segment::INDEX_SUFFIX;
use super::simulate::SimulationStats;
use super::verify::{Extent, VerifyError, verify_on};
use super::{FaultKind, OpenError, SimDisk};
use event_log::clock::Clock;
use event_log::cloud_event;

/// The approximate number of disk calls in a repair of a log of a few segments.
const CALLS: u64 = 250;

fn violation(what: impl Into<String>) -> Violation {
    Violation::Repair(what.into())
}

/// Repairs a damaged log, whose events were originally `written`, on a disk with injected faults.
pub(super) fn repair_with_faults(
    disk: &SimDisk,
    written: &[Recorded],
    rng: &mut SeededRng,
    stats: &mut SimulationStats,
) -> Result<(), Violation> {
    match plan_on(&Disk::Simulated(disk.clone()), |_| {}) {
        Ok(planned) => repair_planned_with_faults(&planned, disk, written, rng, stats),
        // The damage looks like a newer format, which cannot be repaired.
        Err(_) => Ok(()),
    }
}

/// As [`repair_with_faults`], with a known plan.
pub(super) fn repair_planned_with_faults(
    planned: &RepairPlan,
    disk: &SimDisk,
    written: &[Recorded],
    rng: &mut SeededRng,
    stats: &mut SimulationStats,
) -> Result<(), Violation> {
    let before = files(disk);
    for _ in 0..rng.below(4) {
        let kinds = [FaultKind::PowerCut, FaultKind::Error, FaultKind::NoSpace];
        disk.inject_fault(1 + rng.below(CALLS), kinds[rng.below(3) as usize]);
        let outcome = repair_once(disk);
        if disk.has_pending_fault() {
            outcome.map_err(|error| violation(format!("failed on a disk without a fault: {error}")))?;
        } else {
            stats.faults_in_repairs += 1;
        }
        if disk.is_powered() && rng.below(2) == 0 {
            disk.power_cycle();
        } else {
            disk.restart();
        }
        check_files_kept(disk, &before)?;
    }
    repair_once(disk).map_err(|error| violation(format!("failed on a disk without a fault: {error}")))?;
    disk.power_cycle();
    check_files_kept(disk, &before)?;
    if let Some(again) =
        repair_once(disk).map_err(|error| violation(format!("failed when it was repeated: {error}")))?
    {
        return Err(violation(format!("found further damage in a repaired log: {again:?}")));
    }
    stats.repairs += 1;
    stats.quarantined += planned.salvaged.readable;
    check_log(disk, planned.kept)?;
    check_events(disk, written, planned.kept, planned.salvaged.lost())
}

pub(super) fn repair_once(disk: &SimDisk) -> Result<Option<Repaired>, VerifyError> {
    let clock = Clock::manual(event_schemas::time::Timestamp::from_micros(1_900_000_000_000_000));
    repair_on(&Disk::Simulated(disk.clone()), &settings().limits(), &clock, |_| {})
}

/// All files, in all folders.
fn files(disk: &SimDisk) -> BTreeMap<String, Vec<u8>> {
    disk.names().into_iter().filter_map(|name| disk.contents(&name).map(|bytes| (name, bytes))).collect()
}

/// Checks that every file still exists unchanged: under its name, or under that name in a quarantine folder.
fn check_files_kept(disk: &SimDisk, before: &BTreeMap<String, Vec<u8>>) -> Result<(), Violation> {
    let now = files(disk);
    // A repair that was interrupted before its first step may have left copies, which the next one overwrites; its plan
    // becomes its report.
    let is_copy = |name: &str| {
        let copies = ["/events.ndjson", "/log.json", REPAIR_FILE, ".tmp"];
        copies.iter().any(|copy| name.ends_with(copy))
    };
    for (name, bytes) in before.iter().filter(|(name, _)| !is_copy(name)) {
        let kept = now
            .iter()
            .any(|(path, content)| content == bytes && (path == name || path.ends_with(&format!("/{name}"))));
        // An index file is derived data and may be rebuilt in place.
        let rebuilt = name.ends_with(INDEX_SUFFIX) && now.contains_key(name);
        if !kept && !rebuilt {
            return Err(violation(format!("lost bytes of {name}")));
        }
    }
    Ok(())
}

/// Checks that the log is valid, ends at the planned position, and can be opened and appended to.
fn check_log(disk: &SimDisk, kept: Position) -> Result<(), Violation> {
    let copy = disk.copy(kept.0);
    let verified = verify_on(&Disk::Simulated(copy.clone()), Extent::All, |_| {})
        .map_err(|error| violation(format!("left a log that cannot be read: {error}")))?;
    if let Some(damage) = verified.damages.first() {
        return Err(violation(format!("left {damage:?}")));
    }
    let (mut writer, opened) = open(&copy, &settings())
        .map_err(|error: OpenError| violation(format!("left a log that does not open: {error}")))?;
    if opened.events != kept.0 || opened.truncated.is_some_and(|write| write.position.0 != kept.0 + 1) {
        return Err(violation(format!("kept {} events instead of {kept}", opened.events)));
    }
    let (mut oracle, mut rng) = (Oracle::after(&writer)?, SeededRng::new(kept.0));
    for _ in 0..6 {
        if !oracle.append(&mut writer, &mut rng)? {
            return Err(violation("left a log that stops"));
        }
    }
    drop(writer);
    copy.power_cycle();
    let (writer, _) = open(&copy, &settings())
        .map_err(|error| violation(format!("left a log that cannot be opened twice: {error}")))?;
    oracle.check(&writer)
}

/// Whether an event is from a write that a start truncated: a misdirected write may have brought its bytes back.
fn was_truncated(disk: &SimDisk, event: &Recorded) -> bool {
    let mut truncated = files(disk).into_iter().filter(|(name, _)| name.starts_with(TRUNCATED_PREFIX));
    truncated.any(|(_, bytes)| bytes.windows(16).any(|window| window == event.id.0.as_bytes()))
}

/// Checks that each written event is in the log, or readable in the quarantine, or counted as lost.
fn check_events(disk: &SimDisk, written: &[Recorded], kept: Position, lost: u64) -> Result<(), Violation> {
    let (writer, _) = open(&disk.copy(1), &settings()).map_err(|error| violation(error.to_string()))?;
    let read = read_all(&writer).map_err(|fault| violation(fault.to_string()))?;
    let kept_events = usize::try_from(kept.0).unwrap_or(usize::MAX);
    if written.get(..kept_events) != Some(&read[..]) {
        return Err(violation("changed an event that it kept"));
    }
    let mut quarantined = BTreeSet::new();
    for (name, lines) in files(disk).iter().filter(|(name, _)| name.ends_with("/events.ndjson")) {
        for line in String::from_utf8_lossy(lines).lines() {
            let event = cloud_event::read_line(line.as_bytes())
                .map_err(|error| violation(format!("wrote {name}: {error}")))?;
            let position = event.position.0;
            let was = usize::try_from(position).ok().and_then(|at| written.get(at.checked_sub(1)?));
            if was != Some(&event) && !was_truncated(disk, &event) {
                return Err(violation(format!("invented an event at position {position}: {event:?}")));
            }
            quarantined.insert(position);
        }
    }
    let missing =
        (kept.0 + 1..=written.len() as u64).filter(|position| !quarantined.contains(position)).count();
    if missing as u64 > lost {
        return Err(violation(format!("lost {missing} events and reports {lost}")));
    }
    let log: serde_json::Value = serde_json::from_slice(&disk.contents(LOG_FILE).unwrap_or_default())
        .map_err(|error| violation(format!("wrote {LOG_FILE}: {error}")))?;
    if !quarantined.is_empty() && log["epoch"] == 0 {
        return Err(violation("assigns positions again in the same epoch"));
    }
    Ok(())
}
