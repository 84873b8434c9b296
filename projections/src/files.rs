//! The files of a read model: `<name>.<generation>.sqlite`. A rebuild creates the next one alongside the live one.
//!
//! Each file states its own role, so a kill between any two steps needs no repair: the newest published file is live,
//! an unfinished newer one is continued, and all others are removed.

use std::io;
use std::path::{Path, PathBuf};

use event_log::{EventLog, Identity, Log};

use crate::checkpoint::{self, Checkpoint, Incompatible};
use crate::projection::{Name, Projection};
use crate::sql::{self, Db, SqlError};

/// The files of one read model.
#[derive(Clone, Debug)]
pub(crate) struct GenerationFiles {
    folder: PathBuf,
    name: Name,
}

/// A generation's file, open.
#[derive(Debug)]
pub(crate) struct OpenGeneration {
    pub(crate) number: u64,
    pub(crate) db: Db,
    pub(crate) checkpoint: Checkpoint,
}

/// The usable generations that an earlier run left in the folder.
#[derive(Debug, Default)]
pub(crate) struct FoundGenerations {
    /// The newest complete one.
    pub(crate) live: Option<OpenGeneration>,
    /// The newest one that is not complete, if it is newer than the live one.
    pub(crate) unfinished: Option<OpenGeneration>,
}

/// The files of a read model cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    #[error("the folder {folder} of the read models cannot be used: {source}")]
    Folder { folder: PathBuf, source: io::Error },
    #[error("the file {path} cannot be opened: {source}{}", remedy(source))]
    File { path: PathBuf, source: SqlError },
}

fn remedy(source: &SqlError) -> &'static str {
    match source {
        SqlError::Refused(_) => "; check whether another process has it open",
        // Their own texts name the remedy.
        SqlError::Full(_) | SqlError::Damaged(_) => "",
    }
}

impl FilesError {
    /// Reports whether the disk is full, which is temporary.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Folder { source, .. } => source.kind() == io::ErrorKind::StorageFull,
            Self::File { source, .. } => matches!(source, SqlError::Full(_)),
        }
    }
}

impl GenerationFiles {
    pub(crate) fn new(folder: &Path, name: Name) -> Self {
        Self { folder: folder.to_owned(), name }
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{}.{number}.sqlite", self.name))
    }

    fn folder_error(&self, source: io::Error) -> FilesError {
        FilesError::Folder { folder: self.folder.clone(), source }
    }

    /// The numbers of the generations that have files, newest first.
    fn numbers(&self) -> Result<Vec<u64>, FilesError> {
        std::fs::create_dir_all(&self.folder).map_err(|error| self.folder_error(error))?;
        let mut numbers = numbers(&self.folder, self.name).map_err(|error| self.folder_error(error))?;
        numbers.sort_unstable_by(|a, b| b.cmp(a));
        Ok(numbers)
    }

    fn remove(&self, number: u64) -> Result<(), FilesError> {
        sql::remove(&self.path(number)).map_err(|error| self.folder_error(error))
    }

    /// Finds the generations that an earlier run left, and removes unusable files.
    pub(crate) async fn find<P: Projection>(&self, log: &Log) -> Result<FoundGenerations, FilesError> {
        let mut found = FoundGenerations::default();
        for number in self.numbers()? {
            if found.live.is_some() {
                self.remove(number)?;
                continue;
            }
            let Some(opened) = self.open_compatible::<P>(number, log).await? else { continue };
            if opened.checkpoint.published {
                found.live = Some(opened);
            } else if found.unfinished.is_none() {
                found.unfinished = Some(opened);
            } else {
                opened.db.retire();
            }
        }
        Ok(found)
    }

    /// Opens the generation if it is compatible; otherwise removes its file.
    async fn open_compatible<P: Projection>(
        &self,
        number: u64,
        log: &Log,
    ) -> Result<Option<OpenGeneration>, FilesError> {
        let path = self.path(number);
        let reason = match self.open::<P>(number).await {
            Ok((db, Some(checkpoint))) => match check_checkpoint::<P>(&checkpoint, log).await {
                Ok(()) => return Ok(Some(OpenGeneration { number, db, checkpoint })),
                Err(incompatible) => {
                    db.close().await;
                    incompatible.to_string()
                }
            },
            Ok((db, None)) => {
                db.close().await;
                "it has no checkpoint".to_owned()
            }
            Err(SqlError::Damaged(reason)) => format!("it is damaged: {reason}"),
            Err(source) => return Err(FilesError::File { path, source }),
        };
        tracing::warn!(projection = %self.name, file = %path.display(), %reason, "a read model's file is removed, and the read model is rebuilt from the log");
        self.remove(number)?;
        Ok(None)
    }

    async fn open<P: Projection>(&self, number: u64) -> Result<(Db, Option<Checkpoint>), SqlError> {
        let db = Db::open(&self.path(number), &[checkpoint::DDL, P::DDL]).await?;
        match Checkpoint::read(&db).await {
            Ok(checkpoint) => Ok((db, checkpoint)),
            Err(error) => {
                db.close().await;
                Err(error)
            }
        }
    }

    /// Creates the file of a new generation, with a number above all existing ones.
    pub(crate) async fn create<P: Projection>(&self, log: Identity) -> Result<OpenGeneration, FilesError> {
        let number = self.numbers()?.first().map_or(1, |newest| newest + 1);
        // An interrupted removal may have left parts of an earlier file with this number.
        self.remove(number)?;
        let checkpoint = Checkpoint::start(P::REVISION, log);
        let created = async {
            let (db, _) = self.open::<P>(number).await?;
            let mut tx = db.begin().await?;
            checkpoint.write(&mut tx).await?;
            tx.commit().await?;
            Ok(db)
        };
        match created.await {
            Ok(db) => Ok(OpenGeneration { number, db, checkpoint }),
            Err(source) => Err(FilesError::File { path: self.path(number), source }),
        }
    }
}

async fn check_checkpoint<P: Projection>(checkpoint: &Checkpoint, log: &Log) -> Result<(), Incompatible> {
    let head = *log.head().borrow();
    checkpoint.check_compatible(P::REVISION, log.identity(), head)?;
    checkpoint.check_history(log).await
}

fn numbers(folder: &Path, name: Name) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let file = entry?.file_name();
        let number: Option<u64> = file
            .to_str()
            .and_then(|file| file.strip_prefix(name.as_str()))
            .and_then(|rest| rest.strip_prefix('.'))
            .and_then(|rest| rest.strip_suffix(".sqlite"))
            .and_then(|number| number.parse().ok());
        numbers.extend(number);
    }
    Ok(numbers)
}

/// Removes the files of the named read models, so that the next start rebuilds them. The server must be stopped.
/// Returns the number of removed generations.
///
/// # Errors
/// If the folder cannot be read or a file cannot be removed. A folder that does not exist has no files.
pub fn delete_files(folder: &Path, names: &[Name]) -> io::Result<usize> {
    if !folder.exists() {
        return Ok(0);
    }
    let mut removed = 0;
    for name in names {
        for number in numbers(folder, *name)? {
            sql::remove(&folder.join(format!("{name}.{number}.sqlite")))?;
            removed += 1;
        }
    }
    Ok(removed)
}
