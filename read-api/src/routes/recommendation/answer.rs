//! Lists as they are answered.

use std::collections::BTreeMap;

use domain::product::view::ProductView;
use domain::recommend::{Fallback, Item, LeftOut, Parts, Recommendation, Strategy, Weights};
use domain::search::question::Answer;
use event_schemas::envelope::Envelope;
use event_schemas::ids::{ExperimentName, ListId, Position, UserId, VariantName};
use event_schemas::loose_id::LooseId;
use event_schemas::time::Timestamp;
use event_schemas::user::{ListContext, ListExperiment, ListServed};
use schemars::JsonSchema;
use serde::Serialize;

use super::Computed;
use super::request::CheckedRequest;

/// A product of a list.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RecommendedProduct {
    #[serde(flatten)]
    product: ProductView,
    /// Its place in the list, from 0. Send it as `position` with the feedback.
    slot: usize,
    score: f64,
    /// The probability with which a list of this request has the product at this place.
    probability: f64,
    /// The ranking variant that put it there; null without an experiment, and if both variants of an interleaved list agreed.
    variant: Option<VariantName>,
    /// Why it is in the list.
    reason: String,
    /// The parts of the score; null unless they were asked for.
    explanation: Option<Parts>,
}

impl RecommendedProduct {
    fn new(slot: usize, item: Item, explain: bool) -> Self {
        Self {
            product: ProductView::new(&item.product_id, item.details),
            slot,
            score: item.score,
            probability: item.probability,
            variant: item.variant,
            reason: item.reason,
            explanation: explain.then_some(item.parts),
        }
    }
}

/// Products for a user, the best first.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RecommendationAnswer {
    /// The id of the served list. Send it with the feedback on its products; null with `as_of`, because that list was not
    /// served.
    request_id: Option<ListId>,
    user_id: LooseId,
    context: ListContext,
    results: Vec<RecommendedProduct>,
    /// The experiment that the list is made for; null without one.
    experiment: Option<ExperimentName>,
    /// The rankings that the list is made from; of an interleaved list, those of its first variant.
    strategy: Strategy,
    /// The weights of the signals that there are for the user; of an interleaved list, those of its first variant.
    weights: Weights,
    /// What completes the list where the signals do not suffice; null if they do.
    fallback: Option<Fallback>,
    /// The number of products that were left out, by reason; null unless it was asked for.
    left_out: Option<BTreeMap<LeftOut, usize>>,
    /// The instant for which the list was computed.
    computed_at: Timestamp,
    /// The log position that the list reflects.
    computed_from: Position,
    /// Log position of the record of the list; with `as_of`, that which the list reflects.
    position: Position,
}

impl RecommendationAnswer {
    pub(crate) fn new(request: &CheckedRequest, computed: Computed) -> Self {
        let Computed { list, from, at, experiment } = computed;
        let items = list.items.into_iter().enumerate();
        Self {
            request_id: None,
            user_id: (&request.user_id).into(),
            context: request.request.context,
            results: items.map(|(slot, item)| RecommendedProduct::new(slot, item, request.explain)).collect(),
            experiment: experiment.map(|experiment| experiment.name),
            strategy: list.strategy,
            weights: list.weights_used,
            fallback: list.fallback,
            left_out: request.explain.then_some(list.left_out),
            computed_at: at,
            computed_from: from,
            position: from,
        }
    }

    pub(crate) fn recorded(&mut self, id: ListId, position: Position) {
        (self.request_id, self.position) = (Some(id), position);
    }
}

/// The answers to several requests, in their order.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RecommendationAnswers {
    pub(super) results: Vec<RecommendationAnswer>,
}

/// A product of a served list.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ServedProduct {
    slot: usize,
    product_id: LooseId,
    probability: f64,
    variant: Option<VariantName>,
}

/// A place at which the served list and the one that was computed again have different products.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ListDifference {
    slot: usize,
    /// Null beyond the end of the served list.
    served: Option<LooseId>,
    /// Null beyond the end of the list that was computed again.
    recomputed: Option<LooseId>,
}

