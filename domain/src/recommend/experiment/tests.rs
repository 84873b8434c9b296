use std::collections::BTreeSet;

use event_schemas::merchandising::RuleEffect;
use serde_json::json;

use super::super::fixture::{Shop, feed, ids, now, rule};
use super::*;
use crate::scenario::{at, id};

/// The experiment `blend` on feeds: words of texts against co-visits.
fn experiments(assignment: &str) -> Experiments {
    let experiments = json!({"blend": {"context": "feed", "assignment": assignment, "variants": {
        "texts": {"share": 3, "weights": {"long_term": 1, "session": 0, "query": 0, "product": 0, "collaborative": 0}},
        "visits": {"share": 1, "weights": {"long_term": 0, "session": 0, "query": 0, "product": 0, "collaborative": 1}},
    }}});
    Experiments::new(serde_json::from_value(experiments).unwrap()).unwrap()
}

fn assign(experiments: &Experiments, user: u32, seconds: f64) -> Box<ListExperiment> {
    let user = id::<UserId>(&user.to_string());
    experiments.assign(ListContext::Feed, &id("acme"), &user, at(seconds)).unwrap()
}

/// A shop in which user 1 visits `a`: texts lead to `b`, `c` and `d`, others visited `x`, `y` and `d` next.
fn shop() -> Shop {
    let mut shop = Shop::with(&["x", "y", "z"]);
    for (product, name) in [("a", "wool sock red"), ("b", "wool sock blue"), ("c", "wool hat"), ("d", "sock")]
    {
        shop.put(product, json!({"name": name}));
    }
    for number in 2..6 {
        shop.visit(number, &["a", "x", "y", "d"]);
    }
    shop.visit(1, &["a"]);
    shop
}

fn of(experiment: &ListExperiment) -> Request {
    Request { experiment: Some(Box::new(experiment.clone())), ..feed(1) }
}

#[test]
fn users_keep_their_variant_and_are_divided_by_the_shares() {
    let experiments = experiments("hash");
    let mut in_visits = 0;
    for user in 0..4000 {
        let one = assign(&experiments, user, 0.0);
        assert_eq!(one, assign(&experiments, user, 1e9), "user {user}");
        in_visits += u32::from(one.assigned == Some(id("visits")));
    }
    // A quarter, within five standard deviations.
    assert!((863..=1137).contains(&in_visits), "{in_visits}");
    let other = experiments.assign(ListContext::Similar, &id("acme"), &id("1"), at(0.0));
    assert_eq!(other, None);
}

#[test]
fn list_is_that_of_the_variant_with_the_share_of_its_users() {
    let (shop, experiments) = (shop(), experiments("hash"));
    let mut experiment = assign(&experiments, 1, 0.0);
    let mut lists = Vec::new();
    for (number, share) in [(0, 0.75), (1, 0.25)] {
        let variant = experiment.variants[number].clone();
        experiment.assigned = Some(variant.name.clone());
        let list = shop.list(&of(&experiment));
        let alone = shop.list(&Request { weights: Some(variant.weights.into()), ..feed(1) });
        assert_eq!(ids(&list), ids(&alone));
        assert_eq!(list.weights_used, alone.weights_used);
        assert!(list.items.iter().all(|item| item.variant.as_ref() == Some(&variant.name)));
        assert!(list.items.iter().all(|item| [share, 1.0].contains(&item.probability)), "{list:?}");
        lists.push(list);
    }
    assert_ne!(ids(&lists[0]), ids(&lists[1]));
    for (one, other) in lists[0].items.iter().zip(&lists[1].items) {
        let is_same = one.product_id == other.product_id;
        assert_eq!(one.probability == 1.0, is_same, "{}", one.product_id);
        assert_eq!(one.probability + other.probability, if is_same { 2.0 } else { 1.0 });
    }
}

/// The lists of many draws.
fn drafts(shop: &Shop) -> Vec<Recommendation> {
    let experiments = experiments("team_draft");
    let drawn = |period: u32| shop.list(&of(&assign(&experiments, 1, 3600.0 * f64::from(period))));
    (0..400).map(drawn).collect()
}

