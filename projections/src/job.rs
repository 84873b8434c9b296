//! `jobs`: one row for each job of any kind.

mod exports;
mod overview;
mod queries;

use std::collections::HashSet;

use domain::job::history::History;
use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{JobId, Revision};
use event_schemas::image_match::ImageMatchEvent;
use event_schemas::job::JobEvent;

use event_schemas::stream::Category;

use crate::projection::Name;
use crate::row::{to_json, variant_name};
use crate::rows::{RowModel, Rows, Table};
use crate::sql::{Batch, Db, Ddl, SqlError, Statement, Value, ddl};
pub use exports::ExportJob;
use overview::{JobOverview, JobPart, JobTexts, LastReport};
pub use queries::{AnalysisPage, ExtractionPage, JobCursor, JobFilter, JobPage, Jobs};

pub(crate) const UPSERT: &str = "INSERT INTO jobs \
     (job_id, tenant, kind, phase, status, created_at, search, overview, position) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
     ON CONFLICT (job_id) DO UPDATE SET phase = excluded.phase, status = excluded.status, \
     overview = excluded.overview, position = excluded.position";
pub(crate) const UPSERT_PART: &str = "INSERT INTO job_parts (job_id, part, last_report) VALUES ($1, $2, $3) \
     ON CONFLICT (job_id, part) DO UPDATE SET last_report = excluded.last_report";
pub(crate) const UPSERT_TEXTS: &str = "INSERT INTO job_texts (job_id, texts) VALUES ($1, $2) \
     ON CONFLICT (job_id) DO UPDATE SET texts = excluded.texts";
pub(crate) const ONE: &str = "SELECT overview FROM jobs WHERE job_id = $1";
pub(crate) const TEXTS: &str = "SELECT texts FROM job_texts WHERE job_id = $1";
pub(crate) const WHOLE: &str = "SELECT overview, texts FROM jobs LEFT JOIN job_texts \
     ON job_texts.job_id = jobs.job_id WHERE jobs.job_id = $1";
pub(crate) const PART: &str = "SELECT last_report FROM job_parts WHERE job_id = $1 AND part = $2";
pub(crate) const LIST: &str = "SELECT overview FROM jobs \
     WHERE tenant = $1 AND (created_at, job_id) < ($2, $3) AND created_at >= $4 \
     AND ($5 IS NULL OR status = $5) AND ($6 IS NULL OR phase = $6) AND ($7 IS NULL OR kind = $7 OR kind = $8 OR kind = $9) \
     AND ($10 IS NULL OR search LIKE $10 ESCAPE '\\') \
     ORDER BY created_at DESC, job_id DESC LIMIT $11";

pub(crate) const LIST_EXPORTS: &str = "SELECT overview, texts FROM jobs LEFT JOIN job_texts \
     ON job_texts.job_id = jobs.job_id \
     WHERE tenant = $1 AND (created_at, jobs.job_id) < ($2, $3) AND kind = 'embedding_export' \
     ORDER BY created_at DESC, jobs.job_id DESC LIMIT $4";

#[cfg(test)]
pub(crate) fn sql_texts() -> Vec<String> {
    [UPSERT, UPSERT_PART, UPSERT_TEXTS, ONE, PART, TEXTS, WHOLE, LIST, LIST_EXPORTS].map(str::to_owned).into()
}

/// The rows by job.
#[derive(Debug)]
pub(crate) struct Overviews;

impl Table for Overviews {
    type Key = JobId;
    type Value = JobOverview;
    const ONE: &'static str = ONE;

    fn key(job: &JobId) -> Vec<Value> {
        vec![job.0.into()]
    }

    fn text_bytes(overview: &JobOverview) -> usize {
        overview.history.text_bytes()
    }

    fn write(job: &JobId, overview: Option<&JobOverview>) -> Option<Statement> {
        let overview = overview?;
        let history = &overview.history;
        let statement = Statement::new(UPSERT)
            .bind(job.0)
            .bind(history.tenant.as_str())
            .bind(variant_name(&history.kind()))
            .bind(variant_name(&history.phase))
            .bind(variant_name(&history.status()))
            .bind(history.created_at.micros())
            .bind(search_text(history))
            .bind(to_json(overview))
            .bind(overview.latest.position.to_i64());
        Some(statement)
    }
}

/// The last reports on the parts of jobs.
#[derive(Debug)]
pub(crate) struct Parts;

impl Table for Parts {
    type Key = (JobId, JobPart);
    type Value = LastReport;
    const ONE: &'static str = PART;

    fn key((job, part): &Self::Key) -> Vec<Value> {
        vec![job.0.into(), part.key().into()]
    }

    fn write((job, part): &Self::Key, report: Option<&LastReport>) -> Option<Statement> {
        Some(Statement::new(UPSERT_PART).bind(job.0).bind(part.key()).bind(to_json(report?)))
    }
}

/// The texts of jobs that ever had any.
#[derive(Debug)]
pub(crate) struct Texts;

impl Table for Texts {
    type Key = JobId;
    type Value = JobTexts;
    const ONE: &'static str = TEXTS;

