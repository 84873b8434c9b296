//! Repairs of a damaged log on a simulated disk that fails, fills up and loses its power meanwhile, and what must hold after
//! the one that gets to its end.

use std::collections::{BTreeMap, BTreeSet};

use event_schemas::envelope::Recorded;
use event_schemas::ids::Position;

use super::disk::Disk;
use super::recovery::{LOG_FILE, REPAIR_FILE};
use super::repair::{Plan, Repaired, plan_on, repair_on};
use super::rig::{Broken, Lots, Witness, open, read_all, settings};
use super::segment::INDEX_SUFFIX;
use super::torture::Tally;
use super::verify::{Extent, VerifyError, verify_on};
use super::{OpenError, SimDisk, Trouble};
use crate::clock::Clock;
use crate::cloud_event;

/// A repair of a log of a few segments makes about as many calls.
const CALLS: u64 = 250;

fn broken(what: impl Into<String>) -> Broken {
    Broken::Repair(what.into())
}

/// Repairs a damaged log whose events were once `written`, on a disk that fails meanwhile.
pub(super) fn mend(
    disk: &SimDisk,
    written: &[Recorded],
    lots: &mut Lots,
    tally: &mut Tally,
) -> Result<(), Broken> {
    match plan_on(&Disk::Simulated(disk.clone()), |_| {}) {
        Ok(planned) => mend_as(&planned, disk, written, lots, tally),
        // Written by a newer version, as far as can be told: not ours to repair.
        Err(_) => Ok(()),
    }
}

/// As [`mend`], where what is to come of it is known already.
pub(super) fn mend_as(
    planned: &Plan,
    disk: &SimDisk,
    written: &[Recorded],
    lots: &mut Lots,
    tally: &mut Tally,
) -> Result<(), Broken> {
    let before = files(disk);
    for _ in 0..lots.below(4) {
        let kinds = [Trouble::PowerCut, Trouble::Error, Trouble::NoRoom];
        disk.trouble_at(1 + lots.below(CALLS), kinds[lots.below(3) as usize]);
        let ended = repair_once(disk);
        if disk.has_trouble() {
            ended.map_err(|error| broken(format!("failed on a disk without fault: {error}")))?;
        } else {
            tally.faults_in_repairs += 1;
        }
        if disk.is_powered() && lots.below(2) == 0 {
            disk.power_cycle();
        } else {
            disk.restart();
        }
        untouched(disk, &before)?;
    }
    repair_once(disk).map_err(|error| broken(format!("failed on a disk without fault: {error}")))?;
    disk.power_cycle();
    untouched(disk, &before)?;
    if let Some(again) =
        repair_once(disk).map_err(|error| broken(format!("cannot be called twice: {error}")))?
    {
        return Err(broken(format!("found something to do in what it had repaired: {again:?}")));
    }
    tally.repairs += 1;
    tally.set_aside += planned.salvaged.readable;
    sound(disk, planned.kept)?;
    accounted_for(disk, written, planned.kept, planned.salvaged.lost())
}

pub(super) fn repair_once(disk: &SimDisk) -> Result<Option<Repaired>, VerifyError> {
    let clock = Clock::manual(event_schemas::time::Timestamp::from_micros(1_900_000_000_000_000));
    repair_on(&Disk::Simulated(disk.clone()), &settings().limits(), &clock, |_| {})
}

/// All files, wherever they are.
fn files(disk: &SimDisk) -> BTreeMap<String, Vec<u8>> {
    disk.names().into_iter().filter_map(|name| disk.contents(&name).map(|bytes| (name, bytes))).collect()
}

