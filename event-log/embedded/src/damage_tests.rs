//! Damaged files: what a start truncates, refuses and rebuilds.

use event_schemas::ids::Position;

use super::harness::{commit, event, open, read_all, settings};
use super::head_file::HEAD_FILE;
use super::segment::{HEADER_BYTES, index_name, segment_name};
use super::writer::{QUIET, Writer};
use super::{OpenError, Settings, SimDisk};
use event_log::Expected;

/// Settings with one segment for everything that these tests write.
fn one_segment() -> Settings {
    Settings { segment_bytes: 1 << 16, ..settings() }
}

/// Writes three groups of two appends. Returns the offsets at which the last group starts and ends.
fn three_groups(disk: &SimDisk) -> (usize, usize) {
    let (mut writer, _) = open(disk, &one_segment()).unwrap();
    let mut start = 0;
    for group in 0..3 {
        start = usize::try_from(writer.end).unwrap();
        append_two(&mut writer, group * 10);
    }
    (start, usize::try_from(writer.end).unwrap())
}

fn append_two(writer: &mut Writer, number: u128) {
    let appends = [("a-1", number), ("a-2", number + 5)].map(|(stream, number)| {
        (stream.parse().unwrap(), Expected::Any, vec![event(number, 20), event(number + 1, 3)])
    });
    for outcome in commit(writer, appends.into()) {
        outcome.unwrap();
    }
}

fn first_segment() -> String {
    segment_name(Position(1))
}

/// A copy of the disk with a changed first segment, and without the head file: only the segment shows what was durable.
fn with_segment(disk: &SimDisk, change: impl FnOnce(&mut Vec<u8>)) -> SimDisk {
    let copy = disk.copy(7);
    let mut bytes = copy.contents(&first_segment()).unwrap();
    change(&mut bytes);
    copy.replace(&first_segment(), bytes);
    copy.delete(HEAD_FILE);
    copy
}

/// Asserts that the log opens without the last group, whose bytes are kept in a file, and accepts new events.
#[track_caller]
fn assert_last_group_is_truncated(disk: &SimDisk, what: &str) {
    let (mut writer, opened) = open(disk, &one_segment()).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(opened.events, 8, "{what}");
    let truncated = opened.truncated.unwrap_or_else(|| panic!("{what}: nothing was truncated"));
    assert_eq!(truncated.position, Position(9));
    assert_eq!(disk.contents(&truncated.kept_in).unwrap().len() as u64, truncated.bytes);
    // Shorter than the truncated bytes, so that leftovers after it would be noticed.
    let append = ("a-1".parse().unwrap(), Expected::Any, vec![event(100, 0)]);
    commit(&mut writer, vec![append]).remove(0).unwrap();
    drop(writer);
    let (writer, opened) = open(disk, &one_segment()).unwrap();
    assert_eq!((opened.events, opened.truncated), (9, None), "{what}: truncated only once");
    assert_eq!(read_all(&writer).unwrap().len(), 9);
}

#[test]
fn incomplete_last_group_is_truncated_at_any_length() {
    let disk = SimDisk::new(1);
    let (start, end) = three_groups(&disk);
    for kept in start..end {
        let zeroed = with_segment(&disk, |bytes| bytes[kept..].fill(0));
        // The remaining bytes were zero anyway.
        if zeroed.contents(&first_segment()) == disk.contents(&first_segment()) {
            continue;
        }
        if kept <= start + 4
            && zeroed.contents(&first_segment()).unwrap()[start..].iter().all(|byte| *byte == 0)
        {
            let (_, opened) = open(&zeroed, &one_segment()).unwrap();
            assert_eq!((opened.events, opened.truncated), (8, None), "nothing of the group was written");
            continue;
        }
        assert_last_group_is_truncated(&zeroed, &format!("zeros from byte {kept} on"));
    }
    for len in start + 8..end {
        let incomplete = with_segment(&disk, |bytes| bytes.truncate(len));
        let (writer, opened) = open(&incomplete, &one_segment()).unwrap();
        assert_eq!(opened.events, 8, "a file of {len} bytes");
        assert_eq!(read_all(&writer).unwrap().len(), 8);
    }
}

