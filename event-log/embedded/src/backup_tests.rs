//! Backups during appends, interrupted backups, damaged backups, and restores.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use event_schemas::envelope::Recorded;
use event_schemas::ids::{LogId, Position};
use event_schemas::time::Timestamp;
use uuid::Uuid;

use super::backup::{backup_on, restore_manifest_on};
use super::disk::Disk;
use super::disk::simulated::FaultKind;
use super::harness::{SeededRng, commit, event, open, read_all, settings};
use super::writer::Writer;
use super::{
    BackedUp, BackupError, EmbeddedLog, OfflineReadError, OfflineReader, OpenError, Settings, SimDisk,
    backup, check_backup, restore,
};
use event_log::clock::Clock;
use event_log::{EventLog, Expected, Filter, Identity};

const NOW: Timestamp = Timestamp::from_micros(1_900_000_000_000_000);

fn append(writer: &mut Writer, numbers: std::ops::Range<u128>) {
    for number in numbers {
        let stream = format!("a-{}", number % 5).parse().unwrap();
        for outcome in commit(writer, vec![(stream, Expected::Any, vec![event(number, 300)])]) {
            outcome.unwrap();
        }
    }
}

fn sim(disk: &SimDisk) -> Disk {
    Disk::Simulated(disk.clone())
}

fn back_up(from: &SimDisk, to: &SimDisk) -> Result<BackedUp, BackupError> {
    backup_on(&sim(from), &sim(to), NOW, |_| {})
}

/// The events of a log that is restored from the backup.
fn restored(backup: &SimDisk) -> Result<Vec<Recorded>, BackupError> {
    let disk = SimDisk::new(99);
    restore_manifest_on(&sim(backup), &sim(&disk), NOW, |_| {})?;
    let (writer, opened) = open(&disk, &settings()).unwrap();
    assert_eq!(opened.truncated, None);
    Ok(read_all(&writer).unwrap())
}

fn read_offline(disk: &SimDisk, after: Position) -> Vec<Recorded> {
    let mut reader = OfflineReader::open_on(sim(disk), after).unwrap();
    let mut events = Vec::new();
    while let Some(group) = reader.next_events().unwrap() {
        events.extend(group);
    }
    events
}

#[test]
fn offline_reader_matches_the_log_from_any_position() {
    let disk = SimDisk::new(1);
    let (mut writer, _) = open(&disk, &settings()).unwrap();
    append(&mut writer, 0..120);
    let events = read_all(&writer).unwrap();
    for after in 0..=events.len() {
        assert_eq!(read_offline(&disk, Position(after as u64)), events[after..], "after {after}");
    }
    assert!(read_offline(&disk, Position(1_000)).is_empty());
}

#[test]
fn restored_log_has_the_backup_s_events_and_a_higher_epoch() {
    let (disk, backup) = (SimDisk::new(1), SimDisk::new(2));
    let (mut writer, _) = open(&disk, &settings()).unwrap();
    append(&mut writer, 0..120);
    let made = back_up(&disk, &backup).unwrap();
    assert_eq!(made.head, Position(120));
    let new = SimDisk::new(3);
    let log = restore_manifest_on(&sim(&backup), &sim(&new), NOW, |_| {}).unwrap().log;
    assert_eq!(log.id, made.log.id);
    assert!(log.epoch > made.log.epoch);
    let (mut restored, _) = open(&new, &settings()).unwrap();
    assert_eq!(read_all(&restored).unwrap(), read_all(&writer).unwrap());
    append(&mut restored, 120..240);
    assert_eq!(read_all(&restored).unwrap().len(), 240);
    assert_eq!(restored.active.header.identity, log, "new segments belong to the new epoch");
}

#[test]
fn two_restores_of_one_backup_have_different_epochs() {
    let (disk, backup) = (SimDisk::new(1), SimDisk::new(2));
    let (mut writer, _) = open(&disk, &settings()).unwrap();
    append(&mut writer, 0..3);
    back_up(&disk, &backup).unwrap();
    let epoch =
        |now| restore_manifest_on(&sim(&backup), &sim(&SimDisk::new(3)), now, |_| {}).unwrap().log.epoch;
    assert_ne!(epoch(NOW), epoch(Timestamp::from_micros(NOW.micros() + 1_000_000)));
    assert_eq!(epoch(Timestamp::EPOCH), 1, "the epoch is raised even if the clock was set back");
}

