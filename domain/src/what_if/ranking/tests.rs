use event_schemas::product::{ProductDetails, ProductUpserted};
use event_schemas::stream::StreamId;
use event_schemas::user::{InteractionRecorded, ServedItem, SubjectKeyDestroyed};
use serde_json::json;
use uuid::Uuid;

use super::super::off_policy::CannotTell;
use super::super::recording::Recording;
use super::*;
use crate::recommend::experiment::Experiments;
use crate::scenario::{at, id};

const PRODUCTS: u32 = 12;
const USERS: u32 = 400;
const LIMIT: usize = 4;

const VISITS: Weights =
    Weights { long_term: 0.0, session: 0.0, query: 0.0, product: 0.0, collaborative: 1.0 };
const POPULAR: Weights = Weights { collaborative: 0.0, ..VISITS };

fn user(number: u32) -> SubjectId {
    SubjectId(Uuid::from_u128(number.into()))
}

fn stream(number: u32) -> StreamId {
    StreamId::user(&id("default"), user(number))
}

fn interaction(of: u32, product: u32, kind: InteractionType, list: Option<ListId>) -> InteractionRecorded {
    InteractionRecorded {
        subject_id: user(of),
        product_id: id(&product.to_string()),
        interaction_type: kind,
        value: None,
        context: None,
        list_id: list,
        slot: None,
        session_id: None,
    }
}

/// The probability with which a user clicks a product.
fn liking(product: &ProductId) -> f64 {
    0.05 + 0.04 * f64::from(product.as_str().parse::<u32>().unwrap() % 5)
}

/// A shop whose users viewed some products.
fn shop() -> Recording {
    let mut recording = Recording::default();
    for product in 0..PRODUCTS {
        let details: ProductDetails = serde_json::from_value(
            json!({"name": format!("{product}"), "in_stock": true, "is_active": true}),
        )
        .unwrap();
        let product_id: ProductId = id(&product.to_string());
        let stream = StreamId::product(&id("default"), &product_id);
        let upserted = ProductUpserted { product_id, details: Box::new(details) };
        recording.add(stream, at(0.0), Event::Product(upserted.into()));
    }
    for number in 0..USERS {
        for step in 0..3 {
            let product = (number * 5 + step * (1 + number % 3)) % PRODUCTS;
            let view = interaction(number, product, InteractionType::View, None);
            recording.add(stream(number), at(f64::from(number)), Event::User(view.into()));
        }
    }
    recording
}

/// Serves a list to each user, and records the clicks. Returns the expected rewards of lists with the weights `other`.
fn serve(recording: &mut Recording, experiments: &Experiments, other: Weights, seed: u64) -> f64 {
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut sources, now) = (ListSources::default(), at(10_000.0));
    recording.0.iter().for_each(|envelope| sources.apply(envelope));
    let computed_from = recording.head();
    let mut expected = 0.0;
    for number in 0..USERS {
        let experiment = experiments.assign(ListContext::Feed, &id("default"), &id(&number.to_string()), now);
        let plain = Request { subject: Some(user(number)), ..Request::new(ListContext::Feed, LIMIT) };
        let of_other = sources.recommend(&Request { weights: Some(other), ..plain.clone() }, now).unwrap();
        expected += of_other.items.iter().map(|item| liking(&item.product_id)).sum::<f64>();
        let list = sources
            .recommend(&Request { experiment: experiment.clone(), weights: Some(VISITS), ..plain }, now)
            .unwrap();
        let list_id = ListId(Uuid::from_u128(1_000_000 + u128::from(number)));
        let items = list.items.iter().map(|item| ServedItem {
            product_id: item.product_id.clone(),
            probability: item.probability,
            variant: item.variant.clone(),
        });
        let mut parameters = Box::<event_schemas::user::ListParameters>::default();
        (parameters.limit, parameters.weights) = (LIMIT as u32, VISITS.into());
        let served = ListServed {
            subject_id: user(number),
            list_id,
            context: ListContext::Feed,
            items: items.collect(),
            computed_from,
            query: None,
            parameters,
            experiment,
            settings: None,
        };
        recording.add(stream(number), now, Event::User(served.into()));
        for item in &list.items {
            if random.f64() < liking(&item.product_id) {
                let product = item.product_id.as_str().parse().unwrap();
                let click = interaction(number, product, InteractionType::Click, Some(list_id));
                recording.add(stream(number), now, Event::User(click.into()));
            }
        }
    }
    expected / f64::from(USERS) / LIMIT as f64
}

