//! `matching_summary`: the fold of each job's events, cached in memory.
//!
//! Readers are served from memory, at the position that the projector has reached; the rows follow about a second
//! later, together with their checkpoint, so that a crash only replays that second. Historical summaries and forced
//! refreshes are replayed from the log by the same function.

mod fold_cache;
mod queries;
mod replay;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use domain::image_matching::summary::{FORMAT, JobFold};
use domain::worker::presence::Presence;
use event_log::Log;
use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{JobId, Position, Tenant};
use event_schemas::stream::Category;
use tokio::sync::broadcast;

pub use fold_cache::FoldedJob;
pub use queries::{MatchingSummary, Replayed, ScoresFrom, Snapshots, SummaryError};
pub(crate) use replay::for_each_event;
pub use replay::{ReplayError, UpTo};

use crate::job::existing_jobs;
use crate::projection::{Name, Projection, StorePolicy};
use crate::row::to_json;
use crate::sql::{Batch, Db, Ddl, SqlError, Statement, ddl, row};
use fold_cache::{CountedFold, FoldCache};
use replay::ReplayBase;

/// Counter of summaries that differed from a replay of their events. It exists from the start, so that zero is visible.
pub(crate) const REPAIRS: &str = "matchbook_matching_summary_repairs_total";

pub(crate) const UPSERT: &str = "INSERT INTO summaries (job_id, tenant, events, position, fold) \
     VALUES ($1, $2, $3, $4, $5) ON CONFLICT (job_id) DO UPDATE SET events = excluded.events, \
     position = excluded.position, fold = excluded.fold";
pub(crate) const ONE: &str = "SELECT events, position, fold FROM summaries WHERE job_id = $1";
/// The number of folded events, a space, and the fold.
pub(crate) const COUNTED: &str =
    "SELECT CAST(events AS TEXT) || ' ' || fold FROM summaries WHERE job_id = $1";
pub(crate) const UPSERT_PRESENCE: &str = "INSERT INTO presences (tenant, fold) VALUES ($1, $2) \
     ON CONFLICT (tenant) DO UPDATE SET fold = excluded.fold";
pub(crate) const PRESENCES: &str = "SELECT tenant, fold FROM presences";
pub(crate) const SNAPSHOT: &str = "INSERT INTO snapshots (job_id, position, events, fold) \
     VALUES ($1, $2, $3, $4) ON CONFLICT (job_id, position) DO UPDATE SET events = excluded.events, \
     fold = excluded.fold";
pub(crate) const SNAPSHOT_BEFORE: &str = "SELECT events, position, fold FROM snapshots \
     WHERE job_id = $1 AND position <= $2 ORDER BY position DESC LIMIT 1";
pub(crate) const DROP_SNAPSHOTS: &str = "DELETE FROM snapshots WHERE job_id = $1";

#[cfg(test)]
pub(crate) fn sql_texts() -> Vec<String> {
    [UPSERT, ONE, COUNTED, UPSERT_PRESENCE, PRESENCES, SNAPSHOT, SNAPSHOT_BEFORE, DROP_SNAPSHOTS]
        .map(str::to_owned)
        .into()
}

/// The number of events of a job after which a snapshot of its fold is stored, for historical queries.
pub(crate) const SNAPSHOT_EVENTS: u64 = 50_000;
/// The number of events that are folded before the lock is released for readers.
const LOCKED_EVENTS_MAX: usize = 256;
/// The number of changes that a subscriber may be behind.
const CHANGES_BEHIND_MAX: usize = 1024;

/// A change that affects summaries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SummaryChange {
    pub scope: ChangeScope,
    /// The summary reflects at least everything up to this position.
    pub position: Position,
}

/// The summaries that a change affects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeScope {
    /// The job's own events changed.
    Job(JobId),
    /// The presence of the tenant's workers changed, on which the blockers of all its jobs depend.
    Workers(Tenant),
}

/// The folds that readers and projector share.
pub(crate) type View = Arc<RwLock<FoldCache>>;

fn read(view: &View) -> RwLockReadGuard<'_, FoldCache> {
    view.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(view: &View) -> RwLockWriteGuard<'_, FoldCache> {
    view.write().unwrap_or_else(PoisonError::into_inner)
}

/// Notifies subscribers of changes of the live generation.
#[derive(Clone, Debug)]
pub(crate) struct SummaryChanges(broadcast::Sender<SummaryChange>);

impl Default for SummaryChanges {
    fn default() -> Self {
        Self(broadcast::Sender::new(CHANGES_BEHIND_MAX))
    }
}

