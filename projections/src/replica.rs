//! A read model that another server maintains, on a server that only reads: it follows the live generation and its
//! checkpoint in the database.
//!
//! Rows are read as the other server commits them. The fold in memory applies the same events from the log, never beyond
//! the checkpoint: so what it reads again from rows is at least as new as itself.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use event_log::clock::Clock;
use event_log::{EventLog, Log};
use event_schemas::envelope::Envelope;
use event_schemas::ids::Position;
use event_schemas::time::Timestamp;
use tokio::sync::mpsc;

use crate::checkpoint::Checkpoint;
use crate::feed::{Feed, FeedPage, PageSource, SourceError};
use crate::follower::{Control, RETRY_AFTER, StorePolicy};
use crate::generation::{Generation, Slot};
use crate::projection::Projection;
use crate::sql::SqlError;
use crate::status::{Failure, ProjectionState, StatusTracker};
use crate::store::{Generations, OpenGeneration, Tables};

/// The delays between two reads of the checkpoint while it is behind the log: short after a change, then longer.
const POLL_MIN: Duration = Duration::from_millis(5);
const POLL_MAX: Duration = Duration::from_millis(100);
/// The delay between two looks for a newer generation.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// The environment of a replica.
#[derive(Debug)]
pub(crate) struct ReplicaContext<P: Projection> {
    pub(crate) generations: Generations,
    pub(crate) shared: P::Shared,
    pub(crate) tables: Tables,
    pub(crate) slot: Arc<Slot<P::View>>,
    pub(crate) log: Log,
    pub(crate) feed: Feed,
    pub(crate) clock: Clock,
    pub(crate) tracker: Arc<StatusTracker>,
}

#[derive(Debug)]
pub(crate) struct Replica<P: Projection> {
    context: ReplicaContext<P>,
    followed: Option<Followed<P>>,
    look_at: Timestamp,
}

/// The generation that is followed.
#[derive(Debug)]
struct Followed<P: Projection> {
    generation: Arc<Generation<P::View>>,
    /// The fold and its events; none if readers see only rows.
    fold: Option<Fold<P>>,
}

#[derive(Debug)]
struct Fold<P> {
    projection: P,
    position: Position,
    source: PageSource,
    /// The pages that end beyond the position.
    pages: VecDeque<Arc<FeedPage>>,
}

