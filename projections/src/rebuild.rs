//! The files of a read model: `<name>.<generation>.sqlite`. A rebuild makes the next one beside the one that is read.
//!
//! Which file is which is said by the files themselves, so a kill between any two steps leaves nothing to mend: the
//! newest published one is live, one begun later is gone on with, everything else is removed.

use std::io;
use std::path::{Path, PathBuf};

use event_log::{EventLog, Identity, Log};

use crate::checkpoint::{self, Checkpoint, Unfit};
use crate::projection::{Name, Projection};
use crate::sql::{self, Db, SqlError};

/// Where the files of one read model are.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    folder: PathBuf,
    name: Name,
}

/// A generation's file, open.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) number: u64,
    pub(crate) db: Db,
    pub(crate) checkpoint: Checkpoint,
}

/// What was found in the folder.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Complete, and gone on with.
    pub(crate) live: Option<Opened>,
    /// Begun after the live one, or without one.
    pub(crate) begun: Option<Opened>,
}

/// Why a read model's files cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    #[error("the folder {folder} of the read models cannot be used: {source}")]
    Folder { folder: PathBuf, source: io::Error },
    #[error("the file {path} cannot be opened: {source}{}", way_out(source))]
    File { path: PathBuf, source: SqlError },
}

fn way_out(source: &SqlError) -> &'static str {
    match source {
        SqlError::Refused(_) => "; look whether another process has it open",
        // These say it themselves.
        SqlError::Full(_) | SqlError::Damaged(_) => "",
    }
}

impl FilesError {
    /// Whether there is no room on the disk, which passes.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Folder { source, .. } => source.kind() == io::ErrorKind::StorageFull,
            Self::File { source, .. } => matches!(source, SqlError::Full(_)),
        }
    }
}

impl Files {
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

    /// Looks through what an earlier run left behind, and removes what is of no use.
    pub(crate) async fn find<P: Projection>(&self, log: &Log) -> Result<Found, FilesError> {
        let mut found = Found::default();
        for number in self.numbers()? {
            if found.live.is_some() {
                self.remove(number)?;
                continue;
            }
            let Some(opened) = self.open_fit::<P>(number, log).await? else { continue };
            if opened.checkpoint.published {
                found.live = Some(opened);
            } else if found.begun.is_none() {
                found.begun = Some(opened);
            } else {
                opened.db.retire();
            }
        }
        Ok(found)
    }

    /// The generation, if one can go on with it; otherwise its file is removed.
    async fn open_fit<P: Projection>(&self, number: u64, log: &Log) -> Result<Option<Opened>, FilesError> {
        let path = self.path(number);
        let reason = match self.open::<P>(number).await {
            Ok((db, Some(checkpoint))) => match fit::<P>(&checkpoint, log).await {
                Ok(()) => return Ok(Some(Opened { number, db, checkpoint })),
                Err(unfit) => {
                    db.close().await;
                    unfit.to_string()
                }
            },
            Ok((db, None)) => {
                db.close().await;
                "it was begun and nothing was stored in it".to_owned()
            }
            Err(SqlError::Damaged(reason)) => format!("it is damaged: {reason}"),
            Err(source) => return Err(FilesError::File { path, source }),
        };
        tracing::warn!(projection = %self.name, file = %path.display(), %reason, "a read model's file is removed and made again from the log");
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

    /// Begins a new generation, with a number that no file has had.
    pub(crate) async fn begin<P: Projection>(&self, log: Identity) -> Result<Opened, FilesError> {
        let number = self.numbers()?.first().map_or(1, |newest| newest + 1);
        // What a removal that was cut short left of an earlier file of this number.
        self.remove(number)?;
        let checkpoint = Checkpoint::start(P::REVISION, log);
        let made = async {
            let (db, _) = self.open::<P>(number).await?;
            let mut tx = db.begin().await?;
            checkpoint.write(&mut tx).await?;
            tx.commit().await?;
            Ok(db)
        };
        match made.await {
            Ok(db) => Ok(Opened { number, db, checkpoint }),
            Err(source) => Err(FilesError::File { path: self.path(number), source }),
        }
    }
}

async fn fit<P: Projection>(checkpoint: &Checkpoint, log: &Log) -> Result<(), Unfit> {
    let head = *log.head().borrow();
    checkpoint.fits(P::REVISION, log.identity(), head)?;
    checkpoint.is_of(log).await
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

/// Removes the files of the named read models, so that the next start makes them again. For a server that is stopped.
/// Answers how many generations were removed.
///
/// # Errors
/// If the folder cannot be read or a file not be removed. A folder that is not there holds no files.
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
