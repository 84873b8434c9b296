//! Power cuts, failed calls and full disks, at every call.

use super::harness::{Oracle, SeededRng, open, settings};
use super::writer::Writer;
use super::{FaultKind, OpenError, SimDisk, SimulationStats, Stopped, simulate};

const GROUPS: u64 = 12;

/// One run of a log: opens it, checks it, and appends until the disk fails.
fn run_log(disk: &SimDisk, oracle: &mut Oracle, rng: &mut SeededRng) -> Result<Option<Writer>, OpenError> {
    let (mut writer, _) = open(disk, &settings())?;
    // A check reads the disk, and would meet the injected fault.
    if !disk.has_pending_fault() && disk.is_powered() {
        oracle.check(&writer).unwrap();
    }
    for _ in 0..GROUPS {
        if !oracle.append(&mut writer, rng).unwrap() {
            return Ok(None);
        }
    }
    Ok(Some(writer))
}

/// The number of disk calls in a run of this seed without a fault.
fn calls_of(seed: u64) -> u64 {
    let disk = SimDisk::new(seed);
    run_log(&disk, &mut Oracle::default(), &mut SeededRng::new(seed)).unwrap().unwrap();
    disk.calls()
}

#[test]
fn a_seed_gives_the_same_run_every_time() {
    assert_eq!(calls_of(3), calls_of(3));
}

#[test]
fn power_cut_at_any_call_loses_and_invents_no_event() {
    for seed in 0..60 {
        let calls = calls_of(seed);
        // Every call of the first seeds, and a part of the calls of the others.
        let step = if seed < 2 { 1 } else { 17 };
        for call in (1 + seed % step..=calls).step_by(usize::try_from(step).unwrap()) {
            let disk = SimDisk::new(seed * 10_007 + call);
            let (mut oracle, mut rng) = (Oracle::default(), SeededRng::new(seed));
            disk.inject_fault(call, FaultKind::PowerCut);
            // Even opening may have failed.
            let _ = run_log(&disk, &mut oracle, &mut rng);
            disk.restart();
            check_further_runs(&disk, &mut oracle, &mut rng, &format!("seed {seed}, call {call}"));
        }
    }
}

/// Two further runs, each with a power cut during recovery.
fn check_further_runs(disk: &SimDisk, oracle: &mut Oracle, rng: &mut SeededRng, what: &str) {
    for _ in 0..2 {
        disk.inject_fault(1 + rng.below(40), FaultKind::PowerCut);
        let _ = run_log(disk, oracle, rng);
        disk.restart();
    }
    match run_log(disk, oracle, rng) {
        Ok(Some(writer)) => oracle.check(&writer).unwrap_or_else(|violation| panic!("{what}: {violation}")),
        Ok(None) => panic!("{what}: the log stopped on a disk without a fault"),
        Err(error) => panic!("{what}: {error}"),
    }
}

#[test]
fn failed_call_is_final_and_loses_no_acknowledged_event() {
    for seed in 0..3 {
        for call in 1..=calls_of(seed) {
            let disk = SimDisk::new(seed * 10_007 + call);
            let (mut oracle, mut rng) = (Oracle::default(), SeededRng::new(seed));
            disk.inject_fault(call, FaultKind::Error);
            match open(&disk, &settings()) {
                Err(OpenError::Io(_)) => {}
                Err(other) => panic!("seed {seed}, call {call}: {other}"),
                Ok((mut writer, _)) => {
                    while disk.has_pending_fault() && oracle.append(&mut writer, &mut rng).unwrap() {}
                    if !disk.has_pending_fault() {
                        let stopped = writer.shutdown.stopped();
                        assert!(matches!(stopped, Some(Stopped::Failed { .. })), "seed {seed}, call {call}");
                    }
                }
            }
            // The process restarts. Data that never reached the disk is missing only after a later power cut.
            let (writer, _) = open(&disk, &settings()).unwrap();
            oracle.check(&writer).unwrap();
            if call % 2 == 0 {
                let mut writer = writer;
                assert!(oracle.append(&mut writer, &mut rng).unwrap());
            }
            disk.power_cycle();
            check_further_runs(&disk, &mut oracle, &mut rng, &format!("seed {seed}, call {call}"));
        }
    }
}

