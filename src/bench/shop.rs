//! `matchbook-bench feedback` and `matchbook-bench recommend`: what the users of a shop send, over many connections.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use futures_util::future::join_all;
use reqwest::Response;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::percentile;
use matchbook::client::{Client, Server};
use matchbook::failure::{Failure, print};
use web::http_client;

/// The number of categories, in which the products take turns.
const CATEGORIES: u64 = 200;
const PRODUCTS_AT_ONCE: u64 = 1_000;
const INTERACTIONS_AT_ONCE: u64 = 10_000;
/// The results of a search, and the products of a list.
const LIMIT: u64 = 10;
/// The requests of each kind before the measurement, so that connections are open.
const WARM_UP: u32 = 200;
/// The time in which the interactions happened.
const PAST: Duration = Duration::from_secs(50 * 86_400);

#[derive(Args, Debug)]
pub(crate) struct Feedback {
    /// The server, or another one with the same route
    #[command(flatten)]
    server: Server,
    /// The number of connections, each of which sends one interaction after the other
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    connections: usize,
    /// The duration of the measurement
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// The number of users
    #[arg(long, value_name = "NUMBER", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    users: u64,
    /// The number of products that they look at
    #[arg(long, value_name = "NUMBER", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(CATEGORIES..))]
    products: u64,
}

#[derive(Args, Debug)]
pub(crate) struct Recommend {
    /// A server without other products
    #[command(flatten)]
    server: Server,
    /// The number of connections
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    connections: usize,
    /// Requests per second, of each kind in turn
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// The duration of the measurement of each kind
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// The number of products
    #[arg(long, value_name = "NUMBER", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(CATEGORIES..))]
    products: u64,
    /// The number of users
    #[arg(long, value_name = "NUMBER", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    users: u64,
    /// The number of interactions before the measurement; 0 if the server has the products and interactions of an earlier run
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000_000)]
    interactions: u64,
}

/// The products and users, by number, and chance.
#[derive(Clone, Debug)]
struct Shop {
    products: u64,
    users: u64,
    random: fastrand::Rng,
}

impl Shop {
    fn new(products: u64, users: u64) -> Self {
        Self { products, users, random: fastrand::Rng::with_seed(1) }
    }

    fn words(&mut self, least: usize, most: usize) -> String {
        let count = self.random.usize(least..=most);
        let words: Vec<String> = (0..count).map(|_| format!("word{}", self.random.u32(..20_000))).collect();
        words.join(" ")
    }

    fn product(&mut self, id: u64) -> Value {
        let category = format!("c{}", id % CATEGORIES);
        let brand = format!("brand{}", self.random.u32(..500));
        json!({ "id": id, "name": self.words(3, 8), "price": id % 1_000, "category_id": category,
                "category_name": category, "brand_name": brand })
    }

    /// An interaction with a product of one of the user's five categories; which one follows Zipf's law.
    fn interaction(&mut self) -> Value {
        let user = self.random.u64(..self.users);
        let category = (user + self.random.u64(..5) * 41) % CATEGORIES;
        let rank = ((self.products / CATEGORIES) as f64).powf(self.random.f64()) as u64 - 1;
        let kind = match self.random.u8(..20) {
            0 => "purchase",
            1 | 2 => "add_to_cart",
            3..=7 => "click",
            _ => "view",
        };
        json!({ "user_id": format!("u{user}"), "product_id": rank * CATEGORIES + category, "interaction_type": kind })
    }

    fn user(&mut self) -> String {
        format!("u{}", self.random.u64(..self.users))
    }
}

/// A client with as many connections as requests may be in flight.
#[derive(Clone, Debug)]
struct Connections {
    http: reqwest::Client,
    server: Server,
    free: Arc<Semaphore>,
}

impl Connections {
    fn new(server: &Server, count: usize) -> Result<Self, Failure> {
        let failed =
            |error: &dyn std::fmt::Display| Failure::Failed(format!("cannot create an HTTP client: {error}"));
        let address = reqwest::Url::parse(&server.url).map_err(|error| failed(&error))?;
        let builder = http_client::builder(&address).map_err(|error| failed(&error))?;
        let http = builder.pool_max_idle_per_host(count).build().map_err(|error| failed(&error))?;
        Ok(Self { http, server: server.clone(), free: Arc::new(Semaphore::new(count)) })
    }

    async fn post(&self, path: &str, body: &Value, position: Option<u64>) -> Option<Response> {
        let mut request = self.http.post(format!("{}{path}", self.server.url)).json(body);
        if let Some(token) = &self.server.token {
            request = request.bearer_auth(token);
        }
        if let Some(position) = position {
            request = request.header("x-min-position", position);
        }
        request.send().await.ok().filter(|answer| answer.status().is_success())
    }

    /// Waits for a free connection, and returns whether the request succeeded.
    async fn send(&self, request: &Request) -> bool {
        let Ok(_permit) = self.free.acquire().await else { return false };
        let position = match &request.first {
            Some((path, body)) => {
                let Some(answer) = self.post(path, body, None).await else { return false };
                let Ok(answer) = answer.json::<Value>().await else { return false };
                answer["position"].as_u64()
            }
            None => None,
        };
        match self.post(request.path, &request.body, position).await {
            Some(answer) => answer.bytes().await.is_ok(),
            None => false,
        }
    }
}

/// A request, and one that it has to reflect.
#[derive(Debug)]
struct Request {
    first: Option<(&'static str, Value)>,
    path: &'static str,
    body: Value,
}

/// The milliseconds that requests took, and how many failed.
#[derive(Debug, Default)]
struct Times {
    milliseconds: Vec<f64>,
    failures: usize,
}

impl Times {
    fn new(answers: impl IntoIterator<Item = Option<f64>>) -> Self {
        let mut times = Self::default();
        for answer in answers {
            match answer {
                Some(milliseconds) => times.milliseconds.push(milliseconds),
                None => times.failures += 1,
            }
        }
        times.milliseconds.sort_by(f64::total_cmp);
        times
    }

