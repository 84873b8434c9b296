//! One reader of the log for all read models of the process, and a catch-up reader for those that are behind.
//!
//! The feed reads new events, unfiltered, decodes each event once, and publishes pages to all subscribers. It never
//! waits for a subscriber: one that falls behind loses pages and reads them from the log.

mod history;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use event_log::{EventLog, Filter, Log, ReadError};
use event_schemas::envelope::{Envelope, EventDecoder, EventType, Recorded, Unreadable};
use event_schemas::ids::Position;
use event_schemas::stream::Category;
use event_schemas::time::Timestamp;
use futures_util::FutureExt;
use history::History;
use tokio::sync::{broadcast, mpsc, watch};

use crate::live_thread::LiveThread;

/// The number of pages that a subscriber may be behind before it has to read the log.
const PAGES_BEHIND_MAX: usize = 16;
/// The number of pages whose recording times the feed remembers.
const RECENT_PAGES_MAX: usize = 1024;
/// The number of pages that a catch-up reader decodes ahead.
const PAGES_AHEAD: usize = 2;
/// The number of events in a batch during catch-up.
pub(crate) const BATCH_EVENTS_MAX: usize = 4096;
/// Larger pages are decoded on the blocking pool, so that they do not delay requests.
const DECODED_INLINE_MAX: usize = 128;
/// The time for which new events are gathered into a page, unless a reader waits for one of them. Each page costs every
/// read model a wakeup and a transaction.
const GATHERED_FOR: Duration = Duration::from_millis(5);
/// The same after a page of at least as many events: while they keep coming, each transaction covers more of them. The
/// indexes of a flood of image matches are written in random order, so that its rows cost a third less in large transactions.
const GATHERED_FOR_BUSY: [(usize, Duration); 2] =
    [(256, Duration::from_millis(50)), (8, Duration::from_millis(15))];
/// The delay before the log is read again after an error.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// An event of a category that this build knows.
#[derive(Debug)]
pub(crate) struct FeedItem {
    pub(crate) position: Position,
    pub(crate) recorded_at: Timestamp,
    pub(crate) category: Category,
    pub(crate) event_type: EventType,
    pub(crate) event: Result<Envelope, Unreadable>,
}

/// All events of the known categories between two positions.
#[derive(Debug)]
pub(crate) struct FeedPage {
    /// The page starts after this position.
    pub(crate) after: Position,
    /// The page ends at this position.
    pub(crate) next: Position,
    /// There were no further events when it was read.
    at_head: bool,
    pub(crate) items: Vec<FeedItem>,
    /// The times at which the first and the last event were recorded, whatever their categories.
    recorded: Option<(Timestamp, Timestamp)>,
}

impl FeedPage {
    fn decode(after: Position, page: &event_log::Page, categories: &[Category]) -> Self {
        let mut decoder = EventDecoder::default();
        // A large page would be moved several times while it grows.
        let mut items = Vec::with_capacity(page.events.len());
        items.extend(page.events.iter().filter_map(|event| decode(&mut decoder, event, categories)));
        Self {
            after,
            next: page.next,
            at_head: page.at_head,
            items,
            recorded: page
                .events
                .first()
                .zip(page.events.last())
                .map(|(first, last)| (first.recorded_at, last.recorded_at)),
        }
    }

    /// The time at which the last event was recorded; none for an empty page.
    pub(crate) fn recorded_at(&self) -> Option<Timestamp> {
        self.recorded.map(|(_, last)| last)
    }

    /// Decodes a page of the log, a large one on the blocking pool.
    async fn from_log(
        after: Position,
        page: event_log::Page,
        categories: &'static [Category],
    ) -> Result<Self, ReadError> {
        if page.events.len() <= DECODED_INLINE_MAX {
            return Ok(Self::decode(after, &page, categories));
        }
        tokio::task::spawn_blocking(move || Self::decode(after, &page, categories))
            .await
            .map_err(|error| ReadError::Unavailable(format!("a page could not be decoded: {error}")))
    }
}

