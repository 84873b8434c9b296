//! `jobs`: one row for each job of any kind.

mod overview;
mod queries;

use std::collections::BTreeMap;

use domain::job::history::History;
use event_log::Log;
use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{JobId, Position, Revision};
use event_schemas::image_match::ImageMatchEvent;
use event_schemas::job::JobEvent;
use event_schemas::stream::Category;

use crate::projection::{Name, Projection, StorePolicy};
use crate::row::{to_json, variant_name};
use crate::sql::{Db, Ddl, SqlError, Statement, Tx, ddl, row};
use overview::{JobOverview, JobPart, LastReport};
pub use queries::{AnalysisPage, JobCursor, JobFilter, JobPage, Jobs};

pub(crate) const UPSERT: &str = "INSERT INTO jobs \
     (job_id, tenant, kind, phase, status, created_at, search, overview, position) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
     ON CONFLICT (job_id) DO UPDATE SET phase = excluded.phase, status = excluded.status, \
     overview = excluded.overview, position = excluded.position";
pub(crate) const UPSERT_PART: &str = "INSERT INTO job_parts (job_id, part, last_report) VALUES ($1, $2, $3) \
     ON CONFLICT (job_id, part) DO UPDATE SET last_report = excluded.last_report";
pub(crate) const ONE: &str = "SELECT overview FROM jobs WHERE job_id = $1";
pub(crate) const PART: &str = "SELECT last_report FROM job_parts WHERE job_id = $1 AND part = $2";
pub(crate) const LIST: &str = "SELECT overview FROM jobs \
     WHERE tenant = $1 AND (created_at, job_id) < ($2, $3) AND created_at >= $4 \
     AND ($5 IS NULL OR status = $5) AND ($6 IS NULL OR phase = $6) AND ($7 IS NULL OR kind = $7) \
     AND ($8 IS NULL OR search LIKE $8 ESCAPE '\\') \
     ORDER BY created_at DESC, job_id DESC LIMIT $9";

#[cfg(test)]
pub(crate) fn sql_texts() -> Vec<String> {
    [UPSERT, UPSERT_PART, ONE, PART, LIST].map(str::to_owned).into()
}

/// The numbers of jobs and of parts above which the caches are cleared between batches.
const CACHED_MAX: usize = 10_000;

/// The recently used jobs and parts, with a dirty flag for each.
#[derive(Debug, Default)]
pub(crate) struct JobRows {
    jobs: BTreeMap<JobId, Cached<JobOverview>>,
    parts: BTreeMap<(JobId, JobPart), Cached<LastReport>>,
}

#[derive(Debug)]
struct Cached<T> {
    value: T,
    is_dirty: bool,
}

impl<T> Cached<T> {
    fn clean(value: T) -> Self {
        Self { value, is_dirty: false }
    }
}

row! {
    struct Stored {
        overview: String,
    }
}

row! {
    struct StoredPart {
        last_report: String,
    }
}

/// Parses a stored value. A file of the same revision that cannot be parsed is damaged.
fn parse<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, SqlError> {
    serde_json::from_str(text).map_err(|error| SqlError::Damaged(error.to_string()))
}

