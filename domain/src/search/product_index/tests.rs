use std::collections::{BTreeMap, BTreeSet};

use event_schemas::product::{ProductDeactivated, ProductUpserted};
use event_schemas::vector::Vector;
use proptest::prelude::{Strategy, any, prop_assert_eq, proptest};
use serde_json::{Value, json};

use super::super::filter::FacetCount;
use super::super::page::Continuation;
use super::super::plan;
use super::*;

pub(super) fn id(number: u32) -> ProductId {
    number.to_string().parse().unwrap()
}

fn details(facts: Value) -> ProductDetails {
    let mut all = json!({"name": "shoe", "in_stock": true, "is_active": true});
    let Value::Object(facts) = facts else { panic!("facts are members") };
    all.as_object_mut().unwrap().extend(facts);
    serde_json::from_value(all).unwrap()
}

pub(super) fn put(index: &mut ProductIndex, number: u32, facts: Value) {
    let event = ProductUpserted { product_id: id(number), details: Box::new(details(facts)) };
    index.apply(&event.into());
}

pub(super) fn deactivate(index: &mut ProductIndex, number: u32) {
    index.apply(&ProductDeactivated { product_id: id(number) }.into());
}

pub(super) fn search(text: &str) -> Search {
    Search {
        question: Question::Text(text.to_owned(), Mode::Hybrid),
        model: None,
        filter: Filter::default(),
        min_score: None,
        start: PageStart::Offset(0),
        limit: 10,
        facets: false,
        explain: false,
    }
}

pub(super) fn ids(answer: &Answer) -> Vec<String> {
    answer.results.iter().map(|found| found.product_id.to_string()).collect()
}

/// 500 shoes of ten categories, with rising prices.
fn shop() -> ProductIndex {
    let mut index = ProductIndex::default();
    for number in 0..500 {
        let category = format!("c{}", number % 10);
        let facts = json!({"name": format!("shoe {number}"), "price": number, "category_id": category,
            "category_name": "Shoes", "brand_name": "Élan", "in_stock": number % 2 == 0,
            "attributes": {"size": number % 5, "tags": ["a", format!("t{}", number % 3)]}});
        put(&mut index, number, facts);
    }
    index
}

#[test]
fn filter_leaves_as_many_results_as_products_pass() {
    let index = shop();
    let passing = |filter: Filter| {
        let search = Search { filter, limit: 500, ..search("shoe") };
        let answer = index.search(&search).unwrap();
        assert_eq!((answer.total, answer.plan.candidates), (answer.results.len(), answer.total));
        answer.total
    };
    let none = Filter::default;
    assert_eq!(passing(none()), 500);
    assert_eq!(passing(Filter { min_price: Some(10.0), max_price: Some(19.0), ..none() }), 10);
    assert_eq!(passing(Filter { category_id: Some("c3".parse().unwrap()), ..none() }), 50);
    assert_eq!(
        passing(Filter { category_id: Some("c3".parse().unwrap()), in_stock: Some(true), ..none() }),
        0
    );
    assert_eq!(passing(Filter { brand: Some("ELAN".to_owned()), ..none() }), 500);
    assert_eq!(passing(Filter { brand: Some("Elans".to_owned()), ..none() }), 0);
    assert_eq!(passing(Filter { brand_id: Some("b".parse().unwrap()), ..none() }), 0);
    let attributes =
        |name: &str, value: Value| Filter { attributes: [(name.to_owned(), value)].into(), ..none() };
    assert_eq!(passing(attributes("size", json!(2.0))), 100);
    assert_eq!(passing(attributes("size", json!([1, 2]))), 200);
    assert_eq!(passing(attributes("tags", json!("t0"))), 167);
    assert_eq!(passing(attributes("colour", json!("red"))), 0);
}

#[test]
fn changed_product_is_right_in_the_next_answer() {
    let mut index = ProductIndex::default();
    put(&mut index, 1, json!({"name": "kettle", "category_id": "a", "price": 5}));
    put(&mut index, 2, json!({"name": "kettle", "category_id": "a", "price": 6}));
    let of_category = |index: &ProductIndex, category: &str| {
        let filter = Filter { category_id: Some(category.parse().unwrap()), ..Filter::default() };
        ids(&index.search(&Search { filter, ..search("kettle") }).unwrap())
    };
    assert_eq!(of_category(&index, "a"), ["1", "2"]);
    put(&mut index, 1, json!({"name": "kettle", "category_id": "b", "price": 5}));
    assert_eq!((of_category(&index, "a"), of_category(&index, "b")), (vec!["2".into()], vec!["1".into()]));
    deactivate(&mut index, 1);
    deactivate(&mut index, 9);
    assert_eq!((of_category(&index, "b"), index.len()), (vec![], 1));
    put(&mut index, 2, json!({"name": "kettle", "is_active": false}));
    assert!(index.search(&search("kettle")).unwrap().results.is_empty());
    put(&mut index, 1, json!({"name": "teapot"}));
    assert_eq!(ids(&index.search(&search("teapot")).unwrap()), ["1"]);
}

