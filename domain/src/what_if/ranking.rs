//! The lists that were served, made again with other weights.
//!
//! Each list is computed from the events that it was made from. Where it has the product that was shown, what the user did with it
//! counts for the other weights; where it has another one, nothing is known, unless the served list had other chances:
//! then [`off_policy`](super::off_policy) weights the rest. Lists with a query are left out: the texts are sealed.

use std::collections::{BTreeMap, HashMap};

use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{ListId, Position, ProductId, SubjectId};
use event_schemas::time::Timestamp;
use event_schemas::user::{InteractionType, ListContext, ListServed, UserEvent};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::off_policy::{Evaluation, LoggedSlot, evaluate};
use super::{REPLAYED_MAX, TooLong};
use crate::recommend::settings::Settings;
use crate::recommend::sources::ListSources;
use crate::recommend::{Request, Weights};

/// What is assumed about the users.
pub const ASSUMPTION: &str =
    "what a user does with a product depends on the product and its slot, not on the rest of the list";

/// The impressions of a product that are as certain as the mean of all products, in the model of the rewards.
const PRIOR_IMPRESSIONS: f64 = 10.0;

/// What differs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "WhatIfRankingConfiguration")]
pub struct RankingConfiguration {
    /// The lists that are made again.
    pub context: ListContext,
    pub weights: Weights,
}

/// The weights of served lists, and their number.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "WhatIfServedWeights")]
pub struct ServedWeights {
    pub weights: Weights,
    pub lists: u64,
}

/// The rewards of the lists that were served, and of those with the other weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "WhatIfRankingComparison")]
pub struct RankingComparison {
    pub lists: u64,
    /// The share of slots for which the other weights have the product that was shown.
    pub same_products: f64,
    /// The weights with which the lists were served; of an interleaved list, those of its first variant.
    pub served_weights: Vec<ServedWeights>,
    /// The share of slots whose product was clicked.
    pub clicks: Evaluation,
    /// The share of slots whose product was bought.
    pub purchases: Evaluation,
}

/// Whether a product was clicked, and bought.
type Rewards = (bool, bool);

/// The fold of the lists of a context, and of what the users did with them.
#[derive(Clone, Debug)]
pub struct ServedRankings {
    configuration: RankingConfiguration,
    /// Lists that are served after this position count.
    after: Position,
    lists: Vec<(ListServed, Timestamp)>,
    /// The number of their slots.
    slots: usize,
    rewards: HashMap<ListId, (SubjectId, HashMap<ProductId, Rewards>)>,
}

impl ServedRankings {
    pub fn new(configuration: RankingConfiguration, after: Position) -> Self {
        Self { configuration, after, lists: Vec::new(), slots: 0, rewards: HashMap::new() }
    }

    /// Applies the next event of any stream of the tenant; ignores other categories.
    pub fn apply(&mut self, envelope: &Envelope) {
        match &envelope.event {
            Event::User(UserEvent::ListServed(list)) if envelope.position > self.after => {
                let is_recommendation = list.query.is_none() && list.parameters.search.is_none();
                let is_of_context = list.context == self.configuration.context;
                if is_of_context && is_recommendation && self.slots <= REPLAYED_MAX {
                    self.rewards.entry(list.list_id).or_insert_with(|| {
                        self.lists.push((list.clone(), envelope.metadata.occurred_at));
                        self.slots += list.items.len();
                        (list.subject_id, HashMap::new())
                    });
                }
            }
            Event::User(UserEvent::InteractionRecorded(interaction)) => {
                let list = interaction.list_id.and_then(|list| self.rewards.get_mut(&list));
                let Some((_, rewards)) = list.filter(|(subject, _)| *subject == interaction.subject_id)
                else {
                    return;
                };
                let (clicked, bought) = rewards.entry(interaction.product_id.clone()).or_default();
                *clicked |= interaction.interaction_type == InteractionType::Click;
                *bought |= interaction.interaction_type == InteractionType::Purchase;
            }
            Event::User(UserEvent::SubjectKeyDestroyed(erased)) => self.forget(erased.subject_id),
            _ => {}
        }
    }

    /// Leaves out the lists of a user who was erased.
    fn forget(&mut self, subject: SubjectId) {
        self.lists.retain(|(list, _)| list.subject_id != subject);
        self.rewards.retain(|_, (of, _)| *of != subject);
        self.slots = self.lists.iter().map(|(list, _)| list.items.len()).sum();
    }

    /// Starts to make the lists again, with these settings.
    ///
    /// # Errors
    /// If there are too many.
    pub fn replay(mut self, settings: Settings) -> Result<RankingReplay, TooLong> {
        if self.slots > REPLAYED_MAX {
            return Err(TooLong("slots of lists"));
        }
        self.lists.sort_by_key(|(list, _)| list.computed_from);
        Ok(RankingReplay { served: self, others: Vec::new(), sources: ListSources::new(settings) })
    }
}

