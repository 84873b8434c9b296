//! `jobs`: one row for each job of any kind.

mod view;

use std::collections::BTreeMap;
use std::sync::Arc;

use event_log::Log;
use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{JobId, Position, Tenant};
use event_schemas::job::{JobKind, Phase};
use event_schemas::matching::MatchingEvent;
use event_schemas::stream::Category;
use event_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use view::{JobCounters, JobError, JobStatus, JobView, StageProgress};

use crate::generation::{QueryError, Slot};
use crate::projection::{Name, Projection, Store};
use crate::row::{json, store_error, to_json, variant};
use crate::sql::{Db, FromRow, SqlError, Statement, Tx};
use view::Part;

pub(crate) const UPSERT: &str = "INSERT INTO jobs \
     (job_id, tenant, kind, phase, status, created_at, search, view, position) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
     ON CONFLICT (job_id) DO UPDATE SET phase = excluded.phase, status = excluded.status, \
     view = excluded.view, position = excluded.position";
pub(crate) const UPSERT_PART: &str = "INSERT INTO job_parts (job_id, part, amount) VALUES ($1, $2, $3) \
     ON CONFLICT (job_id, part) DO UPDATE SET amount = excluded.amount";
pub(crate) const ONE: &str = "SELECT view FROM jobs WHERE job_id = $1";
pub(crate) const PART: &str = "SELECT amount FROM job_parts WHERE job_id = $1 AND part = $2";
pub(crate) const LIST: &str = "SELECT view FROM jobs \
     WHERE tenant = $1 AND (created_at, job_id) < ($2, $3) AND created_at >= $4 \
     AND ($5 IS NULL OR status = $5) AND ($6 IS NULL OR phase = $6) AND ($7 IS NULL OR kind = $7) \
     AND ($8 IS NULL OR search LIKE $8 ESCAPE '\\') \
     ORDER BY created_at DESC, job_id DESC LIMIT $9";

/// How many jobs and parts stay in memory between batches.
const KEPT_MAX: usize = 10_000;

/// Jobs that were lately touched, and which of them are not stored.
#[derive(Debug, Default)]
pub(crate) struct JobRows {
    jobs: BTreeMap<JobId, Kept<JobView>>,
    parts: BTreeMap<(JobId, Part), Kept<u64>>,
}

#[derive(Debug)]
struct Kept<T> {
    value: T,
    changed: bool,
}

impl<T> Kept<T> {
    fn stored(value: T) -> Self {
        Self { value, changed: false }
    }
}

#[derive(FromRow)]
struct Stored {
    view: String,
}

#[derive(FromRow)]
struct Amount {
    amount: i64,
}

impl Projection for JobRows {
    const NAME: Name = Name::Jobs;
    const REVISION: u32 = 1;
    const DDL: &'static str = include_str!("../../migrations/sqlite/jobs.sql");
    const CATEGORIES: &'static [Category] = &[Category::Job, Category::Matching];
    const STORE: Store = Store::EachBatch;

    type View = ();
    type Request = std::convert::Infallible;

    async fn open(_: &Db, _: Position) -> Result<Self, SqlError> {
        Ok(Self::default())
    }

    fn view(&self) {}

    async fn fold(&mut self, db: &Db, events: &[&Envelope], _: Position) -> Result<(), SqlError> {
        for envelope in events {
            let Some(job) = envelope.stream.job_id() else { continue };
            self.load(db, job).await?;
            match &envelope.event {
                Event::Job(event) => {
                    let created = || JobView::create(envelope, event).map(Kept::stored);
                    if let std::collections::btree_map::Entry::Vacant(entry) = self.jobs.entry(job)
                        && let Some(created) = created()
                    {
                        entry.insert(created);
                    }
                    let Some(kept) = self.jobs.get_mut(&job) else { continue };
                    kept.changed = true;
                    kept.value.seen(envelope);
                    kept.value.evolve(event, envelope.metadata.occurred_at);
                }
                Event::Matching(event) => self.fold_matching(db, job, envelope, event).await?,
                Event::Worker(_) => {}
            }
        }
        Ok(())
    }

    async fn store(&mut self, tx: &mut Tx) -> Result<(), SqlError> {
        for kept in self.jobs.values().filter(|kept| kept.changed) {
            tx.execute(upsert(&kept.value)).await?;
        }
        for ((job, part), kept) in self.parts.iter().filter(|(_, kept)| kept.changed) {
            let amount = i64::try_from(kept.value).unwrap_or(i64::MAX);
            tx.execute(Statement::new(UPSERT_PART).bind(job.0).bind(part.key()).bind(amount)).await?;
        }
        Ok(())
    }

    fn stored(&mut self) {
        self.jobs.values_mut().for_each(|kept| kept.changed = false);
        self.parts.values_mut().for_each(|kept| kept.changed = false);
        // They come back from their rows when they are wanted again.
        if self.jobs.len() > KEPT_MAX {
            self.jobs.clear();
        }
        if self.parts.len() > KEPT_MAX {
            self.parts.clear();
        }
    }

    async fn answer(&mut self, request: Self::Request, _: &Log, _: &Db, _: Position) -> Result<(), SqlError> {
        match request {}
    }
}

impl JobRows {
    async fn load(&mut self, db: &Db, job: JobId) -> Result<(), SqlError> {
        if self.jobs.contains_key(&job) {
            return Ok(());
        }
        if let Some(view) = read(db, job).await? {
            self.jobs.insert(job, Kept::stored(view));
        }
        Ok(())
    }

