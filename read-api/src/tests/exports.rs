//! Exports and their files.

use std::time::Duration;

use event_log::clock::Clock;
use event_schemas::envelope::Event;
use event_schemas::export::{ExportFormat, ExportOptions, ExportResult};
use event_schemas::ids::{JobId, Position};
use event_schemas::job::{JobCompleted, JobCreated, JobEvent, JobKind, JobSource, Phase};
use event_schemas::json_text::JsonText;
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use projections::export::files::{FileName, owner};
use serde_json::{Value, json};
use web::caller::{Auth, Claims, Keys, Role, mint};

use super::events::{failed, job};
use super::fixture::{ReadApiFixture, TestResponse, acme, now, start};
use crate::server::Access;

const CONTENT: &str = "0123456789";
const SECRET: &[u8] = b"a secret of at least thirty-two bytes";

fn expires_at(fixture: &ReadApiFixture) -> Timestamp {
    Timestamp::from_micros(
        fixture.clock.now().after(Duration::from_secs(3600)).micros() / 1_000_000 * 1_000_000,
    )
}

async fn created(fixture: &ReadApiFixture, id: JobId, expires_at: Timestamp) {
    let (format, filters) = (ExportFormat::Numpy, Default::default());
    let options = ExportOptions { model_id: "clip".parse().unwrap(), format, filters, expires_at };
    let source = Some(JobSource::ServerWork { options: JsonText::new(&options).unwrap() });
    let (kind, metadata) = (JobKind::EmbeddingExport, JsonText::default());
    let created: JobEvent = JobCreated { job_id: id, kind, source, name: None, metadata }.into();
    fixture.job_event(id, Event::Job(created)).await;
}

/// Completes an export, with a file.
async fn completed(fixture: &ReadApiFixture, id: JobId, expires_at: Timestamp) {
    let name = FileName {
        owner: owner(&acme()),
        expires_at,
        job_id: id,
        file_id: id.0,
        format: ExportFormat::Numpy,
    };
    std::fs::write(fixture.folder.path().join("exports").join(name.to_string()), CONTENT).unwrap();
    let result = ExportResult {
        file: name.to_string(),
        file_size_bytes: 10,
        vector_count: 3,
        product_count: 2,
        embedding_dim: 4,
        as_of: Position(7),
    };
    let result = Some(JsonText::new(&result).unwrap());
    let completed = JobCompleted { from: Phase::Processing, lease_id: None, result };
    fixture.job_event(id, Event::Job(completed.into())).await;
}

async fn download(fixture: &ReadApiFixture, n: u128, headers: &[(&str, &str)]) -> TestResponse {
    fixture.get_with(&format!("/api/v1/export/{}/download", job(n)), headers).await
}

#[tokio::test]
async fn exports_are_listed_newest_first_with_their_results() {
    let fixture = ReadApiFixture::open().await;
    let expires_at = expires_at(&fixture);
    fixture.running_job(job(9)).await;
    for n in 1..=3 {
        created(&fixture, job(n), expires_at).await;
    }
    completed(&fixture, job(2), expires_at).await;
    let page = fixture.get("/api/v1/export?limit=2").await.json();
    let ids = |page: &Value| -> Vec<Value> {
        page["items"].as_array().unwrap().iter().map(|item| item["id"].clone()).collect()
    };
    assert_eq!(ids(&page), [json!(job(3)), json!(job(2))]);
    let cursor = page["next_cursor"].as_str().unwrap();
    let next = fixture.get(&format!("/api/v1/export?limit=2&cursor={cursor}")).await.json();
    assert_eq!((ids(&next), &next["next_cursor"]), (vec![json!(job(1))], &Value::Null));
    let waiting = &page["items"][0];
    assert_eq!((&waiting["status"], &waiting["download_url"]), (&json!("pending"), &Value::Null));
    assert_eq!((&waiting["exported_by"], &waiting["progress"]), (&json!("test"), &json!(0.0)));
    let read = fixture.get(&format!("/api/v1/export/{}", job(2))).await;
    assert_eq!(read.json(), page["items"][1]);
    for (member, expected) in [
        ("status", json!("completed")),
        ("progress", json!(100.0)),
        ("download_url", json!(format!("/api/v1/export/{}/download", job(2)))),
        ("file_size_bytes", json!(10)),
        ("vector_count", json!(3)),
        ("product_count", json!(2)),
        ("embedding_dim", json!(4)),
        ("as_of", json!(7)),
        ("model_id", json!("clip")),
        ("filters", json!({"target": "all"})),
    ] {
        assert_eq!(read.json()[member], expected, "{member}");
    }
    let path = format!("/api/v1/export/{}", job(2));
    let again = fixture.get_with(&path, &[("If-None-Match", read.header("etag"))]).await;
    assert_eq!(again.status, 304);
}