    fn key(job: &JobId) -> Vec<Value> {
        vec![job.0.into()]
    }

    fn text_bytes(texts: &JobTexts) -> usize {
        let result = texts.result.as_ref().map_or(0, |result| result.as_str().len());
        let ids = texts.product_ids.iter().map(|id| id.as_str().len());
        texts.metadata.as_str().len() + texts.options.as_str().len() + ids.sum::<usize>() + result
    }

    fn write(job: &JobId, texts: Option<&JobTexts>) -> Option<Statement> {
        Some(Statement::new(UPSERT_TEXTS).bind(job.0).bind(to_json(texts?)))
    }
}

#[derive(Debug, Default)]
pub(crate) struct JobRows {
    jobs: Rows<Overviews>,
    parts: Rows<Parts>,
    texts: Rows<Texts>,
}

/// The jobs of the events, without those that the events create.
pub(crate) fn existing_jobs(events: &[&Envelope]) -> HashSet<JobId> {
    let mut jobs = HashSet::new();
    let mut created = HashSet::new();
    for envelope in events {
        let Some(job) = envelope.stream.job_id() else { continue };
        jobs.insert(job);
        if envelope.revision == Revision(0) && matches!(envelope.event, Event::Job(_)) {
            created.insert(job);
        }
    }
    jobs.retain(|job| !created.contains(job));
    jobs
}

/// Whether a job's event can change its result.
fn changes_result(event: &Event) -> bool {
    matches!(event, Event::Job(JobEvent::JobCompleted(_) | JobEvent::JobResultExpired(_)))
}

/// The part that an event reports on.
fn part(envelope: &Envelope) -> Option<(JobId, JobPart)> {
    let Event::ImageMatch(event) = &envelope.event else { return None };
    Some((envelope.stream.job_id()?, JobPart::of(event)?))
}

impl RowModel for JobRows {
    const NAME: Name = Name::Jobs;
    const REVISION: u32 = 8;
    const DDL: Ddl = ddl!("jobs");
    const CATEGORIES: &'static [Category] = &[Category::Job, Category::ImageMatch];

    async fn fold(&mut self, db: &Db, events: &[&Envelope]) -> Result<(), SqlError> {
        self.jobs.load(db, existing_jobs(events)).await?;
        self.parts.load(db, events.iter().filter_map(|envelope| part(envelope))).await?;
        let results = events.iter().filter(|envelope| changes_result(&envelope.event));
        self.texts.load(db, results.filter_map(|envelope| envelope.stream.job_id())).await?;
        for envelope in events {
            let Some(job) = envelope.stream.job_id() else { continue };
            match (&envelope.event, self.jobs.change(&job)) {
                (Event::Job(event), Some(overview)) => {
                    overview.apply(envelope, event);
                    if changes_result(&envelope.event) {
                        let mut texts = self.texts.get(&job).cloned().unwrap_or_default();
                        texts.result = overview.split().result;
                        set_texts(&mut self.texts, job, texts);
                    }
                }
                (Event::Job(event), None) => {
                    if let Some(mut overview) = JobOverview::create(envelope, event) {
                        set_texts(&mut self.texts, job, overview.split());
                        self.jobs.set(job, Some(overview));
                    }
                }
                (Event::ImageMatch(event), Some(overview)) => {
                    count(&mut self.parts, overview, envelope, event);
                }
                // Events of other categories are not delivered to this projection.
                _ => {}
            }
        }
        Ok(())
    }

    fn store(&self, batch: &mut Batch) {
        self.jobs.store(batch);
        self.parts.store(batch);
        self.texts.store(batch);
    }

    fn has_changes(&self) -> bool {
        self.jobs.has_changes() || self.parts.has_changes() || self.texts.has_changes()
    }

    fn on_stored(&mut self) {
        self.jobs.on_stored();
        self.parts.on_stored();
        self.texts.on_stored();
    }

    fn on_published(&mut self) {
        self.jobs.on_published();
        self.parts.on_published();
        self.texts.on_published();
    }
}

/// Without a row while there were none.
fn set_texts(rows: &mut Rows<Texts>, job: JobId, texts: JobTexts) {
    if rows.get(&job).map_or(texts != JobTexts::default(), |before| *before != texts) {
        rows.set(job, Some(texts));
    }
}

/// Counts an event of the job's matching.
fn count(parts: &mut Rows<Parts>, overview: &mut JobOverview, envelope: &Envelope, event: &ImageMatchEvent) {
    let Some(key) = part(envelope) else {
        return overview.count(envelope, event, &mut LastReport::Frames(0));
    };
    let before = parts.get(&key).copied();
    let mut report = before.unwrap_or_else(|| key.1.initial_report());
    overview.count(envelope, event, &mut report);
    if before.unwrap_or_else(|| key.1.initial_report()) != report {
        parts.set(key, Some(report));
    }
}

fn search_text(history: &History) -> String {
    format!("{}\n{}", history.created.name.as_deref().unwrap_or_default().to_lowercase(), history.job_id())
}
