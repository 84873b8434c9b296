//! Texts sealed under a person's key: readable until the person is erased, and never again afterwards
//! (crypto-shredding).
//!
//! A text is sealed for one tenant, person and field. The tag covers them, so that a sealed text that was changed,
//! moved, or attributed to another person does not open.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use event_schemas::ids::{SubjectId, Tenant};
use event_schemas::sealed::{Sealed, SealedField};

use crate::{KEY_BYTES, Subject, SubjectKey, Vault, VaultError, read_key};

impl Vault {
    /// Seals a person's text for this field.
    ///
    /// # Errors
    /// [`VaultError::NoRandomness`] if the system returns none.
    pub fn seal(
        &self,
        tenant: &Tenant,
        subject: &Subject,
        field: SealedField,
        text: &str,
    ) -> Result<Sealed, VaultError> {
        let data = Aad::from(associated_data(tenant, subject.id, field));
        let mut sealed = text.as_bytes().to_vec();
        let nonce = key(&subject.key)
            .seal_in_place_append_tag(data, &mut sealed)
            .map_err(|_| VaultError::NoRandomness)?;
        let whole = [nonce.as_ref().as_slice(), &sealed].concat();
        Ok(Sealed::from_base64(STANDARD.encode(whole)))
    }

    /// Opens a person's sealed text; none if the person was erased, or was never known to this tenant.
    ///
    /// # Errors
    /// [`VaultError::Sealed`] if it was not sealed for this tenant, person and field, or is damaged; other
    /// [`VaultError`]s if the vault cannot be read.
    pub async fn unseal(
        &self,
        tenant: &Tenant,
        subject: SubjectId,
        field: SealedField,
        sealed: &Sealed,
    ) -> Result<Option<String>, VaultError> {
        let Some(key) = self.key(tenant, subject).await? else { return Ok(None) };
        open(&key, &associated_data(tenant, subject, field), sealed)
            .map(Some)
            .ok_or(VaultError::Sealed(field))
    }

    async fn key(&self, tenant: &Tenant, subject: SubjectId) -> Result<Option<SubjectKey>, VaultError> {
        {
            let cache = self.cache();
            if cache.is_erased(subject) {
                return Ok(None);
            }
            if let Some((owner, key)) = cache.key(subject) {
                return Ok((owner == tenant).then(|| key.clone()));
            }
        }
        let row = self.store.get(tenant, subject).await?;
        row.and_then(|(_, key)| key).map(read_key).transpose()
    }
}

fn key(key: &SubjectKey) -> RandomizedNonceKey {
    const { assert!(KEY_BYTES == 32) };
    RandomizedNonceKey::new(&AES_256_GCM, key.bytes()).expect("an AES-256 key has 32 bytes, as this one")
}

/// None of the parts can contain a line break, so that two fields never have the same associated data.
fn associated_data(tenant: &Tenant, subject: SubjectId, field: SealedField) -> String {
    format!("{tenant}\n{subject}\n{field}")
}

fn open(subject_key: &SubjectKey, data: &str, sealed: &Sealed) -> Option<String> {
    let mut whole = STANDARD.decode(sealed.as_base64()).ok()?;
    let (nonce, sealed) = whole.split_first_chunk_mut::<NONCE_LEN>()?;
    let text = key(subject_key).open_in_place(Nonce::from(&*nonce), Aad::from(data), sealed).ok()?;
    Some(std::str::from_utf8(text).ok()?.to_owned())
}

#[cfg(test)]
mod tests {
    use event_schemas::ids::{ChallengeId, EntryId};
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::subjects::Cache;

    const HERE: SealedField = SealedField::ChallengeMessage(ChallengeId(Uuid::from_u128(1)));

    fn subject(id: u128, key: u8) -> Subject {
        Subject { id: SubjectId(Uuid::from_u128(id)), key: SubjectKey([key; KEY_BYTES]) }
    }

