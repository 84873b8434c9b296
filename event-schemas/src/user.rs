//! `user-<tenant>.<subject>`: the interactions of a user with products.
//!
//! These types and names are the stored form: add optional fields, never change or remove one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{ListId, ProductId, SessionId, SubjectId, Tenant};
use crate::registry::events;
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

impl StreamId {
    pub fn user(tenant: &Tenant, subject: SubjectId) -> Self {
        Self::of_tenant(Category::User, tenant, &subject.to_string())
    }
}

events! {
    /// The events of a user.
    UserEvent {
        InteractionRecorded = 1,
    }
}