#[test]
fn probability_of_a_slot_is_the_share_of_draws_with_the_product() {
    let lists = drafts(&shop());
    for list in &lists {
        let products: BTreeSet<_> = ids(list).into_iter().collect();
        assert_eq!((list.items.len(), products.len()), (7, 7), "each product once");
        for (slot, item) in list.items.iter().enumerate() {
            let with = lists.iter().filter(|other| other.items[slot].product_id == item.product_id).count();
            let share = with as f64 / lists.len() as f64;
            // Five standard deviations of 400 draws.
            assert!((share - item.probability).abs() < 0.125, "{share}, not {}", item.probability);
            assert_eq!(item.variant.is_none(), item.probability == 1.0);
        }
    }
    let of_variant = |name: &str| lists[0].items.iter().filter(|item| item.variant == Some(id(name))).count();
    assert_eq!(of_variant("texts"), of_variant("visits"));
    assert!(of_variant("texts") > 0);
}

#[test]
fn draws_of_a_user_change_by_the_hour() {
    let experiments = experiments("team_draft");
    let seed = |seconds: f64| assign(&experiments, 1, seconds).seed.unwrap();
    assert_eq!(seed(7200.0), seed(10_799.0));
    assert_ne!(seed(7200.0), seed(10_800.0));
    assert_ne!(seed(7200.0), assign(&experiments, 2, 7200.0).seed.unwrap());
}

#[test]
fn pins_keep_their_slots_and_families_are_listed_once() {
    let mut shop = shop();
    shop.set("pin", rule(RuleEffect::Pin { slot: 2 }, &["z"]));
    for product in ["a", "x"] {
        let name = if product == "a" { "wool sock red" } else { "xxx" };
        shop.put(product, json!({"name": name, "family_id": "family"}));
    }
    let lists = drafts(&shop);
    let mut first: BTreeSet<&str> = BTreeSet::new();
    for list in &lists {
        let products = ids(list);
        assert_eq!(products[1], "z");
        assert_eq!(list.items[1].probability, 1.0);
        assert_eq!(products.iter().filter(|product| ["a", "x"].contains(product)).count(), 1, "{products:?}");
        first.insert(products[0]);
    }
    assert_eq!(first.into_iter().collect::<Vec<_>>(), ["a", "x"]);
}

#[test]
fn recorded_experiment_gives_the_same_list_again() {
    let shop = shop();
    for assignment in ["hash", "team_draft"] {
        let experiment = assign(&experiments(assignment), 7, 50_000.0);
        let recorded: ListExperiment =
            serde_json::from_str(&serde_json::to_string(&experiment).unwrap()).unwrap();
        assert_eq!(shop.sources.recommend(&of(&recorded), now()), Ok(shop.list(&of(&experiment))));
    }
}

#[test]
fn experiments_that_cannot_be_run_are_refused() {
    let variants = |count: usize| {
        (0..count).map(|number| (number.to_string(), json!({}))).collect::<serde_json::Map<_, _>>()
    };
    let one = |experiment: serde_json::Value| json!({"e": experiment});
    for (experiments, reason) in [
        (one(json!({"context": "feed", "variants": variants(1)})), "2 to 8 variants"),
        (one(json!({"context": "feed", "variants": variants(9)})), "2 to 8 variants"),
        (one(json!({"context": "feed", "assignment": "team_draft", "variants": variants(3)})), "exactly 2"),
        (one(json!({"context": "feed", "variants": {"a": {"share": 0}, "b": {}}})), "above 0"),
        (one(json!({"context": "feed", "variants": {"": {}, "b": {}}})), "is not a name"),
        (
            one(json!({"context": "feed", "variants": {"b": {}, "a": {"weights":
                {"long_term": 1, "session": 0, "query": 0, "product": 0, "collaborative": 2}}}})),
            "collaborative at most 1",
        ),
        (
            json!({"e": {"context": "feed", "variants": variants(2)}, "f": {"context": "feed", "variants": variants(2)}}),
            "the same context",
        ),
    ] {
        let refused = Experiments::new(serde_json::from_value(experiments).unwrap()).unwrap_err().to_string();
        assert!(refused.contains(reason), "{refused}");
    }
}
