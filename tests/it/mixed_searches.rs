//! Concurrent clients that change their products and search for them: a model of its own products says what each answer must be.
//!
//! For longer runs: `MATCHBOOK_TEST_MIXED_SECONDS`, and `MATCHBOOK_TEST_MIXED_OTHERS`, the number of other products of one tenant;
//! with 45,000 of them vector indexes are searched.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::load::SeededRng;
use crate::support::server::Server;
use crate::support::{setting, wait_until};

const CLIENTS: u64 = 64;
const TENANTS: u64 = 8;
const PRODUCTS_EACH: u64 = 12;
const DIMENSION: usize = 8;
const WORDS: [&str; 4] = ["kettle", "sandal", "umbrella", "notebook"];
const MODEL: &str = "clip";
/// The ids of other products begin here.
const OTHERS: u64 = 1_000_000;
/// The largest difference between a cosine of single precision and one of double precision.
const ROUNDING: f64 = 1e-5;

/// A product of the model.
#[derive(Clone, Debug, Default)]
struct Product {
    word: &'static str,
    price: u64,
    in_stock: bool,
    is_active: bool,
    vector: Option<Vec<f64>>,
}

/// A client, and the products that only it changes.
struct Client<'a> {
    server: &'a Server,
    number: u64,
    tenant: String,
    random: SeededRng,
    products: BTreeMap<u64, Product>,
    /// The position of its last change.
    position: u64,
    counts: Counts,
}

/// The answers that were compared.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    answers: u64,
    /// Of vector indexes, and the products that they should and did find.
    approximate: u64,
    wanted: u64,
    missed: u64,
}

fn random_vector(random: &mut SeededRng) -> Vec<f64> {
    (0..DIMENSION).map(|_| (random.below(2_001) as f64 - 1_000.0) / 100.0 + 0.001).collect()
}

fn cosine(one: &[f64], other: &[f64]) -> f64 {
    let dot = |one: &[f64], other: &[f64]| one.iter().zip(other).map(|(one, other)| one * other).sum::<f64>();
    dot(one, other) / (dot(one, one) * dot(other, other)).sqrt()
}

impl<'a> Client<'a> {
    fn new(server: &'a Server, number: u64) -> Self {
        let (tenant, random) = (format!("t{}", number % TENANTS), SeededRng(number));
        let (products, counts) = (BTreeMap::new(), Counts::default());
        Self { server, number, tenant, random, products, position: 0, counts }
    }

