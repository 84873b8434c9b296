//! Reads and subscriptions: of a stream or the whole log, forwards or backwards, filtered or not.

use event_schemas::envelope::Recorded;
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use tonic::Status;

use super::proto::event_store::client::streams::ReadResp;

mod all;
mod follow_all;
mod follow_stream;
pub(super) mod plan;
pub(super) mod read_format;
mod stream_events;

pub(super) use all::AllEvents;
pub(super) use follow_all::FollowAll;
pub(super) use follow_stream::FollowStream;
pub(super) use stream_events::StreamEvents;

/// The answers of a call, read on demand.
pub(super) type Answers = BoxStream<'static, Result<ReadResp, Status>>;

/// A source of answers, which returns them in batches.
pub(super) trait Reader: Sized + Send + 'static {
    /// The next batch of answers, which may be empty; `None` at the end. It is not called again after that.
    fn next(&mut self) -> impl Future<Output = Result<Option<Vec<ReadResp>>, Status>> + Send;

    fn answers(self) -> Answers {
        let parts = stream::try_unfold(self, |mut reader| async move {
            // A reader that finds everything in memory never waits; this yields to other tasks.
            tokio::task::consume_budget().await;
            let part = reader.next().await?;
            Ok::<_, Status>(part.map(|part| (part, reader)))
        });
        parts.map_ok(|part| stream::iter(part.into_iter().map(Ok))).try_flatten().boxed()
    }
}

/// The most events in one page.
const PAGE_EVENTS_MAX: usize = 512;

/// The target size of a page, in bytes.
const PAGE_BYTES: usize = 1 << 20;

/// The number of events in a page: fewer if events are large.
#[derive(Debug)]
struct PageSize(usize);

impl PageSize {
    fn new() -> Self {
        Self(32)
    }

    /// The size of the next page, at most `left` events.
    fn events(&self, left: u64) -> usize {
        usize::try_from(left).unwrap_or(usize::MAX).min(self.0)
    }

    fn adapt(&mut self, events: &[Recorded]) {
        let bytes: usize = events.iter().map(|event| event.metadata.len() + event.data.len() + 128).sum();
        if let Some(each) = bytes.checked_div(events.len()) {
            self.0 = (PAGE_BYTES / each).clamp(1, PAGE_EVENTS_MAX).min(self.0 * 4);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_large_events_are_short() {
        let mut size = PageSize::new();
        let event = |bytes: usize| {
            let new = event_log::conformance::event(1);
            Recorded {
                position: event_schemas::ids::Position(1),
                recorded_at: event_schemas::time::Timestamp::EPOCH,
                stream: "a".parse().unwrap(),
                revision: event_schemas::ids::Revision(0),
                id: new.id,
                event_type: new.event_type,
                format: new.format,
                metadata: new.metadata,
                data: vec![0; bytes].into(),
            }
        };
        size.adapt(&[event(10)]);
        assert_eq!((size.events(1000), size.events(7)), (128, 7));
        size.adapt(&[event(10)]);
        assert_eq!(size.events(1000), PAGE_EVENTS_MAX);
        size.adapt(&[event(1 << 20)]);
        assert_eq!(size.events(1000), 1);
    }
}
