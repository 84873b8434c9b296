//! `matches`: one row for each match that was found.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use event_log::Log;
use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{FrameId, ImageId, JobId, MatchId, Position, ProductId, Score, VideoId};
use event_schemas::matching::{MatchFound, MatchingEvent};
use event_schemas::stream::Category;
use event_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::generation::{QueryError, Slot};
use crate::projection::{Name, Projection, Store};
use crate::row::{store_error, text};
use crate::sql::{Db, ManyRows, SqlError, Statement, Tx, row};

const COLUMNS: usize = 10;
/// The first report of an id holds.
pub(crate) static INSERT: LazyLock<ManyRows> = LazyLock::new(|| {
    ManyRows::new(
        "INSERT INTO matches (position, job_id, match_id, product_id, video_id, img_id, frame_id, score, \
         evidence_path, occurred_at) VALUES",
        COLUMNS,
        "ON CONFLICT (job_id, match_id) DO NOTHING",
    )
});
pub(crate) const ATTACH: &str = "UPDATE matches SET evidence_path = $3 WHERE job_id = $1 AND match_id = $2";
pub(crate) const SCORES: &str = "SELECT score FROM matches \
     WHERE job_id = $1 AND score >= $2 AND score <= $3 AND position <= $4 ORDER BY score";

/// The four orders differ in their last lines only.
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
pub(crate) const LIST_NEWEST: &str = list!("position < $3 AND $2 IS NOT NULL", "position DESC");
pub(crate) const LIST_OLDEST: &str = list!("position > $3 AND $2 IS NOT NULL", "position");

/// What has been found and not stored.
#[derive(Debug, Default)]
pub(crate) struct FoundMatches {
    found: Vec<Found>,
    /// Where a match is in `found`.
    by_id: HashMap<(JobId, MatchId), usize>,
    /// Evidence for matches that are stored.
    attached: Vec<(JobId, MatchId, String)>,
}

#[derive(Debug)]
struct Found {
    position: Position,
    job: JobId,
    occurred_at: Timestamp,
    found: MatchFound,
}

impl Projection for FoundMatches {
    const NAME: Name = Name::Matches;
    const REVISION: u32 = 1;
    const DDL: &'static str = include_str!("../../migrations/sqlite/matches.sql");
    const CATEGORIES: &'static [Category] = &[Category::Matching];
    const STORE: Store = Store::EachBatch;

    type View = ();
    type Shared = ();
    type Request = std::convert::Infallible;

    async fn open(_: &Db, (): &(), _: Position) -> Result<Self, SqlError> {
        Ok(Self::default())
    }

    fn view(&self) {}

    async fn fold(&mut self, _: &Db, events: &[&Envelope], _: Position) -> Result<(), SqlError> {
        for envelope in events {
            let (Some(job), Event::Matching(event)) = (envelope.stream.job_id(), &envelope.event) else {
                continue;
            };
            match event {
                MatchingEvent::MatchFound(found) => self.found(job, envelope, found),
                MatchingEvent::MatchEvidenceAttached(attached) => {
                    self.attached(job, &attached.match_id, &attached.evidence_path);
                }
                _ => {}
            }
        }
        Ok(())
    }

    async fn store(&mut self, tx: &mut Tx) -> Result<(), SqlError> {
        let mut rows = self.found.as_slice();
        while let Some((mut statement, chunk)) = INSERT.take(&mut rows) {
            for row in chunk {
                statement = row.bind(statement);
            }
            tx.execute(statement).await?;
        }
        for (job, id, path) in &self.attached {
            tx.execute(Statement::new(ATTACH).bind(job.0).bind(id.as_str()).bind(path.as_str())).await?;
        }
        Ok(())
    }

    fn stored(&mut self) {
        // The memory goes, too: a batch while catching up is large.
        *self = Self::default();
    }

    async fn answer(&mut self, request: Self::Request, _: &Log, _: &Db, _: Position) -> Result<(), SqlError> {
        match request {}
    }
}

impl FoundMatches {
    fn found(&mut self, job: JobId, envelope: &Envelope, found: &MatchFound) {
        let index = self.found.len();
        let entry = self.by_id.entry((job, found.match_id.clone()));
        if let std::collections::hash_map::Entry::Vacant(entry) = entry {
            entry.insert(index);
            self.found.push(Found {
                position: envelope.position,
                job,
                occurred_at: envelope.metadata.occurred_at,
                found: found.clone(),
            });
        }
    }

    fn attached(&mut self, job: JobId, id: &MatchId, path: &str) {
        match self.by_id.get(&(job, id.clone())).and_then(|index| self.found.get_mut(*index)) {
            Some(row) => row.found.evidence_path = Some(path.to_owned()),
            None => self.attached.push((job, id.clone(), path.to_owned())),
        }
    }
}

