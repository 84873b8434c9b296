//! Checks that every statement is valid and portable.

use super::test_store::TestStore;
use crate::sql::{Ddl, prepare};
use crate::{Name, checkpoint};

/// All statements, by the DDL of their tables.
fn statements() -> Vec<(Ddl, Vec<String>)> {
    let checkpoint = [checkpoint::READ, checkpoint::WRITE];
    let models = Name::STORED.into_iter().map(|name| (name.ddl(), name.sql_texts()));
    models.chain([(checkpoint::DDL, checkpoint.map(str::to_owned).into())]).collect()
}

#[tokio::test]
async fn both_databases_prepare_every_statement() {
    for store in [TestStore::sqlite(), TestStore::postgres()] {
        for (number, (ddl, statements)) in (1..).zip(statements()) {
            let db = store.generations(Name::Jobs).open(number, &[ddl]).await.unwrap();
            for statement in statements {
                prepare(&db, statement.clone()).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
            }
        }
    }
}

/// Syntax that SQLite and PostgreSQL do not share, or interpret differently.
const FORBIDDEN: [&str; 8] =
    ["?", "NOW()", "ANY(", "UNNEST", "FOR UPDATE", "OR REPLACE", "OR IGNORE", "ROWID"];

#[test]
fn statements_use_only_portable_sql() {
    for statement in statements().into_iter().flat_map(|(_, statements)| statements) {
        let text = statement.to_uppercase();
        for word in FORBIDDEN {
            assert!(!text.contains(word), "{word} in {statement}");
        }
        let is_sum_cast = !text.contains("SUM(") || text.contains("CAST(SUM(");
        assert!(is_sum_cast, "a sum without a cast in {statement}");
    }
}
