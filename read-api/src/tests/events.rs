//! Test events, as the write side would append them.

use event_schemas::envelope::Event;
use event_schemas::failure::{ClassifiedError, FailureCategory, FailureCode};
use event_schemas::ids::{ImageMatchId, JobId, LeaseId, RequestId, Score, WorkerId};
use event_schemas::image_match::{
    Frames, MatchFound, MatchProgressReported, MatchRequestClaimed, MatchRequestCompleted, MatchRequested,
    ProductImage, ProductImagesRegistered, Totals, VideoFramesRegistered,
};
use event_schemas::job::{
    JobCancelled, JobCompleted, JobCreated, JobFailed, JobKind, JobPhaseChanged, Phase,
};
use event_schemas::time::Timestamp;
use event_schemas::worker::{WorkKind, WorkerRegistered};
use uuid::Uuid;

pub(crate) fn job(n: u128) -> JobId {
    JobId(Uuid::from_u128(n))
}

fn lease(n: u32) -> LeaseId {
    LeaseId(Uuid::from_u128(0x1ea5e + u128::from(n)))
}

fn request(n: u32) -> RequestId {
    format!("request-{n}").parse().unwrap()
}

fn worker(n: u32) -> WorkerId {
    format!("worker-{n}").parse().unwrap()
}

pub(super) fn match_id(n: u32) -> ImageMatchId {
    format!("match-{n}").parse().unwrap()
}

pub(super) fn created(id: JobId, name: &str) -> Event {
    let created = JobCreated {
        job_id: id,
        kind: JobKind::ProductVideoMatching,
        source: None,
        name: Some(name.to_owned()),
        metadata: serde_json::from_str(r#"{"customer": 7}"#).unwrap(),
    };
    Event::Job(created.into())
}

pub(super) fn phase(from: Phase, to: Phase) -> Event {
    Event::Job(JobPhaseChanged { from, to, reason: None, eta_priors: Vec::new() }.into())
}

pub(super) fn completed() -> Event {
    Event::Job(JobCompleted { from: Phase::Evidence, lease_id: None, result: None }.into())
}

pub(super) fn cancelled() -> Event {
    Event::Job(JobCancelled { from: Phase::Matching, reason: None }.into())
}

pub(super) fn failed() -> Event {
    let error = ClassifiedError {
        code: FailureCode::OutOfMemory,
        category: FailureCategory::Resource,
        service: None,
        message: "killed (137)".into(),
        user_message: "The worker ran out of memory.".into(),
        suggested_actions: vec!["Use a machine with more memory.".into()],
        retryable: true,
        retry_after_seconds: Some(5),
        retry_after_requested: false,
        support_reference: "MB-0001-0002".into(),
    };
    Event::Job(JobFailed { attempt: 1, lease_id: None, error, retry_state: None }.into())
}

pub(super) fn images(count: u32) -> Event {
    let images = (0..count)
        .map(|n| ProductImage { img_id: format!("hedge-{n}").parse().unwrap(), url: None })
        .collect();
    Event::ImageMatch(ProductImagesRegistered { product_id: "hedge".parse().unwrap(), images }.into())
}

pub(super) fn frames(count: u64) -> Event {
    let registered =
        VideoFramesRegistered { video_id: "clip".parse().unwrap(), frames: Frames::Counted(count) };
    Event::ImageMatch(registered.into())
}

pub(super) fn requested(n: u32, candidates: u64) -> Event {
    let requested = MatchRequested {
        request_id: request(n),
        product_id: "hedge".parse().unwrap(),
        video_id: "clip".parse().unwrap(),
        candidates,
    };
    Event::ImageMatch(requested.into())
}

pub(super) fn claimed(n: u32, by: u32, lease_until: Timestamp) -> Event {
    let claimed = MatchRequestClaimed {
        request_id: request(n),
        lease_id: lease(n),
        worker_id: worker(by),
        attempt: 1,
        lease_until,
    };
    Event::ImageMatch(claimed.into())
}

fn totals(done: u64) -> Totals {
    Totals { candidates_processed: done, vector_pass_done: done, ransac_checked: done / 2 }
}

pub(super) fn progress(n: u32, done: u64) -> Event {
    let reported =
        MatchProgressReported { request_id: request(n), lease_id: Some(lease(n)), totals: totals(done) };
    Event::ImageMatch(reported.into())
}

pub(super) fn request_completed(n: u32, done: u64) -> Event {
    let completed =
        MatchRequestCompleted { request_id: request(n), lease_id: Some(lease(n)), totals: totals(done) };
    Event::ImageMatch(completed.into())
}

pub(super) fn match_found(n: u32, score: f64, evidence: Option<&str>) -> Event {
    let found = MatchFound {
        match_id: match_id(n),
        product_id: "hedge".parse().unwrap(),
        video_id: "clip".parse().unwrap(),
        img_id: format!("hedge-{}", n % 2).parse().unwrap(),
        frame_id: format!("f{n:03}").parse().unwrap(),
        score: Score::new(score).unwrap(),
        evidence_path: evidence.map(str::to_owned),
    };
    Event::ImageMatch(found.into())
}

pub(super) fn registered(n: u32) -> Event {
    let registered = WorkerRegistered {
        worker_id: worker(n),
        kinds: vec![WorkKind::MatchRequest],
        version: Some("1.2".into()),
    };
    Event::Worker(registered.into())
}
