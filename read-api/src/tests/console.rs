//! The page at `/` and its files.

use super::stage::Stage;

#[tokio::test]
async fn a_browser_gets_the_console_and_a_program_the_facts() {
    let stage = Stage::open().await;
    let page = stage.get_with("/", &[("Accept", "text/html,application/xhtml+xml")]).await;
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    let facts = stage.get_with("/", &[("Accept", "*/*")]).await;
    assert_eq!(facts.json()["openapi"], "/openapi.json");
    for answer in [page, facts] {
        assert_eq!((answer.status, answer.header("vary").to_lowercase().contains("accept")), (200, true));
    }
}

#[tokio::test]
async fn the_console_loads_nothing_from_elsewhere_and_runs_nothing_inline() {
    let stage = Stage::open().await;
    let page = stage.get_with("/", &[("Accept", "text/html")]).await;
    assert!(page.header("content-security-policy").starts_with("default-src 'self'"));
    assert!(!page.header("content-security-policy").contains("unsafe"));
    for outside in ["http://", "https://", "//cdn", "<style", " style=", " onclick=", "<script>"] {
        assert!(!page.text.contains(outside), "{outside}");
    }
    for line in page.text.lines().filter(|line| line.contains("src=\"") || line.contains("rel=\"")) {
        assert!(line.contains("\"/console/"), "{line}");
    }
}

#[tokio::test]
async fn every_file_that_the_page_names_is_there() {
    let stage = Stage::open().await;
    let mut waiting = vec!["app.js".to_owned(), "style.css".to_owned(), "icon.svg".to_owned()];
    let mut seen = Vec::new();
    while let Some(name) = waiting.pop() {
        let file = stage.get(&format!("/console/{name}")).await;
        assert_eq!(file.status, 200, "{name}");
        let imported = file.text.lines().filter_map(|line| line.split_once("from \"./")?.1.split_once('"'));
        waiting.extend(imported.map(|(name, _)| name.to_owned()).filter(|name| !seen.contains(name)));
        seen.push(name);
    }
    assert!(seen.len() >= 6, "{seen:?}");
}

#[tokio::test]
async fn text_from_the_server_never_becomes_markup() {
    let stage = Stage::open().await;
    let scripts = ["analysis", "app", "api", "dom", "job", "jobs", "meetings", "picture", "pools"];
    for name in scripts.map(|name| format!("{name}.js")) {
        let script = stage.get(&format!("/console/{name}")).await.text;
        for way in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"]
        {
            assert!(!script.contains(way), "{name}: {way}");
        }
    }
}

#[tokio::test]
async fn a_file_that_has_not_changed_is_not_sent_again() {
    let stage = Stage::open().await;
    let first = stage.get("/console/style.css").await;
    let etag = first.header("etag").to_owned();
    assert!(etag.starts_with('"') && etag.ends_with('"'));
    let again = stage.get_with("/console/style.css", &[("If-None-Match", &etag)]).await;
    assert_eq!((again.status, again.text.as_str()), (304, ""));
}

#[tokio::test]
async fn another_file_is_a_problem() {
    let stage = Stage::open().await;
    let answer = stage.get("/console/secrets.txt").await;
    assert_eq!((answer.status, answer.header("content-type")), (404, "application/problem+json"));
}

#[tokio::test]
async fn the_page_takes_no_other_method() {
    let stage = Stage::open().await;
    let answer = stage.post("/").await;
    assert_eq!((answer.status, answer.header("allow")), (405, "GET, HEAD, OPTIONS"));
}
