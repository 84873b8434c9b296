use event_schemas::cutout::{CutoutEmbedded, CutoutEvent, CutoutId, CutoutSynced};
use event_schemas::ids::{LeaseId, ProductId};
use event_schemas::job::Phase;
use event_schemas::model::EmbeddingModelDeleted;
use event_schemas::product::{ProductDeactivated, ProductEmbedded, ProductEvent, ProductUpserted};
use event_schemas::time::Timestamp;
use event_schemas::vector::Vector;
use serde_json::json;
use uuid::Uuid;

use super::items::{Item, Items, ItemsQuery, Place, count, image_id, items};
use super::*;
use crate::recommend::sources::ListSources;
use crate::scenario::id;

fn failure(item_id: &str) -> ItemFailure {
    ItemFailure { item_id: item_id.to_owned(), image_id: None, reason: "the image is truncated".to_owned() }
}

fn report(done: u64, failed: u64, failures: Vec<ItemFailure>) -> JobProgressReported {
    JobProgressReported {
        lease_id: LeaseId(Uuid::nil()),
        stage: Phase::Processing,
        fraction: 0.0,
        items_done: Some(done),
        items_total: Some(10),
        checkpoint: None,
        items: Some(Box::new(ItemsReport { items_failed: failed, failures })),
    }
}

#[test]
fn reports_are_totals_and_an_earlier_one_changes_nothing() {
    let mut progress = ItemsProgress::default();
    progress.apply(&report(3, 1, vec![failure("7")]));
    let later = report(5, 2, vec![failure("7"), failure("9")]);
    assert!(progress.is_older_than(&later));
    progress.apply(&later);
    assert!(!progress.is_older_than(&later));
    progress.apply(&report(3, 1, vec![failure("8")]));
    let expected =
        ItemsProgress { done: 5, total: Some(10), failed: 2, failures: vec![failure("7"), failure("9")] };
    assert_eq!(progress, expected);
}

#[test]
fn failures_are_counted_exactly_and_kept_up_to_a_limit() {
    let mut progress = ItemsProgress::default();
    for round in 1..=3_u64 {
        let failures = (0..40).map(|n| failure(&format!("{round}-{n}"))).collect();
        progress.apply(&report(0, 40 * round, failures));
    }
    assert_eq!((progress.failed, progress.failures.len()), (120, FAILURES_MAX));
    assert!(progress.text_bytes() > FAILURES_MAX * "the image is truncated".len());
}

#[test]
fn reports_of_items_are_bounded() {
    let is_large = |report: &JobProgressReported| super::is_large(report.items.as_ref().unwrap());
    assert!(!is_large(&report(0, 0, vec![failure("7"); FAILURES_MAX])));
    assert!(is_large(&report(0, 0, vec![failure("7"); FAILURES_MAX + 1])));
    let reason = "a".repeat(REASON_MAX + 1);
    assert!(is_large(&report(0, 0, vec![ItemFailure { reason, ..failure("7") }])));
}

fn cutout(number: u64) -> CutoutId {
    CutoutId::new(number).unwrap()
}

/// Cutouts with these numbers came in this order.
fn with_cutouts(numbers: &[u64]) -> ListSources {
    let mut sources = ListSources::default();
    for number in numbers {
        let (cutout_id, image_url) = (cutout(*number), format!("/{number}.png"));
        sources.apply_cutout(&CutoutSynced { cutout_id, image_url, predicted_upc: None }.into());
    }
    sources
}

fn embedded(number: u64, model: &str) -> CutoutEvent {
    CutoutEmbedded { cutout_id: cutout(number), model_id: id(model), vector: Vector::new([1.0, 0.5]) }.into()
}

fn query(target: TargetType, limit: usize) -> ItemsQuery {
    let (model_id, product_ids, after) = (id("m"), Vec::new(), Place::default());
    ItemsQuery { target, model_id, product_ids, only_missing: true, after, limit }
}