/// The projector's side of the folds.
#[derive(Debug)]
pub(crate) struct SummaryRows {
    view: View,
    changes: SummaryChanges,
    is_live: bool,
    dirty_jobs: BTreeSet<JobId>,
    /// The tenants whose workers' presence changed.
    dirty_tenants: BTreeSet<Tenant>,
    snapshots: Vec<(JobId, Position, CountedFold)>,
    /// The repaired jobs, whose snapshots cannot be trusted.
    repaired: Vec<JobId>,
}

row! {
    struct StoredFold {
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

/// Reads a fold and its position.
async fn read_fold(db: &Db, statement: Statement) -> Result<Option<ReplayBase>, SqlError> {
    let Some(row) = db.optional::<StoredFold>(statement).await? else { return Ok(None) };
    let position = Position::from_i64(row.position);
    let events = u64::try_from(row.events).unwrap_or(0);
    // A large fold takes milliseconds to parse.
    let fold: JobFold = tokio::task::spawn_blocking(move || serde_json::from_str(&row.fold))
        .await
        .map_err(|error| damaged(&error))?
        .map_err(|error| damaged(&error))?;
    Ok(Some(ReplayBase { counted: CountedFold { fold: Arc::new(fold), events }, position }))
}

/// The job's stored fold.
async fn stored_fold(db: &Db, job: JobId) -> Result<Option<CountedFold>, SqlError> {
    Ok(read_fold(db, Statement::new(ONE).bind(job.0)).await?.map(|base| base.counted))
}

impl Projection for SummaryRows {
    const NAME: Name = Name::MatchingSummary;
    // A new format of the fold changes the revision automatically.
    const REVISION: u32 = 1000 * FORMAT + 2;
    const DDL: Ddl = ddl!("matching_summary");
    const CATEGORIES: &'static [Category] = &[Category::Job, Category::ImageMatch, Category::Worker];
    const STORE: StorePolicy = StorePolicy::WriteBehind { after: Duration::from_secs(1), events_max: 20_000 };

    type View = View;
    type Shared = SummaryChanges;

    async fn open(db: &Db, shared: &SummaryChanges, position: Position) -> Result<Self, SqlError> {
        let rows: Vec<StoredPresence> = db.all(Statement::new(PRESENCES)).await?;
        let mut presences = HashMap::new();
        for row in rows {
            let presence: Presence = serde_json::from_str(&row.fold).map_err(|error| damaged(&error))?;
            presences.insert(row.tenant.parse().map_err(|error| damaged(&error))?, Arc::new(presence));
        }
        Ok(Self {
            view: Arc::new(RwLock::new(FoldCache::new(position, presences))),
            changes: shared.clone(),
            is_live: false,
            dirty_jobs: BTreeSet::new(),
            dirty_tenants: BTreeSet::new(),
            snapshots: Vec::new(),
            repaired: Vec::new(),
        })
    }

    fn view(&self) -> View {
        Arc::clone(&self.view)
    }

    async fn fold(&mut self, db: &Db, events: &[&Envelope], position: Position) -> Result<(), SqlError> {
        self.load(db, events).await?;
        let mut changed = BTreeMap::new();
        for chunk in events.chunks(LOCKED_EVENTS_MAX) {
            let view = Arc::clone(&self.view);
            let mut cache = write(&view);
            for envelope in chunk {
                let scope = self.fold_one(&mut cache, envelope);
                changed.extend(scope.map(|scope| (scope.key(), scope)));
                cache.position = envelope.position;
            }
        }
        write(&self.view).position = position;
        if self.is_live {
            for scope in changed.into_values() {
                // A send without subscribers is not an error.
                let _ = self.changes.0.send(SummaryChange { scope, position });
            }
        }
        Ok(())
    }

    fn skip_to(&mut self, position: Position) {
        write(&self.view).position = position;
    }

    async fn store(&mut self, batch: &mut Batch) -> Result<(), SqlError> {
        for job in &self.repaired {
            batch.add(Statement::new(DROP_SNAPSHOTS).bind(job.0));
        }
        for row in self.rows().await? {
            batch.add(row);
        }
        Ok(())
    }

    fn has_changes(&self) -> bool {
        !(self.dirty_jobs.is_empty() && self.dirty_tenants.is_empty() && self.repaired.is_empty())
    }

    fn on_stored(&mut self) {
        let mut cache = write(&self.view);
        cache.mark_stored(&self.dirty_jobs);
        cache.evict();
        drop(cache);
        self.dirty_jobs.clear();
        self.dirty_tenants.clear();
        self.snapshots.clear();
        self.repaired.clear();
    }

    fn on_published(&mut self) {
        self.is_live = true;
    }

    async fn recheck(
        &mut self,
        job: JobId,
        log: &Log,
        db: &Db,
        position: Position,
    ) -> Result<Option<bool>, SqlError> {
        match self.repair(job, log, db, position).await? {
            Ok(differed) => Ok(Some(differed)),
            Err(error) => {
                tracing::error!(%job, %error, "a summary could not be replayed");
                Ok(None)
            }
        }
    }
}

impl ChangeScope {
    /// A sortable key, to send one change per scope.
    fn key(&self) -> (Option<JobId>, Option<Tenant>) {
        match self {
            Self::Job(job) => (Some(*job), None),
            Self::Workers(tenant) => (None, Some(tenant.clone())),
        }
    }
}

impl SummaryRows {
    /// Loads the jobs of these events into the cache.
    async fn load(&mut self, db: &Db, events: &[&Envelope]) -> Result<(), SqlError> {
        let missing: BTreeSet<JobId> = {
            let cache = read(&self.view);
            existing_jobs(events).into_iter().filter(|job| !cache.contains(*job)).collect()
        };
        if missing.is_empty() {
            return Ok(());
        }
        let rows = db.lookup(COUNTED, missing.iter().map(|job| vec![job.0.into()]).collect()).await?;
        // Large folds take milliseconds to parse.
        let folds = tokio::task::spawn_blocking(move || {
            let folds = missing.into_iter().zip(rows).filter_map(|(job, row)| Some((job, row?)));
            folds.map(|(job, row)| Ok((job, CountedFold::parse(&row)?))).collect::<Result<Vec<_>, SqlError>>()
        });
        let folds = folds.await.map_err(|error| damaged(&error))??;
        let mut cache = write(&self.view);
        for (job, counted) in folds {
            cache.insert(job, counted);
        }
        Ok(())
    }

    fn fold_one(&mut self, cache: &mut FoldCache, envelope: &Envelope) -> Option<ChangeScope> {
        if matches!(envelope.event, Event::Worker(_)) {
            cache.fold_presence(envelope);
            let tenant = envelope.metadata.tenant.clone();
            self.dirty_tenants.insert(tenant.clone());
            return Some(ChangeScope::Workers(tenant));
        }
        let job = envelope.stream.job_id()?;
        let counted = cache.fold_job(job, envelope)?;
        if counted.events.is_multiple_of(SNAPSHOT_EVENTS) {
            self.snapshots.push((job, envelope.position, counted.clone()));
        }
        self.dirty_jobs.insert(job);
        Some(ChangeScope::Job(job))
    }

    /// The statements that write the changes. Large folds take milliseconds to serialise.
    async fn rows(&self) -> Result<Vec<Statement>, SqlError> {
        let (folds, presences) = {
            let cache = read(&self.view);
            let folds: Vec<(JobId, CountedFold)> =
                self.dirty_jobs.iter().filter_map(|job| Some((*job, cache.get(*job)?.clone()))).collect();
            let presences: Vec<(Tenant, Arc<Presence>)> =
                self.dirty_tenants.iter().map(|tenant| (tenant.clone(), cache.presence(tenant))).collect();
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

    /// Replays the job up to the projector's position. If the projector's fold differs, replaces it and returns true.
    async fn repair(
        &mut self,
        job: JobId,
        log: &Log,
        db: &Db,
        position: Position,
    ) -> Result<Result<bool, ReplayError>, SqlError> {
        let replayed = async {
            let Some(tenant) = replay::tenant_of(log, job, position).await? else { return Ok(None) };
            let (counted, folded) =
                replay::replay_from(log, job, &tenant, ReplayBase::default(), position).await?;
            Ok(Some((tenant, counted, folded.presence)))
        };
        let (tenant, counted, presence) = match replayed.await {
            Ok(Some(replayed)) => replayed,
            Ok(None) => return Ok(Ok(false)),
            Err(error) => return Ok(Err(error)),
        };
        let cached = read(&self.view).get(job).cloned();
        let current = match cached {
            Some(cached) => Some(cached),
            None => stored_fold(db, job).await?,
        };
        let mut cache = write(&self.view);
        let same_presence = cache.presence(&tenant) == presence;
        if same_presence && current.is_some_and(|current| current.fold == counted.fold) {
            return Ok(Ok(false));
        }
        tracing::error!(%job, %position, "a summary differed from its events, and was repaired");
        metrics::counter!(REPAIRS).increment(1);
        cache.replace(job, counted);
        cache.replace_presence(tenant.clone(), presence);
        self.dirty_jobs.insert(job);
        self.dirty_tenants.insert(tenant);
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
