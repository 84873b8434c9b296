//! Recommendations: ranked lists of products for a user, and why each product is in its list.
//!
//! [`sources::ListSources`] is the fold of a tenant's events that all lists are made from: the products, the merchandising
//! rules, and the [`signals`] of its users. [`co_visits`] says which products are visited by the same users, close to
//! each other; `candidates.rs` joins that ranking with the vectors of texts, and `list.rs` applies the rules of
//! a list. A list is a pure function of the fold, the request and an instant, so the same events give the same list
//! again: live, as of an earlier position, and when a served list is explained.

mod admission;
mod candidates;
pub mod co_visits;
mod diversity;
pub mod experiment;
#[cfg(test)]
mod fixture;
mod list;
pub mod served;
pub mod settings;
pub mod signals;
pub mod sources;

use std::collections::BTreeMap;

use event_schemas::decimal;
use event_schemas::ids::{ProductId, RuleId, SubjectId, VariantName};
use event_schemas::loose_id::LooseId;
use event_schemas::product::ProductDetails;
use event_schemas::user::{ListContext, ListExperiment, ListWeights};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::search::filter::Filter;

/// The most products of a list.
pub const LIMIT_MAX: usize = 500;

/// A request for a list. Its category is that of its filter.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub context: ListContext,
    /// The user that the list is for; an unknown one has no signals.
    pub subject: Option<SubjectId>,
    /// Needed for lists of the context `search`.
    pub query: Option<String>,
    /// Needed for lists of the context `similar`.
    pub product_id: Option<ProductId>,
    /// With a category for lists of the context `category`.
    pub filter: Filter,
    pub limit: usize,
    /// Products that are left out.
    pub exclude: Vec<ProductId>,
    /// How much the products differ from each other, from 0 (only the scores count) to 1.
    pub diversity: f32,
    /// Whether products that the user bought are in the list.
    pub include_bought: bool,
    pub blend: Blend,
    /// The weights of the signals; none for those of the context.
    pub weights: Option<Weights>,
    /// The experiment that the list is for, whose variants have the weights.
    pub experiment: Option<Box<ListExperiment>>,
}

impl Request {
    /// A request without a user and filter, and with all defaults.
    pub fn new(context: ListContext, limit: usize) -> Self {
        Self {
            context,
            subject: None,
            query: None,
            product_id: None,
            filter: Filter::default(),
            limit,
            exclude: Vec::new(),
            diversity: 0.0,
            include_bought: false,
            blend: Blend::default(),
            weights: None,
            experiment: None,
        }
    }
}

/// Which vectors there are of a user, made from those of the products that count for the user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UserEmbeddings {
    /// Of the interests over all sessions.
    pub long_term: bool,
    /// Of the current session.
    pub session: bool,
}

/// Which rankings a list is made from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "RecommendationBlend")]
pub enum Blend {
    /// Co-visits and vectors.
    #[default]
    Joined,
    /// Vectors only.
    Embedding,
}

/// How much each signal counts. Those of vectors are relative to each other; the share of co-visits is from 0 to 1, and the
/// vectors have the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "RecommendationWeights")]
pub struct Weights {
    /// The vector of the user's interests over all sessions.
    #[serde(serialize_with = "decimal::serialize")]
    pub long_term: f32,
    /// The vector of the user's current session.
    #[serde(serialize_with = "decimal::serialize")]
    pub session: f32,
    /// The vector of the query.
    #[serde(serialize_with = "decimal::serialize")]
    pub query: f32,
    /// The vector of the product that the list is about.
    #[serde(serialize_with = "decimal::serialize")]
    pub product: f32,
    /// The share of products that are visited together.
    #[serde(serialize_with = "decimal::serialize")]
    pub collaborative: f32,
}

impl Weights {
    /// The default weights. The shares of co-visits are explained in `docs/decisions/0019-recommendations-from-co-visits.md`.
    pub fn of(context: ListContext) -> Self {
        let none = Self::default();
        match context {
            ListContext::Feed => Self { long_term: 0.6, session: 0.4, collaborative: 0.95, ..none },
            ListContext::Search => Self { query: 0.7, long_term: 0.3, collaborative: 0.3, ..none },
            ListContext::Similar => Self { product: 0.8, long_term: 0.2, collaborative: 0.9, ..none },
            ListContext::Category => Self { long_term: 1.0, collaborative: 0.95, ..none },
        }
    }

