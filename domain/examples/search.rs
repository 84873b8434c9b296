//! Searches products that it reads from its input, one JSON object per line. `tests/search.py` compares its answers with
//! those of Tantivy, and measures them on real names.
//!
//! - `{"insert": 7, "fields": [["red shoe", 3]]}` adds or replaces a product, `{"remove": 7}` removes it;
//! - `{"words": "Red shoe"}` prints the words of a text;
//! - `{"search": "shoe", "mode": "hybrid", "limit": 10}` prints the results, as `[[7, 0.5]]`;
//! - with a `vector` each, products and queries are compared by their vectors of another encoder than the built-in one.
#![expect(clippy::disallowed_macros, reason = "it prints its answers")]

use std::error::Error;

use domain::search::Field;
use domain::search::encoder::normalised;
use domain::search::model_vectors::ModelVectors;
use domain::search::ranking::{Mode, Query, TextIndexes, WordVotes};
use domain::search::words::words;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Insert { insert: u32, fields: Vec<(String, u8)>, vector: Option<Vec<f32>> },
    Remove { remove: u32 },
    Words { words: String },
    Search { search: String, mode: Mode, limit: usize, vector: Option<Vec<f32>> },
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut indexes = TextIndexes::default();
    let mut vectors: Option<ModelVectors> = None;
    let mut products = std::collections::BTreeSet::new();
    for line in std::io::stdin().lines() {
        match serde_json::from_str(&line?)? {
            Line::Insert { insert, fields, vector } => {
                let fields: Vec<Field<'_>> =
                    fields.iter().map(|(text, weight)| Field { text, weight: *weight }).collect();
                indexes.insert(insert, &fields);
                products.insert(insert);
                if let Some(vector) = vector {
                    vectors.get_or_insert_with(|| ModelVectors::new(vector.len())).set(insert, None, &vector);
                }
            }
            Line::Remove { remove } => {
                indexes.remove(remove);
                products.remove(&remove);
            }
            Line::Words { words: text } => println!("{}", serde_json::to_string(&words(&text))?),
            Line::Search { search, mode, limit, vector } => {
                let candidates: Vec<u32> = products.iter().copied().collect();
                let by_number = |one: u32, other: u32| one.cmp(&other);
                let found = match vector.and_then(normalised).zip(vectors.as_ref()) {
                    Some((vector, vectors)) => {
                        let nearest = (vectors.compare(&vector, &candidates), WordVotes::SENTENCES);
                        indexes.join((&search, mode), nearest, &candidates, limit, by_number)
                    }
                    None => indexes.rank(Query::Text(&search, mode), &candidates, limit, by_number),
                };
                let found: Vec<(u32, f32)> =
                    found.iter().take(limit).map(|product| (product.number, product.score)).collect();
                println!("{}", serde_json::to_string(&found)?);
            }
        }
    }
    Ok(())
}