fn decode(decoder: &mut EventDecoder, event: &Recorded, categories: &[Category]) -> Option<FeedItem> {
    let category = event.stream.category().filter(|category| categories.contains(category))?;
    Some(FeedItem {
        position: event.position,
        recorded_at: event.recorded_at,
        category,
        event_type: event.event_type.clone(),
        event: decoder.decode(event),
    })
}

/// Publishes the new events of the log.
#[derive(Clone, Debug)]
pub(crate) struct Feed {
    log: Log,
    pages: broadcast::WeakSender<Arc<FeedPage>>,
    recent: Arc<Mutex<RecentPages>>,
    /// The latest position for which a reader waits.
    wanted: watch::Sender<Position>,
    history: History,
}

/// The recording times of the recent pages.
#[derive(Debug)]
struct RecentPages {
    /// Pages up to this position have been forgotten.
    after: Position,
    /// The end of each page, and the time at which its first event was recorded.
    pages: VecDeque<(Position, Timestamp)>,
}

/// The lag of a reader at some position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lag {
    /// The reader has read everything.
    None,
    /// The time at which the first unread event was recorded.
    Since(Timestamp),
    /// The reader is further behind than the feed remembers.
    Unknown,
}

impl RecentPages {
    fn add(&mut self, page: &FeedPage) {
        if let Some((first, _)) = page.recorded {
            self.pages.push_back((page.next, first));
        }
        if self.pages.len() > RECENT_PAGES_MAX
            && let Some((next, _)) = self.pages.pop_front()
        {
            self.after = next;
        }
    }

    fn lag(&self, position: Position) -> Lag {
        if position < self.after {
            return Lag::Unknown;
        }
        let missing = self.pages.iter().find(|(next, _)| *next > position);
        missing.map_or(Lag::None, |(_, recorded_at)| Lag::Since(*recorded_at))
    }
}

impl Feed {
    /// Starts to read after the position `after`. The task ends with the log.
    pub(crate) fn start(
        log: Log,
        after: Position,
        thread: &LiveThread,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        let pages = broadcast::Sender::new(PAGES_BEHIND_MAX);
        let recent = Arc::new(Mutex::new(RecentPages { after, pages: VecDeque::new() }));
        let wanted = watch::Sender::new(after);
        let gathering = Gathering { head: log.head(), wanted: wanted.subscribe() };
        let feed = Self {
            log: log.clone(),
            pages: pages.downgrade(),
            recent: Arc::clone(&recent),
            wanted,
            history: History::default(),
        };
        (feed, thread.spawn(publish_pages(log, after, pages, recent, gathering).boxed()))
    }

    /// Publishes the events up to this position without a delay.
    pub(crate) fn want(&self, position: Position) {
        self.wanted.send_if_modified(|wanted| {
            let is_later = position > *wanted;
            *wanted = position.max(*wanted);
            is_later
        });
    }

    /// The lag of a reader that is at `position`.
    pub(crate) fn lag(&self, position: Position) -> Lag {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).lag(position)
    }

    /// A source of all events of the categories after the position `after`.
    pub(crate) fn follow(&self, after: Position, categories: &'static [Category]) -> PageSource {
        // The subscription starts before the log is read, so that no event is missed.
        let live = self.pages.upgrade().map(|pages| pages.subscribe());
        let mut source =
            PageSource { feed: self.clone(), categories, position: after, live, catching_up: None };
        if *self.log.head().borrow() > after {
            source.start_catch_up();
        }
        source
    }

    /// Reads the log from `after` to its head, including events that are appended meanwhile.
    pub(crate) fn read(
        &self,
        after: Position,
        categories: &'static [Category],
    ) -> mpsc::Receiver<Result<Arc<FeedPage>, ReadError>> {
        history::start(&self.history, &self.log, after, categories)
    }
}

/// Decides when the next page is read.
struct Gathering {
    head: watch::Receiver<Position>,
    wanted: watch::Receiver<Position>,
}

