//! Fault simulation: random histories of a log on a simulated disk, each determined by its seed. A history is a series of
//! runs that meet a power cut, a failed call or a full disk, and at the end a flipped bit, a misdirected write, a lost
//! write or a lost end.
//!
//! After a power cut, a random part of the unsynced sectors, lengths and names is left; a failed write may be partial.

use std::ops::AddAssign;

use super::disk::Disk;
use super::disk::simulated::SECTOR_BYTES;
use super::harness::{Oracle, SeededRng, Violation, open, read_all, settings};
use super::head_file::HEAD_FILE;
use super::reader::Access;
use super::repair_simulation::repair_with_faults;
use super::segment::{SegmentFault, position_of_name};
use super::verify::{Extent, verify_on};
use super::writer::Writer;
use super::{FaultKind, FaultPoints, SimDisk};

/// The number of groups that one run appends without a fault.
const GROUPS: u64 = 12;
/// The approximate number of disk calls in a run. The fault is injected at one of them.
const CALLS: u64 = 160;

/// The statistics of histories without a violation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimulationStats {
    /// The number of acknowledged events.
    pub acknowledged: u64,
    /// The number of refused appends.
    pub refused: u64,
    /// The number of appends with an unknown outcome.
    pub unknown: u64,
    pub power_cuts: u64,
    pub failed_calls: u64,
    pub full_disks: u64,
    /// The number of starts that failed because of a disk fault.
    pub failed_starts: u64,
    /// The number of unacknowledged writes that a start truncated.
    pub truncated_writes: u64,
    pub flipped_bits: DamageStats,
    /// Writes that went to another offset or another file.
    pub misdirected_writes: DamageStats,
    /// Writes that the disk confirmed but never made.
    pub lost_writes: DamageStats,
    /// Newest segments that were cut, emptied or removed.
    pub lost_ends: DamageStats,
    /// The number of damaged logs that were repaired.
    pub repairs: u64,
    /// The number of faults that were injected into repairs.
    pub faults_in_repairs: u64,
    /// The number of readable events that repairs quarantined.
    pub quarantined: u64,
    /// The kinds of calls that were made, and the faults that were injected at them.
    pub fault_points: FaultPoints,
}

/// The outcomes of damage to logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DamageStats {
    /// The number of cases that verification detected.
    pub detected: u64,
    /// The number of cases without effect: the bytes are unused, or the next start restored them.
    pub harmless: u64,
}

impl AddAssign for DamageStats {
    fn add_assign(&mut self, other: Self) {
        self.detected += other.detected;
        self.harmless += other.harmless;
    }
}

impl AddAssign for SimulationStats {
    fn add_assign(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.power_cuts += other.power_cuts;
        self.failed_calls += other.failed_calls;
        self.full_disks += other.full_disks;
        self.failed_starts += other.failed_starts;
        self.truncated_writes += other.truncated_writes;
        self.flipped_bits += other.flipped_bits;
        self.misdirected_writes += other.misdirected_writes;
        self.lost_writes += other.lost_writes;
        self.lost_ends += other.lost_ends;
        self.repairs += other.repairs;
        self.faults_in_repairs += other.faults_in_repairs;
        self.quarantined += other.quarantined;
        self.fault_points |= other.fault_points;
    }
}

/// Runs the history of a seed, which is the same every time.
///
/// # Errors
/// The first violation of the log's contract.
pub fn simulate(seed: u64) -> Result<SimulationStats, Violation> {
    let mut rng = SeededRng::new(seed);
    let disk = SimDisk::new(rng.below(u64::MAX));
    let (mut oracle, mut stats) = (Oracle::default(), SimulationStats::default());
    for _ in 0..=rng.below(4) {
        run_with_fault(&disk, &mut oracle, &mut rng, &mut stats)?;
    }
    let healthy = |error: &dyn std::fmt::Display| Violation::Refused(format!("did not start: {error}"));
    let (mut writer, opened) = open(&disk, &settings()).map_err(|error| healthy(&error))?;
    stats.truncated_writes += u64::from(opened.truncated.is_some());
    oracle.check(&writer)?;
    for _ in 0..GROUPS {
        if !oracle.append(&mut writer, &mut rng)? {
            return Err(Violation::Refused("stopped".to_owned()));
        }
    }
    oracle.check(&writer)?;
    writer.mark().and_then(|()| writer.head_file.sync()).map_err(|fault| healthy(&fault))?;
    damage(&disk, &writer, &mut rng, &mut stats)?;
    stats.fault_points |= disk.fault_points();
    let outcomes = oracle.outcomes;
    (stats.acknowledged, stats.refused, stats.unknown) =
        (outcomes.acknowledged, outcomes.refused, outcomes.unknown);
    Ok(stats)
}

