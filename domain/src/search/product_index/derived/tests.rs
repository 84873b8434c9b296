use event_schemas::product::ProductEmbedded;
use event_schemas::vector::Vector;
use serde_json::json;

use super::super::super::encoder::normalised;
use super::super::super::question::{Question, Search};
use super::super::super::ranking::Mode;
use super::super::tests::{deactivate, id, ids, put, search};
use super::*;

/// A vector that shows of which text it is.
fn encoded(text: &str) -> Vec<f32> {
    let shoes = text.matches("shoe").count() + text.matches("sneaker").count();
    normalised(vec![shoes as f32, text.matches("kettle").count() as f32, 0.1]).unwrap()
}

/// Computes the vectors of all texts that have changed.
fn encode_pending(index: &mut ProductIndex) {
    for pending in index.pending_texts(usize::MAX) {
        let vector = encoded(&pending.text);
        index.set_derived(&pending, Some(&vector));
    }
}

fn sneakers(mode: Mode) -> Search {
    let question = Question::Encoded("sneakers".to_owned(), mode, encoded("sneakers"));
    Search { question, model: Some("mini".parse().unwrap()), ..search("") }
}

#[test]
fn products_are_found_by_the_vectors_of_their_texts() {
    let mut index = ProductIndex::with_model("mini".parse().unwrap(), 3);
    put(&mut index, 1, json!({"name": "kettle", "brand_name": "B", "description": "boils"}));
    put(&mut index, 2, json!({"name": "running shoe"}));
    put(&mut index, 3, json!({"name": "steel sneakers kettle"}));
    let texts: Vec<String> = index.pending_texts(9).into_iter().map(|pending| pending.text).collect();
    assert_eq!(texts, ["kettle. B. boils", "running shoe", "steel sneakers kettle"]);
    assert_eq!(ids(&index.search(&sneakers(Mode::Semantic)).unwrap()).len(), 0);
    encode_pending(&mut index);
    assert_eq!(index.derived().unwrap().pending(), 0);
    assert_eq!(ids(&index.search(&sneakers(Mode::Semantic)).unwrap()), ["2", "3", "1"]);
    // Its word counts, too.
    assert_eq!(ids(&index.search(&sneakers(Mode::Hybrid)).unwrap()), ["3", "2", "1"]);
    assert_eq!(ids(&index.search(&sneakers(Mode::Lexical)).unwrap()), ["3"]);
    let similar = Search { question: Question::SimilarTo(id(2)), ..sneakers(Mode::Semantic) };
    assert_eq!(ids(&index.search(&similar).unwrap()), ["3", "1"]);
    let explained = Search { explain: true, ..sneakers(Mode::Hybrid) };
    let parts = index.search(&explained).unwrap().results[1].parts.unwrap();
    assert!(parts.lexical.is_none() && parts.similarity.unwrap() > 0.99, "{parts:?}");
}

#[test]
fn vector_of_a_former_text_is_ignored() {
    let mut index = ProductIndex::with_model("mini".parse().unwrap(), 3);
    put(&mut index, 1, json!({"name": "kettle"}));
    put(&mut index, 2, json!({"name": "shoe"}));
    let former = index.pending_texts(2);
    put(&mut index, 1, json!({"name": "sneakers"}));
    deactivate(&mut index, 2);
    for pending in &former {
        index.set_derived(pending, Some(&encoded(&pending.text)));
    }
    assert_eq!(index.pending_texts(9), [PendingText { number: 0, text: "sneakers".to_owned() }]);
    assert!(index.derived().unwrap().vectors().is_empty());
    assert!(!index.derived().unwrap().has_reached(index.derived().unwrap().changes()));
    encode_pending(&mut index);
    assert!(index.derived().unwrap().has_reached(index.derived().unwrap().changes()));
    assert_eq!(ids(&index.search(&sneakers(Mode::Semantic)).unwrap()), ["1"]);
    // Facts without a text change no vector; a text without a vector loses the former one.
    put(&mut index, 1, json!({"name": "sneakers", "price": 5}));
    assert_eq!(index.pending_texts(9), []);
    put(&mut index, 1, json!({"name": "…"}));
    let pending = index.pending_texts(9).remove(0);
    index.set_derived(&pending, None);
    assert_eq!(ids(&index.search(&sneakers(Mode::Semantic)).unwrap()).len(), 0);
}

#[test]
fn vectors_of_callers_for_the_servers_model_are_not_compared() {
    let mut index = ProductIndex::with_model("mini".parse().unwrap(), 3);
    put(&mut index, 1, json!({"name": "kettle"}));
    encode_pending(&mut index);
    let embedded = ProductEmbedded {
        product_id: id(1),
        model_id: "mini".parse().unwrap(),
        image_id: None,
        vector: Vector::new([9.0, 9.0]),
    };
    index.apply(&embedded.into());
    assert_eq!(index.models().map(|(_, vectors)| vectors.dimension()).collect::<Vec<_>>(), [3]);
    assert_eq!(ids(&index.search(&sneakers(Mode::Semantic)).unwrap()), ["1"]);
}
