//! The tables of the vault, in a SQLite file or in a PostgreSQL database. Both take the same statements.

use std::path::PathBuf;

use event_schemas::ids::{LogId, SubjectId, Tenant, UserId};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use sqlx::postgres::{PgPool, Postgres};
use sqlx::sqlite::{Sqlite, SqlitePool};
use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::{VaultError, moved_file, postgres};

const FIND: &str = "SELECT subject_id, key FROM subjects WHERE tenant = $1 AND user_id = $2";
const GET: &str = "SELECT user_id, key FROM subjects WHERE subject_id = $1 AND tenant = $2";
const INSERT: &str = "INSERT INTO subjects (subject_id, tenant, user_id, key, created_at) \
     VALUES ($1, $2, $3, $4, $5) ON CONFLICT (tenant, user_id) DO NOTHING RETURNING subject_id, key";
const PAGE: &str = "SELECT subject_id, tenant, user_id, key, created_at, erased_at FROM subjects \
     WHERE subject_id > $1 ORDER BY subject_id LIMIT $2";
const COPY: &str = "INSERT INTO subjects (subject_id, tenant, user_id, key, created_at, erased_at) \
     VALUES ($1, $2, $3, $4, $5, $6)";

const ERASE: &str = "UPDATE subjects SET user_id = NULL, key = NULL, erased_at = $3 \
     WHERE subject_id = $1 AND tenant = $2 AND erased_at IS NULL";
const ERASED_UP_TO: &str = "SELECT position FROM erasures WHERE log_id = $1 AND epoch = $2";
const SET_ERASED_UP_TO: &str = "INSERT INTO erasures (id, log_id, epoch, position) VALUES (1, $1, $2, $3) \
     ON CONFLICT (id) DO UPDATE SET log_id = excluded.log_id, epoch = excluded.epoch, position = excluded.position";

/// The number of rows that are copied at once.
pub(crate) const PAGE_ROWS: i64 = 500;

/// A subject id and a key.
pub(crate) type Found = (Uuid, Vec<u8>);
/// A user id and a key; none of an erased subject.
pub(crate) type StoredUser = (Option<String>, Option<Vec<u8>>);
/// All columns.
pub(crate) type Row = (Uuid, String, Option<String>, Option<Vec<u8>>, i64, Option<i64>);

#[derive(Debug)]
pub(crate) enum Store {
    Sqlite(SqlitePool),
    Postgres(Schema),
}

/// The vault's schema, which is prepared with its first use: the database may be down when the server starts.
#[derive(Debug)]
pub(crate) struct Schema {
    pub(crate) pool: PgPool,
    /// The file of the vault if it was in one before.
    pub(crate) file: PathBuf,
    /// The vault must exist: the log has events of its subjects.
    pub(crate) is_expected: bool,
    pub(crate) is_prepared: OnceCell<()>,
}

/// A transaction. Dropped without [`Tx::commit`], it is rolled back.
#[derive(Debug)]
pub(crate) enum Tx {
    Sqlite(sqlx::Transaction<'static, Sqlite>),
    Postgres(sqlx::Transaction<'static, Postgres>),
}

impl Schema {
    /// Migrates the schema, and moves the vault's file into it.
    async fn prepare(&self) -> Result<(), VaultError> {
        let is_missing = self.is_expected && moved_file::is_missing(&self.file);
        if is_missing && !within(postgres::exists(&self.pool)).await? {
            return Err(VaultError::Lost);
        }
        within(postgres::migrate(&self.pool, postgres::MIGRATIONS.len())).await?;
        moved_file::move_into(&self.pool, &self.file).await
    }
}

impl Store {
    /// Creates the tables, unless that has been done.
    pub(crate) async fn prepare(&self) -> Result<(), VaultError> {
        match self {
            // When the file was opened.
            Self::Sqlite(_) => Ok(()),
            Self::Postgres(schema) => schema.is_prepared.get_or_try_init(|| schema.prepare()).await.copied(),
        }
    }

    /// Boxed, as [`Self::get`] is: otherwise each crate that finds subjects compiles both drivers again.
    pub(crate) fn find<'a>(
        &'a self,
        tenant: &'a Tenant,
        user: &'a UserId,
    ) -> BoxFuture<'a, Result<Option<Found>, VaultError>> {
        let found = async move {
            self.prepare().await?;
            match self {
                Self::Sqlite(pool) => {
                    let query = sqlx::query_as(FIND).bind(tenant.as_str()).bind(user.as_str());
                    Ok(query.fetch_optional(pool).await?)
                }
                Self::Postgres(schema) => {
                    let query = sqlx::query_as(FIND).bind(tenant.as_str()).bind(user.as_str());
                    within(query.fetch_optional(&schema.pool)).await
                }
            }
        };
        found.boxed()
    }