/// The fold of everything that lists are made from, which makes each list again as soon as it can.
#[derive(Debug)]
pub struct RankingReplay {
    served: ServedRankings,
    /// The products of the first lists, with the other weights.
    others: Vec<Vec<ProductId>>,
    sources: ListSources,
}

impl RankingReplay {
    /// Applies the next event of any stream of the tenant; ignores other categories.
    pub fn apply(&mut self, envelope: &Envelope) {
        self.make_lists(|list| list.computed_from < envelope.position);
        self.sources.apply(envelope);
    }

    fn make_lists(&mut self, is_due: impl Fn(&ListServed) -> bool) {
        while let Some((list, at)) = self.served.lists.get(self.others.len()).filter(|(list, _)| is_due(list))
        {
            let weights = Some(self.served.configuration.weights);
            let request = Request { weights, experiment: None, ..Request::of_served(list, None) };
            // A list that cannot be made has no products.
            let made = self.sources.recommend(&request, *at);
            let products = made.map(|made| made.items.into_iter().map(|item| item.product_id).collect());
            self.others.push(products.unwrap_or_default());
        }
    }

    /// The comparison of all lists; if it is cancelled, of those that were made.
    pub fn finish(mut self, is_cancelled: impl Fn() -> bool) -> RankingComparison {
        self.make_lists(|_| !is_cancelled());
        let lists = &self.served.lists;
        let slots: usize = lists.iter().map(|(list, _)| list.items.len()).sum();
        let same = lists.iter().zip(&self.others).map(|((list, _), other)| {
            list.items.iter().zip(other).filter(|(item, other)| item.product_id == **other).count()
        });
        let same: usize = same.sum();
        let mut served_weights: Vec<ServedWeights> = Vec::new();
        for (list, _) in lists {
            let weights = list.parameters.weights.into();
            match served_weights.iter_mut().find(|known| known.weights == weights) {
                Some(known) => known.lists += 1,
                None => served_weights.push(ServedWeights { weights, lists: 1 }),
            }
        }
        RankingComparison {
            lists: lists.len() as u64,
            same_products: if slots == 0 { 1.0 } else { same as f64 / slots as f64 },
            served_weights,
            clicks: evaluate(&self.logged(|(clicked, _)| clicked)),
            purchases: evaluate(&self.logged(|(_, bought)| bought)),
        }
    }

    /// The slots of all lists, with one kind of reward.
    fn logged(&self, reward: fn(Rewards) -> bool) -> Vec<LoggedSlot> {
        let mut users: HashMap<SubjectId, u32> = HashMap::new();
        let mut model = RewardModel::default();
        let mut shown = Vec::new();
        for (number, (list, _)) in self.served.lists.iter().enumerate() {
            let next = users.len() as u32;
            let user = *users.entry(list.subject_id).or_insert(next);
            let of_list = self.served.rewards.get(&list.list_id);
            for (slot, item) in list.items.iter().enumerate() {
                let rewards = of_list.and_then(|(_, rewards)| rewards.get(&item.product_id));
                let reward = f64::from(u8::from(rewards.is_some_and(|rewards| reward(*rewards))));
                model.add(user, &item.product_id, reward);
                let other = self.others.get(number).and_then(|other| other.get(slot));
                shown.push((user, item, reward, other));
            }
        }
        let slots = shown.into_iter().map(|(user, item, reward, other)| LoggedSlot {
            user,
            reward,
            propensity: item.probability,
            probability: f64::from(u8::from(other == Some(&item.product_id))),
            expected: model.expected(user, &item.product_id),
            expected_of_other: other.map_or(0.0, |other| model.expected(user, other)),
        });
        slots.collect()
    }
}

/// The mean reward of each product, drawn towards the mean of all. Of each user, the model that is used was learnt from the
/// other half of the users, so that its errors do not depend on the user's rewards.
#[derive(Debug, Default)]
struct RewardModel<'a>([Half<'a>; 2]);

#[derive(Debug, Default)]
struct Half<'a> {
    /// The number of impressions and the sum of rewards of each product.
    products: BTreeMap<&'a ProductId, (f64, f64)>,
    all: (f64, f64),
}

impl<'a> RewardModel<'a> {
    fn add(&mut self, user: u32, product: &'a ProductId, reward: f64) {
        let half = &mut self.0[user as usize % 2];
        for (impressions, rewards) in [half.products.entry(product).or_default(), &mut half.all] {
            *impressions += 1.0;
            *rewards += reward;
        }
    }

    fn expected(&self, user: u32, product: &ProductId) -> f64 {
        let Half { products, all } = &self.0[(user as usize + 1) % 2];
        let mean = if all.0 > 0.0 { all.1 / all.0 } else { 0.0 };
        let (impressions, rewards) = products.get(product).copied().unwrap_or_default();
        (rewards + PRIOR_IMPRESSIONS * mean) / (impressions + PRIOR_IMPRESSIONS)
    }
}

#[cfg(test)]
mod tests;
