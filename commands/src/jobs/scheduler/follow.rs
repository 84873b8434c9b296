//! Feeds the board with the events of the log.

use std::sync::Arc;

use event_log::{EventLog, Filter};
use event_schemas::envelope::{Envelope, Unreadable};
use event_schemas::ids::Position;
use event_schemas::stream::Category;

use super::WorkBoard;
use crate::engine::snapshot::Checkpoint;
use crate::jobs::Jobs;

/// The stream categories that the board follows.
const CATEGORIES: [Category; 3] = [Category::Job, Category::ImageMatch, Category::Worker];

/// Applies the log from the last snapshot on, and then new events, until the log stops or an event cannot be read.
pub(crate) async fn run(jobs: Arc<Jobs>) {
    let (board, log, snapshots) = (&jobs.board, &jobs.engine.log, &jobs.snapshots);
    let before_start = *log.head().borrow();
    let mut checkpoint = None;
    if let Some((state, loaded)) = snapshots.load().await {
        board.restore(state, loaded.position);
        checkpoint = Some(loaded);
    }
    let (mut requested, mut writer) = (snapshots.requested(), snapshots.writer(checkpoint));
    let after = checkpoint.map_or(Position::START, |loaded| loaded.position);
    let prefixes = CATEGORIES.map(|category| category.stream_prefix().to_owned());
    let mut subscription = log.subscribe(after, Filter::StreamPrefixes(prefixes.into()));
    let mut live = false;
    loop {
        if !live && subscription.position() >= before_start {
            live = true;
            board.go_live();
            tracing::info!(position = %subscription.position(), from = %after, "the work board has caught up");
        }
        let page = tokio::select! {
            biased;
            Some(done) = requested.recv() => {
                writer.answer(done, checkpoint, snapshot_of(board)).await;
                continue;
            }
            page = subscription.next() => page,
        };
        let page = match page {
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
        checkpoint = page.events.last().map(Checkpoint::from).or(checkpoint);
        if writer.is_due(checkpoint) {
            writer.write(checkpoint, snapshot_of(board)).await;
        }
    }
}

fn snapshot_of(board: &WorkBoard) -> impl FnOnce() -> serde_json::Result<Vec<u8>> + Send + 'static {
    let board = board.clone();
    move || board.snapshot()
}
