//! Appending through a connection that may fail, with retries that never append twice.
//!
//! With an expected revision, the cluster recognises a repeated append by its event ids at that revision, so an append whose
//! response was lost is sent again. With [`Expected::Any`], it recognises one anywhere in the stream, which the contract does
//! not allow, and after a change of leader not reliably; so the end of the stream is read, and the append is made with the
//! revision that was found there.

use std::time::Instant;

use event_schemas::envelope::{NewEvent, Recorded};
use event_schemas::ids::{Position, Revision};
use event_schemas::stream::StreamId;

use super::backoff::Backoff;
use super::client::{CallError, ReadFrom, WriteResult};
use super::{EventStoreLog, REVISION_MAX, user_event};
use event_log::{AppendError, Appended, EventLog, Expected};

/// The end of a stream, compared with the events to append.
enum StreamEnd {
    /// The stream ends with exactly these events; this is the last one.
    Appended(Recorded),
    Other(Option<Revision>),
}

/// The next step of an append.
#[derive(Clone, Copy)]
enum NextStep {
    Append(Expected),
    /// Read the stream's end, and append after it if the events are not there.
    CheckEnd,
}

pub(super) async fn append(
    log: &EventStoreLog,
    stream: &StreamId,
    expected: Expected,
    events: &[NewEvent],
) -> Result<Appended, AppendError> {
    let append = AppendCall { log, stream, expected, events, head_before: *log.head().borrow() };
    let until = Instant::now() + log.retry_timeout();
    let mut backoff = Backoff::new();
    let mut unknown = None;
    let mut next = match expected {
        Expected::At(Revision(revision)) if revision > REVISION_MAX => NextStep::CheckEnd,
        expected => NextStep::Append(expected),
    };
    loop {
        let error = match append.attempt(&mut next, until).await {
            Ok(Some(outcome)) => return outcome,
            Ok(None) => continue,
            Err(error) => error,
        };
        match &error {
            CallError::Interrupted(reason) => {
                if matches!(next, NextStep::Append(_)) {
                    unknown = Some(reason.clone());
                }
                if expected == Expected::Any {
                    next = NextStep::CheckEnd;
                }
            }
            CallError::Unreachable(_) | CallError::NotLeader => {}
            // The cluster rejects the call, so a retry would not succeed.
            _ if unknown.is_none() => return Err(AppendError::Closed { reason: error.to_string() }),
            _ => return Err(AppendError::Unknown { reason: error.to_string() }),
        }
        if Instant::now() >= until {
            return Err(match unknown {
                Some(reason) => AppendError::Unknown { reason },
                None => AppendError::Unavailable { reason: error.to_string() },
            });
        }
        backoff.wait().await;
    }
}

struct AppendCall<'a> {
    log: &'a EventStoreLog,
    stream: &'a StreamId,
    expected: Expected,
    events: &'a [NewEvent],
    /// The durable head before the call.
    head_before: Position,
}

impl AppendCall<'_> {
    /// One attempt; returns the outcome if it is known now.
    async fn attempt(
        &self,
        next: &mut NextStep,
        until: Instant,
    ) -> Result<Option<Result<Appended, AppendError>>, CallError> {
        match *next {
            NextStep::Append(expected) => {
                match self.log.connection().append(self.stream.as_str(), expected, self.events).await {
                    // The cluster recognised an older append with the same ids.
                    Ok(written) if expected == Expected::Any && written.position <= self.head_before => {
                        *next = NextStep::CheckEnd;
                        Ok(None)
                    }
                    Ok(written) => Ok(Some(self.acknowledged(written, until).await)),
                    Err(CallError::Conflict(_)) if self.expected == Expected::Any => {
                        *next = NextStep::CheckEnd;
                        Ok(None)
                    }
                    Err(CallError::Conflict(actual)) => Ok(Some(Err(AppendError::Conflict { actual }))),
                    Err(error) => Err(error),
                }
            }
            NextStep::CheckEnd => Ok(match (self.read_end().await?, self.expected) {
                (StreamEnd::Appended(last), Expected::Any) => Some(self.appended(&last, until).await),
                (StreamEnd::Other(last), Expected::Any) => {
                    *next = NextStep::Append(Expected::after(last));
                    None
                }
                (StreamEnd::Appended(last), _) => {
                    Some(Err(AppendError::Conflict { actual: Some(last.revision) }))
                }
                (StreamEnd::Other(actual), _) => Some(Err(AppendError::Conflict { actual })),
            }),
        }
    }

    async fn read_end(&self) -> Result<StreamEnd, CallError> {
        let count = self.events.len();
        let read = match self.log.connection().read_stream(self.stream.as_str(), ReadFrom::End, count).await {
            Ok(found) => found,
            Err(CallError::StreamNotFound) => return Ok(StreamEnd::Other(None)),
            Err(error) => return Err(error),
        };
        let mut latest: Vec<Recorded> = read.into_iter().filter_map(user_event).collect();
        let same = latest.iter().rev().map(|event| event.id).eq(self.events.iter().map(|event| event.id));
        let newest = if latest.is_empty() { None } else { Some(latest.swap_remove(0)) };
        Ok(match newest {
            Some(newest) if same => StreamEnd::Appended(newest),
            newest => StreamEnd::Other(newest.map(|event| event.revision)),
        })
    }

    /// The outcome of an append that the cluster acknowledged. The subscriber, which has the recorded times, receives it
    /// immediately.
    async fn acknowledged(&self, written: WriteResult, until: Instant) -> Result<Appended, AppendError> {
        let WriteResult { position, revision } = written;
        if position > Position::START
            && self.log.wait_reached(position, until).await
            && let Some(recorded_at) = self.log.recent_recorded_at(position)
        {
            return Ok(Appended { position, revision, recorded_at });
        }
        // An older append, whose position the cluster may not return.
        let mut backoff = Backoff::new();
        loop {
            let read =
                self.log.connection().read_stream(self.stream.as_str(), ReadFrom::At(revision), 1).await;
            let reason = match read.map(|found| found.into_iter().find_map(user_event)) {
                Ok(Some(event)) => return self.appended(&event, until).await,
                Ok(None) => "the appended event is not in the stream".to_owned(),
                Err(error) => error.to_string(),
            };
            if Instant::now() >= until {
                return Err(AppendError::Unknown { reason });
            }
            backoff.wait().await;
        }
    }

    async fn appended(&self, last: &Recorded, until: Instant) -> Result<Appended, AppendError> {
        // The event is in the log even if the subscriber does not reach it in time.
        self.log.wait_reached(last.position, until).await;
        let recorded_at = self.log.recorded_at(last.position, last.recorded_at);
        Ok(Appended { position: last.position, revision: last.revision, recorded_at })
    }
}
