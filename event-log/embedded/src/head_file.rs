//! The head file: the last acknowledged position, recorded outside of the log's folder.
//!
//! A log that has lost its end looks like one that was never longer: all its files are valid, and positions that were
//! acknowledged would be assigned again. So the position of each group's last event is also written to a small file beside the folder,
//! when the group is durable and before its appends get their responses. The file is synced once a second and at the end:
//! after a loss of power it may be behind the log. It is never ahead of it.

use std::io::ErrorKind;
use std::path::Path;

use event_schemas::ids::{LogId, Position};
use uuid::Uuid;

use super::disk::{Disk, DiskFile, Fault};
use super::recovery::{LOG_FILE, OpenError, damaged_log_file};
use super::segment::FORMAT;
use event_log::Identity;

/// The suffix of the file; its stem is the name of the log's folder.
const SUFFIX: &str = ".head";
/// The name of the file within the folder.
pub(super) const HEAD_FILE: &str = "log.head";

const MAGIC: &[u8; 8] = b"MBLOGHED";
const RECORD_BYTES: usize = 44;

const ACKNOWLEDGED: &str = " were acknowledged";

const LOST_END: &str = "nothing was changed; put the missing or shortened file back, or restore a backup with `matchbook events restore`; \
     `matchbook events repair` shows what is left, and with --apply continues without the lost events, in a new epoch";
const LOST_LOG: &str = "nothing was changed; put the folder back, or restore a backup with `matchbook events restore`; to start without \
     these events, remove the file that records them";

/// The places of the file, the preferred one first: beside the folder, so that it remains if the folder is lost; within the
/// folder, if this user may not write beside it.
fn places(disk: &Disk) -> Vec<(Disk, String)> {
    let within = (disk.clone(), HEAD_FILE.to_owned());
    match disk {
        Disk::Real(folder) => {
            let beside = folder.file_name().zip(folder.parent()).map(|(name, parent)| {
                let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
                (Disk::Real(parent.to_owned()), format!("{}{SUFFIX}", name.to_string_lossy()))
            });
            beside.into_iter().chain([within]).collect()
        }
        #[cfg(any(test, feature = "simulation"))]
        Disk::Simulated(_) => vec![within],
    }
}

/// The content of a head file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HeadRecord {
    /// The path of the file, for messages.
    file: String,
    log: Identity,
    position: Position,
}

/// The head files that exist. Usually one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct HeadRecords(Vec<HeadRecord>);

impl HeadRecords {
    /// Reads the files. A damaged one counts as missing, because the log itself is the source of truth.
    pub(super) fn read(disk: &Disk) -> Result<Self, Fault> {
        let mut found = Vec::new();
        for (folder, name) in places(disk) {
            let Some(bytes) = folder.read_small(&name)? else { continue };
            let file = folder.path().join(&name).display().to_string();
            match decode(&bytes) {
                Some((log, position)) => found.push(HeadRecord { file, log, position }),
                None => tracing::warn!(file, "the head file is damaged; it will be written again"),
            }
        }
        Ok(Self(found))
    }

    /// The newest record of the log.
    fn of(&self, log: LogId) -> Option<&HeadRecord> {
        let of_log = self.0.iter().filter(|record| record.log.id == log);
        of_log.max_by_key(|record| (record.log.epoch, record.position))
    }

    /// The position up to which events of the log's epoch were acknowledged.
    pub(super) fn acknowledged(&self, log: Identity) -> Position {
        let newest = self.of(log.id).filter(|record| record.log.epoch == log.epoch);
        newest.map_or(Position::START, |record| record.position)
    }

    /// The highest epoch in which the log was used.
    pub(super) fn epoch(&self, log: LogId) -> Option<u32> {
        self.of(log).map(|record| record.log.epoch)
    }

    /// Refuses a log that ends at `head`, in this file and at this offset, if later events were acknowledged.
    ///
    /// # Errors
    /// [`OpenError::Damaged`]
    pub(super) fn check_end(
        &self,
        log: Identity,
        head: Position,
        file: &str,
        offset: u64,
    ) -> Result<(), OpenError> {
        match self.of(log.id) {
            Some(newest) if newest.log.epoch == log.epoch && newest.position > head => {
                let what = format!(
                    "the log ends at position {head}, but events up to position {}{ACKNOWLEDGED} (recorded in {})",
                    newest.position, newest.file
                );
                let (file, position) = (file.to_owned(), Position(head.0 + 1));
                Err(OpenError::Damaged { file, offset, position, what, remedy: LOST_END })
            }
            _ => Ok(()),
        }
    }

