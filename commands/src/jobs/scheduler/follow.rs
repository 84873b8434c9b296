//! Feeds the board with the events of the log.

use event_log::{EventLog, Filter, Log};
use event_schemas::envelope::{Envelope, Unreadable};
use event_schemas::ids::Position;
use event_schemas::stream::Category;

use super::WorkBoard;

/// The stream categories that the board follows.
const CATEGORIES: [Category; 3] = [Category::Job, Category::ImageMatch, Category::Worker];

/// Applies the log from its start, and then new events, until the log stops or an event cannot be read.
pub(crate) async fn run(board: WorkBoard, log: Log) {
    let before_start = *log.head().borrow();
    let prefixes = CATEGORIES.map(|category| category.stream_prefix().to_owned());
    let mut subscription = log.subscribe(Position::START, Filter::StreamPrefixes(prefixes.into()));
    let mut live = false;
    loop {
        if !live && subscription.position() >= before_start {
            live = true;
            board.go_live();
            tracing::info!(position = %subscription.position(), "the work board has caught up");
        }
        let page = match subscription.next().await {
            Ok(page) => page,
            Err(error) => {
                tracing::error!(%error, "the work board cannot read the log and has stopped");
                return board.stop(error.to_string());
            }
        };
        // Image matches are most of the log and do not concern the board, so they are not decoded.
        let events = page.events.iter().filter(|recorded| recorded.stream.shard().is_none());
        let events: Result<Vec<Envelope>, Unreadable> = events.map(|recorded| recorded.decode()).collect();
        match events {
            Ok(events) => board.apply(&events, page.next),
            Err(error) => {
                tracing::error!(%error, "the work board cannot decode an event and has stopped");
                return board.stop(error.to_string());
            }
        }
    }
}
