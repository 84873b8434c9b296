//! The plan of a search: how the products that pass its filter are compared with its vector.
//!
//! A search never filters afterwards: then a filter that few products pass would leave fewer results than asked for. The
//! filter is resolved first, and the number of products that pass decides the rest.

use schemars::JsonSchema;
use serde::Serialize;

/// The usual largest number of products that are compared one by one, whatever their share.
pub const EXACT_MAX: usize = 20_000;
/// The share of all products up to which those that pass are compared one by one: below it, a search of an index visits
/// more products than pass.
const EXACT_SHARE: f64 = 0.1;

/// The way in which the nearest products are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "SearchStrategy")]
pub enum Strategy {
    /// No product passes the filter.
    Empty,
    /// The query's vector is compared with that of each product that passes: always the exact result.
    ExactScan,
    /// The vector index is searched, and skips products that do not pass.
    FilteredSearch,
    /// The vector index is searched.
    Search,
}

/// How the nearest products are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "SearchPlan")]
pub struct Plan {
    pub strategy: Strategy,
    /// The number of active products that pass the filter.
    pub candidates: usize,
    /// The number of active products.
    pub products: usize,
}

/// The plan for a search in which so many of all products pass the filter. With a vector index, up to `exact_max` products
/// are compared one by one; without one, all are.
pub fn plan(candidates: usize, products: usize, exact_max: Option<usize>) -> Plan {
    let exact_max =
        exact_max.map_or(usize::MAX, |exact_max| exact_max.max((products as f64 * EXACT_SHARE) as usize));
    let strategy = match candidates {
        0 => Strategy::Empty,
        _ if candidates <= exact_max => Strategy::ExactScan,
        _ if candidates < products => Strategy::FilteredSearch,
        _ => Strategy::Search,
    };
    Plan { strategy, candidates, products }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_of_candidates_decides_the_strategy() {
        for (candidates, products, strategy) in [
            (0, 0, Strategy::Empty),
            (0, 1_000_000, Strategy::Empty),
            (1, 1_000_000, Strategy::ExactScan),
            (20_000, 20_000, Strategy::ExactScan),
            (20_001, 20_001, Strategy::Search),
            (20_001, 100_000, Strategy::FilteredSearch),
            (100_000, 1_000_000, Strategy::ExactScan),
            (100_001, 1_000_000, Strategy::FilteredSearch),
            (999_999, 1_000_000, Strategy::FilteredSearch),
            (1_000_000, 1_000_000, Strategy::Search),
        ] {
            assert_eq!(plan(candidates, products, Some(EXACT_MAX)), Plan { strategy, candidates, products });
        }
    }

    #[test]
    fn without_an_index_every_candidate_is_compared() {
        assert_eq!(plan(1_000_000, 1_000_000, None).strategy, Strategy::ExactScan);
        assert_eq!(plan(0, 10, None).strategy, Strategy::Empty);
    }
}
