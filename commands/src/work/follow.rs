//! How the board comes to know what happened.

use event_log::{EventLog, Filter, Log};
use event_schemas::envelope::{Envelope, Unreadable};
use event_schemas::ids::Position;
use event_schemas::stream::Category;

use super::Board;

/// What the board is made of. Other categories may grow as they like.
const CATEGORIES: [Category; 3] = [Category::Job, Category::Matching, Category::Worker];

/// Reads the log from its start, and then what comes, until the log stops or says something that cannot be read.
pub(crate) async fn run(board: Board, log: Log) {
    let before_start = *log.head().borrow();
    let prefixes = CATEGORIES.map(|category| format!("{}-", category.as_str()));
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
                tracing::error!(%error, "the work board cannot read the log and hands out nothing more");
                return board.stop(error.to_string());
            }
        };
        // What was found is most of the log and nothing to the board, so it is not even decoded.
        let events = page.events.iter().filter(|recorded| recorded.stream.shard().is_none());
        let events: Result<Vec<Envelope>, Unreadable> = events.map(|recorded| recorded.decode()).collect();
        match events {
            Ok(events) => board.apply(&events, page.next),
            Err(error) => {
                tracing::error!(%error, "the work board met an event that it cannot read and hands out nothing more");
                return board.stop(error.to_string());
            }
        }
    }
}