/// One run of the log, with a fault injected at a random call.
fn run_with_fault(
    disk: &SimDisk,
    oracle: &mut Oracle,
    rng: &mut SeededRng,
    stats: &mut SimulationStats,
) -> Result<(), Violation> {
    let kinds = [FaultKind::PowerCut, FaultKind::Error, FaultKind::Full, FaultKind::NoSpace];
    let kind = kinds[rng.below(4) as usize];
    disk.inject_fault(1 + rng.below(CALLS), kind);
    match open(disk, &settings()) {
        Err(error) if disk.has_pending_fault() => {
            return Err(Violation::Refused(format!("did not start: {error}")));
        }
        Err(_) => stats.failed_starts += 1,
        Ok((mut writer, opened)) => {
            stats.truncated_writes += u64::from(opened.truncated.is_some());
            for _ in 0..GROUPS {
                // Sometimes a time without appends precedes.
                if rng.below(8) == 0 {
                    writer.mark_or_stop();
                }
                if !oracle.append(&mut writer, rng)? {
                    break;
                }
            }
            let stopped = writer.shutdown.stopped().is_some();
            if stopped && (disk.has_pending_fault() || kind == FaultKind::Full) {
                return Err(Violation::Refused("stopped".to_owned()));
            }
            // The reads of a check would meet a fault that is still pending.
            if !stopped && disk.is_powered() && !disk.has_pending_fault() {
                oracle.check(&writer)?;
            }
        }
    }
    if !disk.has_pending_fault() {
        match kind {
            FaultKind::PowerCut => stats.power_cuts += 1,
            FaultKind::Error | FaultKind::Panic => stats.failed_calls += 1,
            FaultKind::Full | FaultKind::NoSpace => stats.full_disks += 1,
        }
    }
    disk.set_capacity(u64::MAX);
    // Either the process alone restarts, or the machine with it.
    if disk.is_powered() && rng.below(2) == 0 {
        disk.power_cycle();
    } else {
        disk.restart();
    }
    Ok(())
}

/// Flips a bit, misdirects a write, loses a write or loses the end of the log. Verification must detect it, or it must be harmless; no read may
/// return anything but what was written.
fn damage(
    disk: &SimDisk,
    writer: &Writer,
    rng: &mut SeededRng,
    stats: &mut SimulationStats,
) -> Result<(), Violation> {
    let reading = |fault: SegmentFault| Violation::Reading(fault.to_string());
    let written = read_all(writer).map_err(reading)?;
    let mut names = Disk::Simulated(disk.clone()).list().map_err(|fault| reading(fault.into()))?;
    names.push(HEAD_FILE.to_owned());
    let damaged = disk.copy(rng.below(u64::MAX));
    let (what, damage_stats) = match rng.below(5) {
        4 => (lose_end(&damaged, &names, rng), &mut stats.lost_ends),
        0 => (misdirect_write(&damaged, &names, rng), &mut stats.misdirected_writes),
        1 => (lose_write(&damaged, &names, rng), &mut stats.lost_writes),
        _ => (flip_bit(&damaged, &names, rng), &mut stats.flipped_bits),
    };
    let Some(what) = what else { return Ok(()) };
    let undetected = || Violation::Undetected(what.clone());
    let verified = verify_on(&Disk::Simulated(damaged.clone()), Extent::First, |_| {});
    let detected = !verified.is_ok_and(|verified| verified.damages.is_empty());
    *(if detected { &mut damage_stats.detected } else { &mut damage_stats.harmless }) += 1;
    if detected {
        let repaired = damaged.copy(rng.below(u64::MAX));
        repair_with_faults(&repaired, &written, rng, stats)?;
        stats.fault_points |= repaired.fault_points();
    }
    let Ok((writer, _)) = open(&damaged, &settings()) else {
        return if detected { Ok(()) } else { Err(undetected()) };
    };
    let mut readable = read_all(&writer).map(|read| read == written);
    for event in &written {
        let read = writer.view.stream(&event.stream, event.revision, 1, Access::Disk);
        readable = match (readable, read) {
            (Ok(equal), Ok(read)) => Ok(equal && read.first() == Some(event)),
            (Err(fault), _) | (_, Err(fault)) => Err(fault),
        };
    }
    match readable {
        Ok(true) => Ok(()),
        Err(_) if detected => Ok(()),
        Ok(false) | Err(_) => Err(undetected()),
    }
}