#[test]
fn last_group_with_any_changed_byte_is_truncated() {
    let disk = SimDisk::new(1);
    let (start, end) = three_groups(&disk);
    for at in start..end {
        for bit in [1, 0x80] {
            let flipped = with_segment(&disk, |bytes| bytes[at] ^= bit);
            assert_last_group_is_truncated(&flipped, &format!("byte {at} changed by {bit:#x}"));
        }
    }
}

#[test]
fn changed_byte_before_the_mark_is_refused_without_changes() {
    let disk = SimDisk::new(1);
    let (start, _) = three_groups(&disk);
    let header = 0..64;
    for at in header.chain(usize::try_from(HEADER_BYTES).unwrap()..start) {
        let flipped = with_segment(&disk, |bytes| bytes[at] ^= 0x10);
        let before = flipped.contents(&first_segment());
        match open(&flipped, &one_segment()) {
            Err(error @ OpenError::Damaged { .. }) => {
                let text = error.to_string();
                assert!(text.contains(&first_segment()), "{text}");
                assert!(text.contains("position") && text.contains("backup"), "{text}");
            }
            Err(OpenError::NewerFormat { .. }) if at < 64 => panic!("the header's checksum comes first"),
            Err(other) => panic!("byte {at}: {other}"),
            Ok(_) => panic!("byte {at}: opened"),
        }
        assert_eq!(flipped.contents(&first_segment()), before);
    }
}

