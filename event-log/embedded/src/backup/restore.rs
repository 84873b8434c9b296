//! Restoring a log from a backup: it is written to a temporary folder, verified, and then renamed to its target.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use event_schemas::ids::Position;
use event_schemas::time::Timestamp;

use super::manifest::{self, File, Manifest};
use super::{BackupError, SYNC_EVERY_BYTES, check_not_within, hex, unreadable};
use crate::disk::{Disk, DiskFile, Fault};
use crate::maintenance::extend;
use crate::offline_reader::{GroupReader, RawGroup};
use crate::record::{CrcSeed, GROUP_HEADER_BYTES, GroupWriter};
use crate::recovery::{self, LOG_FILE, OpenError};
use crate::segment::{INDEX_SUFFIX, SEGMENT_SUFFIX, segment_name};
use crate::verify::{Extent, Progress, VerifyError, verify_on};
use crate::{FIRST_SEGMENT_BYTES, Settings};
use event_log::Identity;

/// The result of a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The identity, with the new epoch.
    pub log: Identity,
    pub head: Position,
    /// The recorded time of the last event; `None` for an empty log.
    pub recorded_at: Option<Timestamp>,
    pub segments: usize,
    pub bytes: u64,
}

/// Restores a log from the backup in `from` into the folder `to`, which must be empty or not exist. The hash of every file
/// and the checksum of every record are verified. The log's epoch is raised, so that positions that were assigned after
/// the backup are not mistaken for ones of the restored log.
///
/// # Errors
/// [`BackupError`]; then `to` is empty or does not exist.
pub fn restore(
    from: &Path,
    to: &Path,
    now: Timestamp,
    watch: impl FnMut(Progress),
) -> Result<Restored, BackupError> {
    check_not_within(to, from)?;
    let backup = Disk::Real(from.to_owned());
    let manifest = manifest::require(&backup)?;
    check_lengths(&backup, &manifest)?;
    check_empty(to)?;
    let temporary = temporary_folder(to);
    clear(&temporary)?;
    let new_parent = temporary.parent().filter(|parent| !parent.exists());
    let disk = Disk::folder(&temporary)?;
    let restored = restore_if_space(&backup, &manifest, &disk, now, watch);
    if restored.is_err() {
        // The first fault is the one to report, so these may fail.
        let _ = clear(&temporary);
        let _ = new_parent.map(std::fs::remove_dir);
        return restored;
    }
    std::fs::rename(&temporary, to).map_err(|source| Fault {
        action: "rename the restored log to",
        file: to.display().to_string(),
        source,
    })?;
    // Makes the rename durable.
    Disk::folder(to)?;
    restored
}

