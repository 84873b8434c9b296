//! Stopped, paused, slow and rebuilt projections.

use std::sync::Arc;
use std::time::Duration;

use event_schemas::ids::Position;
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use futures_util::FutureExt;

use super::history::{History, job, registered, tenant, worker};
use super::test_store::TestStore;
use super::{TIMEOUT, open, reach, until};
use crate::feed::Feed;
use crate::generation::StillBehind;
use crate::image_match::{ImageMatchFilter, ImageMatchOrder};
use crate::live_thread::LiveThread;
use crate::status::{Failure, ProjectionStatus, ReportedState, StatusTracker};
use crate::{Name, ReadModels};

fn status(models: &ReadModels, name: Name) -> ProjectionStatus {
    models.status().into_iter().find(|status| status.name == name.as_str()).unwrap()
}

#[tokio::test]
async fn unreadable_event_stops_only_projections_of_its_category() {
    let (store, history) = (TestStore::new(), History::new());
    let models = open(&store, &history).await;
    let before = history.job_created(job(1), None).await;
    let unreadable = history.append_unreadable(StreamId::image_matching(job(1))).await;
    let after = history.append(StreamId::worker(&tenant(), &worker(1)), &[registered(1)]).await;
    models.wait_for(&[Name::Workers], after, TIMEOUT).await.unwrap();
    for name in [Name::Jobs, Name::ImageMatches, Name::MatchingSummary] {
        until(async || status(&models, name).state == ReportedState::Stopped).await;
        let failure = status(&models, name).stop.unwrap();
        assert_eq!(failure.position, unreadable);
        assert_eq!(failure.event_type.unwrap(), "UnknownEvent");
        assert!(failure.error.contains("unknown type"), "{}", failure.error);
    }
    // The previous events are applied and can be read.
    let (_, position) = models.jobs().get(&tenant(), job(1)).await.unwrap().unwrap();
    assert_eq!(position, before);
    assert!(models.matching_summary().summary(&tenant(), job(1)).await.unwrap().is_some());
    assert_eq!(models.ready(), Ok(()));
    // A retry meets the same event, also after a restart.
    models.resume(Name::Jobs).await.unwrap();
    until(async || status(&models, Name::Jobs).state == ReportedState::Stopped).await;
    models.shutdown().await;
    let models = open(&store, &history).await;
    until(async || status(&models, Name::Jobs).state == ReportedState::Stopped).await;
    assert_eq!(status(&models, Name::Jobs).position, before);
}

#[tokio::test]
async fn unreadable_event_of_foreign_stream_is_ignored() {
    let (store, history) = (TestStore::new(), History::new());
    let models = open(&store, &history).await;
    history.append_unreadable("elsewhere-1".parse().unwrap()).await;
    let position = history.job_created(job(1), None).await;
    reach(&models, position).await;
}

#[tokio::test]
async fn failed_rebuild_keeps_live_generation() {
    let (store, history) = (TestStore::new(), History::new());
    let models = open(&store, &history).await;
    history.job_created(job(1), None).await;
    history.append_unreadable(StreamId::job(job(1))).await;
    until(async || status(&models, Name::Jobs).state == ReportedState::Stopped).await;
    models.rebuild(Name::Jobs).await.unwrap();
    until(async || status(&models, Name::Jobs).rebuild.is_some_and(|rebuild| rebuild.failed.is_some())).await;
    assert_eq!(status(&models, Name::Jobs).generation, Some(1));
    assert!(models.jobs().get(&tenant(), job(1)).await.unwrap().is_some());
}

/// The status of a projection whose rebuild was in progress when `end` happened.
async fn status_after(end: impl AsyncFnOnce(&Arc<StatusTracker>)) -> ProjectionStatus {
    let (history, now) = (History::new(), Timestamp::EPOCH);
    let tracker = Arc::new(StatusTracker::new(Name::Jobs, 1, now));
    tracker.rebuild_started(2, Position::START, now);
    end(&tracker).await;
    let (feed, _) = Feed::start(history.log(), Position::START, &LiveThread::start().unwrap());
    tracker.status(&feed, Position(1), now)
}

#[tokio::test]
async fn panic_of_a_projection_fails_its_rebuild() {
    let panicked = status_after(async |tracker| {
        let run = async { panic!("injected by the test") };
        crate::starter::supervise(run.boxed(), Name::Jobs, Arc::clone(tracker)).await;
    });
    let status = panicked.await;
    assert_eq!(status.state, ReportedState::Stopped, "{status:?}");
    assert!(status.rebuild.unwrap().failed.unwrap().error.contains("panicked"));
}

#[tokio::test]
async fn abandoned_rebuild_is_forgotten_unless_it_failed() {
    let abandoned = status_after(async |tracker| tracker.rebuild_abandoned()).await;
    assert_eq!(abandoned.rebuild, None);
    let failed = status_after(async |tracker| {
        tracker.rebuild_failed(Failure::panicked(Position(1)));
        tracker.rebuild_abandoned();
    });
    assert!(failed.await.rebuild.is_some());
}

