//! The generations of a read model: files `<name>.<generation>.sqlite` in a folder, or schemas of a PostgreSQL database.
//! A rebuild creates the next one alongside the live one.
//!
//! Each generation states its own role, so a kill between any two steps needs no repair: the newest published one is
//! live, an unfinished newer one is continued, and all others are removed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use event_log::{EventLog, Identity, Log};

use crate::checkpoint::{self, Checkpoint, Incompatible};
use crate::projection::Name;
use crate::sql::postgres::{PostgresUrl, Schema, SchemaStore, schema_name};
use crate::sql::sqlite::{self, SqliteFile};
use crate::sql::{Batch, Db, Ddl, DdlParts, GenerationStore, SqlError};

/// Counter of damaged generations, by read model.
pub(crate) const DAMAGE: &str = "matchbook_read_model_damage_total";

/// Where the read models are stored.
#[derive(Clone, Debug)]
pub enum ReadStore {
    /// SQLite files in this folder, which is created if it does not exist.
    Folder(PathBuf),
    /// Schemas of this database, which must exist.
    Postgres(PostgresUrl),
}

/// The store that the read models of a process share.
#[derive(Clone, Debug)]
pub(crate) enum OpenStore {
    Folder(PathBuf),
    Postgres(SchemaStore),
}

/// The generations of one read model.
#[derive(Clone, Debug)]
pub(crate) struct Generations {
    store: OpenStore,
    name: Name,
    /// The highest number that readers of this process may use. A later generation with the same number would be another
    /// one with the same name, in which they would open their next connection.
    used: Arc<AtomicU64>,
    /// Generations up to this number were withdrawn from the readers. They may still exist, and are not opened again.
    withdrawn: Arc<AtomicU64>,
}

/// What the rows of a read model must be like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tables {
    pub(crate) revision: u32,
    pub(crate) ddl: Ddl,
}

/// A generation, open.
#[derive(Debug)]
pub(crate) struct OpenGeneration {
    pub(crate) number: u64,
    pub(crate) db: Db,
    pub(crate) checkpoint: Checkpoint,
}

/// The usable generations that an earlier run left in the store.
#[derive(Debug, Default)]
pub(crate) struct FoundGenerations {
    /// The newest complete one.
    pub(crate) live: Option<OpenGeneration>,
    /// The newest one that is not complete, if it is newer than the live one.
    pub(crate) unfinished: Option<OpenGeneration>,
}

/// The generations of a read model cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the folder {folder} of the read models cannot be used: {source}")]
    Folder { folder: PathBuf, source: io::Error },
    #[error("the file {path} cannot be opened: {source}{}", remedy(source))]
    File { path: PathBuf, source: SqlError },
    #[error("the database {url} of the read models cannot be used: {source}")]
    Database { url: PostgresUrl, source: SqlError },
    #[error(
        "{} has vectors that other weights of the model `{model}` have made: rename the folder of the new weights, whose name is that of \
         its model, or delete this file, and all vectors are computed again", file.display()
    )]
    OtherWeights { model: String, file: PathBuf },
    #[error("the thread of the live read models cannot be started: {0}; raise the limit of threads")]
    Thread(io::Error),
}

fn remedy(source: &SqlError) -> &'static str {
    match source {
        SqlError::Refused(_) | SqlError::Duplicate(_) => "; check whether another process has it open",
        // Their own texts name the remedy.
        SqlError::Full(_) | SqlError::Damaged(_) | SqlError::Unavailable(_) | SqlError::InUse(_) => "",
    }
}

impl StoreError {
    /// Reports whether a disk is full, which is temporary.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Folder { source, .. } => source.kind() == io::ErrorKind::StorageFull,
            Self::File { source, .. } | Self::Database { source, .. } => matches!(source, SqlError::Full(_)),
            Self::OtherWeights { .. } | Self::Thread(_) => false,
        }
    }

    /// Reports whether the error ends without a change of the settings.
    pub fn is_temporary(&self) -> bool {
        let is_unavailable = |source: &SqlError| matches!(source, SqlError::Unavailable(_));
        self.is_full() || matches!(self, Self::Database { source, .. } if is_unavailable(source))
    }
}

