//! One reader of the log for all read models of the process, and a way to catch up without it.
//!
//! The feed reads what is new, unfiltered, decodes each event once, and hands pages to whoever listens. It waits for
//! nobody: a listener that falls behind loses pages and reads them from the log itself.

use futures_util::FutureExt;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use event_log::{EventLog, Filter, Log, ReadError};
use event_schemas::envelope::{Envelope, EventType, Recorded, Unreadable};
use event_schemas::ids::Position;
use event_schemas::stream::Category;
use event_schemas::time::Timestamp;
use tokio::sync::{broadcast, mpsc};

/// How many pages of new events a listener may be behind before it has to read the log itself.
const PAGES_BEHIND_MAX: usize = 16;
/// Of how many pages the feed remembers when they were recorded.
const RECENT_PAGES_MAX: usize = 1024;
/// How many pages a reader that catches up decodes ahead.
const PAGES_AHEAD: usize = 2;
/// How many events make a batch while catching up.
pub(crate) const BATCH_EVENTS_MAX: usize = 4096;
/// Pages with more events are decoded beside the threads that serve requests.
const DECODED_INLINE_MAX: usize = 128;
/// How long to wait before the log is asked again after an error.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// An event of a category that this build knows.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) position: Position,
    pub(crate) recorded_at: Timestamp,
    pub(crate) category: Category,
    pub(crate) event_type: EventType,
    pub(crate) event: Result<Envelope, Unreadable>,
}

/// All events of the known categories between two positions.
#[derive(Debug)]
pub(crate) struct Page {
    /// The first event is behind this position.
    pub(crate) after: Position,
    /// The page reaches up to here.
    pub(crate) next: Position,
    pub(crate) items: Vec<Item>,
    /// When the first and the last event were recorded, of whatever category.
    recorded: Option<(Timestamp, Timestamp)>,
}

impl Page {
    fn decode(after: Position, page: &event_log::Page, categories: &[Category]) -> Self {
        Self {
            after,
            next: page.next,
            items: page.events.iter().filter_map(|event| decode(event, categories)).collect(),
            recorded: page
                .events
                .first()
                .zip(page.events.last())
                .map(|(first, last)| (first.recorded_at, last.recorded_at)),
        }
    }

    /// When the last event was recorded; none if there is none.
    pub(crate) fn recorded_at(&self) -> Option<Timestamp> {
        self.recorded.map(|(_, last)| last)
    }

    async fn of(
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

fn decode(event: &Recorded, categories: &[Category]) -> Option<Item> {
    let category = event.stream.category().filter(|category| categories.contains(category))?;
    Some(Item {
        position: event.position,
        recorded_at: event.recorded_at,
        category,
        event_type: event.event_type.clone(),
        event: event.decode(),
    })
}

/// Hands out what is new in the log.
#[derive(Clone, Debug)]
pub(crate) struct Feed {
    log: Log,
    pages: broadcast::WeakSender<Arc<Page>>,
    recent: Arc<Mutex<Recent>>,
}

/// When what came lately was recorded.
#[derive(Debug)]
struct Recent {
    /// What came before is forgotten.
    after: Position,
    /// Where pages ended, and when their first events were recorded.
    pages: VecDeque<(Position, Timestamp)>,
}

/// How long a reader at some position has been behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behind {
    /// Nothing waits for it.
    No,
    /// The first event that waits for it was recorded then.
    Since(Timestamp),
    /// Further than the feed remembers.
    Far,
}

impl Recent {
    fn add(&mut self, page: &Page) {
        if let Some((first, _)) = page.recorded {
            self.pages.push_back((page.next, first));
        }
        if self.pages.len() > RECENT_PAGES_MAX
            && let Some((next, _)) = self.pages.pop_front()
        {
            self.after = next;
        }
    }

    fn behind(&self, position: Position) -> Behind {
        if position < self.after {
            return Behind::Far;
        }
        let missing = self.pages.iter().find(|(next, _)| *next > position);
        missing.map_or(Behind::No, |(_, recorded_at)| Behind::Since(*recorded_at))
    }
}

impl Feed {
    /// Starts to read behind `after`. The task ends with the log.
    pub(crate) fn start(log: Log, after: Position) -> (Self, tokio::task::JoinHandle<()>) {
        let pages = broadcast::Sender::new(PAGES_BEHIND_MAX);
        let recent = Arc::new(Mutex::new(Recent { after, pages: VecDeque::new() }));
        let feed = Self { log: log.clone(), pages: pages.downgrade(), recent: Arc::clone(&recent) };
        (feed, tokio::spawn(hand_out(log, after, pages, recent).boxed()))
    }

