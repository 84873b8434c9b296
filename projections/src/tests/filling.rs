//! A generation that is filled without its indexes, in several transactions.

use event_log::{EventLog, Filter};
use event_schemas::envelope::Envelope;
use event_schemas::ids::Position;
use event_schemas::stream::StreamId;

use super::history::{History, attached, found, job, match_id};
use super::test_store::TestStore;
use crate::Name;
use crate::image_match::ImageMatchRows;
use crate::projection::Projection;
use crate::sql::{Batch, Db, Statement};
use crate::store::Tables;

/// Folds and stores each event in a transaction of its own.
async fn store_each(rows: &mut ImageMatchRows, db: &Db, history: &History, after: Position) {
    let page = history.log().read_all(after, &Filter::All, usize::MAX).await.unwrap();
    for event in page.events {
        let event: Envelope = event.decode().unwrap();
        Projection::fold(rows, db, &[&event], event.position).await.unwrap();
        let mut batch = Batch::default();
        Projection::store(rows, &mut batch).await.unwrap();
        db.write(batch).await.unwrap();
        Projection::on_stored(rows);
    }
}

async fn matches(db: &Db) -> Vec<(i64, Option<String>)> {
    db.all(Statement::new("SELECT position, evidence_path FROM matches ORDER BY position")).await.unwrap()
}

#[tokio::test]
async fn complete_rows_have_their_evidence_and_no_duplicates() {
    let (store, history) = (TestStore::new(), History::new());
    let tables = Tables { revision: ImageMatchRows::REVISION, ddl: ImageMatchRows::DDL };
    let generations = store.generations(Name::ImageMatches);
    let db = generations.create(tables, history.log().identity()).await.unwrap().db;
    let shard = StreamId::image_match(job(1), &match_id(1));
    let events =
        [found(1, 0.5, None), found(2, 0.5, None), attached(1, "a.jpg", false), attached(1, "b.jpg", true)];
    for event in &events {
        history.append(shard.clone(), std::slice::from_ref(event)).await;
    }
    // The log contains no match twice, but a read model shows the first one.
    history.append(shard.clone(), &[found(2, 0.75, Some("c.jpg"))]).await;
    let mut rows = ImageMatchRows::default();
    store_each(&mut rows, &db, &history, Position::START).await;
    for _ in 0..2 {
        db.create_indexes(tables.ddl).await.unwrap();
        assert_eq!(matches(&db).await, [(1, Some("b.jpg".to_owned())), (2, None)]);
    }
    // Events that arrive between the creation of the indexes and the publication.
    let head = history.head();
    history.append(shard, &[found(3, 0.5, None), attached(2, "d.jpg", false)]).await;
    store_each(&mut rows, &db, &history, head).await;
    db.create_indexes(tables.ddl).await.unwrap();
    let expected = [(1, Some("b.jpg".to_owned())), (2, Some("d.jpg".to_owned())), (6, None)];
    assert_eq!(matches(&db).await, expected);
}