/// Why a read model cannot be followed at present.
#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    #[error(transparent)]
    Sql(#[from] SqlError),
    #[error(transparent)]
    Log(#[from] SourceError),
    #[error("an event cannot be applied: {}", .0.error)]
    Unreadable(Failure),
    #[error("no other server has built this read model yet; start one without --read-only")]
    Nothing,
}

impl<P: Projection> Replica<P> {
    pub(crate) fn new(context: ReplicaContext<P>) -> Self {
        let look_at = context.clock.now();
        Self { context, followed: None, look_at }
    }

    pub(crate) async fn run(mut self, mut controls: mpsc::Receiver<Control>) {
        let mut delay = POLL_MIN;
        loop {
            let before = self.position();
            let wait = match self.step().await {
                Ok(()) if self.position() != before => POLL_MIN,
                Ok(()) => (delay * 2).min(POLL_MAX),
                Err(error) => {
                    self.report(&error);
                    RETRY_AFTER
                }
            };
            delay = wait.min(POLL_MAX);
            let (clock, head) = (self.context.clock.clone(), self.context.log.head());
            let is_behind = self.position().is_none_or(|position| position < *head.borrow());
            let until = if is_behind { clock.now().after(wait) } else { self.look_at };
            tokio::select! {
                biased;
                control = controls.recv() => match control {
                    Some(Control::Shutdown(done)) => {
                        if let Some(followed) = self.followed {
                            followed.generation.db.close().await;
                        }
                        // The caller may have stopped waiting.
                        let _ = done.send(());
                        return;
                    }
                    None => return,
                    // A server that only reads refuses them before.
                    Some(control) => drop(control),
                },
                () = clock.sleep_until(until) => {}
                () = beyond(head, self.position()), if !is_behind => delay = POLL_MIN,
            }
        }
    }

    fn position(&self) -> Option<Position> {
        self.followed.as_ref().map(|followed| followed.generation.position())
    }

    fn report(&mut self, error: &FollowError) {
        let position = self.context.tracker.position();
        tracing::error!(projection = %P::NAME, %error, "a read model cannot be followed; retrying");
        let failure = match error {
            FollowError::Unreadable(failure) => failure.clone(),
            error => Failure::storage(position, error.to_string()),
        };
        self.context.tracker.set_state(ProjectionState::Retrying(failure));
        self.look_at = self.context.clock.now();
    }

    /// Follows the newest generation to its checkpoint.
    async fn step(&mut self) -> Result<(), FollowError> {
        if self.context.clock.now() >= self.look_at {
            self.look().await?;
        }
        let Some(followed) = &mut self.followed else { return Err(FollowError::Nothing) };
        let checkpoint = match Checkpoint::read(&followed.generation.db).await {
            // A checkpoint that went back is of other tables with the same name.
            Ok(Some(checkpoint)) if checkpoint.position >= followed.generation.position() => checkpoint,
            Ok(_) | Err(SqlError::Damaged(_)) => {
                self.followed = None;
                return self.look().await;
            }
            Err(error) => return Err(error.into()),
        };
        let position = match &mut followed.fold {
            Some(fold) => fold.advance(&followed.generation, checkpoint.position).await?,
            None => checkpoint.position,
        };
        self.context.slot.advance(&followed.generation, position);
        let now = self.context.clock.now();
        self.context.tracker.advance(position, Timestamp::EPOCH, now);
        self.context.tracker.set_state(ProjectionState::Live);
        Ok(())
    }

    /// Switches to the newest complete generation.
    async fn look(&mut self) -> Result<(), FollowError> {
        let current = self.followed.as_ref().map(|followed| followed.generation.number);
        let (number, followed) = loop {
            let newest = self
                .context
                .generations
                .newest_complete(self.context.tables, &self.context.log, current)
                .await?;
            let Some(opened) = newest else {
                self.look_at = self.context.clock.now().after(LOOK_AFTER);
                return Ok(());
            };
            let number = opened.number;
            if let Some(followed) = Followed::open(&self.context, opened).await? {
                break (number, followed);
            }
        };
        self.context.slot.publish(&followed.generation);
        self.context.tracker.published(number);
        let (position, now) = (followed.generation.position(), self.context.clock.now());
        self.context.tracker.started(position, Timestamp::EPOCH, now);
        tracing::info!(projection = %P::NAME, generation = number, %position, "following a read model");
        self.followed = Some(followed);
        self.look_at = now.after(LOOK_AFTER);
        Ok(())
    }
}

impl<P: Projection> Followed<P> {
    /// Opens the generation; none if it changed while its rows were read, which are then of no single position.
    async fn open(context: &ReplicaContext<P>, opened: OpenGeneration) -> Result<Option<Self>, FollowError> {
        let OpenGeneration { number, db, checkpoint } = opened;
        let position = checkpoint.position;
        let mut projection = P::open(&db, &context.shared, position).await?;
        let has_fold = matches!(P::STORE, StorePolicy::WriteBehind { .. });
        if has_fold && Checkpoint::read(&db).await? != Some(checkpoint) {
            return Ok(None);
        }
        projection.on_published();
        let generation = Arc::new(Generation::new(number, db, projection.view(), position));
        let fold = has_fold.then(|| Fold {
            projection,
            position,
            source: context.feed.follow(position, P::CATEGORIES),
            pages: VecDeque::new(),
        });
        Ok(Some(Self { generation, fold }))
    }
}

impl<P: Projection> Fold<P> {
    /// Applies the events up to the checkpoint that this server's log already has, and returns their position.
    async fn advance(
        &mut self,
        generation: &Generation<P::View>,
        checkpoint: Position,
    ) -> Result<Position, FollowError> {
        while self.pages.back().map_or(self.position, |page| page.next) < checkpoint {
            let next = self.source.next();
            match tokio::time::timeout(POLL_MAX, next).await {
                Ok(pages) => self.pages.extend(pages?),
                // They arrive later.
                Err(_) => break,
            }
        }
        let known = self.pages.back().map_or(self.position, |page| page.next);
        let target = known.min(checkpoint);
        if target <= self.position {
            return Ok(self.position);
        }
        let mut events: Vec<&Envelope> = Vec::new();
        let items = self.pages.iter().flat_map(|page| &page.items);
        for item in items.filter(|item| item.position > self.position && item.position <= target) {
            if P::CATEGORIES.contains(&item.category) {
                let event = item.event.as_ref();
                events
                    .push(event.map_err(|error| FollowError::Unreadable(Failure::undecodable(item, error)))?);
            }
        }
        if events.is_empty() {
            self.projection.skip_to(target);
        } else {
            self.projection.fold(&generation.db, &events, target).await?;
        }
        // The rows are there: the checkpoint has them.
        self.projection.on_stored();
        self.position = target;
        self.pages.retain(|page| page.next > target);
        Ok(target)
    }
}

/// Waits until the log's head is beyond the position, or the log has stopped.
async fn beyond(mut head: tokio::sync::watch::Receiver<Position>, position: Option<Position>) {
    let is_beyond = head.wait_for(|head| Some(*head) > position).await.is_ok();
    if !is_beyond {
        std::future::pending::<()>().await;
    }
}
