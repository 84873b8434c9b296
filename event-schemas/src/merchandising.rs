//! `merchandising-<tenant>`: the rules that pin, boost or ban products in lists.
//!
//! These types and names are the stored form: add optional fields, never change or remove one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{ProductCategoryId, ProductId, RuleId, Tenant};
use crate::registry::events;
use crate::stream::{Category, StreamId, escape};
use crate::time::Timestamp;
use crate::user::ListContext;

/// The effect of a rule on its products.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum RuleEffect {
    /// They are shown from this slot on, which is counted from 1.
    Pin { slot: u32 },
    /// Their scores are multiplied by the factor.
    Boost { factor: f64 },
    /// They are not shown.
    Ban,
}

/// A rule for the lists of a tenant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Rule {
    pub effect: RuleEffect,
    /// Pinned products are shown in this order.
    pub product_ids: Vec<ProductId>,
    /// The kind of lists that it applies to; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<ListContext>,
    /// The category whose lists it applies to; all lists if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category_id: Option<ProductCategoryId>,
    /// The rule has no effect before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_from: Option<Timestamp>,
    /// The rule has no effect from this time on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<Timestamp>,
}

/// The rule was created, or replaced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RuleSet {
    pub rule_id: RuleId,
    pub rule: Rule,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RuleRemoved {
    pub rule_id: RuleId,
}

impl StreamId {
    /// The stream of all rules of a tenant.
    pub fn merchandising(tenant: &Tenant) -> Self {
        Self(format!("{}{}", Category::Merchandising.stream_prefix(), escape(tenant.as_str())).into())
    }
}

events! {
    /// The events of a tenant's merchandising rules.
    MerchandisingEvent {
        RuleSet = 1,
        RuleRemoved = 1,
    }
}