impl Projection for JobRows {
    const NAME: Name = Name::Jobs;
    const REVISION: u32 = 4;
    const DDL: Ddl = ddl!("jobs");
    const CATEGORIES: &'static [Category] = &[Category::Job, Category::ImageMatch];
    const STORE: StorePolicy = StorePolicy::EachBatch;

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
            // A job that is created by this event has no row.
            if envelope.revision != Revision(0) || !matches!(envelope.event, Event::Job(_)) {
                self.load(db, job).await?;
            }
            match &envelope.event {
                Event::Job(event) => self.fold_job(job, envelope, event),
                Event::ImageMatch(event) => self.fold_matching(db, job, envelope, event).await?,
                // Events of other categories are not delivered to this projection.
                _ => {}
            }
        }
        Ok(())
    }

    async fn store(&mut self, tx: &mut Tx) -> Result<(), SqlError> {
        for cached in self.jobs.values().filter(|cached| cached.is_dirty) {
            tx.execute(upsert(&cached.value)).await?;
        }
        for ((job, part), cached) in self.parts.iter().filter(|(_, cached)| cached.is_dirty) {
            let report = to_json(&cached.value);
            tx.execute(Statement::new(UPSERT_PART).bind(job.0).bind(part.key()).bind(report)).await?;
        }
        Ok(())
    }

    fn on_stored(&mut self) {
        self.jobs.values_mut().for_each(|cached| cached.is_dirty = false);
        self.parts.values_mut().for_each(|cached| cached.is_dirty = false);
        // A value that is needed again is read from its row.
        if self.jobs.len() > CACHED_MAX {
            self.jobs.clear();
        }
        if self.parts.len() > CACHED_MAX {
            self.parts.clear();
        }
    }

    async fn handle_request(
        &mut self,
        request: Self::Request,
        _: &Log,
        _: &Db,
        _: Position,
    ) -> Result<(), SqlError> {
        match request {}
    }
}

impl JobRows {
    async fn load(&mut self, db: &Db, job: JobId) -> Result<(), SqlError> {
        if self.jobs.contains_key(&job) {
            return Ok(());
        }
        if let Some(overview) = read(db, job).await? {
            self.jobs.insert(job, Cached::clean(overview));
        }
        Ok(())
    }

    fn fold_job(&mut self, job: JobId, envelope: &Envelope, event: &JobEvent) {
        match self.jobs.get_mut(&job) {
            Some(cached) => {
                cached.is_dirty = true;
                cached.value.apply(envelope, event);
            }
            None => {
                let created = JobOverview::create(envelope, event);
                self.jobs.extend(created.map(|value| (job, Cached { value, is_dirty: true })));
            }
        }
    }

    async fn fold_matching(
        &mut self,
        db: &Db,
        job: JobId,
        envelope: &Envelope,
        event: &ImageMatchEvent,
    ) -> Result<(), SqlError> {
        let Some(cached) = self.jobs.get_mut(&job) else { return Ok(()) };
        cached.is_dirty = true;
        let Some(part) = JobPart::of(event) else {
            cached.value.count(envelope, event, &mut LastReport::Frames(0));
            return Ok(());
        };
        let key = (job, part);
        let mut report = match self.parts.remove(&key) {
            Some(report) => report,
            None => Cached::clean(read_part(db, job, &key.1).await?),
        };
        let before = report.value;
        cached.value.count(envelope, event, &mut report.value);
        report.is_dirty |= report.value != before;
        self.parts.insert(key, report);
        Ok(())
    }
}

fn upsert(overview: &JobOverview) -> Statement {
    let history = &overview.history;
    Statement::new(UPSERT)
        .bind(history.job_id().0)
        .bind(history.tenant.as_str())
        .bind(variant_name(&history.kind()))
        .bind(variant_name(&history.phase))
        .bind(variant_name(&history.status()))
        .bind(history.created_at.micros())
        .bind(search_text(history))
        .bind(to_json(overview))
        .bind(overview.latest.position.to_i64())
}

fn search_text(history: &History) -> String {
    format!("{}\n{}", history.created.name.as_deref().unwrap_or_default().to_lowercase(), history.job_id())
}

async fn read(db: &Db, job: JobId) -> Result<Option<JobOverview>, SqlError> {
    let row: Option<Stored> = db.optional(Statement::new(ONE).bind(job.0)).await?;
    row.map(|row| parse(&row.overview)).transpose()
}

async fn read_part(db: &Db, job: JobId, part: &JobPart) -> Result<LastReport, SqlError> {
    let row: Option<StoredPart> = db.optional(Statement::new(PART).bind(job.0).bind(part.key())).await?;
    row.map_or(Ok(part.initial_report()), |row| parse(&row.last_report))
}
