//! The erasure of a person.

use std::time::Duration;

use event_log::{EventLog, Expected};
use event_schemas::envelope::{Actor, Cause, Event, NewEvent};
use event_schemas::ids::{CommandId, CorrelationId, SubjectId, Tenant, UserId};
use event_schemas::stream::StreamId;
use event_schemas::user::{SubjectKeyDestroyed, UserEvent};
use serde_json::{Value, json};
use uuid::Uuid;
use vault::Vault;
use web::caller::{Claims, Role};

use crate::support::TestApp;

const FEEDBACK: &str = "/api/v1/feedback";
const ERASE_ANN: &str = "/audit/subjects/ann/erase";

fn view_of(user: &str) -> Value {
    json!({"user_id": user, "product_id": 1, "interaction_type": "view"})
}

fn default_tenant() -> Tenant {
    "default".parse().unwrap()
}

impl TestApp {
    /// The subject of a user of the default tenant.
    async fn subject_of(&self, user: &str) -> Option<SubjectId> {
        let user: UserId = user.parse().unwrap();
        self.vault.find_subject(&default_tenant(), &user).await.unwrap()
    }

    /// The subjects of the recorded interactions.
    async fn subjects_of_interactions(&self) -> Vec<SubjectId> {
        let subject = |envelope: event_schemas::envelope::Envelope| match envelope.event {
            Event::User(UserEvent::InteractionRecorded(event)) => Some(event.subject_id),
            _ => None,
        };
        self.events().await.into_iter().filter_map(subject).collect()
    }
}

#[tokio::test]
async fn erased_user_returns_as_another_subject() {
    let app = TestApp::new().await;
    for user in ["ann", "ann", "bob"] {
        app.post(FEEDBACK, &view_of(user)).await.ok();
    }
    let subject = app.subject_of("ann").await.unwrap();
    let erased = app.call("POST", ERASE_ANN).send().await.ok();
    assert_eq!((&erased["user_id"], &erased["subject_id"]), (&json!("ann"), &json!(subject)));
    assert_eq!(erased["remaining"], json!({"user_events": 2, "player_events": 0}));
    let events = app.events().await;
    let event = events.iter().find(|event| json!(event.id) == erased["event_id"]).unwrap();
    let destroyed = SubjectKeyDestroyed { subject_id: subject };
    assert_eq!(event.event, Event::User(destroyed.into()));
    assert_eq!(json!(event.position), erased["position"]);
    assert_eq!(app.subject_of("ann").await, None);
    assert_eq!(app.vault.user(&default_tenant(), subject).await.unwrap(), None);
    assert!(app.subject_of("bob").await.is_some());
    for _ in 0..2 {
        app.call("POST", ERASE_ANN).send().await.refused(404, "NOT_FOUND");
    }
    assert_eq!(app.count("SubjectKeyDestroyed").await, 1);
    app.post(FEEDBACK, &view_of("ann")).await.ok();
    let again = app.subject_of("ann").await.unwrap();
    assert_ne!(again, subject);
    assert_eq!(*app.subjects_of_interactions().await.last().unwrap(), again);
}

#[tokio::test]
async fn repeated_erasure_has_the_first_answer() {
    let app = TestApp::new().await;
    app.post(FEEDBACK, &view_of("ann")).await.ok();
    let calls = (0..8).map(|_| app.call("POST", ERASE_ANN).key("k").send());
    let answers = futures_util::future::join_all(calls).await;
    assert!(answers.iter().all(|answer| *answer == answers[0] && answer.status == 200), "{answers:?}");
    assert_eq!(app.count("SubjectKeyDestroyed").await, 1);
    // The user has returned since.
    app.post(FEEDBACK, &view_of("ann")).await.ok();
    let app = app.restarted().await;
    assert_eq!(app.call("POST", ERASE_ANN).key("k").send().await, answers[0]);
    assert!(app.subject_of("ann").await.is_some());
    let recorded = app.events().await.into_iter().map(|event| format!("{event:?}"));
    assert!(recorded.into_iter().all(|event| !event.contains("ann")), "the answer does not name the user");
}

#[tokio::test]
async fn unknown_user_is_not_erased_and_not_created() {
    let app = TestApp::new().await;
    app.call("POST", "/audit/subjects/stranger/erase").send().await.refused(404, "NOT_FOUND");
    assert_eq!((app.subject_of("stranger").await, app.head()), (None, 0));
}

