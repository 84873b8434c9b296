//! `workers`: one row for each worker that ever registered.

use std::sync::Arc;

use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{Position, Tenant, WorkerId};
use event_schemas::stream::Category;
use event_schemas::time::Timestamp;
use event_schemas::worker::{WorkKind, WorkerEnd, WorkerEvent};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::generation::{QueryError, Slot};
use crate::projection::Name;
use crate::row::to_json;
use crate::rows::{Rows, Table, TableModel, json};
use crate::sql::{Db, Ddl, SqlError, Statement, Value, ddl};

pub(crate) const UPSERT: &str = "INSERT INTO workers (tenant, worker_id, worker, position) VALUES ($1, $2, $3, $4) \
     ON CONFLICT (tenant, worker_id) DO UPDATE SET worker = excluded.worker, position = excluded.position";
pub(crate) const ONE: &str = "SELECT worker FROM workers WHERE tenant = $1 AND worker_id = $2";
pub(crate) const LIST: &str =
    "SELECT worker FROM workers WHERE tenant = $1 AND worker_id > $2 ORDER BY worker_id LIMIT $3";

#[cfg(test)]
pub(crate) fn sql_texts() -> Vec<String> {
    [UPSERT, ONE, LIST].map(str::to_owned).into()
}

/// The presence of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkerPresence {
    Present,
    Lost,
    Stopped,
    OutOfMemory,
    Crashed,
}

impl From<WorkerEnd> for WorkerPresence {
    fn from(end: WorkerEnd) -> Self {
        match end {
            WorkerEnd::Lost => Self::Lost,
            WorkerEnd::Stopped => Self::Stopped,
            WorkerEnd::OutOfMemory => Self::OutOfMemory,
            WorkerEnd::Crashed => Self::Crashed,
        }
    }
}

/// The latest exit or loss of a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LastEnd {
    pub end: WorkerEnd,
    pub at: Timestamp,
    pub exit_code: Option<i64>,
    pub signal: Option<i32>,
    pub reason: Option<String>,
}

/// A process that claims work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerView {
    pub worker_id: WorkerId,
    pub kinds: Vec<WorkKind>,
    pub version: Option<String>,
    pub presence: WorkerPresence,
    /// The start of the current presence.
    pub since: Timestamp,
    pub registered_at: Timestamp,
    /// The time of its latest event in the log; heartbeats are not events.
    pub last_seen_at: Timestamp,
    pub last_end: Option<LastEnd>,
    /// The number of times that it returned after a loss.
    pub returns: u64,
    /// Log position of the last event that changed this resource.
    pub position: Position,
}

impl WorkerView {
    /// The worker after an event; none if it has never registered.
    fn evolve(before: Option<Self>, envelope: &Envelope, event: &WorkerEvent) -> Option<Self> {
        let at = envelope.metadata.occurred_at;
        let mut worker = match (before, event) {
            (Some(worker), _) => worker,
            (None, WorkerEvent::WorkerRegistered(registered)) => Self {
                worker_id: registered.worker_id.clone(),
                kinds: Vec::new(),
                version: None,
                presence: WorkerPresence::Present,
                since: at,
                registered_at: at,
                last_seen_at: at,
                last_end: None,
                returns: 0,
                position: envelope.position,
            },
            (None, _) => return None,
        };
        worker.position = envelope.position;
        match event {
            WorkerEvent::WorkerRegistered(registered) => {
                worker.kinds.clone_from(&registered.kinds);
                worker.version.clone_from(&registered.version);
                worker.set_presence(WorkerPresence::Present, at);
                worker.last_seen_at = at;
            }
            WorkerEvent::WorkerReturned(_) => {
                worker.returns += 1;
                worker.set_presence(WorkerPresence::Present, at);
                worker.last_seen_at = at;
            }
            WorkerEvent::WorkerLost(lost) => {
                worker.set_presence(WorkerPresence::Lost, at);
                worker.last_seen_at = lost.last_seen_at;
                worker.last_end =
                    Some(LastEnd { end: WorkerEnd::Lost, at, exit_code: None, signal: None, reason: None });
            }
            WorkerEvent::WorkerExited(exited) => {
                worker.set_presence(exited.end.into(), at);
                worker.last_seen_at = at;
                worker.last_end = Some(LastEnd {
                    end: exited.end,
                    at,
                    exit_code: exited.exit_code,
                    signal: exited.signal,
                    reason: exited.reason.clone(),
                });
            }
        }
        Some(worker)
    }

