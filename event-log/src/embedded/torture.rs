//! Whole histories of a log on a simulated disk, drawn from a seed: lives that end by power cuts, failing calls, full
//! disks or nothing at all, and at the end a changed bit.
//!
//! A power cut keeps of what was not synced some sectors, lengths and names by lot; a failing write is done in part.

use std::ops::AddAssign;

use super::disk::Disk;
use super::mending::mend;
use super::reader::Access;
use super::rig::{Broken, Lots, Witness, open, read_all, settings};
use super::segment::SegmentFault;
use super::verify::{Extent, verify_on};
use super::writer::Writer;
use super::{SimDisk, Trouble};

/// Groups that one life appends, if nothing stops it.
const GROUPS: u64 = 12;
/// A life makes about as many calls to its disk: trouble comes at one of them, or just not.
const CALLS: u64 = 160;

/// What happened in some histories, none of which broke a promise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Events.
    pub acknowledged: u64,
    /// Appends that were answered with a refusal.
    pub refused: u64,
    /// Appends whose outcome the log could not tell.
    pub unknown: u64,
    pub power_cuts: u64,
    pub failed_calls: u64,
    pub full_disks: u64,
    /// Starts that failed because their disk did.
    pub refused_starts: u64,
    /// Unacknowledged writes that a start took out and kept aside.
    pub cut_writes: u64,
    /// Changed bits that verifying found.
    pub bits_found: u64,
    /// Changed bits where nothing is stored, or that a start made good.
    pub bits_harmless: u64,
    /// Damaged logs that were repaired, and the faults that the repairs met on the way.
    pub repairs: u64,
    pub faults_in_repairs: u64,
    /// Events that repairs set aside, readable.
    pub set_aside: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.power_cuts += other.power_cuts;
        self.failed_calls += other.failed_calls;
        self.full_disks += other.full_disks;
        self.refused_starts += other.refused_starts;
        self.cut_writes += other.cut_writes;
        self.bits_found += other.bits_found;
        self.bits_harmless += other.bits_harmless;
        self.repairs += other.repairs;
        self.faults_in_repairs += other.faults_in_repairs;
        self.set_aside += other.set_aside;
    }
}

/// Plays the history of a seed, which is the same every time.
///
/// # Errors
/// The first promise that was not kept.
pub fn torture(seed: u64) -> Result<Tally, Broken> {
    let mut lots = Lots::new(seed);
    let disk = SimDisk::new(lots.below(u64::MAX));
    let (mut witness, mut tally) = (Witness::default(), Tally::default());
    for _ in 0..=lots.below(4) {
        troubled_life(&disk, &mut witness, &mut lots, &mut tally)?;
    }
    let healthy = |error: &dyn std::fmt::Display| Broken::Refused(format!("did not start: {error}"));
    let (mut writer, opened) = open(&disk, &settings()).map_err(|error| healthy(&error))?;
    tally.cut_writes += u64::from(opened.cut.is_some());
    witness.check(&writer)?;
    for _ in 0..GROUPS {
        if !witness.append(&mut writer, &mut lots)? {
            return Err(Broken::Refused("stopped".to_owned()));
        }
    }
    witness.check(&writer)?;
    writer.mark().map_err(|fault| healthy(&fault))?;
    // What nothing confirms yet looks like a write that was cut short: the one gap that `docs/log-format.md` names.
    if writer.marked {
        change_a_bit(&disk, &writer, &mut lots, &mut tally)?;
    }
    let answers = witness.answers;
    (tally.acknowledged, tally.refused, tally.unknown) =
        (answers.acknowledged, answers.refused, answers.unknown);
    Ok(tally)
}

fn troubled_life(
    disk: &SimDisk,
    witness: &mut Witness,
    lots: &mut Lots,
    tally: &mut Tally,
) -> Result<(), Broken> {
    let kinds = [Trouble::PowerCut, Trouble::Error, Trouble::Full, Trouble::NoRoom];
    let trouble = kinds[lots.below(4) as usize];
    disk.trouble_at(1 + lots.below(CALLS), trouble);
    match open(disk, &settings()) {
        Err(error) if disk.has_trouble() => {
            return Err(Broken::Refused(format!("did not start: {error}")));
        }
        Err(_) => tally.refused_starts += 1,
        Ok((mut writer, opened)) => {
            tally.cut_writes += u64::from(opened.cut.is_some());
            for _ in 0..GROUPS {
                if !witness.append(&mut writer, lots)? {
                    break;
                }
            }
            let stopped = writer.latch.stopped().is_some();
            if stopped && (disk.has_trouble() || trouble == Trouble::Full) {
                return Err(Broken::Refused("stopped".to_owned()));
            }
            // A read would meet trouble that is still to come.
            if !stopped && disk.is_powered() && !disk.has_trouble() {
                witness.check(&writer)?;
            }
        }
    }
    if !disk.has_trouble() {
        match trouble {
            Trouble::PowerCut => tally.power_cuts += 1,
            Trouble::Error | Trouble::Panic => tally.failed_calls += 1,
            Trouble::Full | Trouble::NoRoom => tally.full_disks += 1,
        }
    }
    disk.set_capacity(u64::MAX);
    // The process alone may start again, or the machine with it.
    if disk.is_powered() && lots.below(2) == 0 {
        disk.power_cycle();
    } else {
        disk.restart();
    }
    Ok(())
}

/// A bit of any file changes. It is found by verifying, or does no harm; nobody ever reads anything else than what was
/// written.
fn change_a_bit(disk: &SimDisk, writer: &Writer, lots: &mut Lots, tally: &mut Tally) -> Result<(), Broken> {
    let reading = |fault: SegmentFault| Broken::Reading(fault.to_string());
    let written = read_all(writer).map_err(reading)?;
    let names = Disk::Simulated(disk.clone()).list().map_err(|fault| reading(fault.into()))?;
    let name = &names[lots.below(names.len() as u64) as usize];
    let mut bytes = disk.contents(name).unwrap_or_default();
    if bytes.is_empty() {
        return Ok(());
    }
    // Most of a file may be room; its start is looked at as often as all of it.
    let within = if lots.below(2) == 0 { bytes.len() } else { bytes.len().min(6000) };
    let at = lots.below(within as u64) as usize;
    bytes[at] ^= 1 << lots.below(8);
    let changed = disk.copy(lots.below(u64::MAX));
    changed.replace(name, bytes);

    let unnoticed = || Broken::Unnoticed(format!("{name} at byte {at}"));
    let verified = verify_on(&Disk::Simulated(changed.clone()), Extent::First, |_| {});
    let found = !verified.is_ok_and(|verified| verified.damages.is_empty());
    if found {
        tally.bits_found += 1;
    } else {
        tally.bits_harmless += 1;
    }
    if found {
        mend(&changed.copy(lots.below(u64::MAX)), &written, lots, tally)?;
    }
    let Ok((writer, _)) = open(&changed, &settings()) else {
        return if found { Ok(()) } else { Err(unnoticed()) };
    };
    let mut readable = read_all(&writer).map(|read| read == written);
    for event in &written {
        let read = writer.shelf.stream(&event.stream, event.revision, 1, Access::Disk);
        readable = match (readable, read) {
            (Ok(equal), Ok(read)) => Ok(equal && read.first() == Some(event)),
            (Err(fault), _) | (_, Err(fault)) => Err(fault),
        };
    }
    match readable {
        Ok(true) => Ok(()),
        Err(_) if found => Ok(()),
        Ok(false) | Err(_) => Err(unnoticed()),
    }
}
