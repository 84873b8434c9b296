//! The evidence images of image matches.

use event_schemas::envelope::Event;
use event_schemas::image_match::{ImageMatchEvent, MatchEvidenceAttached};
use event_schemas::stream::StreamId;

use super::events::{job, match_id};
use super::fixture::{ReadApiFixture, TestResponse};

const GIF: &str = "GIF89a, and text, so that a test can read it";

async fn evidence(fixture: &ReadApiFixture, n: u32) -> TestResponse {
    fixture.get(&format!("/jobs/{}/matches/{}/evidence", job(1), match_id(n))).await
}

pub(super) async fn with_image() -> ReadApiFixture {
    let fixture = ReadApiFixture::open().await;
    fixture.running_job(job(1)).await;
    std::fs::create_dir(fixture.folder.path().join("evidence")).unwrap();
    std::fs::write(fixture.folder.path().join("evidence/1.jpg"), GIF).unwrap();
    fixture
}

#[tokio::test]
async fn evidence_is_served_with_its_own_type_and_an_etag() {
    let fixture = with_image().await;
    let image = evidence(&fixture, 1).await;
    assert_eq!((image.status, image.text.as_str()), (200, GIF));
    assert_eq!(image.header("content-type"), "image/gif");
    assert_eq!(image.header("x-content-type-options"), "nosniff");
    assert_eq!(image.header("content-length"), GIF.len().to_string());
    assert!(image.header("content-security-policy").contains("sandbox"));
    let path = format!("/jobs/{}/matches/{}/evidence", job(1), match_id(1));
    let again = fixture.get_with(&path, &[("If-None-Match", image.header("etag"))]).await;
    assert_eq!((again.status, again.text.as_str()), (304, ""));
}

#[tokio::test]
async fn missing_evidence_is_not_found() {
    let fixture = with_image().await;
    for (n, reason) in [(2, "no evidence yet"), (9, "no such match")] {
        let missing = evidence(&fixture, n).await;
        assert_eq!(missing.status, 404, "{missing:?}");
        assert!(missing.text.contains(reason), "{missing:?}");
    }
    std::fs::remove_file(fixture.folder.path().join("evidence/1.jpg")).unwrap();
    assert_eq!(evidence(&fixture, 1).await.status, 404);
    let other = fixture.get(&format!("/jobs/{}/matches/{}/evidence", job(2), match_id(1))).await;
    assert_eq!(other.status, 404, "{other:?}");
}

#[tokio::test]
async fn evidence_outside_the_media_folder_is_not_found() {
    let fixture = with_image().await;
    for path in ["../1.jpg", "/etc/passwd", "vault.sqlite"] {
        let attached =
            MatchEvidenceAttached { match_id: match_id(2), evidence_path: path.to_owned(), replaces: false };
        let event = Event::ImageMatch(ImageMatchEvent::MatchEvidenceAttached(attached));
        fixture.append(StreamId::image_match(job(1), &match_id(2)), &[event]).await;
        let refused = evidence(&fixture, 2).await;
        assert_eq!(refused.status, 404, "{path}: {refused:?}");
        assert!(!refused.text.contains(path), "{refused:?}");
    }
}
