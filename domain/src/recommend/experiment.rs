//! Experiments: several sets of weights, the ranking variants, are compared on the lists of one context.
//!
//! Either each user is assigned to one variant, by a hash, or the products of two variants alternate in each list (team-draft
//! interleaving, Radlinski, Kurup and Joachims 2008): of each two products that follow, one is the best of either variant that is not
//! in the list yet, in random order. A product that both variants would take next is placed without a draw, and credited to
//! neither. So what is in the list after each draw never depends on the draws, and the probability of each slot is exact.
//!
//! The probability of a slot is over all assignments, or all draws: the share of the users that would have got this product there.
//! Pinned products keep their slots.

use std::collections::{BTreeMap, HashSet};

use event_schemas::ids::{ExperimentName, ProductId, Tenant, UserId, VariantName};
use event_schemas::time::Timestamp;
use event_schemas::user::{ListContext, ListExperiment, ListVariant};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::sources::ListSources;
use super::{Fallback, Item, NoList, Recommendation, Request, Weights};

/// The most variants of an experiment.
const VARIANTS_MAX: usize = 8;
/// The time for which an interleaved list of a user has the same draws, so that its order does not change with each call.
const SAME_DRAWS_MICROS: i64 = 3_600_000_000;

/// How lists are divided among the variants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Assignment {
    /// Each user has one variant, by a hash of the user's id.
    #[default]
    Hash,
    /// The products of two variants alternate in each list.
    TeamDraft,
}

/// A ranking variant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// The share of users, relative to those of the other variants.
    #[serde(default = "one")]
    pub share: f64,
    /// Default: the weights of the context.
    #[serde(default)]
    pub weights: Option<Weights>,
}

fn one() -> f64 {
    1.0
}

/// A comparison of ranking variants on the lists of one context.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    pub context: ListContext,
    #[serde(default)]
    pub assignment: Assignment,
    pub variants: BTreeMap<String, Variant>,
}

/// All experiments, at most one for each context.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Experiments(Vec<(ListContext, Assignment, ListExperiment)>);

/// Why experiments cannot be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidExperiment {
    #[error("{0:?} is not a name: give it 1 to 128 letters that can be seen")]
    Name(String),
    #[error("the experiment {0} must have 2 to {VARIANTS_MAX} variants, and with team_draft exactly 2")]
    Variants(ExperimentName),
    #[error("the shares of the variants of {0} must be numbers above 0")]
    Share(ExperimentName),
    #[error("in the experiment {0}, {1}")]
    Weights(ExperimentName, NoList),
    #[error("{0} has the same context as another experiment; run them one after the other")]
    SameContext(ExperimentName),
}

fn name<T: std::str::FromStr>(text: &str) -> Result<T, InvalidExperiment> {
    text.parse().map_err(|_| InvalidExperiment::Name(text.to_owned()))
}

impl Experiments {
    /// # Errors
    /// The first experiment that cannot be run, and why.
    pub fn new(experiments: BTreeMap<String, Experiment>) -> Result<Self, InvalidExperiment> {
        let mut checked: Vec<(ListContext, Assignment, ListExperiment)> = Vec::new();
        for (text, experiment) in experiments {
            let Experiment { context, assignment, variants } = experiment;
            let experiment: ExperimentName = name(&text)?;
            let count = variants.len();
            if !(2..=VARIANTS_MAX).contains(&count) || (assignment == Assignment::TeamDraft && count != 2) {
                return Err(InvalidExperiment::Variants(experiment));
            }
            if checked.iter().any(|(other, ..)| *other == context) {
                return Err(InvalidExperiment::SameContext(experiment));
            }
            let mut all = Vec::with_capacity(count);
            for (text, Variant { share, weights }) in variants {
                if !(share > 0.0 && share <= 1e6) {
                    return Err(InvalidExperiment::Share(experiment));
                }
                let weights = weights.unwrap_or_else(|| Weights::of(context));
                weights.check().map_err(|why| InvalidExperiment::Weights(experiment.clone(), why))?;
                all.push(ListVariant { name: name(&text)?, share, weights: weights.into() });
            }
            let experiment = ListExperiment { name: experiment, assigned: None, seed: None, variants: all };
            checked.push((context, assignment, experiment));
        }
        Ok(Self(checked))
    }

    pub fn has(&self, name: &ExperimentName) -> bool {
        self.names().any(|other| other == name)
    }

    pub fn names(&self) -> impl Iterator<Item = &ExperimentName> {
        self.0.iter().map(|(_, _, experiment)| &experiment.name)
    }

    /// The experiment for a list of a user at an instant, with the user's variant or the seed of the draws. None if no
    /// experiment is about such lists.
    pub fn assign(
        &self,
        context: ListContext,
        tenant: &Tenant,
        user: &UserId,
        at: Timestamp,
    ) -> Option<Box<ListExperiment>> {
        let (_, assignment, experiment) = self.0.iter().find(|(of, ..)| *of == context)?;
        let mut experiment = experiment.clone();
        let user = format!("{}\n{tenant}\n{user}", experiment.name);
        match assignment {
            Assignment::Hash => {
                let drawn = f64::from(hash(&user)) / (f64::from(u32::MAX) + 1.0);
                experiment.assigned = Some(assigned(&experiment.variants, drawn)?.name.clone());
            }
            Assignment::TeamDraft => {
                let period = at.micros().div_euclid(SAME_DRAWS_MICROS);
                experiment.seed = Some(hash(&format!("{user}\n{period}")));
            }
        }
        Some(Box::new(experiment))
    }
}

