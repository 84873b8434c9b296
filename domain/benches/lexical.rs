//! Measures the indexes over texts of products: their memory, the cost of a change, and of a search: `cargo bench -p domain
//! --bench lexical`. On Linux only, which tells the memory of a process.
#![expect(clippy::disallowed_methods, clippy::disallowed_macros, reason = "a bench measures time")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use domain::search::Field;
use domain::search::lexical::LexicalIndex;
use domain::search::ranking::{Mode, Query, TextIndexes};

const CHANGES: u32 = 2_000;
const SEARCHES: usize = 201;

/// Products of a shop: a name of 3 to 8 words, a brand, a category and a description of 10 to 60 words. A word's frequency
/// falls with its rank, as in natural language.
struct Products {
    numbers: fastrand::Rng,
    words: Vec<String>,
}

impl Products {
    fn new() -> Self {
        let mut numbers = fastrand::Rng::with_seed(7);
        let syllables: Vec<String> =
            "bdfgklmnprst".chars().flat_map(|c| "aeiou".chars().map(move |v| format!("{c}{v}"))).collect();
        let word = |rng: &mut fastrand::Rng| {
            (0..rng.usize(2..5)).map(|_| syllables[rng.usize(..syllables.len())].as_str()).collect()
        };
        let words = (0..60_000).map(|_| word(&mut numbers)).collect();
        Self { numbers, words }
    }

    fn word(&mut self) -> &str {
        // Uniform in the logarithm of the rank: Zipf's law.
        let rank = (self.words.len() as f64).powf(self.numbers.f64()) as usize;
        &self.words[rank.min(self.words.len() - 1)]
    }

    fn text(&mut self, count: usize) -> String {
        (0..count).map(|_| format!("{} ", self.word())).collect()
    }

    fn product(&mut self) -> [String; 4] {
        let (name, description) = (self.numbers.usize(3..9), self.numbers.usize(10..61));
        let (brand, category) = (self.numbers.usize(..500), self.numbers.usize(..200));
        [
            self.text(name),
            self.words[brand + 5_000].clone(),
            self.words[category + 9_000].clone(),
            self.text(description),
        ]
    }
}

fn fields(product: &[String; 4]) -> [Field<'_>; 4] {
    let [name, brand, category, description] = product;
    [(name, 3), (brand, 2), (category, 2), (description, 1)].map(|(text, weight)| Field { text, weight })
}

/// The memory of this process, in bytes.
fn memory() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or_default() * 4096
}

fn median(mut took: Vec<Duration>) -> Duration {
    took.sort();
    took[took.len() / 2]
}

fn measure_lexical(count: u32) {
    let mut products = Products::new();
    let texts: Vec<[String; 4]> = (0..count).map(|_| products.product()).collect();
    let changed: Vec<[String; 4]> = (0..CHANGES).map(|_| products.product()).collect();
    let before = memory();
    let start = Instant::now();
    let mut index = LexicalIndex::default();
    for (number, product) in (0..).zip(&texts) {
        index.insert(number, &fields(product));
    }
    let built = start.elapsed();
    let bytes = (memory() - before) / count as usize;
    let mut took = Vec::new();
    for (change, product) in (0..).zip(&changed) {
        let start = Instant::now();
        index.insert(change * (count / CHANGES), &fields(product));
        took.push(start.elapsed());
    }
    let replaced = median(took);
    let mut took = Vec::new();
    for change in 0..CHANGES {
        let start = Instant::now();
        index.remove(change * (count / CHANGES));
        took.push(start.elapsed());
    }
    println!(
        "lexical: {count} products, {} words, {bytes} bytes per product; added in {:.1?} each, all texts replaced in {replaced:.1?}, removed in {:.1?}",
        index.word_count(),
        built / count,
        median(took)
    );
    for (kind, from, query_words) in [("frequent", 10, 3), ("rare", 20_000, 3), ("frequent", 10, 1)] {
        let queries: Vec<String> = (0..SEARCHES)
            .map(|n| (0..query_words).map(|word| products.words[from + n * 5 + word].clone() + " ").collect())
            .collect();
        measure_searches(&format!("{query_words} {kind} words"), &queries, |query| index.search(query).len());
    }
    let typos: Vec<String> = products.words[1_000..]
        .iter()
        .filter(|word| word.len() >= 6)
        .take(SEARCHES)
        .map(|word| format!("{}x{}", &word[..2], &word[3..]))
        .collect();
    measure_searches("1 word with a typo", &typos, |query| index.search(query).len());
}

fn measure_searches(kind: &str, queries: &[String], search: impl Fn(&str) -> usize) {
    let mut found = 0;
    let took = queries
        .iter()
        .map(|query| {
            let start = Instant::now();
            found += black_box(search(query));
            start.elapsed()
        })
        .collect();
    println!("  {kind}: median {:.1?}, {} products found", median(took), found / queries.len());
}

/// Words and vectors of the built-in encoder together, over all products.
fn measure_hybrid(count: u32) {
    let mut products = Products::new();
    let before = memory();
    let mut indexes = TextIndexes::default();
    let start = Instant::now();
    for number in 0..count {
        indexes.insert(number, &fields(&products.product()));
    }
    let built = start.elapsed();
    println!(
        "hybrid: {count} products, {} bytes each, added in {:.1?} each",
        (memory() - before) / count as usize,
        built / count
    );
    let candidates: Vec<u32> = (0..count).collect();
    let queries: Vec<String> =
        (0..SEARCHES).map(|n| format!("{} {}", products.words[500 + n], products.words[50 + n])).collect();
    for mode in [Mode::Lexical, Mode::Semantic, Mode::Hybrid] {
        measure_searches(&format!("2 words, {mode:?}, best 50"), &queries, |query| {
            indexes.rank(Query::Text(query, mode), &candidates, 50, |one, other| one.cmp(&other)).len()
        });
    }
}

fn main() {
    for count in [10_000, 100_000, 1_000_000] {
        measure_lexical(count);
    }
    for count in [10_000, 100_000] {
        measure_hybrid(count);
    }
}
