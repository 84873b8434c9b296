//! The store of a test: a folder, or with `MATCHBOOK_TEST_READ_STORE=postgres` a PostgreSQL database of its own.

use std::collections::BTreeMap;
use std::path::Path;

use tempfile::TempDir;

use super::postgres::{self, Database};
use super::until;
use crate::sql::{Db, dump};
use crate::store::{Generations, OpenStore, ReadStore};
use crate::{Name, Settings};

const VARIABLE: &str = "MATCHBOOK_TEST_READ_STORE";

const TABLES: [(Name, &[&str]); 9] = [
    (Name::Challenges, &["challenges"]),
    (Name::Jobs, &["jobs", "job_parts"]),
    (Name::GameMatches, &["match_records"]),
    (Name::ImageMatches, &["matches"]),
    (Name::MatchingSummary, &["summaries", "presences", "snapshots"]),
    (Name::Players, &["ratings", "blocks"]),
    (Name::Queues, &["queue_entries", "pools", "blocks", "proposed_matches"]),
    (Name::Retries, &["retries", "retried_jobs"]),
    (Name::Workers, &["workers"]),
];

pub(crate) enum TestStore {
    Folder(TempDir),
    Postgres(Database),
}

/// True if the tests run on PostgreSQL.
pub(crate) fn runs_on_postgres() -> bool {
    match std::env::var(VARIABLE).as_deref() {
        Ok("postgres") => true,
        Ok("sqlite") | Err(_) => false,
        Ok(other) => panic!("{VARIABLE} is sqlite or postgres, not {other}"),
    }
}

/// The number of cases of a property test. A PostgreSQL database takes longer to create and to open.
pub(crate) fn cases(on_sqlite: u32) -> u32 {
    if runs_on_postgres() { on_sqlite.div_ceil(4) } else { on_sqlite }
}

impl TestStore {
    pub(crate) fn new() -> Self {
        if runs_on_postgres() { Self::postgres() } else { Self::sqlite() }
    }

    pub(crate) fn sqlite() -> Self {
        Self::Folder(tempfile::tempdir().unwrap())
    }

    pub(crate) fn postgres() -> Self {
        Self::Postgres(postgres::database())
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings {
            store: match self {
                Self::Folder(folder) => ReadStore::Folder(folder.path().to_owned()),
                Self::Postgres(database) => ReadStore::Postgres(database.url().parse().unwrap()),
            },
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
            Self::Postgres(_) => None,
        }
    }

    /// Removes all generations, as an operator would.
    pub(crate) async fn clear(&self) {
        for name in Name::ALL {
            for number in self.numbers(name).await {
                match self {
                    Self::Folder(folder) => {
                        std::fs::remove_file(folder.path().join(format!("{name}.{number}.sqlite"))).unwrap();
                    }
                    Self::Postgres(database) => {
                        database.run(&format!("DROP SCHEMA matchbook_{name}_{number} CASCADE"));
                    }
                }
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
        for (name, tables) in TABLES {
            let db = self.open_only(name).await;
            for table in ["checkpoint"].iter().chain(tables) {
                all.insert(format!("{name}.{table}"), dump(&db, table).await.unwrap());
            }
            db.close().await;
        }
        all
    }
}