#[test]
fn facets_count_all_results_instead_of_the_page() {
    let answer = shop().search(&Search { facets: true, limit: 3, ..search("shoe") }).unwrap();
    let facets = answer.facets.unwrap();
    assert_eq!((answer.results.len(), facets.category_id.len()), (3, 10));
    assert_eq!(
        facets.category_id[0],
        FacetCount { value: "c0".into(), name: Some("Shoes".into()), count: 50 }
    );
    assert_eq!(
        facets.brand.iter().map(|brand| (brand.value.as_str(), brand.count)).collect::<Vec<_>>(),
        [("Élan", 500)]
    );
    assert_eq!(facets.in_stock.iter().map(|value| value.count).sum::<usize>(), answer.total);
}

#[test]
fn minimal_score_limits_results_and_total() {
    let index = shop();
    let all = index.search(&Search { limit: 500, ..search("shoe 7") }).unwrap();
    let min = all.results[19].score;
    let some = index.search(&Search { min_score: Some(min), limit: 5, ..search("shoe 7") }).unwrap();
    assert_eq!(some.total, all.results.iter().filter(|found| found.score >= min).count());
    assert_eq!(ids(&some), ids(&all)[..5]);
}

#[test]
fn similar_products_do_not_contain_the_product() {
    let mut index = shop();
    put(&mut index, 900, json!({"name": "…"}));
    let similar = |index: &ProductIndex, number| {
        index.search(&Search { question: Question::SimilarTo(id(number)), limit: 500, ..search("") })
    };
    let answer = similar(&index, 7).unwrap();
    assert_eq!((answer.total, ids(&answer).contains(&"7".to_owned())), (499, false));
    assert_eq!(similar(&index, 900).unwrap().total, 0, "a product without words resembles none");
    assert_eq!(similar(&index, 901).unwrap_err(), Unanswerable::UnknownProduct);
    deactivate(&mut index, 7);
    assert_eq!(ids(&similar(&index, 7).unwrap()), ids(&answer), "an inactive one can still be asked about");
}

#[test]
fn explanation_gives_the_parts_of_a_score() {
    let index = shop();
    let found = &index.search(&Search { explain: true, limit: 1, ..search("shoe 7") }).unwrap().results[0];
    let parts = found.parts.unwrap();
    assert_eq!((found.product_id.as_str(), parts.words), ("7", 2));
    assert!(parts.lexical.unwrap() > 1.0 && parts.similarity.unwrap() > 0.5);
}

/// Reads all pages, and changes the products before each of them.
fn pages(
    index: &mut ProductIndex,
    first: &Search,
    mut change: impl FnMut(&mut ProductIndex, u32),
) -> Vec<Answer> {
    let mut pages = vec![index.search(first).unwrap()];
    while let Some(next) = pages.last().unwrap().next.clone() {
        change(index, pages.len() as u32);
        let next = Continuation::from_bytes(&next.to_bytes()).unwrap();
        pages.push(index.search(&Search { start: PageStart::After(next), ..first.clone() }).unwrap());
    }
    pages
}

#[test]
fn pages_are_those_of_one_long_page() {
    let mut index = shop();
    let whole = index.search(&Search { limit: 500, ..search("shoe 7") }).unwrap();
    assert_eq!(whole.next, None);
    let first = Search { limit: 25, ..search("shoe 7") };
    let by_cursor = pages(&mut index, &first, |_, _| {});
    assert_eq!(by_cursor.len(), 20);
    assert_eq!(by_cursor.iter().flat_map(ids).collect::<Vec<_>>(), ids(&whole));
    let by_offset = (0..20).map(|page| Search { start: PageStart::Offset(page * 25), ..first.clone() });
    let by_offset: Vec<Answer> = by_offset.map(|page| index.search(&page).unwrap()).collect();
    assert_eq!(by_offset.iter().flat_map(ids).collect::<Vec<_>>(), ids(&whole));
    assert!(by_cursor.iter().chain(&by_offset).all(|page| page.total == 500));
}

