//! `matches`: one row for each image match.

mod view;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{ImageMatchId, JobId, Position, ProductId, Score};
use event_schemas::image_match::{ImageMatchEvent, MatchFound};
use event_schemas::stream::Category;
use event_schemas::time::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use view::ImageMatchView;

use crate::generation::{Generation, QueryError, Slot};
use crate::projection::Name;
use crate::row::parse_text;
use crate::rows::RowModel;
use crate::sql::{Batch, Db, Ddl, Row, SqlError, Statement, ddl, row};

/// The first report of an id counts.
pub(crate) const INSERT: &str = "INSERT INTO matches (position, job_id, match_id, product_id, video_id, img_id, \
     frame_id, score, evidence_path, occurred_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) \
     ON CONFLICT DO NOTHING";
pub(crate) const ATTACH: &str = "UPDATE matches SET evidence_path = $3 WHERE job_id = $1 AND match_id = $2";
/// Without the index by id, evidence waits until the rows are complete.
pub(crate) const ATTACH_LATER: &str = "INSERT INTO attached (job_id, match_id, evidence_path, position) \
     VALUES ($1, $2, $3, $4) ON CONFLICT (job_id, match_id) DO UPDATE SET evidence_path = excluded.evidence_path, \
     position = excluded.position";
pub(crate) const ONE: &str = "SELECT position, match_id, product_id, video_id, img_id, frame_id, score, evidence_path, \
     occurred_at FROM matches WHERE job_id = $1 AND match_id = $2";
pub(crate) const SCORES: &str = "SELECT score FROM matches \
     WHERE job_id = $1 AND score >= $2 AND score <= $3 AND position <= $4 ORDER BY score";

/// The four orders differ only in their last lines.
macro_rules! list {
    ($key:literal, $order:literal) => {
        concat!(
            "SELECT position, match_id, product_id, video_id, img_id, frame_id, score, evidence_path, \
             occurred_at FROM matches WHERE job_id = $1 AND score >= $4 \
             AND ($5 IS NULL OR (evidence_path IS NOT NULL) = $5) AND ($6 IS NULL OR product_id = $6) AND ",
            $key,
            " ORDER BY ",
            $order,
            " LIMIT $7"
        )
    };
}
pub(crate) const LIST_SCORE_DESC: &str = list!("(score, position) < ($2, $3)", "score DESC, position DESC");
pub(crate) const LIST_SCORE_ASC: &str = list!("(score, position) > ($2, $3)", "score, position");
pub(crate) const LIST_NEWEST: &str =
    list!("position < $3 AND CAST($2 AS DOUBLE PRECISION) IS NOT NULL", "position DESC");
pub(crate) const LIST_OLDEST: &str =
    list!("position > $3 AND CAST($2 AS DOUBLE PRECISION) IS NOT NULL", "position");

#[cfg(test)]
pub(crate) fn sql_texts() -> Vec<String> {
    [INSERT, ATTACH, ATTACH_LATER, ONE, SCORES, LIST_SCORE_DESC, LIST_SCORE_ASC, LIST_NEWEST, LIST_OLDEST]
        .map(str::to_owned)
        .into()
}

/// The matches that are folded and not stored.
#[derive(Debug, Default)]
pub(crate) struct ImageMatchRows {
    found: Vec<PendingMatch>,
    /// The index of each match in `found`.
    by_id: HashMap<(JobId, ImageMatchId), usize>,
    /// Evidence for matches that are stored, with the position of the event.
    attached: BTreeMap<(JobId, ImageMatchId), (String, Position)>,
    /// The indexes exist.
    is_published: bool,
}

#[derive(Debug)]
struct PendingMatch {
    position: Position,
    job: JobId,
    occurred_at: Timestamp,
    found: MatchFound,
}

impl RowModel for ImageMatchRows {
    const NAME: Name = Name::ImageMatches;
    const REVISION: u32 = 2;
    const DDL: Ddl = ddl!("matches");
    const CATEGORIES: &'static [Category] = &[Category::ImageMatch];

