//! A log from a backup: made beside its place, checked as a whole, and only then put there.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use event_schemas::ids::Position;
use event_schemas::time::Timestamp;

use super::manifest::{self, File, Manifest};
use super::{BackupError, SYNC_EVERY_BYTES, apart, gone, hex};
use crate::Identity;
use crate::embedded::disk::{Disk, DiskFile, Fault};
use crate::embedded::keeper::extend;
use crate::embedded::record::{GROUP_HEADER_BYTES, GroupWriter, Seed};
use crate::embedded::recovery::{self, LOG_FILE, OpenError};
use crate::embedded::segment::{INDEX_SUFFIX, SEGMENT_SUFFIX, segment_name};
use crate::embedded::verify::{Extent, Progress, VerifyError, verify_on};
use crate::embedded::walk::Groups;
use crate::embedded::{FIRST_SEGMENT_BYTES, Settings};

/// A log that was made from a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// With the new epoch.
    pub log: Identity,
    pub head: Position,
    /// Of the last event; none in an empty log.
    pub recorded_at: Option<Timestamp>,
    pub segments: usize,
    pub bytes: u64,
}

/// Makes a log in the folder `to`, which must be empty or not be there, from the backup in `from`. Every file is held to
/// its hash, and every record to its checksum. The log's epoch is raised, so that positions given out after the backup
/// was made are not taken for ones of the new log.
///
/// # Errors
/// [`BackupError`]; then there is nothing in `to`.
pub fn restore(
    from: &Path,
    to: &Path,
    now: Timestamp,
    watch: impl FnMut(Progress),
) -> Result<Restored, BackupError> {
    apart(to, from)?;
    let backup = Disk::Real(from.to_owned());
    let manifest = manifest::require(&backup)?;
    check_lengths(&backup, &manifest)?;
    check_empty(to)?;
    let made = beside(to);
    clear(&made)?;
    let above = made.parent().filter(|above| !above.exists());
    let disk = Disk::folder(&made)?;
    let restored = restore_if_room(&backup, &manifest, &disk, now, watch);
    if restored.is_err() {
        // The first fault is the one that counts, so these may fail.
        let _ = clear(&made);
        let _ = above.map(std::fs::remove_dir);
        return restored;
    }
    std::fs::rename(&made, to).map_err(|source| Fault {
        action: "put the restored log in the place of",
        file: to.display().to_string(),
        source,
    })?;
    // Makes the rename durable.
    Disk::folder(to)?;
    restored
}

/// Reads a backup whole, and says what a restore would bring. Nothing is written.
///
/// # Errors
/// [`BackupError`] if it could not be restored.
pub fn check(from: &Path, mut watch: impl FnMut(Progress)) -> Result<Restored, BackupError> {
    let backup = Disk::Real(from.to_owned());
    let manifest = manifest::require(&backup)?;
    check_lengths(&backup, &manifest)?;
    let log = Identity { id: manifest.log, epoch: manifest.epoch };
    let mut progress = Progress { bytes_total: manifest.bytes(), ..Progress::default() };
    for file in &manifest.files {
        let copy = backup.open_to_read(&file.name).map_err(|fault| gone(&backup, file, &fault))?;
        let mut hash = Context::new(&SHA256);
        pieces(&copy, file, |bytes| {
            hash.update(bytes);
            Ok(())
        })?;
        hold_to_hash(&backup, file, hash)?;
        let mut groups = Groups::open(file.name.clone(), copy, log, file.first)
            .map_err(|error| of_backup(&backup, error))?;
        let done = progress;
        while let Some(piece) = groups.next().map_err(|error| of_backup(&backup, error))? {
            progress.events += piece.group.events.len() as u64;
            progress.bytes = done.bytes + groups.end();
            watch(progress);
        }
        if groups.end() != file.bytes || groups.next_position().0 != file.last.0 + 1 {
            return Err(of_backup(&backup, groups.damaged("the copy does not end with its last event")));
        }
    }
    Ok(as_restored(&manifest, log))
}

fn as_restored(manifest: &Manifest, log: Identity) -> Restored {
    Restored {
        log,
        head: manifest.head,
        recorded_at: manifest.recorded_at,
        segments: manifest.files.len(),
        bytes: manifest.bytes(),
    }
}