/// The variant of a user, whose hash is a number from 0 to 1.
fn assigned(variants: &[ListVariant], drawn: f64) -> Option<&ListVariant> {
    let mut rest = drawn * variants.iter().map(|variant| variant.share).sum::<f64>();
    variants.iter().find(|variant| {
        rest -= variant.share;
        rest < 0.0
    })
}

/// A number that is always the same for the same text, and evenly spread over all texts.
fn hash(text: &str) -> u32 {
    let digest = Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes()).into_bytes();
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
}

impl ListSources {
    /// Makes a list. In an experiment its products come from the variants.
    ///
    /// # Errors
    /// What the request lacks.
    pub fn recommend(&self, request: &Request, now: Timestamp) -> Result<Recommendation, NoList> {
        let Some(experiment) = &request.experiment else { return self.ranked(request, now) };
        let ranked = |variant: &ListVariant| {
            let weights = Some(variant.weights.into());
            self.ranked(&Request { weights, experiment: None, ..request.clone() }, now)
        };
        let variants = &experiment.variants;
        if let (Some(seed), [one, other]) = (experiment.seed, &variants[..]) {
            return Ok(interleaved(
                [&one.name, &other.name],
                [ranked(one)?, ranked(other)?],
                seed,
                request.limit,
            ));
        }
        let is_assigned = |variant: &ListVariant| Some(&variant.name) == experiment.assigned.as_ref();
        let Some(number) = variants.iter().position(is_assigned) else { return self.ranked(request, now) };
        let mut lists = variants.iter().map(ranked).collect::<Result<Vec<_>, _>>()?;
        let probabilities = shared(variants, &lists, number);
        let mut list = lists.swap_remove(number);
        for (item, probability) in list.items.iter_mut().zip(probabilities) {
            item.probability = probability;
            item.variant.clone_from(&experiment.assigned);
        }
        Ok(list)
    }
}

/// The share of users that get the same product in each slot of a variant's list.
fn shared(variants: &[ListVariant], lists: &[Recommendation], number: usize) -> Vec<f64> {
    let all: f64 = variants.iter().map(|variant| variant.share).sum();
    let slots = lists[number].items.iter().enumerate().map(|(slot, item)| {
        let has = |list: &Recommendation| {
            list.items.get(slot).is_some_and(|other| other.product_id == item.product_id)
        };
        if lists.iter().all(has) {
            return 1.0;
        }
        let with = variants.iter().zip(lists).filter(|(_, list)| has(list));
        with.map(|(variant, _)| variant.share).sum::<f64>() / all
    });
    slots.collect()
}

/// One ranking of an interleaved list: its products that are not in the list yet, the best last.
struct Team<'a> {
    variant: &'a VariantName,
    rest: Vec<Item>,
}

/// The products of a family are one to a list.
fn family(item: &Item) -> &ProductId {
    item.details.family_id.as_ref().unwrap_or(&item.product_id)
}

impl Team<'_> {
    /// The best product whose family is not in the list yet.
    fn next(&mut self, listed: &HashSet<ProductId>) -> Option<Item> {
        while let Some(item) = self.rest.pop() {
            if !listed.contains(family(&item)) {
                return Some(item);
            }
        }
        None
    }

    fn item(&self, item: Item, probability: f64) -> Item {
        Item { probability, variant: Some(self.variant.clone()), ..item }
    }
}

/// The list of two variants whose products alternate. Everything else is that of the first one.
fn interleaved(
    variants: [&VariantName; 2],
    [mut list, other]: [Recommendation; 2],
    seed: u32,
    limit: usize,
) -> Recommendation {
    let items = std::mem::take(&mut list.items);
    let limit = limit.min(items.len().max(other.items.len()));
    // Rules pin the same products to the same slots, whatever the weights are.
    let pinned: Vec<(usize, Item)> =
        items.iter().cloned().enumerate().filter(|(_, item)| item.parts.pinned_by.is_some()).collect();
    let mut listed: HashSet<ProductId> = pinned.iter().map(|(_, item)| family(item).clone()).collect();
    let team = |number: usize, mut rest: Vec<Item>| {
        rest.reverse();
        Team { variant: variants[number], rest }
    };
    let mut teams = [team(0, items), team(1, other.items)];
    let mut drafted: Vec<Item> = Vec::with_capacity(limit);
    let free = limit.saturating_sub(pinned.len());
    let mut draws = 0;
    while drafted.len() < free {
        let [one, other] = teams.each_mut().map(|team| team.next(&listed));
        listed.extend([&one, &other].into_iter().flatten().map(|item| family(item).clone()));
        match (one, other) {
            (None, None) => break,
            (Some(item), None) => drafted.push(teams[0].item(item, 1.0)),
            (None, Some(item)) => drafted.push(teams[1].item(item, 1.0)),
            (Some(one), Some(other)) if one.product_id == other.product_id => drafted.push(one),
            (Some(one), Some(other)) => {
                let is_one_family = family(&one) == family(&other);
                let mut pair = [teams[0].item(one, 0.5), teams[1].item(other, 0.5)];
                if hash(&format!("{seed} {draws}")) & 1 == 1 {
                    pair.reverse();
                }
                draws += 1;
                drafted.extend(pair.into_iter().take(if is_one_family { 1 } else { 2 }));
            }
        }
    }
    drafted.truncate(free);
    for (slot, item) in pinned {
        drafted.insert(slot.min(drafted.len()), item);
    }
    let popular = drafted.iter().filter(|item| item.parts.popularity.is_some()).count();
    let fallback = list.fallback.or(other.fallback).filter(|_| popular > 0);
    list.fallback = fallback.map(|fallback| Fallback { items: popular, ..fallback });
    Recommendation { items: drafted, ..list }
}

#[cfg(test)]
mod tests;
