//! Authorization, simulated faults, and limits.

use std::time::Duration;

use event_schemas::envelope::{Actor, Cause, NewEvent};
use event_schemas::ids::{CommandId, CorrelationId, JobId, Position};
use event_schemas::job::{JobEvent, JobPhaseChanged};
use event_schemas::stream::StreamId;
use eventstore::{
    AppendToStreamOptions, Client, Credentials, Error, EventData, ReadAllOptions, SubscribeToAllOptions,
};
use uuid::Uuid;

use super::{START, ServerFixture, client, event, settings, soon};
use crate::wire::{Access, EndPoint, Fault, Right, Settings, TlsIdentity, User};

fn user(name: &str, right: Right) -> User {
    User { name: name.to_owned(), password: format!("secret of {name}"), right }
}

fn with_users(anonymous: Option<Right>) -> Settings {
    let users = vec![user("carla", Right::Clients), user("adapter", Right::Domain)];
    Settings { access: Access { users, anonymous }, ..Settings::default() }
}

fn as_user(name: &str) -> AppendToStreamOptions {
    AppendToStreamOptions::default()
        .authenticated(Credentials::new(name.to_owned(), format!("secret of {name}")))
}

async fn append(client: &Client, options: &AppendToStreamOptions, stream: &str) -> Result<(), Error> {
    client.append_to_stream(stream, options, event(1)).await.map(drop)
}

#[tokio::test]
async fn reads_and_appends_need_the_right_password() {
    let fixture = ServerFixture::with(with_users(None)).await;
    let client = fixture.client();
    for options in [
        AppendToStreamOptions::default(),
        AppendToStreamOptions::default().authenticated(Credentials::new("carla", "secret of adapter")),
        AppendToStreamOptions::default().authenticated(Credentials::new("unknown", "")),
    ] {
        assert!(matches!(append(&client, &options, "a").await, Err(Error::AccessDenied)));
    }
    let read = client.read_all(&ReadAllOptions::default()).await;
    assert!(matches!(read, Err(Error::AccessDenied)));
    append(&client, &as_user("carla"), "a").await.unwrap();
    assert_eq!(fixture.head(), Position(1));
}

fn job() -> StreamId {
    StreamId::job(JobId(Uuid::from_u128(7)))
}

/// An event of a job, as this program appends it.
fn domain_event() -> NewEvent {
    let cause = Cause {
        command_id: CommandId(Uuid::from_u128(1)),
        correlation_id: CorrelationId(Uuid::from_u128(1)),
        event_id: None,
        tenant: "t".parse().unwrap(),
        actor: Actor::Service("s".parse().unwrap()),
        subject: None,
        idempotency: None,
        traceparent: None,
    };
    let sample: JobPhaseChanged =
        serde_json::from_str(include_str!("../../../../../event-schemas/fixtures/JobPhaseChanged/v1.json"))
            .map(|sample: serde_json::Value| serde_json::from_value(sample["data"].clone()).unwrap())
            .unwrap();
    NewEvent::encode(&cause, &job(), 0, START, &JobEvent::from(sample).into())
}

fn sent(event: &NewEvent) -> EventData {
    let data: serde_json::Value = serde_json::from_slice(&event.data).unwrap();
    EventData::json(event.event_type.as_str(), &data).unwrap().id(event.id.0).metadata(event.metadata.clone())
}