#[tokio::test]
async fn wait_for_paused_projection_times_out_with_its_position() {
    let (store, history) = (TestStore::new(), History::new());
    let models = open(&store, &history).await;
    let before = history.job_created(job(1), None).await;
    reach(&models, before).await;
    models.pause(Name::Jobs).await.unwrap();
    assert_eq!(status(&models, Name::Jobs).state, ReportedState::Paused);
    let after = history.job_created(job(2), None).await;
    let waited = models.wait_for(&[Name::ImageMatches, Name::Jobs], after, Duration::from_millis(50)).await;
    assert_eq!(waited, Err(StillBehind { name: Name::Jobs, at: Some(before) }));
    models.resume(Name::Jobs).await.unwrap();
    reach(&models, after).await;
}

#[tokio::test]
async fn slow_projection_delays_no_other_and_misses_no_event() {
    let (store, history) = (TestStore::new(), History::new());
    let models = open(&store, &history).await;
    history.job_created(job(1), None).await;
    // While the test holds the write lock, `matches` cannot store.
    let generation = models.0.queries.image_matches.slot.live().unwrap();
    let lock = crate::sql::lock_writer(&generation.db).await.unwrap();
    // More pages than the feed keeps for a slow subscriber.
    let mut position = Position::START;
    for n in 0..100 {
        position = history.found(job(1), n, 0.5).await;
        let others = [Name::Jobs, Name::Workers, Name::MatchingSummary];
        models.wait_for(&others, position, TIMEOUT).await.unwrap();
    }
    assert!(status(&models, Name::ImageMatches).position < position);
    drop(lock);
    reach(&models, position).await;
    let page = models
        .image_matches()
        .list(job(1), &ImageMatchFilter::default(), ImageMatchOrder::Oldest, None, 500)
        .await
        .unwrap();
    assert_eq!(page.items.len(), 100);
}

#[tokio::test]
async fn reads_during_rebuild_are_complete() {
    let (store, history) = (TestStore::new(), History::new());
    let models = open(&store, &history).await;
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
                .image_matches()
                .list(job(1), &ImageMatchFilter::default(), ImageMatchOrder::Newest, None, 500)
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
async fn old_generation_is_removed_after_its_last_reader() {
    let (store, history) = (TestStore::new(), History::new());
    let models = open(&store, &history).await;
    let position = history.job_created(job(1), None).await;
    reach(&models, position).await;
    let reader = models.0.queries.jobs.slot.live().unwrap();
    let number = models.rebuild(Name::Jobs).await.unwrap();
    until(async || status(&models, Name::Jobs).generation == Some(number)).await;
    assert_eq!(store.numbers(Name::Jobs).await, [2, 1]);
    drop(reader);
    until(async || store.numbers(Name::Jobs).await == [2]).await;
}

#[tokio::test]
async fn first_generation_is_readable_only_when_complete() {
    let (store, history) = (TestStore::new(), History::new());
    for n in 0..20 {
        history.job_created(job(n), None).await;
    }
    let models = open(&store, &history).await;
    loop {
        match models.jobs().list(&tenant(), &Default::default(), None, 100).await {
            Ok(page) => break assert_eq!(page.items.len(), 20),
            Err(error) => assert!(error.to_string().contains("is being built"), "{error}"),
        }
        tokio::task::yield_now().await;
    }
    until(async || models.ready().is_ok()).await;
}

#[tokio::test]
async fn writer_waits_for_a_live_read_model_that_is_far_behind() {
    let (store, history) = (TestStore::new(), History::new());
    let models = open(&store, &history).await;
    let position = history.job_created(job(1), None).await;
    reach(&models, position).await;
    until(async || models.status().iter().all(|status| status.state == ReportedState::Live)).await;
    models.slow_down(0).await;
    let generation = models.0.queries.image_matches.slot.live().unwrap();
    let lock = crate::sql::lock_writer(&generation.db).await.unwrap();
    for n in 0..10 {
        history.found(job(1), n, 0.5).await;
    }
    assert_eq!(models.slow_down(10).now_or_never(), Some(()));
    let mut waiting = Box::pin(models.slow_down(5));
    assert_eq!((&mut waiting).now_or_never(), None);
    drop(lock);
    waiting.await;
    reach(&models, history.head()).await;
    // A paused one delays no writer.
    models.pause(Name::ImageMatches).await.unwrap();
    let position = history.found(job(1), 10, 0.5).await;
    let others = Name::ALL.into_iter().filter(|name| *name != Name::ImageMatches).collect::<Vec<_>>();
    models.wait_for(&others, position, TIMEOUT).await.unwrap();
    assert_eq!(models.slow_down(0).now_or_never(), Some(()));
}

#[tokio::test]
async fn shutdown_after_a_rebuild_leaves_one_generation() {
    let (store, history) = (TestStore::new(), History::new());
    let position = history.job_created(job(1), None).await;
    for _ in 0..8 {
        let models = open(&store, &history).await;
        reach(&models, position).await;
        let number = models.rebuild(Name::Jobs).await.unwrap();
        until(async || status(&models, Name::Jobs).generation == Some(number)).await;
        models.shutdown().await;
        drop(models);
        until(async || store.numbers(Name::Jobs).await == [number]).await;
    }
}