#[test]
fn second_backup_is_incremental() {
    let (disk, backup) = (SimDisk::new(1), SimDisk::new(2));
    let (mut writer, _) = open(&disk, &settings()).unwrap();
    append(&mut writer, 0..120);
    let first = back_up(&disk, &backup).unwrap();
    append(&mut writer, 120..130);
    let second = back_up(&disk, &backup).unwrap();
    assert_eq!((first.copied_events, second.head), (120, Position(130)));
    assert!(second.copied_events < 40, "{second:?}");
    assert_eq!((first.new_events, second.new_events), (120, 10));
    assert!(second.copied_bytes < second.bytes / 3, "{second:?}");
    assert_eq!(restored(&backup).unwrap(), read_all(&writer).unwrap());
    let third = back_up(&disk, &backup).unwrap();
    assert_eq!((third.head, third.files, third.new_events), (second.head, second.files, 0));
}

#[test]
fn empty_log_is_backed_up_and_restored() {
    let (disk, backup) = (SimDisk::new(1), SimDisk::new(2));
    let (mut writer, _) = open(&disk, &settings()).unwrap();
    assert_eq!(back_up(&disk, &backup).unwrap().head, Position::START);
    assert!(restored(&backup).unwrap().is_empty());
    append(&mut writer, 0..3);
    back_up(&disk, &backup).unwrap();
    assert_eq!(restored(&backup).unwrap().len(), 3);
}

#[test]
fn backup_interrupted_at_any_call_leaves_a_valid_backup() {
    let disk = SimDisk::new(1);
    let (mut writer, _) = open(&disk, &settings()).unwrap();
    append(&mut writer, 0..24);
    let backup = SimDisk::new(2);
    back_up(&disk, &backup).unwrap();
    let before = restored(&backup).unwrap();
    append(&mut writer, 24..50);
    let after = read_all(&writer).unwrap();
    for kind in [FaultKind::PowerCut, FaultKind::Error, FaultKind::Full] {
        for call in 1.. {
            let target = backup.copy(call);
            target.inject_fault(call, kind);
            let outcome = back_up(&disk, &target);
            let happened = !target.has_pending_fault();
            target.set_capacity(u64::MAX);
            target.restart();
            let found = restored(&target).unwrap();
            assert!(found == before || found == after, "{kind:?} at call {call}");
            if outcome.is_ok() {
                assert!(found == after, "{kind:?} at call {call}");
            }
            back_up(&disk, &target).unwrap();
            assert_eq!(restored(&target).unwrap(), after, "{kind:?} at call {call}");
            if !happened {
                break;
            }
        }
    }
}