/// The items as text, and whether there are more.
fn text(found: &Items) -> (String, bool) {
    let one = |(item, _): &(Item, Place)| match item {
        Item::Cutout(id) => id.to_string(),
        Item::ProductImage { product_id, image_id, image_url } => {
            assert_eq!(*image_id, super::items::image_id(image_url));
            format!("{product_id}{image_url}")
        }
    };
    (found.items.iter().map(one).collect::<Vec<_>>().join(" "), found.next.is_some())
}

#[test]
fn cutouts_without_a_vector_of_the_model_are_to_do() {
    let mut sources = with_cutouts(&[5, 3, 9, 4]);
    sources.apply_cutout(&embedded(3, "m"));
    sources.apply_cutout(&embedded(9, "other"));
    let first = query(TargetType::Cutouts, 10);
    assert_eq!(text(&items(&sources, &first)), ("5 9 4".to_owned(), false));
    assert_eq!(count(&sources, &first), 3);
    let again = ItemsQuery { only_missing: false, ..first.clone() };
    assert_eq!(text(&items(&sources, &again)).0, "5 3 9 4");
    sources.apply_model(&EmbeddingModelDeleted { model_id: id("m") }.into(), Timestamp::default());
    assert_eq!(text(&items(&sources, &first)).0, "5 3 9 4");
}

#[test]
fn page_continues_behind_the_last_item_and_finds_later_ones() {
    let mut sources = with_cutouts(&[5, 3, 9]);
    let first = query(TargetType::Cutouts, 2);
    let page = items(&sources, &first);
    assert_eq!(text(&page), ("5 3".to_owned(), true));
    // 5 failed, so it has no vector, and it is not listed again.
    sources.apply_cutout(&embedded(3, "m"));
    let (cutout_id, image_url) = (cutout(1), "/1.png".to_owned());
    sources.apply_cutout(&CutoutSynced { cutout_id, image_url, predicted_upc: None }.into());
    let next = ItemsQuery { after: page.next.unwrap(), ..first };
    assert_eq!(text(&items(&sources, &next)), ("9 1".to_owned(), false));
    assert_eq!(count(&sources, &next), 2);
}

fn product(name: &str, images: &[&str]) -> ProductEvent {
    let details = json!({
        "name": name, "in_stock": true, "is_active": true, "image_url": images.first(), "images": images,
    });
    let details = Box::new(serde_json::from_value(details).unwrap());
    ProductUpserted { product_id: id(name), details }.into()
}

#[test]
fn images_of_active_products_are_to_do_each_once() {
    let mut sources = ListSources::default();
    for event in
        [product("b", &["/1", "/2", "/1"]), product("a", &["/1"]), product("c", &[]), product("d", &["/4"])]
    {
        sources.apply_product(&event);
    }
    sources.apply_product(&ProductDeactivated { product_id: id("d") }.into());
    let first = query(TargetType::Products, 10);
    assert_eq!(text(&items(&sources, &first)), ("b/1 b/2 a/1".to_owned(), false));
    let (model_id, vector) = (id("m"), Vector::new([1.0, 0.5]));
    let image_id = Some(image_id("/1"));
    sources.apply_product(&ProductEmbedded { product_id: id("b"), model_id, image_id, vector }.into());
    assert_eq!(text(&items(&sources, &first)).0, "b/2 a/1");
    // Another image of the product.
    sources.apply_product(&product("b", &["/5", "/2"]));
    assert_eq!(text(&items(&sources, &first)).0, "b/5 b/2 a/1");
    let named: Vec<ProductId> = vec![id("unknown"), id("a"), id("c")];
    let of_named = ItemsQuery { product_ids: named, ..first.clone() };
    assert_eq!(text(&items(&sources, &of_named)).0, "a/1");
}

#[test]
fn pages_of_images_can_end_within_a_product() {
    let mut sources = ListSources::default();
    sources.apply_product(&product("a", &["/1", "/2", "/3"]));
    sources.apply_product(&product("b", &["/1"]));
    let mut query = query(TargetType::Products, 2);
    let mut all = Vec::new();
    loop {
        let page = items(&sources, &query);
        all.push(text(&page).0);
        let Some(next) = page.next else { break };
        query.after = next;
    }
    assert_eq!(all, ["a/1 a/2", "a/3 b/1"]);
}
