//! The panics and the endless loop of the client library. Tests that affect the whole process run in a child process.

use std::process::Command;

use super::*;

/// The server ends the subscription normally, again and again. Without the guard the subscriber's thread would spin for ever;
/// with it the subscription is repeated with backoff.
#[tokio::test]
async fn a_normally_ended_subscription_is_retried_with_backoff() {
    let cluster = Cluster::start(clock());
    let (log, _runtime) = cluster.log(LONG);
    let before = cluster.node.call_count("subscribe");
    cluster.node.set_mode(FaultMode::EndsSubscriptions);
    until("it is disconnected", || matches!(log.connection_state(), ConnectionState::Disconnected(_))).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let attempts = cluster.node.call_count("subscribe") - before;
    assert!((1..20).contains(&attempts), "{attempts} attempts");
    cluster.node.set_mode(FaultMode::Healthy);
    let appended = log.append(&stream("a-1"), Expected::NoStream, events(0..1)).await.unwrap();
    until("it is live again", || *log.head().borrow() == appended.position).await;
}

#[tokio::test]
async fn a_panic_in_a_subscription_ends_only_that_subscription() {
    for mode in [FaultMode::SubscriptionStreamNotFound, FaultMode::OmitsEventIds] {
        let mut cluster = Cluster::start(clock());
        let (log, _runtime) = cluster.log(SHORT);
        cluster.node.set_mode(mode);
        // Running calls break, and the new subscription receives the message.
        cluster.restart();
        let _ = log.append(&stream("a-1"), Expected::NoStream, events(0..1)).await;
        until("it is disconnected", || matches!(log.connection_state(), ConnectionState::Disconnected(_)))
            .await;
        cluster.node.set_mode(FaultMode::Healthy);
        let again = log.append(&stream("a-1"), Expected::NoStream, events(0..1)).await.unwrap();
        until("it is live again", || *log.head().borrow() == again.position).await;
        assert_eq!(cluster.node.events(), 1);
    }
}

#[tokio::test]
async fn a_panic_at_the_response_leaves_the_append_unknown() {
    let cluster = Cluster::start(clock());
    let (log, _runtime) = cluster.log(SHORT);
    cluster.node.set_mode(FaultMode::OmitsAppendResult);
    let outcome = log.append(&stream("a-1"), Expected::NoStream, events(0..1)).await;
    assert!(matches!(outcome, Err(AppendError::Unknown { .. })), "{outcome:?}");
    cluster.node.set_mode(FaultMode::Healthy);
    log.append(&stream("a-1"), Expected::NoStream, events(0..1)).await.unwrap();
    assert_eq!(cluster.node.events(), 1);
}

/// Runs one of the trials below in a child process, and returns its output.
fn trial(name: &str, environment: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([&format!("eventstore::tests::panics::{name}"), "--exact", "--nocapture"]);
    let run = command.env(TRIAL, name).envs(environment.iter().copied()).output().unwrap();
    let output = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success() && output.contains("1 passed"), "{output}");
    output
}

const TRIAL: &str = "MATCHBOOK_TEST_TRIAL";

fn is_trial(name: &str) -> bool {
    std::env::var(TRIAL).is_ok_and(|trial| trial == name)
}

#[test]
fn a_log_without_tls_needs_no_system_certificates() {
    let nowhere = [("SSL_CERT_FILE", "/nonexistent"), ("SSL_CERT_DIR", "/nonexistent")];
    let output = trial("trial_of_appending_without_tls", &nowhere);
    assert!(!output.contains("panicked"), "{output}");
    let output = trial("trial_of_tls_without_certificates", &nowhere);
    assert!(!output.contains("panicked"), "{output}");
}

#[test]
fn an_earlier_crypto_provider_fails_and_a_later_one_is_harmless() {
    // The library panics once, in the trial's process.
    trial("trial_of_a_provider_before", &[]);
    let output = trial("trial_of_a_provider_after", &[]);
    assert!(!output.contains("panicked"), "{output}");
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
    let (log, _runtime) = cluster.log("");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(log.append(&stream("a-1"), Expected::NoStream, events(0..1))).unwrap();
}

#[tokio::test]
async fn trial_of_tls_without_certificates() {
    if is_trial("trial_of_tls_without_certificates") {
        let refused = EventStoreLog::open("esdb://localhost:1".parse().unwrap(), WhenUnreachable::Fail).await;
        let output = refused.unwrap_err().to_string();
        assert!(output.contains("tlsCaFile") && output.contains("SSL_CERT_FILE"), "{output}");
    }
}

#[tokio::test]
async fn trial_of_a_provider_before() {
    if is_trial("trial_of_a_provider_before") {
        rustls::crypto::aws_lc_rs::default_provider().install_default().unwrap();
        let url = "esdb://localhost:1?tls=false".parse().unwrap();
        let refused = EventStoreLog::open(url, WhenUnreachable::Fail).await.unwrap_err();
        assert!(matches!(&refused, ConnectError::Tls { .. }), "{refused}");
    }
}
