//! `matching_summary`: the fold of each job's events, in memory while it is hot.
//!
//! Readers are served from memory, at the position that the projector has reached; the rows follow about a second
//! behind, together with their checkpoint, so that a crash only replays that second. What is asked about the past, or
//! must not be believed, is folded anew from the log by the same function.

mod answers;
mod hot;
mod refold;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use domain::matching::summary::{FORMAT, JobFold};
use domain::worker::presence::Presence;
use event_log::Log;
use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{JobId, Position, Revision, Tenant};
use event_schemas::stream::Category;
use tokio::sync::{broadcast, oneshot};

pub use answers::{MatchingSummary, Refolded, ScoresFrom, Snapshots, SummaryError};
pub use hot::Folded;
pub use refold::{RefoldError, UpTo};

use crate::projection::{Name, Projection, Store};
use crate::row::to_json;
use crate::sql::{Db, SqlError, Statement, Tx, row};
use hot::{CountedFold, Hot};
use refold::Base;

/// Counter: summaries that were not what their events say. It is there from the start, to be seen at zero.
pub(crate) const REPAIRS: &str = "matching_summary_repairs_total";

pub(crate) const UPSERT: &str = "INSERT INTO summaries (job_id, tenant, events, position, fold) \
     VALUES ($1, $2, $3, $4, $5) ON CONFLICT (job_id) DO UPDATE SET events = excluded.events, \
     position = excluded.position, fold = excluded.fold";
pub(crate) const ONE: &str = "SELECT events, position, fold FROM summaries WHERE job_id = $1";
pub(crate) const UPSERT_PRESENCE: &str = "INSERT INTO presences (tenant, fold) VALUES ($1, $2) \
     ON CONFLICT (tenant) DO UPDATE SET fold = excluded.fold";
pub(crate) const PRESENCES: &str = "SELECT tenant, fold FROM presences";
pub(crate) const SNAPSHOT: &str = "INSERT INTO snapshots (job_id, position, events, fold) \
     VALUES ($1, $2, $3, $4) ON CONFLICT (job_id, position) DO UPDATE SET events = excluded.events, \
     fold = excluded.fold";
pub(crate) const SNAPSHOT_BEFORE: &str = "SELECT events, position, fold FROM snapshots \
     WHERE job_id = $1 AND position <= $2 ORDER BY position DESC LIMIT 1";
pub(crate) const DROP_SNAPSHOTS: &str = "DELETE FROM snapshots WHERE job_id = $1";

/// After how many events of a job its fold is kept for questions about the past.
pub(crate) const SNAPSHOT_EVENTS: u64 = 50_000;
/// How many events are folded before readers get a turn.
const LOCKED_EVENTS_MAX: usize = 256;
/// How many changes a listener may be behind.
const CHANGES_BEHIND_MAX: usize = 1024;

/// Something that summaries are made of has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    pub what: Subject,
    /// The summary reflects everything up to here, or further.
    pub position: Position,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The job's own events.
    Job(JobId),
    /// The presence of the tenant's workers, on which blockers of all its jobs depend.
    Workers(Tenant),
}

/// What readers and projector share.
pub(crate) type View = Arc<RwLock<Hot>>;

fn read(view: &View) -> RwLockReadGuard<'_, Hot> {
    view.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(view: &View) -> RwLockWriteGuard<'_, Hot> {
    view.write().unwrap_or_else(PoisonError::into_inner)
}

/// Where listeners hear of changes, of whichever generation is live.
#[derive(Clone, Debug)]
pub(crate) struct Announcements(broadcast::Sender<Changed>);

impl Default for Announcements {
    fn default() -> Self {
        Self(broadcast::Sender::new(CHANGES_BEHIND_MAX))
    }
}

/// Asks the projector to fold a job anew and to put that in the place of what it holds, if they differ.
#[derive(Debug)]
pub(crate) struct Repair {
    job: JobId,
    /// Whether they did.
    differed: oneshot::Sender<bool>,
}

/// The projector's side of the folds.
#[derive(Debug)]
pub(crate) struct Summaries {
    view: View,
    announcements: Announcements,
    is_live: bool,
    changed: BTreeSet<JobId>,
    changed_tenants: BTreeSet<Tenant>,
    snapshots: Vec<(JobId, Position, CountedFold)>,
    /// Jobs whose snapshots cannot be trusted.
    repaired: Vec<JobId>,
}

row! {
    struct Stored {
        events: i64,
        position: i64,
        fold: String,
    }
}

row! {
    struct StoredPresence {
        tenant: String,
        fold: String,
    }
}

fn damaged(error: &impl std::fmt::Display) -> SqlError {
    SqlError::Damaged(error.to_string())
}