    fn report(&self, name: &str, per_second: f64, json: bool) -> Result<(), Failure> {
        let [p50, p95, p99] = [0.5, 0.95, 0.99].map(|share| percentile(&self.milliseconds, share));
        if json {
            return print(
                &json!({ "bench": name, "requests": self.milliseconds.len(), "failures": self.failures,
                "per_second": per_second, "p50_ms": p50, "p95_ms": p95, "p99_ms": p99 }),
            );
        }
        print(&format_args!(
            "{name}: {per_second:.0}/s, p50 {p50:.2} ms, p95 {p95:.2} ms, p99 {p99:.2} ms, {} failures",
            self.failures
        ))
    }
}

impl Feedback {
    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        let connections = Connections::new(&self.server, self.connections)?;
        let started = Instant::now();
        let users = (0..self.connections).map(|number| {
            let (connections, duration) = (connections.clone(), self.duration);
            let mut shop = Shop::new(self.products, self.users);
            shop.random = fastrand::Rng::with_seed(number as u64);
            tokio::spawn(async move {
                let mut times = Vec::new();
                while started.elapsed() < duration {
                    let request = Request { first: None, path: "/api/v1/feedback", body: shop.interaction() };
                    let sent = Instant::now();
                    let is_accepted = connections.send(&request).await;
                    times.push(is_accepted.then(|| sent.elapsed().as_secs_f64() * 1e3));
                }
                times
            })
        });
        let times = Times::new(join_all(users).await.into_iter().flatten().flatten());
        let per_second = times.milliseconds.len() as f64 / started.elapsed().as_secs_f64();
        times.report("feedback", per_second, json)
    }
}

impl Recommend {
    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        let mut shop = Shop::new(self.products, self.users);
        if self.interactions > 0 {
            self.fill(&mut shop).await?;
        }
        let connections = Connections::new(&self.server, self.connections)?;
        for name in ["recommend", "search", "feedback to changed list"] {
            let warm_up: Vec<Request> = (0..WARM_UP).map(|_| request(name, &mut shop)).collect();
            join_all(warm_up.iter().map(|request| connections.send(request))).await;
            let count = (self.duration.as_secs_f64() * f64::from(self.rate)) as u32;
            let requests: Vec<Request> = (0..count).map(|_| request(name, &mut shop)).collect();
            let times = at_rate(&connections, self.rate, requests).await;
            times.report(name, f64::from(self.rate), json)?;
        }
        Ok(())
    }

    async fn fill(&self, shop: &mut Shop) -> Result<(), Failure> {
        let client = Client::new(self.server.clone())?;
        for first in (0..self.products).step_by(PRODUCTS_AT_ONCE as usize) {
            let ids = first..self.products.min(first + PRODUCTS_AT_ONCE);
            let products: Vec<Value> = ids.map(|id| shop.product(id)).collect();
            let _: Value = client.post("/api/v1/products/batch", &products.into()).await?;
        }
        let now = std::time::SystemTime::now();
        for first in (0..self.interactions).step_by(INTERACTIONS_AT_ONCE as usize) {
            let numbers = first..self.interactions.min(first + INTERACTIONS_AT_ONCE);
            let at = |number: u64| {
                let ago = PAST.mul_f64(1.0 - number as f64 / self.interactions as f64);
                humantime::format_rfc3339_micros(now - ago).to_string()
            };
            let interactions = numbers.map(|number| {
                let mut interaction = shop.interaction();
                interaction["occurred_at"] = at(number).into();
                interaction
            });
            let interactions: Vec<Value> = interactions.collect();
            let _: Value = client.post("/api/v1/feedback/batch", &interactions.into()).await?;
            if first % (INTERACTIONS_AT_ONCE * 10) == 0 && first > 0 {
                eprintln!("sent {first} of {} interactions", self.interactions);
            }
        }
        Ok(())
    }
}

fn request(name: &str, shop: &mut Shop) -> Request {
    let list = |user: &Value| json!({ "user_id": user, "context": "feed", "limit": LIMIT });
    match name {
        "recommend" => Request { first: None, path: "/api/v1/recommend", body: list(&shop.user().into()) },
        "search" => {
            let body = json!({ "query": shop.words(1, 3), "limit": LIMIT });
            Request { first: None, path: "/api/v1/search", body }
        }
        _ => {
            let interaction = shop.interaction();
            let body = list(&interaction["user_id"]);
            Request { first: Some(("/api/v1/feedback", interaction)), path: "/api/v1/recommend", body }
        }
    }
}

/// Sends requests at the rate without waiting for responses: the time of each counts from when it was due.
async fn at_rate(connections: &Connections, rate: u32, requests: Vec<Request>) -> Times {
    let gap = Duration::from_secs(1) / rate;
    let (connections, runtime) = (connections.clone(), tokio::runtime::Handle::current());
    // On its own thread: the runtime's timers have a resolution of a millisecond, and would send requests in bursts.
    let pacing = tokio::task::spawn_blocking(move || {
        let start = Instant::now();
        let send = |(number, request): (u32, Request)| {
            let due = start + gap * number;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let connections = connections.clone();
            runtime.spawn(async move {
                let is_answered = connections.send(&request).await;
                is_answered.then(|| due.elapsed().as_secs_f64() * 1e3)
            })
        };
        (0..).zip(requests).map(send).collect::<Vec<_>>()
    });
    Times::new(
        join_all(pacing.await.unwrap_or_default()).await.into_iter().map(|answer| answer.ok().flatten()),
    )
}
