//! Backing up a log while it is written to, and restoring a log from a backup.
//!
//! A backup is a folder with copies of the segments, each up to its last whole group, and a manifest that lists them and is
//! written last. Complete copies are kept, so that the next backup into the folder is incremental. Files that a manifest
//! lists are never overwritten, so that an interrupted backup leaves the previous one valid.

use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use event_schemas::ids::Position;
use event_schemas::time::Timestamp;

use super::disk::{Disk, DiskFile, Fault, LockFault};
use super::head_file::HeadRecords;
use super::offline_reader::{self, OfflineReadError, RawGroup, SegmentListing};
use super::segment::{HEADER_BYTES, segment_name};
use super::verify::Progress;
use event_log::Identity;

mod manifest;
mod restore;

#[cfg(test)]
pub(super) use restore::restore_manifest_on;
pub use restore::{Restored, check, restore};

use manifest::{File, Manifest, file_name, is_backup_file};

/// The reason why a backup or a restore failed. Existing data is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error(transparent)]
    Source(#[from] OfflineReadError),
    #[error(
        "{} is in use by {}; wait until it ends, or name another folder",
        folder.display(), pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
    )]
    InUse { folder: PathBuf, pid: Option<u32> },
    #[error(
        "{} holds other files, such as {found}; name an empty folder, or one that does not exist yet",
        folder.display()
    )]
    NotEmpty { folder: PathBuf, found: String },
    #[error("{} lies within {}; name a folder outside of it", inner.display(), outer.display())]
    Within { inner: PathBuf, outer: PathBuf },
    #[error("{} holds no backup; name the folder that `matchbook events backup` wrote to", .0.display())]
    NoBackup(PathBuf),
    #[error(
        "the backup in {} has format {found}, and this version supports formats up to {known}; run the newer version of matchbook that wrote it",
        folder.display()
    )]
    NewerFormat { folder: PathBuf, found: u32, known: u32 },
    #[error("the backup in {} {what}; back up into a new folder", folder.display())]
    OtherHistory { folder: PathBuf, what: String },
    #[error("the backup is damaged: {}: {what}; nothing was changed; use another copy of the backup", file.display())]
    Damaged { file: PathBuf, what: String },
    #[error(
        "the disk of {} has {free_bytes} bytes free, and {needed_bytes} are needed; free disk space, or name a folder on another disk",
        folder.display()
    )]
    Full { folder: PathBuf, free_bytes: u64, needed_bytes: u64 },
    #[error("{0}; check that the disk works and that this user may read and write the folder")]
    Io(#[from] Fault),
}

/// The result of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackedUp {
    pub log: Identity,
    pub head: Position,
    /// The recorded time of the last event; `None` for an empty log.
    pub recorded_at: Option<Timestamp>,
    pub files: usize,
    pub bytes: u64,
    /// The number of new bytes, which were copied.
    pub copied_bytes: u64,
    /// The number of events in the copied files; the last file is copied each time.
    pub copied_events: u64,
    /// The number of events that the previous backup does not have.
    pub new_events: u64,
}

/// The number of bytes that are copied between two syncs. It limits the time that a server on the same disk waits for its
/// own syncs.
const SYNC_EVERY_BYTES: usize = 4 << 20;

/// The number of bytes at the end of a copy that are compared with its segment before the copy is reused.
const COMPARED_BYTES: u64 = 64 << 10;

/// Copies the log in the folder `from`, of a running or a stopped server, into the backup in `to`, which is created or
/// extended. The backup contains every event that was acknowledged before the call. Every checksum, position and time is
/// verified.
///
/// # Errors
/// [`BackupError`]. An earlier backup in `to` can still be restored.
pub fn backup(
    from: &Path,
    to: &Path,
    made_at: Timestamp,
    watch: impl FnMut(Progress),
) -> Result<BackedUp, BackupError> {
    check_not_within(to, from)?;
    backup_on(&Disk::Real(from.to_owned()), &Disk::Real(to.to_owned()), made_at, watch)
}

/// Refuses a folder that is inside another.
fn check_not_within(inner: &Path, outer: &Path) -> Result<(), BackupError> {
    // A path that does not exist yet is resolved by its closest existing ancestor.
    let real = |path: &Path| {
        path.ancestors().find_map(|part| {
            let known =
                if part.as_os_str().is_empty() { Path::new(".") } else { part }.canonicalize().ok()?;
            Some(path.strip_prefix(part).map_or_else(|_| known.clone(), |rest| known.join(rest)))
        })
    };
    match (real(inner), real(outer)) {
        (Some(inner), Some(outer)) if inner.starts_with(&outer) => Err(BackupError::Within { inner, outer }),
        _ => Ok(()),
    }
}