fn compare(recording: &Recording, weights: Weights, after: Position) -> RankingComparison {
    let mut served = ServedRankings::new(RankingConfiguration { context: ListContext::Feed, weights }, after);
    recording.0.iter().for_each(|envelope| served.apply(envelope));
    let mut replay = served.replay(Settings::default()).unwrap();
    recording.0.iter().for_each(|envelope| replay.apply(envelope));
    replay.finish(|| false)
}

fn experiments(assignment: &str) -> Experiments {
    let experiments = json!({"e": {"context": "feed", "assignment": assignment,
        "variants": {"popular": {"weights": POPULAR}, "visits": {"weights": VISITS}}}});
    Experiments::new(serde_json::from_value(experiments).unwrap()).unwrap()
}

#[test]
fn same_weights_have_the_rewards_that_were_observed() {
    let mut recording = shop();
    serve(&mut recording, &Experiments::default(), VISITS, 1);
    let found = compare(&recording, VISITS, Position::START);
    assert_eq!((found.lists, found.same_products), (USERS.into(), 1.0));
    assert_eq!(found.served_weights, [ServedWeights { weights: VISITS, lists: USERS.into() }]);
    assert_eq!((found.clicks.slots, found.clicks.users, found.clicks.coverage), (1600, 400, 1.0));
    let clicks = found.clicks.estimates.unwrap();
    assert_eq!(found.clicks.served.unwrap().value, clicks.snips.value);
    assert_eq!(found.purchases.cannot_tell, Some(CannotTell::Rewards));
}

#[test]
fn lists_of_an_erased_user_are_left_out() {
    let mut recording = shop();
    serve(&mut recording, &Experiments::default(), VISITS, 1);
    let erased = SubjectKeyDestroyed { subject_id: user(3) };
    recording.add(stream(3), at(20_000.0), Event::User(erased.into()));
    let found = compare(&recording, VISITS, Position::START);
    assert_eq!((found.lists, found.same_products), (u64::from(USERS) - 1, 1.0));
    assert_eq!((found.clicks.slots, found.clicks.users), (1596, 399));
}

#[test]
fn lists_that_were_never_served_cannot_be_judged() {
    let mut recording = shop();
    serve(&mut recording, &Experiments::default(), POPULAR, 1);
    let found = compare(&recording, POPULAR, Position::START);
    assert!(found.same_products < 0.9, "{found:?}");
    assert_eq!(found.clicks.cannot_tell, Some(CannotTell::Coverage));
    assert_eq!(
        compare(&recording, POPULAR, recording.head()).clicks.cannot_tell,
        Some(CannotTell::SampleSize)
    );
}

#[test]
fn range_with_too_many_slots_is_refused() {
    let mut recording = shop();
    serve(&mut recording, &Experiments::default(), VISITS, 1);
    let configuration = RankingConfiguration { context: ListContext::Feed, weights: VISITS };
    let mut served = ServedRankings::new(configuration, Position::START);
    served.slots = REPLAYED_MAX - 2;
    recording.0.iter().for_each(|envelope| served.apply(envelope));
    assert_eq!(served.lists.len(), 1, "no more lists are kept");
    assert!(served.replay(Settings::default()).unwrap_err().to_string().contains("smaller one"));
}

#[test]
fn lists_of_an_experiment_tell_about_each_variant() {
    for weights in [POPULAR, VISITS] {
        let mut held = 0;
        for seed in 0..10 {
            let mut recording = shop();
            let truth = serve(&mut recording, &experiments("hash"), weights, seed);
            let found = compare(&recording, weights, Position::START);
            let estimates = found.clicks.estimates.unwrap_or_else(|| panic!("{:?}", found.clicks));
            let all = [estimates.ips, estimates.snips, estimates.doubly_robust];
            held += all.iter().filter(|of| of.low <= truth && truth <= of.high).count();
        }
        assert!(held >= 26, "{held} of 30 intervals hold the truth");
    }
}
