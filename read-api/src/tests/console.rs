//! The page at `/` and its files.

use super::fixture::ReadApiFixture;

#[tokio::test]
async fn root_serves_console_to_browsers_and_api_info_to_others() {
    let fixture = ReadApiFixture::open().await;
    let page = fixture.get_with("/", &[("Accept", "text/html,application/xhtml+xml")]).await;
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    let facts = fixture.get_with("/", &[("Accept", "*/*")]).await;
    assert_eq!(facts.json()["openapi"], "/openapi.json");
    for answer in [page, facts] {
        assert_eq!((answer.status, answer.header("vary").to_lowercase().contains("accept")), (200, true));
    }
}

#[tokio::test]
async fn console_loads_no_external_or_inline_code() {
    let fixture = ReadApiFixture::open().await;
    let page = fixture.get_with("/", &[("Accept", "text/html")]).await;
    assert!(page.header("content-security-policy").starts_with("default-src 'self'"));
    assert!(!page.header("content-security-policy").contains("unsafe"));
    // Only pictures may come from elsewhere, and only from where the settings say.
    assert!(
        page.header("content-security-policy").contains("img-src 'self' blob: https://images.example.org;")
    );
    assert_eq!(page.header("content-security-policy").matches("https:").count(), 1);
    let facts = fixture.get_with("/", &[("Accept", "application/json")]).await;
    assert_eq!(facts.json()["image_origins"], serde_json::json!(["https://images.example.org"]));
    for outside in ["http://", "https://", "//cdn", "<style", " style=", " onclick=", "<script>"] {
        assert!(!page.text.contains(outside), "{outside}");
    }
    for line in page.text.lines().filter(|line| line.contains("src=\"") || line.contains("rel=\"")) {
        assert!(line.contains("\"/console/"), "{line}");
    }
}

#[tokio::test]
async fn every_referenced_file_is_served() {
    let fixture = ReadApiFixture::open().await;
    let mut waiting = vec!["app.js".to_owned(), "style.css".to_owned(), "icon.svg".to_owned()];
    let mut seen = Vec::new();
    while let Some(name) = waiting.pop() {
        let file = fixture.get(&format!("/console/{name}")).await;
        assert_eq!(file.status, 200, "{name}");
        let imported = file.text.lines().filter_map(|line| line.split_once("from \"./")?.1.split_once('"'));
        waiting.extend(imported.map(|(name, _)| name.to_owned()).filter(|name| !seen.contains(name)));
        seen.push(name);
    }
    assert!(seen.len() >= 6, "{seen:?}");
}

#[tokio::test]
async fn server_text_is_never_inserted_as_markup() {
    let fixture = ReadApiFixture::open().await;
    let scripts = [
        "actions",
        "analysis",
        "app",
        "api",
        "candidates",
        "chart",
        "dom",
        "events",
        "evidence",
        "experiments",
        "job",
        "jobs",
        "matches",
        "matching",
        "models",
        "operations",
        "pool-chart",
        "pools",
        "product",
        "recent-matches",
        "search",
        "time-travel",
        "user",
        "what-if",
        "work",
    ];
    for name in scripts.map(|name| format!("{name}.js")) {
        let script = fixture.get(&format!("/console/{name}")).await.text;
        for way in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"]
        {
            assert!(!script.contains(way), "{name}: {way}");
        }
    }
}

#[tokio::test]
async fn unchanged_file_gets_304() {
    let fixture = ReadApiFixture::open().await;
    let first = fixture.get("/console/style.css").await;
    let etag = first.header("etag").to_owned();
    assert!(etag.starts_with('"') && etag.ends_with('"'));
    let again = fixture.get_with("/console/style.css", &[("If-None-Match", &etag)]).await;
    assert_eq!((again.status, again.text.as_str()), (304, ""));
}

#[tokio::test]
async fn unknown_file_gets_404_problem() {
    let fixture = ReadApiFixture::open().await;
    let answer = fixture.get("/console/secrets.txt").await;
    assert_eq!((answer.status, answer.header("content-type")), (404, "application/problem+json"));
}

#[tokio::test]
async fn root_refuses_other_methods() {
    let fixture = ReadApiFixture::open().await;
    let answer = fixture.post("/").await;
    assert_eq!((answer.status, answer.header("allow")), (405, "GET, HEAD, OPTIONS"));
}
