//! What a search asks for, and its answer.

use event_schemas::ids::{ModelId, ProductId};
use event_schemas::product::ProductDetails;
use schemars::JsonSchema;
use serde::Serialize;

use super::filter::{Facets, Filter};
use super::page::Continuation;
use super::plan::Plan;
use super::ranking::Mode;

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Question {
    Text(String, Mode),
    /// A text, and its vector by the encoder of the search's model.
    Encoded(String, Mode, Vec<f32>),
    /// A vector of length 1.
    Vector(Vec<f32>),
    /// Products that are similar to this one, which is not among them.
    SimilarTo(ProductId),
}

/// Which of the results are answered.
#[derive(Clone, Debug, PartialEq)]
pub enum PageStart {
    Offset(usize),
    /// After the pages so far.
    After(Continuation),
}

/// A search.
#[derive(Clone, Debug, PartialEq)]
pub struct Search {
    pub question: Question,
    /// The embedding model whose vectors are compared; those of the built-in encoder if absent.
    pub model: Option<ModelId>,
    pub filter: Filter,
    pub min_score: Option<f32>,
    pub start: PageStart,
    pub limit: usize,
    pub facets: bool,
    pub explain: bool,
}

/// The reason why a search has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unanswerable {
    #[error("no such product")]
    UnknownProduct,
    #[error("no such model: no product has a vector of it")]
    UnknownModel,
    /// The vector has another length than those of the model.
    #[error("a vector of the model has {expected} numbers")]
    Dimension { expected: usize },
    /// Only texts of the built-in model can be compared.
    #[error("the server has no encoder of this model")]
    NoEncoder,
}

/// The parts of a result's score.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ScoreParts {
    /// The score of the words (BM25); null if it contains none of the query, or words were not compared.
    #[serde(serialize_with = "event_schemas::decimal::serialize_optional")]
    pub lexical: Option<f32>,
    /// The number of the query's words that it contains, each with at most one edit.
    pub words: u8,
    /// The cosine similarity of its vector with that of the query; null if vectors were not compared.
    #[serde(serialize_with = "event_schemas::decimal::serialize_optional")]
    pub similarity: Option<f32>,
}

/// A result.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    pub product_id: ProductId,
    pub details: ProductDetails,
    pub score: f32,
    /// Only if they were asked for.
    pub parts: Option<ScoreParts>,
}

/// The answer to a search.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub results: Vec<Found>,
    /// The number of results on all pages.
    pub total: usize,
    /// None on the last page.
    pub next: Option<Continuation>,
    pub plan: Plan,
    pub facets: Option<Facets>,
}
