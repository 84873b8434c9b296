use std::time::Duration;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::*;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const HOUR: Duration = Duration::from_secs(3600);

fn now() -> Timestamp {
    "2026-11-20T10:00:00Z".parse().unwrap()
}

fn acme() -> Tenant {
    "acme".parse().unwrap()
}

fn keys() -> Keys {
    Keys::default().secret(SECRET).unwrap()
}

fn minted() -> String {
    mint(SECRET, &Claims::new(&acme(), "ann", Role::Worker.into(), now(), HOUR)).unwrap()
}

/// A token with any claims.
fn signed(algorithm: Algorithm, key: &EncodingKey, claims: &Value) -> String {
    jsonwebtoken::encode(&Header::new(algorithm), claims, key).unwrap()
}

/// The claims of a good token, with some replaced; null removes one.
fn claims(changes: &Value) -> Value {
    let second = now().micros() / 1_000_000;
    let mut claims = json!({"sub": "ann", "iss": "matchbook", "aud": "matchbook", "exp": second + 60});
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => claims.as_object_mut().unwrap().remove(name),
            value => claims.as_object_mut().unwrap().insert(name.clone(), value.clone()),
        };
    }
    claims
}

fn verify(changes: &Value) -> Result<Caller, BadToken> {
    let token = signed(Algorithm::HS256, &EncodingKey::from_secret(SECRET), &claims(changes));
    keys().verify(&token, &[], now())
}

fn pem(der: &[u8]) -> String {
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der))
}

#[test]
fn minted_token_names_its_caller_and_roles() {
    let claims = Claims::new(&acme(), "ann", Role::User | Role::Worker, now(), HOUR).rating("blitz", 1610.5);
    let caller = keys().verify(&mint(SECRET, &claims).unwrap(), &[], now()).unwrap();
    assert_eq!(caller.tenant, acme());
    assert_eq!(caller.user.unwrap().as_str(), "ann");
    assert_eq!(caller.roles, Role::User | Role::Worker);
    assert_eq!(caller.ratings["blitz"], 1610.5);
    assert_eq!(caller.via, Credential::Token);
}

#[test]
fn token_without_a_known_role_has_no_rights() {
    let caller = verify(&json!({})).unwrap();
    assert_eq!((caller.tenant.as_str(), caller.roles), (DEFAULT_TENANT, Roles::NONE));
    for none in [json!([]), json!(["wizard"]), json!(["Admin", " user"])] {
        assert_eq!(verify(&json!({"roles": none})).unwrap().roles, Roles::NONE);
    }
    assert_eq!(verify(&json!({"roles": ["admin", "wizard"]})).unwrap().roles, Role::Admin.into());
}

#[test]
fn token_is_valid_until_a_minute_after_its_expiry() {
    let at = |seconds| keys().verify(&minted(), &[], now().after(HOUR + Duration::from_secs(seconds)));
    assert!(at(59).is_ok());
    assert!(matches!(at(60), Err(BadToken::Expired)));
}

#[test]
fn invalid_claims_are_refused() {
    let second = now().micros() / 1_000_000;
    for (case, refused) in [
        ("no exp", json!({"exp": null})),
        ("past exp", json!({"exp": second - 61})),
        ("exp as text", json!({"exp": (second + 60).to_string()})),
        ("future nbf", json!({"nbf": second + 61})),
        ("nbf as text", json!({"nbf": "1"})),
        ("future iat", json!({"iat": second + 61})),
        ("no iss", json!({"iss": null})),
        ("other iss", json!({"iss": "evil"})),
        ("no aud", json!({"aud": null})),
        ("other aud", json!({"aud": ["a", "b"]})),
        ("no sub", json!({"sub": null})),
        ("sub as number", json!({"sub": 5})),
        ("empty sub", json!({"sub": ""})),
        ("invalid tenant", json!({"tenant": "a\nb"})),
        ("roles as text", json!({"roles": "admin"})),
        ("rating as text", json!({"ratings": {"blitz": "9999"}})),
    ] {
        assert!(verify(&refused).is_err(), "{case}");
    }
}

#[test]
fn one_matching_audience_is_enough() {
    assert!(verify(&json!({"aud": ["other", "matchbook"], "nbf": 1, "iat": 1})).is_ok());
}