#[tokio::test]
async fn erasure_is_for_admins_of_the_tenant_or_of_all() {
    let app = TestApp::with_keys().await;
    let view = |user: &str| app.call("POST", FEEDBACK).roles("shop", Role::Service).body(&view_of(user));
    view("ann").send().await.ok();
    for role in [Role::User, Role::Worker, Role::Service, Role::Auditor] {
        let refused = app.call("POST", ERASE_ANN).roles("ann", role).send().await;
        refused.refused(403, "FORBIDDEN");
    }
    let as_admin_of = |tenant: &str, query: &str| {
        let (tenant, minute) = (tenant.parse().unwrap(), Duration::from_secs(60));
        let claims = Claims::new(&tenant, "root", Role::Admin.into(), app.clock.now(), minute);
        app.call("POST", format!("{ERASE_ANN}{query}")).claims("root", Role::Admin, |_| claims)
    };
    as_admin_of("other", "").send().await.refused(404, "NOT_FOUND");
    as_admin_of("other", "?tenant=default").send().await.refused(403, "FORBIDDEN");
    as_admin_of("*", "").send().await.refused(400, "INVALID_REQUEST");
    assert!(app.subject_of("ann").await.is_some());
    as_admin_of("*", "?tenant=default").send().await.ok();
    assert_eq!(app.subject_of("ann").await, None);
    view("ann").send().await.ok();
    as_admin_of("default", "?tenant=default").send().await.ok();
    assert_eq!(app.subject_of("ann").await, None);
}

#[tokio::test]
async fn waiting_queue_entry_of_an_erased_user_is_cancelled() {
    let app = TestApp::new().await;
    app.queue_in_blitz("ann").await;
    let erased = app.call("POST", ERASE_ANN).send().await.ok();
    assert_eq!(erased["remaining"], json!({"user_events": 0, "player_events": 2}));
    let events = app.events().await;
    let cancelled = events.iter().find(|event| event.event.event_type().as_str() == "QueueEntryCancelled");
    let cancelled = cancelled.unwrap();
    assert_eq!(cancelled.metadata.actor, Actor::System("erasure".parse().unwrap()));
    assert_eq!(json!(cancelled.position), erased["position"], "the answer's position covers it");
    // The next player is not paired with the erased one.
    app.queue_in_blitz("bob").await;
    app.run_ready_tasks().await;
    assert_eq!(app.count("MatchProposed").await, 0);
    app.queue_in_blitz("ann").await;
    app.until_count("MatchConfirmed", 1).await;
}

/// Records the event alone, as a server does that is killed before it has destroyed the key.
async fn record_erasure(app: &TestApp, subject: SubjectId) {
    let stream = StreamId::user(&default_tenant(), subject);
    let cause = Cause {
        command_id: CommandId(Uuid::from_u128(1)),
        correlation_id: CorrelationId(Uuid::from_u128(1)),
        event_id: None,
        tenant: default_tenant(),
        actor: Actor::Service("test".parse().unwrap()),
        subject: Some(subject),
        idempotency: None,
        traceparent: None,
    };
    let event = Event::User(SubjectKeyDestroyed { subject_id: subject }.into());
    let event = NewEvent::encode(&cause, &stream, 0, app.clock.now(), &event);
    app.log.append(&stream, Expected::Any, vec![event]).await.unwrap();
}

#[tokio::test]
async fn interrupted_erasure_is_completed_by_the_next_start() {
    let app = TestApp::new().await;
    app.queue_in_blitz("ann").await;
    app.post(FEEDBACK, &view_of("ann")).await.ok();
    let subject = app.subject_of("ann").await.unwrap();
    app.commands.shutdown().await;
    record_erasure(&app, subject).await;
    // What the subject is still sent by a server that does not know yet is refused, and not lost in a stream that is over.
    app.post(FEEDBACK, &view_of("ann")).await.refused(409, "CONFLICT");
    assert_eq!(app.subject_of("ann").await, Some(subject));
    let app = app.restarted().await;
    app.until_count("QueueEntryCancelled", 1).await;
    while app.subject_of("ann").await.is_some() {
        tokio::task::yield_now().await;
    }
    app.post(FEEDBACK, &view_of("ann")).await.ok();
    assert_ne!(*app.subjects_of_interactions().await.last().unwrap(), subject);
}

#[tokio::test]
async fn erasure_is_repeated_for_a_vault_from_a_backup() {
    let folder = tempfile::tempdir().unwrap();
    let (file, copy) = (folder.path().join("vault.sqlite"), folder.path().join("copy.sqlite"));
    let vault = Vault::open(&file).await.unwrap();
    let app = TestApp::new().await.with_vault(vault).await;
    app.post(FEEDBACK, &view_of("ann")).await.ok();
    let subject = app.subject_of("ann").await.unwrap();
    vault::back_up(&file, &copy).await.unwrap();
    app.call("POST", ERASE_ANN).send().await.ok();
    let vault = Vault::open(&copy).await.unwrap();
    assert_eq!(vault.user(&default_tenant(), subject).await.unwrap(), Some("ann".parse().unwrap()));
    let app = app.with_vault(vault).await;
    while app.subject_of("ann").await.is_some() {
        tokio::task::yield_now().await;
    }
    assert_eq!(app.count("SubjectKeyDestroyed").await, 1);
}