async fn stored(db: &Db, statement: Statement) -> Result<Option<Base>, SqlError> {
    let Some(row) = db.optional::<Stored>(statement).await? else { return Ok(None) };
    let position = Position::from_i64(row.position);
    let events = u64::try_from(row.events).unwrap_or(0);
    // A large fold takes milliseconds to read.
    let fold: JobFold = tokio::task::spawn_blocking(move || serde_json::from_str(&row.fold))
        .await
        .map_err(|error| damaged(&error))?
        .map_err(|error| damaged(&error))?;
    Ok(Some(Base { counted: CountedFold { fold: Arc::new(fold), events }, position }))
}

/// The job's fold as it was stored last.
async fn stored_fold(db: &Db, job: JobId) -> Result<Option<CountedFold>, SqlError> {
    Ok(stored(db, Statement::new(ONE).bind(job.0)).await?.map(|base| base.counted))
}

impl Projection for Summaries {
    const NAME: Name = Name::MatchingSummary;
    // Another form of the fold makes another revision by itself.
    const REVISION: u32 = 1000 * FORMAT + 1;
    const DDL: &'static str = include_str!("../../migrations/sqlite/matching_summary.sql");
    const CATEGORIES: &'static [Category] = &[Category::Job, Category::Matching, Category::Worker];
    const STORE: Store = Store::Behind { after: Duration::from_secs(1), events_max: 20_000 };

    type View = View;
    type Shared = Announcements;
    type Request = Repair;

    async fn open(db: &Db, shared: &Announcements, position: Position) -> Result<Self, SqlError> {
        let rows: Vec<StoredPresence> = db.all(Statement::new(PRESENCES)).await?;
        let mut presences = HashMap::new();
        for row in rows {
            let presence: Presence = serde_json::from_str(&row.fold).map_err(|error| damaged(&error))?;
            presences.insert(row.tenant.parse().map_err(|error| damaged(&error))?, Arc::new(presence));
        }
        Ok(Self {
            view: Arc::new(RwLock::new(Hot::new(position, presences))),
            announcements: shared.clone(),
            is_live: false,
            changed: BTreeSet::new(),
            changed_tenants: BTreeSet::new(),
            snapshots: Vec::new(),
            repaired: Vec::new(),
        })
    }

    fn view(&self) -> View {
        Arc::clone(&self.view)
    }

    async fn fold(&mut self, db: &Db, events: &[&Envelope], position: Position) -> Result<(), SqlError> {
        self.load(db, events).await?;
        let mut touched = BTreeMap::new();
        for chunk in events.chunks(LOCKED_EVENTS_MAX) {
            let view = Arc::clone(&self.view);
            let mut hot = write(&view);
            for envelope in chunk {
                let subject = self.fold_one(&mut hot, envelope);
                touched.extend(subject.map(|subject| (subject.key(), subject)));
                hot.position = envelope.position;
            }
        }
        write(&self.view).position = position;
        if self.is_live {
            for what in touched.into_values() {
                // Nobody listening is no error.
                let _ = self.announcements.0.send(Changed { what, position });
            }
        }
        Ok(())
    }

    fn passed(&mut self, position: Position) {
        write(&self.view).position = position;
    }

    async fn store(&mut self, tx: &mut Tx) -> Result<(), SqlError> {
        for job in &self.repaired {
            tx.execute(Statement::new(DROP_SNAPSHOTS).bind(job.0)).await?;
        }
        for row in self.rows().await? {
            tx.execute(row).await?;
        }
        Ok(())
    }

    fn stored(&mut self) {
        let mut hot = write(&self.view);
        hot.stored(&self.changed);
        hot.shrink();
        drop(hot);
        self.changed.clear();
        self.changed_tenants.clear();
        self.snapshots.clear();
        self.repaired.clear();
    }

    fn published(&mut self) {
        self.is_live = true;
    }

    async fn answer(
        &mut self,
        repair: Repair,
        log: &Log,
        db: &Db,
        position: Position,
    ) -> Result<(), SqlError> {
        match self.repair(repair.job, log, db, position).await? {
            Ok(differed) => {
                // Whoever asked may have gone.
                let _ = repair.differed.send(differed);
            }
            Err(error) => tracing::error!(job = %repair.job, %error, "a summary could not be folded anew"),
        }
        Ok(())
    }
}

impl Subject {
    /// The same for the same subject.
    fn key(&self) -> (Option<JobId>, Option<Tenant>) {
        match self {
            Self::Job(job) => (Some(*job), None),
            Self::Workers(tenant) => (None, Some(tenant.clone())),
        }
    }
}