    /// Adds to damage of the newest segment how far the log had been acknowledged.
    pub(super) fn explain(&self, log: Option<Identity>, error: OpenError) -> OpenError {
        let acknowledged = log.map_or(Position::START, |log| self.acknowledged(log));
        match error {
            OpenError::Damaged { file, offset, position, what, remedy }
                if position <= acknowledged && !what.contains(ACKNOWLEDGED) =>
            {
                let what = format!("{what}; events up to position {acknowledged}{ACKNOWLEDGED}");
                OpenError::Damaged { file, offset, position, what, remedy }
            }
            error => error,
        }
    }

    /// Refuses a log that was used in a later epoch than that of `log.json`.
    ///
    /// # Errors
    /// [`OpenError::Damaged`]
    pub(super) fn check_epoch(&self, log: Identity) -> Result<(), OpenError> {
        match self.of(log.id) {
            Some(newest) if newest.log.epoch > log.epoch => Err(damaged_log_file(format!(
                "it contains epoch {}, but the log was used in epoch {} up to position {} (recorded in {})",
                log.epoch, newest.log.epoch, newest.position, newest.file
            ))),
            _ => Ok(()),
        }
    }

    /// Refuses a folder that contained a log with events and contains none any more.
    ///
    /// # Errors
    /// [`OpenError::Damaged`]
    pub(super) fn check_no_log(&self) -> Result<(), OpenError> {
        let Some(newest) = self.0.iter().max_by_key(|record| record.position) else { return Ok(()) };
        if newest.position == Position::START {
            return Ok(());
        }
        let what = format!(
            "the log is missing: its folder ends at position 0, but events up to position {} were acknowledged (recorded in {})",
            newest.position, newest.file
        );
        Err(OpenError::Damaged {
            file: LOG_FILE.to_owned(),
            offset: 0,
            position: Position(1),
            what,
            remedy: LOST_LOG,
        })
    }
}

fn encode(log: Identity, position: Position) -> [u8; RECORD_BYTES] {
    let mut bytes = [0; RECORD_BYTES];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    bytes[12..16].copy_from_slice(&log.epoch.to_le_bytes());
    bytes[16..32].copy_from_slice(log.id.0.as_bytes());
    bytes[32..40].copy_from_slice(&position.0.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..40]);
    bytes[40..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<(Identity, Position)> {
    let (fields, crc) = bytes.get(..RECORD_BYTES)?.split_at(40);
    if &fields[..8] != MAGIC || crc32c::crc32c(fields).to_le_bytes() != crc {
        return None;
    }
    let epoch = u32::from_le_bytes(fields[12..16].try_into().ok()?);
    let id = LogId(Uuid::from_slice(&fields[16..32]).ok()?);
    let position = Position(u64::from_le_bytes(fields[32..40].try_into().ok()?));
    Some((Identity { id, epoch }, position))
}

fn is_forbidden(fault: &Fault) -> bool {
    matches!(fault.source.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem)
}

/// The head file of an open log.
#[derive(Debug)]
pub(super) struct HeadFile {
    disk: Disk,
    log: Identity,
    /// None as long as the disk is too full to create it.
    file: Option<DiskFile>,
    position: Position,
}

impl HeadFile {
    /// Opens the file, or creates it, and records the position of the last durable event.
    pub(super) fn open(disk: &Disk, log: Identity, durable: Position) -> Result<Self, Fault> {
        let mut head = Self { disk: disk.clone(), log, file: None, position: durable };
        head.create()?;
        head.record(durable)?;
        head.sync()?;
        Ok(head)
    }

    fn create(&mut self) -> Result<(), Fault> {
        let mut refused = None;
        for (folder, name) in places(&self.disk) {
            let opened = match folder.open(&name) {
                Err(fault) if fault.source.kind() == ErrorKind::NotFound => folder
                    .write_atomically(&name, &encode(self.log, self.position))
                    .and_then(|()| folder.open(&name)),
                opened => opened,
            };
            match opened {
                Ok(file) => {
                    self.file = Some(file);
                    return Ok(());
                }
                Err(fault) if fault.is_full() => return Ok(()),
                // The folder may be a mount point in a folder of another user.
                Err(fault) if is_forbidden(&fault) => refused = Some(fault),
                Err(fault) => return Err(fault),
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// Records that all events up to `durable` are on disk, without a sync.
    pub(super) fn record(&mut self, durable: Position) -> Result<(), Fault> {
        self.position = durable;
        let Some(file) = &self.file else { return Ok(()) };
        match file.write_all_at(&encode(self.log, durable), 0) {
            // On some file systems even this needs free space. The file stays behind the log, which is permitted.
            Err(fault) if fault.is_full() => Ok(()),
            written => written,
        }
    }

    /// Makes the record durable.
    pub(super) fn sync(&mut self) -> Result<(), Fault> {
        if self.file.is_none() {
            self.create()?;
        }
        match self.file.as_ref().map_or(Ok(()), DiskFile::sync_data) {
            Err(fault) if fault.is_full() => Ok(()),
            synced => synced,
        }
    }
}
