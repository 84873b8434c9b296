//! Appending through a connection that may break: each try is safe to repeat, and none is repeated blindly.
//!
//! The cluster recognises a repeated append by its ids where the expected revision says where they must be; so one whose
//! answer was lost is sent again. With [`Expected::Any`] it recognises it wherever in the stream it was, which the contract
//! does not want, or, after a change of the leader, not for sure; so the stream's end is looked at, and the append then made
//! with the revision that was found there.

use std::time::Instant;

use event_schemas::envelope::{NewEvent, Recorded};
use event_schemas::ids::{Position, Revision};
use event_schemas::stream::StreamId;

use super::backoff::Backoff;
use super::client::{Fault, ReadFrom, Written};
use super::{EventStoreLog, REVISION_MAX, event};
use crate::{AppendError, Appended, EventLog, Expected};

/// What the end of a stream says about events that are to be there.
enum End {
    /// They are its latest.
    These(Recorded),
    Others(Option<Revision>),
}

/// What to try next.
#[derive(Clone, Copy)]
enum Next {
    Append(Expected),
    /// Look at the stream's end, and append behind it what is not there.
    Look,
}

pub(super) async fn append(
    log: &EventStoreLog,
    stream: &StreamId,
    expected: Expected,
    events: &[NewEvent],
) -> Result<Appended, AppendError> {
    let append = Append { log, stream, expected, events, head_before: *log.head().borrow() };
    let until = Instant::now() + log.patience();
    let mut backoff = Backoff::new();
    let mut unknown = None;
    let mut next = match expected {
        Expected::At(Revision(revision)) if revision > REVISION_MAX => Next::Look,
        asked => Next::Append(asked),
    };
    loop {
        let fault = match append.step(&mut next, until).await {
            Ok(Some(outcome)) => return outcome,
            Ok(None) => continue,
            Err(fault) => fault,
        };
        match &fault {
            Fault::Broken(reason) => {
                if matches!(next, Next::Append(_)) {
                    unknown = Some(reason.clone());
                }
                if expected == Expected::Any {
                    next = Next::Look;
                }
            }
            Fault::Unreachable(_) | Fault::NotLeader => {}
            // What has not happened yet will not: the cluster says so itself.
            _ if unknown.is_none() => return Err(AppendError::Closed { reason: fault.to_string() }),
            _ => return Err(AppendError::Unknown { reason: fault.to_string() }),
        }
        if Instant::now() >= until {
            return Err(match unknown {
                Some(reason) => AppendError::Unknown { reason },
                None => AppendError::Unavailable { reason: fault.to_string() },
            });
        }
        backoff.wait().await;
    }
}

struct Append<'a> {
    log: &'a EventStoreLog,
    stream: &'a StreamId,
    expected: Expected,
    events: &'a [NewEvent],
    /// What was durable before.
    head_before: Position,
}

impl Append<'_> {
    /// The outcome, if this try found one.
    async fn step(
        &self,
        next: &mut Next,
        until: Instant,
    ) -> Result<Option<Result<Appended, AppendError>>, Fault> {
        match *next {
            Next::Append(expected) => {
                match self.log.connection().append(self.stream.as_str(), expected, self.events).await {
                    // An event of long ago has the same id, and the cluster took it for this one.
                    Ok(written) if expected == Expected::Any && written.position <= self.head_before => {
                        *next = Next::Look;
                        Ok(None)
                    }
                    Ok(written) => Ok(Some(self.written(written, until).await)),
                    Err(Fault::Conflict(_)) if self.expected == Expected::Any => {
                        *next = Next::Look;
                        Ok(None)
                    }
                    Err(Fault::Conflict(actual)) => Ok(Some(Err(AppendError::Conflict { actual }))),
                    Err(fault) => Err(fault),
                }
            }
            Next::Look => Ok(match (self.look().await?, self.expected) {
                (End::These(last), Expected::Any) => Some(self.shown(&last, until).await),
                (End::Others(last), Expected::Any) => {
                    *next = Next::Append(Expected::after(last));
                    None
                }
                (End::These(last), _) => Some(Err(AppendError::Conflict { actual: Some(last.revision) })),
                (End::Others(actual), _) => Some(Err(AppendError::Conflict { actual })),
            }),
        }
    }

    async fn look(&self) -> Result<End, Fault> {
        let count = self.events.len();
        let read = match self.log.connection().read_stream(self.stream.as_str(), ReadFrom::End, count).await {
            Ok(found) => found,
            Err(Fault::Missing) => return Ok(End::Others(None)),
            Err(fault) => return Err(fault),
        };
        let mut latest: Vec<Recorded> = read.into_iter().filter_map(event).collect();
        let same = latest.iter().rev().map(|event| event.id).eq(self.events.iter().map(|event| event.id));
        let newest = if latest.is_empty() { None } else { Some(latest.swap_remove(0)) };
        Ok(match newest {
            Some(newest) if same => End::These(newest),
            newest => End::Others(newest.map(|event| event.revision)),
        })
    }

    /// The cluster has it; the log's reader, who knows the time that it is shown with, comes to it at once.
    async fn written(&self, written: Written, until: Instant) -> Result<Appended, AppendError> {
        let Written { position, revision } = written;
        if position > Position::START
            && self.log.seen(position, until).await
            && let Some(recorded_at) = self.log.time_of_recent(position)
        {
            return Ok(Appended { position, revision, recorded_at });
        }
        // One of long ago, whose place the cluster need not say.
        let mut backoff = Backoff::new();
        loop {
            let read =
                self.log.connection().read_stream(self.stream.as_str(), ReadFrom::At(revision), 1).await;
            let reason = match read.map(|found| found.into_iter().find_map(event)) {
                Ok(Some(event)) => return self.shown(&event, until).await,
                Ok(None) => "what was appended is not there".to_owned(),
                Err(fault) => fault.to_string(),
            };
            if Instant::now() >= until {
                return Err(AppendError::Unknown { reason });
            }
            backoff.wait().await;
        }
    }

    async fn shown(&self, last: &Recorded, until: Instant) -> Result<Appended, AppendError> {
        // If the reader is late, the event is there all the same.
        self.log.seen(last.position, until).await;
        let recorded_at = self.log.shown(last.position, last.recorded_at);
        Ok(Appended { position: last.position, revision: last.revision, recorded_at })
    }
}
