//! Retries and outcomes of failures by error class.

use std::time::Duration;

use event_schemas::failure::FailureCode::{NetworkTimeout, OutOfMemory, PrivateVideo};
use event_schemas::ids::{JobId, Tenant};
use event_schemas::job::{Phase, RetryReason, RetryState};
use event_schemas::stream::StreamId;

use super::history::{
    History, cancelled, completed, created, failed, failed_and_retried, job, retried, tenant,
};
use super::test_store::TestStore;
use super::{open, reach};
use crate::ReadModels;
use crate::retry::{Outcomes, RetryClass, RetryCounts};

async fn classes(models: &ReadModels, history: &History, tenant: &Tenant) -> Vec<RetryClass> {
    reach(models, history.head()).await;
    models.retries().classes(tenant).await.unwrap().0
}

async fn fails(history: &History, id: JobId) {
    let now = history.clock.now();
    history.append(StreamId::job(id), &failed_and_retried(NetworkTimeout, now)).await;
}

#[tokio::test]
async fn attempts_delays_and_outcomes_are_counted_per_error_class() {
    let (store, history) = (TestStore::new(), History::new());
    let mut models = open(&store, &history).await;
    for n in 1..=5 {
        history.job_created(job(n), None).await;
        fails(&history, job(n)).await;
    }
    history.append(StreamId::job(job(1)), &[completed(Phase::Matching)]).await;
    history.append(StreamId::job(job(2)), &[cancelled()]).await;
    // The counts continue after a restart.
    classes(&models, &history, &tenant()).await;
    models.shutdown().await;
    models = open(&store, &history).await;
    let due = history.clock.now().after(Duration::from_secs(9));
    let events = [failed(NetworkTimeout, RetryState::InProgress), retried(3, due, RetryReason::Parked)];
    history.append(StreamId::job(job(3)), &events).await;
    history.append(StreamId::job(job(3)), &[failed(OutOfMemory, RetryState::CrashLoop)]).await;
    history.append(StreamId::job(job(4)), &[failed(NetworkTimeout, RetryState::MaximumAttempts)]).await;
    history.append(StreamId::job(job(5)), &[failed(PrivateVideo, RetryState::NonRetryable)]).await;
    let classes = classes(&models, &history, &tenant()).await;
    let codes: Vec<_> = classes.iter().map(|class| (class.code, class.failed_attempts)).collect();
    assert_eq!(codes, [(NetworkTimeout, 7), (OutOfMemory, 1), (PrivateVideo, 1)]);
    let timeouts = &classes[0];
    assert_eq!(timeouts.retries, RetryCounts { backoff: 5, parked: 1, ..RetryCounts::default() });
    assert_eq!(timeouts.scheduled(), 6);
    assert_eq!((timeouts.delay_micros, timeouts.longest_delay_micros), (24_000_000, 9_000_000));
    let outcomes = Outcomes { recovered: 1, cancelled: 1, maximum_attempts: 1, ..Outcomes::default() };
    assert_eq!(timeouts.outcomes, outcomes);
    assert_eq!(classes[1].outcomes, Outcomes { crash_loop: 1, ..Outcomes::default() });
    assert_eq!(classes[2].outcomes, Outcomes { non_retryable: 1, ..Outcomes::default() });
}

#[tokio::test]
async fn jobs_without_failure_and_of_other_tenants_are_not_counted() {
    let (store, history) = (TestStore::new(), History::new());
    let models = open(&store, &history).await;
    history.job_created(job(1), None).await;
    history.append(StreamId::job(job(1)), &[completed(Phase::Matching)]).await;
    let other: Tenant = "other".parse().unwrap();
    let now = history.clock.now();
    history.append_for(&other, StreamId::job(job(2)), &[created(job(2), None)]).await;
    history.append_for(&other, StreamId::job(job(2)), &failed_and_retried(NetworkTimeout, now)).await;
    assert_eq!(classes(&models, &history, &tenant()).await, []);
    assert_eq!(classes(&models, &history, &other).await.len(), 1);
}
