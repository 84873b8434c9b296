//! Verification detects damage and changes nothing.

use event_schemas::ids::Position;
use proptest::prelude::*;

use super::disk::Disk;
use super::harness::{commit, event, open, settings};
use super::segment::{HEADER_BYTES, index_name, position_of_name, segment_name};
use super::verify::verify_on;
use super::{EmbeddedLog, Extent, OpenError, Settings, SimDisk, Verified, VerifyError, verify};
use event_log::clock::Clock;
use event_log::{EventLog, Expected};

/// A log of several segments, most of them with an index file, with a final mark as after a close.
pub(super) fn several_segments() -> SimDisk {
    of_groups(30)
}

pub(super) fn of_groups(groups: u128) -> SimDisk {
    let disk = SimDisk::new(1);
    let (mut writer, _) = open(&disk, &settings()).unwrap();
    for group in 0..groups {
        let appends = ["a-1", "a-2", "b-1"].into_iter().enumerate().map(|(n, stream)| {
            let number = group * 10 + n as u128 * 2;
            (stream.parse().unwrap(), Expected::Any, vec![event(number, 200), event(number + 1, 30)])
        });
        for outcome in commit(&mut writer, appends.collect()) {
            outcome.unwrap();
        }
    }
    writer.mark_or_stop();
    assert!(writer.shutdown.stopped().is_none());
    disk
}

/// The first positions of the segments.
pub(super) fn firsts(disk: &SimDisk) -> Vec<Position> {
    disk.names().iter().filter_map(|name| position_of_name(name)).collect()
}

fn verified(disk: &SimDisk, extent: Extent) -> Verified {
    let contents = |disk: &SimDisk| {
        let names = Disk::Simulated(disk.clone()).list().unwrap();
        names.into_iter().map(|name| (disk.contents(&name), name)).collect::<Vec<_>>()
    };
    let before = contents(disk);
    let verified = verify_on(&Disk::Simulated(disk.clone()), extent, |_| {}).unwrap();
    assert_eq!(contents(disk), before, "verification changes no byte");
    verified
}

