//! Following the log: what is there, then what comes.

use event_schemas::ids::Position;
use tokio::sync::watch;

use crate::{EventLog, Filter, Log, Page, ReadError};

/// The most events in one page of a subscription.
const PAGE_EVENTS_MAX: usize = 4096;

/// A reader that goes on for ever. It pulls, so a slow one falls behind without holding anything up, and reads what it
/// missed from the log.
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

    /// The next page, which is never empty unless the filter left nothing of it: then its `next` has moved. Waits at the
    /// head. Cancel safe: a page that was not returned will be read again.
    ///
    /// # Errors
    /// [`ReadError`] if the log cannot be read, or has stopped for good.
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

    /// Everything up to here has been handed out.
    pub fn position(&self) -> Position {
        self.after
    }
}
