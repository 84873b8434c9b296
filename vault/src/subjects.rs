//! Subjects by user, and users by subject, with a cache of the recently used ones.

use std::collections::HashMap;
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
}

impl Default for Cache {
    fn default() -> Self {
        Self { by_user: LruCache::new_unbounded(), by_subject: HashMap::new(), bytes: 0 }
    }
}

impl Cache {
    pub(crate) fn key(&self, subject: SubjectId) -> Option<(&Tenant, &SubjectKey)> {
        let name = self.by_subject.get(&subject)?;
        Some((&name.0, &self.by_user.peek(name)?.key))
    }

    fn insert(&mut self, tenant: &Tenant, user: &UserId, subject: &Subject) {
        let bytes = |(tenant, user): &(Tenant, UserId)| {
            ENTRY_BYTES + 2 * (tenant.as_str().len() + user.as_str().len())
        };
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
        let subject = self.find_or_create(tenant, user).await.inspect_err(|error| {
            if error.is_disk_failure() {
                self.failed.store(true, Ordering::Relaxed);
                tracing::error!(%error, "the vault's disk failed: cannot create subjects until the next start");
            }
        })?;
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
        if let Some((owner, user)) = self.cache().by_subject.get(&subject) {
            return Ok((owner == tenant).then(|| user.clone()));
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
