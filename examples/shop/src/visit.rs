//! Customers that visit the shop now: each visit starts with a served list, or a search, and what it leads to is sent as feedback
//! on that list.

use fastrand::Rng;
use serde_json::{Value, json};

use crate::api::{Api, Failure};
use crate::customer::{Customer, Shop};
use crate::funnel::after_click;
use crate::kind::KINDS;

/// The number of products that a customer is shown.
const SHOWN: usize = 12;
/// The share of visits that start with a search.
const SEARCHES: f64 = 0.3;

/// One visit of a customer; returns the number of interactions.
///
/// # Errors
/// [`Failure`] of the list or the feedback.
pub async fn visit(api: &Api, shop: &Shop, customer: &mut Customer) -> Result<usize, Failure> {
    let is_search = customer.random.f64() < SEARCHES;
    let (context, list) = if is_search {
        let query = query(customer);
        let body = json!({"query": query, "limit": SHOWN, "record": true, "user_id": customer.id});
        ("search", api.post("/api/v1/search", &body, None).await?)
    } else {
        let body = json!({"user_id": customer.id, "context": "feed", "limit": SHOWN});
        ("feed", api.post("/api/v1/recommend", &body, None).await?)
    };
    let shown: Vec<u64> = list
        .get("results")
        .and_then(Value::as_array)
        .map(|shown| shown.iter().filter_map(|product| product["product_id"].as_u64()).collect())
        .unwrap_or_default();
    let interactions = interactions(shop, customer, context, &list["request_id"], &shown);
    let number = interactions.len();
    if number > 0 {
        api.post("/api/v1/feedback/batch", &interactions.into(), None).await?;
    }
    Ok(number)
}

/// Words for one of the kinds that the customer looks for.
fn query(customer: &mut Customer) -> String {
    let kind = &KINDS[customer.kinds[customer.random.usize(..customer.kinds.len())]];
    let quality = kind.qualities[customer.random.usize(..kind.qualities.len())];
    format!("{quality} {}", kind.noun).to_lowercase()
}

/// What the customer does with a list: the further down a product is, the less often it is looked at.
fn interactions(
    shop: &Shop,
    customer: &mut Customer,
    context: &str,
    list: &Value,
    shown: &[u64],
) -> Vec<Value> {
    let mut interactions = Vec::new();
    for (slot, id) in shown.iter().enumerate() {
        let liking = shop.product(*id).map_or(0.0, |product| customer.liking(product));
        let is_seen = customer.random.f64() < 1.0 / (1.0 + 0.15 * slot as f64);
        if !is_seen || customer.random.f64() > 0.5 * liking {
            continue;
        }
        for step in after_click(&mut customer.random, liking) {
            let mut interaction = json!({
                "user_id": customer.id, "product_id": id, "interaction_type": step.interaction, "context": context,
                "position": slot, "request_id": list,
            });
            if let Some(value) = step.value {
                interaction["value"] = value.into();
            }
            interactions.push(interaction);
        }
    }
    interactions
}

/// The customer that comes next.
pub fn next(shop: &Shop, customers: usize, random: &mut Rng) -> Customer {
    let mut customer = shop.customer(random.usize(1..=customers));
    // Each visit is another one.
    customer.random = random.fork();
    customer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_at_the_top_are_clicked_more_often() {
        let shop = Shop::new(1, 2_000);
        let mut random = Rng::with_seed(1);
        let mut clicks = [0; SHOWN];
        for _ in 0..3_000 {
            let mut customer = next(&shop, 500, &mut random);
            let shown: Vec<u64> = (0..SHOWN).map(|_| customer.choose(&shop).id).collect();
            for interaction in interactions(&shop, &mut customer, "feed", &json!("list"), &shown) {
                if interaction["interaction_type"] == "click" {
                    clicks[interaction["position"].as_u64().unwrap() as usize] += 1;
                }
            }
        }
        assert!(clicks[0] > clicks[SHOWN - 1] && clicks[SHOWN - 1] > 0, "{clicks:?}");
    }

    #[test]
    fn product_of_another_catalogue_is_never_clicked() {
        let shop = Shop::new(1, 10);
        let mut customer = shop.customer(1);
        assert_eq!(
            interactions(&shop, &mut customer, "feed", &json!("list"), &[0, 11, u64::MAX]),
            [] as [Value; 0]
        );
    }
}
