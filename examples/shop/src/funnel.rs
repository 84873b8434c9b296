//! What customers did before: visits in which products are viewed, clicked, put into the cart, bought and rated.

use fastrand::Rng;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::catalogue::Product;
use crate::customer::{Customer, Shop};

/// The days in which the visits are.
const DAYS: f64 = 30.0;
const VISITS_MAX: usize = 6;
const PRODUCTS_MAX: usize = 10;

/// A step towards a purchase, or after one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    pub interaction: &'static str,
    /// The stars of a rating.
    pub value: Option<f64>,
}

/// What a customer does after a click on a product: each step leads to the next one with a probability.
pub fn after_click(random: &mut Rng, liking: f64) -> Vec<Step> {
    let mut steps = vec![Step { interaction: "click", value: None }];
    let mut step = |steps: &mut Vec<Step>, interaction, value, probability: f64| {
        let is_done = random.f64() < probability;
        if is_done {
            steps.push(Step { interaction, value });
        }
        is_done
    };
    step(&mut steps, "like", None, 0.15 * liking);
    step(&mut steps, "share", None, 0.03);
    if step(&mut steps, "add_to_cart", None, 0.15 + 0.35 * liking) && step(&mut steps, "purchase", None, 0.5)
    {
        let stars = (2.6 + 2.4 * liking).round().min(5.0);
        step(&mut steps, "rating", Some(stars), 0.35);
    }
    steps
}

/// All visits of a customer in the month before an instant, in their order.
pub fn visits(shop: &Shop, customer: &mut Customer, until: OffsetDateTime) -> Vec<Value> {
    let number = customer.random.usize(1..=VISITS_MAX);
    let mut starts: Vec<f64> = (0..number).map(|_| DAYS * 86_400.0 * customer.random.f64()).collect();
    starts.sort_by(|one, other| other.total_cmp(one));
    let mut interactions = Vec::new();
    for (visit, before) in starts.into_iter().enumerate() {
        let session = format!("{}-{}", customer.id, visit + 1);
        let mut at = until - time::Duration::seconds_f64(before);
        for _ in 0..customer.random.usize(2..=PRODUCTS_MAX) {
            let product = customer.choose(shop);
            let liking = customer.liking(product);
            let mut steps = vec![Step { interaction: "view", value: None }];
            if customer.random.f64() < 0.2 + 0.6 * liking {
                steps.extend(after_click(&mut customer.random, liking));
            }
            for step in steps {
                at += time::Duration::seconds(customer.random.i64(4..90));
                interactions.push(interaction(customer, product, step, &session, at.min(until)));
            }
        }
    }
    interactions
}

fn interaction(
    customer: &Customer,
    product: &Product,
    step: Step,
    session: &str,
    at: OffsetDateTime,
) -> Value {
    let mut interaction = json!({
        "user_id": customer.id, "product_id": product.id, "interaction_type": step.interaction, "session_id": session,
        "occurred_at": at.format(&Rfc3339).unwrap_or_default(),
    });
    if let Some(value) = step.value {
        interaction["value"] = value.into();
    }
    interaction
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn all(shop: &Shop, customers: usize) -> Vec<Value> {
        let until = OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000);
        (1..=customers).flat_map(|number| visits(shop, &mut shop.customer(number), until)).collect()
    }

    #[test]
    fn same_seed_makes_the_same_visits() {
        assert_eq!(all(&Shop::new(1, 500), 20), all(&Shop::new(1, 500), 20));
        assert_ne!(all(&Shop::new(1, 500), 20), all(&Shop::new(2, 500), 20));
    }

    #[test]
    fn each_step_is_rarer_than_the_one_before() {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for interaction in all(&Shop::new(1, 2_000), 300) {
            *counts.entry(interaction["interaction_type"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        let steps = ["view", "click", "add_to_cart", "purchase", "rating"].map(|name| counts[name]);
        assert!(steps.windows(2).all(|pair| pair[0] > pair[1]) && steps[4] > 0, "{counts:?}");
    }

    #[test]
    fn visits_are_in_order_and_not_in_the_future() {
        let shop = Shop::new(1, 200);
        let until = OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000);
        let of_one = visits(&shop, &mut shop.customer(3), until);
        let times: Vec<_> = of_one
            .iter()
            .map(|one| OffsetDateTime::parse(one["occurred_at"].as_str().unwrap(), &Rfc3339).unwrap())
            .collect();
        assert!(times.iter().all(|at| *at <= until) && !times.is_empty());
    }

    #[test]
    fn shop_without_a_kind_still_has_visits() {
        assert!(!all(&Shop::new(1, 1), 5).is_empty());
    }
}
