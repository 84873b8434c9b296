//! Served lists as requests, with which they are computed again.

use event_schemas::user::ListServed;

use super::{Blend, Request};
use crate::search::filter::Filter;

/// What the products of a served list are like.
pub fn filter(list: &ListServed) -> Filter {
    let filter = list.parameters.filter.as_ref().map(|filter| Filter {
        min_price: filter.min_price,
        max_price: filter.max_price,
        in_stock: filter.in_stock,
        merchant_id: filter.merchant_id.clone(),
        category_id: filter.category_id.clone(),
        brand_id: filter.brand_id.clone(),
        brand: filter.brand.clone(),
        attributes: serde_json::from_str(filter.attributes.as_str()).unwrap_or_default(),
    });
    filter.unwrap_or_default()
}

impl Request {
    /// The request of a served list, whose query is unsealed.
    pub fn of_served(list: &ListServed, query: Option<String>) -> Self {
        let parameters = &list.parameters;
        Self {
            subject: Some(list.subject_id),
            query,
            product_id: parameters.product_id.clone(),
            filter: filter(list),
            exclude: parameters.exclude.clone(),
            diversity: parameters.diversity,
            include_bought: parameters.include_bought,
            blend: if parameters.embedding_only { Blend::Embedding } else { Blend::Joined },
            weights: Some(parameters.weights.into()),
            experiment: list.experiment.clone(),
            ..Self::new(list.context, parameters.limit as usize)
        }
    }
}
