use event_schemas::merchandising::{Rule, RuleEffect};
use event_schemas::user::{InteractionRecorded, InteractionType};
use serde_json::json;

use super::super::fixture::{Shop, feed, ids, interaction, now, rule, similar, user};
use super::super::{Blend, LIMIT_MAX, LeftOut};
use super::*;
use crate::scenario::{at, id};

fn popular(limit: usize) -> Request {
    Request::new(ListContext::Feed, limit)
}

/// A shop in which user 1 visits `a`, after which others visit `b` and then `c`.
fn shop() -> Shop {
    let mut shop = Shop::with(&["a", "b", "c", "x", "y"]);
    for number in 2..5 {
        shop.visit(number, &["a", "b", "c"]);
    }
    shop.visit(1, &["a"]);
    shop
}

fn left_out(list: &Recommendation) -> Vec<(LeftOut, usize)> {
    list.left_out.iter().map(|(reason, count)| (*reason, *count)).collect()
}

#[test]
fn products_that_others_visited_next_come_first() {
    let list = shop().list(&feed(1));
    assert_eq!(ids(&list)[..2], ["b", "c"]);
    assert_eq!(list.items[0].reason, "often visited together with aaa");
    assert_eq!(list.items[0].parts.visited_with, Some((&id::<ProductId>("a")).into()));
    assert!(list.items.is_sorted_by(|one, other| one.score >= other.score));
    assert!(list.items.iter().all(|item| item.probability == 1.0));
}

#[test]
fn unknown_user_gets_popular_products_and_the_list_says_so() {
    let shop = shop();
    for request in [feed(99), popular(10)] {
        let list = shop.list(&request);
        assert_eq!((ids(&list)[0], list.strategy), ("a", Strategy::Popularity));
        assert_eq!(list.fallback, Some(Fallback { ranking: FallbackRanking::Popularity, items: 5 }));
        // Four views, eleven days ago.
        let popularity = list.items[0].parts.popularity.unwrap();
        assert!((popularity - 0.4 * 0.5_f64.powf(11.0 / 14.0)).abs() < 1e-4, "{popularity}");
        assert_eq!(list.weights_used, Weights::default());
    }
}

#[test]
fn category_without_signals_gets_its_popular_products() {
    let mut shop = Shop::default();
    for (product, category) in [("a", "shoes"), ("b", "shoes"), ("c", "hats"), ("d", "shoes")] {
        shop.put(product, json!({"category_id": category, "category_name": "Shoes"}));
    }
    shop.visit(2, &["d", "c", "b"]);
    shop.visit(3, &["b"]);
    let filter = Filter { category_id: Some(id("shoes")), ..Filter::default() };
    let list = shop.list(&Request { filter, ..Request::new(ListContext::Category, 10) });
    assert_eq!(ids(&list), ["b", "d", "a"]);
    assert_eq!(list.items[0].reason, "popular in Shoes");
    let fallback = Fallback { ranking: FallbackRanking::PopularityInCategory, items: 3 };
    assert_eq!(list.fallback, Some(fallback));
}

#[test]
fn signals_that_do_not_suffice_are_completed_by_popularity() {
    let mut shop = Shop::default();
    for product in ["a", "b", "c"] {
        shop.put(product, json!({}));
    }
    shop.visit(2, &["a", "b"]);
    shop.visit(1, &["a"]);
    let list = shop.list(&Request { exclude: vec![id("a")], ..feed(1) });
    assert_eq!((ids(&list), list.strategy), (vec!["b", "c"], Strategy::CoVisits));
    assert_eq!(list.fallback.map(|fallback| fallback.items), Some(1));
    assert!(list.items[0].score > list.items[1].score);
}

#[test]
fn products_without_texts_are_found_by_co_visits() {
    let mut shop = shop();
    shop.put("b", json!({}));
    let list = shop.list(&feed(1));
    assert_eq!((ids(&list)[0], list.strategy), ("b", Strategy::Joined));
    assert_eq!(list.items[0].parts.similarity, None);
}

#[test]
fn products_that_must_not_be_shown_are_left_out_and_counted() {
    let mut shop = shop();
    shop.record(interaction(1, "b", InteractionType::Purchase));
    shop.deactivate("c");
    shop.set("r", rule(RuleEffect::Ban, &["x"]));
    let request = Request { exclude: vec![id("y")], ..feed(1) };
    let list = shop.list(&request);
    assert_eq!(ids(&list), ["a"]);
    let counts = [LeftOut::Inactive, LeftOut::Banned, LeftOut::Excluded, LeftOut::Bought];
    assert_eq!(left_out(&list), counts.map(|reason| (reason, 1)));
    assert!(ids(&shop.list(&Request { include_bought: true, ..request })).contains(&"b"));
}