/// As [`restore`], on any disk.
#[cfg(test)]
pub(in crate::embedded) fn restore_manifest_on(
    backup: &Disk,
    disk: &Disk,
    now: Timestamp,
    watch: impl FnMut(Progress),
) -> Result<Restored, BackupError> {
    let manifest = manifest::require(backup)?;
    check_lengths(backup, &manifest)?;
    restore_on(backup, &manifest, disk, now, watch)
}

fn restore_if_room(
    backup: &Disk,
    manifest: &Manifest,
    disk: &Disk,
    now: Timestamp,
    watch: impl FnMut(Progress),
) -> Result<Restored, BackupError> {
    // The largest index files take about a tenth of their segments.
    let needed_bytes = manifest.bytes() + manifest.bytes() / 8 + FIRST_SEGMENT_BYTES;
    let free_bytes = disk.free_bytes()?;
    if free_bytes < needed_bytes {
        return Err(BackupError::Full { folder: disk.path(), free_bytes, needed_bytes });
    }
    restore_on(backup, manifest, disk, now, watch)
}

fn restore_on(
    backup: &Disk,
    manifest: &Manifest,
    disk: &Disk,
    now: Timestamp,
    mut watch: impl FnMut(Progress),
) -> Result<Restored, BackupError> {
    let log = Identity { id: manifest.log, epoch: raised(manifest.epoch, now) };
    // Every byte is copied, and then read again to be checked.
    let mut progress = Progress { bytes_total: manifest.bytes() * 2, ..Progress::default() };
    for (n, file) in manifest.files.iter().enumerate() {
        let segment = disk.create(&segment_name(file.first))?;
        let end = copy(backup, file, &segment, &mut progress, &mut watch)?;
        if n + 1 == manifest.files.len() {
            make_writable(&segment, manifest, end)?;
        }
        segment.sync_all()?;
    }
    recovery::put_log_file(disk, log)?;
    let copied = progress.bytes;
    // Makes the index files, and refuses what is no log.
    recovery::recover(disk, &Settings::new("").limits()).map_err(|error| of_backup(backup, error))?;
    let verified = verify_on(disk, Extent::First, |reading| {
        progress.events = reading.events;
        progress.bytes = copied + reading.bytes.min(manifest.bytes());
        watch(progress);
    });
    let verified = verified.map_err(|error| match error {
        VerifyError::Open(error) => of_backup(backup, error),
        VerifyError::NoLog(folder) => BackupError::NoBackup(folder),
    })?;
    if let Some(damage) = verified.damages.first() {
        let what = format!("at byte {}, position {}: {}", damage.offset, damage.position, damage.what);
        return Err(manifest::damaged(backup, &damage.file, what));
    }
    if verified.events != manifest.head.0 {
        let what = format!("it speaks of {} events, and there are {}", manifest.head, verified.events);
        return Err(manifest::damaged(backup, manifest::MANIFEST_FILE, what));
    }
    disk.sync()?;
    Ok(as_restored(manifest, log))
}

/// The seconds since 1970, if they are more than one more than before: two restores from one backup must not come to the
/// same epoch, because their logs go on differently.
fn raised(epoch: u32, now: Timestamp) -> u32 {
    let seconds = u32::try_from(now.micros() / 1_000_000).unwrap_or(0);
    seconds.max(epoch.saturating_add(1))
}

/// Copies a file of the backup and holds it to its hash; answers where it ends.
fn copy(
    backup: &Disk,
    file: &File,
    segment: &DiskFile,
    progress: &mut Progress,
    watch: &mut impl FnMut(Progress),
) -> Result<u64, BackupError> {
    let source = backup.open_to_read(&file.name).map_err(|fault| gone(backup, file, &fault))?;
    let mut hash = Context::new(&SHA256);
    let mut offset = 0;
    pieces(&source, file, |bytes| {
        hash.update(bytes);
        segment.write_all_at(bytes, offset)?;
        segment.sync_data()?;
        offset += bytes.len() as u64;
        progress.bytes += bytes.len() as u64;
        watch(*progress);
        Ok(())
    })?;
    hold_to_hash(backup, file, hash)?;
    Ok(offset)
}

