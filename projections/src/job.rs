//! `jobs`: one row for each job of any kind.

mod head;

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::job::history::{History, Status};
use domain::job::view::JobView;
use event_log::Log;
use event_log::clock::Clock;
use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{JobId, Position, Revision, Tenant};
use event_schemas::job::{JobEvent, JobKind, Phase};
use event_schemas::matching::MatchingEvent;
use event_schemas::stream::Category;
use event_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::generation::{QueryError, Slot};
use crate::projection::{Name, Projection, Store};
use crate::row::{json, store_error, to_json, variant};
use crate::sql::{Db, FromRow, SqlError, Statement, Tx};
use head::{Head, Known, Part};

pub(crate) const UPSERT: &str = "INSERT INTO jobs \
     (job_id, tenant, kind, phase, status, created_at, search, head, position) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
     ON CONFLICT (job_id) DO UPDATE SET phase = excluded.phase, status = excluded.status, \
     head = excluded.head, position = excluded.position";
pub(crate) const UPSERT_PART: &str = "INSERT INTO job_parts (job_id, part, known) VALUES ($1, $2, $3) \
     ON CONFLICT (job_id, part) DO UPDATE SET known = excluded.known";
pub(crate) const ONE: &str = "SELECT head FROM jobs WHERE job_id = $1";
pub(crate) const PART: &str = "SELECT known FROM job_parts WHERE job_id = $1 AND part = $2";
pub(crate) const LIST: &str = "SELECT head FROM jobs \
     WHERE tenant = $1 AND (created_at, job_id) < ($2, $3) AND created_at >= $4 \
     AND ($5 IS NULL OR status = $5) AND ($6 IS NULL OR phase = $6) AND ($7 IS NULL OR kind = $7) \
     AND ($8 IS NULL OR search LIKE $8 ESCAPE '\\') \
     ORDER BY created_at DESC, job_id DESC LIMIT $9";

/// How many jobs and parts stay in memory between batches.
const KEPT_MAX: usize = 10_000;

/// Jobs that were lately touched, and which of them are not stored.
#[derive(Debug, Default)]
pub(crate) struct JobRows {
    jobs: BTreeMap<JobId, Kept<Head>>,
    parts: BTreeMap<(JobId, Part), Kept<Known>>,
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
    head: String,
}

#[derive(FromRow)]
struct StoredPart {
    known: String,
}

/// What was stored by this revision can be read by it.
fn parse<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, SqlError> {
    serde_json::from_str(text).map_err(|error| SqlError::Damaged(error.to_string()))
}

impl Projection for JobRows {
    const NAME: Name = Name::Jobs;
    const REVISION: u32 = 3;
    const DDL: &'static str = include_str!("../../migrations/sqlite/jobs.sql");
    const CATEGORIES: &'static [Category] = &[Category::Job, Category::Matching];
    const STORE: Store = Store::EachBatch;

    type View = ();
    type Shared = ();
    type Request = std::convert::Infallible;

    async fn open(_: &Db, (): &(), _: Position) -> Result<Self, SqlError> {
        Ok(Self::default())
    }

    fn view(&self) {}

    async fn fold(&mut self, db: &Db, events: &[&Envelope], _: Position) -> Result<(), SqlError> {
        for envelope in events {
            let Some(job) = envelope.stream.job_id() else { continue };
            // A job that begins here has no row.
            if envelope.revision != Revision(0) || !matches!(envelope.event, Event::Job(_)) {
                self.load(db, job).await?;
            }
            match &envelope.event {
                Event::Job(event) => self.fold_job(job, envelope, event),
                Event::Matching(event) => self.fold_matching(db, job, envelope, event).await?,
                // Of another category, which this projection is not given.
                _ => {}
            }
        }
        Ok(())
    }