#[test]
fn flipped_bit_in_a_backup_is_detected_or_harmless() {
    let (disk, backup) = (SimDisk::new(1), SimDisk::new(2));
    let (mut writer, _) = open(&disk, &settings()).unwrap();
    append(&mut writer, 0..60);
    back_up(&disk, &backup).unwrap();
    let events = read_all(&writer).unwrap();
    let mut rng = SeededRng::new(5);
    let mut found = 0;
    for _ in 0..300 {
        let names = sim(&backup).list().unwrap();
        let name = &names[rng.below(names.len() as u64) as usize];
        let copy = backup.copy(1);
        let mut bytes = copy.contents(name).unwrap();
        let at = rng.below(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << rng.below(8);
        copy.replace(name, bytes);
        match restored(&copy) {
            Ok(read) => assert_eq!(read, events, "{name} at byte {at}"),
            Err(_) => found += 1,
        }
    }
    assert!(found > 250, "{found}");
}

#[test]
fn backup_of_a_damaged_log_is_refused() {
    let disk = SimDisk::new(1);
    let (mut writer, _) = open(&disk, &settings()).unwrap();
    append(&mut writer, 0..60);
    writer.mark().unwrap();
    let undamaged = read_all(&writer).unwrap();
    let mut rng = SeededRng::new(8);
    for _ in 0..200 {
        let names = sim(&disk).list().unwrap();
        let segments: Vec<_> = names.iter().filter(|name| name.ends_with(".segment")).collect();
        let name = segments[rng.below(segments.len() as u64) as usize];
        let copy = disk.copy(1);
        let mut bytes = copy.contents(name).unwrap();
        let at = rng.below(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << rng.below(8);
        copy.replace(name, bytes);
        let backup = SimDisk::new(3);
        match back_up(&copy, &backup) {
            // Damage to the last mark or to the zeros after it loses no event.
            Ok(_) => assert_eq!(restored(&backup).unwrap(), undamaged, "{name} at byte {at}"),
            Err(BackupError::Source(OfflineReadError::Open(OpenError::Damaged { file, .. }))) => {
                assert_eq!(file, *name);
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn backup_of_a_diverged_log_is_not_extended() {
    let (disk, backup) = (SimDisk::new(1), SimDisk::new(2));
    let (mut writer, _) = open(&disk, &settings()).unwrap();
    append(&mut writer, 0..60);
    let earlier = disk.copy(4);
    append(&mut writer, 60..120);
    back_up(&disk, &backup).unwrap();
    let refused = |from: &SimDisk, word: &str| {
        let before = sim(&backup).list().unwrap();
        let error = back_up(from, &backup).unwrap_err();
        assert!(matches!(error, BackupError::OtherHistory { .. }), "{error}");
        assert!(error.to_string().contains(word), "{error}");
        assert!(sim(&backup).list().unwrap().iter().filter(|name| !name.ends_with(".tmp")).eq(&before));
    };
    // An older state of the log, restored manually: shorter, and later as long as the backup with other events.
    refused(&earlier, "reaches");
    let (mut other, _) = open(&earlier, &settings()).unwrap();
    append(&mut other, 1_060..1_130);
    refused(&earlier, "other events");
    let stranger = SimDisk::new(9);
    let (mut writer, _) = open(&stranger, &settings()).unwrap();
    append(&mut writer, 0..200);
    refused(&stranger, "of the log");
    let restored = SimDisk::new(10);
    restore_manifest_on(&sim(&backup), &sim(&restored), NOW, |_| {}).unwrap();
    refused(&restored, "epoch");
}

fn real(folder: &Path) -> Settings {
    Settings { segment_bytes: 64 << 10, reserve_bytes: 0, ..Settings::new(folder) }
}

async fn all(log: &EmbeddedLog) -> Vec<Recorded> {
    let mut events = Vec::new();
    loop {
        let after = events.last().map_or(Position::START, |event: &Recorded| event.position);
        let page = log.read_all(after, &Filter::All, 1_000).await.unwrap();
        events.extend(page.events);
        if page.at_head {
            return events;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_during_appends_has_all_acknowledged_events() {
    let folder = tempfile::tempdir().unwrap();
    let (events, backups) = (folder.path().join("events"), folder.path().join("backup"));
    let (log, _) = EmbeddedLog::open(&real(&events), Clock::System).unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let appenders: Vec<_> = (0..8_u128)
        .map(|appender| {
            let (log, over) = (log.clone(), Arc::clone(&over));
            tokio::spawn(async move {
                let stream = format!("a-{appender}").parse().unwrap();
                for n in 0.. {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    let event = event(appender << 64 | n, 400);
                    log.append(&stream, Expected::Any, vec![event]).await.unwrap();
                }
            })
        })
        .collect();
    let mut made = Vec::new();
    for n in 0..12 {
        let acknowledged = *log.head().borrow();
        // Every third backup is a new one; the others extend it.
        let target = backups.join((n / 3).to_string());
        std::fs::create_dir_all(&backups).unwrap();
        let from = events.clone();
        let (backed_up, at) = tokio::task::spawn_blocking(move || {
            let backed_up = backup(&from, &target, NOW, |_| {}).unwrap();
            let to = target.with_extension(format!("restored-{n}"));
            restore(&target, &to, NOW, |_| {}).unwrap();
            (backed_up, to)
        })
        .await
        .unwrap();
        assert!(backed_up.head >= acknowledged, "{backed_up:?} after {acknowledged}");
        made.push((backed_up.head, at));
    }
    over.store(true, Ordering::Relaxed);
    for appender in appenders {
        appender.await.unwrap();
    }
    let events = all(&log).await;
    assert!(made.first().unwrap().0 < made.last().unwrap().0);
    for (head, folder) in made {
        let (log, opened) = EmbeddedLog::open(&real(&folder), Clock::System).unwrap();
        assert_eq!(opened.truncated, None);
        assert_eq!(all(&log).await, events[..head.0 as usize]);
    }
}

fn contents(folder: &Path) -> BTreeMap<std::path::PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
        if entry.path().is_dir() {
            files.extend(contents(&entry.path()));
        } else {
            files.insert(entry.path(), std::fs::read(entry.path()).unwrap());
        }
    }
    files
}

#[tokio::test]
async fn invalid_folders_are_refused_by_name_without_changes() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (log, _) = EmbeddedLog::open(&real(&at("events")), Clock::System).unwrap();
    for n in 0..200 {
        log.append(&"a-1".parse().unwrap(), Expected::Any, vec![event(n, 500)]).await.unwrap();
    }
    log.close().await;
    backup(&at("events"), &at("backup"), NOW, |_| {}).unwrap();
    std::fs::create_dir(at("full")).unwrap();
    std::fs::write(at("full/holiday.jpg"), "sun").unwrap();
    let before = contents(folder.path());
    let to = |from: &str, to: &str| backup(&at(from), &at(to), NOW, |_| {}).unwrap_err().to_string();
    let put = |from: &str, to: &str| restore(&at(from), &at(to), NOW, |_| {}).unwrap_err().to_string();
    for (error, part) in [
        (to("nowhere", "new"), "holds no event log"),
        (to("full", "new"), "holds no event log"),
        (to("events", "full"), "holiday.jpg"),
        (to("events", "events/backup"), "lies within"),
        (to("events", "events"), "lies within"),
        (put("nowhere", "new"), "holds no backup"),
        (put("full", "new"), "holds no backup"),
        (put("backup", "full"), "holiday.jpg"),
        (put("backup", "events"), "name an empty folder"),
        (put("backup", "backup/new"), "lies within"),
    ] {
        assert!(error.contains(part), "no {part} in {error}");
    }
    assert!(contents(folder.path()) == before, "something was changed");
    assert!(!at("new").exists());

    let manifest = std::fs::read_to_string(at("backup/backup.json")).unwrap();
    std::fs::write(at("backup/backup.json"), manifest.replace("\"format\": 1", "\"format\": 9")).unwrap();
    assert!(put("backup", "new").contains("format 9"));
    let wrong = manifest.replacen("\"sha256\": \"", "\"sha256\": \"0", 1);
    std::fs::write(at("backup/backup.json"), wrong).unwrap();
    assert!(put("backup", "new").contains("SHA-256"));
    assert!(check_backup(&at("backup"), |_| {}).unwrap_err().to_string().contains("SHA-256"));
    std::fs::write(at("backup/backup.json"), &manifest).unwrap();
    assert!(!at("new").exists() && !at("new.restoring").exists());

    let lock = Disk::Real(at("backup")).lock().unwrap();
    let held = to("events", "backup");
    assert!(held.contains(&format!("process {}", std::process::id())), "{held}");
    drop(lock);
    check_backup(&at("backup"), |_| {}).unwrap();
    restore(&at("backup"), &at("new"), NOW, |_| {}).unwrap();
}

#[test]
fn leftovers_of_an_interrupted_restore_are_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (disk, simulated) = (SimDisk::new(1), SimDisk::new(2));
    let (mut writer, _) = open(&disk, &settings()).unwrap();
    append(&mut writer, 0..60);
    back_up(&disk, &simulated).unwrap();
    std::fs::create_dir(at("backup")).unwrap();
    for name in sim(&simulated).list().unwrap() {
        std::fs::write(at("backup").join(&name), simulated.contents(&name).unwrap()).unwrap();
    }
    std::fs::create_dir(at("new.restoring")).unwrap();
    std::fs::write(at("new.restoring/00000000000000000001.segment"), "half").unwrap();
    std::fs::create_dir(at("new")).unwrap();
    restore(&at("backup"), &at("new"), NOW, |_| {}).unwrap();
    assert!(!at("new.restoring").exists());
    let (writer, _) = open(&disk, &settings()).unwrap();
    let mut reader = OfflineReader::open(&at("new"), Position::START).unwrap();
    let mut events = Vec::new();
    while let Some(group) = reader.next_events().unwrap() {
        events.extend(group);
    }
    assert_eq!(events, read_all(&writer).unwrap());

    // Other files stay.
    std::fs::create_dir(at("other.restoring")).unwrap();
    std::fs::write(at("other.restoring/holiday.jpg"), "sun").unwrap();
    let error = restore(&at("backup"), &at("other"), NOW, |_| {}).unwrap_err().to_string();
    assert!(error.contains("holiday.jpg"), "{error}");
    assert_eq!(std::fs::read(at("other.restoring/holiday.jpg")).unwrap(), b"sun");
}

#[test]
fn offline_reader_refuses_a_segment_of_another_log() {
    let disk = SimDisk::new(1);
    let (mut writer, _) = open(&disk, &settings()).unwrap();
    append(&mut writer, 0..3);
    let other = Identity { id: LogId(Uuid::from_u128(7)), epoch: 0 };
    let refused = super::offline_reader::open_segment(&sim(&disk), other, Position(1)).unwrap_err();
    assert!(refused.to_string().contains("belongs to the log"), "{refused}");
}
