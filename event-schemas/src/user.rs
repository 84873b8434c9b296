//! `user-<tenant>.<subject>`: the interactions of a user with products, the lists of products that were served to the
//! user, and the erasure of the user.
//!
//! These types and names are the stored form: add optional fields, never change or remove one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::decimal;
use crate::ids::{
    BrandId, ExperimentName, ListId, MerchantId, ModelId, Position, ProductCategoryId, ProductId, SessionId,
    SubjectId, Tenant, VariantName,
};
use crate::json_text::JsonText;
use crate::registry::events;
use crate::sealed::Sealed;
use crate::stream::{Category, StreamId};

/// The action of a user on a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum InteractionType {
    View,
    Click,
    AddToCart,
    Purchase,
    Like,
    Share,
    /// A number of stars, from 1 to 5.
    Rating,
}

/// The kind of a list of products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ListContext {
    /// The user's start page.
    Feed,
    /// The results of a query.
    Search,
    /// Products that are similar to one.
    Similar,
    /// Products of a category.
    Category,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct InteractionRecorded {
    pub subject_id: SubjectId,
    pub product_id: ProductId,
    pub interaction_type: InteractionType,
    /// The stars of a rating; of another interaction, a value of the caller, such as an amount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// The kind of list in which the user found the product.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<ListContext>,
    /// The list in which the user found the product.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list_id: Option<ListId>,
    /// The place of the product in that list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<SessionId>,
}

/// A product of a served list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServedItem {
    pub product_id: ProductId,
    /// The probability with which this product was to get this slot; absent if it is 1.
    #[serde(default = "certain", skip_serializing_if = "is_certain")]
    pub probability: f64,
    /// The ranking variant that put the product there; absent without an experiment, and if several agreed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<VariantName>,
}

fn certain() -> f64 {
    1.0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_certain(probability: &f64) -> bool {
    *probability == certain()
}

impl ServedItem {
    /// The product of a slot that no other product could get.
    pub fn certain(product_id: ProductId) -> Self {
        Self { product_id, probability: certain(), variant: None }
    }
}

/// What the products of a list are like.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ListFilter {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_price: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_price: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_stock: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merchant_id: Option<MerchantId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category_id: Option<ProductCategoryId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub brand_id: Option<BrandId>,
    /// The name of the brand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub brand: Option<String>,
    /// Values of the caller's own attributes.
    #[serde(default, skip_serializing_if = "JsonText::is_empty_object")]
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    pub attributes: JsonText,
}

/// How much each signal counts in a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ListWeights {
    /// The user's interests over all sessions.
    #[serde(default, skip_serializing_if = "is_zero", serialize_with = "decimal::serialize")]
    pub long_term: f32,
    /// The user's interests in the current session.
    #[serde(default, skip_serializing_if = "is_zero", serialize_with = "decimal::serialize")]
    pub session: f32,
    #[serde(default, skip_serializing_if = "is_zero", serialize_with = "decimal::serialize")]
    pub query: f32,
    /// The product that the list is about.
    #[serde(default, skip_serializing_if = "is_zero", serialize_with = "decimal::serialize")]
    pub product: f32,
    /// Products that are visited together.
    #[serde(default, skip_serializing_if = "is_zero", serialize_with = "decimal::serialize")]
    pub collaborative: f32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &f32) -> bool {
    *number == 0.0
}

/// What a query was compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ListSearchMode {
    /// Words and vectors.
    Hybrid,
    /// Vectors only.
    Semantic,
    /// Words only.
    Lexical,
}

/// How the results of a search were found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ListSearch {
    /// Absent without a query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<ListSearchMode>,
    /// The model whose vectors were compared; the built-in one if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_id: Option<ModelId>,
    /// The number of results that were skipped.
    pub offset: u32,
    /// The least score of a result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_score: Option<f32>,
}

/// The parameters of a list, apart from its query, its user and its context. Defaults are resolved, so that the list can be
/// computed again by a program with others.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ListParameters {
    /// The product that the list is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product_id: Option<ProductId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<ListFilter>,
    /// The most products of the list.
    pub limit: u32,
    /// Products that were left out on request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<ProductId>,
    /// How much the products were to differ from each other, from 0 to 1.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub diversity: f32,
    /// Whether products that the user bought may be in the list.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub include_bought: bool,
    /// Whether the list is made from vectors alone, without co-visits.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub embedding_only: bool,
    pub weights: ListWeights,
    /// Present if the list is a page of a search.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<ListSearch>,
}

/// A ranking variant of an experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ListVariant {
    pub name: VariantName,
    /// The share of users that are assigned to it, relative to those of the other variants.
    pub share: f64,
    pub weights: ListWeights,
}

/// The experiment for which a list was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ListExperiment {
    pub name: ExperimentName,
    /// The variant that the user is assigned to; absent if the variants are interleaved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assigned: Option<VariantName>,
    /// Present if the first two variants are interleaved (team draft): decides for each pair of products which variant comes
    /// first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u32>,
    /// All variants.
    pub variants: Vec<ListVariant>,
}

/// How an interaction of a type counts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct InteractionSettings {
    pub interaction_type: InteractionType,
    /// Of a rating: that of five stars.
    pub weight: f64,
    /// The time in which its share in the session profile halves.
    pub half_life_seconds: u64,
}

/// How co-visits count, in steps of a user from product to product.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CoVisitSettings {
    /// The most steps between two products of a co-visit.
    pub window: u32,
    /// The number of steps in which the weight of a co-visit halves.
    pub half_life: u32,
    /// The weight of a co-visit for the product that came first, from 0 to 1.
    pub backward: f64,
    /// The most steps of a product, the last ones, that are looked at.
    pub steps_max: u32,
    /// The most products that a user visited last whose partners are looked at.
    pub visited_max: u32,
    /// The number of such products in which their weight halves.
    pub visited_half_life: u32,
}

/// The settings of the server with which a list was computed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ListSettings {
    pub interactions: Vec<InteractionSettings>,
    pub co_visits: CoVisitSettings,
}

/// A list of products was computed for a user and handed out. The list follows from the events up to a position, an
/// instant and the request, so that it can be computed again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ListServed {
    pub subject_id: SubjectId,
    pub list_id: ListId,
    pub context: ListContext,
    /// In the order of the list.
    pub items: Vec<ServedItem>,
    /// The log position of the last event that the list reflects. The time of this event is the instant for which it was
    /// computed.
    pub computed_from: Position,
    /// The text that was searched for, sealed with the user's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<Sealed>,
    pub parameters: Box<ListParameters>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experiment: Option<Box<ListExperiment>>,
    /// Absent if they are the built-in ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<Box<ListSettings>>,
}

/// The person was erased: their key and their user id in the vault are destroyed, and every fold forgets what they did.
/// The last event of its stream; if the user returns, it is as a new subject.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SubjectKeyDestroyed {
    pub subject_id: SubjectId,
}

impl StreamId {
    pub fn user(tenant: &Tenant, subject: SubjectId) -> Self {
        Self::of_tenant(Category::User, tenant, &subject.to_string())
    }

    /// The common prefix of all user streams of a tenant, which no other stream has.
    pub fn users_prefix(tenant: &Tenant) -> String {
        Self::of_tenant(Category::User, tenant, "").to_string()
    }
}

events! {
    /// The events of a user.
    UserEvent {
        InteractionRecorded = 1,
        ListServed = 1,
        SubjectKeyDestroyed = 1,
    }
}