fn change(disk: &SimDisk, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> SimDisk {
    let copy = disk.copy(7);
    let mut bytes = copy.contents(name).unwrap();
    change(&mut bytes);
    copy.replace(name, bytes);
    copy
}

#[test]
fn undamaged_log_is_verified_to_its_end() {
    let disk = several_segments();
    let mut seen = Vec::new();
    let found =
        verify_on(&Disk::Simulated(disk.clone()), Extent::First, |progress| seen.push(progress)).unwrap();
    assert_eq!((found.events, found.damages.len(), found.unfinished), (180, 0, None));
    assert!(found.segments > 3 && found.revisions_checked);
    assert!(seen.is_sorted_by_key(|progress| (progress.bytes, progress.events)));
    let last = seen.last().unwrap();
    assert_eq!((last.bytes, last.events), (last.bytes_total, 180));
    assert_eq!(found.bytes, last.bytes);
}

#[test]
fn flipped_bit_in_any_group_is_detected_with_file_and_offset() {
    let disk = several_segments();
    let firsts = firsts(&disk);
    for (n, first) in firsts.iter().enumerate() {
        let name = segment_name(*first);
        let used = disk.contents(&name).unwrap().iter().rposition(|byte| *byte != 0).unwrap();
        for at in (usize::try_from(HEADER_BYTES).unwrap()..used).step_by(97) {
            let damaged = change(&disk, &name, |bytes| bytes[at] ^= 4);
            let found = verified(&damaged, Extent::First);
            // The last group is a mark, which no later mark confirms: without it no event is missing.
            if n + 1 == firsts.len() && found.damages.is_empty() {
                assert!(found.unfinished.is_some() && found.events == 180, "byte {at} of {name}");
                continue;
            }
            let damage = &found.damages[0];
            assert_eq!((found.damages.len(), &damage.file), (1, &name), "byte {at} of {name}");
            assert!(damage.offset <= at as u64 && damage.position >= *first);
            assert!(damage.remedy.contains("backup"));
        }
    }
}

#[test]
fn index_file_that_differs_from_its_segment_is_detected() {
    let disk = several_segments();
    let first = firsts(&disk)[1];
    let name = index_name(first);
    for at in (0..disk.contents(&name).unwrap().len()).step_by(61) {
        let found = verified(&change(&disk, &name, |bytes| bytes[at] ^= 1), Extent::First);
        assert_eq!((found.damages.len(), &found.damages[0].file), (1, &name), "byte {at}");
        assert!(found.damages[0].remedy.contains("remove that file"));
    }
    disk.delete(&name);
    let found = verified(&disk, Extent::First);
    assert!(found.damages.is_empty() && found.revisions_checked, "the next start rebuilds a missing one");
}

#[test]
fn full_extent_lists_all_damage() {
    let disk = several_segments();
    let firsts = firsts(&disk);
    let damaged = change(&disk, &segment_name(firsts[0]), |bytes| bytes[5000] ^= 1);
    let damaged = change(&damaged, &index_name(firsts[1]), |bytes| bytes[70] ^= 1);
    damaged.delete(&segment_name(firsts[2]));
    let found = verified(&damaged, Extent::All);
    let files: Vec<&str> = found.damages.iter().map(|damage| damage.file.as_str()).collect();
    let expected = [segment_name(firsts[0]), index_name(firsts[1]), segment_name(firsts[2])];
    assert_eq!(files, expected.each_ref().map(String::as_str));
    assert!(!found.revisions_checked);
    assert_eq!(verified(&damaged, Extent::First).damages.len(), 1);
}

#[test]
fn revision_gap_is_detected_in_a_segment_with_valid_checksums() {
    let disk = several_segments();
    // The second segment comes from another log: it is valid, but the streams end at other revisions before it.
    let [_, second, third, ..] = firsts(&disk)[..] else { panic!("a log of at least three segments") };
    let other = with_other_streams(&disk);
    let broken = disk.copy(3);
    for name in [segment_name(second), index_name(second)] {
        broken.replace(&name, other.contents(&name).unwrap());
    }
    let found = verified(&broken, Extent::First);
    assert_eq!(found.damages.len(), 1, "{found:?}");
    assert!(found.damages[0].what.contains("revision"), "{}", found.damages[0].what);
    assert!([second, third].map(segment_name).contains(&found.damages[0].file));
}

/// The same log, in which one stream replaces another from the second segment on.
fn with_other_streams(disk: &SimDisk) -> SimDisk {
    let other = SimDisk::new(1);
    let first = firsts(disk)[0];
    other.replace("log.json", disk.contents("log.json").unwrap());
    other.replace(&segment_name(first), disk.contents(&segment_name(first)).unwrap());
    let (mut writer, opened) = open(&other, &settings()).unwrap();
    let from = opened.events / 6;
    for group in u128::from(from)..30 {
        let appends = ["a-1", "a-1", "b-1"].into_iter().enumerate().map(|(n, stream)| {
            let number = group * 10 + n as u128 * 2;
            (stream.parse().unwrap(), Expected::Any, vec![event(number, 200), event(number + 1, 30)])
        });
        for outcome in commit(&mut writer, appends.collect()) {
            outcome.unwrap();
        }
    }
    writer.mark().unwrap();
    other
}

#[test]
fn folder_without_a_log_is_refused_and_stays_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path().to_owned(), folder.path().join("nowhere")] {
        let refused = verify(&Settings::new(path), Extent::First, |_| {});
        assert!(matches!(refused, Err(VerifyError::NoLog(_))));
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn open_log_is_refused_and_closed_log_is_verified() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { reserve_bytes: 0, ..Settings::new(folder.path().join("events")) };
    let (log, _) = EmbeddedLog::open(&settings, Clock::System).unwrap();
    log.append(&"a-1".parse().unwrap(), Expected::NoStream, vec![event(1, 10)]).await.unwrap();
    let refused = verify(&settings, Extent::First, |_| {});
    assert!(matches!(refused, Err(VerifyError::Open(OpenError::Locked { .. }))), "{refused:?}");
    log.close().await;
    let modified = |name: &str| std::fs::metadata(settings.folder.join(name)).unwrap().modified().unwrap();
    let before = ["lock", "log.json", &segment_name(Position(1))].map(modified);
    let found = verify(&settings, Extent::All, |_| {}).unwrap();
    assert_eq!((found.events, found.damages), (1, Vec::new()));
    assert_eq!(["lock", "log.json", &segment_name(Position(1))].map(modified), before);
}

proptest! {
    #![proptest_config(ProptestConfig { max_global_rejects: 10_000, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn random_bytes_in_a_segment_never_panic(
        at in 0_usize..20_000, bytes in proptest::collection::vec(any::<u8>(), 1..200), segment in 0_usize..3,
    ) {
        let disk = several_segments();
        let name = segment_name(firsts(&disk)[segment]);
        let damaged = change(&disk, &name, |image| {
            for (place, byte) in image.iter_mut().skip(at).zip(&bytes) {
                *place = *byte;
            }
        });
        verified(&damaged, Extent::All);
    }
}
