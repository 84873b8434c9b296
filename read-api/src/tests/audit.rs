//! The whole log, in both orders.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::events::{completed, created, job};
use super::fixture::{ReadApiFixture, TestResponse};

const LINES: [(&str, &str); 1] = [("Accept", "application/x-ndjson")];

fn positions(items: &[Value]) -> Vec<u64> {
    items.iter().map(|event| event["position"].as_u64().unwrap()).collect()
}

fn of_lines(answer: &TestResponse) -> Vec<u64> {
    assert_eq!(answer.status, 200, "{}", answer.text);
    let lines: Vec<Value> = answer.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    positions(&lines)
}

async fn pages(fixture: &ReadApiFixture, query: &str) -> Vec<u64> {
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = fixture.get(&format!("/audit/events?{query}{cursor}")).await.json();
        seen.extend(positions(page["items"].as_array().unwrap()));
        let Some(next) = page["next_cursor"].as_str() else { return seen };
        cursor = format!("&cursor={next}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn newest_first_is_the_reverse_of_oldest_first(
        jobs in 1_u64..40,
        limit in 1_usize..30,
        from in 1_u64..50,
        to in 0.0..1.0_f64,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let fixture = ReadApiFixture::open().await;
            for n in 1..=jobs {
                fixture.job_event(job(n.into()), created(job(n.into()), "a")).await;
                fixture.job_event(job(n.into()), completed()).await;
            }
            // Lines up to a later position would wait for it.
            let to = (to * jobs as f64 * 2.0) as u64 + 1;
            for filter in ["", "&type=JobCompleted", "&category=job"] {
                let query = format!("from={from}&to={to}&limit={limit}{filter}");
                let oldest = pages(&fixture, &query).await;
                let newest = pages(&fixture, &format!("{query}&order=newest")).await;
                prop_assert_eq!(&newest, &oldest.iter().rev().copied().collect::<Vec<_>>());
                for (order, all) in [("asc", &oldest), ("desc", &newest)] {
                    let lines = fixture.get_with(&format!("/audit/events?{query}&order={order}"), &LINES).await;
                    prop_assert_eq!(of_lines(&lines), all[..all.len().min(limit)].to_vec());
                }
            }
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn lines_end_after_the_limit_without_an_end_of_the_range() {
    let fixture = ReadApiFixture::open().await;
    for n in 1..=4 {
        fixture.job_event(job(n), created(job(n), "a")).await;
    }
    assert_eq!(of_lines(&fixture.get_with("/audit/events?limit=3", &LINES).await), [1, 2, 3]);
    assert_eq!(of_lines(&fixture.get_with("/audit/events?order=newest", &LINES).await), [4, 3, 2, 1]);
}

#[tokio::test]
async fn cursor_belongs_to_its_order() {
    let fixture = ReadApiFixture::open().await;
    for n in 1..=3 {
        fixture.job_event(job(n), created(job(n), "a")).await;
    }
    let page = fixture.get("/audit/events?limit=1&order=newest").await.json();
    let cursor = page["next_cursor"].as_str().unwrap();
    assert_eq!(fixture.get(&format!("/audit/events?cursor={cursor}")).await.status, 400);
    let refused = fixture.get("/audit/events?order=random").await;
    assert_eq!((refused.status, &refused.json()["errors"][0]["field"]), (400, &json!("order")));
}

#[tokio::test]
async fn events_are_filtered_by_tenant_actor_and_chain() {
    let fixture = ReadApiFixture::open().await;
    for n in 1..=3 {
        fixture.job_event(job(n), created(job(n), "a")).await;
    }
    let list = async |query: &str, tenant: &str| {
        fixture.get_with(&format!("/audit/events?{query}"), &[("X-Tenant", tenant)]).await
    };
    let all = list("", "*").await.json();
    let second = &all["items"][1];
    let (chain, actor) = (second["correlation_id"].as_str().unwrap(), second["actor"].as_str().unwrap());
    for (query, tenant, expected) in [
        (format!("correlation_id={chain}"), "default", vec![2]),
        (format!("actor={actor}&order=newest"), "default", vec![3, 2, 1]),
        ("actor=worker:none".to_owned(), "default", vec![]),
        ("tenant=default".to_owned(), "*", vec![1, 2, 3]),
        ("tenant=default".to_owned(), "default", vec![1, 2, 3]),
        ("tenant=other".to_owned(), "*", vec![]),
    ] {
        let found = list(&query, tenant).await.json();
        assert_eq!(positions(found["items"].as_array().unwrap()), expected, "{query}");
    }
    assert_eq!(list("tenant=other", "default").await.status, 403);
    for wrong in ["actor=gpu-1", "correlation_id=7", "tenant=", "stream="] {
        assert_eq!(list(wrong, "default").await.status, 400, "{wrong}");
    }
}
