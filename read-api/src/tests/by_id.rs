//! Objects that were created a moment ago, read by id without their position.

use event_schemas::envelope::Event;
use event_schemas::ids::ChallengeId;
use event_schemas::image_match::{ImageMatchEvent, MatchEvidenceAttached};
use event_schemas::stream::StreamId;
use projections::Name;
use serde_json::json;
use uuid::Uuid;

use super::analysis::analysis_created;
use super::events::{created, job, match_id};
use super::evidence::with_image;
use super::fixture::ReadApiFixture;
use super::queues::{MATCH, entry_id};

const UNKNOWN: &str = "018f0000-0000-7000-8000-0000000000ff";

/// Reads the object while its read model is behind, and lets the read model continue while the read waits.
async fn read_while_behind(fixture: &ReadApiFixture, model: Name, path: &str) {
    let read = fixture.client.get(path).header("X-User", "player-1").send();
    let resume = format!("/internal/projections/{model}/resume");
    let (response, resumed) = tokio::join!(biased; read, fixture.post(&resume));
    assert_eq!(resumed.status, 200, "{}", resumed.text);
    assert_eq!(response.0.status().as_u16(), 200, "{path}");
}

async fn pause(fixture: &ReadApiFixture, model: Name) {
    assert_eq!(fixture.post(&format!("/internal/projections/{model}/pause")).await.status, 200);
}

#[tokio::test]
async fn new_job_is_read_by_its_id_at_once() {
    for path in ["", "/matching/summary", "/matching/stream"] {
        let fixture = ReadApiFixture::open().await;
        let model = if path.is_empty() { Name::Jobs } else { Name::MatchingSummary };
        pause(&fixture, model).await;
        fixture.job_event(job(1), created(job(1), "spring catalogue")).await;
        read_while_behind(&fixture, model, &format!("/jobs/{}{path}", job(1))).await;
    }
}

#[tokio::test]
async fn new_analysis_is_read_by_its_id_at_once() {
    for path in ["", "/status"] {
        let fixture = ReadApiFixture::open().await;
        pause(&fixture, Name::Jobs).await;
        fixture.append_job_events(job(1), [analysis_created(job(1), "2039")]).await;
        read_while_behind(&fixture, Name::Jobs, &format!("/api/v1/analysis/{}{path}", job(1))).await;
    }
}

#[tokio::test]
async fn new_challenge_and_match_are_read_by_id_at_once() {
    let (fixture, challenge) = (ReadApiFixture::open().await, ChallengeId(Uuid::from_u128(7)));
    pause(&fixture, Name::Challenges).await;
    fixture.challenge(challenge, 1, 2).await;
    read_while_behind(&fixture, Name::Challenges, &format!("/v1/matchmaking/challenges/{challenge}")).await;
    pause(&fixture, Name::GameMatches).await;
    fixture.queue(1, 1500, &["blitz"]).await;
    fixture.queue(2, 1500, &["blitz"]).await;
    fixture.pair([1500, 1500]).await;
    read_while_behind(&fixture, Name::GameMatches, &format!("/v1/matchmaking/matches/{MATCH}")).await;
}

#[tokio::test]
async fn new_queue_entry_is_read_by_its_id_at_once() {
    for path in ["", "/stream"] {
        let fixture = ReadApiFixture::open().await;
        pause(&fixture, Name::Queues).await;
        fixture.queue(1, 1500, &["blitz"]).await;
        let entry = format!("/v1/matchmaking/queue/{}{path}", entry_id(1));
        read_while_behind(&fixture, Name::Queues, &entry).await;
    }
}

#[tokio::test]
async fn new_evidence_is_read_by_its_match_at_once() {
    let attached = MatchEvidenceAttached {
        match_id: match_id(2),
        evidence_path: "evidence/1.jpg".to_owned(),
        replaces: false,
    };
    for n in [2, 4] {
        let fixture = with_image().await;
        // Of a known match, or with it.
        pause(&fixture, Name::ImageMatches).await;
        if n == 2 {
            let event = Event::ImageMatch(ImageMatchEvent::MatchEvidenceAttached(attached.clone()));
            fixture.append(StreamId::image_match(job(1), &match_id(2)), &[event]).await;
        } else {
            fixture.match_found(job(1), n, 0.5, Some("evidence/1.jpg")).await;
        }
        let path = format!("/jobs/{}/matches/{}/evidence", job(1), match_id(n));
        read_while_behind(&fixture, Name::ImageMatches, &path).await;
    }
}

#[tokio::test]
async fn products_similar_to_a_new_one_are_found_at_once() {
    let fixture = ReadApiFixture::open().await;
    for id in 1..=20 {
        fixture.put_product(id, json!({"name": "Lamp", "category_id": "lamps"})).await;
        let similar = json!({"product_id": id, "limit": 1});
        let response = fixture.client.post("/api/v1/search").body_json(&similar).send().await;
        assert_eq!(response.0.status().as_u16(), 200, "{id}");
    }
}

/// The read models stay behind for good here, so that a read that waited would get another response.
#[tokio::test]
async fn unknown_id_is_refused_without_waiting() {
    let fixture = ReadApiFixture::open().await;
    for model in [Name::Jobs, Name::MatchingSummary, Name::Challenges, Name::GameMatches] {
        pause(&fixture, model).await;
    }
    let other = "other".parse().unwrap();
    fixture.append_for(&other, StreamId::job(job(2)), &[created(job(2), "x")]).await;
    let of_another_tenant = job(2).to_string();
    for id in [UNKNOWN, &of_another_tenant] {
        for path in [
            format!("/jobs/{id}"),
            format!("/jobs/{id}/matching/summary"),
            format!("/jobs/{id}/matching/stream"),
            format!("/api/v1/analysis/{id}"),
            format!("/api/v1/analysis/{id}/status"),
            format!("/v1/matchmaking/challenges/{id}"),
            format!("/v1/matchmaking/matches/{id}"),
        ] {
            let response = fixture.client.get(&path).send().await;
            assert_eq!(response.0.status().as_u16(), 404, "{path}");
        }
    }
}

#[tokio::test]
async fn known_id_of_a_paused_model_gets_503() {
    let fixture = ReadApiFixture::open().await;
    pause(&fixture, Name::Jobs).await;
    fixture.job_event(job(1), created(job(1), "spring catalogue")).await;
    let response = fixture.client.get(format!("/jobs/{}", job(1))).send().await;
    assert_eq!(response.0.status().as_u16(), 503);
    assert_eq!(response.0.header("retry-after").map(|after| json!(after)), Some(json!("1")));
}