impl Gathering {
    /// Waits until there are events after the position, and others may have joined them. The page before had this number of
    /// events.
    async fn wait(&mut self, after: Position, events_before: usize) {
        let busy = GATHERED_FOR_BUSY.into_iter().find(|(events, _)| events_before >= *events);
        let gathered_for = busy.map_or(GATHERED_FOR, |(_, gathered_for)| gathered_for);
        // An error means that the log has stopped, which the subscription reports.
        if self.head.wait_for(|head| *head > after).await.is_ok() {
            let wanted = self.wanted.wait_for(|wanted| *wanted > after);
            let _ = tokio::time::timeout(gathered_for, wanted).await;
        }
    }
}

async fn publish_pages(
    log: Log,
    after: Position,
    pages: broadcast::Sender<Arc<FeedPage>>,
    recent: Arc<Mutex<RecentPages>>,
    mut gathering: Gathering,
) {
    let mut subscription = log.subscribe(after, Filter::All);
    let head = log.head();
    let mut events_before = 0;
    loop {
        let after = subscription.position();
        gathering.wait(after, events_before).await;
        let page = match subscription.next().await {
            Ok(page) => FeedPage::from_log(after, page, &Category::ALL).await,
            Err(error) => Err(error),
        };
        match page {
            Ok(page) => {
                events_before = page.items.len();
                recent.lock().unwrap_or_else(PoisonError::into_inner).add(&page);
                // A send without subscribers is not an error: a new subscriber reads the log first.
                let _ = pages.send(Arc::new(page));
            }
            Err(error) => {
                if head.has_changed().is_err() {
                    tracing::info!("the log has stopped; the read models stay at their positions");
                    return;
                }
                tracing::error!(position = %after, %error, "the log could not be read; retrying");
                tokio::time::sleep(RETRY_AFTER).await;
                subscription = log.subscribe(after, Filter::All);
            }
        }
    }
}

/// A source has no more pages.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the log has stopped")]
    Stopped,
}

/// All events after a position, without a gap: from the log during catch-up, then from the feed.
#[derive(Debug)]
pub(crate) struct PageSource {
    feed: Feed,
    categories: &'static [Category],
    position: Position,
    live: Option<broadcast::Receiver<Arc<FeedPage>>>,
    catching_up: Option<mpsc::Receiver<Result<Arc<FeedPage>, ReadError>>>,
}

impl PageSource {
    /// Reports whether the whole log has been read, so that the source only waits for new events.
    pub(crate) fn has_caught_up(&self) -> bool {
        self.catching_up.is_none()
    }

    fn start_catch_up(&mut self) {
        self.catching_up = Some(self.feed.read(self.position, self.categories));
    }

    /// The next pages, in order; empty when the source has just caught up. Waits for new events. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Vec<Arc<FeedPage>>, SourceError> {
        loop {
            if let Some(pages) = &mut self.catching_up {
                match pages.recv().await {
                    Some(Ok(page)) => {
                        self.position = page.next;
                        return Ok(vec![page]);
                    }
                    Some(Err(error)) => {
                        self.catching_up = None;
                        return Err(error.into());
                    }
                    None => {
                        self.catching_up = None;
                        return Ok(Vec::new());
                    }
                }
            }
            let live = self.live.as_mut().ok_or(SourceError::Stopped)?;
            match live.recv().await {
                Ok(page) if page.next <= self.position => {}
                Ok(page) if page.after <= self.position => return Ok(self.gather(page)),
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => self.start_catch_up(),
                Err(broadcast::error::RecvError::Closed) => return Err(SourceError::Stopped),
            }
        }
    }

    /// The page, and further pages that have already arrived, up to a batch.
    fn gather(&mut self, first: Arc<FeedPage>) -> Vec<Arc<FeedPage>> {
        let mut events = first.items.len();
        self.position = first.next;
        let mut pages = vec![first];
        while events < BATCH_EVENTS_MAX
            && let Some(Ok(page)) = self.live.as_mut().map(broadcast::Receiver::try_recv)
        {
            events += page.items.len();
            self.position = page.next;
            pages.push(page);
        }
        pages
    }
}
