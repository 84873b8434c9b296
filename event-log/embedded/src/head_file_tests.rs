//! A log that has lost its end is refused: the head file records what was acknowledged.

use event_schemas::ids::Position;

use super::backup::backup_on;
use super::disk::Disk;
use super::harness::{commit, event, open, read_all, settings};
use super::head_file::{HEAD_FILE, HeadRecords};
use super::maintenance::NEXT_SEGMENT_FILE;
use super::offline_reader::OfflineReader;
use super::recovery::{identify, write_log_file};
use super::repair_simulation::repair_once;
use super::segment::{INDEX_SUFFIX, index_name, segment_name};
use super::verify::{Extent, verify_on};
use super::{EmbeddedLog, OpenError, Settings, SimDisk};
use event_log::clock::Clock;
use event_log::conformance::START;
use event_log::{EventLog, Expected, Identity};

/// A disk with 120 acknowledged events in several segments, and the first positions of these.
fn filled() -> (SimDisk, Vec<Position>) {
    let disk = SimDisk::new(1);
    let (mut writer, _) = open(&disk, &settings()).unwrap();
    for n in 0..60 {
        let append = ("a-1".parse().unwrap(), Expected::Any, vec![event(n * 2, 300), event(n * 2 + 1, 300)]);
        commit(&mut writer, vec![append]).remove(0).unwrap();
    }
    let firsts = writer.view.segments().iter().map(|segment| segment.first()).collect();
    (disk, firsts)
}

fn folder(disk: &SimDisk) -> Disk {
    Disk::Simulated(disk.clone())
}

/// The message of a start that is refused because of damage.
#[track_caller]
fn refusal(disk: &SimDisk, what: &str) -> String {
    let contents = |disk: &SimDisk| {
        let mut names = disk.names();
        // Derived files.
        names.retain(|name| name != NEXT_SEGMENT_FILE && !name.ends_with(INDEX_SUFFIX));
        names.into_iter().map(|name| (disk.contents(&name), name)).collect::<Vec<_>>()
    };
    let before = contents(disk);
    match open(disk, &settings()) {
        Err(error @ OpenError::Damaged { .. }) => {
            assert!(contents(disk) == before, "{what}: files were changed");
            error.to_string()
        }
        Err(other) => panic!("{what}: {other}"),
        Ok((_, opened)) => panic!("{what}: opened with {} events", opened.events),
    }
}

/// Asserts that everything that reads the whole log refuses it, and that a repair continues without what is lost.
#[track_caller]
fn assert_refused_until_repaired(disk: &SimDisk, what: &str) {
    let text = refusal(disk, what);
    for part in ["position", "up to position 120 were acknowledged", "restore", "events repair"] {
        assert!(text.contains(part), "{what}: no `{part}` in {text}");
    }
    let verified = verify_on(&folder(disk), Extent::First, |_| {}).unwrap();
    assert_eq!(verified.damages.len(), 1, "{what}");
    assert!(backup_on(&folder(disk), &folder(&SimDisk::new(3)), START, |_| {}).is_err(), "{what}");
    let mut reader = OfflineReader::open_on(folder(disk), Position::START);
    let read = loop {
        match reader.as_mut().map(OfflineReader::next_events) {
            Ok(Ok(Some(_))) => {}
            Ok(Ok(None)) => break true,
            Ok(Err(_)) | Err(_) => break false,
        }
    };
    assert!(!read, "{what}: a reader finds no damage");
    let report = repair_once(disk).unwrap().unwrap().report.unwrap();
    assert!(report.epoch > report.epoch_before);
    assert_eq!(report.kept.0 + report.salvaged.readable + report.salvaged.lost(), 120, "{what}");
    let (writer, opened) = open(disk, &settings()).unwrap();
    assert_eq!((opened.events, read_all(&writer).unwrap().len() as u64), (report.kept.0, report.kept.0));
    assert_eq!(repair_once(disk).unwrap().map(|repaired| repaired.report), None, "{what}: repaired once");
}