#[test]
fn similar_products_do_not_contain_the_product_itself() {
    let list = shop().list(&similar("a"));
    assert_eq!(ids(&list)[..2], ["b", "c"]);
    assert!(!ids(&list).contains(&"a"));
    assert!(left_out(&list).contains(&(LeftOut::Itself, 1)));
}

#[test]
fn unvisited_product_has_similar_ones_by_its_text() {
    let mut shop = Shop::default();
    for (product, name) in [("a", "red running shoes"), ("b", "blue running shoes"), ("c", "kettle")] {
        shop.put(product, json!({"name": name}));
    }
    let list = shop.list(&similar("a"));
    assert_eq!((ids(&list), list.strategy), (vec!["b", "c"], Strategy::Embedding));
    assert_eq!(list.items[0].reason, "similar to red running shoes");
}

#[test]
fn disliked_product_pushes_its_partners_away() {
    let mut shop = shop();
    shop.visit(5, &["x", "y"]);
    shop.visit(1, &["x"]);
    let rank = |shop: &Shop| shop.list(&feed(1)).items.iter().position(|item| item.product_id == id("y"));
    assert!(rank(&shop) < Some(3));
    let stars = InteractionRecorded { value: Some(1.0), ..interaction(1, "x", InteractionType::Rating) };
    shop.record(stars);
    let list = shop.list(&feed(1));
    let item = list.items.iter().find(|item| item.product_id == id("y")).unwrap();
    assert_eq!(item.parts.co_visits, None);
    assert!(rank(&shop) >= Some(3));
}

#[test]
fn variants_of_a_product_collapse_to_the_best_one() {
    let mut shop = shop();
    shop.put("b", json!({"name": "bbb", "family_id": "c"}));
    let list = shop.list(&feed(1));
    assert!(ids(&list).contains(&"b") && !ids(&list).contains(&"c"));
    assert!(left_out(&list).contains(&(LeftOut::Variant, 1)));
    // A variant of the product that a list is about is no similar product.
    assert!(!ids(&shop.list(&similar("c"))).contains(&"b"));
}

#[test]
fn pinned_products_have_their_places() {
    let mut shop = shop();
    shop.set("p", rule(RuleEffect::Pin { slot: 2 }, &["y", "x"]));
    shop.set("q", rule(RuleEffect::Pin { slot: 2 }, &["c"]));
    let list = shop.list(&feed(1));
    assert_eq!(ids(&list), ["b", "y", "x", "c", "a"]);
    assert_eq!(list.items[1].parts.pinned_by, Some(id("p")));
    assert_eq!(list.items[1].reason, "pinned here by the rule p");
    // Behind the end of a list they follow each other.
    shop.set("p", rule(RuleEffect::Pin { slot: 90 }, &["y", "x"]));
    assert_eq!(ids(&shop.list(&feed(1)))[3..], ["y", "x"]);
    shop.set("z", rule(RuleEffect::Ban, &["y"]));
    assert!(!ids(&shop.list(&feed(1))).contains(&"y"), "a ban is stronger");
}

#[test]
fn boost_multiplies_the_score() {
    let mut shop = shop();
    let score = |list: &Recommendation, product: &str| {
        list.items.iter().find(|item| item.product_id == id(product)).unwrap().score
    };
    let before = score(&shop.list(&feed(1)), "c");
    shop.set("r", rule(RuleEffect::Boost { factor: 4.0 }, &["c"]));
    let list = shop.list(&feed(1));
    assert_eq!((ids(&list)[0], score(&list, "c")), ("c", before * 4.0));
    assert_eq!(list.items[0].parts.boost, Some(4.0));
    shop.set("s", rule(RuleEffect::Boost { factor: 100.0 }, &["y"]));
    assert_eq!(ids(&shop.list(&popular(1))), ["y"], "popular products are boosted as well");
}