#[test]
fn pages_repeat_and_skip_nothing_while_products_change() {
    for text in ["shoe 7", "shoe", "boot"] {
        for mode in [Mode::Hybrid, Mode::Semantic] {
            let mut index = shop();
            let question = Question::Text(text.to_owned(), mode);
            let first = Search { question, limit: 25, ..search(text) };
            let pages = pages(&mut index, &first, |index, page| {
                // Better and worse products come, and others change their texts, between all pages.
                put(index, 1_000 + page, json!({"name": "shoe 7"}));
                put(index, 499 - page * 3, json!({"name": "shoe 7 shoe"}));
                put(index, page * 5, json!({"name": "boot"}));
            });
            let all: Vec<String> = pages.iter().flat_map(ids).collect();
            let distinct: BTreeSet<&String> = all.iter().collect();
            assert_eq!((all.len(), distinct.len()), (500, 500), "{text}");
            assert!(pages.iter().all(|page| page.total == 500));
            assert!(
                distinct.iter().all(|id| id.parse::<u32>().unwrap() < 1_000),
                "later products are not on later pages"
            );
        }
    }
}

fn facts() -> impl Strategy<Value = Value> {
    let word = proptest::sample::select(vec!["red", "shoe", "shoes", "kettle", "x1"]);
    (proptest::collection::vec(word, 0..4), 0_u32..3, 0_u32..5, any::<bool>()).prop_map(|(words, category, price, active)| {
        json!({"name": words.join(" "), "category_id": format!("c{category}"), "price": price, "is_active": active})
    })
}

fn embed(index: &mut ProductIndex, number: u32, image: Option<&str>, values: [f32; 2]) {
    let embedded = ProductEmbedded {
        product_id: id(number),
        model_id: "clip".parse().unwrap(),
        image_id: image.map(|image| image.parse().unwrap()),
        vector: Vector::new(values),
    };
    index.apply(&embedded.into());
}

fn near(question: Question) -> Search {
    Search { question, model: Some("clip".parse().unwrap()), ..search("") }
}

fn near_vector(vector: [f32; 2]) -> Search {
    near(Question::Vector(vector.to_vec()))
}

#[test]
fn vectors_of_a_model_find_the_products_that_have_one() {
    let mut index = shop();
    for number in 0..20 {
        embed(&mut index, number, None, [1.0, number as f32 / 20.0]);
    }
    embed(&mut index, 999, None, [1.0, 0.0]);
    let answer = index.search(&Search { explain: true, ..near_vector([1.0, 0.0]) }).unwrap();
    assert_eq!((answer.total, ids(&answer)[..3].to_vec()), (20, vec!["0".into(), "1".into(), "2".into()]));
    assert_eq!(answer.results[0].parts.unwrap().similarity, Some(1.0));
    // A product is found by its newest vector, once, and by its images as well.
    embed(&mut index, 0, None, [0.0, 1.0]);
    embed(&mut index, 5, Some("front"), [1.0, 0.0]);
    let answer = index.search(&Search { limit: 500, facets: true, ..near_vector([1.0, 0.0]) }).unwrap();
    let found = ids(&answer);
    assert_eq!(
        (found.len(), found[..2].to_vec(), found[19].as_str()),
        (20, vec!["5".into(), "1".into()], "0")
    );
    assert_eq!(answer.facets.unwrap().category_id.iter().map(|facet| facet.count).sum::<usize>(), 20);
    deactivate(&mut index, 5);
    assert_eq!(ids(&index.search(&near_vector([1.0, 0.0])).unwrap())[0], "1");
    put(&mut index, 5, json!({"name": "shoe"}));
    assert_eq!(ids(&index.search(&near_vector([1.0, 0.0])).unwrap())[0], "5", "its vectors were kept");
}

#[test]
fn similar_products_are_those_with_near_vectors() {
    let mut index = shop();
    for (number, vector) in [(1, [1.0, 0.0]), (2, [0.0, 1.0]), (3, [0.8, 0.6]), (4, [1.0, 0.1])] {
        embed(&mut index, number, None, vector);
    }
    let similar = |number| ids(&index.search(&near(Question::SimilarTo(id(number)))).unwrap());
    assert_eq!(
        (similar(1), similar(2)),
        (vec!["4".into(), "3".into(), "2".into()], vec!["3".into(), "4".into(), "1".into()])
    );
    assert!(similar(100).is_empty(), "a product without a vector resembles none");
}

#[test]
fn search_that_a_model_cannot_answer_is_refused() {
    let mut index = shop();
    embed(&mut index, 1, None, [1.0, 0.0]);
    let refusal = |search: &Search| index.search(search).unwrap_err();
    let three = near(Question::Vector(vec![1.0, 0.0, 0.0]));
    assert_eq!(refusal(&three), Unanswerable::Dimension { expected: 2 });
    assert_eq!(
        refusal(&Search { model: None, ..three.clone() }),
        Unanswerable::Dimension { expected: DIMENSION }
    );
    let unknown = Search { model: Some("other".parse().unwrap()), ..three };
    assert_eq!(refusal(&unknown), Unanswerable::UnknownModel);
    let text = near(Question::Text("shoe".to_owned(), Mode::Hybrid));
    assert_eq!(refusal(&text), Unanswerable::NoEncoder);
    assert_eq!(refusal(&near(Question::SimilarTo(id(901)))), Unanswerable::UnknownProduct);
}