    async fn fold(&mut self, _: &Db, events: &[&Envelope]) -> Result<(), SqlError> {
        for envelope in events {
            let (Some(job), Event::ImageMatch(event)) = (envelope.stream.job_id(), &envelope.event) else {
                continue;
            };
            match event {
                ImageMatchEvent::MatchFound(found) => self.add(job, envelope, found),
                ImageMatchEvent::MatchEvidenceAttached(attached) => {
                    self.attach(job, &attached.match_id, &attached.evidence_path, envelope.position);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn store(&self, batch: &mut Batch) {
        batch.add_all(self.found.iter().map(PendingMatch::insert));
        let sql = if self.is_published { ATTACH } else { ATTACH_LATER };
        for ((job, id), (path, position)) in &self.attached {
            let statement = Statement::new(sql).bind(job.0).bind(id.as_str()).bind(path.as_str());
            let is_later = !self.is_published;
            batch.add(if is_later { statement.bind(position.to_i64()) } else { statement });
        }
    }

    fn has_changes(&self) -> bool {
        !self.found.is_empty() || !self.attached.is_empty()
    }

    fn on_stored(&mut self) {
        // This frees the memory, too: a batch during catch-up is large.
        *self = Self { is_published: self.is_published, ..Self::default() };
    }

    fn on_published(&mut self) {
        self.is_published = true;
    }
}

impl ImageMatchRows {
    fn add(&mut self, job: JobId, envelope: &Envelope, found: &MatchFound) {
        let index = self.found.len();
        let entry = self.by_id.entry((job, found.match_id.clone()));
        if let std::collections::hash_map::Entry::Vacant(entry) = entry {
            entry.insert(index);
            self.found.push(PendingMatch {
                position: envelope.position,
                job,
                occurred_at: envelope.metadata.occurred_at,
                found: found.clone(),
            });
        }
    }

    fn attach(&mut self, job: JobId, id: &ImageMatchId, path: &str, position: Position) {
        match self.by_id.get(&(job, id.clone())).and_then(|index| self.found.get_mut(*index)) {
            Some(row) => row.found.evidence_path = Some(path.to_owned()),
            None => drop(self.attached.insert((job, id.clone()), (path.to_owned(), position))),
        }
    }
}

impl PendingMatch {
    fn insert(&self) -> Statement {
        let found = &self.found;
        Statement::new(INSERT)
            .bind(self.position.to_i64())
            .bind(self.job.0)
            .bind(found.match_id.as_str())
            .bind(found.product_id.as_str())
            .bind(found.video_id.as_str())
            .bind(found.img_id.as_str())
            .bind(found.frame_id.as_str())
            .bind(found.score.get())
            .bind(found.evidence_path.as_deref())
            .bind(self.occurred_at.micros())
    }
}

/// A filter for a job's matches.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImageMatchFilter {
    /// The lowest score, inclusive.
    pub min_score: Option<Score>,
    pub has_evidence: Option<bool>,
    pub product_id: Option<ProductId>,
}

/// The order of a list of image matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImageMatchOrder {
    #[default]
    ScoreDesc,
    ScoreAsc,
    /// The latest match first: the reverse order of the log.
    Newest,
    Oldest,
}

/// The last match of a page: the next page starts after it. New matches do not shift the pages.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageMatchCursor {
    pub score: f64,
    pub position: Position,
}

/// A page of a job's matches.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageMatchPage {
    pub items: Vec<ImageMatchView>,
    /// None on the last page.
    pub next: Option<ImageMatchCursor>,
    /// The page reflects everything up to this position, and possibly more.
    pub position: Position,
}

row! {
    struct StoredMatch {
        position: i64,
        match_id: String,
        product_id: String,
        video_id: String,
        img_id: String,
        frame_id: String,
        score: f64,
        evidence_path: Option<String>,
        occurred_at: i64,
    }
}

row! {
    struct StoredScore {
        score: f64,
    }
}