impl Found {
    fn bind(&self, statement: Statement) -> Statement {
        let found = &self.found;
        statement
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

/// A match as it is shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FoundMatch {
    pub match_id: MatchId,
    pub product_id: ProductId,
    pub video_id: VideoId,
    pub img_id: ImageId,
    pub frame_id: FrameId,
    pub score: Score,
    pub evidence_path: Option<String>,
    pub occurred_at: Timestamp,
    /// Of the event that reported it.
    pub position: Position,
}

/// Which of a job's matches are asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MatchFilter {
    /// At least this.
    pub min_score: Option<Score>,
    pub has_evidence: Option<bool>,
    pub product_id: Option<ProductId>,
}

/// In which order matches are listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MatchOrder {
    #[default]
    ScoreDesc,
    ScoreAsc,
    /// In the order of the log, the last one first.
    Newest,
    Oldest,
}

/// Where a list goes on: behind this match. Matches found meanwhile move nothing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MatchCursor {
    pub score: f64,
    pub position: Position,
}

/// A part of a job's matches.
#[derive(Clone, Debug, PartialEq)]
pub struct MatchPage {
    pub items: Vec<FoundMatch>,
    /// None at the end.
    pub next: Option<MatchCursor>,
    /// The answer reflects everything up to here, and perhaps more.
    pub position: Position,
}

row! {
    struct Listed {
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
    struct ScoreOnly {
        score: f64,
    }
}

impl Listed {
    fn read(self) -> Result<FoundMatch, QueryError> {
        let name = Name::Matches;
        Ok(FoundMatch {
            match_id: text(name, &self.match_id)?,
            product_id: text(name, &self.product_id)?,
            video_id: text(name, &self.video_id)?,
            img_id: text(name, &self.img_id)?,
            frame_id: text(name, &self.frame_id)?,
            score: Score::new(self.score)
                .map_err(|error| QueryError::Row { name, reason: error.to_string() })?,
            evidence_path: self.evidence_path,
            occurred_at: Timestamp::from_micros(self.occurred_at),
            position: Position::from_i64(self.position),
        })
    }
}

/// The questions that can be asked of `matches`.
#[derive(Clone, Debug)]
pub struct Matches {
    pub(crate) slot: Arc<Slot<()>>,
}

impl Matches {
    /// At most `limit` of a job's matches behind the cursor. An unknown job has none.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn list(
        &self,
        job: JobId,
        filter: &MatchFilter,
        order: MatchOrder,
        after: Option<MatchCursor>,
        limit: u32,
    ) -> Result<MatchPage, QueryError> {
        let generation = self.slot.live()?;
        let position = generation.position();
        // Without a cursor the list starts before everything that a score or a position can be.
        let (sql, start) = match order {
            MatchOrder::ScoreDesc => (LIST_SCORE_DESC, (2.0, i64::MAX)),
            MatchOrder::ScoreAsc => (LIST_SCORE_ASC, (-1.0, -1)),
            MatchOrder::Newest => (LIST_NEWEST, (2.0, i64::MAX)),
            MatchOrder::Oldest => (LIST_OLDEST, (-1.0, -1)),
        };
        let (score, from) = after.map_or(start, |cursor| (cursor.score, cursor.position.to_i64()));
        let statement = Statement::new(sql)
            .bind(job.0)
            .bind(score)
            .bind(from)
            .bind(filter.min_score.map_or(-1.0, Score::get))
            .bind(filter.has_evidence)
            .bind(filter.product_id.as_ref().map(ProductId::as_str))
            // One more than asked for shows whether there is more.
            .bind(i64::from(limit) + 1);
        let rows: Vec<Listed> =
            generation.db.all(statement).await.map_err(|error| store_error(Name::Matches, error))?;
        let has_more = rows.len() > limit as usize;
        let items: Vec<FoundMatch> =
            rows.into_iter().take(limit as usize).map(Listed::read).collect::<Result<_, _>>()?;
        let next = items
            .last()
            .filter(|_| has_more)
            .map(|last| MatchCursor { score: last.score.get(), position: last.position });
        Ok(MatchPage { items, next, position })
    }

    /// The scores between two, both included, of a job's matches that were found at or before `upto`, lowest first. The
    /// read model must have got there: see [`crate::ReadModels::wait_for`].
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
        let rows: Vec<ScoreOnly> =
            self.slot.live()?.db.all(statement).await.map_err(|error| store_error(Name::Matches, error))?;
        Ok(rows.into_iter().map(|row| row.score).collect())
    }
}
