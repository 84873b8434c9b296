//! UmaDB in this process, for comparison: its engine and its own blocking writer thread, with its defaults.
//!
//! It omits some work of our log: no append has a condition, so nothing is looked up.

use std::path::Path;
use std::sync::Arc;
use std::thread;

use event_schemas::envelope::NewEvent;
use event_schemas::stream::StreamId;
use tokio::sync::{mpsc, oneshot, watch};
use umadb_core::mvcc::{Mvcc, StorageOptions};
use umadb_core::writer_thread_blocking::writer_thread_blocking;
use umadb_core::writer_thread_request::WriterThreadRequest;
use umadb_dcb::DcbEvent;

use super::stores::stopped;
use matchbook::failure::Failure;

/// The most events in one commit, as in the log.
const GROUP_EVENTS_MAX: usize = 16_384;

#[derive(Clone)]
pub(super) struct UmaDb {
    queue: mpsc::Sender<WriterThreadRequest>,
}

impl UmaDb {
    pub(super) fn open(file: &Path) -> Result<Self, Failure> {
        let store = Mvcc::new(false, StorageOptions::default().db_path(file));
        let store = store.map_err(|error| Failure::Failed(format!("UmaDB: {error}")))?;
        let (queue, requests) = mpsc::channel(16_384);
        let (head, _) = watch::channel(None);
        let write = move || writer_thread_blocking(Arc::new(store), requests, head, GROUP_EVENTS_MAX);
        let thread = thread::Builder::new().name("umadb".to_owned()).spawn(write);
        thread.map_err(|error| Failure::Failed(format!("cannot start a thread: {error}")))?;
        Ok(Self { queue })
    }

    pub(super) async fn append(&self, stream: StreamId, events: Vec<NewEvent>) -> Result<(), Failure> {
        let (answer, answered) = oneshot::channel();
        let request = WriterThreadRequest::Append {
            events: events.into_iter().map(|event| event_with_tag(event, stream.as_str())).collect(),
            condition: None,
            tracking_info: None,
            response_tx: answer,
            cancel: None,
        };
        self.queue.send(request).await.map_err(|_| stopped("UmaDB"))?;
        let answer = answered.await.map_err(|_| stopped("UmaDB"))?;
        answer.map(|_| ()).map_err(|error| Failure::Failed(format!("UmaDB: {error}")))
    }
}

/// The event as UmaDB stores it, with its stream as its only tag.
pub(super) fn event_with_tag(event: NewEvent, stream: &str) -> DcbEvent {
    DcbEvent {
        event_type: event.event_type.as_str().to_owned(),
        tags: vec![stream.to_owned()],
        data: event.data.to_vec(),
        uuid: Some(event.id.0),
        metadata: vec![(String::new(), String::from_utf8_lossy(&event.metadata).into_owned())],
    }
}