    fn set_presence(&mut self, presence: WorkerPresence, at: Timestamp) {
        if self.presence != presence {
            self.presence = presence;
            self.since = at;
        }
    }
}

/// The rows by worker.
#[derive(Debug)]
pub(crate) struct Records;

impl Table for Records {
    type Key = (Tenant, WorkerId);
    type Value = WorkerView;
    const ONE: &'static str = ONE;

    fn key((tenant, worker): &Self::Key) -> Vec<Value> {
        vec![tenant.as_str().into(), worker.as_str().into()]
    }

    fn write((tenant, id): &Self::Key, worker: Option<&WorkerView>) -> Option<Statement> {
        let worker = worker?;
        let statement = Statement::new(UPSERT)
            .bind(tenant.as_str())
            .bind(id.as_str())
            .bind(to_json(worker))
            .bind(worker.position.to_i64());
        Some(statement)
    }
}

pub(crate) type WorkerRows = Rows<Records>;

fn key(envelope: &Envelope) -> Option<(Tenant, WorkerId)> {
    let Event::Worker(event) = &envelope.event else { return None };
    Some((envelope.metadata.tenant.clone(), worker_id(event).clone()))
}

fn worker_id(event: &WorkerEvent) -> &WorkerId {
    match event {
        WorkerEvent::WorkerRegistered(event) => &event.worker_id,
        WorkerEvent::WorkerLost(event) => &event.worker_id,
        WorkerEvent::WorkerReturned(event) => &event.worker_id,
        WorkerEvent::WorkerExited(event) => &event.worker_id,
    }
}

impl TableModel for Records {
    const NAME: Name = Name::Workers;
    const REVISION: u32 = 2;
    const DDL: Ddl = ddl!("workers");
    const CATEGORIES: &'static [Category] = &[Category::Worker];

    async fn fold(rows: &mut Rows<Self>, db: &Db, events: &[&Envelope]) -> Result<(), SqlError> {
        rows.load(db, events.iter().filter_map(|envelope| key(envelope))).await?;
        for envelope in events {
            let (Some(key), Event::Worker(event)) = (key(envelope), &envelope.event) else { continue };
            if let Some(worker) = WorkerView::evolve(rows.get(&key).cloned(), envelope, event) {
                rows.set(key, Some(worker));
            }
        }
        Ok(())
    }
}

/// A page of a tenant's workers.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerPage {
    /// Sorted by id.
    pub items: Vec<WorkerView>,
    /// The id after which the next page starts; none on the last page.
    pub next: Option<WorkerId>,
    /// The page reflects everything up to this position, and possibly more.
    pub position: Position,
}

/// The queries of `workers`.
#[derive(Clone, Debug)]
pub struct Workers {
    pub(crate) slot: Arc<Slot<()>>,
}

impl Workers {
    /// Lists at most `limit` of a tenant's workers whose ids are greater than `after`.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn list(
        &self,
        tenant: &Tenant,
        after: Option<&WorkerId>,
        limit: u32,
    ) -> Result<WorkerPage, QueryError> {
        let generation = self.slot.live()?;
        let position = generation.position();
        let statement = Statement::new(LIST).bind(tenant.as_str()).bind(after.map_or("", WorkerId::as_str));
        let parse = |row| json(Name::Workers, row);
        let cursor = |last: &WorkerView| last.worker_id.clone();
        let (items, next) = generation.page(Name::Workers, statement, limit, parse, cursor).await?;
        Ok(WorkerPage { items, next, position })
    }

    /// One worker of the tenant.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn get(&self, tenant: &Tenant, worker: &WorkerId) -> Result<Option<WorkerView>, QueryError> {
        let statement = Statement::new(ONE).bind(tenant.as_str()).bind(worker.as_str());
        self.slot.live()?.one(Name::Workers, statement).await
    }
}