#[test]
fn full_disk_refuses_appends_until_space_is_free() {
    let seed = 1;
    for call in 1..=calls_of(seed) {
        let disk = SimDisk::new(seed * 10_007 + call);
        let (mut oracle, mut rng) = (Oracle::default(), SeededRng::new(seed));
        disk.inject_fault(call, FaultKind::Full);
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
                oracle.append(&mut writer, &mut rng).unwrap(),
                "call {call}: a full disk does not stop the log"
            );
            oracle.check(&writer).unwrap();
        }
        let full = writer.view.durable();
        disk.set_capacity(u64::MAX);
        for _ in 0..GROUPS {
            assert!(oracle.append(&mut writer, &mut rng).unwrap());
        }
        assert!(writer.view.durable() > full, "call {call}: appends succeed again");
        oracle.check(&writer).unwrap();
        disk.power_cycle();
        check_further_runs(&disk, &mut oracle, &mut rng, &format!("call {call}"));
    }
}

#[test]
fn one_call_without_space_is_final_or_temporary() {
    let mut temporary = 0;
    for seed in 0..2 {
        for call in 1..=calls_of(seed) {
            let disk = SimDisk::new(seed * 10_007 + call);
            let (mut oracle, mut rng) = (Oracle::default(), SeededRng::new(seed));
            disk.inject_fault(call, FaultKind::NoSpace);
            let Ok((mut writer, _)) = open(&disk, &settings()) else { continue };
            while disk.has_pending_fault() && oracle.append(&mut writer, &mut rng).unwrap() {}
            if writer.shutdown.stopped().is_some() {
                continue;
            }
            temporary += 1;
            for _ in 0..GROUPS {
                let running = oracle.append(&mut writer, &mut rng).unwrap();
                assert!(running, "seed {seed}, call {call}: {:?}", writer.shutdown.stopped());
            }
            oracle.check(&writer).unwrap();
            disk.power_cycle();
            check_further_runs(&disk, &mut oracle, &mut rng, &format!("seed {seed}, call {call}"));
        }
    }
    assert!(temporary > 0);
}

#[test]
fn failed_sync_of_a_mark_leaves_no_hole_before_later_events() {
    // Whether the mark reached the disk is random.
    for seed in 0..20 {
        let disk = SimDisk::new(seed);
        let (mut oracle, mut rng) = (Oracle::default(), SeededRng::new(1));
        let (mut writer, _) = open(&disk, &settings()).unwrap();
        assert!(oracle.append(&mut writer, &mut rng).unwrap());
        // The write of the mark is the first call, its sync the second.
        disk.inject_fault(2, FaultKind::Error);
        assert!(writer.mark().is_err() && !disk.has_pending_fault());
        drop(writer);
        // The cache still has the mark when the process restarts, and loses it in the power cut.
        let (mut writer, _) = open(&disk, &settings()).unwrap();
        assert!(oracle.append(&mut writer, &mut rng).unwrap());
        disk.power_cycle();
        let (writer, _) = open(&disk, &settings()).unwrap();
        oracle.check(&writer).unwrap();
    }
}

#[test]
fn histories_with_former_violations_pass() {
    for seed in
        [11_830, 22_479, 24_822, 16_609, 1_000_566, 2_008_334, 2_012_610, 2_014_471, 7_024_041, 7_034_087]
    {
        simulate(seed).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
    }
}

#[test]
fn histories_with_every_kind_of_fault_have_no_violation() {
    let mut sum = SimulationStats::default();
    for seed in 0..400 {
        sum += simulate(seed).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
    }
    assert_eq!(simulate(7), simulate(7), "a seed gives the same history every time");
    // Each kind of fault was injected, and each outcome occurred.
    for (what, count) in [
        ("acknowledged", sum.acknowledged),
        ("refused", sum.refused),
        ("unknown", sum.unknown),
        ("power cuts", sum.power_cuts),
        ("failed calls", sum.failed_calls),
        ("full disks", sum.full_disks),
        ("failed starts", sum.failed_starts),
        ("truncated writes", sum.truncated_writes),
        ("flipped bits detected", sum.flipped_bits.detected),
        ("harmless flipped bits", sum.flipped_bits.harmless),
        ("misdirected writes detected", sum.misdirected_writes.detected),
        ("lost writes detected", sum.lost_writes.detected),
        ("lost ends detected", sum.lost_ends.detected),
        ("harmless lost ends", sum.lost_ends.harmless),
        ("repairs", sum.repairs),
        ("faults in repairs", sum.faults_in_repairs),
        ("quarantined events", sum.quarantined),
    ] {
        assert!(count > 0, "no {what} in {sum:?}");
    }
}
