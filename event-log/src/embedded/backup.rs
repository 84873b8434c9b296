//! Backing a log up while it is written to, and making a log from a backup.
//!
//! A backup is a folder of copies of the segments, each up to its last whole group, and of a manifest that says what they
//! are and is written last. Copies that are whole are kept as they are, so that the next backup into the folder copies
//! only what is new; nothing that a manifest speaks of is ever written over, so that a backup that is broken off leaves
//! the one before it.

use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use event_schemas::ids::Position;
use event_schemas::time::Timestamp;

use super::disk::{Disk, DiskFile, Fault, LockFault};
use super::segment::{HEADER_BYTES, segment_name};
use super::verify::Progress;
use super::walk::{self, Listing, WalkError};
use crate::Identity;

mod manifest;
mod restore;

#[cfg(test)]
pub(super) use restore::restore_manifest_on;
pub use restore::{Restored, check, restore};

use manifest::{File, Manifest, file_name, is_ours};

/// Why there is no backup, or no log from one. What was there is as it was.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error(transparent)]
    Source(#[from] WalkError),
    #[error(
        "{} is used by {}; wait for its end, or name another folder",
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
        "the backup in {} has format {found}, and this build knows formats up to {known}; run the newer version of matchbook that wrote it",
        folder.display()
    )]
    NewerFormat { folder: PathBuf, found: u32, known: u32 },
    #[error("the backup in {} {what}; back up into a new folder", folder.display())]
    OtherHistory { folder: PathBuf, what: String },
    #[error("the backup is damaged: {}: {what}; nothing was changed; take another copy of the backup", file.display())]
    Damaged { file: PathBuf, what: String },
    #[error(
        "the disk of {} has {free_bytes} bytes free, and {needed_bytes} are needed; make room, or name a folder on another disk",
        folder.display()
    )]
    Full { folder: PathBuf, free_bytes: u64, needed_bytes: u64 },
    #[error("{0}; check that the disk works and that this user may read and write the folder")]
    Io(#[from] Fault),
}

/// What a backup holds now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackedUp {
    pub log: Identity,
    pub head: Position,
    /// Of the last event; none in an empty log.
    pub recorded_at: Option<Timestamp>,
    pub files: usize,
    pub bytes: u64,
    /// What was new.
    pub copied_bytes: u64,
    pub copied_events: u64,
}

/// How much is copied between two syncs, so that a server on the same disk never waits long for its own.
const SYNC_EVERY_BYTES: usize = 4 << 20;

/// The end of a copy that is compared with its segment before it is kept.
const COMPARED_BYTES: u64 = 64 << 10;

/// Copies the log in the folder `from`, of a running server or a stopped one, into the backup in `to`, which is begun or
/// goes on. Everything acknowledged before the call is in it. Every checksum, position and time is checked on the way.
///
/// # Errors
/// [`BackupError`]. What an earlier backup left in `to` can still be restored.
pub fn backup(
    from: &Path,
    to: &Path,
    made_at: Timestamp,
    watch: impl FnMut(Progress),
) -> Result<BackedUp, BackupError> {
    apart(to, from)?;
    backup_on(&Disk::Real(from.to_owned()), &Disk::Real(to.to_owned()), made_at, watch)
}

/// Refuses a folder inside of another.
fn apart(inner: &Path, outer: &Path) -> Result<(), BackupError> {
    // What does not exist yet is where its parent is.
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
    let listing = walk::list(from)?;
    // Before anything is put there, a lock included.
    look(to)?;
    let is_new = !to.is_there();
    to.make()?;
    let lock = to.lock().map_err(|fault| not_locked(to, fault))?;
    let before = look(to)?;
    let made = go_on(from, to, &listing, before.as_ref(), made_at, watch);
    if made.is_err() {
        // What was copied is of no use, unless the new manifest has come as far as the disk. The first fault is the one
        // that counts, so this may fail.
        let _ = Manifest::read(to).and_then(|now| tidy(to, &[before.as_ref(), now.as_ref()]));
        drop(lock);
        if is_new {
            let _ = to.remove_folder();
        }
    }
    made
}

/// Makes a backup out of the one `before` it.
fn go_on(
    from: &Disk,
    to: &Disk,
    listing: &Listing,
    before: Option<&Manifest>,
    made_at: Timestamp,
    watch: impl FnMut(Progress),
) -> Result<BackedUp, BackupError> {
    let mut manifest = Manifest::new(listing.identity.id, listing.identity.epoch, made_at);
    if let Some(before) = before {
        manifest.files = kept(from, to, listing, before)?;
    }
    let rest = &listing.segments[manifest.files.len()..];
    let needed_bytes = rest.iter().map(|(_, bytes)| bytes).sum();
    let free_bytes = to.free_bytes()?;
    if free_bytes < needed_bytes {
        return Err(BackupError::Full { folder: to.path(), free_bytes, needed_bytes });
    }
    let progress = Progress { bytes_total: needed_bytes, ..Progress::default() };
    let mut copying = Copying { from, to, log: listing.identity, watch, progress, last: None };
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
    if let Some(before) = before.filter(|before| before.head > manifest.head) {
        let what = format!("reaches position {}, and the log {}", before.head, manifest.head);
        return Err(BackupError::OtherHistory { folder: to.path(), what });
    }
    to.sync()?;
    manifest.write(to)?;
    // The backup is whole; what is left of the one before takes room, and does no other harm.
    let _ = tidy(to, &[Some(&manifest)]);
    Ok(BackedUp {
        log: listing.identity,
        head: manifest.head,
        recorded_at: manifest.recorded_at,
        files: manifest.files.len(),
        bytes: manifest.bytes(),
        copied_bytes,
        copied_events,
    })
}

