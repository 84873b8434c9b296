//! Readers of history. Those that start together share the decoded pages, so that each event is decoded once, although
//! every read model is being built.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use event_log::{EventLog, Filter, Log, ReadError};
use event_schemas::ids::Position;
use event_schemas::stream::Category;
use tokio::sync::{OnceCell, mpsc, watch};

use super::{BATCH_EVENTS_MAX, FeedPage, PAGES_AHEAD};

/// A reader that is this far behind the head waits for others.
const FAR_BEHIND: u64 = 100_000;
/// How long it waits.
const JOINED_WITHIN: Duration = Duration::from_millis(50);
/// The number of pages that a reader may be ahead of the slowest of its group.
const PAGES_APART_MAX: u64 = 4;
/// A reader that is ahead waits no longer than this for each page: the slowest may have stopped.
const WAITED_FOR_SLOWEST_MAX: Duration = Duration::from_millis(200);

/// The readers of history, in groups.
#[derive(Clone, Debug, Default)]
pub(super) struct History(Arc<Mutex<BTreeMap<u64, Group>>>);

/// Readers that have started together at the same position.
#[derive(Debug, Default)]
struct Group {
    start: Position,
    /// The number of pages that each reader has taken.
    readers: BTreeMap<u64, u64>,
    next_reader: u64,
    /// The pages by the positions after which they start, with their numbers.
    pages: BTreeMap<Position, (u64, Page)>,
    /// The number of pages that the slowest reader has taken.
    slowest: watch::Sender<u64>,
}

type Page = Arc<OnceCell<Arc<FeedPage>>>;

impl Group {
    fn update(&self) -> u64 {
        let slowest = self.readers.values().copied().min().unwrap_or(u64::MAX);
        self.slowest.send_replace(slowest);
        slowest
    }

    fn can_be_joined(&self, start: Position) -> bool {
        self.start == start && self.readers.values().all(|taken| *taken == 0)
    }
}

/// A reader's place in its group.
struct Member {
    history: History,
    group: u64,
    id: u64,
    /// The number of pages that it has taken.
    taken: u64,
}

impl History {
    fn groups(&self) -> MutexGuard<'_, BTreeMap<u64, Group>> {
        // Every change is complete before something can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(&self, start: Position) -> Member {
        let mut groups = self.groups();
        let waiting = groups.iter().find(|(_, group)| group.can_be_joined(start)).map(|(id, _)| *id);
        let new = groups.last_key_value().map_or(0, |(id, _)| id + 1);
        let number = waiting.unwrap_or(new);
        let group = groups.entry(number).or_insert_with(|| Group { start, ..Group::default() });
        let id = group.next_reader;
        group.next_reader += 1;
        group.readers.insert(id, 0);
        Member { history: self.clone(), group: number, id, taken: 0 }
    }

    /// Reads the log from `after` to its head, and sends the pages.
    pub(super) async fn read(
        self,
        log: Log,
        after: Position,
        categories: &'static [Category],
        sender: mpsc::Sender<Result<Arc<FeedPage>, ReadError>>,
    ) {
        let head = *log.head().borrow();
        if head.0.saturating_sub(after.0) < FAR_BEHIND {
            return read_alone(&log, after, categories, &sender).await;
        }
        let mut member = self.join(after);
        tokio::time::sleep(JOINED_WITHIN).await;
        if member.is_alone() {
            drop(member);
            return read_alone(&log, after, categories, &sender).await;
        }
        let mut next = Some(after);
        while let Some(after) = next {
            next = send(&sender, member.page(&log, after).await).await;
        }
    }
}

impl Member {
    fn is_alone(&self) -> bool {
        self.history.groups().get(&self.group).is_none_or(|group| group.readers.len() < 2)
    }

    /// The page after the position, read by the first member that needs it.
    async fn page(&mut self, log: &Log, after: Position) -> Result<Arc<FeedPage>, ReadError> {
        self.wait_for_slowest().await;
        let cell = {
            let mut groups = self.history.groups();
            let group = groups.entry(self.group).or_default();
            Arc::clone(&group.pages.entry(after).or_insert_with(|| (self.taken, Page::default())).1)
        };
        let page = cell.get_or_try_init(|| async {
            let page = log.read_all(after, &Filter::All, BATCH_EVENTS_MAX).await?;
            FeedPage::from_log(after, page, &Category::ALL).await.map(Arc::new)
        });
        let page = Arc::clone(page.await?);
        self.taken += 1;
        let mut groups = self.history.groups();
        let group = groups.entry(self.group).or_default();
        group.readers.insert(self.id, self.taken);
        // A reader that is too slow reads the page again.
        let oldest = group.update().max(self.taken.saturating_sub(2 * PAGES_APART_MAX));
        group.pages.retain(|_, (number, _)| *number >= oldest);
        Ok(page)
    }

    async fn wait_for_slowest(&self) {
        let slowest = self.history.groups().get(&self.group).map(|group| group.slowest.subscribe());
        let Some(mut slowest) = slowest else { return };
        let is_near = slowest.wait_for(|slowest| self.taken < slowest.saturating_add(PAGES_APART_MAX));
        let _ = tokio::time::timeout(WAITED_FOR_SLOWEST_MAX, is_near).await;
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut groups = self.history.groups();
        if let Some(group) = groups.get_mut(&self.group) {
            group.readers.remove(&self.id);
            group.update();
            if group.readers.is_empty() {
                groups.remove(&self.group);
            }
        }
    }
}

/// Reads only the events of the categories.
async fn read_alone(
    log: &Log,
    after: Position,
    categories: &'static [Category],
    sender: &mpsc::Sender<Result<Arc<FeedPage>, ReadError>>,
) {
    let prefixes = categories.iter().map(|category| category.stream_prefix().to_owned()).collect();
    let filter = if categories == Category::ALL { Filter::All } else { Filter::StreamPrefixes(prefixes) };
    let mut next = Some(after);
    while let Some(after) = next {
        let page = match log.read_all(after, &filter, BATCH_EVENTS_MAX).await {
            Ok(page) => FeedPage::from_log(after, page, categories).await.map(Arc::new),
            Err(error) => Err(error),
        };
        next = send(sender, page).await;
    }
}

/// Sends a page, and returns the position of the next one: none at the head, after an error, and without a receiver.
async fn send(
    sender: &mpsc::Sender<Result<Arc<FeedPage>, ReadError>>,
    page: Result<Arc<FeedPage>, ReadError>,
) -> Option<Position> {
    let next = page.as_ref().ok().filter(|page| !page.at_head).map(|page| page.next);
    sender.send(page).await.ok().and(next)
}

/// The pages of the log after the position, up to its head.
pub(super) fn start(
    history: &History,
    log: &Log,
    after: Position,
    categories: &'static [Category],
) -> mpsc::Receiver<Result<Arc<FeedPage>, ReadError>> {
    let (sender, receiver) = mpsc::channel(PAGES_AHEAD);
    tokio::spawn(history.clone().read(log.clone(), after, categories, sender));
    receiver
}
