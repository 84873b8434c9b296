//! `matchbook-bench search`: fills a server with products and vectors, and measures searches among them: the time, and the share of
//! the exact results that they find, behind filters that few or many products pass.
//!
//! An exact answer is that of a search with a minimal score, for which the server compares every vector.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use super::percentile;
use matchbook::client::{Client, Server};
use matchbook::failure::{Failure, print};

/// The number of results of a search.
const RESULTS: u64 = 10;
/// The number of groups of similar products.
const CLUSTERS: usize = 1_000;
/// The numbers of a batch of vectors, which stays below the limit of a body.
const BATCH_NUMBERS: u64 = 400_000;
/// The longest wait for a vector index.
const BUILDING_MAX: Duration = Duration::from_secs(3600);

#[derive(Args, Debug)]
pub(crate) struct Search {
    /// A server without other products
    #[command(flatten)]
    server: Server,
    /// The number of products, each with a vector
    #[arg(long, value_name = "NUMBER", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    products: u64,
    /// The length of the vectors
    #[arg(long, value_name = "NUMBER", default_value_t = 384, value_parser = clap::value_parser!(u64).range(2..=4_096))]
    dimension: u64,
    /// The shares of the products that pass the filters; they take turns
    #[arg(long, value_name = "SHARES", value_delimiter = ',', default_value = "0.0001,0.001,0.01,0.1,0.5,1")]
    shares: Vec<f64>,
    /// The number of searches with each filter
    #[arg(long, value_name = "NUMBER", default_value_t = 200)]
    searches: u32,
}

/// The searches with one filter.
#[derive(Debug, Default)]
struct Measured {
    milliseconds: Vec<f64>,
    exact_milliseconds: Vec<f64>,
    found: usize,
    wanted: usize,
    strategy: String,
}

/// Vectors in groups, as those of real products are.
struct Vectors {
    random: fastrand::Rng,
    centres: Vec<Vec<f32>>,
}

impl Vectors {
    fn new(dimension: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(1);
        let centres = (0..CLUSTERS).map(|_| (0..dimension).map(|_| spread(&mut random)).collect()).collect();
        Self { random, centres }
    }

    fn next(&mut self) -> Vec<f32> {
        // The first groups are larger.
        let group = (self.random.f32().powi(3) * CLUSTERS as f32) as usize;
        let centre = &self.centres[group.min(CLUSTERS - 1)];
        let near = |value: &f32| ((value + 0.5 * spread(&mut self.random)) * 1e4).round() / 1e4;
        centre.iter().map(near).collect()
    }
}

/// About normally distributed.
fn spread(random: &mut fastrand::Rng) -> f32 {
    (0..4).map(|_| random.f32() - 0.5).sum()
}

impl Search {
    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        let client = Client::new(self.server.clone())?;
        let mut vectors = Vectors::new(self.dimension);
        self.fill(&client, &mut vectors).await?;
        let building = self.wait_for_index(&client, &mut vectors).await?;
        eprintln!("the vector index was complete {building:.1?} after the last vector");
        let mut all: Vec<Measured> = self.shares.iter().map(|_| Measured::default()).collect();
        for _ in 0..self.searches {
            for (share, measured) in self.shares.iter().zip(&mut all) {
                measured.search(&client, &self.body(*share, &vectors.next())).await?;
            }
        }
        for (share, measured) in self.shares.iter().zip(&mut all) {
            measured.report(*share, &self, json)?;
        }
        Ok(())
    }

    fn body(&self, share: f64, vector: &[f32]) -> Value {
        let mut body = json!({ "model_id": "bench", "vector": vector, "limit": RESULTS, "explain": true });
        if share < 1.0 {
            // The prices are the numbers of the products.
            body["filters"] = json!({ "max_price": (self.products as f64 * share).ceil() - 1.0 });
        }
        body
    }

    async fn fill(&self, client: &Client, vectors: &mut Vectors) -> Result<(), Failure> {
        let batch = (BATCH_NUMBERS / self.dimension).clamp(1, 1_000);
        for first in (0..self.products).step_by(batch as usize) {
            let ids = first..self.products.min(first + batch);
            let product = |id| json!({ "id": id, "name": format!("product {id}"), "price": id });
            let products: Vec<Value> = ids.clone().map(product).collect();
            let _: Value = client.post("/api/v1/products/batch", &products.into()).await?;
            let embedded = |id| json!({ "product_id": id, "model_id": "bench", "vector": vectors.next() });
            let embedded: Vec<Value> = ids.map(embedded).collect();
            let _: Value = client.post("/api/v1/products/embeddings/batch", &embedded.into()).await?;
            if first % (batch * 100) == 0 && first > 0 {
                eprintln!("sent {first} of {} products", self.products);
            }
        }
        Ok(())
    }

    /// Waits until every vector is found, and searches use a vector index if there are enough for one.
    async fn wait_for_index(&self, client: &Client, vectors: &mut Vectors) -> Result<Duration, Failure> {
        let started = Instant::now();
        let has_index = self.products as usize > domain::search::plan::EXACT_MAX;
        loop {
            let answer: Value = client.post("/api/v1/search", &self.body(1.0, &vectors.next())).await?;
            let is_used = answer["plan"]["strategy"] == "search" || !has_index;
            if is_used && answer["total"].as_u64() >= Some(self.products) {
                return Ok(started.elapsed());
            }
            if started.elapsed() > BUILDING_MAX {
                return Err(Failure::Failed(format!(
                    "there is no vector index after an hour: {}",
                    answer["plan"]
                )));
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

impl Measured {
    async fn search(&mut self, client: &Client, body: &Value) -> Result<(), Failure> {
        let started = Instant::now();
        let answer: Value = client.post("/api/v1/search", body).await?;
        self.milliseconds.push(started.elapsed().as_secs_f64() * 1e3);
        let mut exact = body.clone();
        exact["min_score"] = json!(-1);
        let started = Instant::now();
        let exact: Value = client.post("/api/v1/search", &exact).await?;
        self.exact_milliseconds.push(started.elapsed().as_secs_f64() * 1e3);
        let wanted = ids(&exact);
        self.found += ids(&answer).intersection(&wanted).count();
        self.wanted += wanted.len();
        answer["plan"]["strategy"].as_str().unwrap_or_default().clone_into(&mut self.strategy);
        Ok(())
    }

    fn report(&mut self, share: f64, search: &Search, json: bool) -> Result<(), Failure> {
        self.milliseconds.sort_by(f64::total_cmp);
        self.exact_milliseconds.sort_by(f64::total_cmp);
        let recall = self.found as f64 / self.wanted.max(1) as f64;
        let [p50, p95] = [0.5, 0.95].map(|share| percentile(&self.milliseconds, share));
        let exact_p50 = percentile(&self.exact_milliseconds, 0.5);
        if json {
            return print(&json!({
                "bench": "search", "products": search.products, "dimension": search.dimension, "share": share,
                "strategy": self.strategy, "recall": recall, "p50_ms": p50, "p95_ms": p95, "exact_p50_ms": exact_p50,
            }));
        }
        print(&format_args!(
            "{:>8} % pass: {:<15} recall@{RESULTS} {recall:.4}, p50 {p50:.2} ms, p95 {p95:.2} ms; all compared: p50 {exact_p50:.2} ms",
            share * 100.0,
            self.strategy,
        ))
    }
}

/// The products of an answer.
fn ids(answer: &Value) -> BTreeSet<u64> {
    let results = answer["results"].as_array().into_iter().flatten();
    results.filter_map(|product| product["id"].as_u64()).collect()
}
