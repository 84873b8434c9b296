//! An event log in SQLite for comparison, with one writer that commits all queued appends in a group.
//!
//! It omits some work of our log: expected revisions come from a map of all streams, and retried appends are not
//! detected.

use std::collections::HashMap;
use std::path::Path;

use event_schemas::envelope::NewEvent;
use event_schemas::stream::StreamId;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, QueryBuilder, Sqlite, SqliteConnection};
use tokio::sync::{mpsc, oneshot};

use super::stores::stopped;
use matchbook::failure::Failure;

/// The most appends in one transaction, as in our log.
pub(super) const GROUP_APPENDS_MAX: usize = 16_384;
/// The most rows of one statement: more are not faster, and few sizes keep the statements prepared.
const ROWS_MAX: usize = 128;

struct Append {
    stream: StreamId,
    events: Vec<NewEvent>,
    answer: oneshot::Sender<()>,
}

#[derive(Clone)]
pub(super) struct SqliteLog {
    queue: mpsc::UnboundedSender<Append>,
}

/// One row of the table of events.
struct Row {
    position: i64,
    stream: i64,
    revision: i64,
    event: NewEvent,
}

/// The id and the next revision of a stream.
pub(super) struct Head {
    pub(super) id: i64,
    pub(super) next: i64,
}

pub(super) const PRAGMAS: [(&str, &str); 2] = [("cache_size", "-262144"), ("wal_autocheckpoint", "16384")];

pub(super) const TABLES: [&str; 2] = [
    "CREATE TABLE streams (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)",
    "CREATE TABLE events (position INTEGER PRIMARY KEY, stream INTEGER NOT NULL, revision INTEGER NOT NULL, \
     id BLOB NOT NULL, type TEXT NOT NULL, metadata BLOB NOT NULL, data BLOB NOT NULL, UNIQUE (stream, revision))",
];

impl SqliteLog {
    pub(super) async fn open(file: &Path) -> Result<Self, Failure> {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full);
        let with = |options: SqliteConnectOptions, (pragma, value)| options.pragma(pragma, value);
        let connecting = PRAGMAS.into_iter().fold(options, with);
        let mut connection = connecting.connect().await.map_err(|error| failed(&error))?;
        for statement in TABLES {
            sqlx::query(statement).execute(&mut connection).await.map_err(|error| failed(&error))?;
        }
        let (queue, appends) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            if let Err(error) = write(connection, appends).await {
                eprintln!("the SQLite log stopped: {error}");
            }
        });
        Ok(Self { queue })
    }

    pub(super) async fn append(&self, stream: StreamId, events: Vec<NewEvent>) -> Result<(), Failure> {
        let (answer, answered) = oneshot::channel();
        self.queue.send(Append { stream, events, answer }).map_err(|_| stopped("SQLite"))?;
        answered.await.map_err(|_| stopped("SQLite"))
    }
}

fn failed(error: &sqlx::Error) -> Failure {
    Failure::Failed(format!("SQLite: {error}"))
}

/// Writes all queued appends in one transaction, then replies, until the queue is closed.
async fn write(
    mut connection: SqliteConnection,
    mut appends: mpsc::UnboundedReceiver<Append>,
) -> Result<(), sqlx::Error> {
    let mut heads: HashMap<StreamId, Head> = HashMap::new();
    let (mut position, mut group) = (0, Vec::new());
    while appends.recv_many(&mut group, GROUP_APPENDS_MAX).await > 0 {
        let (mut rows, mut streams, mut answers) = (Vec::new(), Vec::new(), Vec::new());
        for Append { stream, events, answer } in group.drain(..) {
            let id = heads.len() as i64 + 1;
            let head = heads.entry(stream).or_insert_with_key(|stream| {
                streams.push((id, stream.clone()));
                Head { id, next: 0 }
            });
            for event in events {
                position += 1;
                rows.push(Row { position, stream: head.id, revision: head.next, event });
                head.next += 1;
            }
            answers.push(answer);
        }
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
        for part in parts(&streams) {
            let mut query = QueryBuilder::<Sqlite>::new("INSERT INTO streams (id, name) ");
            query.push_values(part, |mut row, (id, name)| {
                row.push_bind(*id).push_bind(name.as_str());
            });
            query.build().execute(&mut *transaction).await?;
        }
        for part in parts(&rows) {
            let mut query = QueryBuilder::<Sqlite>::new(
                "INSERT INTO events (position, stream, revision, id, type, metadata, data) ",
            );
            query.push_values(part, |mut row, of| {
                row.push_bind(of.position).push_bind(of.stream).push_bind(of.revision);
                row.push_bind(&of.event.id.0.as_bytes()[..]).push_bind(of.event.event_type.as_str());
                row.push_bind(&of.event.metadata[..]).push_bind(&of.event.data[..]);
            });
            query.build().execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        for answer in answers {
            // The caller may have given up.
            let _ = answer.send(());
        }
    }
    Ok(())
}

/// Splits rows into parts of [`ROWS_MAX`], and then of powers of two.
fn parts<T>(mut rows: &[T]) -> Vec<&[T]> {
    let mut parts = Vec::new();
    while !rows.is_empty() {
        let len = rows.len().min(ROWS_MAX);
        let (part, rest) = rows.split_at(1 << len.ilog2());
        parts.push(part);
        rows = rest;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_few_sizes_and_cover_all_rows() {
        let rows: Vec<u32> = (0..301).collect();
        let lengths: Vec<usize> = parts(&rows).iter().map(|part| part.len()).collect();
        assert_eq!(lengths, [128, 128, 32, 8, 4, 1]);
        assert_eq!(parts(&rows).concat(), rows);
    }
}
