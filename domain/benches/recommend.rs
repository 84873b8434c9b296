//! Measures recommendations: the memory and the cost of an event, and of a list of each context: `cargo bench -p domain --bench
//! recommend`. On Linux only, which tells the memory of a process.
#![expect(clippy::disallowed_methods, clippy::disallowed_macros, reason = "a bench measures time")]

use std::time::{Duration, Instant};

use domain::recommend::sources::ListSources;
use domain::recommend::{Blend, Request};
use domain::search::filter::Filter;
use event_schemas::ids::{ProductId, SubjectId};
use event_schemas::product::{ProductEvent, ProductUpserted};
use event_schemas::time::Timestamp;
use event_schemas::user::{
    InteractionRecorded, InteractionType, ListContext, SubjectKeyDestroyed, UserEvent,
};
use serde_json::json;
use uuid::Uuid;

const PRODUCTS: usize = 100_000;
const USERS: u64 = 10_000;
const INTERACTIONS: usize = 1_000_000;
const CATEGORIES: usize = 200;
const LISTS: usize = 1_001;
const LIMIT: usize = 20;

/// The memory of this process, in bytes.
fn memory() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or_default() * 4096
}

fn id(number: usize) -> ProductId {
    number.to_string().parse().expect("a number is an id")
}

fn user(number: u64) -> SubjectId {
    SubjectId(Uuid::from_u128(u128::from(number)))
}

fn product(number: usize, numbers: &mut fastrand::Rng) -> ProductEvent {
    let words: Vec<String> =
        (0..numbers.usize(3..9)).map(|_| format!("word{}", numbers.u32(..20_000))).collect();
    let category = format!("c{}", number % CATEGORIES);
    let details = json!({"name": words.join(" "), "category_id": category, "category_name": category,
        "brand_name": format!("brand{}", numbers.u32(..500)), "in_stock": true, "is_active": true});
    let details = serde_json::from_value(details).expect("the details are complete");
    ProductUpserted { product_id: id(number), details }.into()
}

/// A user looks at products of a few categories; which one follows the law of Zipf.
fn interaction(numbers: &mut fastrand::Rng) -> UserEvent {
    let of_user = numbers.u64(..USERS);
    let category = (of_user as usize + numbers.usize(..5) * 41) % CATEGORIES;
    let rank = ((PRODUCTS / CATEGORIES) as f64).powf(numbers.f64()) as usize - 1;
    let kind = match numbers.u8(..20) {
        0 => InteractionType::Purchase,
        1 | 2 => InteractionType::AddToCart,
        3..=7 => InteractionType::Click,
        _ => InteractionType::View,
    };
    let recorded = InteractionRecorded {
        subject_id: user(of_user),
        product_id: id(rank * CATEGORIES + category),
        interaction_type: kind,
        value: None,
        context: None,
        list_id: None,
        slot: None,
        session_id: None,
    };
    recorded.into()
}

/// The time of an interaction: all are within 50 days.
fn at(number: usize) -> Timestamp {
    Timestamp::EPOCH.after(Duration::from_secs(50 * 86_400 * number as u64 / INTERACTIONS as u64))
}

fn measure(name: &str, sources: &ListSources, mut request: impl FnMut(usize) -> Request) {
    let mut took = Vec::with_capacity(LISTS);
    let mut strategies = std::collections::BTreeMap::new();
    for number in 0..LISTS {
        let request = request(number);
        let start = Instant::now();
        let list = sources.recommend(&request, at(INTERACTIONS)).expect("the request is complete");
        took.push(start.elapsed());
        *strategies.entry(format!("{:?}", list.strategy)).or_insert(0) += 1;
    }
    took.sort();
    println!("  {name}: p50 {:.1?}, p95 {:.1?}, {strategies:?}", took[LISTS / 2], took[LISTS * 95 / 100]);
}

fn main() {
    let mut numbers = fastrand::Rng::with_seed(7);
    let products: Vec<ProductEvent> = (0..PRODUCTS).map(|number| product(number, &mut numbers)).collect();
    let mut sources = ListSources::default();
    let (before, start) = (memory(), Instant::now());
    for event in &products {
        sources.apply_product(event);
    }
    let bytes = (memory() - before) / PRODUCTS;
    println!("{PRODUCTS} products: {bytes} bytes and {:.1?} each", start.elapsed() / PRODUCTS as u32);
    let (before, start) = (memory(), Instant::now());
    for number in 0..INTERACTIONS {
        sources.apply_user(&interaction(&mut numbers), at(number));
    }
    let bytes = (memory() - before) / INTERACTIONS;
    println!(
        "{INTERACTIONS} interactions of {USERS} users: {bytes} bytes and {:.1?} each, with the time to make them up",
        start.elapsed() / INTERACTIONS as u32
    );
    println!("lists of {LIMIT} products:");
    let of = |context, number: usize| Request {
        subject: Some(user(number as u64 * 9)),
        ..Request::new(context, LIMIT)
    };
    measure("feed", &sources, |number| of(ListContext::Feed, number));
    measure("feed of an unknown user", &sources, |_| Request::new(ListContext::Feed, LIMIT));
    measure("similar", &sources, |number| Request {
        product_id: Some(id(number * 7)),
        ..of(ListContext::Similar, number)
    });
    measure("similar to a product that few visited", &sources, |number| Request {
        product_id: Some(id(PRODUCTS - 1 - number)),
        ..Request::new(ListContext::Similar, LIMIT)
    });
    measure("category", &sources, |number| {
        let category_id = format!("c{}", number % CATEGORIES).parse().ok();
        Request { filter: Filter { category_id, ..Filter::default() }, ..of(ListContext::Category, number) }
    });
    measure("search", &sources, |number| Request {
        query: Some(format!("word{} word{}", number, number * 3)),
        ..of(ListContext::Search, number)
    });
    measure("feed, blend of vectors only", &sources, |number| Request {
        blend: Blend::Embedding,
        ..of(ListContext::Feed, number)
    });
    measure("feed with diversity", &sources, |number| Request {
        diversity: 0.3,
        ..of(ListContext::Feed, number)
    });
    let start = Instant::now();
    for number in 0..20 {
        let erased = SubjectKeyDestroyed { subject_id: user(number) };
        sources.apply_user(&erased.into(), Timestamp::EPOCH);
    }
    println!("forgetting a user: {:.1?}", start.elapsed() / 20);
}
