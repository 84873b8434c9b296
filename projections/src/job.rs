//! `jobs`: one row for each job of any kind.

mod head;
mod questions;

use std::collections::BTreeMap;

use domain::job::history::History;
use event_log::Log;
use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{JobId, Position, Revision};
use event_schemas::job::JobEvent;
use event_schemas::matching::MatchingEvent;
use event_schemas::stream::Category;

use crate::projection::{Name, Projection, Store};
use crate::row::{to_json, variant};
use crate::sql::{Db, SqlError, Statement, Tx, row};
use head::{Head, Known, Part};
pub use questions::{AnalysisPage, JobCursor, JobFilter, JobPage, Jobs};

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

row! {
    struct Stored {
        head: String,
    }
}

row! {
    struct StoredPart {
        known: String,
    }
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