/// The backup that is in the folder already; none in an empty one.
fn look(to: &Disk) -> Result<Option<Manifest>, BackupError> {
    if !to.is_there() {
        return Ok(None);
    }
    match to.list()?.into_iter().find(|name| !is_ours(name) && name != "lost+found") {
        Some(found) => Err(BackupError::NotEmpty { folder: to.path(), found }),
        None => Manifest::read(to),
    }
}

/// The files of an earlier backup that need no copying: those of segments that were full by then.
fn kept(from: &Disk, to: &Disk, log: &Listing, manifest: &Manifest) -> Result<Vec<File>, BackupError> {
    let other = |what: String| BackupError::OtherHistory { folder: to.path(), what };
    if manifest.log != log.identity.id {
        return Err(other(format!("is of the log {}, and this is {}", manifest.log, log.identity.id)));
    }
    if manifest.epoch != log.identity.epoch {
        return Err(other(format!(
            "was made in epoch {} of the log, which was restored since and is in epoch {}",
            manifest.epoch, log.identity.epoch
        )));
    }
    let mut keep = Vec::new();
    for (file, segments) in manifest.files.iter().zip(log.segments.windows(2)) {
        let [(first, _), (next, _)] = segments else { break };
        if file.first != *first {
            return Err(other(format!("has a file {} that no segment of the log fits", file.name)));
        }
        if file.last.0 + 1 != next.0 {
            break;
        }
        if !same_end(from, to, file)? {
            return Err(other(format!("has in {} other events than the log", file.name)));
        }
        keep.push(file.clone());
    }
    if manifest.files.len() > log.segments.len() {
        return Err(other("reaches further than the log".to_owned()));
    }
    Ok(keep)
}

/// Whether a copy and its segment end alike. The last group's trailer holds a checksum over those of its events.
fn same_end(from: &Disk, to: &Disk, file: &File) -> Result<bool, BackupError> {
    let copy = to.open_to_read(&file.name).map_err(|fault| gone(to, file, &fault))?;
    if copy.len()? != file.bytes {
        return Err(manifest::damaged(to, &file.name, "its length is not that of the manifest".to_owned()));
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

fn gone(disk: &Disk, file: &File, fault: &Fault) -> BackupError {
    manifest::damaged(disk, &file.name, fault.source.to_string())
}

fn not_locked(disk: &Disk, fault: LockFault) -> BackupError {
    match fault {
        LockFault::Held(pid) => BackupError::InUse { folder: disk.path(), pid },
        LockFault::Fault(fault) => BackupError::Io(fault),
    }
}

/// Removes the copies that none of the manifests speaks of.
fn tidy(disk: &Disk, manifests: &[Option<&Manifest>]) -> Result<(), BackupError> {
    let kept: Vec<&File> = manifests.iter().flatten().flat_map(|manifest| &manifest.files).collect();
    for name in disk.list()?.iter().filter(|name| is_ours(name) && *name != manifest::MANIFEST_FILE) {
        if !kept.iter().any(|file| file.name == *name) {
            disk.remove(name)?;
        }
    }
    Ok(())
}

struct Copying<'d, W> {
    from: &'d Disk,
    to: &'d Disk,
    log: Identity,
    watch: W,
    progress: Progress,
    /// When the last event was recorded.
    last: Option<Timestamp>,
}

impl<W: FnMut(Progress)> Copying<'_, W> {
    /// Copies a segment up to its last group. It must end where the `next` one begins.
    fn segment(&mut self, first: Position, next: Option<Position>) -> Result<File, BackupError> {
        let made = format!("{}.tmp", file_name(first, Position::START));
        let mut groups = walk::open_in(self.from, self.log, first).map_err(WalkError::Open)?;
        let mut copy = Copy::new(self.to.create(&made)?);
        let mut header = vec![0; HEADER_BYTES as usize];
        self.from.open_to_read(&segment_name(first))?.read_exact_at(&mut header, 0)?;
        copy.push(&header)?;
        let done = self.progress.bytes;
        while let Some(piece) = groups.next().map_err(WalkError::Open)? {
            copy.push(&piece.bytes)?;
            self.progress.events += piece.group.events.len() as u64;
            self.progress.bytes = done + groups.end();
            (self.watch)(self.progress);
        }
        walk::ended(&groups, next).map_err(WalkError::Open)?;
        self.last = Some(groups.recorded_at());
        let (bytes, sha256) = copy.finish()?;
        let last = Position(groups.next_position().0 - 1);
        let name = file_name(first, last);
        self.to.rename(&made, &name)?;
        Ok(File { name, first, last, bytes, sha256 })
    }
}

/// A file that is written from its start to its end, with its hash.
struct Copy {
    file: DiskFile,
    hash: Context,
    pending: Vec<u8>,
    written: u64,
}

impl Copy {
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

    /// Its length and its SHA-256.
    fn finish(mut self) -> Result<(u64, String), Fault> {
        self.flush()?;
        self.file.sync_all()?;
        Ok((self.written, hex(self.hash.finish().as_ref())))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