#[test]
fn rules_have_effect_in_their_scope_and_validity_only() {
    let mut shop = shop();
    let ban = |context, until: f64| Rule {
        context: Some(context),
        valid_from: Some(at(0.0)),
        valid_until: Some(at(until)),
        ..rule(RuleEffect::Ban, &["b"])
    };
    for (context, until, is_banned) in
        [(ListContext::Feed, 1e7, true), (ListContext::Feed, 10.0, false), (ListContext::Similar, 1e7, false)]
    {
        shop.set("r", ban(context, until));
        assert_eq!(!ids(&shop.list(&feed(1))).contains(&"b"), is_banned, "{context:?} {until}");
    }
}

#[test]
fn diverse_list_does_not_repeat_similar_products() {
    let mut shop = Shop::default();
    for (product, name) in [("a", "red running shoes"), ("b", "red running shoe"), ("c", "steel kettle")] {
        shop.put(product, json!({"name": name}));
    }
    shop.visit(2, &["a"]);
    shop.visit(2, &["b"]);
    shop.visit(3, &["a"]);
    assert_eq!(ids(&shop.list(&popular(10))), ["a", "b", "c"]);
    assert_eq!(ids(&shop.list(&Request { diversity: 0.9, ..popular(10) })), ["a", "c", "b"]);
}

#[test]
fn weights_of_missing_signals_go_to_the_others() {
    let shop = shop();
    let used = |request: &Request, now| shop.sources.recommend(request, now).unwrap().weights_used;
    let weights = used(&feed(1), now());
    assert_eq!((weights.long_term, weights.session, weights.collaborative), (1.0, 0.0, 0.95));
    let weights = used(&feed(1), at(20.0));
    assert_eq!((weights.long_term, weights.session), (0.6, 0.4));
    let weights = used(&Request { blend: Blend::Embedding, ..feed(1) }, now());
    assert_eq!((weights.long_term, weights.collaborative), (1.0, 0.0));
    let weights = used(&similar("a"), now());
    assert_eq!((weights.product, weights.long_term, weights.collaborative), (1.0, 0.0, 0.9));
}

#[test]
fn co_visits_order_the_results_of_a_query_and_add_none() {
    let mut shop = Shop::default();
    for n in 0..1_200 {
        shop.put(&format!("shoe{n}"), json!({"name": format!("shoe {n}")}));
    }
    shop.put("kettle", json!({"name": "kettle"}));
    shop.visit(2, &["shoe1", "shoe7", "kettle"]);
    shop.visit(1, &["shoe1"]);
    let request =
        Request { query: Some("shoe".into()), limit: 500, ..Request::new(ListContext::Search, 500) };
    let place = |subject| {
        let list = shop.list(&Request { subject, ..request.clone() });
        assert!(list.items.iter().all(|item| item.details.name.starts_with("shoe")));
        list.items.iter().position(|item| item.product_id == id("shoe7")).unwrap_or(usize::MAX)
    };
    assert!(place(Some(user(1))) < place(None));
}

#[test]
fn request_without_what_its_context_needs_has_no_list() {
    let shop = shop();
    let refused = |request: Request| shop.sources.recommend(&request, now()).unwrap_err();
    assert_eq!(refused(Request::new(ListContext::Search, 10)), NoList::QueryMissing);
    assert_eq!(refused(Request::new(ListContext::Similar, 10)), NoList::ProductMissing);
    assert_eq!(refused(Request::new(ListContext::Category, 10)), NoList::CategoryMissing);
    assert_eq!(refused(similar("unknown")), NoList::UnknownProduct);
    for diversity in [-0.1, 1.1, f32::NAN] {
        assert_eq!(refused(Request { diversity, ..feed(1) }), NoList::Diversity);
    }
    for weight in [-1.0, f32::NAN, f32::INFINITY] {
        let weights = Some(Weights { session: weight, ..Weights::of(ListContext::Feed) });
        assert_eq!(refused(Request { weights, ..feed(1) }), NoList::Weights);
    }
    let weights = Some(Weights { collaborative: 1.1, ..Weights::default() });
    assert_eq!(refused(Request { weights, ..feed(1) }), NoList::Weights);
}

#[test]
fn list_has_at_most_as_many_products_as_asked_for() {
    let mut shop = Shop::default();
    for n in 0..600 {
        shop.put(&n.to_string(), json!({"name": format!("shoe {n}")}));
    }
    for (limit, expected) in [(1, 1), (500, 500), (LIMIT_MAX + 100, LIMIT_MAX)] {
        assert_eq!(shop.list(&popular(limit)).items.len(), expected);
        assert_eq!(shop.list(&Request { limit, ..similar("3") }).items.len(), expected);
    }
    assert_eq!(ids(&Shop::default().list(&popular(10))), [""; 0]);
}
