//! Repairs of any damage, with faults at any disk call: what they keep, quarantine and report.

use event_schemas::envelope::Recorded;
use event_schemas::ids::Position;

use super::disk::Disk;
use super::harness::{SeededRng, commit, event, open, read_all, settings};
use super::repair::plan_on;
use super::repair_simulation::{repair_once, repair_planned_with_faults, repair_with_faults};
use super::segment::{HEADER_BYTES, index_name, segment_name};
use super::verify::{Extent, verify_on};
use super::verify_tests::{firsts, of_groups, several_segments};
use super::{
    EmbeddedLog, FaultKind, OpenError, RepairPlan, Settings, SimDisk, SimulationStats, VerifyError, repair,
};
use event_log::clock::Clock;
use event_log::{EventLog, Expected, Filter};

fn change(disk: &SimDisk, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> SimDisk {
    let copy = disk.copy(7);
    let mut bytes = copy.contents(name).unwrap();
    change(&mut bytes);
    copy.replace(name, bytes);
    copy
}

fn planned(disk: &SimDisk) -> RepairPlan {
    plan_on(&Disk::Simulated(disk.clone()), |_| {}).unwrap()
}

fn quarantined(plan: &RepairPlan) -> Vec<&str> {
    plan.quarantined.iter().map(|moved| moved.file.as_str()).collect()
}

fn events(undamaged: &SimDisk) -> Vec<Recorded> {
    let (writer, _) = open(&undamaged.copy(1), &settings()).unwrap();
    read_all(&writer).unwrap()
}

/// Repairs with faults from a seed, and checks the result.
fn repaired_with_faults(disk: &SimDisk, undamaged: &SimDisk, seed: u64) -> SimulationStats {
    let mut stats = SimulationStats::default();
    repair_with_faults(disk, &events(undamaged), &mut SeededRng::new(seed), &mut stats)
        .unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
    stats
}

#[test]
fn undamaged_log_stays_unchanged() {
    let disk = several_segments();
    assert!(!planned(&disk).is_needed());
    let before: Vec<_> = disk.names().iter().map(|name| disk.contents(name)).collect();
    assert!(repair_once(&disk).unwrap().is_none());
    assert_eq!(disk.names().iter().map(|name| disk.contents(name)).collect::<Vec<_>>(), before);
}

#[test]
fn log_is_truncated_at_damage_and_the_rest_is_quarantined() {
    let disk = several_segments();
    let firsts = firsts(&disk);
    let damaged = change(&disk, &segment_name(firsts[1]), |bytes| bytes[6000] ^= 1);
    let plan = planned(&damaged);
    assert!(plan.kept >= firsts[1] && plan.kept.0 + 1 < firsts[2].0);
    let mut expected: Vec<String> = firsts[1..].iter().map(|first| segment_name(*first)).collect();
    let indexes = firsts[1..].iter().map(|first| index_name(*first));
    expected.extend(indexes.filter(|index| disk.names().contains(index)));
    assert_eq!(quarantined(&plan), expected);
    // One event of the damaged group has a wrong checksum; all others are valid.
    assert_eq!((plan.salvaged.readable, plan.salvaged.lost()), (180 - plan.kept.0 - 1, 1));
    assert_eq!(plan.salvaged.unreadable.len(), 1);
    let streams = &plan.salvaged.streams;
    assert_eq!(streams.iter().map(|stream| stream.events).sum::<u64>(), plan.salvaged.readable);
    assert_eq!(
        streams.iter().map(|stream| stream.stream.as_str()).collect::<Vec<_>>(),
        ["a-1", "a-2", "b-1"]
    );
    let stats = repaired_with_faults(&damaged, &disk, 1);
    assert_eq!((stats.repairs, stats.quarantined), (1, plan.salvaged.readable));
}

#[test]
fn any_flipped_bit_is_repaired_under_any_fault() {
    let disk = of_groups(14);
    let (mut faults, mut quarantined) = (0, 0);
    for (n, name) in disk.names().into_iter().filter(|name| !name.ends_with(".tmp")).enumerate() {
        let len = disk.contents(&name).unwrap().len();
        for at in (n % 13..len).step_by(if len > 4096 { 787 } else { 11 }) {
            let damaged = change(&disk, &name, |bytes| bytes[at] ^= 4);
            let stats = repaired_with_faults(&damaged, &disk, at as u64);
            faults += stats.faults_in_repairs;
            quarantined += stats.quarantined;
        }
    }
    assert!(faults > 40 && quarantined > 500, "{faults} faults, {quarantined} events quarantined");
}

#[test]
fn repair_is_resumed_after_a_fault_at_any_call() {
    let disk = of_groups(11);
    let firsts = firsts(&disk);
    let damaged = change(&disk, &segment_name(firsts[1]), |bytes| bytes[6000] ^= 1);
    let (plan, written) = (planned(&damaged), events(&disk));
    let calls = {
        let disk = damaged.copy(1);
        let before = disk.calls();
        repair_once(&disk).unwrap().unwrap();
        disk.calls() - before
    };
    for kind in [FaultKind::PowerCut, FaultKind::Error, FaultKind::NoSpace] {
        let mut refused = 0;
        for call in 1..=calls {
            let disk = damaged.copy(call);
            disk.inject_fault(call, kind);
            let interrupted = repair_once(&disk).is_err();
            disk.restart();
            if interrupted && disk.names().contains(&"repair.json".to_owned()) {
                refused += 1;
                assert!(matches!(open(&disk, &settings()), Err(OpenError::UnfinishedRepair { .. })));
            }
            // Most resumed repairs meet further faults.
            let mut rng = SeededRng::new(call);
            repair_planned_with_faults(&plan, &disk, &written, &mut rng, &mut SimulationStats::default())
                .unwrap_or_else(|violation| panic!("{kind:?} at call {call}: {violation}"));
        }
        assert!(refused > 3, "{kind:?} never interrupted a repair between its steps");
    }
}

#[test]
fn missing_segment_ends_the_log_and_later_ones_stay_readable() {
    let disk = several_segments();
    let firsts = firsts(&disk);
    for gone in 0..firsts.len() {
        let damaged = disk.copy(3);
        damaged.delete(&segment_name(firsts[gone]));
        let plan = planned(&damaged);
        assert_eq!(plan.kept.0 + 1, firsts[gone].0);
        // Only the head file shows that the last segment existed.
        let last = firsts.get(gone + 1).map_or(Position(180), |next| Position(next.0 - 1));
        assert_eq!(plan.salvaged.unreadable, [(firsts[gone], last)]);
        repair_once(&damaged).unwrap().unwrap();
        let found = verify_on(&Disk::Simulated(damaged.clone()), Extent::All, |_| {}).unwrap();
        assert_eq!((found.events, found.damages), (plan.kept.0, Vec::new()));
        assert_eq!(open(&damaged, &settings()).unwrap().1.events, plan.kept.0);
    }
}

#[test]
fn segment_with_a_damaged_header_is_quarantined() {
    let disk = several_segments();
    for first in firsts(&disk) {
        let damaged = change(&disk, &segment_name(first), |bytes| bytes[20] ^= 1);
        let plan = planned(&damaged);
        assert_eq!((plan.kept.0 + 1, plan.salvaged.lost()), (first.0, 0));
        repaired_with_faults(&damaged, &disk, first.0);
    }
}

#[test]
fn log_is_truncated_at_a_revision_gap() {
    let disk = several_segments();
    let firsts = firsts(&disk);
    // The same log with other streams from the second segment on.
    let other = SimDisk::new(1);
    for name in ["log.json".to_owned(), segment_name(firsts[0])] {
        other.replace(&name, disk.contents(&name).unwrap());
    }
    let (mut writer, opened) = open(&other, &settings()).unwrap();
    for group in u128::from(opened.events / 6)..30 {
        let number = group * 10;
        let appends = [0, 1, 2].map(|n| {
            let events = vec![event(number + n * 2, 200), event(number + n * 2 + 1, 30)];
            ("a-1".parse().unwrap(), Expected::Any, events)
        });
        for outcome in commit(&mut writer, appends.into()) {
            outcome.unwrap();
        }
    }
    writer.mark().unwrap();
    let broken = disk.copy(3);
    let third = firsts[2];
    assert!(
        super::verify_tests::firsts(&other).contains(&third),
        "groups of the same size fill segments alike"
    );
    for name in [segment_name(third), index_name(third)] {
        broken.replace(&name, other.contents(&name).unwrap());
    }
    let plan = planned(&broken);
    assert_eq!(plan.kept.0 + 1, third.0, "{:?}", plan.verified.damages);
    repair_once(&broken).unwrap().unwrap();
    assert_eq!(open(&broken, &settings()).unwrap().1.events, plan.kept.0);
}

#[test]
fn index_file_is_rebuilt_without_quarantine() {
    let disk = several_segments();
    let name = index_name(firsts(&disk)[1]);
    let damaged = change(&disk, &name, |bytes| bytes[90] ^= 1);
    assert_eq!(planned(&damaged).indexes, [name.as_str()]);
    let repaired = repair_once(&damaged).unwrap().unwrap();
    assert!(repaired.report.is_none());
    assert_eq!(repaired.indexes, [name.as_str()]);
    assert_eq!(damaged.contents(&name), disk.contents(&name));
}

#[test]
fn log_file_is_rebuilt_from_segment_headers() {
    let disk = several_segments();
    let undamaged = disk.contents("log.json").unwrap();
    for broken in
        [None, Some(b"{".to_vec()), Some(String::from_utf8(undamaged).unwrap().replace('a', "b").into())]
    {
        let damaged = disk.copy(4);
        damaged.delete("log.json");
        if let Some(bytes) = broken {
            damaged.replace("log.json", bytes);
        }
        let plan = planned(&damaged);
        assert!(plan.log_file && plan.kept == Position(180), "{plan:?}");
        let repaired = repair_once(&damaged).unwrap().unwrap();
        let report = repaired.report.unwrap();
        // The number of previous restores is not known.
        assert_eq!((report.epoch_before, report.epoch), (0, 1_900_000_000));
        assert_eq!(open(&damaged, &settings()).unwrap().1.events, 180);
    }
}

#[test]
fn log_without_any_identity_cannot_be_repaired() {
    let disk = several_segments();
    disk.delete("log.json");
    for first in firsts(&disk) {
        let bytes = disk.contents(&segment_name(first)).unwrap();
        disk.replace(&segment_name(first), vec![7; bytes.len()]);
    }
    assert!(matches!(repair_once(&disk), Err(VerifyError::Open(OpenError::Damaged { .. }))));
}

#[tokio::test]
async fn folder_is_repaired_reopened_and_repaired_again() {
    let folder = tempfile::tempdir().unwrap();
    let settings =
        Settings { reserve_bytes: 0, segment_bytes: 8 << 10, ..Settings::new(folder.path().join("events")) };
    let stream = "a-1".parse().unwrap();
    let append = async |log: &EmbeddedLog, number: u128| {
        log.append(&stream, Expected::Any, vec![event(number, 600)]).await.unwrap();
    };
    assert!(matches!(repair(&settings, &Clock::System, |_| {}), Err(VerifyError::NoLog(_))));
    let (log, _) = EmbeddedLog::open(&settings, Clock::System).unwrap();
    let identity = log.identity();
    for number in 0..40 {
        append(&log, number).await;
    }
    let refused = repair(&settings, &Clock::System, |_| {});
    assert!(matches!(refused, Err(VerifyError::Open(OpenError::Locked { .. }))));
    log.close().await;
    for round in 1..=2_u32 {
        let first = settings.folder.join(segment_name(Position(1)));
        let mut bytes = std::fs::read(&first).unwrap();
        bytes[usize::try_from(HEADER_BYTES).unwrap() + 3000 / usize::try_from(round).unwrap()] ^= 1;
        std::fs::write(&first, &bytes).unwrap();
        let repaired = repair(&settings, &Clock::System, |_| {}).unwrap().unwrap();
        let report = repaired.report.unwrap();
        assert_eq!(report.folder, format!("quarantine-{round}"));
        let aside = settings.folder.join(&report.folder);
        assert_eq!(std::fs::read(aside.join(segment_name(Position(1)))).unwrap(), bytes);
        let lines = std::fs::read_to_string(aside.join("events.ndjson")).unwrap();
        assert_eq!(lines.lines().count() as u64, report.salvaged.readable);
        assert!(aside.join("report.json").exists() && !settings.folder.join("repair.json").exists());
        let (log, opened) = EmbeddedLog::open(&settings, Clock::System).unwrap();
        assert_eq!((log.identity().id, log.identity().epoch), (identity.id, round));
        assert_eq!(opened.events, report.kept.0);
        let page = log.read_all(Position::START, &Filter::All, 100).await.unwrap();
        assert_eq!(page.events.len() as u64, report.kept.0);
        for number in 0..20 {
            append(&log, u128::from(1000 * round) + number).await;
        }
        log.close().await;
    }
}
