//! SQLite with direct bindings: its own thread, and prepared statements for one row each.
//!
//! It omits the same work as the variant with sqlx, and the overhead of sqlx.

use std::collections::HashMap;
use std::path::Path;
use std::thread;

use event_schemas::envelope::NewEvent;
use event_schemas::stream::StreamId;
use rusqlite::{Connection, TransactionBehavior, params};
use tokio::sync::{mpsc, oneshot};

use super::sqlite::{GROUP_APPENDS_MAX, Head, PRAGMAS, TABLES};
use super::stores::stopped;
use matchbook::failure::Failure;

struct Append {
    stream: StreamId,
    events: Vec<NewEvent>,
    answer: oneshot::Sender<()>,
}

#[derive(Clone)]
pub(super) struct RusqliteLog {
    queue: mpsc::Sender<Append>,
}

impl RusqliteLog {
    pub(super) fn open(file: &Path) -> Result<Self, Failure> {
        let connection = connect(file).map_err(|error| Failure::Failed(format!("SQLite: {error}")))?;
        let (queue, appends) = mpsc::channel(GROUP_APPENDS_MAX);
        let run = move || {
            if let Err(error) = write(connection, appends) {
                eprintln!("the SQLite log stopped: {error}");
            }
        };
        let thread = thread::Builder::new().name("rusqlite".to_owned()).spawn(run);
        thread.map_err(|error| Failure::Failed(format!("cannot start a thread: {error}")))?;
        Ok(Self { queue })
    }

    pub(super) async fn append(&self, stream: StreamId, events: Vec<NewEvent>) -> Result<(), Failure> {
        let (answer, answered) = oneshot::channel();
        self.queue.send(Append { stream, events, answer }).await.map_err(|_| stopped("SQLite"))?;
        answered.await.map_err(|_| stopped("SQLite"))
    }
}

fn connect(file: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(file)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    for (pragma, value) in PRAGMAS {
        connection.pragma_update(None, pragma, value)?;
    }
    for table in TABLES {
        connection.execute(table, ())?;
    }
    Ok(connection)
}

/// Writes all queued appends in one transaction, then replies, until the queue is closed.
fn write(mut connection: Connection, mut appends: mpsc::Receiver<Append>) -> rusqlite::Result<()> {
    let mut heads: HashMap<StreamId, Head> = HashMap::new();
    let (mut position, mut group, mut answers) = (0, Vec::new(), Vec::new());
    while appends.blocking_recv_many(&mut group, GROUP_APPENDS_MAX) > 0 {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut new_stream = transaction.prepare("INSERT INTO streams (id, name) VALUES (?1, ?2)")?;
        let mut new_event = transaction.prepare(
            "INSERT INTO events (position, stream, revision, id, type, metadata, data) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?;
        for Append { stream, events, answer } in group.drain(..) {
            let known = heads.len() as i64;
            let head = match heads.get_mut(&stream) {
                Some(head) => head,
                None => {
                    new_stream.execute(params![known + 1, stream.as_str()])?;
                    heads.entry(stream).or_insert(Head { id: known + 1, next: 0 })
                }
            };
            for event in events {
                position += 1;
                let id = &event.id.0.as_bytes()[..];
                let event_type = event.event_type.as_str();
                new_event.execute(params![
                    position,
                    head.id,
                    head.next,
                    id,
                    event_type,
                    &event.metadata[..],
                    &event.data[..]
                ])?;
                head.next += 1;
            }
            answers.push(answer);
        }
        drop((new_stream, new_event));
        transaction.commit()?;
        for answer in answers.drain(..) {
            // The caller may have given up.
            let _ = answer.send(());
        }
    }
    Ok(())
}
