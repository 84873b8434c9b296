//! The vectors of exports, also while they change.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use event_schemas::cutout::{CutoutEmbedded, CutoutId, CutoutMatched, CutoutSynced};
use event_schemas::export::{ExportFilters, ExportFormat, ExportTarget};
use event_schemas::model::{EmbeddingModelDeleted, EmbeddingModelRegistered};
use serde_json::Value;

use super::*;
use crate::export::{Export, ExportError, ExportProgress, Exported};

/// A generation to which events are applied one by one, each at a position of its own.
struct Exporting {
    generation: Arc<Generation>,
    envelope: Envelope,
    position: u64,
    folder: tempfile::TempDir,
}

impl Exporting {
    fn new() -> Self {
        let mut clusters = Clusters::of_groups(1, 1);
        let Shop { generation, envelope, .. } = Shop::of(&mut clusters, 0);
        let mut exporting = Self { generation, envelope, position: 0, folder: tempfile::tempdir().unwrap() };
        let dimension = DIMENSION as u32;
        let registered = EmbeddingModelRegistered { model_id: model(), dimension, details: None };
        exporting.apply(Event::Model(registered.into()));
        exporting
    }

    fn apply(&mut self, event: Event) {
        self.position += 1;
        let position = Position(self.position);
        self.generation.apply(&[Envelope { event, position, ..self.envelope.clone() }]);
        self.generation.reach(position);
    }

    fn product(&mut self, event: ProductEvent) {
        self.apply(Event::Product(event));
    }

    /// A cutout with a vector.
    fn cutout(&mut self, number: u64, vector: &[f32], product: Option<&str>) {
        let cutout_id = CutoutId::new(number).unwrap();
        let (image_url, vector) = ("/1.jpg".to_owned(), Vector::new(vector));
        let synced = CutoutSynced { cutout_id, image_url, predicted_upc: None };
        self.apply(Event::Cutout(synced.into()));
        self.apply(Event::Cutout(CutoutEmbedded { cutout_id, model_id: model(), vector }.into()));
        if let Some(product) = product {
            let product_id = product.parse().unwrap();
            self.apply(Event::Cutout(CutoutMatched { cutout_id, product_id, similarity: None }.into()));
        }
    }
}

/// The lines of an export, and what it says of itself.
fn exported(
    generation: &Arc<Generation>,
    folder: &std::path::Path,
    filters: ExportFilters,
) -> Result<(Exported, Vec<Value>), ExportError> {
    let export = Export { tenant: tenant(), model_id: model(), format: ExportFormat::Json, filters };
    let (mut written, progress) = (Vec::new(), ExportProgress::default());
    let exported = collected::export_of(Arc::clone(generation), &export, folder, &progress, &mut written)?;
    assert_eq!((progress.written(), progress.total()), (exported.vectors, exported.vectors));
    let lines = String::from_utf8(written).unwrap();
    Ok((exported, lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()))
}

fn vector(x: f32) -> Vec<f32> {
    (0..DIMENSION).map(|n| if n == 0 { x } else { 1.0 }).collect()
}

/// Kind, id and product of each line, sorted.
fn ids(lines: &[Value]) -> String {
    let id = |line: &Value| {
        let text = |name: &str| line[name].as_str().unwrap_or("-").to_owned();
        format!("{} {} {}", text("kind"), text("id"), text("product_id"))
    };
    let mut ids: Vec<String> = lines.iter().map(id).collect();
    ids.sort();
    ids.join(", ")
}