/// A list that was served, and why.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ServedList {
    request_id: ListId,
    /// The user; null for an erased one.
    user_id: Option<LooseId>,
    context: ListContext,
    /// The text that was searched for; null also for an erased user.
    query: Option<String>,
    /// The experiment that the list was made for, with all its variants; null without one.
    experiment: Option<ListExperiment>,
    /// The products that were served, in their order.
    served: Vec<ServedProduct>,
    /// The instant for which the list was computed.
    served_at: Timestamp,
    /// The log position that the list reflects.
    computed_from: Position,
    /// Whether the list that was computed again has the same products in the same places; null if it cannot be computed,
    /// because the user was erased and with it the query.
    equal: Option<bool>,
    /// Where both differ.
    differences: Vec<ListDifference>,
    /// The list as it was computed again from the events up to `computed_from`, with the reasons for each product.
    results: Vec<RecommendedProduct>,
    /// The rankings that the list is made from; null for a search.
    strategy: Option<Strategy>,
    /// The weights of the signals that there were for the user.
    weights: Option<Weights>,
    /// What completed the list where the signals did not suffice.
    fallback: Option<Fallback>,
    /// The number of products that were left out, by reason.
    left_out: BTreeMap<LeftOut, usize>,
    /// Log position of the record of the list.
    position: Position,
}

fn differences(served: &[ServedProduct], again: &[RecommendedProduct]) -> Vec<ListDifference> {
    let slots = (0..served.len().max(again.len())).map(|slot| ListDifference {
        slot,
        served: served.get(slot).map(|product| product.product_id.clone()),
        recomputed: again.get(slot).map(|item| item.product.product_id.clone()),
    });
    slots.filter(|difference| difference.served != difference.recomputed).collect()
}

/// A list that was computed again.
#[derive(Debug, Default)]
pub(super) struct Recomputed {
    items: Vec<RecommendedProduct>,
    strategy: Option<Strategy>,
    weights: Option<Weights>,
    fallback: Option<Fallback>,
    left_out: BTreeMap<LeftOut, usize>,
}

impl From<Recommendation> for Recomputed {
    fn from(list: Recommendation) -> Self {
        let items = list.items.into_iter().enumerate();
        Self {
            items: items.map(|(slot, item)| RecommendedProduct::new(slot, item, true)).collect(),
            strategy: Some(list.strategy),
            weights: Some(list.weights_used),
            fallback: list.fallback,
            left_out: list.left_out,
        }
    }
}

/// The results of a search.
impl From<Answer> for Recomputed {
    fn from(answer: Answer) -> Self {
        let results = answer.results.into_iter().enumerate().map(|(slot, found)| RecommendedProduct {
            product: ProductView::new(&found.product_id, found.details),
            slot,
            score: event_schemas::decimal::shortest(found.score),
            probability: 1.0,
            variant: None,
            reason: "found by the search".to_owned(),
            explanation: None,
        });
        Self { items: results.collect(), ..Self::default() }
    }
}

impl ServedList {
    pub(super) fn new(
        envelope: &Envelope,
        list: &ListServed,
        user_id: Option<&UserId>,
        query: Option<String>,
        recomputed: Option<Recomputed>,
    ) -> Self {
        let served = list.items.iter().enumerate().map(|(slot, item)| ServedProduct {
            slot,
            product_id: (&item.product_id).into(),
            probability: item.probability,
            variant: item.variant.clone(),
        });
        let served: Vec<_> = served.collect();
        let differences = recomputed.as_ref().map(|again| differences(&served, &again.items));
        let again = recomputed.unwrap_or_default();
        Self {
            request_id: list.list_id,
            user_id: user_id.map(Into::into),
            context: list.context,
            query,
            experiment: list.experiment.as_deref().cloned(),
            served,
            served_at: envelope.metadata.occurred_at,
            computed_from: list.computed_from,
            equal: differences.as_ref().map(Vec::is_empty),
            differences: differences.unwrap_or_default(),
            results: again.items,
            strategy: again.strategy,
            weights: again.weights,
            fallback: again.fallback,
            left_out: again.left_out,
            position: envelope.position,
        }
    }
}
