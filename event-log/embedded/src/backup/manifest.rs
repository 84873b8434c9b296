//! The manifest of a backup, which is written last and makes the backup valid.

use event_schemas::ids::{LogId, Position};
use event_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::BackupError;
use crate::disk::Disk;

pub(super) const MANIFEST_FILE: &str = "backup.json";

/// The format version of a backup.
const FORMAT: u32 = 1;

/// `backup.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    format: u32,
    pub(super) log: LogId,
    pub(super) epoch: u32,
    /// The position of the last event.
    pub(super) head: Position,
    pub(super) recorded_at: Option<Timestamp>,
    pub(super) made_at: Timestamp,
    /// The copies, in the order of their events.
    pub(super) files: Vec<File>,
}

/// A copy of a segment, up to the end of its last group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct File {
    pub(super) name: String,
    pub(super) first: Position,
    /// The position of its last event; `first` minus one if it has none.
    pub(super) last: Position,
    pub(super) bytes: u64,
    /// The SHA-256 in hexadecimal.
    pub(super) sha256: String,
}

/// The part of `backup.json` that is the same in every version.
#[derive(Deserialize)]
struct AnyManifest {
    format: u32,
}

impl Manifest {
    pub(super) fn new(log: LogId, epoch: u32, made_at: Timestamp) -> Self {
        let head = Position::START;
        Self { format: FORMAT, log, epoch, head, recorded_at: None, made_at, files: Vec::new() }
    }

    /// Reads the manifest of a folder; `None` if there is none.
    pub(super) fn read(disk: &Disk) -> Result<Option<Self>, BackupError> {
        let Some(bytes) = disk.read_small(MANIFEST_FILE)? else { return Ok(None) };
        let damaged = |what: String| damaged(disk, MANIFEST_FILE, what);
        let AnyManifest { format } =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if format > FORMAT {
            return Err(BackupError::NewerFormat { folder: disk.path(), found: format, known: FORMAT });
        }
        let manifest: Self = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        manifest.check().map_err(|what| damaged(what.to_owned()))?;
        Ok(Some(manifest))
    }

    /// Checks that the files cover all events from the first to the head.
    fn check(&self) -> Result<(), &'static str> {
        let mut next = Position(1);
        for file in &self.files {
            if file.first != next || file.last.0 + 1 < file.first.0 {
                return Err("its files are not consecutive");
            }
            if file.name != file_name(file.first, file.last) {
                return Err("a file in it is not named after its events");
            }
            next = Position(file.last.0 + 1);
        }
        if self.files.is_empty() || self.head.0 + 1 != next.0 {
            return Err("its files do not reach its head");
        }
        Ok(())
    }

    pub(super) fn write(&self, disk: &Disk) -> Result<(), BackupError> {
        let text = serde_json::to_vec_pretty(self).expect("plain fields serialize as JSON");
        Ok(disk.write_atomically(MANIFEST_FILE, &text)?)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

pub(super) fn damaged(disk: &Disk, file: &str, what: String) -> BackupError {
    BackupError::Damaged { file: disk.path().join(file), what }
}

const FILE_SUFFIX: &str = ".copy";

/// The file name of a copy. A longer copy has another name, so that a copy that a manifest lists is never overwritten.
pub(super) fn file_name(first: Position, last: Position) -> String {
    format!("{:020}-{:020}{FILE_SUFFIX}", first.0, last.0)
}

/// Whether the file may belong to a backup.
pub(super) fn is_backup_file(name: &str) -> bool {
    let name = name.strip_suffix(".tmp").unwrap_or(name);
    let is_copy = || {
        let (first, last) = name.strip_suffix(FILE_SUFFIX)?.split_once('-')?;
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        Some(file_name(Position(first), Position(last)) == name)
    };
    name == MANIFEST_FILE || is_copy().unwrap_or(false)
}

/// Reads the manifest of a folder that must be a backup.
pub(super) fn require(disk: &Disk) -> Result<Manifest, BackupError> {
    let manifest = if disk.exists() { Manifest::read(disk)? } else { None };
    manifest.ok_or_else(|| BackupError::NoBackup(disk.path()))
}
