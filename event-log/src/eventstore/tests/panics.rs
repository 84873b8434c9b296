//! What the client library panics at, and where it would turn for ever. What concerns a whole process is tried in one of
//! its own.

use std::process::Command;

use super::*;

/// The server ends the subscription in order, again and again. Without the guard the reader's thread is lost, and with it
/// whatever runs there; with it the subscription is made again, after waits that grow.
#[tokio::test]
async fn a_subscription_that_is_ended_in_order_is_made_again_without_haste() {
    let cluster = Cluster::start(clock());
    let (log, _kept) = cluster.log(LONG);
    let before = cluster.node.times_asked("subscribe");
    cluster.node.put_into(Mood::EndsSubscriptions);
    until("it notices", || matches!(log.standing(), Standing::Away(_))).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let tries = cluster.node.times_asked("subscribe") - before;
    assert!((1..20).contains(&tries), "{tries} tries");
    cluster.node.put_into(Mood::Well);
    let appended = log.append(&stream("a-1"), Expected::NoStream, events(0..1)).await.unwrap();
    until("it is back", || *log.head().borrow() == appended.position).await;
}

#[tokio::test]
async fn messages_that_the_library_panics_at_end_a_subscription_and_nothing_else() {
    for mood in [Mood::SubscribesToNothing, Mood::ForgetsIds] {
        let mut cluster = Cluster::start(clock());
        let (log, _kept) = cluster.log(SHORT);
        cluster.node.put_into(mood);
        // What is under way breaks, and what is made anew meets the message.
        cluster.restart();
        let _ = log.append(&stream("a-1"), Expected::NoStream, events(0..1)).await;
        until("it notices", || matches!(log.standing(), Standing::Away(_))).await;
        cluster.node.put_into(Mood::Well);
        let again = log.append(&stream("a-1"), Expected::NoStream, events(0..1)).await.unwrap();
        until("it is back", || *log.head().borrow() == again.position).await;
        assert_eq!(cluster.node.events(), 1);
    }
}

#[tokio::test]
async fn an_answer_that_the_library_panics_at_leaves_the_append_unknown() {
    let cluster = Cluster::start(clock());
    let (log, _kept) = cluster.log(SHORT);
    cluster.node.put_into(Mood::SaysNothing);
    let outcome = log.append(&stream("a-1"), Expected::NoStream, events(0..1)).await;
    assert!(matches!(outcome, Err(AppendError::Unknown { .. })), "{outcome:?}");
    cluster.node.put_into(Mood::Well);
    log.append(&stream("a-1"), Expected::NoStream, events(0..1)).await.unwrap();
    assert_eq!(cluster.node.events(), 1);
}

/// Runs one of the trials below in a process of its own, and answers what it says.
fn trial(name: &str, environment: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([&format!("eventstore::tests::panics::{name}"), "--exact", "--nocapture"]);
    let run = command.env(TRIAL, name).envs(environment.iter().copied()).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success() && said.contains("1 passed"), "{said}");
    said
}

const TRIAL: &str = "MATCHBOOK_TEST_TRIAL";

fn is_trial(name: &str) -> bool {
    std::env::var(TRIAL).is_ok_and(|trial| trial == name)
}

#[test]
fn without_certificates_of_the_system_a_log_without_tls_works() {
    let nowhere = [("SSL_CERT_FILE", "/nonexistent"), ("SSL_CERT_DIR", "/nonexistent")];
    let said = trial("trial_of_appending_without_tls", &nowhere);
    assert!(!said.contains("panicked"), "{said}");
    let said = trial("trial_of_tls_without_certificates", &nowhere);
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn who_chose_the_cryptography_before_the_client_is_told_and_who_comes_after_harms_nothing() {
    // The library panics once, where nobody is hurt.
    trial("trial_of_a_provider_before", &[]);
    let said = trial("trial_of_a_provider_after", &[]);
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn trial_of_appending_without_tls() {
    if is_trial("trial_of_appending_without_tls") {
        append_one();
    }
}

#[test]
fn trial_of_a_provider_after() {
    if is_trial("trial_of_a_provider_after") {
        append_one();
        assert!(rustls::crypto::aws_lc_rs::default_provider().install_default().is_err());
        append_one();
    }
}

fn append_one() {
    let cluster = Cluster::start(clock());
    let (log, _kept) = cluster.log("");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(log.append(&stream("a-1"), Expected::NoStream, events(0..1))).unwrap();
}

#[tokio::test]
async fn trial_of_tls_without_certificates() {
    if is_trial("trial_of_tls_without_certificates") {
        let refused = EventStoreLog::open("esdb://localhost:1".parse().unwrap(), Unreached::Refuse).await;
        let said = refused.unwrap_err().to_string();
        assert!(said.contains("tlsCaFile") && said.contains("SSL_CERT_FILE"), "{said}");
    }
}

#[tokio::test]
async fn trial_of_a_provider_before() {
    if is_trial("trial_of_a_provider_before") {
        rustls::crypto::aws_lc_rs::default_provider().install_default().unwrap();
        let url = "esdb://localhost:1?tls=false".parse().unwrap();
        let refused = EventStoreLog::open(url, Unreached::Refuse).await.unwrap_err();
        assert!(matches!(&refused, ConnectError::Tls { .. }), "{refused}");
    }
}