#[test]
fn duplicate_claim_is_refused() {
    let second = now().micros() / 1_000_000 + 60;
    let verify = |more: &str, more_header: &str| {
        let payload = format!(r#"{{"sub":"ann","iss":"matchbook","aud":"matchbook","exp":{second}{more}}}"#);
        let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","typ":"JWT"{more_header}}}"#));
        let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(payload));
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, SECRET);
        let signature = URL_SAFE_NO_PAD.encode(aws_lc_rs::hmac::sign(&key, message.as_bytes()));
        keys().verify(&format!("{message}.{signature}"), &[], now())
    };
    assert!(verify("", "").is_ok());
    for more in [r#","sub":"bob""#, r#","note":1,"note":1"#, r#","ratings":{"blitz":1,"blitz":2}"#] {
        assert!(matches!(verify(more, ""), Err(BadToken::Ambiguous(_))), "{more}");
    }
    assert!(matches!(verify("", r#","kid":"a","kid":"b""#), Err(BadToken::Ambiguous(_))));
}

#[test]
fn token_with_a_foreign_signature_is_refused() {
    let token = minted();
    let (message, signature) = token.rsplit_once('.').unwrap();
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
    let payload = token.split('.').nth(1).unwrap();
    for (case, refused) in [
        (
            "other secret",
            mint(b"another secret of thirty-two byte", &Claims::new(&acme(), "a", Roles::all(), now(), HOUR))
                .unwrap(),
        ),
        ("empty signature", format!("{message}.")),
        ("no signature", message.to_owned()),
        ("changed payload", token.replace(&payload[..8], "eyJzdWJj")),
        ("cut signature", format!("{message}.{}", &signature[..20])),
        ("alg none", format!("{none}.{payload}.")),
        ("nothing", String::new()),
        ("dots", "..".into()),
        ("a megabyte", "a".repeat(1 << 20)),
    ] {
        assert!(keys().verify(&refused, &[], now()).is_err(), "{case}");
    }
}

#[test]
fn key_headers_are_ignored_and_critical_ones_refused() {
    let key = EncodingKey::from_secret(SECRET);
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some("../../dev/null".into());
    header.jku = Some("https://evil.example/jwks".into());
    let token = jsonwebtoken::encode(&header, &claims(&json!({})), &key).unwrap();
    assert!(keys().verify(&token, &[], now()).is_ok());
    header.crit = Some(vec!["exp".into()]);
    let token = jsonwebtoken::encode(&header, &claims(&json!({})), &key).unwrap();
    assert!(matches!(keys().verify(&token, &[], now()), Err(BadToken::CriticalExtension)));
}

#[test]
fn each_key_verifies_its_own_algorithm_only() {
    let ed = Ed25519KeyPair::generate().unwrap();
    let ed_public = AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(ed.public_key()).unwrap();
    let ed_private = EncodingKey::from_ed_der(ed.to_pkcs8v1().unwrap().as_ref());
    let ec = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let ec_public = AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(ec.public_key()).unwrap();
    let ec_private = EncodingKey::from_ec_der(ec.to_pkcs8v1().unwrap().as_ref());
    let rsa = aws_lc_rs::rsa::KeyPair::generate(KeySize::Rsa2048).unwrap();
    let rsa_public = AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(rsa.public_key()).unwrap();
    let rsa_pkcs8 = AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&rsa).unwrap();
    let rsa_pem = format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        STANDARD.encode(rsa_pkcs8.as_ref())
    );
    let rsa_private = EncodingKey::from_rsa_pem(rsa_pem.as_bytes()).unwrap();
    let all = [ed_public.as_ref(), ec_public.as_ref(), rsa_public.as_ref()]
        .iter()
        .fold(keys(), |keys, public| keys.pem(pem(public).as_bytes()).unwrap());
    for (algorithm, private) in
        [(Algorithm::EdDSA, &ed_private), (Algorithm::ES256, &ec_private), (Algorithm::RS256, &rsa_private)]
    {
        let token = signed(algorithm, private, &claims(&json!({})));
        assert!(all.verify(&token, &[], now()).is_ok(), "{algorithm:?}");
        assert!(matches!(keys().verify(&token, &[], now()), Err(BadToken::NoKey)), "{algorithm:?}");
    }
    let token = signed(Algorithm::RS384, &rsa_private, &claims(&json!({})));
    assert!(matches!(all.verify(&token, &[], now()), Err(BadToken::NoKey)));
}

#[test]
fn public_key_is_never_used_as_a_shared_secret() {
    let ed = Ed25519KeyPair::generate().unwrap();
    let public = AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(ed.public_key()).unwrap();
    let public = pem(public.as_ref());
    let token = signed(Algorithm::HS256, &EncodingKey::from_secret(public.as_bytes()), &claims(&json!({})));
    let keys = Keys::default().pem(public.as_bytes()).unwrap();
    assert!(matches!(keys.verify(&token, &[], now()), Err(BadToken::NoKey)));
}

#[test]
fn short_secret_and_unknown_key_file_are_refused() {
    assert!(matches!(Keys::default().secret(b"short"), Err(KeyError::ShortSecret(5))));
    assert!(matches!(Keys::default().pem(b"hello"), Err(KeyError::UnknownPem)));
}
