//! One that stops, rests or is slow; and one that is made anew while it is read.

use std::time::Duration;

use event_schemas::ids::Position;
use event_schemas::stream::StreamId;

use super::history::{History, job, registered, tenant, worker};
use super::{SOON, open, reach, until};
use crate::found_match::{MatchFilter, MatchOrder};
use crate::generation::StillBehind;
use crate::status::{ProjectionStatus, State};
use crate::{Name, ReadModels};

fn status(models: &ReadModels, name: Name) -> ProjectionStatus {
    models.status().into_iter().find(|status| status.name == name.as_str()).unwrap()
}

#[tokio::test]
async fn an_event_that_nobody_can_read_stops_those_that_need_it_and_no_others() {
    let (folder, history) = (tempfile::tempdir().unwrap(), History::new());
    let models = open(&folder, &history).await;
    let before = history.job_created(job(1), None).await;
    let poison = history.append_poison(StreamId::matching(job(1))).await;
    let after = history.append(StreamId::worker(&tenant(), &worker(1)), &[registered(1)]).await;
    models.wait_for(&[Name::Workers], after, SOON).await.unwrap();
    for name in [Name::Jobs, Name::Matches, Name::MatchingSummary] {
        until(async || matches!(status(&models, name).state, State::Stopped(_))).await;
        let State::Stopped(stop) = status(&models, name).state else { unreachable!() };
        assert_eq!(stop.position, poison);
        assert_eq!(stop.event_type.unwrap().as_str(), "NobodyKnows");
        assert!(stop.error.contains("unknown type"), "{}", stop.error);
    }
    // What came before is there and can be read.
    let (_, position) = models.jobs().get(&tenant(), job(1)).await.unwrap().unwrap();
    assert_eq!(position, before);
    assert!(models.matching_summary().summary(&tenant(), job(1)).await.unwrap().is_some());
    assert_eq!(models.ready(), Ok(()));
    // Trying again finds the same event, also after a restart.
    models.resume(Name::Jobs).await.unwrap();
    until(async || matches!(status(&models, Name::Jobs).state, State::Stopped(_))).await;
    models.shutdown().await;
    let models = open(&folder, &history).await;
    until(async || matches!(status(&models, Name::Jobs).state, State::Stopped(_))).await;
    assert_eq!(status(&models, Name::Jobs).position, before);
}

#[tokio::test]
async fn an_event_of_a_stream_that_is_not_ours_concerns_nobody() {
    let (folder, history) = (tempfile::tempdir().unwrap(), History::new());
    let models = open(&folder, &history).await;
    history.append_poison("elsewhere-1".parse().unwrap()).await;
    let position = history.job_created(job(1), None).await;
    reach(&models, position).await;
}

#[tokio::test]
async fn a_rebuild_that_meets_an_unreadable_event_leaves_the_live_model_alone() {
    let (folder, history) = (tempfile::tempdir().unwrap(), History::new());
    let models = open(&folder, &history).await;
    history.job_created(job(1), None).await;
    history.append_poison(StreamId::job(job(1))).await;
    until(async || matches!(status(&models, Name::Jobs).state, State::Stopped(_))).await;
    models.rebuild(Name::Jobs).await.unwrap();
    until(async || status(&models, Name::Jobs).rebuild.is_some_and(|rebuild| rebuild.failed.is_some())).await;
    assert_eq!(status(&models, Name::Jobs).generation, Some(1));
    assert!(models.jobs().get(&tenant(), job(1)).await.unwrap().is_some());
}

#[tokio::test]
async fn who_waits_for_a_resting_model_is_told_where_it_rests() {
    let (folder, history) = (tempfile::tempdir().unwrap(), History::new());
    let models = open(&folder, &history).await;
    let before = history.job_created(job(1), None).await;
    reach(&models, before).await;
    models.pause(Name::Jobs).await.unwrap();
    assert_eq!(status(&models, Name::Jobs).state, State::Paused);
    let after = history.job_created(job(2), None).await;
    let waited = models.wait_for(&[Name::Matches, Name::Jobs], after, Duration::from_millis(50)).await;
    assert_eq!(waited, Err(StillBehind { name: Name::Jobs, at: Some(before) }));
    models.resume(Name::Jobs).await.unwrap();
    reach(&models, after).await;
}

