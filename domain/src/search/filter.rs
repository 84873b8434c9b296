//! The filter of a search, and the counts of its results by their properties (facets).

use std::collections::BTreeMap;

use event_schemas::ids::{BrandId, MerchantId, ProductCategoryId};
use event_schemas::product::ProductDetails;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::words::fold;

/// What a result must be like. An empty filter admits every product.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// Both prices are inclusive. A product without a price has none of them.
    pub min_price: Option<f64>,
    pub max_price: Option<f64>,
    pub in_stock: Option<bool>,
    pub merchant_id: Option<MerchantId>,
    pub category_id: Option<ProductCategoryId>,
    pub brand_id: Option<BrandId>,
    /// The name of the brand; case and accents make no difference.
    pub brand: Option<String>,
    /// Values of the caller's own attributes; of a list, one value must be equal.
    pub attributes: BTreeMap<String, Value>,
}

impl Filter {
    /// Whether the product passes.
    pub fn admits(&self, product: &ProductDetails) -> bool {
        fn is_equal<T: PartialEq>(wanted: &Option<T>, value: &Option<T>) -> bool {
            wanted.is_none() || wanted == value
        }
        let brand =
            |wanted: &String| product.brand_name.as_ref().is_some_and(|name| fold(name) == fold(wanted));
        is_equal(&self.category_id, &product.category_id)
            && is_equal(&self.brand_id, &product.brand_id)
            && is_equal(&self.merchant_id, &product.merchant_id)
            && self.in_stock.is_none_or(|in_stock| in_stock == product.in_stock)
            && self.min_price.is_none_or(|min| product.price.is_some_and(|price| price >= min))
            && self.max_price.is_none_or(|max| product.price.is_some_and(|price| price <= max))
            && self.brand.as_ref().is_none_or(brand)
            && self.admits_attributes(product)
    }

    fn admits_attributes(&self, product: &ProductDetails) -> bool {
        if self.attributes.is_empty() {
            return true;
        }
        let Ok(Value::Object(values)) = serde_json::from_str(product.attributes.as_str()) else {
            return false;
        };
        self.attributes
            .iter()
            .all(|(name, wanted)| values.get(name).is_some_and(|value| has_value(value, wanted)))
    }
}

/// Whether the values are equal; of a list, one of its values.
fn has_value(value: &Value, wanted: &Value) -> bool {
    match (value, wanted) {
        (Value::Array(values), _) => values.iter().any(|value| has_value(value, wanted)),
        (_, Value::Array(wanted)) => wanted.iter().any(|wanted| has_value(value, wanted)),
        // 1 and 1.0 are one number.
        (Value::Number(value), Value::Number(wanted)) => value.as_f64() == wanted.as_f64(),
        _ => value == wanted,
    }
}

/// The number of results with one value of a property.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct FacetCount {
    /// An id, or the name of a brand.
    pub value: String,
    /// The name that belongs to an id.
    pub name: Option<String>,
    pub count: usize,
}

/// The numbers of all results by their properties, the most frequent value first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "SearchFacets")]
pub struct Facets {
    pub category_id: Vec<FacetCount>,
    pub brand_id: Vec<FacetCount>,
    pub brand: Vec<FacetCount>,
    pub merchant_id: Vec<FacetCount>,
    pub in_stock: Vec<FacetCount>,
}

/// The values of each property that are answered; the others are too rare to be chosen.
const VALUES_MAX: usize = 100;

impl Facets {
    pub fn count<'a>(products: impl Iterator<Item = &'a ProductDetails>) -> Self {
        type Counts<'a> = BTreeMap<&'a str, (Option<&'a str>, usize)>;
        fn add<'a>(counts: &mut Counts<'a>, value: Option<&'a str>, name: Option<&'a str>) {
            if let Some(value) = value {
                counts.entry(value).or_insert((name, 0)).1 += 1;
            }
        }
        fn sorted(counts: Counts<'_>) -> Vec<FacetCount> {
            let count = |(value, (name, count)): (&str, (Option<&str>, usize))| FacetCount {
                value: value.to_owned(),
                name: name.map(str::to_owned),
                count,
            };
            let mut counts: Vec<FacetCount> = counts.into_iter().map(count).collect();
            counts
                .sort_by(|one, other| other.count.cmp(&one.count).then_with(|| one.value.cmp(&other.value)));
            counts.truncate(VALUES_MAX);
            counts
        }
        let [mut category, mut brand_id, mut brand, mut merchant, mut stock] = [const { Counts::new() }; 5];
        for product in products {
            let text = |text: &'a Option<String>| text.as_deref();
            let category_id = product.category_id.as_ref().map(ProductCategoryId::as_str);
            add(&mut category, category_id, text(&product.category_name));
            add(&mut brand_id, product.brand_id.as_ref().map(BrandId::as_str), text(&product.brand_name));
            add(&mut brand, text(&product.brand_name), None);
            add(
                &mut merchant,
                product.merchant_id.as_ref().map(MerchantId::as_str),
                text(&product.merchant_name),
            );
            add(&mut stock, Some(if product.in_stock { "true" } else { "false" }), None);
        }
        Self {
            category_id: sorted(category),
            brand_id: sorted(brand_id),
            brand: sorted(brand),
            merchant_id: sorted(merchant),
            in_stock: sorted(stock),
        }
    }
}