    async fn vault() -> Vault {
        Vault::in_memory().await.unwrap()
    }

    fn run<T>(test: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
    }

    fn tenant() -> Tenant {
        "a".parse().unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn sealed_text_opens_in_its_field(text in ".*") {
            run(async {
                let vault = vault().await;
                let ann = vault.subject(&tenant(), &"ann".parse().unwrap()).await.unwrap();
                let sealed = vault.seal(&tenant(), &ann, HERE, &text).unwrap();
                let read = vault.unseal(&tenant(), ann.id, HERE, &sealed).await.unwrap();
                prop_assert_eq!(read, Some(text));
                Ok(())
            })?;
        }

        #[test]
        fn changed_text_does_not_open(text in ".*", at in any::<prop::sample::Index>(), bit in 0..8_u8) {
            run(async {
                let vault = vault().await;
                let ann = vault.subject(&tenant(), &"ann".parse().unwrap()).await.unwrap();
                let sealed = vault.seal(&tenant(), &ann, HERE, &text).unwrap();
                let mut bytes = STANDARD.decode(sealed.as_base64()).unwrap();
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << bit;
                let changed = Sealed::from_base64(STANDARD.encode(bytes));
                let read = vault.unseal(&tenant(), ann.id, HERE, &changed).await;
                prop_assert!(matches!(read, Err(VaultError::Sealed(HERE))), "{:?}", read);
                Ok(())
            })?;
        }

        #[test]
        fn malformed_sealed_text_does_not_open(text in "[A-Za-z0-9+/=]{0,80}") {
            prop_assert_eq!(open(&subject(1, 1).key, "", &Sealed::from_base64(text)), None);
        }
    }

    #[test]
    fn text_does_not_open_with_another_key() {
        let sealed = run(async { vault().await.seal(&tenant(), &subject(1, 1), HERE, "hello").unwrap() });
        let data = associated_data(&tenant(), subject(1, 1).id, HERE);
        assert_eq!(open(&subject(1, 1).key, &data, &sealed).as_deref(), Some("hello"));
        assert_eq!(open(&subject(1, 2).key, &data, &sealed), None);
    }

    #[test]
    fn moved_text_does_not_open_with_its_own_key() {
        let ann = subject(1, 1);
        let sealed = run(async { vault().await.seal(&tenant(), &ann, HERE, "hello").unwrap() });
        let elsewhere = [
            associated_data(&"b".parse().unwrap(), ann.id, HERE),
            associated_data(&tenant(), subject(2, 1).id, HERE),
            associated_data(
                &tenant(),
                ann.id,
                SealedField::ChallengeMessage(ChallengeId(Uuid::from_u128(2))),
            ),
            associated_data(&tenant(), ann.id, SealedField::QueueMetadata(EntryId(Uuid::from_u128(1)))),
        ];
        for data in elsewhere {
            assert_eq!(open(&ann.key, &data, &sealed), None, "{data:?}");
        }
    }

    #[tokio::test]
    async fn same_text_is_sealed_differently_each_time() {
        let vault = vault().await;
        let ann = subject(1, 1);
        let sealed = [(); 2].map(|()| vault.seal(&tenant(), &ann, HERE, "hello").unwrap());
        assert_ne!(sealed[0], sealed[1]);
        assert!(!sealed[0].as_base64().contains("hello"));
    }

    #[tokio::test]
    async fn text_of_another_tenants_subject_is_none() {
        let vault = vault().await;
        let ann = vault.subject(&tenant(), &"ann".parse().unwrap()).await.unwrap();
        let sealed = vault.seal(&tenant(), &ann, HERE, "hello").unwrap();
        for _ in 0..2 {
            assert_eq!(vault.unseal(&"b".parse().unwrap(), ann.id, HERE, &sealed).await.unwrap(), None);
            // The same holds after a start, with an empty cache.
            *vault.cache() = Cache::default();
        }
    }
}