pub(super) fn backup_on(
    from: &Disk,
    to: &Disk,
    made_at: Timestamp,
    watch: impl FnMut(Progress),
) -> Result<BackedUp, BackupError> {
    let listing = offline_reader::list_segments(from)?;
    // Checked before anything is written, even a lock.
    existing_manifest(to)?;
    let is_new = !to.exists();
    to.create_folder()?;
    let lock = to.lock().map_err(|fault| lock_error(to, fault))?;
    let previous = existing_manifest(to)?;
    let outcome = back_up_after(from, to, &listing, previous.as_ref(), made_at, watch);
    if outcome.is_err() {
        // The copies are useless, unless the new manifest reached the disk. The first fault is the one to report, so this
        // may fail.
        let _ = Manifest::read(to).and_then(|now| remove_unlisted(to, &[previous.as_ref(), now.as_ref()]));
        drop(lock);
        if is_new {
            let _ = to.remove_folder();
        }
    }
    outcome
}

/// Makes a backup that reuses the copies of the previous one.
fn back_up_after(
    from: &Disk,
    to: &Disk,
    listing: &SegmentListing,
    previous: Option<&Manifest>,
    made_at: Timestamp,
    watch: impl FnMut(Progress),
) -> Result<BackedUp, BackupError> {
    let mut manifest = Manifest::new(listing.identity.id, listing.identity.epoch, made_at);
    if let Some(previous) = previous {
        manifest.files = reusable_files(from, to, listing, previous)?;
    }
    let rest = &listing.segments[manifest.files.len()..];
    let needed_bytes = rest.iter().map(|(_, bytes)| bytes).sum();
    let free_bytes = to.free_bytes()?;
    if free_bytes < needed_bytes {
        return Err(BackupError::Full { folder: to.path(), free_bytes, needed_bytes });
    }
    let progress = Progress { bytes_total: needed_bytes, ..Progress::default() };
    let heads = &listing.heads;
    let mut copying = SegmentCopier { from, to, log: listing.identity, heads, watch, progress, last: None };
    let mut copied_bytes = 0;
    for (n, (first, bytes)) in rest.iter().enumerate() {
        let done = copying.progress.bytes;
        let file = copying.segment(*first, rest.get(n + 1).map(|(next, _)| *next))?;
        copied_bytes += file.bytes;
        manifest.files.push(file);
        copying.progress.bytes = done + bytes;
    }
    let copied_events = copying.progress.events;
    manifest.head = manifest.files.last().map_or(Position::START, |file| file.last);
    manifest.recorded_at = copying.last.filter(|_| manifest.head > Position::START);
    if let Some(previous) = previous.filter(|previous| previous.head > manifest.head) {
        let what = format!("reaches position {}, and the log only {}", previous.head, manifest.head);
        return Err(BackupError::OtherHistory { folder: to.path(), what });
    }
    to.sync()?;
    manifest.write(to)?;
    // The backup is complete. Remaining files of the previous one only take space, so a failure here is ignored.
    let _ = remove_unlisted(to, &[Some(&manifest)]);
    Ok(BackedUp {
        log: listing.identity,
        head: manifest.head,
        recorded_at: manifest.recorded_at,
        files: manifest.files.len(),
        bytes: manifest.bytes(),
        copied_bytes,
        copied_events,
        new_events: manifest.head.0 - previous.map_or(0, |previous| previous.head.0),
    })
}

/// The manifest of the backup in the folder; `None` if the folder is empty.
fn existing_manifest(to: &Disk) -> Result<Option<Manifest>, BackupError> {
    if !to.exists() {
        return Ok(None);
    }
    match to.list()?.into_iter().find(|name| !is_backup_file(name) && name != "lost+found") {
        Some(found) => Err(BackupError::NotEmpty { folder: to.path(), found }),
        None => Manifest::read(to),
    }
}

/// The copies of the previous backup that can be reused: those of sealed segments.
fn reusable_files(
    from: &Disk,
    to: &Disk,
    log: &SegmentListing,
    manifest: &Manifest,
) -> Result<Vec<File>, BackupError> {
    let other = |what: String| BackupError::OtherHistory { folder: to.path(), what };
    if manifest.log != log.identity.id {
        return Err(other(format!("is of the log {}, and this is {}", manifest.log, log.identity.id)));
    }
    if manifest.epoch != log.identity.epoch {
        return Err(other(format!(
            "was made in epoch {} of the log, which has been restored since and is in epoch {}",
            manifest.epoch, log.identity.epoch
        )));
    }
    let mut reusable = Vec::new();
    for (file, segments) in manifest.files.iter().zip(log.segments.windows(2)) {
        let [(first, _), (next, _)] = segments else { break };
        if file.first != *first {
            return Err(other(format!("has a file {} without a segment in the log", file.name)));
        }
        if file.last.0 + 1 != next.0 {
            break;
        }
        if !same_end(from, to, file)? {
            return Err(other(format!("has in {} other events than the log", file.name)));
        }
        reusable.push(file.clone());
    }
    if manifest.files.len() > log.segments.len() {
        return Err(other("reaches further than the log".to_owned()));
    }
    Ok(reusable)
}