    async fn fold_matching(
        &mut self,
        db: &Db,
        job: JobId,
        envelope: &Envelope,
        event: &MatchingEvent,
    ) -> Result<(), SqlError> {
        let Some(kept) = self.jobs.get_mut(&job) else { return Ok(()) };
        kept.changed = true;
        kept.value.seen(envelope);
        let Some(part) = Part::of(event) else {
            kept.value.evolve_matching(event, &mut 0);
            return Ok(());
        };
        let key = (job, part);
        let mut known = match self.parts.remove(&key) {
            Some(known) => known,
            None => Kept::stored(read_amount(db, job, &key.1).await?),
        };
        let before = known.value;
        kept.value.evolve_matching(event, &mut known.value);
        known.changed |= known.value != before;
        self.parts.insert(key, known);
        Ok(())
    }
}

fn upsert(view: &JobView) -> Statement {
    Statement::new(UPSERT)
        .bind(view.job_id.0)
        .bind(view.tenant.as_str())
        .bind(variant(&view.kind))
        .bind(variant(&view.phase))
        .bind(variant(&view.status))
        .bind(view.created_at.micros())
        .bind(search_text(view))
        .bind(to_json(view))
        .bind(view.position.to_i64())
}

fn search_text(view: &JobView) -> String {
    format!("{}\n{}", view.name.as_deref().unwrap_or_default().to_lowercase(), view.job_id)
}

async fn read(db: &Db, job: JobId) -> Result<Option<JobView>, SqlError> {
    let row: Option<Stored> = db.optional(Statement::new(ONE).bind(job.0)).await?;
    row.map(|row| serde_json::from_str(&row.view))
        .transpose()
        .map_err(|error| SqlError::Damaged(error.to_string()))
}

async fn read_amount(db: &Db, job: JobId, part: &Part) -> Result<u64, SqlError> {
    let row: Option<Amount> = db.optional(Statement::new(PART).bind(job.0).bind(part.key())).await?;
    Ok(row.map_or(0, |row| u64::try_from(row.amount).unwrap_or(0)))
}

/// Which of a tenant's jobs are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobFilter {
    pub status: Option<JobStatus>,
    pub phase: Option<Phase>,
    pub kind: Option<JobKind>,
    /// Created then or later.
    pub since: Option<Timestamp>,
    /// A part of the name or the id, in small or capital letters.
    pub search: Option<String>,
}

/// Where a list goes on: behind this job. Jobs created meanwhile move nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobCursor {
    pub created_at: Timestamp,
    pub job_id: JobId,
}

/// A part of a tenant's jobs, the newest first.
#[derive(Clone, Debug, PartialEq)]
pub struct JobPage {
    pub items: Vec<JobView>,
    /// None at the end.
    pub next: Option<JobCursor>,
    /// The answer reflects everything up to here, and perhaps more.
    pub position: Position,
}

/// The questions that can be asked of `jobs`.
#[derive(Clone, Debug)]
pub struct Jobs {
    pub(crate) slot: Arc<Slot<()>>,
}

impl Jobs {
    /// At most `limit` of the tenant's jobs behind the cursor, the newest first.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn list(
        &self,
        tenant: &Tenant,
        filter: &JobFilter,
        after: Option<JobCursor>,
        limit: u32,
    ) -> Result<JobPage, QueryError> {
        let generation = self.slot.live()?;
        let position = generation.position();
        let (created_at, job_id) =
            after.map_or((i64::MAX, Uuid::max()), |cursor| (cursor.created_at.micros(), cursor.job_id.0));
        let statement = Statement::new(LIST)
            .bind(tenant.as_str())
            .bind(created_at)
            .bind(job_id)
            .bind(filter.since.map_or(i64::MIN, Timestamp::micros))
            .bind(filter.status.as_ref().map(variant))
            .bind(filter.phase.as_ref().map(variant))
            .bind(filter.kind.as_ref().map(variant))
            .bind(filter.search.as_deref().map(like))
            // One more than asked for shows whether there is more.
            .bind(i64::from(limit) + 1);
        let rows: Vec<Stored> =
            generation.db.all(statement).await.map_err(|error| store_error(Name::Jobs, error))?;
        let has_more = rows.len() > limit as usize;
        let items: Vec<JobView> = rows
            .iter()
            .take(limit as usize)
            .map(|row| json(Name::Jobs, &row.view))
            .collect::<Result<_, _>>()?;
        let next = items
            .last()
            .filter(|_| has_more)
            .map(|last| JobCursor { created_at: last.created_at, job_id: last.job_id });
        Ok(JobPage { items, next, position })
    }

    /// The job, if it is this tenant's, with a position up to which the answer is complete.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn get(&self, tenant: &Tenant, job: JobId) -> Result<Option<(JobView, Position)>, QueryError> {
        let generation = self.slot.live()?;
        let position = generation.position();
        let view = read(&generation.db, job).await.map_err(|error| store_error(Name::Jobs, error))?;
        Ok(view.filter(|view| view.tenant == *tenant).map(|view| (view, position)))
    }
}

/// A pattern that finds the text itself, in any letters.
fn like(search: &str) -> String {
    let mut pattern = String::from("%");
    for letter in search.to_lowercase().chars() {
        if matches!(letter, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern.push('%');
    pattern
}
