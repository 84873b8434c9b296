//! The directory of users behind the subjects in the events.
//!
//! The log and the read models identify people only by subject ids, and contain their texts only sealed. The vault maps
//! the ids to users, and opens the texts.

use std::collections::HashMap;

use event_log::{EventLog, Filter, Log};
use event_schemas::envelope::{Event, Recorded};
use event_schemas::ids::{SubjectId, Tenant, UserId};
use event_schemas::sealed::{Sealed, SealedField};
use event_schemas::stream::Category;
use event_schemas::user::UserEvent;
use vault::{Vault, VaultError};
use web::problem::Problem;

use crate::errors::RETRY_AFTER;

/// Maps subjects to users and back, and opens sealed fields. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SubjectDirectory(Vault);

impl SubjectDirectory {
    pub fn new(vault: Vault) -> Self {
        Self(vault)
    }

    /// The subject of a user; none if the log has no events of that user.
    ///
    /// # Errors
    /// 503 if the vault is unavailable.
    pub async fn subject(&self, tenant: &Tenant, user: &UserId) -> Result<Option<SubjectId>, Problem> {
        self.0.find_subject(tenant, user).await.map_err(|error| unavailable(&error))
    }

    /// Forgets the subjects that another server erases from now on, until the log stops. Subjects that are looked up later are
    /// read from the vault, which no longer has them.
    pub async fn follow_erasures(self, log: Log) {
        let users = Filter::StreamPrefixes(vec![Category::User.stream_prefix().to_owned()]);
        let head = *log.head().borrow();
        let mut events = log.subscribe(head, users);
        loop {
            match events.next().await {
                Ok(page) => page.events.iter().filter_map(erased).for_each(|subject| self.0.forget(subject)),
                Err(error) => {
                    tracing::error!(%error, "cannot follow the erasures of users; restart the server");
                    return;
                }
            }
        }
    }

    /// The user ids of some subjects.
    ///
    /// # Errors
    /// 503 if the vault is unavailable.
    pub async fn user_ids(
        &self,
        tenant: &Tenant,
        subjects: impl IntoIterator<Item = SubjectId>,
    ) -> Result<UserIds, Problem> {
        let subjects: Vec<SubjectId> = subjects.into_iter().collect();
        self.0.users(tenant, &subjects).await.map(UserIds).map_err(|error| unavailable(&error))
    }

    /// The text of a sealed field; none if its subject was erased.
    ///
    /// # Errors
    /// 503 if the vault is unavailable.
    pub async fn unseal(
        &self,
        tenant: &Tenant,
        subject: SubjectId,
        field: SealedField,
        sealed: &Sealed,
    ) -> Result<Option<String>, Problem> {
        match self.0.unseal(tenant, subject, field, sealed).await {
            // It can never be opened again; the rest of the response is still useful.
            Err(error @ VaultError::Sealed(_)) => {
                tracing::error!(%error, "a sealed text cannot be opened and is omitted");
                Ok(None)
            }
            opened => opened.map_err(|error| unavailable(&error)),
        }
    }
}

/// The subject that an event erases.
fn erased(event: &Recorded) -> Option<SubjectId> {
    if event.event_type.as_str() != "SubjectKeyDestroyed" {
        return None;
    }
    match event.decode().ok()?.event {
        Event::User(UserEvent::SubjectKeyDestroyed(destroyed)) => Some(destroyed.subject_id),
        _ => None,
    }
}

/// The user ids of some subjects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserIds(HashMap<SubjectId, UserId>);

impl UserIds {
    /// The user of a subject; none if it was erased.
    pub fn user_id(&self, subject: SubjectId) -> Option<UserId> {
        self.0.get(&subject).cloned()
    }
}

fn unavailable(error: &VaultError) -> Problem {
    tracing::warn!(%error, "the vault could not look up a subject");
    Problem::unavailable("user ids cannot be looked up at present; try again shortly", RETRY_AFTER)
}