impl OpenStore {
    pub(crate) fn new(store: &ReadStore) -> Self {
        match store {
            ReadStore::Folder(folder) => Self::Folder(folder.clone()),
            ReadStore::Postgres(url) => Self::Postgres(SchemaStore::new(url)),
        }
    }
}

impl Generations {
    pub(crate) fn new(store: &OpenStore, name: Name) -> Self {
        Self { store: store.clone(), name, used: Arc::default(), withdrawn: Arc::default() }
    }

    /// The numbers of the existing generations, newest first.
    pub(crate) async fn numbers(&self) -> Result<Vec<u64>, StoreError> {
        let mut numbers = match &self.store {
            OpenStore::Folder(folder) => {
                numbers(folder, self.name).map_err(|error| folder_error(folder, error))?
            }
            OpenStore::Postgres(store) => {
                store.numbers(self.name).await.map_err(|error| database_error(store, error))?
            }
        };
        numbers.sort_unstable_by(|a, b| b.cmp(a));
        Ok(numbers)
    }

    pub(crate) async fn remove(&self, number: u64) -> Result<(), StoreError> {
        match &self.store {
            OpenStore::Folder(folder) => sqlite::remove(&file_path(folder, self.name, number))
                .map_err(|error| folder_error(folder, error)),
            OpenStore::Postgres(store) => store
                .remove(&schema_name(self.name, number))
                .await
                .map_err(|error| database_error(store, error)),
        }
    }

    /// Opens or creates a generation, and runs the DDL.
    pub(crate) async fn open(&self, number: u64, ddl: &[Ddl]) -> Result<Db, SqlError> {
        Ok(Db::new(match &self.store {
            OpenStore::Folder(folder) => {
                let ddl = ddl.iter().map(|ddl| DdlParts::of(ddl.sqlite).tables).collect();
                let path = file_path(folder, self.name, number);
                GenerationStore::File(SqliteFile::open(&path, ddl).await?)
            }
            OpenStore::Postgres(store) => {
                let ddl: Vec<_> = ddl.iter().map(|ddl| DdlParts::of(ddl.postgres).tables).collect();
                let schema = schema_name(self.name, number);
                GenerationStore::Schema(Schema::open(store, schema, &ddl).await?)
            }
        }))
    }

    /// The error for a generation that cannot be used.
    pub(crate) fn error(&self, number: u64, source: SqlError) -> StoreError {
        match &self.store {
            OpenStore::Folder(folder) => {
                StoreError::File { path: file_path(folder, self.name, number), source }
            }
            OpenStore::Postgres(store) => database_error(store, source),
        }
    }

