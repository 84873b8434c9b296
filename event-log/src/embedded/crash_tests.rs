//! Power cuts, failing calls and full disks, at every call.

use super::rig::{Lots, Witness, open, settings};
use super::writer::Writer;
use super::{OpenError, SimDisk, Stopped, Tally, Trouble, torture};

const GROUPS: u64 = 12;

/// A life of a log: opened, checked, appended to until the disk fails, and closed if it did not.
fn live(disk: &SimDisk, witness: &mut Witness, lots: &mut Lots) -> Result<Option<Writer>, OpenError> {
    let (mut writer, _) = open(disk, &settings())?;
    // A check reads as well, and would fail with the disk.
    if !disk.has_trouble() && disk.is_powered() {
        witness.check(&writer).unwrap();
    }
    for _ in 0..GROUPS {
        if !witness.append(&mut writer, lots).unwrap() {
            return Ok(None);
        }
    }
    Ok(Some(writer))
}

/// How many calls a life of this seed makes when nothing goes wrong.
fn calls_of(seed: u64) -> u64 {
    let disk = SimDisk::new(seed);
    live(&disk, &mut Witness::default(), &mut Lots::new(seed)).unwrap().unwrap();
    disk.calls()
}

#[test]
fn a_seed_gives_the_same_run_every_time() {
    assert_eq!(calls_of(3), calls_of(3));
}

#[test]
fn a_power_cut_at_any_call_loses_nothing_acknowledged_and_makes_nothing_up() {
    for seed in 0..60 {
        let calls = calls_of(seed);
        // Every call of the first seeds, and a part of those of the others.
        let step = if seed < 2 { 1 } else { 17 };
        for call in (1 + seed % step..=calls).step_by(usize::try_from(step).unwrap()) {
            let disk = SimDisk::new(seed * 10_007 + call);
            let (mut witness, mut lots) = (Witness::default(), Lots::new(seed));
            disk.trouble_at(call, Trouble::PowerCut);
            // Not even opening may have been possible.
            let _ = live(&disk, &mut witness, &mut lots);
            disk.restart();
            check_lives(&disk, &mut witness, &mut lots, &format!("seed {seed}, call {call}"));
        }
    }
}

/// Two further lives, each of which begins with a power cut while it recovers.
fn check_lives(disk: &SimDisk, witness: &mut Witness, lots: &mut Lots, what: &str) {
    for _ in 0..2 {
        disk.trouble_at(1 + lots.below(40), Trouble::PowerCut);
        let _ = live(disk, witness, lots);
        disk.restart();
    }
    match live(disk, witness, lots) {
        Ok(Some(writer)) => witness.check(&writer).unwrap_or_else(|broken| panic!("{what}: {broken}")),
        Ok(None) => panic!("{what}: the log stopped on a disk without fault"),
        Err(error) => panic!("{what}: {error}"),
    }
}

#[test]
fn a_failing_call_is_final_and_loses_nothing_acknowledged() {
    for seed in 0..3 {
        for call in 1..=calls_of(seed) {
            let disk = SimDisk::new(seed * 10_007 + call);
            let (mut witness, mut lots) = (Witness::default(), Lots::new(seed));
            disk.trouble_at(call, Trouble::Error);
            match open(&disk, &settings()) {
                Err(OpenError::Io(_)) => {}
                Err(other) => panic!("seed {seed}, call {call}: {other}"),
                Ok((mut writer, _)) => {
                    while disk.has_trouble() && witness.append(&mut writer, &mut lots).unwrap() {}
                    if !disk.has_trouble() {
                        let stopped = writer.latch.stopped();
                        assert!(matches!(stopped, Some(Stopped::Failed { .. })), "seed {seed}, call {call}");
                    }
                }
            }
            // The process starts again; what the disk kept back shows only when the power fails afterwards.
            let (writer, _) = open(&disk, &settings()).unwrap();
            witness.check(&writer).unwrap();
            if call % 2 == 0 {
                let mut writer = writer;
                assert!(witness.append(&mut writer, &mut lots).unwrap());
            }
            disk.power_cycle();
            check_lives(&disk, &mut witness, &mut lots, &format!("seed {seed}, call {call}"));
        }
    }
}

