use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use event_schemas::time::Timestamp;
use jsonwebtoken::{EncodingKey, Header};
use poem::Request;
use serde_json::{Value, json};

use super::*;
use crate::caller::{Auth, Keys, Now};

/// An identity provider with one key pair, under any key id.
struct Provider(EcdsaKeyPair);

impl Provider {
    fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    /// Its set, with some members of the key replaced.
    fn set(&self, changes: &Value) -> Result<Jwks, InvalidJwks> {
        let point = self.0.public_key().as_ref();
        let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
        let mut key = json!({"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": "new", "use": "sig"});
        key.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        Jwks::parse(json!({ "keys": [key] }).to_string().as_bytes())
    }

    /// A request with a token that names the key.
    fn request(&self, key: Option<&str>) -> Request {
        let private = self.0.to_pkcs8v1().unwrap();
        let private = EncodingKey::from_ec_der(private.as_ref());
        let header = Header { kid: key.map(str::to_owned), ..Header::new(Algorithm::ES256) };
        let claims = json!({
            "sub": "ann", "roles": ["user"], "iss": "matchbook", "aud": "matchbook",
            "exp": now().micros() / 1_000_000 + 60,
        });
        let token = jsonwebtoken::encode(&header, &claims, &private).unwrap();
        Request::builder().header("authorization", format!("Bearer {token}")).finish()
    }
}

fn now() -> Timestamp {
    "2026-11-20T10:00:00Z".parse().unwrap()
}

fn auth() -> Auth {
    Auth::with_identity_provider(Keys::default(), vec![], Now::new(now))
}

#[test]
fn keys_of_a_set_verify_their_own_tokens_only() {
    let (provider, auth) = (Provider::new(), auth());
    let is_accepted = |key| auth.caller(&provider.request(key)).is_ok();
    assert!(!is_accepted(Some("new")));
    auth.set_jwks(Some(provider.set(&json!({})).unwrap()));
    assert!(is_accepted(Some("new")) && is_accepted(None) && !is_accepted(Some("old")));
    assert!(auth.caller(&Provider::new().request(Some("new"))).is_err());
    auth.set_jwks(None);
    assert!(is_accepted(Some("new")), "a failed attempt leaves the keys");
    auth.set_jwks(Some(provider.set(&json!({"kid": "newer"})).unwrap()));
    assert!(!is_accepted(Some("new")));
    for unusable in [json!({"use": "enc"}), json!({"alg": "ES384"}), json!({"kty": "oct", "k": "c2VjcmV0"})] {
        assert!(provider.set(&unusable).is_err(), "{unusable}");
    }
}

#[tokio::test(start_paused = true)]
async fn new_key_of_the_identity_provider_is_accepted() {
    let (provider, auth) = (Provider::new(), auth());
    auth.set_jwks(Some(provider.set(&json!({"kid": "old"})).unwrap()));
    tokio::time::advance(ASK_EVERY).await;
    let fetching = tokio::spawn({
        let (auth, set) = (auth.clone(), provider.set(&json!({})).unwrap());
        async move {
            auth.jwks_wanted().await;
            auth.set_jwks(Some(set));
        }
    });
    let request = provider.request(Some("new"));
    auth.prepare(&request).await;
    assert!(auth.caller(&request).is_ok());
    fetching.await.unwrap();
    // The set is new, so an invented key id neither asks for another nor waits.
    let start = tokio::time::Instant::now();
    auth.prepare(&provider.request(Some("invented"))).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
}
