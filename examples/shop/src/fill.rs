//! Sends the catalogue and the visits of the past to a server, once.

use serde_json::Value;
use time::OffsetDateTime;

use crate::api::{Api, Failure};
use crate::customer::{Shop, user_id};
use crate::funnel::visits;

/// The most products, and customers, of a request.
const PRODUCTS_AT_ONCE: usize = 1_000;
const CUSTOMERS_AT_ONCE: usize = 150;

/// What was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filled {
    pub products: usize,
    /// 0 if the server has them already.
    pub interactions: usize,
}

/// Sends all products, and the interactions of so many customers. A server that has them already records nothing: an unchanged
/// product is no event, and visits are sent only for customers that the server does not know.
///
/// # Errors
/// [`Failure`]; what was sent until then is recorded, and is not sent again by the next call.
pub async fn fill(api: &Api, shop: &Shop, customers: usize) -> Result<Filled, Failure> {
    let mut filled = Filled::default();
    for products in shop.products().chunks(PRODUCTS_AT_ONCE) {
        let lines: String = products.iter().map(|product| format!("{}\n", product.facts)).collect();
        api.post_lines("/api/v1/products/batch", lines).await?;
        filled.products += products.len();
    }
    // The same for all requests of a day, so that one whose answer was lost can be repeated.
    let until = OffsetDateTime::now_utc().replace_time(time::Time::MIDNIGHT);
    for first in (1..=customers).step_by(CUSTOMERS_AT_ONCE) {
        let last = customers.min(first + CUSTOMERS_AT_ONCE - 1);
        // The customers of a request are recorded in parts, so the first and the last one may be known alone.
        if is_known(api, first).await? && is_known(api, last).await? {
            continue;
        }
        let interactions: Vec<Value> =
            (first..=last).flat_map(|number| visits(shop, &mut shop.customer(number), until)).collect();
        let number = interactions.len();
        let key = format!("shop-{}-{}-{first}-{last}", shop.seed(), shop.products().len());
        let answer = api.post("/api/v1/feedback/batch", &interactions.into(), Some(&key)).await;
        if answer.as_ref().is_err_and(Failure::is_repeated) {
            continue;
        }
        answer?;
        filled.interactions += number;
    }
    Ok(filled)
}

async fn is_known(api: &Api, customer: usize) -> Result<bool, Failure> {
    Ok(api.get(&format!("/api/v1/users/{}/profile", user_id(customer))).await?.is_some())
}