fn pieces(
    source: &DiskFile,
    file: &File,
    mut take: impl FnMut(&[u8]) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut buffer = vec![0; SYNC_EVERY_BYTES];
    for offset in (0..file.bytes).step_by(SYNC_EVERY_BYTES) {
        let len = usize::try_from(file.bytes - offset).unwrap_or(usize::MAX).min(SYNC_EVERY_BYTES);
        source.read_exact_at(&mut buffer[..len], offset)?;
        take(&buffer[..len])?;
    }
    Ok(())
}

fn hold_to_hash(backup: &Disk, file: &File, hash: Context) -> Result<(), BackupError> {
    if hex(hash.finish().as_ref()) == file.sha256 {
        return Ok(());
    }
    Err(manifest::damaged(backup, &file.name, "its bytes do not have the SHA-256 of the manifest".to_owned()))
}

/// Puts a mark behind the last event, which is durable by now, and room to write to.
fn make_writable(segment: &DiskFile, manifest: &Manifest, end: u64) -> Result<(), Fault> {
    let Some(last) = manifest.files.last() else { return Ok(()) };
    let seed = Seed::new(manifest.log, last.first);
    let next = Position(manifest.head.0 + 1);
    let recorded_at = manifest.recorded_at.unwrap_or(Timestamp::from_micros(i64::MIN));
    let mark = GroupWriter::new(seed, GROUP_HEADER_BYTES).finish(next, manifest.head, recorded_at);
    let marked = end + mark.len() as u64;
    extend(segment, end, marked.next_multiple_of(FIRST_SEGMENT_BYTES))?;
    segment.write_all_at(&mark, end)
}

/// What is wrong with a restored file was wrong in the backup.
fn of_backup(backup: &Disk, error: OpenError) -> BackupError {
    match error {
        OpenError::Damaged { file, offset, position, what, .. } => {
            manifest::damaged(backup, &file, format!("at byte {offset}, position {position}: {what}"))
        }
        OpenError::Io(fault) => BackupError::Io(fault),
        error => BackupError::Source(error.into()),
    }
}

fn check_lengths(backup: &Disk, manifest: &Manifest) -> Result<(), BackupError> {
    for file in &manifest.files {
        let copy = backup.open_to_read(&file.name).map_err(|fault| gone(backup, file, &fault))?;
        let found = copy.len()?;
        if found != file.bytes {
            let what = format!("it has {found} bytes, and the manifest says {}", file.bytes);
            return Err(manifest::damaged(backup, &file.name, what));
        }
    }
    Ok(())
}

/// Refuses a folder with anything in it.
fn check_empty(folder: &Path) -> Result<(), BackupError> {
    if !folder.exists() {
        return Ok(());
    }
    let named = |source| Fault { action: "list", file: folder.display().to_string(), source };
    match std::fs::read_dir(folder).map_err(named)?.next() {
        None => Ok(()),
        Some(entry) => {
            let found = entry.map_err(named)?.file_name().to_string_lossy().into_owned();
            Err(BackupError::NotEmpty { folder: folder.to_owned(), found })
        }
    }
}

/// Where the log is made, so that it comes into its place whole.
fn beside(to: &Path) -> PathBuf {
    let mut name = to.file_name().map_or_else(|| OsString::from("events"), OsString::from);
    name.push(".restoring");
    to.with_file_name(name)
}

/// Removes what a restore that was broken off left. Other files are not touched.
fn clear(folder: &Path) -> Result<(), BackupError> {
    if !folder.exists() {
        return Ok(());
    }
    let disk = Disk::Real(folder.to_owned());
    let ours = |name: &str| {
        let name = name.strip_suffix(".tmp").unwrap_or(name);
        name == LOG_FILE || name.ends_with(SEGMENT_SUFFIX) || name.ends_with(INDEX_SUFFIX)
    };
    let names = disk.list()?;
    if let Some(found) = names.iter().find(|name| !ours(name)) {
        return Err(BackupError::NotEmpty { folder: folder.to_owned(), found: found.clone() });
    }
    for name in names {
        disk.remove(&name)?;
    }
    std::fs::remove_dir(folder).map_err(|source| {
        BackupError::Io(Fault { action: "remove", file: folder.display().to_string(), source })
    })
}