#[tokio::test]
async fn other_jobs_and_other_tenants_exports_are_not_found() {
    let fixture = ReadApiFixture::open().await;
    let expires_at = expires_at(&fixture);
    created(&fixture, job(1), expires_at).await;
    completed(&fixture, job(1), expires_at).await;
    fixture.running_job(job(2)).await;
    for path in [format!("/api/v1/export/{}", job(1)), format!("/api/v1/export/{}/download", job(1))] {
        assert_eq!(fixture.get_with(&path, &[("X-Tenant", "other")]).await.status, 404);
        assert_eq!(fixture.get(&path).await.status, 200);
    }
    for id in [job(2).to_string(), job(3).to_string(), "..%2F..%2Fvault.sqlite".to_owned()] {
        assert_eq!(fixture.get(&format!("/api/v1/export/{id}")).await.status, 404, "{id}");
        assert_eq!(fixture.get(&format!("/api/v1/export/{id}/download")).await.status, 404, "{id}");
    }
}

#[tokio::test]
async fn file_is_downloaded_whole_or_in_part() {
    let fixture = ReadApiFixture::open().await;
    let expires_at = expires_at(&fixture);
    created(&fixture, job(1), expires_at).await;
    completed(&fixture, job(1), expires_at).await;
    let whole = download(&fixture, 1, &[]).await;
    assert_eq!((whole.status, whole.text.as_str()), (200, CONTENT));
    let disposition = format!("attachment; filename=\"export-{}.npz\"", job(1));
    for (header, expected) in [
        ("content-type", "application/octet-stream"),
        ("content-length", "10"),
        ("accept-ranges", "bytes"),
        ("content-disposition", &disposition),
    ] {
        assert_eq!(whole.header(header), expected, "{header}");
    }
    let etag = whole.header("etag");
    for (range, expected, content_range) in [
        ("bytes=2-4", "234", "bytes 2-4/10"),
        ("bytes=-3", "789", "bytes 7-9/10"),
        ("bytes=9-99", "9", "bytes 9-9/10"),
    ] {
        let part = download(&fixture, 1, &[("Range", range), ("If-Range", etag)]).await;
        assert_eq!((part.status, part.text.as_str()), (206, expected), "{range}");
        assert_eq!(part.header("content-range"), content_range);
        assert_eq!(
            (part.header("content-length"), part.header("etag")),
            (expected.len().to_string().as_str(), etag)
        );
    }
    let beyond = download(&fixture, 1, &[("Range", "bytes=10-")]).await;
    assert_eq!((beyond.status, beyond.header("content-range")), (416, "bytes */10"));
    let of_another = download(&fixture, 1, &[("Range", "bytes=2-4"), ("If-Range", "\"other\"")]).await;
    assert_eq!((of_another.status, of_another.text.as_str()), (200, CONTENT));
    assert_eq!(download(&fixture, 1, &[("If-None-Match", etag)]).await.status, 304);
}

#[tokio::test]
async fn file_is_a_conflict_before_and_gone_afterwards() {
    let fixture = ReadApiFixture::open().await;
    let expires_at = expires_at(&fixture);
    for n in 1..=3 {
        created(&fixture, job(n), expires_at).await;
    }
    fixture.append(StreamId::job(job(2)), &[failed()]).await;
    for (n, reason) in [(1, "not complete"), (2, "the export failed")] {
        let conflict = download(&fixture, n, &[]).await;
        assert_eq!(conflict.status, 409, "{conflict:?}");
        assert!(conflict.text.contains(reason), "{conflict:?}");
    }
    completed(&fixture, job(1), expires_at).await;
    completed(&fixture, job(3), expires_at).await;
    let files = std::fs::read_dir(fixture.folder.path().join("exports")).unwrap();
    for file in files.map(|file| file.unwrap().path()) {
        if file.to_str().unwrap().contains(&job(3).to_string()) {
            std::fs::remove_file(file).unwrap();
        }
    }
    let removed = download(&fixture, 3, &[]).await;
    assert_eq!(removed.status, 410, "{removed:?}");
    assert_eq!(download(&fixture, 1, &[]).await.status, 200);
    fixture.clock.advance(Duration::from_secs(3600));
    let expired = download(&fixture, 1, &[]).await;
    assert_eq!(expired.status, 410, "{expired:?}");
    assert!(expired.text.contains("has expired"), "{expired:?}");
    let export = fixture.get(&format!("/api/v1/export/{}", job(1))).await.json();
    assert_eq!((&export["download_url"], &export["status"]), (&Value::Null, &json!("completed")));
}

#[tokio::test]
async fn workers_and_auditors_read_no_exports() {
    let keys =
        |clock: &Clock| Auth::with_keys(Keys::default().secret(SECRET).unwrap(), Vec::new(), now(clock));
    let fixture = ReadApiFixture::with(keys, Access::Keys, Vec::new()).await;
    let expires_at = expires_at(&fixture);
    created(&fixture, job(1), expires_at).await;
    completed(&fixture, job(1), expires_at).await;
    for (role, status) in [(Role::Worker, 403), (Role::Auditor, 403), (Role::User, 200), (Role::Service, 200)]
    {
        let claims = Claims::new(&acme(), "player-1", role.into(), start(), Duration::from_secs(3600));
        let token = format!("Bearer {}", mint(SECRET, &claims).unwrap());
        for path in ["", "/list", "/list/download"] {
            let path = path.replace("list", &job(1).to_string());
            let response =
                fixture.get_with(&format!("/api/v1/export{path}"), &[("Authorization", &token)]).await;
            assert_eq!(response.status, status, "{role:?} {path}");
        }
    }
}