#[test]
fn lost_or_shortened_newest_segment_is_refused() {
    let (disk, firsts) = filled();
    let newest = segment_name(*firsts.last().unwrap());
    let whole = disk.contents(&newest).unwrap();
    let used = whole.iter().rposition(|byte| *byte != 0).unwrap();
    let removed = disk.copy(7);
    removed.delete(&newest);
    let text = refusal(&removed, "removed");
    let head = format!("ends at position {}, but events up to position 120", firsts.last().unwrap().0 - 1);
    assert!(text.contains(&head) && text.contains(HEAD_FILE), "{text}");
    assert_refused_until_repaired(&removed, "removed");
    for len in (0..=used).step_by(97) {
        let cut = disk.copy(7);
        cut.replace(&newest, whole[..len].to_vec());
        assert_refused_until_repaired(&cut, &format!("cut to {len} bytes"));
    }
    for from in (4096..=used).step_by(97) {
        let zeroed = disk.copy(7);
        let mut bytes = whole.clone();
        bytes[from..].fill(0);
        zeroed.replace(&newest, bytes);
        assert_refused_until_repaired(&zeroed, &format!("zeros from byte {from} on"));
    }
}

#[test]
fn several_lost_segments_are_refused() {
    let (disk, firsts) = filled();
    for kept in 1..firsts.len() {
        let cut = disk.copy(7);
        for first in &firsts[kept..] {
            cut.delete(&segment_name(*first));
            cut.delete(&index_name(*first));
        }
        assert_refused_until_repaired(&cut, &format!("{kept} segments left"));
    }
}

#[test]
fn emptied_folder_is_refused_until_the_head_file_is_removed() {
    let (disk, _) = filled();
    for name in disk.names().iter().filter(|name| *name != HEAD_FILE) {
        disk.delete(name);
    }
    let text = refusal(&disk, "emptied");
    assert!(
        text.contains("position 0") && text.contains("position 120") && text.contains(HEAD_FILE),
        "{text}"
    );
    assert!(
        verify_on(&folder(&disk), Extent::First, |_| {}).unwrap_err().to_string().contains("position 120")
    );
    disk.delete(HEAD_FILE);
    assert_eq!(open(&disk, &settings()).unwrap().1.events, 0);
}

#[test]
fn missing_or_damaged_head_file_is_written_again() {
    let (disk, _) = filled();
    let good = disk.contents(HEAD_FILE).unwrap();
    let damaged = (0..good.len()).map(|at| {
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        bytes
    });
    for bytes in damaged.chain([Vec::new(), good[..20].to_vec()]).map(Some).chain([None]) {
        let copy = disk.copy(7);
        match bytes {
            Some(bytes) => copy.replace(HEAD_FILE, bytes),
            None => copy.delete(HEAD_FILE),
        }
        assert_eq!(open(&copy, &settings()).unwrap().1.events, 120);
        assert_eq!(copy.contents(HEAD_FILE).unwrap(), good);
    }
}

#[test]
fn epoch_decides_whether_a_shorter_log_was_restored() {
    let (disk, firsts) = filled();
    disk.delete(&segment_name(*firsts.last().unwrap()));
    let log = identify(&folder(&disk)).unwrap().unwrap();
    let restored = disk.copy(7);
    write_log_file(&folder(&restored), Identity { epoch: 5, ..log }).unwrap();
    let (writer, _) = open(&restored, &settings()).unwrap();
    let head = *writer.head.borrow();
    let recorded = HeadRecords::read(&folder(&restored)).unwrap();
    assert_eq!(recorded.acknowledged(Identity { epoch: 5, ..log }), head);
    drop(writer);
    // The log from before the restore, put back.
    write_log_file(&folder(&restored), log).unwrap();
    let text = refusal(&restored, "the earlier epoch");
    assert!(text.contains("epoch 0") && text.contains("epoch 5") && text.contains("log.json"), "{text}");
    let report = repair_once(&restored).unwrap().unwrap().report.unwrap();
    assert!(report.epoch > 5);
    assert_eq!(open(&restored, &settings()).unwrap().1.events, head.0);
}

#[tokio::test]
async fn head_file_is_beside_the_folder() {
    let parent = tempfile::tempdir().unwrap();
    let settings = Settings { reserve_bytes: 0, ..Settings::new(parent.path().join("events")) };
    let (log, _) = EmbeddedLog::open(&settings, Clock::manual(START)).unwrap();
    let appended = log.append(&"a-1".parse().unwrap(), Expected::Any, vec![event(1, 10)]).await.unwrap();
    let recorded = HeadRecords::read(&Disk::Real(settings.folder.clone())).unwrap();
    assert_eq!(recorded.acknowledged(log.identity()), appended.position, "before the acknowledgement");
    log.close().await;
    assert!(parent.path().join("events.head").is_file());
    std::fs::remove_dir_all(&settings.folder).unwrap();
    let error = EmbeddedLog::open(&settings, Clock::manual(START)).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    assert!(!settings.folder.exists(), "a folder was created");
}
