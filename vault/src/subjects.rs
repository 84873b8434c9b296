//! Subjects by user, and users by subject, with a cache of the recently used ones.

use std::collections::{HashMap, HashSet};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use event_schemas::ids::{SubjectId, Tenant, UserId};
use hashlink::LruCache;

use crate::{Subject, SubjectKey, Vault, VaultError, read_key};

/// The memory of the cached subjects, in bytes: about 40,000 users.
const CACHED_BYTES: usize = 16 << 20;

/// The memory of a cached subject besides its names, which are there twice.
const ENTRY_BYTES: usize = 320;

/// The recently used subjects, by user and by subject id.
#[derive(Debug)]
pub(crate) struct Cache {
    by_user: LruCache<(Tenant, UserId), Subject>,
    by_subject: HashMap<SubjectId, (Tenant, UserId)>,
    bytes: usize,
    /// The subjects that were erased since the start. A lookup that has read one of them before must not bring it back.
    erased: HashSet<SubjectId>,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            by_user: LruCache::new_unbounded(),
            by_subject: HashMap::new(),
            bytes: 0,
            erased: HashSet::new(),
        }
    }
}

/// The memory of a cached subject with these names.
fn bytes((tenant, user): &(Tenant, UserId)) -> usize {
    ENTRY_BYTES + 2 * (tenant.as_str().len() + user.as_str().len())
}

impl Cache {
    pub(crate) fn key(&self, subject: SubjectId) -> Option<(&Tenant, &SubjectKey)> {
        let name = self.by_subject.get(&subject)?;
        Some((&name.0, &self.by_user.peek(name)?.key))
    }

    fn insert(&mut self, tenant: &Tenant, user: &UserId, subject: &Subject) {
        if self.erased.contains(&subject.id) {
            return;
        }
        let name = (tenant.clone(), user.clone());
        self.bytes += bytes(&name);
        self.by_subject.insert(subject.id, name.clone());
        if self.by_user.insert(name.clone(), subject.clone()).is_some() {
            self.bytes -= bytes(&name);
        }
        while self.bytes > CACHED_BYTES
            && let Some((name, subject)) = self.by_user.remove_lru()
        {
            self.bytes -= bytes(&name);
            self.by_subject.remove(&subject.id);
        }
    }

    /// Removes a subject, and never has it again.
    pub(crate) fn forget(&mut self, subject: SubjectId) {
        self.erased.insert(subject);
        let Some(name) = self.by_subject.remove(&subject) else { return };
        // The user may have another subject by now.
        if self.by_user.peek(&name).is_some_and(|known| known.id == subject) {
            self.by_user.remove(&name);
            self.bytes -= bytes(&name);
        }
    }

    pub(crate) fn is_erased(&self, subject: SubjectId) -> bool {
        self.erased.contains(&subject)
    }
}

impl Vault {
    /// The subject of a user, durably created by the first call.
    ///
    /// # Errors
    /// [`VaultError`] if the vault cannot be read or written.
    pub async fn subject(&self, tenant: &Tenant, user: &UserId) -> Result<Subject, VaultError> {
        if let Some(known) = self.cached(tenant, user) {
            return Ok(known);
        }
        // Cached subjects do not need the disk.
        if self.failed.load(Ordering::Relaxed) {
            return Err(VaultError::Failed);
        }
        let subject =
            self.find_or_create(tenant, user).await.inspect_err(|error| self.note_failure(error))?;
        self.cache().insert(tenant, user, &subject);
        Ok(subject)
    }

    /// The subject of a user, if there is one. Never creates a subject.
    ///
    /// # Errors
    /// [`VaultError`] if the vault cannot be read.
    pub async fn find_subject(
        &self,
        tenant: &Tenant,
        user: &UserId,
    ) -> Result<Option<SubjectId>, VaultError> {
        if let Some(known) = self.cached(tenant, user) {
            return Ok(Some(known.id));
        }
        let found = self.find(tenant, user).await?;
        if let Some(subject) = &found {
            self.cache().insert(tenant, user, subject);
        }
        Ok(found.map(|subject| subject.id))
    }

    /// The users of the subjects. Erased subjects, and those of other tenants, are omitted.
    ///
    /// # Errors
    /// [`VaultError`] if the vault cannot be read.
    pub async fn users(
        &self,
        tenant: &Tenant,
        subjects: &[SubjectId],
    ) -> Result<HashMap<SubjectId, UserId>, VaultError> {
        let mut users = HashMap::with_capacity(subjects.len());
        for subject in subjects {
            if !users.contains_key(subject)
                && let Some(user) = self.user(tenant, *subject).await?
            {
                users.insert(*subject, user);
            }
        }
        Ok(users)
    }

    /// After a failure of the disk the vault is not written again.
    pub(crate) fn note_failure(&self, error: &VaultError) {
        if error.is_disk_failure() {
            self.failed.store(true, Ordering::Relaxed);
            tracing::error!(%error, "the vault's disk failed: it cannot be written until the next start");
        }
    }

    async fn find_or_create(&self, tenant: &Tenant, user: &UserId) -> Result<Subject, VaultError> {
        match self.find(tenant, user).await? {
            Some(subject) => Ok(subject),
            None => self.create_subject(tenant, user).await,
        }
    }

    /// The user of a subject; none if it was erased, or is another tenant's.
    ///
    /// # Errors
    /// [`VaultError`] if the vault cannot be read.
    pub async fn user(&self, tenant: &Tenant, subject: SubjectId) -> Result<Option<UserId>, VaultError> {
        {
            let cache = self.cache();
            if cache.is_erased(subject) {
                return Ok(None);
            }
            if let Some((owner, user)) = cache.by_subject.get(&subject) {
                return Ok((owner == tenant).then(|| user.clone()));
            }
        }
        let row = self.store.get(tenant, subject).await?;
        let Some((Some(user), Some(key))) = row else { return Ok(None) };
        // Only valid user ids were ever written there.
        let Ok(user) = user.parse() else { return Ok(None) };
        self.cache().insert(tenant, &user, &Subject { id: subject, key: read_key(key)? });
        Ok(Some(user))
    }

    async fn find(&self, tenant: &Tenant, user: &UserId) -> Result<Option<Subject>, VaultError> {
        let row = self.store.find(tenant, user).await?;
        row.map(|(id, key)| Ok(Subject { id: SubjectId(id), key: read_key(key)? })).transpose()
    }

    fn cached(&self, tenant: &Tenant, user: &UserId) -> Option<Subject> {
        self.cache().by_user.get(&(tenant.clone(), user.clone())).cloned()
    }

    pub(crate) fn cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        // A map that lost an insert to a panic is still a valid cache.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
