//! Who may do what.
//!
//! The names of this program's own streams are reserved: a client that could append to them could forge what the program
//! decides on, or stop its read models with what they cannot read.

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
use super::stream_state::TOMBSTONE;

/// Where a log on a cluster says which log it is. Whoever could write there could make it another one.
const IDENTITY: &str = "matchbook.log";

/// What a caller may do beside reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Append to streams of its own, and delete them.
    Clients,
    /// Also append events of this program to the program's streams, as its own adapter does.
    Domain,
}

/// Someone with a password.
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

/// Who may come in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    pub users: Vec<User>,
    /// What those without a name and password may do; none: they are refused.
    pub anonymous: Option<Right>,
}

impl Access {
    /// What the caller may do.
    pub(super) fn right(&self, request: &MetadataMap) -> Result<Right, Refusal> {
        let header = match (request.get("authorization"), self.anonymous) {
            // Where there is nobody to be, clients say the name that they would say elsewhere.
            (_, Some(right)) if self.users.is_empty() => return Ok(right),
            (None, anonymous) => return anonymous.ok_or(Refusal::NotAuthenticated),
            (Some(header), _) => header,
        };
        let given = credentials(header).ok_or(Refusal::NotAuthenticated)?;
        // Each is compared, and in full, so that the time says nothing.
        let mut found = None;
        for user in &self.users {
            let known = format!("{}:{}", user.name, user.password);
            if verify_slices_are_equal(known.as_bytes(), &given).is_ok() {
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

/// Who the caller says it is.
pub(super) fn user_name(request: &MetadataMap) -> Option<String> {
    let given = credentials(request.get("authorization")?)?;
    let (name, _) = std::str::from_utf8(&given).ok()?.split_once(':')?;
    Some(name.to_owned())
}

/// Whose stream it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// A client's.
    Client,
    /// A client's too: the settings of the stream of this name.
    SettingsOf(StreamId),
    /// This program's.
    Domain,
    /// Where this program keeps which log it is.
    Identity,
    /// The log's own, or settings that nobody may change.
    System,
}

/// Tells from the name.
pub(super) fn owner(stream: &StreamId) -> Owner {
    let name = stream.as_str();
    if let Some(of) = name.strip_prefix("$$") {
        return match of.parse::<StreamId>() {
            Ok(of) if matches!(owner(&of), Owner::Client) => Owner::SettingsOf(of),
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

/// Whether the caller may append these events there.
pub(super) fn check_append(
    right: Right,
    stream: &StreamId,
    owner: &Owner,
    events: &[NewEvent],
) -> Result<(), Refusal> {
    if events.iter().any(|event| event.event_type.as_str() == TOMBSTONE) {
        return Err(Refusal::AccessDenied("a stream is ended by deleting it, not by an event".to_owned()));
    }
    match (owner, right) {
        (Owner::Client | Owner::SettingsOf(_), _) => Ok(()),
        (Owner::Domain, Right::Domain) => {
            events.iter().try_for_each(|event| check_domain_event(stream, event))
        }
        (Owner::Identity, Right::Domain) => Ok(()),
        (Owner::Domain | Owner::Identity, Right::Clients) => Err(Refusal::AccessDenied(format!(
            "streams with names such as {stream} are the program's own; choose another name, or use the name and \
             password of a trusted user"
        ))),
        (Owner::System, _) => {
            Err(Refusal::AccessDenied(format!("{stream} is a stream of the system that nobody appends to")))
        }
    }
}

/// Whether this program can make sense of the event. One that it cannot would stop its read models.
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
    let denied =
        |why: String| Refusal::AccessDenied(format!("{} is no event for {stream}: {why}", event.event_type));
    let envelope = recorded.decode().map_err(|error| denied(error.to_string()))?;
    if stream.category() == Some(envelope.event.category()) {
        Ok(())
    } else {
        Err(denied(format!("it belongs into streams of the category {}", envelope.event.category().as_str())))
    }
}
