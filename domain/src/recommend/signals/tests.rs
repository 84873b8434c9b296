use event_schemas::user::ListContext;
use proptest::prelude::*;

use super::super::fixture::{Shop, erasure, feed, ids, interaction, now, similar, user};
use super::super::{Recommendation, Request};
use super::*;
use crate::scenario::{at, id};

const PRODUCTS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
const USERS: u128 = 4;

#[derive(Clone, Copy, Debug)]
struct Action {
    user: u128,
    product: usize,
    kind: InteractionType,
    stars: f64,
    seconds: f64,
}

fn action() -> impl Strategy<Value = Action> {
    let kind = prop_oneof![
        Just(InteractionType::View),
        Just(InteractionType::Click),
        Just(InteractionType::Purchase),
        Just(InteractionType::Rating)
    ];
    // Up to 200 days, in no order: many are reported late.
    (0..USERS, 0..PRODUCTS.len(), kind, 1.0..5.0_f64, 0.0..17e6_f64)
        .prop_map(|(user, product, kind, stars, seconds)| Action { user, product, kind, stars, seconds })
}

/// A shop in which one product is not in the catalogue.
fn shop(actions: impl IntoIterator<Item = Action>) -> Shop {
    let mut shop = Shop::with(&PRODUCTS[1..]);
    for Action { user, product, kind, stars, seconds } in actions {
        let recorded =
            InteractionRecorded { value: Some(stars), ..interaction(user, PRODUCTS[product], kind) };
        shop.sources.apply_user(&recorded.into(), at(seconds));
    }
    shop
}

/// Every answer that the signals have a part in.
fn answers(shop: &Shop) -> Vec<Recommendation> {
    let feeds = (0..USERS).map(feed);
    let about = PRODUCTS[1..].iter().map(|product| similar(product));
    let popular = Request::new(ListContext::Feed, 10);
    let requests = feeds.chain(about).chain([popular]);
    requests.map(|request| shop.sources.recommend(&request, at(17e6)).unwrap()).collect()
}

fn order(shop: &Shop) -> Vec<(ProductId, i64)> {
    let signals = &shop.sources.signals;
    // A product without a place in the catalogue may be known or not.
    let known =
        signals.most_popular().map(|number| (signals.id(number).clone(), signals.popularity(number, now())));
    known.filter(|(product, _)| product.as_str() != PRODUCTS[0]).collect()
}

proptest! {
    #[test]
    fn forgotten_user_leaves_what_a_fold_without_the_user_has(
        actions in proptest::collection::vec(action(), 0..80), forgotten in 0..USERS,
    ) {
        let mut all = shop(actions.clone());
        all.sources.apply_user(&erasure(forgotten), now());
        let others = shop(actions.into_iter().filter(|action| action.user != forgotten));
        prop_assert_eq!(answers(&all), answers(&others));
        prop_assert_eq!(order(&all), order(&others));
        prop_assert_eq!(all.sources.signals.len(), others.sources.signals.len());
    }

    #[test]
    fn replay_gives_the_same_bits(actions in proptest::collection::vec(action(), 0..80)) {
        prop_assert_eq!(answers(&shop(actions.clone())), answers(&shop(actions)));
    }
}

#[test]
fn forgotten_user_who_returns_starts_from_nothing() {
    let mut shop = Shop::with(&["a", "b", "c"]);
    shop.visit(1, &["a", "b"]);
    shop.sources.apply_user(&erasure(1), now());
    assert!(shop.sources.signals.is_empty());
    shop.visit(1, &["c"]);
    let interests = shop.sources.signals.interests(user(1), now()).unwrap();
    assert_eq!(interests.long_term.len(), 1);
    assert_eq!(shop.partners("a"), []);
}

#[test]
fn active_users_are_counted_by_their_interactions() {
    let mut shop = Shop::with(&["a", "b"]);
    shop.visit(1, &["a", "b", "a"]);
    shop.visit(2, &["a"]);
    let count = |shop: &Shop| [1, 2, 3, 4].map(|min| shop.sources.signals.active_users(min));
    assert_eq!(count(&shop), [2, 1, 1, 0]);
    shop.sources.apply_user(&erasure(1), now());
    assert_eq!(count(&shop), [1, 0, 0, 0]);
}

#[test]
fn late_interaction_is_the_last_step_of_its_user() {
    let mut shop = Shop::with(&["a", "b"]);
    shop.sources.apply_user(&interaction(1, "a", InteractionType::View).into(), at(100.0));
    shop.sources.apply_user(&interaction(1, "b", InteractionType::View).into(), at(50.0));
    let signals = &shop.sources.signals;
    let visited = signals.interests(user(1), now()).unwrap().visited;
    assert_eq!(visited[0].number, signals.number(&id("b")).unwrap());
}

#[test]
fn products_of_the_last_session_are_those_until_a_long_pause() {
    let mut shop = Shop::with(&["a", "b", "c"]);
    for (product, seconds) in [("a", 0.0), ("b", 4_000.0), ("c", 7_000.0)] {
        shop.sources.apply_user(&interaction(1, product, InteractionType::View).into(), at(seconds));
    }
    let signals = &shop.sources.signals;
    let session = |seconds| signals.interests(user(1), at(seconds)).unwrap().session.len();
    assert_eq!(session(7_000.0), 2);
    assert_eq!(session(10_600.0), 2);
    assert_eq!(session(10_601.0), 0, "it has ended");
}

#[test]
fn recent_and_liked_products_count_more() {
    let mut shop = Shop::with(&["old", "bad", "seen", "bought"]);
    shop.visit(1, &["old"]);
    let rating = |product, stars| InteractionRecorded {
        value: Some(stars),
        ..interaction(1, product, InteractionType::Rating)
    };
    shop.record(rating("bad", 1.0));
    shop.visit(1, &["seen"]);
    shop.record(interaction(1, "bought", InteractionType::Purchase));
    let signals = &shop.sources.signals;
    let visited = signals.interests(user(1), now()).unwrap().visited;
    let weight = |product| {
        let number = signals.number(&id(product)).unwrap();
        visited.iter().find(|one| one.number == number).unwrap().weight
    };
    assert!(weight("bought") > weight("seen") && weight("seen") > weight("old"), "{visited:?}");
    assert!(weight("bad") < 0.0, "{visited:?}");
}

#[test]
fn popular_products_come_first_and_then_ids() {
    let mut shop = Shop::with(&["z", "b", "a", "y"]);
    shop.visit(1, &["z", "y"]);
    shop.visit(2, &["z"]);
    let list = shop.list(&Request::new(ListContext::Feed, 10));
    assert_eq!(ids(&list), ["z", "y", "a", "b"]);
}