/// Every byte that was there is there: in its file, or in that file in a folder of what was set aside.
fn untouched(disk: &SimDisk, before: &BTreeMap<String, Vec<u8>>) -> Result<(), Broken> {
    let now = files(disk);
    // A repair that broke off before its first step may have left copies behind, which the next one writes over; what it
    // was about to do becomes its report.
    let is_copy = |name: &str| {
        let copies = ["/events.ndjson", "/log.json", REPAIR_FILE, ".tmp"];
        copies.iter().any(|copy| name.ends_with(copy))
    };
    for (name, bytes) in before.iter().filter(|(name, _)| !is_copy(name)) {
        let kept = now
            .iter()
            .any(|(place, there)| there == bytes && (place == name || place.ends_with(&format!("/{name}"))));
        // What is derived may be made anew in its place.
        let made_anew = name.ends_with(INDEX_SUFFIX) && now.contains_key(name);
        if !kept && !made_anew {
            return Err(broken(format!("lost bytes of {name}")));
        }
    }
    Ok(())
}

/// The log is whole again, ends where it should, and can be opened and written to.
fn sound(disk: &SimDisk, kept: Position) -> Result<(), Broken> {
    let copy = disk.copy(kept.0);
    let verified = verify_on(&Disk::Simulated(copy.clone()), Extent::All, |_| {})
        .map_err(|error| broken(format!("left a log that cannot be read: {error}")))?;
    if let Some(damage) = verified.damages.first() {
        return Err(broken(format!("left {damage:?}")));
    }
    let (mut writer, opened) =
        open(&copy, &settings()).map_err(|error: OpenError| broken(format!("left a closed log: {error}")))?;
    if opened.events != kept.0 || opened.cut.is_some_and(|cut| cut.position.0 != kept.0 + 1) {
        return Err(broken(format!("kept {} events instead of {kept}", opened.events)));
    }
    let (mut witness, mut lots) = (Witness::after(&writer)?, Lots::new(kept.0));
    for _ in 0..6 {
        if !witness.append(&mut writer, &mut lots)? {
            return Err(broken("left a log that stops"));
        }
    }
    drop(writer);
    copy.power_cycle();
    let (writer, _) = open(&copy, &settings())
        .map_err(|error| broken(format!("left a log that cannot be opened twice: {error}")))?;
    witness.check(&writer)
}

/// Whether an event is of a write that a start took out of the log: its bytes may have strayed back.
fn was_cut_off(disk: &SimDisk, event: &Recorded) -> bool {
    let mut cut = files(disk).into_iter().filter(|(name, _)| name.starts_with("cut-before-"));
    cut.any(|(_, bytes)| bytes.windows(16).any(|window| window == event.id.0.as_bytes()))
}

/// Each event that was written is in the log, or readable in what was set aside, or counted as lost.
fn accounted_for(disk: &SimDisk, written: &[Recorded], kept: Position, lost: u64) -> Result<(), Broken> {
    let (writer, _) = open(&disk.copy(1), &settings()).map_err(|error| broken(error.to_string()))?;
    let read = read_all(&writer).map_err(|fault| broken(fault.to_string()))?;
    let stay = usize::try_from(kept.0).unwrap_or(usize::MAX);
    if written.get(..stay) != Some(&read[..]) {
        return Err(broken("changed an event that stayed"));
    }
    let mut aside = BTreeSet::new();
    for (name, lines) in files(disk).iter().filter(|(name, _)| name.ends_with("/events.ndjson")) {
        for line in String::from_utf8_lossy(lines).lines() {
            let event = cloud_event::read_line(line.as_bytes())
                .map_err(|error| broken(format!("wrote {name}: {error}")))?;
            let position = event.position.0;
            let was = usize::try_from(position).ok().and_then(|at| written.get(at.checked_sub(1)?));
            if was != Some(&event) && !was_cut_off(disk, &event) {
                return Err(broken(format!("made up an event at position {position}: {event:?}")));
            }
            aside.insert(position);
        }
    }
    let missing = (kept.0 + 1..=written.len() as u64).filter(|position| !aside.contains(position)).count();
    if missing as u64 > lost {
        return Err(broken(format!("lost {missing} events and says {lost}")));
    }
    let log: serde_json::Value = serde_json::from_slice(&disk.contents(LOG_FILE).unwrap_or_default())
        .map_err(|error| broken(format!("wrote {LOG_FILE}: {error}")))?;
    if !aside.is_empty() && log["epoch"] == 0 {
        return Err(broken("gives positions out again in the same epoch"));
    }
    Ok(())
}