    pub(crate) fn get<'a>(
        &'a self,
        tenant: &'a Tenant,
        subject: SubjectId,
    ) -> BoxFuture<'a, Result<Option<StoredUser>, VaultError>> {
        let got = async move {
            self.prepare().await?;
            match self {
                Self::Sqlite(pool) => {
                    let query = sqlx::query_as(GET).bind(subject.0).bind(tenant.as_str());
                    Ok(query.fetch_optional(pool).await?)
                }
                Self::Postgres(schema) => {
                    let query = sqlx::query_as(GET).bind(subject.0).bind(tenant.as_str());
                    within(query.fetch_optional(&schema.pool)).await
                }
            }
        };
        got.boxed()
    }

    /// Destroys the key and the user id of a subject. False if there is nothing to destroy.
    pub(crate) fn erase<'a>(
        &'a self,
        tenant: &'a Tenant,
        subject: SubjectId,
        erased_at: i64,
    ) -> BoxFuture<'a, Result<bool, VaultError>> {
        let erased = async move {
            self.prepare().await?;
            let rows = match self {
                Self::Sqlite(pool) => {
                    let query = sqlx::query(ERASE).bind(subject.0).bind(tenant.as_str()).bind(erased_at);
                    query.execute(pool).await?.rows_affected()
                }
                Self::Postgres(schema) => {
                    let query = sqlx::query(ERASE).bind(subject.0).bind(tenant.as_str()).bind(erased_at);
                    within(query.execute(&schema.pool)).await?.rows_affected()
                }
            };
            Ok(rows > 0)
        };
        erased.boxed()
    }

    /// The position of this log and epoch up to which all erasures have been carried out.
    pub(crate) fn erased_up_to(
        &self,
        log: LogId,
        epoch: u32,
    ) -> BoxFuture<'_, Result<Option<i64>, VaultError>> {
        let position = async move {
            self.prepare().await?;
            let epoch = i64::from(epoch);
            let row: Option<(i64,)> = match self {
                Self::Sqlite(pool) => {
                    let query = sqlx::query_as(ERASED_UP_TO).bind(log.0).bind(epoch);
                    query.fetch_optional(pool).await?
                }
                Self::Postgres(schema) => {
                    let query = sqlx::query_as(ERASED_UP_TO).bind(log.0).bind(epoch);
                    within(query.fetch_optional(&schema.pool)).await?
                }
            };
            Ok(row.map(|(position,)| position))
        };
        position.boxed()
    }

    pub(crate) fn set_erased_up_to(
        &self,
        log: LogId,
        epoch: u32,
        position: i64,
    ) -> BoxFuture<'_, Result<(), VaultError>> {
        let set = async move {
            self.prepare().await?;
            let epoch = i64::from(epoch);
            match self {
                Self::Sqlite(pool) => {
                    let query = sqlx::query(SET_ERASED_UP_TO).bind(log.0).bind(epoch).bind(position);
                    query.execute(pool).await?;
                }
                Self::Postgres(schema) => {
                    let query = sqlx::query(SET_ERASED_UP_TO).bind(log.0).bind(epoch).bind(position);
                    within(query.execute(&schema.pool)).await?;
                }
            }
            Ok(())
        };
        set.boxed()
    }

    pub(crate) async fn begin(&self) -> Result<Tx, VaultError> {
        self.prepare().await?;
        match self {
            Self::Sqlite(pool) => Ok(Tx::Sqlite(pool.begin_with("BEGIN IMMEDIATE").await?)),
            Self::Postgres(schema) => Ok(Tx::Postgres(within(schema.pool.begin()).await?)),
        }
    }
}

impl Tx {
    /// Inserts a subject, and returns it, or the one that the user already has.
    pub(crate) async fn insert(
        &mut self,
        tenant: &Tenant,
        user: &UserId,
        key: &[u8],
        created_at: i64,
    ) -> Result<Found, VaultError> {
        let (tenant, user, id) = (tenant.as_str(), user.as_str(), Uuid::now_v7());
        match self {
            Self::Sqlite(tx) => {
                let insert =
                    sqlx::query_as(INSERT).bind(id).bind(tenant).bind(user).bind(key).bind(created_at);
                if let Some(inserted) = insert.fetch_optional(&mut **tx).await? {
                    return Ok(inserted);
                }
                // Another request was first; its subject counts.
                Ok(sqlx::query_as(FIND).bind(tenant).bind(user).fetch_one(&mut **tx).await?)
            }
            Self::Postgres(tx) => {
                let insert =
                    sqlx::query_as(INSERT).bind(id).bind(tenant).bind(user).bind(key).bind(created_at);
                if let Some(inserted) = within(insert.fetch_optional(&mut **tx)).await? {
                    return Ok(inserted);
                }
                within(sqlx::query_as(FIND).bind(tenant).bind(user).fetch_one(&mut **tx)).await
            }
        }
    }

    pub(crate) async fn commit(self) -> Result<(), VaultError> {
        match self {
            Self::Sqlite(tx) => Ok(tx.commit().await?),
            Self::Postgres(tx) => within(tx.commit()).await,
        }
    }
}

/// Limits the time of a call to PostgreSQL, because a connection whose peer has vanished reports nothing for many
/// minutes.
pub(crate) async fn within<T, E: Into<VaultError>>(
    call: impl Future<Output = Result<T, E>>,
) -> Result<T, VaultError> {
    match tokio::time::timeout(postgres::RESPONSE_TIMEOUT, call).await {
        Ok(result) => result.map_err(Into::into),
        Err(_) => Err(VaultError::from(sqlx::Error::PoolTimedOut)),
    }
}

/// The next rows of a file, by subject id.
pub(crate) async fn page_of_file(pool: &SqlitePool, after: Uuid) -> Result<Vec<Row>, VaultError> {
    Ok(sqlx::query_as(PAGE).bind(after).bind(PAGE_ROWS).fetch_all(pool).await?)
}

/// The next rows of a schema, by subject id.
pub(crate) async fn page_of_schema(
    tx: &mut sqlx::Transaction<'static, Postgres>,
    after: Uuid,
) -> Result<Vec<Row>, VaultError> {
    within(sqlx::query_as(PAGE).bind(after).bind(PAGE_ROWS).fetch_all(&mut **tx)).await
}

/// Writes a row into a file.
pub(crate) async fn copy_into_file(
    tx: &mut sqlx::Transaction<'static, Sqlite>,
    (id, tenant, user, key, created_at, erased_at): Row,
) -> Result<(), VaultError> {
    let copy = sqlx::query(COPY).bind(id).bind(tenant).bind(user).bind(key).bind(created_at).bind(erased_at);
    copy.execute(&mut **tx).await?;
    Ok(())
}
