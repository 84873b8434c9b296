use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const NAME: u8 = 3;
const DESCRIPTION: u8 = 1;

fn fields<'a>(name: &'a str, description: &'a str) -> [Field<'a>; 2] {
    [Field { text: name, weight: NAME }, Field { text: description, weight: DESCRIPTION }]
}

fn index(products: &[(&str, &str)]) -> LexicalIndex {
    let mut index = LexicalIndex::default();
    for (number, (name, description)) in (0..).zip(products) {
        index.insert(number, &fields(name, description));
    }
    index
}

/// The numbers of the products that are found, the best first.
fn found(index: &LexicalIndex, query: &str) -> Vec<u32> {
    let mut hits = index.search(query);
    hits.sort_by(|one, other| other.score.total_cmp(&one.score).then(one.number.cmp(&other.number)));
    hits.into_iter().map(|hit| hit.number).collect()
}

#[test]
fn words_of_the_name_count_more_than_the_description() {
    let index = index(&[
        ("kettle", "boils water faster than a blender"),
        ("blender", "also boils water in a kettle"),
    ]);
    assert_eq!(found(&index, "kettle"), [0, 1]);
    assert_eq!(found(&index, "blender"), [1, 0]);
}

#[test]
fn rare_words_count_more_than_frequent_ones() {
    let index = index(&[("red shoe", ""), ("red hat", ""), ("red scarf", ""), ("blue scarf", "")]);
    assert_eq!(found(&index, "red scarf"), [2, 3, 0, 1]);
}

#[test]
fn typo_finds_the_product_and_counts_as_its_word() {
    let index = index(&[("stainless kettle", ""), ("stainless blender", "")]);
    let hits = index.search("bledner");
    assert_eq!(hits.iter().map(|hit| (hit.number, hit.whole_words)).collect::<Vec<_>>(), [(1, 1)]);
}

#[test]
fn similar_word_is_found_but_is_not_the_word() {
    let index = index(&[("arrowhead", ""), ("airport", "")]);
    let hits = index.search("arrow");
    assert_eq!(hits.iter().map(|hit| (hit.number, hit.whole_words)).collect::<Vec<_>>(), [(0, 0)]);
}

#[test]
fn changed_and_removed_products_are_not_found_by_old_words() {
    let mut index = index(&[("red shoe", ""), ("blue hat", "")]);
    index.insert(0, &fields("green coat", ""));
    assert_eq!(found(&index, "red shoe"), [0; 0]);
    assert_eq!(found(&index, "coat"), [0]);
    index.remove(0);
    index.remove(0);
    index.remove(99);
    assert_eq!(found(&index, "coat"), [0; 0]);
    assert_eq!((index.len(), index.word_count()), (1, 2));
}

#[test]
fn query_without_words_finds_nothing() {
    let index = index(&[("red shoe", "")]);
    assert_eq!(index.search("").len() + index.search("!? \u{1F600}").len(), 0);
    assert_eq!(LexicalIndex::default().search("shoe").len(), 0);
}

#[test]
fn product_without_words_can_be_replaced() {
    let mut index = index(&[("…", "")]);
    assert_eq!(index.len(), 1);
    index.insert(0, &fields("shoe", ""));
    assert_eq!((index.len(), found(&index, "shoe")), (1, vec![0]));
}

#[derive(Clone, Debug)]
enum Change {
    Insert(u32, String, String),
    Remove(u32),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    // Few words, some of them similar, so that products share them and words come and go.
    let text = proptest::collection::vec(
        proptest::sample::select(vec!["red", "shoe", "shoes", "blender", "blendr", "x1", "x2", "wi-fi"]),
        0..5,
    )
    .prop_map(|words| words.join(" "));
    let change = prop_oneof![
        3 => (0_u32..12, text.clone(), text).prop_map(|(number, name, text)| Change::Insert(number, name, text)),
        1 => (0_u32..12).prop_map(Change::Remove),
    ];
    proptest::collection::vec(change, 0..40)
}

proptest! {
    /// After any changes, the scores are those of a new index over the same products, whatever their order.
    #[test]
    fn scores_equal_those_of_a_new_index(changes in changes(), query in "(red|shoe|shoess|blender|x1|wifi)( red| shoes| x2)?") {
        let mut changed = LexicalIndex::default();
        let mut products = BTreeMap::new();
        for change in changes {
            match change {
                Change::Insert(number, name, text) => {
                    changed.insert(number, &fields(&name, &text));
                    products.insert(number, (name, text));
                }
                Change::Remove(number) => {
                    changed.remove(number);
                    products.remove(&number);
                }
            }
        }
        let mut fresh = LexicalIndex::default();
        for (number, (name, text)) in products.iter().rev() {
            fresh.insert(*number, &fields(name, text));
        }
        let sorted = |index: &LexicalIndex| {
            let mut hits = index.search(&query);
            hits.sort_by_key(|hit| hit.number);
            hits.into_iter().map(|hit| (hit.number, hit.score.to_bits(), hit.whole_words)).collect::<Vec<_>>()
        };
        prop_assert_eq!(sorted(&changed), sorted(&fresh));
        prop_assert_eq!((changed.len(), changed.word_count()), (fresh.len(), fresh.word_count()));
    }
}
