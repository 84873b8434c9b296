//! Authentication and authorization of clients.
//!
//! The names of this program's own streams are reserved: a client that could append to them could forge the events that the
//! program decides on, or stop its read models with events that they cannot decode.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use event_schemas::envelope::{NewEvent, Recorded};
use event_schemas::ids::{Position, Revision};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};

use super::refusal::Refusal;
use super::stream_metadata::TOMBSTONE;

/// The stream with the identity of a log on a cluster. It is protected, because an event there changes the identity.
const IDENTITY: &str = "matchbook.log";

/// The rights of a user in addition to reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Append to clients' streams, and delete them.
    Clients,
    /// Also append events of this program to the program's streams, as the cluster adapter does.
    Domain,
}

/// A user with a password.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub password: String,
    pub right: Right,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User").field("name", &self.name).field("right", &self.right).finish_non_exhaustive()
    }
}

/// The users, and the rights of anonymous clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    pub users: Vec<User>,
    /// The right of clients without credentials; they are refused if `None`.
    pub anonymous: Option<Right>,
}

impl Access {
    /// The right of the caller.
    pub(super) fn right(&self, request: &MetadataMap) -> Result<Right, Refusal> {
        let header = match (request.get("authorization"), self.anonymous) {
            // Without users, credentials are ignored: clients may send those of another server.
            (_, Some(right)) if self.users.is_empty() => return Ok(right),
            (None, anonymous) => return anonymous.ok_or(Refusal::NotAuthenticated),
            (Some(header), _) => header,
        };
        let received = credentials(header).ok_or(Refusal::NotAuthenticated)?;
        // All users are compared, in constant time, against timing attacks.
        let mut found = None;
        for user in &self.users {
            let expected = format!("{}:{}", user.name, user.password);
            if verify_slices_are_equal(expected.as_bytes(), &received).is_ok() {
                found = Some(user.right);
            }
        }
        found.ok_or(Refusal::NotAuthenticated)
    }
}

/// The name and password of a header, with a colon between them.
fn credentials(header: &MetadataValue<Ascii>) -> Option<Vec<u8>> {
    let (scheme, encoded) = header.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    BASE64_STANDARD.decode(encoded.trim()).ok()
}

/// The user name of the caller, not verified.
pub(super) fn user_name(request: &MetadataMap) -> Option<String> {
    let received = credentials(request.get("authorization")?)?;
    let (name, _) = std::str::from_utf8(&received).ok()?.split_once(':')?;
    Some(name.to_owned())
}

/// The owner of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Client,
    /// A client: the metadata stream of the stream with this name.
    MetadataOf(StreamId),
    /// This program.
    Domain,
    /// This program: the stream with the identity of the log.
    Identity,
    /// The log itself, or metadata that must not change.
    System,
}

/// The owner, from the name of the stream.
pub(super) fn owner(stream: &StreamId) -> Owner {
    let name = stream.as_str();
    if let Some(of) = name.strip_prefix("$$") {
        return match of.parse::<StreamId>() {
            Ok(of) if matches!(owner(&of), Owner::Client) => Owner::MetadataOf(of),
            _ => Owner::System,
        };
    }
    if name.starts_with('$') {
        return Owner::System;
    }
    if name == IDENTITY {
        Owner::Identity
    } else if stream.is_reserved() {
        Owner::Domain
    } else {
        Owner::Client
    }
}

/// Checks that the caller may append these events to the stream.
pub(super) fn check_append(
    right: Right,
    stream: &StreamId,
    owner: &Owner,
    events: &[NewEvent],
) -> Result<(), Refusal> {
    if events.iter().any(|event| event.event_type.as_str() == TOMBSTONE) {
        return Err(Refusal::AccessDenied(
            "a tombstone is written by deleting the stream, not by appending an event".to_owned(),
        ));
    }
    match (owner, right) {
        (Owner::Client | Owner::MetadataOf(_), _) => Ok(()),
        (Owner::Domain, Right::Domain) => {
            events.iter().try_for_each(|event| check_domain_event(stream, event))
        }
        (Owner::Identity, Right::Domain) => Ok(()),
        (Owner::Domain | Owner::Identity, Right::Clients) => Err(Refusal::AccessDenied(format!(
            "stream names such as {stream} are reserved for the program; choose another name, or use the name and \
             password of a trusted user"
        ))),
        (Owner::System, _) => {
            Err(Refusal::AccessDenied(format!("{stream} is a system stream that cannot be appended to")))
        }
    }
}

/// Checks that this program can decode the event. Any other event would stop its read models.
fn check_domain_event(stream: &StreamId, event: &NewEvent) -> Result<(), Refusal> {
    let recorded = Recorded {
        position: Position::START,
        recorded_at: Timestamp::EPOCH,
        stream: stream.clone(),
        revision: Revision(0),
        id: event.id,
        event_type: event.event_type.clone(),
        format: event.format,
        metadata: event.metadata.clone(),
        data: event.data.clone(),
    };
    let denied = |reason: String| {
        Refusal::AccessDenied(format!("{} is not an event for {stream}: {reason}", event.event_type))
    };
    let envelope = recorded.decode().map_err(|error| denied(error.to_string()))?;
    if stream.category() == Some(envelope.event.category()) {
        Ok(())
    } else {
        Err(denied(format!("it belongs in streams of the category {}", envelope.event.category().as_str())))
    }
}