#[tokio::test]
async fn a_slow_model_slows_nobody_and_misses_nothing() {
    let (folder, history) = (tempfile::tempdir().unwrap(), History::new());
    let models = open(&folder, &history).await;
    history.job_created(job(1), None).await;
    // Whoever holds its write lock keeps `matches` from storing anything.
    let generation = models.0.matches.slot.live().unwrap();
    let lock = generation.db.begin().await.unwrap();
    // More pages than the feed keeps for one that is behind.
    let mut position = Position::START;
    for n in 0..100 {
        position = history.found(job(1), n, 0.5).await;
        let others = [Name::Jobs, Name::Workers, Name::MatchingSummary];
        models.wait_for(&others, position, SOON).await.unwrap();
    }
    assert!(status(&models, Name::Matches).position < position);
    drop(lock);
    reach(&models, position).await;
    let page =
        models.matches().list(job(1), &MatchFilter::default(), MatchOrder::Oldest, None, 500).await.unwrap();
    assert_eq!(page.items.len(), 100);
}

#[tokio::test]
async fn who_reads_during_a_rebuild_always_sees_everything() {
    let (folder, history) = (tempfile::tempdir().unwrap(), History::new());
    let models = open(&folder, &history).await;
    history.job_created(job(1), None).await;
    let mut found = 0;
    for round in 1..=5_u64 {
        for _ in 0..40 {
            found += 1;
            let position = history.found(job(1), found, 0.5).await;
            reach(&models, position).await;
        }
        for name in Name::ALL {
            models.rebuild(name).await.unwrap();
        }
        loop {
            let page = models
                .matches()
                .list(job(1), &MatchFilter::default(), MatchOrder::Newest, None, 500)
                .await
                .unwrap();
            let (view, _) = models.jobs().get(&tenant(), job(1)).await.unwrap().unwrap();
            let summary = models.matching_summary().summary(&tenant(), job(1)).await.unwrap().unwrap();
            assert_eq!(page.items.len(), found as usize);
            assert_eq!(view.counters.matches_found, u64::from(found));
            assert_eq!(summary.fold.scores.count(), u64::from(found));
            let is_done =
                |status: ProjectionStatus| status.generation == Some(round + 1) && status.rebuild.is_none();
            if models.status().into_iter().all(is_done) {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    drop(models);
}

#[tokio::test]
async fn the_file_of_an_old_making_goes_with_its_last_reader() {
    let (folder, history) = (tempfile::tempdir().unwrap(), History::new());
    let models = open(&folder, &history).await;
    let position = history.job_created(job(1), None).await;
    reach(&models, position).await;
    let reader = models.0.jobs.slot.live().unwrap();
    let number = models.rebuild(Name::Jobs).await.unwrap();
    until(async || status(&models, Name::Jobs).generation == Some(number)).await;
    assert!(folder.path().join("jobs.1.sqlite").exists());
    drop(reader);
    until(async || !folder.path().join("jobs.1.sqlite").exists()).await;
    assert!(folder.path().join("jobs.2.sqlite").exists());
}

#[tokio::test]
async fn a_new_folder_is_read_from_only_when_the_whole_log_is_in_it() {
    let (folder, history) = (tempfile::tempdir().unwrap(), History::new());
    for n in 0..20 {
        history.job_created(job(n), None).await;
    }
    let models = open(&folder, &history).await;
    loop {
        match models.jobs().list(&tenant(), &Default::default(), None, 100).await {
            Ok(page) => break assert_eq!(page.items.len(), 20),
            Err(error) => assert!(error.to_string().contains("is being built"), "{error}"),
        }
        tokio::task::yield_now().await;
    }
    until(async || models.ready().is_ok()).await;
}