    /// # Errors
    /// If they are no weights.
    pub fn check(&self) -> Result<(), NoList> {
        let Self { long_term, session, query, product, collaborative } = *self;
        // Larger ones would not be more precise, and their sum stays finite.
        let is_weight = |weight: f32| (0.0..=1e6).contains(&weight);
        let of_vectors = [long_term, session, query, product].into_iter().all(is_weight);
        let are_weights = of_vectors && (0.0..=1.0).contains(&collaborative);
        are_weights.then_some(()).ok_or(NoList::Weights)
    }
}

impl From<Weights> for ListWeights {
    fn from(weights: Weights) -> Self {
        let Weights { long_term, session, query, product, collaborative } = weights;
        Self { long_term, session, query, product, collaborative }
    }
}

impl From<ListWeights> for Weights {
    fn from(weights: ListWeights) -> Self {
        let ListWeights { long_term, session, query, product, collaborative } = weights;
        Self { long_term, session, query, product, collaborative }
    }
}

/// The rankings from which a list was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "RecommendationStrategy")]
pub enum Strategy {
    /// Co-visits and vectors.
    Joined,
    /// Co-visits only.
    CoVisits,
    /// Vectors only.
    Embedding,
    /// Popularity only.
    Popularity,
}

/// The ranking that completes a list for which the signals do not suffice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FallbackRanking {
    Popularity,
    PopularityInCategory,
}

/// What was added to a list because the signals did not suffice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "RecommendationFallback")]
pub struct Fallback {
    pub ranking: FallbackRanking,
    /// The number of products of the list that come from it.
    pub items: usize,
}

/// The reason why a product is not in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LeftOut {
    /// It is inactive or not in the catalogue.
    Inactive,
    /// A rule bans it.
    Banned,
    /// The list is about it.
    Itself,
    /// The request excludes it.
    Excluded,
    /// The user bought it.
    Bought,
    /// Another product of its family is in the list, or the list is about one.
    Variant,
}

/// The parts of a product's score.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "RecommendationParts")]
pub struct Parts {
    /// The strength with which the products that the user visited, or the product that the list is about, are visited
    /// together with it; null if they are not.
    pub co_visits: Option<f64>,
    /// The place in the ranking of co-visits, from 1.
    pub co_visits_rank: Option<usize>,
    /// The product that contributed most to `co_visits`.
    pub visited_with: Option<LooseId>,
    /// The cosine similarity of its vector with that of all signals.
    #[serde(serialize_with = "decimal::serialize_optional")]
    pub similarity: Option<f32>,
    /// The place in the ranking of vectors, from 1.
    pub similarity_rank: Option<usize>,
    /// The cosine similarities with the vector of each signal.
    #[serde(serialize_with = "decimal::serialize_optional")]
    pub long_term: Option<f32>,
    #[serde(serialize_with = "decimal::serialize_optional")]
    pub session: Option<f32>,
    #[serde(serialize_with = "decimal::serialize_optional")]
    pub query: Option<f32>,
    #[serde(serialize_with = "decimal::serialize_optional")]
    pub product: Option<f32>,
    /// Its popularity, in purchases; for products that were added for it.
    pub popularity: Option<f64>,
    /// The factor of the rules that boost it.
    pub boost: Option<f64>,
    /// The rule that pins it to its place.
    pub pinned_by: Option<RuleId>,
}

/// A product of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    pub product_id: ProductId,
    pub details: ProductDetails,
    pub score: f64,
    /// The probability with which a list of this request has the product at this place.
    pub probability: f64,
    /// The ranking variant that put it there; none without an experiment, and if several agreed.
    pub variant: Option<VariantName>,
    pub parts: Parts,
    /// Why it is in the list, in words.
    pub reason: String,
}

/// A list, with what it was made from.
#[derive(Clone, Debug, PartialEq)]
pub struct Recommendation {
    pub items: Vec<Item>,
    pub strategy: Strategy,
    /// The weights after those of missing signals were given to the others.
    pub weights_used: Weights,
    pub fallback: Option<Fallback>,
    /// The number of products of the rankings that were left out, by reason.
    pub left_out: BTreeMap<LeftOut, usize>,
}

/// The reason why there is no list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoList {
    #[error("a list of the context search needs a query")]
    QueryMissing,
    #[error("a list of the context similar needs a product_id")]
    ProductMissing,
    #[error("a list of the context category needs a category_id")]
    CategoryMissing,
    #[error("no such product")]
    UnknownProduct,
    #[error("the weights must be numbers from 0, and collaborative at most 1")]
    Weights,
    #[error("diversity must be from 0 to 1")]
    Diversity,
}
