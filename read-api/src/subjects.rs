//! The directory of users behind the subjects in the events.
//!
//! The log and the read models identify people only by subject ids. The vault maps these to user ids; this crate does
//! not depend on it, so the root passes in the lookups.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use event_schemas::ids::{SubjectId, Tenant, UserId};
use event_schemas::sealed::{Sealed, SealedField};
use futures_util::future::BoxFuture;
use web::problem::Problem;

/// The delay after which a client should retry when the vault is unavailable.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The vault is unavailable; the reason is for an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryUnavailable(pub String);

/// The future of a lookup in the vault.
pub type DirectoryFuture<T> = BoxFuture<'static, Result<T, DirectoryUnavailable>>;

type FindSubject = dyn Fn(Tenant, UserId) -> DirectoryFuture<Option<SubjectId>> + Send + Sync;
type FindUserIds =
    dyn Fn(Tenant, Vec<SubjectId>) -> DirectoryFuture<HashMap<SubjectId, UserId>> + Send + Sync;
type Unseal = dyn Fn(Tenant, SubjectId, SealedField, Sealed) -> DirectoryFuture<Option<String>> + Send + Sync;

/// Maps subjects to users and back, and opens sealed fields. Cheap to clone.
#[derive(Clone)]
pub struct SubjectDirectory {
    find_subject: Arc<FindSubject>,
    find_user_ids: Arc<FindUserIds>,
    unseal: Arc<Unseal>,
}

impl SubjectDirectory {
    /// `find_subject` returns the subject of a user that the log knows, and never creates one. `find_user_ids`
    /// returns the users of those subjects that belong to the tenant and are not erased. `unseal` decrypts a sealed
    /// field, and returns none if its subject was erased. All three cache frequent lookups.
    pub fn new(
        find_subject: impl Fn(Tenant, UserId) -> DirectoryFuture<Option<SubjectId>> + Send + Sync + 'static,
        find_user_ids: impl Fn(Tenant, Vec<SubjectId>) -> DirectoryFuture<HashMap<SubjectId, UserId>>
        + Send
        + Sync
        + 'static,
        unseal: impl Fn(Tenant, SubjectId, SealedField, Sealed) -> DirectoryFuture<Option<String>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self {
            find_subject: Arc::new(find_subject),
            find_user_ids: Arc::new(find_user_ids),
            unseal: Arc::new(unseal),
        }
    }

    /// The subject of a user; none if the log has no events of that user.
    ///
    /// # Errors
    /// 503 if the vault is unavailable.
    pub async fn subject(&self, tenant: &Tenant, user: &UserId) -> Result<Option<SubjectId>, Problem> {
        (self.find_subject)(tenant.clone(), user.clone()).await.map_err(|error| unavailable(&error))
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
        if subjects.is_empty() {
            return Ok(UserIds::default());
        }
        let found = (self.find_user_ids)(tenant.clone(), subjects).await;
        found.map(UserIds).map_err(|error| unavailable(&error))
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
        let unsealed = (self.unseal)(tenant.clone(), subject, field, sealed.clone()).await;
        unsealed.map_err(|error| unavailable(&error))
    }
}

impl fmt::Debug for SubjectDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubjectDirectory").finish_non_exhaustive()
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

fn unavailable(DirectoryUnavailable(reason): &DirectoryUnavailable) -> Problem {
    tracing::warn!(%reason, "the vault could not look up a subject");
    Problem::unavailable("user ids cannot be looked up at present; try again shortly", RETRY_AFTER)
}