/// Whether a copy and its segment have the same end. The last group's trailer has a checksum over those of its events.
fn same_end(from: &Disk, to: &Disk, file: &File) -> Result<bool, BackupError> {
    let copy = to.open_to_read(&file.name).map_err(|fault| unreadable(to, file, &fault))?;
    if copy.len()? != file.bytes {
        return Err(manifest::damaged(to, &file.name, "its length differs from the manifest".to_owned()));
    }
    let start = file.bytes.saturating_sub(COMPARED_BYTES);
    let segment = from.open_to_read(&segment_name(file.first))?;
    if segment.len()? < file.bytes {
        return Ok(false);
    }
    let mut ends = [Vec::new(), Vec::new()];
    for (end, file_on_disk) in ends.iter_mut().zip([&copy, &segment]) {
        end.resize(usize::try_from(file.bytes - start).unwrap_or(usize::MAX), 0);
        file_on_disk.read_exact_at(end, start)?;
    }
    Ok(ends[0] == ends[1])
}

fn unreadable(disk: &Disk, file: &File, fault: &Fault) -> BackupError {
    manifest::damaged(disk, &file.name, fault.source.to_string())
}

fn lock_error(disk: &Disk, fault: LockFault) -> BackupError {
    match fault {
        LockFault::Held(pid) => BackupError::InUse { folder: disk.path(), pid },
        LockFault::Fault(fault) => BackupError::Io(fault),
    }
}

/// Removes the copies that no manifest lists.
fn remove_unlisted(disk: &Disk, manifests: &[Option<&Manifest>]) -> Result<(), BackupError> {
    let listed: Vec<&File> = manifests.iter().flatten().flat_map(|manifest| &manifest.files).collect();
    for name in disk.list()?.iter().filter(|name| is_backup_file(name) && *name != manifest::MANIFEST_FILE) {
        if !listed.iter().any(|file| file.name == *name) {
            disk.remove(name)?;
        }
    }
    Ok(())
}

struct SegmentCopier<'d, W> {
    from: &'d Disk,
    to: &'d Disk,
    log: Identity,
    heads: &'d HeadRecords,
    watch: W,
    progress: Progress,
    /// The recorded time of the last event.
    last: Option<Timestamp>,
}

impl<W: FnMut(Progress)> SegmentCopier<'_, W> {
    /// Copies a segment up to its last group. It must end where the `next` one starts.
    fn segment(&mut self, first: Position, next: Option<Position>) -> Result<File, BackupError> {
        let temporary = format!("{}.tmp", file_name(first, Position::START));
        let mut groups =
            offline_reader::open_segment(self.from, self.log, first).map_err(OfflineReadError::Open)?;
        let mut copy = HashingWriter::new(self.to.create(&temporary)?);
        let mut header = vec![0; HEADER_BYTES as usize];
        self.from.open_to_read(&segment_name(first))?.read_exact_at(&mut header, 0)?;
        copy.push(&header)?;
        let done = self.progress.bytes;
        while let Some(RawGroup { bytes, group }) = groups.next().map_err(OfflineReadError::Open)? {
            copy.push(&bytes)?;
            self.progress.events += group.events.len() as u64;
            self.progress.bytes = done + groups.end();
            (self.watch)(self.progress);
        }
        offline_reader::check_end(&groups, next, self.log, self.heads).map_err(OfflineReadError::Open)?;
        self.last = Some(groups.recorded_at());
        let (bytes, sha256) = copy.finish()?;
        let last = Position(groups.next_position().0 - 1);
        let name = file_name(first, last);
        self.to.rename(&temporary, &name)?;
        Ok(File { name, first, last, bytes, sha256 })
    }
}

/// A sequential writer of a file, which computes its hash.
struct HashingWriter {
    file: DiskFile,
    hash: Context,
    pending: Vec<u8>,
    written: u64,
}

impl HashingWriter {
    fn new(file: DiskFile) -> Self {
        Self { file, hash: Context::new(&SHA256), pending: Vec::new(), written: 0 }
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.hash.update(bytes);
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= SYNC_EVERY_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Fault> {
        self.file.write_all_at(&self.pending, self.written)?;
        self.file.sync_data()?;
        self.written += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }

    /// Returns the length and the SHA-256.
    fn finish(mut self) -> Result<(u64, String), Fault> {
        self.flush()?;
        self.file.sync_all()?;
        Ok((self.written, hex(self.hash.finish().as_ref())))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