impl Summaries {
    /// Brings the jobs of these events into memory.
    async fn load(&mut self, db: &Db, events: &[&Envelope]) -> Result<(), SqlError> {
        let mut seen = HashSet::new();
        for envelope in events {
            let Some(job) = envelope.stream.job_id() else { continue };
            if !seen.insert(job) || read(&self.view).has(job) {
                continue;
            }
            // A job that begins here has no row.
            let begins = envelope.revision == Revision(0) && matches!(envelope.event, Event::Job(_));
            if !begins && let Some(counted) = stored_fold(db, job).await? {
                write(&self.view).keep(job, counted);
            }
        }
        Ok(())
    }

    fn fold_one(&mut self, hot: &mut Hot, envelope: &Envelope) -> Option<Subject> {
        if matches!(envelope.event, Event::Worker(_)) {
            hot.fold_presence(envelope);
            let tenant = envelope.metadata.tenant.clone();
            self.changed_tenants.insert(tenant.clone());
            return Some(Subject::Workers(tenant));
        }
        let job = envelope.stream.job_id()?;
        let counted = hot.fold_job(job, envelope)?;
        if counted.events.is_multiple_of(SNAPSHOT_EVENTS) {
            self.snapshots.push((job, envelope.position, counted.clone()));
        }
        self.changed.insert(job);
        Some(Subject::Job(job))
    }

    /// What has changed, as statements. Large folds take milliseconds to write.
    async fn rows(&self) -> Result<Vec<Statement>, SqlError> {
        let (folds, presences) = {
            let hot = read(&self.view);
            let folds: Vec<(JobId, CountedFold)> =
                self.changed.iter().filter_map(|job| Some((*job, hot.get(*job)?.clone()))).collect();
            let presences: Vec<(Tenant, Arc<Presence>)> =
                self.changed_tenants.iter().map(|tenant| (tenant.clone(), hot.presence(tenant))).collect();
            (folds, presences)
        };
        let snapshots = self.snapshots.clone();
        tokio::task::spawn_blocking(move || {
            let folds = folds.iter().filter_map(|(job, counted)| upsert(*job, counted));
            let presences = presences.iter().map(|(tenant, presence)| {
                Statement::new(UPSERT_PRESENCE).bind(tenant.as_str()).bind(to_json(&**presence))
            });
            let snapshots = snapshots.iter().map(|(job, position, counted)| {
                Statement::new(SNAPSHOT)
                    .bind(job.0)
                    .bind(position.to_i64())
                    .bind(count(counted.events))
                    .bind(to_json(&*counted.fold))
            });
            folds.chain(presences).chain(snapshots).collect()
        })
        .await
        .map_err(|error| damaged(&error))
    }

    /// Folds the job anew up to where the projector is. Answers whether what it held was another fold.
    async fn repair(
        &mut self,
        job: JobId,
        log: &Log,
        db: &Db,
        position: Position,
    ) -> Result<Result<bool, RefoldError>, SqlError> {
        let refolded = async {
            let Some(tenant) = refold::tenant_of(log, job, position).await? else { return Ok(None) };
            let (counted, folded) = refold::fold_on(log, job, &tenant, Base::default(), position).await?;
            Ok(Some((tenant, counted, folded.presence)))
        };
        let (tenant, counted, presence) = match refolded.await {
            Ok(Some(refolded)) => refolded,
            Ok(None) => return Ok(Ok(false)),
            Err(error) => return Ok(Err(error)),
        };
        let hot = read(&self.view).get(job).cloned();
        let held = match hot {
            Some(held) => Some(held),
            None => stored_fold(db, job).await?,
        };
        let mut hot = write(&self.view);
        let same_presence = hot.presence(&tenant) == presence;
        if same_presence && held.is_some_and(|held| held.fold == counted.fold) {
            return Ok(Ok(false));
        }
        tracing::error!(%job, %position, "a summary was not what its events say, and was repaired");
        metrics::counter!(REPAIRS).increment(1);
        hot.replace(job, counted);
        hot.replace_presence(tenant.clone(), presence);
        self.changed.insert(job);
        self.changed_tenants.insert(tenant);
        self.repaired.push(job);
        Ok(Ok(true))
    }
}

fn upsert(job: JobId, counted: &CountedFold) -> Option<Statement> {
    let tenant = &counted.fold.history.as_ref()?.tenant;
    let statement = Statement::new(UPSERT)
        .bind(job.0)
        .bind(tenant.as_str())
        .bind(count(counted.events))
        .bind(counted.fold.latest.position.to_i64())
        .bind(to_json(&*counted.fold));
    Some(statement)
}

fn count(events: u64) -> i64 {
    i64::try_from(events).unwrap_or(i64::MAX)
}