impl StoredMatch {
    fn parse(self) -> Result<ImageMatchView, QueryError> {
        let name = Name::ImageMatches;
        Ok(ImageMatchView {
            id: parse_text(name, &self.match_id)?,
            match_id: parse_text(name, &self.match_id)?,
            product_id: parse_text(name, &self.product_id)?,
            video_id: parse_text(name, &self.video_id)?,
            img_id: parse_text(name, &self.img_id)?,
            frame_id: parse_text(name, &self.frame_id)?,
            score: Score::new(self.score)
                .map_err(|error| QueryError::InvalidRow { name, reason: error.to_string() })?,
            evidence_path: self.evidence_path,
            occurred_at: Timestamp::from_micros(self.occurred_at),
            position: Position::from_i64(self.position),
        })
    }
}

/// The queries of `matches`.
#[derive(Clone, Debug)]
pub struct ImageMatches {
    pub(crate) slot: Arc<Slot<()>>,
}

impl ImageMatches {
    /// Lists at most `limit` of a job's matches after the cursor. An unknown job has none.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn list(
        &self,
        job: JobId,
        filter: &ImageMatchFilter,
        order: ImageMatchOrder,
        after: Option<ImageMatchCursor>,
        limit: u32,
    ) -> Result<ImageMatchPage, QueryError> {
        let generation = self.slot.live()?;
        let position = generation.position();
        // Without a cursor the list starts outside the range of scores and positions.
        let (sql, start) = match order {
            ImageMatchOrder::ScoreDesc => (LIST_SCORE_DESC, (2.0, i64::MAX)),
            ImageMatchOrder::ScoreAsc => (LIST_SCORE_ASC, (-1.0, -1)),
            ImageMatchOrder::Newest => (LIST_NEWEST, (2.0, i64::MAX)),
            ImageMatchOrder::Oldest => (LIST_OLDEST, (-1.0, -1)),
        };
        let (score, from) = after.map_or(start, |cursor| (cursor.score, cursor.position.to_i64()));
        let statement = Statement::new(sql)
            .bind(job.0)
            .bind(score)
            .bind(from)
            .bind(filter.min_score.map_or(-1.0, Score::get))
            .bind(filter.has_evidence)
            .bind(filter.product_id.as_ref().map(ProductId::as_str));
        let cursor =
            |last: &ImageMatchView| ImageMatchCursor { score: last.score.get(), position: last.position };
        let (items, next) =
            generation.page(Name::ImageMatches, statement, limit, StoredMatch::parse, cursor).await?;
        Ok(ImageMatchPage { items, next, position })
    }

    /// A match of a job.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn get(&self, job: JobId, id: &ImageMatchId) -> Result<Option<ImageMatchView>, QueryError> {
        let statement = Statement::new(ONE).bind(job.0).bind(id.as_str());
        let generation = self.slot.live()?;
        let found: Vec<StoredMatch> = rows(&generation, statement).await?;
        generation.parsed(found.into_iter().next().map(StoredMatch::parse).transpose())
    }

    /// The scores in the range of a job's matches that were found at or before `upto`, lowest first. The read model
    /// must have reached that position: see [`crate::ReadModels::wait_for`].
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn scores_in(
        &self,
        job: JobId,
        scores: std::ops::RangeInclusive<f64>,
        upto: Position,
    ) -> Result<Vec<f64>, QueryError> {
        let statement =
            Statement::new(SCORES).bind(job.0).bind(*scores.start()).bind(*scores.end()).bind(upto.to_i64());
        let generation = self.slot.live()?;
        let rows: Vec<StoredScore> = rows(&generation, statement).await?;
        Ok(rows.into_iter().map(|row| row.score).collect())
    }
}

async fn rows<R: Row>(generation: &Generation<()>, statement: Statement) -> Result<Vec<R>, QueryError> {
    let found = generation.db.all(statement).await;
    found.map_err(|error| generation.query_error(Name::ImageMatches, error))
}