    async fn store(&mut self, tx: &mut Tx) -> Result<(), SqlError> {
        for kept in self.jobs.values().filter(|kept| kept.changed) {
            tx.execute(upsert(&kept.value)).await?;
        }
        for ((job, part), kept) in self.parts.iter().filter(|(_, kept)| kept.changed) {
            let known = to_json(&kept.value);
            tx.execute(Statement::new(UPSERT_PART).bind(job.0).bind(part.key()).bind(known)).await?;
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
        if let Some(head) = read(db, job).await? {
            self.jobs.insert(job, Kept::stored(head));
        }
        Ok(())
    }

    fn fold_job(&mut self, job: JobId, envelope: &Envelope, event: &JobEvent) {
        match self.jobs.get_mut(&job) {
            Some(kept) => {
                kept.changed = true;
                kept.value.apply(envelope, event);
            }
            None => {
                let begun = Head::begin(envelope, event).map(|value| Kept { value, changed: true });
                self.jobs.extend(begun.map(|begun| (job, begun)));
            }
        }
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
        let Some(part) = Part::of(event) else {
            kept.value.count(envelope, event, &mut Known::Frames(0));
            return Ok(());
        };
        let key = (job, part);
        let mut known = match self.parts.remove(&key) {
            Some(known) => known,
            None => Kept::stored(read_part(db, job, &key.1).await?),
        };
        let before = known.value;
        kept.value.count(envelope, event, &mut known.value);
        known.changed |= known.value != before;
        self.parts.insert(key, known);
        Ok(())
    }
}

fn upsert(head: &Head) -> Statement {
    let history = &head.history;
    Statement::new(UPSERT)
        .bind(history.job_id().0)
        .bind(history.tenant.as_str())
        .bind(variant(&history.kind()))
        .bind(variant(&history.phase))
        .bind(variant(&history.status()))
        .bind(history.created_at.micros())
        .bind(search_text(history))
        .bind(to_json(head))
        .bind(head.latest.position.to_i64())
}

fn search_text(history: &History) -> String {
    format!("{}\n{}", history.created.name.as_deref().unwrap_or_default().to_lowercase(), history.job_id())
}

async fn read(db: &Db, job: JobId) -> Result<Option<Head>, SqlError> {
    let row: Option<Stored> = db.optional(Statement::new(ONE).bind(job.0)).await?;
    row.map(|row| parse(&row.head)).transpose()
}

async fn read_part(db: &Db, job: JobId, part: &Part) -> Result<Known, SqlError> {
    let row: Option<StoredPart> = db.optional(Statement::new(PART).bind(job.0).bind(part.key())).await?;
    row.map_or(Ok(part.unknown()), |row| parse(&row.known))
}

/// Which of a tenant's jobs are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobFilter {
    pub status: Option<Status>,
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
    pub(crate) clock: Clock,
}

impl Jobs {
    /// At most `limit` of the tenant's jobs behind the cursor, the newest first, as they stand now.
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
        let now = self.clock.now();
        let rows: Vec<Stored> =
            generation.db.all(statement).await.map_err(|error| store_error(Name::Jobs, error))?;
        let has_more = rows.len() > limit as usize;
        let mut items = Vec::with_capacity(rows.len());
        for row in rows.iter().take(limit as usize) {
            let head: Head = json(Name::Jobs, &row.head)?;
            items.extend(head.view(now));
        }
        let next = items
            .last()
            .filter(|_| has_more)
            .map(|last| JobCursor { created_at: last.created_at, job_id: last.job_id });
        Ok(JobPage { items, next, position })
    }

    /// The job as it stands now, if it is this tenant's, with a position up to which the answer is complete.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn get(&self, tenant: &Tenant, job: JobId) -> Result<Option<(JobView, Position)>, QueryError> {
        let generation = self.slot.live()?;
        let position = generation.position();
        let head = read(&generation.db, job).await.map_err(|error| store_error(Name::Jobs, error))?;
        let own = head.filter(|head| head.history.tenant == *tenant);
        Ok(own.and_then(|head| head.view(self.clock.now())).map(|view| (view, position)))
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