#[test]
fn refusal_names_file_offset_and_position() {
    let disk = SimDisk::new(1);
    let (mut writer, _) = open(&disk, &one_segment()).unwrap();
    append_two(&mut writer, 0);
    let second = writer.end;
    append_two(&mut writer, 10);
    append_two(&mut writer, 20);
    let at = usize::try_from(second).unwrap() + 60;
    match open(&with_segment(&disk, |bytes| bytes[at] ^= 1), &one_segment()) {
        Err(OpenError::Damaged { file, offset, position, .. }) => {
            assert_eq!((file, offset, position), (first_segment(), second, Position(5)));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn damage_to_the_last_group_is_refused_after_a_quiet_time() {
    for quiet in [false, true] {
        let disk = SimDisk::new(1);
        let (mut writer, _) = open(&disk, &one_segment()).unwrap();
        append_two(&mut writer, 0);
        let at = usize::try_from(writer.end).unwrap() - 1;
        if quiet {
            writer.written = writer.written.checked_sub(QUIET).unwrap();
        }
        writer.mark_if_quiet();
        match open(&with_segment(&disk, |bytes| bytes[at] ^= 1), &one_segment()) {
            Err(OpenError::Damaged { .. }) => assert!(quiet),
            Ok((_, opened)) => assert!(!quiet && opened.truncated.is_some()),
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn damage_to_the_last_group_is_refused_after_a_mark() {
    let disk = SimDisk::new(1);
    let (start, _) = three_groups(&disk);
    // Opening writes a mark for unconfirmed events; closing does the same.
    drop(open(&disk, &one_segment()).unwrap());
    let flipped = with_segment(&disk, |bytes| bytes[start + 60] ^= 1);
    assert!(matches!(open(&flipped, &one_segment()), Err(OpenError::Damaged { .. })));
}

#[test]
fn hole_before_valid_groups_is_refused() {
    let disk = SimDisk::new(1);
    let (start, _) = three_groups(&disk);
    let holed = with_segment(&disk, |bytes| bytes[usize::try_from(HEADER_BYTES).unwrap()..start].fill(0));
    assert!(matches!(open(&holed, &one_segment()), Err(OpenError::Damaged { position: Position(1), .. })));
}

/// A log of several segments.
fn several_segments(disk: &SimDisk) -> Vec<Position> {
    let (mut writer, _) = open(disk, &settings()).unwrap();
    for group in 0..60 {
        append_two(&mut writer, group * 10);
    }
    let firsts: Vec<Position> = writer.view.segments().iter().map(|segment| segment.first()).collect();
    assert!(firsts.len() > 3);
    firsts
}

#[test]
fn missing_or_damaged_index_file_is_rebuilt() {
    let disk = SimDisk::new(1);
    let second = several_segments(&disk)[1];
    let name = index_name(second);
    let good = disk.contents(&name).unwrap();
    let last = good.len() - 1;
    let (_, filter_block) = (good[last], good.len() - 4096);
    for damage in [0, 8, 33, filter_block, filter_block + 4064] {
        let copy = disk.copy(1);
        let mut bytes = good.clone();
        bytes[damage] ^= 1;
        copy.replace(&name, bytes);
        let (writer, _) = open(&copy, &settings()).unwrap();
        assert_eq!(copy.contents(&name).unwrap(), good, "byte {damage}");
        assert_eq!(read_all(&writer).unwrap().len(), 240);
    }
    let copy = disk.copy(1);
    copy.replace(&name, Vec::new());
    open(&copy, &settings()).unwrap();
    assert_eq!(copy.contents(&name).unwrap(), good);
}

#[test]
fn missing_segment_is_named() {
    let disk = SimDisk::new(1);
    let firsts = several_segments(&disk);
    for missing in [firsts[0], firsts[2]] {
        let copy = disk.copy(1);
        copy.delete(&segment_name(missing));
        match open(&copy, &settings()) {
            Err(OpenError::Damaged { file, position, .. }) => {
                assert_eq!((file, position), (segment_name(missing), missing));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn damage_in_a_sealed_segment_affects_only_its_readers() {
    let disk = SimDisk::new(1);
    several_segments(&disk);
    let damaged = with_segment(&disk, |bytes| bytes[usize::try_from(HEADER_BYTES).unwrap() + 100] ^= 1);
    let (mut writer, opened) = open(&damaged, &settings()).unwrap();
    assert_eq!(opened.events, 240);
    let view = std::sync::Arc::clone(&writer.view);
    let page = |after| view.page(after, &event_log::Filter::All, 10, super::reader::Access::Disk);
    let error = page(Position::START).unwrap_err().to_string();
    assert!(error.contains(&first_segment()) && error.contains("checksum"), "{error}");
    assert_eq!(page(Position(230)).unwrap().events.len(), 10);
    append_two(&mut writer, 5000);
}

#[test]
fn newer_format_is_refused_with_a_remedy_without_changes() {
    let disk = SimDisk::new(1);
    three_groups(&disk);
    let text = String::from_utf8(disk.contents("log.json").unwrap()).unwrap();
    disk.replace("log.json", text.replace("\"format\": 1", "\"format\": 2").into_bytes());
    let before = disk.contents(&first_segment());
    match open(&disk, &one_segment()) {
        Err(error @ OpenError::NewerFormat { found: 2, known: 1, .. }) => {
            assert!(error.to_string().contains("newer version"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(disk.contents(&first_segment()), before);
}

#[test]
fn folder_with_other_files_is_refused() {
    let disk = SimDisk::new(1);
    disk.replace("holiday.jpeg", vec![1, 2, 3]);
    match open(&disk, &one_segment()) {
        Err(OpenError::NotALog { found, .. }) => assert_eq!(found, "holiday.jpeg"),
        other => panic!("{other:?}"),
    }
    let segments_alone = SimDisk::new(2);
    three_groups(&segments_alone);
    segments_alone.delete("log.json");
    assert!(matches!(open(&segments_alone, &one_segment()), Err(OpenError::Damaged { .. })));
}

#[test]
fn segment_of_another_log_is_refused() {
    let (one, other) = (SimDisk::new(1), SimDisk::new(2));
    three_groups(&one);
    three_groups(&other);
    one.replace(&first_segment(), other.contents(&first_segment()).unwrap());
    match open(&one, &one_segment()) {
        Err(OpenError::Damaged { what, .. }) => assert!(what.contains("belongs to the log"), "{what}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn index_file_damaged_after_the_start_is_rebuilt_in_memory() {
    let disk = SimDisk::new(1);
    let second = several_segments(&disk)[1];
    let name = index_name(second);
    let good = disk.contents(&name).unwrap();
    // The first blocks hold offsets, postings and streams.
    for at in (0..good.len()).step_by(1_000) {
        let copy = disk.copy(1);
        let (mut writer, _) = open(&copy, &settings()).unwrap();
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        copy.replace(&name, bytes);
        let undamaged = open(&disk.copy(2), &settings()).unwrap().0;
        let stream = "a-1".parse().unwrap();
        let read = |writer: &Writer| {
            writer.view.stream(&stream, event_schemas::ids::Revision(0), 1_000, super::reader::Access::Disk)
        };
        assert_eq!(read(&writer).unwrap(), read(&undamaged).unwrap(), "byte {at}");
        assert_eq!(read_all(&writer).unwrap(), read_all(&undamaged).unwrap(), "byte {at}");
        append_two(&mut writer, 9_000);
    }
}
