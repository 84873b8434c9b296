//! A test fixture: a shop with products, users and rules.

use std::time::Duration;

use event_schemas::ids::{ProductId, SubjectId};
use event_schemas::merchandising::{Rule, RuleEffect, RuleSet};
use event_schemas::product::{ProductDeactivated, ProductDetails, ProductUpserted};
use event_schemas::time::Timestamp;
use event_schemas::user::{
    InteractionRecorded, InteractionType, ListContext, SubjectKeyDestroyed, UserEvent,
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::sources::ListSources;
use super::{Recommendation, Request};
use crate::scenario::{at, id};

/// A time after all interactions.
pub(super) fn now() -> Timestamp {
    at(1_000_000.0)
}

pub(super) fn user(number: u128) -> SubjectId {
    SubjectId(Uuid::from_u128(number))
}

pub(super) fn interaction(number: u128, product: &str, kind: InteractionType) -> InteractionRecorded {
    InteractionRecorded {
        subject_id: user(number),
        product_id: id(product),
        interaction_type: kind,
        value: None,
        context: None,
        list_id: None,
        slot: None,
        session_id: None,
    }
}

pub(super) fn erasure(number: u128) -> UserEvent {
    SubjectKeyDestroyed { subject_id: user(number) }.into()
}

pub(super) fn rule(effect: RuleEffect, products: &[&str]) -> Rule {
    let product_ids = products.iter().map(|product| id(product)).collect();
    Rule { effect, product_ids, context: None, category_id: None, valid_from: None, valid_until: None }
}

pub(super) fn feed(number: u128) -> Request {
    Request { subject: Some(user(number)), ..Request::new(ListContext::Feed, 10) }
}

pub(super) fn similar(product: &str) -> Request {
    Request { product_id: Some(id(product)), ..Request::new(ListContext::Similar, 10) }
}

pub(super) fn ids(list: &Recommendation) -> Vec<&str> {
    list.items.iter().map(|item| item.product_id.as_str()).collect()
}

/// The sources of lists, whose interactions are a second apart.
#[derive(Debug, Default)]
pub(super) struct Shop {
    pub(super) sources: ListSources,
    interactions: u64,
}

impl Shop {
    /// A shop with products whose names have no word in common.
    pub(super) fn with(products: &[&str]) -> Self {
        let mut shop = Self::default();
        for product in products {
            shop.put(product, json!({"name": format!("{product}{product}{product}")}));
        }
        shop
    }

    pub(super) fn put(&mut self, product: &str, facts: Value) {
        let mut all = json!({"name": "", "in_stock": true, "is_active": true});
        let Value::Object(facts) = facts else { panic!("facts are members") };
        all.as_object_mut().unwrap().extend(facts);
        let details: Box<ProductDetails> = serde_json::from_value(all).unwrap();
        self.sources.apply_product(&ProductUpserted { product_id: id(product), details }.into());
    }

    pub(super) fn deactivate(&mut self, product: &str) {
        self.sources.apply_product(&ProductDeactivated { product_id: id(product) }.into());
    }

    pub(super) fn record(&mut self, recorded: InteractionRecorded) {
        self.interactions += 1;
        let at = Timestamp::EPOCH.after(Duration::from_secs(self.interactions));
        self.sources.apply_user(&recorded.into(), at);
    }

    /// A user looks at products, one after the other.
    pub(super) fn visit(&mut self, number: u128, products: &[&str]) {
        for product in products {
            self.record(interaction(number, product, InteractionType::View));
        }
    }

    pub(super) fn set(&mut self, rule_id: &str, rule: Rule) {
        self.sources.apply_rules(&RuleSet { rule_id: id(rule_id), rule }.into(), at(0.0));
    }

    pub(super) fn list(&self, request: &Request) -> Recommendation {
        self.sources.recommend(request, now()).unwrap()
    }

    /// The products that are visited together with one, the strongest first.
    pub(super) fn partners(&self, product: &str) -> Vec<(ProductId, f64)> {
        let signals = &self.sources.signals;
        let number = signals.number(&id(product)).unwrap();
        let visited = super::co_visits::Visited { number, weight: 1.0 };
        let partners = signals.partners(&[visited]);
        let mut partners: Vec<_> =
            partners.iter().map(|one| (signals.id(one.number).clone(), one.strength)).collect();
        partners.sort_by(|one, other| other.1.total_cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
        partners
    }
}
