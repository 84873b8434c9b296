//! Who the subjects in the events are.
//!
//! The log and the read models know people only by their subjects; the vault, which this crate cannot see, knows their
//! names. The root hands over how it is asked.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use event_schemas::ids::{SubjectId, Tenant, UserId};
use event_schemas::sealed::{Place, Sealed};
use futures_util::future::BoxFuture;
use web::problem::Problem;

/// When to ask again after the vault gave no answer.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The vault cannot be asked at present; the reason is for an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unnamed(pub String);

/// What the vault answers, once it does.
pub type Asked<T> = BoxFuture<'static, Result<T, Unnamed>>;

type FindSubject = dyn Fn(Tenant, UserId) -> Asked<Option<SubjectId>> + Send + Sync;
type NameUsers = dyn Fn(Tenant, Vec<SubjectId>) -> Asked<HashMap<SubjectId, UserId>> + Send + Sync;
type OpenSealed = dyn Fn(Tenant, SubjectId, Place, Sealed) -> Asked<Option<String>> + Send + Sync;

/// Who the subjects in the events are. Cheap to clone.
#[derive(Clone)]
pub struct People {
    find: Arc<FindSubject>,
    name: Arc<NameUsers>,
    open: Arc<OpenSealed>,
}

impl People {
    /// `find` gives the subject of a user whom the log knows, and makes none; `name` gives the users of those subjects
    /// that have one and are the tenant's; `open` gives what a subject's sealed text says, unless they were erased. All
    /// remember what they are often asked.
    pub fn new(
        find: impl Fn(Tenant, UserId) -> Asked<Option<SubjectId>> + Send + Sync + 'static,
        name: impl Fn(Tenant, Vec<SubjectId>) -> Asked<HashMap<SubjectId, UserId>> + Send + Sync + 'static,
        open: impl Fn(Tenant, SubjectId, Place, Sealed) -> Asked<Option<String>> + Send + Sync + 'static,
    ) -> Self {
        Self { find: Arc::new(find), name: Arc::new(name), open: Arc::new(open) }
    }

    /// The subject of a user; none if the log knows nothing of them.
    ///
    /// # Errors
    /// 503 if the vault cannot be asked.
    pub async fn subject(&self, tenant: &Tenant, user: &UserId) -> Result<Option<SubjectId>, Problem> {
        (self.find)(tenant.clone(), user.clone()).await.map_err(|error| unnamed(&error))
    }

    /// The names of some subjects.
    ///
    /// # Errors
    /// 503 if the vault cannot be asked.
    pub async fn names(
        &self,
        tenant: &Tenant,
        subjects: impl IntoIterator<Item = SubjectId>,
    ) -> Result<Names, Problem> {
        let subjects: Vec<SubjectId> = subjects.into_iter().collect();
        if subjects.is_empty() {
            return Ok(Names::default());
        }
        (self.name)(tenant.clone(), subjects).await.map(Names).map_err(|error| unnamed(&error))
    }

    /// What a person's sealed text says; none if they were erased.
    ///
    /// # Errors
    /// 503 if the vault cannot be asked.
    pub async fn open(
        &self,
        tenant: &Tenant,
        subject: SubjectId,
        place: Place,
        sealed: &Sealed,
    ) -> Result<Option<String>, Problem> {
        let opened = (self.open)(tenant.clone(), subject, place, sealed.clone()).await;
        opened.map_err(|error| unnamed(&error))
    }
}

impl fmt::Debug for People {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("People").finish_non_exhaustive()
    }
}

/// The names of some subjects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names(HashMap<SubjectId, UserId>);

impl Names {
    /// None for somebody who was erased.
    pub fn of(&self, subject: SubjectId) -> Option<UserId> {
        self.0.get(&subject).cloned()
    }
}

fn unnamed(Unnamed(reason): &Unnamed) -> Problem {
    tracing::warn!(%reason, "the vault could not be asked for a name");
    Problem::unavailable("people cannot be named at present", RETRY_AFTER)
}
