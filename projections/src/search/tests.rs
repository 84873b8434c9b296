mod exports;
mod updates;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use domain::search::encoder::normalised;
use domain::search::filter::Filter;
use domain::search::model_vectors::VectorGraph;
use domain::search::plan::Strategy;
use domain::search::question::{PageStart, Question};
use event_log::Filter as EventFilter;
use event_schemas::ids::{ModelId, ProductId};
use event_schemas::product::{ProductDeactivated, ProductDetails, ProductEmbedded, ProductUpserted};
use event_schemas::vector::Vector;
use serde_json::json;
use tokio::runtime::Handle;

use super::graph_builder::GraphBuilder;
use super::graph_file::{GraphFile, LoadError};
use super::graphs::{ModelKey, VectorIndexState, VectorIndexStatus};
use super::*;
use crate::tests::history::{History, job};

const DIMENSION: usize = 16;

/// The number of vectors that change in a test.
fn scale() -> u32 {
    let set = std::env::var("MATCHBOOK_TEST_VECTORS").ok();
    set.map_or(1_000, |set| set.parse().expect("MATCHBOOK_TEST_VECTORS is a number from 1000 on"))
}

/// So many that a graph is used, also without those that change.
fn products() -> u32 {
    2 * scale() + scale() / 10
}

fn exact_max() -> usize {
    products() as usize / 3
}

fn tenant() -> Tenant {
    "acme".parse().unwrap()
}

fn key() -> ModelKey {
    (tenant(), model(), VectorsOf::Products)
}

fn model() -> ModelId {
    "clip".parse().unwrap()
}

fn id(number: u32) -> ProductId {
    number.to_string().parse().unwrap()
}

fn upserted(number: u32) -> ProductEvent {
    let details: ProductDetails =
        serde_json::from_value(json!({"name": "x", "price": number, "in_stock": true, "is_active": true}))
            .unwrap();
    ProductUpserted { product_id: id(number), details: Box::new(details) }.into()
}

fn embedded(number: u32, vector: &[f32]) -> ProductEvent {
    let vector = Vector::new(vector);
    ProductEmbedded { product_id: id(number), model_id: model(), image_id: None, vector }.into()
}

fn deactivated(number: u32) -> ProductEvent {
    ProductDeactivated { product_id: id(number) }.into()
}

/// Vectors in clusters, as those of real products are.
struct Clusters {
    random: fastrand::Rng,
    centres: Vec<Vec<f32>>,
    spread: f32,
}

impl Clusters {
    fn new(seed: u64) -> Self {
        Self::of_groups(seed, 200)
    }

    fn of_groups(seed: u64, groups: u32) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let centres = (0..groups).map(|_| (0..DIMENSION).map(|_| random.f32() - 0.5).collect()).collect();
        Self { random, centres, spread: 0.3 }
    }

    fn next(&mut self) -> Vec<f32> {
        let centre = self.centres[self.random.usize(..self.centres.len())].clone();
        centre.into_iter().map(|value| value + self.spread * (self.random.f32() - 0.5)).collect()
    }
}

/// A generation, the number of its events, and a log with the last of them.
struct Shop {
    generation: Arc<Generation>,
    position: u64,
    log: Log,
    clock: Clock,
    /// The last event in the log.
    envelope: Envelope,
}

impl Shop {
    /// Products with prices from 0, each with a vector.
    fn new(clusters: &mut Clusters) -> Self {
        Self::of(clusters, products())
    }

    fn of(clusters: &mut Clusters, products: u32) -> Self {
        let history = History::new();
        let position = Handle::current().block_on(history.job_created(job(1), None));
        let (log, clock) = (history.log(), history.clock.clone());
        let page = Handle::current().block_on(log.read_all(Position::START, &EventFilter::All, 1)).unwrap();
        let envelope = page.events[0].decode().unwrap();
        assert_eq!(envelope.position, position);
        let generation = Arc::new(Generation { exact_max: exact_max(), ..Generation::new(1) });
        let mut shop = Self { generation, position: 0, log, clock, envelope };
        let events = (0..products).flat_map(|number| [upserted(number), embedded(number, &clusters.next())]);
        shop.apply(events.collect());
        shop
    }

    fn apply(&mut self, events: Vec<ProductEvent>) {
        self.position += events.len() as u64;
        let recorded = |event| Envelope { event: Event::Product(event), ..self.envelope.clone() };
        let events: Vec<Envelope> = events.into_iter().map(recorded).collect();
        self.generation.apply(&events);
        self.generation.reach(Position(self.position));
    }

    fn builder(&self, folder: Option<PathBuf>) -> GraphBuilder {
        GraphBuilder::new(self.log.clone(), self.clock.clone(), folder, Handle::current())
    }

    fn build(&self, builder: &mut GraphBuilder) {
        while builder.advance(&self.generation) {}
    }

    /// The state of the vector index, and the number of vectors that it lacks.
    fn index(&self) -> (VectorIndexState, Option<usize>) {
        let [index] = <[VectorIndexStatus; 1]>::try_from(self.generation.vector_indexes()).unwrap();
        assert_eq!((index.tenant, index.model_id, index.dimension), (tenant(), model(), DIMENSION));
        (index.state, index.indexed.map(|indexed| index.vectors - indexed))
    }