    /// Finds the generations that an earlier run left, and removes unusable ones.
    pub(crate) async fn find(&self, tables: Tables, log: &Log) -> Result<FoundGenerations, StoreError> {
        let mut found = FoundGenerations::default();
        for number in self.numbers().await? {
            if found.live.is_some() || number <= self.withdrawn.load(Ordering::Relaxed) {
                self.remove(number).await?;
                continue;
            }
            let Some(opened) = self.open_compatible(tables, number, log).await? else { continue };
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

    /// Finds the newest complete generation of another server, if it is newer than the number, and changes nothing.
    pub(crate) async fn newest_complete(
        &self,
        tables: Tables,
        log: &Log,
        than: Option<u64>,
    ) -> Result<Option<OpenGeneration>, StoreError> {
        // Other servers cannot use the files of this one.
        let OpenStore::Postgres(store) = &self.store else { return Ok(None) };
        for number in self.numbers().await?.into_iter().take_while(|number| Some(*number) > than) {
            let schema = Schema::open_foreign(store, schema_name(self.name, number));
            let db = Db::new(GenerationStore::Schema(schema));
            let read = Checkpoint::read(&db).await;
            match read {
                Ok(Some(checkpoint)) if checkpoint.published => {
                    if let Err(incompatible) = check_checkpoint(tables, &checkpoint, log).await {
                        db.close().await;
                        let source = SqlError::Damaged(incompatible.to_string());
                        return Err(self.error(number, source));
                    }
                    return Ok(Some(OpenGeneration { number, db, checkpoint }));
                }
                // It is being built, or has just been removed.
                Ok(_) | Err(SqlError::Damaged(_)) => db.close().await,
                Err(error) => {
                    db.close().await;
                    return Err(self.error(number, error));
                }
            }
        }
        Ok(None)
    }

    /// Opens the generation if it is compatible; otherwise removes it.
    async fn open_compatible(
        &self,
        tables: Tables,
        number: u64,
        log: &Log,
    ) -> Result<Option<OpenGeneration>, StoreError> {
        let reason = match self.open_with_checkpoint(tables, number).await {
            Ok((db, Some(checkpoint))) => match check_checkpoint(tables, &checkpoint, log).await {
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
            Err(SqlError::Damaged(reason)) => {
                self.remove_damaged(number, &reason).await?;
                return Ok(None);
            }
            Err(source) => return Err(self.error(number, source)),
        };
        self.remove_unusable(number, &reason).await?;
        Ok(None)
    }

    /// Removes a generation whose rows are damaged.
    pub(crate) async fn remove_damaged(&self, number: u64, reason: &str) -> Result<(), StoreError> {
        metrics::counter!(DAMAGE, "projection" => self.name.as_str()).increment(1);
        self.remove_unusable(number, &format!("it is damaged: {reason}")).await
    }

    async fn remove_unusable(&self, number: u64, reason: &str) -> Result<(), StoreError> {
        tracing::warn!(projection = %self.name, generation = number, reason, "a generation is removed, and the read model is rebuilt from the log");
        self.remove(number).await
    }

    async fn open_with_checkpoint(
        &self,
        tables: Tables,
        number: u64,
    ) -> Result<(Db, Option<Checkpoint>), SqlError> {
        let db = self.open(number, &[checkpoint::DDL, tables.ddl]).await?;
        match Checkpoint::read(&db).await {
            Ok(checkpoint) => Ok((db, checkpoint)),
            Err(error) => {
                db.close().await;
                Err(error)
            }
        }
    }

    /// Notes that readers may use the generation.
    pub(crate) fn note_use(&self, number: u64) {
        self.used.fetch_max(number, Ordering::Relaxed);
    }

    /// Notes that the generation, and earlier ones, are damaged.
    pub(crate) fn note_withdrawal(&self, number: u64) {
        self.withdrawn.fetch_max(number, Ordering::Relaxed);
    }

    /// Creates a new generation, with a number above all existing ones.
    pub(crate) async fn create(&self, tables: Tables, log: Identity) -> Result<OpenGeneration, StoreError> {
        let newest = self.numbers().await?.first().copied().unwrap_or(0);
        let number = newest.max(self.used.load(Ordering::Relaxed)) + 1;
        // An interrupted removal may have left parts of an earlier file with this number.
        self.remove(number).await?;
        let checkpoint = Checkpoint::start(tables.revision, log);
        let created = async {
            let (db, _) = self.open_with_checkpoint(tables, number).await?;
            let mut batch = Batch::default();
            checkpoint.write(&mut batch);
            db.write(batch).await?;
            Ok(db)
        };
        let db = created.await.map_err(|source| self.error(number, source))?;
        Ok(OpenGeneration { number, db, checkpoint })
    }
}

fn folder_error(folder: &Path, source: io::Error) -> StoreError {
    StoreError::Folder { folder: folder.to_owned(), source }
}

fn database_error(store: &SchemaStore, source: SqlError) -> StoreError {
    StoreError::Database { url: store.url().clone(), source }
}

async fn check_checkpoint(tables: Tables, checkpoint: &Checkpoint, log: &Log) -> Result<(), Incompatible> {
    let head = *log.head().borrow();
    checkpoint.check_compatible(tables.revision, log.identity(), head)?;
    checkpoint.check_history(log).await
}

fn file_path(folder: &Path, name: Name, number: u64) -> PathBuf {
    folder.join(format!("{name}.{number}.sqlite"))
}

/// The numbers of the generations that have files. The folder is created if it does not exist.
fn numbers(folder: &Path, name: Name) -> io::Result<Vec<u64>> {
    std::fs::create_dir_all(folder)?;
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