/// A graph that contains everything, and finds the nearest first.
struct WholeGraph(Vec<u32>, u64);

impl VectorGraph for WholeGraph {
    fn contained_changes(&self) -> u64 {
        self.1
    }

    fn nearest(&self, _: &[f32], count: usize, admits: impl Fn(u32) -> bool) -> Vec<u32> {
        self.0.iter().copied().filter(|slot| admits(*slot)).take(count).collect()
    }
}

#[test]
fn answers_with_a_graph_are_those_of_a_scan() {
    let mut index = ProductIndex::default();
    for number in 0..21_000 {
        put(
            &mut index,
            number,
            json!({"name": "x", "price": number, "category_id": format!("c{}", number % 2)}),
        );
        embed(&mut index, number, None, [1.0, number as f32 / 21_000.0]);
    }
    // A change that the graph does not contain yet, and products that left.
    let graph = WholeGraph((0..21_000).collect(), 21_000);
    embed(&mut index, 20_000, None, [1.0, -0.00001]);
    deactivate(&mut index, 1);
    let check = |search: Search, strategy: plan::Strategy| {
        let (near, exact) = (
            index.search_with(&search, Some(&graph), plan::EXACT_MAX).unwrap(),
            index.search(&search).unwrap(),
        );
        assert_eq!(near.plan.strategy, strategy);
        assert_eq!((&near.results, near.total), (&exact.results, exact.total));
        assert_eq!((&near.facets, &near.next), (&exact.facets, &exact.next));
        near
    };
    let first = Search { facets: true, ..near_vector([0.0, -1.0]) };
    let found = ids(&check(first.clone(), plan::Strategy::Search));
    assert_eq!(found[..4], ["20000", "0", "2", "3"]);
    check(Search { start: PageStart::Offset(900), ..first.clone() }, plan::Strategy::Search);
    check(Search { start: PageStart::Offset(1_000), ..first.clone() }, plan::Strategy::ExactScan);
    check(Search { min_score: Some(-0.5), ..first.clone() }, plan::Strategy::ExactScan);
    let filter = Filter { max_price: Some(20_500.0), ..Filter::default() };
    let filtered = check(Search { filter, ..first.clone() }, plan::Strategy::FilteredSearch);
    let next = filtered.next.unwrap();
    check(Search { start: PageStart::After(next), ..first.clone() }, plan::Strategy::Search);
    let filter = Filter { category_id: Some("c0".parse().unwrap()), ..Filter::default() };
    check(Search { filter, ..first.clone() }, plan::Strategy::ExactScan);
    check(near(Question::SimilarTo(id(7))), plan::Strategy::Search);
    put(&mut index, 21_000, json!({"name": "x"}));
    let similar = near(Question::SimilarTo(id(21_000)));
    let behind = WholeGraph((0..21_000).collect(), 20_000);
    let answer = index.search_with(&similar, Some(&behind), plan::EXACT_MAX).unwrap();
    assert_eq!((answer.results.len(), answer.total), (0, 0), "it has no vector to compare");
    let lagging = WholeGraph(Vec::new(), 0);
    let answer = index.search_with(&first, Some(&lagging), plan::EXACT_MAX).unwrap();
    assert_eq!(answer.plan.strategy, plan::Strategy::ExactScan, "too many vectors are not contained");
}

proptest! {
    /// The answers after any events are those of an index that only knew the last facts of each product.
    #[test]
    fn answers_depend_only_on_the_last_facts(
        events in proptest::collection::vec((0_u32..10, proptest::option::weighted(0.8, facts())), 0..40),
        text in "(red|shoe|shoees|kettle)( x1)?",
        category in proptest::option::of("c[0-2]"),
    ) {
        let mut index = ProductIndex::default();
        let mut last = BTreeMap::new();
        for (number, facts) in events {
            match facts {
                Some(facts) => {
                    put(&mut index, number, facts.clone());
                    last.insert(number, facts);
                }
                None => {
                    deactivate(&mut index, number);
                    if let Some(facts) = last.get_mut(&number) {
                        facts["is_active"] = json!(false);
                    }
                }
            }
        }
        let mut fresh = ProductIndex::default();
        for (number, facts) in &last {
            put(&mut fresh, *number, facts.clone());
        }
        let filter = Filter { category_id: category.map(|id| id.parse().unwrap()), ..Filter::default() };
        for mode in [Mode::Hybrid, Mode::Semantic, Mode::Lexical] {
            let question = Question::Text(text.clone(), mode);
            let search = Search { question, filter: filter.clone(), facets: true, explain: true, ..search("") };
            prop_assert_eq!(index.search(&search), fresh.search(&search));
        }
    }
}