    fn search(&self, vector: &[f32], limit: usize, filter: Filter) -> Answer {
        self.generation.search(&tenant(), &near(vector, limit, filter)).unwrap().0
    }

    /// The answer of a search that compares every vector.
    fn exact(&self, vector: &[f32], limit: usize, filter: Filter) -> Answer {
        let search = near(vector, limit, filter);
        self.generation.read(&tenant(), |fold, _| fold.products.search(&search).unwrap())
    }
}

fn near(vector: &[f32], limit: usize, filter: Filter) -> Search {
    Search {
        question: Question::Vector(normalised(vector.to_vec()).unwrap()),
        model: Some(model()),
        filter,
        min_score: None,
        start: PageStart::Offset(0),
        limit,
        facets: false,
        explain: false,
    }
}

fn found(answer: &Answer) -> Vec<String> {
    answer.results.iter().map(|found| found.product_id.to_string()).collect()
}

fn up_to(price: f64) -> Filter {
    Filter { max_price: Some(price), ..Filter::default() }
}

/// Runs on a thread that may block, as the builder's does.
async fn on_a_thread(run: impl FnOnce() + Send + 'static) {
    tokio::task::spawn_blocking(run).await.unwrap();
}

#[tokio::test]
async fn recall_does_not_fall_with_the_selectivity_of_a_filter() {
    on_a_thread(|| {
        let mut clusters = Clusters::new(1);
        let shop = Shop::new(&mut clusters);
        shop.build(&mut shop.builder(None));
        for share in [0.0001, 0.001, 0.01, 0.1, 0.3, 0.5, 0.96, 1.0] {
            let price = (f64::from(products()) * share).ceil() - 1.0;
            let filter = if share < 1.0 { up_to(price) } else { Filter::default() };
            let (mut same, mut wanted, mut strategies) = (0, 0, Vec::new());
            for _ in 0..40 {
                let query = clusters.next();
                let answer = shop.search(&query, 10, filter.clone());
                let exact = shop.exact(&query, 10, filter.clone());
                assert_eq!((answer.total, answer.results.len()), (exact.total, exact.results.len()));
                let exact: BTreeSet<String> = found(&exact).into_iter().collect();
                same += found(&answer).iter().filter(|id| exact.contains(*id)).count();
                wanted += exact.len();
                strategies.push(answer.plan.strategy);
            }
            assert!(same * 100 >= wanted * 99, "{share}: {same} of {wanted}");
            let strategy = match share {
                1.0 => Strategy::Search,
                0.5 | 0.96 => Strategy::FilteredSearch,
                _ => Strategy::ExactScan,
            };
            assert!(strategies.iter().all(|used| *used == strategy), "{share}: {strategies:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn products_with_equal_vectors_hide_no_others() {
    on_a_thread(|| {
        for groups in [20, 200] {
            let mut equal = Clusters { spread: 0.0, ..Clusters::of_groups(7, groups) };
            let shop = Shop::new(&mut equal);
            shop.build(&mut shop.builder(None));
            let mut queries = Clusters::of_groups(7, groups);
            let (mut same, mut wanted, mut searched) = (0, 0, 0);
            for _ in 0..100 {
                let query = queries.next();
                let answer = shop.search(&query, 20, Filter::default());
                let exact = shop.exact(&query, 20, Filter::default());
                // Equal products are interchangeable.
                let scores = |answer: &Answer| -> Vec<f32> {
                    answer.results.iter().map(|found| found.score).collect()
                };
                same +=
                    scores(&answer).iter().zip(scores(&exact)).filter(|(one, other)| *one == other).count();
                wanted += exact.results.len();
                searched += usize::from(answer.plan.strategy == Strategy::Search);
            }
            assert!(same * 100 >= wanted * 99 && searched > 50, "{groups}: {same} of {wanted}, {searched}");
        }
    })
    .await;
}

#[tokio::test]
async fn replaced_and_removed_vectors_are_right_while_graphs_swap() {
    on_a_thread(|| {
        let mut clusters = Clusters::new(2);
        let mut shop = Shop::new(&mut clusters);
        let mut builder = shop.builder(None);
        assert_eq!(shop.index(), (VectorIndexState::ExactScan, None));
        shop.build(&mut builder);
        assert_eq!(shop.index(), (VectorIndexState::Ready, Some(0)));
        let old = shop.generation.graphs.get(&key()).unwrap();
        // Almost half get one new direction, and leave while the next graph is built.
        let moved = scale();
        let direction: Vec<f32> = (0..DIMENSION).map(|n| if n == 3 { 9.0 } else { 0.01 }).collect();
        let mut random = fastrand::Rng::with_seed(3);
        let mut near_direction =
            || direction.iter().map(|value| value + 2.0 * random.f32() - 1.0).collect::<Vec<f32>>();
        shop.apply((0..moved).map(|number| embedded(number, &near_direction())).collect());
        let (deactivated_at, mut has_left) = (moved / 25, false);
        let (mut same, mut wanted, mut strategies) = (0, 0, Vec::new());
        for step in 0.. {
            let has_advanced = builder.advance(&shop.generation);
            if step % (moved / 200) == 0 || !has_advanced {
                let query = near_direction();
                let answer = shop.search(&query, 20, Filter::default());
                strategies.push(answer.plan.strategy);
                let numbers: BTreeSet<u32> = found(&answer).iter().map(|id| id.parse().unwrap()).collect();
                assert_eq!(numbers.len(), 20, "each once");
                if has_left {
                    assert!(numbers.iter().all(|number| *number >= moved), "no removed one: {numbers:?}");
                    let exact = found(&shop.exact(&query, 20, Filter::default()));
                    same += found(&answer).iter().filter(|id| exact.contains(id)).count();
                    wanted += exact.len();
                } else {
                    assert!(numbers.iter().all(|number| *number < moved), "by their new vectors");
                    assert!(answer.results.iter().all(|found| found.score > 0.8));
                }
            }
            if step == deactivated_at {
                let (state, missing) = shop.index();
                assert!(state == VectorIndexState::Replacing && missing > Some(0), "{state:?} {missing:?}");
                assert!(Arc::ptr_eq(&old, &shop.generation.graphs.get(&key()).unwrap()));
                shop.apply((0..moved).map(deactivated).collect());
                has_left = true;
            }
            if !has_advanced {
                break;
            }
        }
        let searched = strategies.iter().filter(|used| **used == Strategy::Search).count();
        assert!(searched * 2 > strategies.len(), "{strategies:?}");
        assert!(wanted > 60 && same * 100 >= wanted * 97, "{same} of {wanted}");
        let new = shop.generation.graphs.get(&key()).unwrap();
        assert!(!Arc::ptr_eq(&old, &new) && new.churn().replaced == 0, "{:?}", new.churn());
        assert_eq!(shop.index(), (VectorIndexState::Ready, Some(0)));
    })
    .await;
}

#[tokio::test]
async fn saved_graph_is_loaded_only_if_it_is_whole() {
    on_a_thread(|| {
        let folder = tempfile::tempdir().unwrap();
        let shop = Shop::new(&mut Clusters::new(3));
        shop.build(&mut shop.builder(Some(folder.path().to_owned())));
        let entries = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<PathBuf> = entries.collect();
        files.sort_by_key(|path| path.extension().map(ToOwned::to_owned));
        let [manifest, bytes] = <[PathBuf; 2]>::try_from(files).unwrap();

        let file = GraphFile::new(folder.path(), &key());
        let changes = u64::from(products());
        let load_of = |changes, log: &Log| {
            Handle::current().block_on(file.load(DIMENSION, changes, log, *log.head().borrow()))
        };
        let load = || load_of(changes, &shop.log);
        let loaded = load().unwrap();
        assert_eq!((loaded.contained_changes(), loaded.len()), (changes, products() as usize));
        let query = Clusters::new(4).next();
        let built = shop.generation.graphs.get(&key()).unwrap();
        assert_eq!(loaded.nearest(&query, 10, |_| true), built.nearest(&query, 10, |_| true));
        assert!(matches!(load_of(changes - 1, &shop.log), Err(LoadError::Other)), "newer than the vectors");
        let other = History::new().log();
        assert!(matches!(load_of(changes, &other), Err(LoadError::Incompatible(_))), "of another log");

        for path in [&manifest, &bytes] {
            let whole = fs::read(path).unwrap();
            for at in [0, whole.len() / 3, whole.len() - 2] {
                let mut flipped = whole.clone();
                flipped[at] ^= 1;
                for damaged in [&flipped, &whole[..at].to_vec()] {
                    fs::write(path, damaged).unwrap();
                    assert!(matches!(load(), Err(LoadError::Damaged(_))), "{} at {at}", path.display());
                }
            }
            fs::write(path, whole).unwrap();
        }
        assert!(load().is_ok());

        // A damaged one is built again, and replaced.
        fs::write(&bytes, "nothing").unwrap();
        let again = shop.builder(Some(folder.path().to_owned()));
        shop.generation.graphs.set(key(), None);
        shop.build(&mut { again });
        assert_eq!(shop.search(&query, 10, Filter::default()).plan.strategy, Strategy::Search);
        assert!(load().is_ok());
    })
    .await;
}

#[tokio::test]
async fn loaded_graph_is_completed_by_later_changes() {
    on_a_thread(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = || Some(folder.path().to_owned());
        let mut clusters = Clusters::new(5);
        let mut shop = Shop::new(&mut clusters);
        shop.build(&mut shop.builder(path()));
        let later = clusters.next();
        shop.apply(vec![upserted(products()), embedded(products(), &later), embedded(7, &later)]);
        shop.generation.graphs.set(key(), None);
        let mut builder = shop.builder(path());
        assert!(builder.advance(&shop.generation), "only the later changes are missing");
        assert!(!builder.advance(&shop.generation));
        let answer = shop.search(&later, 2, Filter::default());
        assert_eq!(
            (found(&answer), answer.plan.strategy),
            (vec![products().to_string(), "7".into()], Strategy::Search)
        );
    })
    .await;
}