#[tokio::test]
async fn export_has_the_vectors_that_pass_all_filters() {
    on_a_thread(|| {
        let mut shop = Exporting::new();
        let upserted = |number: u32, category: &str| {
            let details = json!({"name": "x", "in_stock": true, "is_active": true, "category_id": category});
            let details: Box<ProductDetails> = serde_json::from_value(details).unwrap();
            ProductUpserted { product_id: id(number), details }.into()
        };
        for (number, category) in [(1, "shoes"), (2, "shoes"), (3, "hats")] {
            shop.product(upserted(number, category));
            shop.product(embedded(number, &vector(number as f32)));
        }
        let image_id = Some("front".parse().unwrap());
        let image = Vector::new(vector(7.0));
        let image = ProductEmbedded { product_id: id(1), model_id: model(), image_id, vector: image };
        shop.product(image.into());
        shop.cutout(10, &vector(-1.0), Some("1"));
        shop.cutout(11, &vector(-2.0), None);
        shop.product(deactivated(2));
        let all = ExportFilters::default();
        let only = |target| ExportFilters { target, ..ExportFilters::default() };
        let matched = |matched| ExportFilters { matched: Some(matched), ..only(ExportTarget::Cutouts) };
        let one = ExportFilters { product_ids: vec![id(1), id(99)], ..all.clone() };
        let hats = ExportFilters { category_id: Some("hats".parse().unwrap()), ..all.clone() };
        let none = ExportFilters { category_id: hats.category_id.clone(), ..one.clone() };
        for (filters, expected, products) in [
            (all, "cutout 10 1, cutout 11 -, image front 1, product 1 1, product 3 3", 2),
            (only(ExportTarget::Products), "image front 1, product 1 1, product 3 3", 2),
            (only(ExportTarget::Cutouts), "cutout 10 1, cutout 11 -", 1),
            (matched(true), "cutout 10 1", 1),
            (matched(false), "cutout 11 -", 0),
            (one, "cutout 10 1, image front 1, product 1 1", 1),
            (hats, "product 3 3", 1),
            (none, "", 0),
        ] {
            let (exported, lines) = exported(&shop.generation, shop.folder.path(), filters.clone()).unwrap();
            assert_eq!(ids(&lines), expected, "{filters:?}");
            assert_eq!((exported.products, exported.position), (products, Position(shop.position)));
        }
        assert_eq!(std::fs::read_dir(shop.folder.path()).unwrap().count(), 0, "nothing temporary stays");
    })
    .await;
}

#[tokio::test]
async fn model_that_was_deleted_cannot_be_exported() {
    on_a_thread(|| {
        let mut shop = Exporting::new();
        shop.cutout(1, &vector(1.0), None);
        shop.apply(Event::Model(EmbeddingModelDeleted { model_id: model() }.into()));
        let refused = exported(&shop.generation, shop.folder.path(), ExportFilters::default()).unwrap_err();
        assert!(refused.to_string().contains("was deleted"), "{refused}");
    })
    .await;
}

#[tokio::test]
async fn export_during_changes_is_as_of_one_position() {
    on_a_thread(|| {
        let mut shop = Exporting::new();
        let products = scale() * 2;
        // The first number of each product's vector by position; none after it left the catalogue.
        let mut versions: BTreeMap<u32, Vec<(u64, Option<f32>)>> = BTreeMap::new();
        for number in 0..products {
            shop.product(upserted(number));
            shop.product(embedded(number, &vector(number as f32)));
            versions.insert(number, vec![(shop.position, Some(number as f32))]);
        }
        let (generation, folder) = (Arc::clone(&shop.generation), shop.folder.path().to_owned());
        let is_over = AtomicBool::new(false);
        let exports = std::thread::scope(|scope| {
            let exporting = scope.spawn(|| {
                let mut exports = Vec::new();
                while !is_over.load(Ordering::Relaxed) || exports.len() < 3 {
                    exports.push(exported(&generation, &folder, ExportFilters::default()).unwrap());
                }
                exports
            });
            let mut random = fastrand::Rng::with_seed(3);
            for step in 0..products * 4 {
                let number = random.u32(..products);
                let versions = versions.get_mut(&number).unwrap();
                if step % 3 > 0 {
                    let value = random.f32();
                    shop.product(embedded(number, &vector(value)));
                    versions.push((shop.position, Some(value)));
                } else {
                    // It keeps its vector, which is not exported while it is not in the catalogue.
                    let last = versions.last().unwrap().1;
                    shop.product(deactivated(number));
                    versions.push((shop.position, None));
                    shop.product(upserted(number));
                    versions.push((shop.position, last));
                }
            }
            is_over.store(true, Ordering::Relaxed);
            exporting.join().unwrap()
        });
        let positions: BTreeSet<u64> = exports.iter().map(|(exported, _)| exported.position.0).collect();
        assert!(positions.len() > 1, "changes happened between the exports");
        for (exported, lines) in exports {
            let mut expected: BTreeMap<String, Vec<f32>> = BTreeMap::new();
            for (number, versions) in &versions {
                let last = versions.iter().rev().find(|(at, _)| *at <= exported.position.0);
                if let Some((_, Some(value))) = last {
                    expected.insert(number.to_string(), normalised(vector(*value)).unwrap());
                }
            }
            let vector = |line: &Value| serde_json::from_value(line["vector"].clone()).unwrap();
            let found: BTreeMap<String, Vec<f32>> = lines
                .into_iter()
                .map(|line| (line["id"].as_str().unwrap().to_owned(), vector(&line)))
                .collect();
            let differ = |(id, vector): &(&String, &Vec<f32>)| expected.get(*id) != Some(vector);
            assert_eq!(found.iter().find(differ), None, "at {}", exported.position);
            assert_eq!(found.len(), expected.len(), "at {}", exported.position);
        }
    })
    .await;
}