#[tokio::test]
async fn only_trusted_users_append_valid_domain_events() {
    let fixture = ServerFixture::with(with_users(Some(Right::Clients))).await;
    let client = fixture.client();
    let (proper, name) = (domain_event(), job().to_string());
    for stream in [name.as_str(), "matchbook.log"] {
        let refused = client.append_to_stream(stream, &as_user("carla"), sent(&proper)).await;
        assert!(matches!(refused, Err(Error::AccessDenied)), "{refused:?}");
    }
    let newer = String::from_utf8(proper.metadata.to_vec())
        .unwrap()
        .replace(r#""schema_version":1"#, r#""schema_version":999"#);
    for wrong in [
        EventData::json("JobFrobnicated", &serde_json::json!({})).unwrap().metadata(proper.metadata.clone()),
        EventData::json("JobPhaseChanged", &serde_json::json!({})).unwrap().metadata(proper.metadata.clone()),
        EventData::binary("JobPhaseChanged", bytes::Bytes::from_static(b"rubbish"))
            .metadata(proper.metadata.clone()),
        sent(&proper).metadata(bytes::Bytes::new()),
        sent(&proper).metadata(newer.into()),
    ] {
        let refused = client.append_to_stream(name.as_str(), &as_user("adapter"), wrong).await;
        assert!(matches!(refused, Err(Error::AccessDenied)), "{refused:?}");
    }
    for stream in [format!("worker-{}", Uuid::nil()), format!("player-{}", Uuid::nil()), format!("$${name}")]
    {
        let refused = client.append_to_stream(stream.as_str(), &as_user("adapter"), sent(&proper)).await;
        assert!(matches!(refused, Err(Error::AccessDenied)), "{stream}: {refused:?}");
    }
    assert_eq!(fixture.head(), Position::START);
    client.append_to_stream(name.as_str(), &as_user("adapter"), sent(&proper)).await.unwrap();
    client.append_to_stream("matchbook.log", &as_user("adapter"), event(3)).await.unwrap();
    assert_eq!(fixture.head(), Position(2));
}

#[tokio::test]
async fn subscriptions_per_connection_are_limited() {
    let fixture = ServerFixture::with(Settings { subscriptions_max: 2, ..settings() }).await;
    let client = fixture.client();
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut all = client.subscribe_to_all(&SubscribeToAllOptions::default()).await;
        soon(all.next_subscription_event()).await.unwrap();
        held.push(all);
    }
    let mut one_more = client.subscribe_to_all(&SubscribeToAllOptions::default()).await;
    let refused = soon(one_more.next_subscription_event()).await.unwrap_err();
    assert!(refused.to_string().contains("the maximum number of subscriptions"), "{refused}");
    append(&client, &Default::default(), "a").await.unwrap();
}

#[tokio::test]
async fn a_fault_is_simulated_until_it_is_cleared() {
    let fixture = ServerFixture::new().await;
    let client = fixture.client();
    append(&client, &Default::default(), "a").await.unwrap();
    let mut all = client.subscribe_to_all(&SubscribeToAllOptions::default()).await;
    soon(all.next_subscription_event()).await.unwrap();
    fixture.server.faults().set(Fault::SlowConsumer);
    let ended = loop {
        if let Err(error) = soon(all.next_subscription_event()).await {
            break error;
        }
    };
    assert!(ended.to_string().contains("too slow"), "{ended}");
    append(&client, &Default::default(), "b").await.unwrap();
    for fault in ["unavailable", "not-ready"] {
        fixture.server.faults().set(fault.parse().unwrap());
        let refused = append(&client, &Default::default(), "c").await;
        assert!(matches!(refused, Err(Error::ServerError(_))), "{refused:?}");
    }
    fixture.server.faults().clear();
    soon(async { while append(&client, &Default::default(), "c").await.is_err() {} }).await;
    let leader = EndPoint { host: "elsewhere".to_owned(), port: 9 };
    assert_eq!("not-leader elsewhere:9".parse(), Ok(Fault::NotLeader(leader.clone())));
    fixture.server.faults().set(Fault::NotLeader(leader));
    let refused = append(&client, &Default::default(), "d").await.unwrap_err();
    let Error::NotLeaderException(leader) = refused else { panic!("{refused:?}") };
    assert_eq!((leader.host.as_str(), leader.port), ("elsewhere", 9));
    assert!("slow".parse::<Fault>().is_err());
}

#[tokio::test]
async fn a_server_with_a_certificate_uses_tls() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificates, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&certificates, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let tls = Some(TlsIdentity { certificates: certificates.clone(), key });
    let fixture = ServerFixture::with(Settings { tls, ..with_users(None) }).await;
    let port = fixture.server.address().port();
    let url = format!("esdb://carla:secret of carla@localhost:{port}?tlsCaFile={}", certificates.display());
    let client = client(&url.replace("secret of carla", "secret%20of%20carla"));
    soon(append(&client, &as_user("carla"), "a")).await.unwrap();
    // A silent connection does not delay others.
    let _silent = tokio::net::TcpStream::connect(fixture.server.address()).await.unwrap();
    soon(append(&client, &as_user("carla"), "b")).await.unwrap();
    assert_eq!(fixture.head(), Position(2));
    let wrong = TlsIdentity { certificates: folder.path().join("none.pem"), key: certificates };
    assert!(wrong.acceptor().err().unwrap().to_string().contains("none.pem"));
    fixture.server.stop(Duration::from_secs(5)).await;
}
