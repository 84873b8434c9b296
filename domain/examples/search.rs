//! Searches products that it reads from its input, one JSON object per line. `tests/search.py` compares its answers with
//! those of Tantivy, and measures them on real names.
//!
//! - `{"insert": 7, "fields": [["red shoe", 3]]}` adds or replaces a product, `{"remove": 7}` removes it;
//! - `{"words": "Red shoe"}` prints the words of a text;
//! - `{"search": "shoe", "mode": "hybrid", "limit": 10}` prints the results, as `[[7, 0.5]]`.
#![expect(clippy::disallowed_macros, reason = "it prints its answers")]

use std::error::Error;

use domain::search::Field;
use domain::search::ranking::{Mode, Query, TextIndexes};
use domain::search::words::words;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Insert { insert: u32, fields: Vec<(String, u8)> },
    Remove { remove: u32 },
    Words { words: String },
    Search { search: String, mode: Mode, limit: usize },
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut indexes = TextIndexes::default();
    let mut products = std::collections::BTreeSet::new();
    for line in std::io::stdin().lines() {
        match serde_json::from_str(&line?)? {
            Line::Insert { insert, fields } => {
                let fields: Vec<Field<'_>> =
                    fields.iter().map(|(text, weight)| Field { text, weight: *weight }).collect();
                indexes.insert(insert, &fields);
                products.insert(insert);
            }
            Line::Remove { remove } => {
                indexes.remove(remove);
                products.remove(&remove);
            }
            Line::Words { words: text } => println!("{}", serde_json::to_string(&words(&text))?),
            Line::Search { search, mode, limit } => {
                let candidates: Vec<u32> = products.iter().copied().collect();
                let query = Query::Text(&search, mode);
                let found = indexes.rank(query, &candidates, limit, |one, other| one.cmp(&other));
                let found: Vec<(u32, f32)> =
                    found.iter().take(limit).map(|product| (product.number, product.score)).collect();
                println!("{}", serde_json::to_string(&found)?);
            }
        }
    }
    Ok(())
}