/// Verifies a whole backup, and returns what a restore would. Nothing is written.
///
/// # Errors
/// [`BackupError`] if the backup could not be restored.
pub fn check(from: &Path, mut watch: impl FnMut(Progress)) -> Result<Restored, BackupError> {
    let backup = Disk::Real(from.to_owned());
    let manifest = manifest::require(&backup)?;
    check_lengths(&backup, &manifest)?;
    let log = Identity { id: manifest.log, epoch: manifest.epoch };
    let mut progress = Progress { bytes_total: manifest.bytes(), ..Progress::default() };
    for file in &manifest.files {
        let copy = backup.open_to_read(&file.name).map_err(|fault| unreadable(&backup, file, &fault))?;
        let mut hash = Context::new(&SHA256);
        for_each_chunk(&copy, file, |bytes| {
            hash.update(bytes);
            Ok(())
        })?;
        verify_hash(&backup, file, hash)?;
        let mut groups = GroupReader::open(file.name.clone(), copy, log, file.first)
            .map_err(|error| backup_error(&backup, error))?;
        let done = progress;
        while let Some(RawGroup { group, .. }) =
            groups.next().map_err(|error| backup_error(&backup, error))?
        {
            progress.events += group.events.len() as u64;
            progress.bytes = done.bytes + groups.end();
            watch(progress);
        }
        if groups.end() != file.bytes || groups.next_position().0 != file.last.0 + 1 {
            return Err(backup_error(&backup, groups.damaged("the copy does not end with its last event")));
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
pub(crate) fn restore_manifest_on(
    backup: &Disk,
    disk: &Disk,
    now: Timestamp,
    watch: impl FnMut(Progress),
) -> Result<Restored, BackupError> {
    let manifest = manifest::require(backup)?;
    check_lengths(backup, &manifest)?;
    restore_on(backup, &manifest, disk, now, watch)
}

fn restore_if_space(
    backup: &Disk,
    manifest: &Manifest,
    disk: &Disk,
    now: Timestamp,
    watch: impl FnMut(Progress),
) -> Result<Restored, BackupError> {
    // Index files take at most about a tenth of the size of their segments.
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
    let log = Identity { id: manifest.log, epoch: raised_epoch(manifest.epoch, now) };
    // Every byte is copied, and then read again for verification.
    let mut progress = Progress { bytes_total: manifest.bytes() * 2, ..Progress::default() };
    for (n, file) in manifest.files.iter().enumerate() {
        let segment = disk.create(&segment_name(file.first))?;
        let end = copy(backup, file, &segment, &mut progress, &mut watch)?;
        if n + 1 == manifest.files.len() {
            make_writable(&segment, manifest, end)?;
        }
        segment.sync_all()?;
    }
    recovery::write_log_file(disk, log)?;
    let copied = progress.bytes;
    // Builds the index files, and refuses an invalid log.
    recovery::recover(disk, &Settings::new("").limits()).map_err(|error| backup_error(backup, error))?;
    let verified = verify_on(disk, Extent::First, |reading| {
        progress.events = reading.events;
        progress.bytes = copied + reading.bytes.min(manifest.bytes());
        watch(progress);
    });
    let verified = verified.map_err(|error| match error {
        VerifyError::Open(error) => backup_error(backup, error),
        VerifyError::NoLog(folder) => BackupError::NoBackup(folder),
    })?;
    if let Some(damage) = verified.damages.first() {
        let what = format!("at byte {}, position {}: {}", damage.offset, damage.position, damage.what);
        return Err(manifest::damaged(backup, &damage.file, what));
    }
    if verified.events != manifest.head.0 {
        let what = format!("it lists {} events, and the copies contain {}", manifest.head, verified.events);
        return Err(manifest::damaged(backup, manifest::MANIFEST_FILE, what));
    }
    disk.sync()?;
    Ok(as_restored(manifest, log))
}

/// The seconds since 1970, or the next epoch if that is higher: two restores from one backup must have different epochs,
/// because their logs diverge.
fn raised_epoch(epoch: u32, now: Timestamp) -> u32 {
    let seconds = u32::try_from(now.micros() / 1_000_000).unwrap_or(0);
    seconds.max(epoch.saturating_add(1))
}

/// Copies a file of the backup and verifies its hash. Returns its length.
fn copy(
    backup: &Disk,
    file: &File,
    segment: &DiskFile,
    progress: &mut Progress,
    watch: &mut impl FnMut(Progress),
) -> Result<u64, BackupError> {
    let source = backup.open_to_read(&file.name).map_err(|fault| unreadable(backup, file, &fault))?;
    let mut hash = Context::new(&SHA256);
    let mut offset = 0;
    for_each_chunk(&source, file, |bytes| {
        hash.update(bytes);
        segment.write_all_at(bytes, offset)?;
        segment.sync_data()?;
        offset += bytes.len() as u64;
        progress.bytes += bytes.len() as u64;
        watch(*progress);
        Ok(())
    })?;
    verify_hash(backup, file, hash)?;
    Ok(offset)
}

fn for_each_chunk(
    source: &DiskFile,
    file: &File,
    mut action: impl FnMut(&[u8]) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut buffer = vec![0; SYNC_EVERY_BYTES];
    for offset in (0..file.bytes).step_by(SYNC_EVERY_BYTES) {
        let len = usize::try_from(file.bytes - offset).unwrap_or(usize::MAX).min(SYNC_EVERY_BYTES);
        source.read_exact_at(&mut buffer[..len], offset)?;
        action(&buffer[..len])?;
    }
    Ok(())
}

fn verify_hash(backup: &Disk, file: &File, hash: Context) -> Result<(), BackupError> {
    if hex(hash.finish().as_ref()) == file.sha256 {
        return Ok(());
    }
    Err(manifest::damaged(backup, &file.name, "its SHA-256 differs from the manifest".to_owned()))
}

/// Writes a mark after the last event, which confirms it as durable, and extends the segment with zeros.
fn make_writable(segment: &DiskFile, manifest: &Manifest, end: u64) -> Result<(), Fault> {
    let Some(last) = manifest.files.last() else { return Ok(()) };
    let seed = CrcSeed::new(manifest.log, last.first);
    let next = Position(manifest.head.0 + 1);
    let recorded_at = manifest.recorded_at.unwrap_or(Timestamp::from_micros(i64::MIN));
    let mark = GroupWriter::new(seed, GROUP_HEADER_BYTES).finish(next, manifest.head, recorded_at);
    let marked = end + mark.len() as u64;
    extend(segment, end, marked.next_multiple_of(FIRST_SEGMENT_BYTES))?;
    segment.write_all_at(&mark, end)
}

/// Reports an error in a restored file as an error in the backup.
fn backup_error(backup: &Disk, error: OpenError) -> BackupError {
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
        let copy = backup.open_to_read(&file.name).map_err(|fault| unreadable(backup, file, &fault))?;
        let found = copy.len()?;
        if found != file.bytes {
            let what = format!("it has {found} bytes, and {} in the manifest", file.bytes);
            return Err(manifest::damaged(backup, &file.name, what));
        }
    }
    Ok(())
}

/// Refuses a folder that is not empty.
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

/// The temporary folder for a restore, beside the target.
fn temporary_folder(to: &Path) -> PathBuf {
    let mut name = to.file_name().map_or_else(|| OsString::from("events"), OsString::from);
    name.push(".restoring");
    to.with_file_name(name)
}

/// Removes the leftovers of an interrupted restore. A folder with other files is refused.
fn clear(folder: &Path) -> Result<(), BackupError> {
    if !folder.exists() {
        return Ok(());
    }
    let disk = Disk::Real(folder.to_owned());
    let is_log_file = |name: &str| {
        let name = name.strip_suffix(".tmp").unwrap_or(name);
        name == LOG_FILE || name.ends_with(SEGMENT_SUFFIX) || name.ends_with(INDEX_SUFFIX)
    };
    let names = disk.list()?;
    if let Some(found) = names.iter().find(|name| !is_log_file(name)) {
        return Err(BackupError::NotEmpty { folder: folder.to_owned(), found: found.clone() });
    }
    for name in names {
        disk.remove(&name)?;
    }
    std::fs::remove_dir(folder).map_err(|source| {
        BackupError::Io(Fault { action: "remove", file: folder.display().to_string(), source })
    })
}