#[test]
fn a_full_disk_refuses_appends_reads_on_and_comes_back_by_itself() {
    let seed = 1;
    for call in 1..=calls_of(seed) {
        let disk = SimDisk::new(seed * 10_007 + call);
        let (mut witness, mut lots) = (Witness::default(), Lots::new(seed));
        disk.trouble_at(call, Trouble::Full);
        let mut writer = match open(&disk, &settings()) {
            Ok((writer, _)) => writer,
            Err(OpenError::Full { .. } | OpenError::Io(_)) => {
                disk.set_capacity(u64::MAX);
                open(&disk, &settings()).unwrap().0
            }
            Err(other) => panic!("call {call}: {other}"),
        };
        for _ in 0..GROUPS {
            assert!(
                witness.append(&mut writer, &mut lots).unwrap(),
                "call {call}: a full disk does not stop the log"
            );
            witness.check(&writer).unwrap();
        }
        let full = writer.shelf.durable();
        disk.set_capacity(u64::MAX);
        for _ in 0..GROUPS {
            assert!(witness.append(&mut writer, &mut lots).unwrap());
        }
        assert!(writer.shelf.durable() > full, "call {call}: appending came back");
        witness.check(&writer).unwrap();
        disk.power_cycle();
        check_lives(&disk, &mut witness, &mut lots, &format!("call {call}"));
    }
}

#[test]
fn a_call_that_finds_no_room_once_is_final_or_passes_by_itself() {
    let mut passed = 0;
    for seed in 0..2 {
        for call in 1..=calls_of(seed) {
            let disk = SimDisk::new(seed * 10_007 + call);
            let (mut witness, mut lots) = (Witness::default(), Lots::new(seed));
            disk.trouble_at(call, Trouble::NoRoom);
            let Ok((mut writer, _)) = open(&disk, &settings()) else { continue };
            while disk.has_trouble() && witness.append(&mut writer, &mut lots).unwrap() {}
            if writer.latch.stopped().is_some() {
                continue;
            }
            passed += 1;
            for _ in 0..GROUPS {
                let goes_on = witness.append(&mut writer, &mut lots).unwrap();
                assert!(goes_on, "seed {seed}, call {call}: {:?}", writer.latch.stopped());
            }
            witness.check(&writer).unwrap();
            disk.power_cycle();
            check_lives(&disk, &mut witness, &mut lots, &format!("seed {seed}, call {call}"));
        }
    }
    assert!(passed > 0);
}

#[test]
fn a_mark_whose_sync_failed_leaves_no_hole_below_what_is_written_behind_it() {
    // Whether the disk kept the mark is drawn by lot.
    for seed in 0..20 {
        let disk = SimDisk::new(seed);
        let (mut witness, mut lots) = (Witness::default(), Lots::new(1));
        let (mut writer, _) = open(&disk, &settings()).unwrap();
        assert!(witness.append(&mut writer, &mut lots).unwrap());
        // The write of the mark is the first call, its sync the second.
        disk.trouble_at(2, Trouble::Error);
        assert!(writer.mark().is_err() && !disk.has_trouble());
        drop(writer);
        // The cache still has the mark when the process starts again, and has lost it once the power is gone.
        let (mut writer, _) = open(&disk, &settings()).unwrap();
        assert!(witness.append(&mut writer, &mut lots).unwrap());
        disk.power_cycle();
        let (writer, _) = open(&disk, &settings()).unwrap();
        witness.check(&writer).unwrap();
    }
}

#[test]
fn histories_that_once_broke_a_promise_keep_it() {
    for seed in
        [11_830, 22_479, 24_822, 16_609, 1_000_566, 2_008_334, 2_012_610, 2_014_471, 7_024_041, 7_034_087]
    {
        torture(seed).unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
    }
}

#[test]
fn a_history_of_every_kind_of_trouble_keeps_every_promise() {
    let mut sum = Tally::default();
    for seed in 0..400 {
        sum += torture(seed).unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
    }
    assert_eq!(torture(7), torture(7), "a seed gives the same history every time");
    // Each kind of trouble came up, and was met.
    for (what, count) in [
        ("acknowledged", sum.acknowledged),
        ("refused", sum.refused),
        ("unknown", sum.unknown),
        ("power cuts", sum.power_cuts),
        ("failed calls", sum.failed_calls),
        ("full disks", sum.full_disks),
        ("refused starts", sum.refused_starts),
        ("cut writes", sum.cut_writes),
        ("changed bits found", sum.changed_bits.found),
        ("changed bits harmless", sum.changed_bits.harmless),
        ("misdirected writes found", sum.misdirected_writes.found),
        ("lost writes found", sum.lost_writes.found),
        ("repairs", sum.repairs),
        ("faults in repairs", sum.faults_in_repairs),
        ("events set aside", sum.set_aside),
    ] {
        assert!(count > 0, "no {what} in {sum:?}");
    }
}
