//! Whole histories of a log on a simulated disk, drawn from a seed: lives that end by power cuts, failing calls, full
//! disks or nothing at all, and at the end a changed bit, a write that went astray, or one that never came.
//!
//! A power cut keeps of what was not synced some sectors, lengths and names by lot; a failing write is done in part.

use std::ops::AddAssign;

use super::disk::Disk;
use super::disk::simulated::SECTOR_BYTES;
use super::mending::mend;
use super::reader::Access;
use super::record::{GROUP_HEADER_BYTES, GROUP_TRAILER_BYTES};
use super::rig::{Broken, Lots, Witness, open, read_all, settings};
use super::segment::SegmentFault;
use super::verify::{Extent, verify_on};
use super::writer::Writer;
use super::{Points, SimDisk, Trouble};

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
    pub changed_bits: Damaged,
    /// Writes that went to another place, or another file, than they should.
    pub misdirected_writes: Damaged,
    /// Sectors that the disk confirmed and never wrote.
    pub lost_writes: Damaged,
    /// Damaged logs that were repaired, and the faults that the repairs met on the way.
    pub repairs: u64,
    pub faults_in_repairs: u64,
    /// Events that repairs set aside, readable.
    pub set_aside: u64,
    /// Which kinds of calls were made, and what came at them.
    pub points: Points,
}

/// What became of damage that was done to logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Damaged {
    /// Verifying found it.
    pub found: u64,
    /// Nothing is stored there, or a start made it good.
    pub harmless: u64,
}

impl AddAssign for Damaged {
    fn add_assign(&mut self, other: Self) {
        self.found += other.found;
        self.harmless += other.harmless;
    }
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
        self.changed_bits += other.changed_bits;
        self.misdirected_writes += other.misdirected_writes;
        self.lost_writes += other.lost_writes;
        self.repairs += other.repairs;
        self.faults_in_repairs += other.faults_in_repairs;
        self.set_aside += other.set_aside;
        self.points |= other.points;
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
        damage(&disk, &writer, &mut lots, &mut tally)?;
    }
    tally.points |= disk.points();
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
                // It was quiet for a while.
                if lots.below(8) == 0 {
                    writer.mark_or_stop();
                }
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

/// A bit of any file changes, a write goes to another place, or sectors are not written that the disk confirmed. It is found
/// by verifying, or does no harm; nobody ever reads anything else than what was written.
fn damage(disk: &SimDisk, writer: &Writer, lots: &mut Lots, tally: &mut Tally) -> Result<(), Broken> {
    let reading = |fault: SegmentFault| Broken::Reading(fault.to_string());
    let written = read_all(writer).map_err(reading)?;
    let names = Disk::Simulated(disk.clone()).list().map_err(|fault| reading(fault.into()))?;
    let changed = disk.copy(lots.below(u64::MAX));
    let (what, sum) = match lots.below(4) {
        0 => (misdirect_a_write(&changed, &names, lots), &mut tally.misdirected_writes),
        1 => (lose_a_write(&changed, &names, lots), &mut tally.lost_writes),
        _ => (change_a_bit(&changed, &names, lots), &mut tally.changed_bits),
    };
    let Some(what) = what else { return Ok(()) };
    let unnoticed = || Broken::Unnoticed(what.clone());
    let verified = verify_on(&Disk::Simulated(changed.clone()), Extent::First, |_| {});
    let found = !verified.is_ok_and(|verified| verified.damages.is_empty());
    *(if found { &mut sum.found } else { &mut sum.harmless }) += 1;
    if found {
        let damaged = changed.copy(lots.below(u64::MAX));
        mend(&damaged, &written, lots, tally)?;
        tally.points |= damaged.points();
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

/// A place in a file that is not empty. Most of a file may be room; its start is looked at as often as all of it.
fn place(disk: &SimDisk, names: &[String], lots: &mut Lots) -> Option<(String, Vec<u8>, usize)> {
    let name = &names[lots.below(names.len() as u64) as usize];
    let bytes = disk.contents(name).filter(|bytes| !bytes.is_empty())?;
    let within = if lots.below(2) == 0 { bytes.len() } else { bytes.len().min(6000) };
    let at = lots.below(within as u64) as usize;
    Some((name.clone(), bytes, at))
}

fn change_a_bit(disk: &SimDisk, names: &[String], lots: &mut Lots) -> Option<String> {
    let (name, mut bytes, at) = place(disk, names, lots)?;
    bytes[at] ^= 1 << lots.below(8);
    disk.replace(&name, bytes);
    Some(format!("changed bit of {name} at byte {at}"))
}

/// Some sectors of one place are found at another, of the same file or of another one.
fn misdirect_a_write(disk: &SimDisk, names: &[String], lots: &mut Lots) -> Option<String> {
    let (from, source, at) = place(disk, names, lots)?;
    let start = at / SECTOR_BYTES * SECTOR_BYTES;
    let run = source[start..].iter().take(SECTOR_BYTES * (1 + lots.below(4) as usize)).copied();
    let run: Vec<u8> = run.collect();
    let (to, mut bytes, place) = place(disk, names, lots)?;
    let place = place / SECTOR_BYTES * SECTOR_BYTES;
    if bytes.len() < place + run.len()
        || bytes[place..place + run.len()] == run[..]
        || ends_in(&bytes, place, run.len())
    {
        return None;
    }
    bytes[place..place + run.len()].copy_from_slice(&run);
    disk.replace(&to, bytes);
    Some(format!("write for {from} at byte {start} to {to} at byte {place}"))
}

fn lose_a_write(disk: &SimDisk, names: &[String], lots: &mut Lots) -> Option<String> {
    let (name, mut bytes, at) = place(disk, names, lots)?;
    let start = at / SECTOR_BYTES * SECTOR_BYTES;
    let end = (start + SECTOR_BYTES * (1 + lots.below(4) as usize)).min(bytes.len());
    if ends_in(&bytes, start, end - start) {
        return None;
    }
    bytes[start..end].fill(0);
    disk.replace(&name, bytes);
    Some(format!("write that never reached {name} at bytes {start} to {end}"))
}

/// Whether a run of sectors touches the last mark that was written to a file. What is gone together with all signs of it was
/// never there, as far as anyone can tell: the one gap that `docs/log-format.md` names.
fn ends_in(bytes: &[u8], start: usize, len: usize) -> bool {
    let last = bytes.iter().rposition(|byte| *byte != 0);
    last.is_none_or(|last| start <= last && last < start + len + MARK_BYTES)
}

/// A group without events.
const MARK_BYTES: usize = GROUP_HEADER_BYTES + GROUP_TRAILER_BYTES;