    /// Whether a reader that is at `position` is behind.
    pub(crate) fn behind(&self, position: Position) -> Behind {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).behind(position)
    }

    /// A source of all events of the categories behind `after`.
    pub(crate) fn follow(&self, after: Position, categories: &'static [Category]) -> Source {
        // Listening begins before the log is read, so that nothing falls in between.
        let live = self.pages.upgrade().map(|pages| pages.subscribe());
        let mut source = Source { feed: self.clone(), categories, position: after, live, behind: None };
        if *self.log.head().borrow() > after {
            source.catch_up();
        }
        source
    }

    /// Reads the log from `after` to where its head is when it gets there.
    pub(crate) fn read(
        &self,
        after: Position,
        categories: &'static [Category],
    ) -> mpsc::Receiver<Result<Arc<Page>, ReadError>> {
        let (sender, receiver) = mpsc::channel(PAGES_AHEAD);
        tokio::spawn(read_ahead(self.log.clone(), after, categories, sender).boxed());
        receiver
    }
}

async fn hand_out(
    log: Log,
    after: Position,
    pages: broadcast::Sender<Arc<Page>>,
    recent: Arc<Mutex<Recent>>,
) {
    let mut subscription = log.subscribe(after, Filter::All);
    let head = log.head();
    loop {
        let after = subscription.position();
        let page = match subscription.next().await {
            Ok(page) => Page::of(after, page, &Category::ALL).await,
            Err(error) => Err(error),
        };
        match page {
            Ok(page) => {
                recent.lock().unwrap_or_else(PoisonError::into_inner).add(&page);
                // Nobody listening is no error: whoever comes reads the log first.
                let _ = pages.send(Arc::new(page));
            }
            Err(error) => {
                if head.has_changed().is_err() {
                    tracing::info!("the log has stopped; read models stay where they are");
                    return;
                }
                tracing::error!(position = %after, %error, "the log could not be read; trying again");
                tokio::time::sleep(RETRY_AFTER).await;
                subscription = log.subscribe(after, Filter::All);
            }
        }
    }
}

async fn read_ahead(
    log: Log,
    mut after: Position,
    categories: &'static [Category],
    sender: mpsc::Sender<Result<Arc<Page>, ReadError>>,
) {
    let prefixes = categories.iter().map(|category| format!("{}-", category.as_str())).collect();
    let filter = if categories == Category::ALL { Filter::All } else { Filter::StreamPrefixes(prefixes) };
    loop {
        let page = match log.read_all(after, &filter, BATCH_EVENTS_MAX).await {
            Ok(page) => page,
            Err(error) => {
                // The receiver may be gone: then nobody needs to know.
                let _ = sender.send(Err(error)).await;
                return;
            }
        };
        let (next, at_head) = (page.next, page.at_head);
        let page = Page::of(after, page, categories).await.map(Arc::new);
        if sender.send(page).await.is_err() || at_head {
            return;
        }
        after = next;
    }
}

/// Why a source has no more pages.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the log has stopped")]
    Stopped,
}

/// All events behind a position, without a gap: from the log until it has caught up, then from the feed.
#[derive(Debug)]
pub(crate) struct Source {
    feed: Feed,
    categories: &'static [Category],
    position: Position,
    live: Option<broadcast::Receiver<Arc<Page>>>,
    behind: Option<mpsc::Receiver<Result<Arc<Page>, ReadError>>>,
}

impl Source {
    /// Whether everything that was in the log has been handed out, so that only new events are waited for.
    pub(crate) fn has_caught_up(&self) -> bool {
        self.behind.is_none()
    }

    fn catch_up(&mut self) {
        self.behind = Some(self.feed.read(self.position, self.categories));
    }

    /// The next pages, in order; none when the source has just caught up. Waits for new events. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Vec<Arc<Page>>, SourceError> {
        loop {
            if let Some(behind) = &mut self.behind {
                match behind.recv().await {
                    Some(Ok(page)) => {
                        self.position = page.next;
                        return Ok(vec![page]);
                    }
                    Some(Err(error)) => {
                        self.behind = None;
                        return Err(error.into());
                    }
                    None => {
                        self.behind = None;
                        return Ok(Vec::new());
                    }
                }
            }
            let live = self.live.as_mut().ok_or(SourceError::Stopped)?;
            match live.recv().await {
                Ok(page) if page.next <= self.position => {}
                Ok(page) if page.after <= self.position => return Ok(self.gather(page)),
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => self.catch_up(),
                Err(broadcast::error::RecvError::Closed) => return Err(SourceError::Stopped),
            }
        }
    }

    /// The page, and what else has come meanwhile, up to a batch.
    fn gather(&mut self, first: Arc<Page>) -> Vec<Arc<Page>> {
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
