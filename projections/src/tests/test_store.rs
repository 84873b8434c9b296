//! The store of a test: a folder, or with `MATCHBOOK_TEST_READ_STORE=postgres` a PostgreSQL database of its own.

use std::collections::BTreeMap;
use std::path::Path;

use tempfile::TempDir;

use super::postgres::{self, Database, is_read_store};
use super::until;
use crate::sql::{Db, dump};
use crate::store::{Generations, OpenStore, ReadStore};
use crate::{Name, Settings};

/// The tables of a read model, in the order of its DDL.
fn tables(name: Name) -> impl Iterator<Item = &'static str> {
    let created = name.ddl().sqlite.split("CREATE TABLE IF NOT EXISTS ").skip(1);
    created.map(|rest| rest.split([' ', '(']).next().unwrap()).chain(["projection_checkpoint"])
}

pub(crate) enum TestStore {
    Folder(TempDir),
    /// With a folder for vectors.
    Postgres(Database, TempDir),
}

/// The number of cases of a property test. A PostgreSQL database takes longer to create and to open.
pub(crate) fn cases(on_sqlite: u32) -> u32 {
    if is_read_store() { on_sqlite.div_ceil(4) } else { on_sqlite }
}

impl TestStore {
    pub(crate) fn new() -> Self {
        if is_read_store() { Self::postgres() } else { Self::sqlite() }
    }

    pub(crate) fn sqlite() -> Self {
        Self::Folder(tempfile::tempdir().unwrap())
    }

    pub(crate) fn postgres() -> Self {
        Self::of(postgres::database())
    }

    pub(crate) fn of(database: Database) -> Self {
        Self::Postgres(database, tempfile::tempdir().unwrap())
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings {
            store: match self {
                Self::Folder(folder) => ReadStore::Folder(folder.path().to_owned()),
                Self::Postgres(database, _) => ReadStore::Postgres(database.url().parse().unwrap()),
            },
            read_only: false,
            answer_cache_bytes: 1 << 20,
            vectors: match self {
                Self::Folder(folder) | Self::Postgres(_, folder) => Some(folder.path().join("vectors")),
            },
            encoder: None,
            recommend: domain::recommend::settings::Settings::default(),
        }
    }

    pub(crate) fn generations(&self, name: Name) -> Generations {
        Generations::new(&OpenStore::new(&self.settings().store), name)
    }

    pub(crate) async fn numbers(&self, name: Name) -> Vec<u64> {
        self.generations(name).numbers().await.unwrap()
    }

    /// The folder, if it is one.
    pub(crate) fn folder(&self) -> Option<&Path> {
        match self {
            Self::Folder(folder) => Some(folder.path()),
            Self::Postgres(..) => None,
        }
    }

    /// Removes all generations, as an operator would.
    pub(crate) async fn clear(&self) {
        for name in Name::STORED {
            let generations = self.generations(name);
            for number in self.numbers(name).await {
                generations.remove(number).await.unwrap();
            }
        }
    }

    /// Opens the only generation of a read model, after a shutdown.
    async fn open_only(&self, name: Name) -> Db {
        let generations = self.generations(name);
        until(async || generations.numbers().await.unwrap().len() == 1).await;
        generations.open(generations.numbers().await.unwrap()[0], &[]).await.unwrap()
    }

    /// All rows of all tables, after a shutdown.
    pub(crate) async fn dump(&self) -> BTreeMap<String, Vec<String>> {
        let mut all = BTreeMap::new();
        for name in Name::STORED {
            let db = self.open_only(name).await;
            for table in tables(name) {
                all.insert(format!("{name}.{table}"), dump(&db, table).await.unwrap());
            }
            db.close().await;
        }
        all
    }
}
