//! Subscriptions: catch-up from the log, then new events as they are appended.

use event_schemas::ids::Position;
use tokio::sync::watch;

use crate::{EventLog, Filter, Log, Page, ReadError};

/// The most events in one page of a subscription.
const PAGE_EVENTS_MAX: usize = 4096;

/// A catch-up subscription. It pulls, so a slow subscriber blocks nothing and reads the events that it missed from the
/// log.
#[derive(Debug)]
pub struct Subscription {
    log: Log,
    head: watch::Receiver<Position>,
    after: Position,
    filter: Filter,
}

impl Subscription {
    pub(crate) fn new(log: Log, after: Position, filter: Filter) -> Self {
        let head = log.head();
        Self { log, head, after, filter }
    }

    /// Returns the next page; waits at the head. The page is empty only if the filter matched no event, and then its `next`
    /// has advanced. Cancel safe: a page that was not returned will be read again.
    ///
    /// # Errors
    /// [`ReadError`] if the log cannot be read, or has stopped permanently.
    pub async fn next(&mut self) -> Result<Page, ReadError> {
        let after = self.after;
        self.head
            .wait_for(|head| *head > after)
            .await
            .map_err(|_| ReadError::Unavailable("the log has stopped".to_owned()))?;
        let page = self.log.read_all(after, &self.filter, PAGE_EVENTS_MAX).await?;
        self.after = page.next;
        Ok(page)
    }

    /// The position up to which events were returned.
    pub fn position(&self) -> Position {
        self.after
    }
}