/// A random byte of a file that is not empty. Most of a file may be preallocated zeros, so in half of the cases the byte is
/// near the start.
fn random_byte(disk: &SimDisk, names: &[String], rng: &mut SeededRng) -> Option<(String, Vec<u8>, usize)> {
    let name = &names[rng.below(names.len() as u64) as usize];
    let bytes = disk.contents(name).filter(|bytes| !bytes.is_empty())?;
    let within = if rng.below(2) == 0 { bytes.len() } else { bytes.len().min(6000) };
    let at = rng.below(within as u64) as usize;
    Some((name.clone(), bytes, at))
}

fn flip_bit(disk: &SimDisk, names: &[String], rng: &mut SeededRng) -> Option<String> {
    let (name, mut bytes, at) = random_byte(disk, names, rng)?;
    bytes[at] ^= 1 << rng.below(8);
    disk.replace(&name, bytes);
    Some(format!("flipped bit of {name} at byte {at}"))
}

/// Writes some sectors to another offset of the same or another file.
fn misdirect_write(disk: &SimDisk, names: &[String], rng: &mut SeededRng) -> Option<String> {
    let (from, source, at) = random_byte(disk, names, rng)?;
    let start = at / SECTOR_BYTES * SECTOR_BYTES;
    let run = source[start..].iter().take(SECTOR_BYTES * (1 + rng.below(4) as usize)).copied();
    let run: Vec<u8> = run.collect();
    let (to, mut bytes, at) = random_byte(disk, names, rng)?;
    let target = at / SECTOR_BYTES * SECTOR_BYTES;
    if bytes.len() < target + run.len() || bytes[target..target + run.len()] == run[..] {
        return None;
    }
    bytes[target..target + run.len()].copy_from_slice(&run);
    disk.replace(&to, bytes);
    Some(format!("write for {from} at byte {start} to {to} at byte {target}"))
}

fn lose_write(disk: &SimDisk, names: &[String], rng: &mut SeededRng) -> Option<String> {
    let (name, mut bytes, at) = random_byte(disk, names, rng)?;
    let start = at / SECTOR_BYTES * SECTOR_BYTES;
    let end = (start + SECTOR_BYTES * (1 + rng.below(4) as usize)).min(bytes.len());
    bytes[start..end].fill(0);
    disk.replace(&name, bytes);
    Some(format!("write that never reached {name} at bytes {start} to {end}"))
}

/// Cuts, empties or removes the newest segment.
fn lose_end(disk: &SimDisk, names: &[String], rng: &mut SeededRng) -> Option<String> {
    let name = names.iter().rfind(|name| position_of_name(name).is_some())?;
    let mut bytes = disk.contents(name)?;
    let len = match rng.below(4) {
        0 => {
            disk.delete(name);
            return Some(format!("removal of {name}"));
        }
        1 => 0,
        _ => rng.below(bytes.len() as u64),
    };
    bytes.truncate(usize::try_from(len).unwrap_or(0));
    disk.replace(name, bytes);
    Some(format!("cut of {name} to {len} bytes"))
}