    fn category(&self) -> String {
        format!("c{}", self.number)
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Value {
        let position = self.position.to_string();
        let headers = [("x-tenant", self.tenant.as_str()), ("x-min-position", position.as_str())];
        loop {
            let answer = self.server.send(method.clone(), path, &headers, body.map(Value::to_string)).await;
            // On a busy machine the index can take more than two seconds to reach the position.
            if answer.status.as_u16() != 503 {
                assert!(answer.status.is_success(), "{path} {body:?}: {} {}", answer.status, answer.text);
                return answer.json();
            }
        }
    }

    async fn change(&mut self) {
        let id = self.number * PRODUCTS_EACH + self.random.below(PRODUCTS_EACH);
        let path = format!("/api/v1/products/{id}");
        let is_new = !self.products.contains_key(&id);
        let changed = match self.random.below(10) {
            0..4 if !is_new => {
                let vector = random_vector(&mut self.random);
                let body = json!({"model_id": MODEL, "vector": vector});
                self.products.get_mut(&id).unwrap().vector = Some(vector);
                self.send(Method::POST, &format!("{path}/embeddings"), Some(&body)).await
            }
            4..6 if !is_new => {
                self.products.get_mut(&id).unwrap().is_active = false;
                self.send(Method::DELETE, &path, None).await
            }
            _ => {
                let word = WORDS[self.random.below(4) as usize];
                let (price, in_stock) = (self.random.below(100), self.random.below(2) == 0);
                let body = json!({"name": format!("{word} {id}"), "price": price, "in_stock": in_stock,
                    "category_id": self.category()});
                let product = self.products.entry(id).or_default();
                *product = Product { word, price, in_stock, is_active: true, vector: product.vector.take() };
                self.send(Method::PUT, &path, Some(&body)).await
            }
        };
        self.position = changed["position"].as_u64().unwrap();
    }

    /// The client's own products that pass, with their similarity to a vector.
    fn passing(&self, max_price: Option<u64>, in_stock: Option<bool>) -> Vec<(u64, &Product)> {
        let passes = |product: &Product| {
            product.is_active
                && max_price.is_none_or(|max| product.price <= max)
                && in_stock.is_none_or(|wanted| product.in_stock == wanted)
        };
        let own = self.products.iter().map(|(id, product)| (*id, product));
        own.filter(|(_, product)| passes(product)).collect()
    }

    async fn search(&mut self, body: &Value) -> (Value, Vec<(u64, f64)>) {
        let answer = self.send(Method::POST, "/api/v1/search", Some(body)).await;
        self.counts.answers += 1;
        let results = answer["results"].as_array().unwrap().iter();
        let found = results.map(|one| (one["id"].as_u64().unwrap(), one["score"].as_f64().unwrap()));
        let found: Vec<(u64, f64)> = found.collect();
        let distinct: BTreeSet<u64> = found.iter().map(|(id, _)| *id).collect();
        assert_eq!(distinct.len(), found.len(), "a product twice: {body} {answer}");
        assert!(found.is_sorted_by(|one, other| one.1 >= other.1), "{body} {answer}");
        (answer, found)
    }

    /// Searches of the client's own products have exactly those that pass.
    async fn compare_own(&mut self) {
        let max_price = (self.random.below(2) == 0).then(|| self.random.below(100));
        let in_stock = (self.random.below(2) == 0).then(|| self.random.below(2) == 0);
        let word = WORDS[self.random.below(4) as usize];
        let mut filters = json!({"category_id": self.category()});
        if let Some(max_price) = max_price {
            filters["max_price"] = max_price.into();
        }
        if let Some(in_stock) = in_stock {
            filters["in_stock"] = in_stock.into();
        }
        let lexical = json!({"query": word, "mode": "lexical", "filters": filters});
        let hybrid = json!({"query": word, "filters": filters});
        // Repeated ones may be answered from memory.
        for (body, is_lexical) in [(&lexical, true), (&hybrid, false), (&lexical, true), (&hybrid, false)] {
            let (answer, found) = self.search(body).await;
            let passing = self.passing(max_price, in_stock).into_iter();
            let wanted = passing.filter(|(_, product)| !is_lexical || product.word == word);
            let wanted: BTreeSet<u64> = wanted.map(|(id, _)| id).collect();
            let found: BTreeSet<u64> = found.into_iter().map(|(id, _)| id).collect();
            assert_eq!((&found, answer["total"].as_u64()), (&wanted, Some(wanted.len() as u64)), "{body}");
        }
        let vector = random_vector(&mut self.random);
        let body = json!({"vector": vector, "model_id": MODEL, "filters": filters});
        if self.products.values().all(|product| product.vector.is_none()) {
            return;
        }
        let (_, found) = self.search(&body).await;
        let with_vector = self.passing(max_price, in_stock).into_iter();
        let wanted = with_vector.filter_map(|(id, product)| Some((id, product.vector.as_ref()?)));
        let wanted: BTreeMap<u64, f64> = wanted.map(|(id, own)| (id, cosine(own, &vector))).collect();
        assert_eq!(found.len(), wanted.len(), "{body}: {found:?} {wanted:?}");
        for (id, score) in found {
            assert!((score - wanted[&id]).abs() < ROUNDING, "{body}: {id} has {score}, {wanted:?}");
        }
    }

    /// Searches of all products of the tenant have the client's own where their vectors are near enough.
    async fn compare_among_all(&mut self) {
        if self.products.values().all(|product| product.vector.is_none()) {
            return;
        }
        let in_stock = [None, Some(true), Some(false)][self.random.below(3) as usize];
        let vector = random_vector(&mut self.random);
        let mut body = json!({"vector": vector, "model_id": MODEL, "limit": 20, "explain": true});
        if let Some(in_stock) = in_stock {
            body["filters"] = json!({"in_stock": in_stock});
        }
        let (answer, found) = self.search(&body).await;
        let is_approximate =
            ["search", "filtered_search"].iter().any(|one| answer["plan"]["strategy"] == *one);
        self.counts.approximate += u64::from(is_approximate);
        let last = if found.len() < 20 { f64::NEG_INFINITY } else { found.last().unwrap().1 };
        let scores: BTreeMap<u64, f64> = found.into_iter().collect();
        let (mut wanted, mut missed) = (0, 0);
        for (id, product) in &self.products {
            let passes = product.is_active && in_stock.is_none_or(|wanted| product.in_stock == wanted);
            let expected = product.vector.as_ref().filter(|_| passes).map(|own| cosine(own, &vector));
            match (expected, scores.get(id)) {
                (Some(expected), Some(score)) => {
                    assert!((score - expected).abs() < ROUNDING, "{body}: {id} has {score}, not {expected}");
                    wanted += 1;
                }
                (Some(expected), None) if expected > last + ROUNDING => {
                    assert!(is_approximate, "{body}: {id} with {expected} is missing in {answer}");
                    (wanted, missed) = (wanted + 1, missed + 1);
                }
                (None, Some(_)) => panic!("{body}: {product:?} is in {answer}"),
                (_, None) => {}
            }
        }
        if is_approximate {
            self.counts.wanted += wanted;
            self.counts.missed += missed;
        }
    }

    async fn run(mut self, rounds: u64, until: Instant) -> Counts {
        for round in 0.. {
            if round >= rounds && Instant::now() >= until {
                break;
            }
            self.change().await;
            self.compare_own().await;
            self.compare_among_all().await;
        }
        self.counts
    }
}

/// Adds products that no client changes, half of them in stock, to the first tenant.
async fn add_others(server: &Server, count: u64) {
    let client = Client::new(server, 0);
    let mut random = SeededRng(7);
    for first in (0..count).step_by(1_000) {
        let ids = OTHERS + first..OTHERS + count.min(first + 1_000);
        let product = |id| json!({"id": id, "name": "other", "price": 1_000, "in_stock": id % 2 == 0, "category_id": "x"});
        let products = ids.clone().map(product).collect();
        client.send(Method::POST, "/api/v1/products/batch", Some(&products)).await;
        let mut embedded =
            |id| json!({"product_id": id, "model_id": MODEL, "vector": random_vector(&mut random)});
        let embedded = ids.map(&mut embedded).collect();
        client.send(Method::POST, "/api/v1/products/embeddings/batch", Some(&embedded)).await;
    }
    let index_is_built = async || {
        let status = server.get("/status").await.expect(200);
        let indexes = status["vector_indexes"].as_array().unwrap();
        indexes.iter().all(|index| index["vectors"] == count && index["indexed"] == index["vectors"])
    };
    if count > 40_000 {
        wait_until("the vector index is built", index_is_built).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_agree_with_a_model_while_products_change() {
    // So little memory that answers are removed all the time.
    let server = Server::start(&["--answer-cache-bytes=200000"]).await;
    let others = setting("MATCHBOOK_TEST_MIXED_OTHERS", 0);
    add_others(&server, others).await;
    let until = Instant::now() + Duration::from_secs(setting("MATCHBOOK_TEST_MIXED_SECONDS", 0));
    let clients = (0..CLIENTS).map(|number| Client::new(&server, number).run(12, until));
    let mut all = Counts::default();
    for counts in join_all(clients).await {
        all.answers += counts.answers;
        all.approximate += counts.approximate;
        all.wanted += counts.wanted;
        all.missed += counts.missed;
    }
    println!("{all:?}");
    assert!(all.answers > 64 * 12 * 3, "{all:?}");
    assert!(all.missed * 50 <= all.wanted, "a vector index misses too many: {all:?}");
    assert!(others < 45_000 || all.approximate > 0, "no vector index was searched: {all:?}");
    let caches = server.get("/cache/stats").await.expect(200);
    let searches =
        caches["caches"].as_array().unwrap().iter().find(|cache| cache["name"] == "search").unwrap();
    println!("{searches}");
    let at_least = |member: &str, least: u64| searches[member].as_u64() >= Some(least);
    assert!(at_least("hits", 10) && at_least("outdated", 10) && at_least("evictions", 10), "{caches}");
}
