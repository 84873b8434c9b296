//! Which products can be in a list: the merchandising rules, and what the request leaves out.

use std::collections::{BTreeMap, HashMap};

use event_schemas::ids::{ProductId, RuleId};
use event_schemas::merchandising::RuleEffect;
use event_schemas::time::Timestamp;

use super::candidates::RANKED_MAX;
use super::sources::ListSources;
use super::{LeftOut, Request};
use crate::merchandising::applies;
use crate::search::filter::Filter;

/// Which products can be in a list, and the number of those that cannot, by reason.
#[derive(Debug)]
pub(super) struct Admission<'a> {
    sources: &'a ListSources,
    pub(super) filter: &'a Filter,
    reasons: HashMap<u32, LeftOut>,
    /// The family of the product that the list is about.
    family: Option<&'a ProductId>,
    left_out: HashMap<u32, LeftOut>,
}

/// The effects of the rules that apply to a list.
#[derive(Debug, Default)]
pub(super) struct Effects<'a> {
    pub(super) banned: Vec<u32>,
    pub(super) boosts: BTreeMap<u32, f64>,
    /// The products by their places, from 1.
    pub(super) pins: BTreeMap<usize, (u32, &'a RuleId)>,
}

impl<'a> Effects<'a> {
    pub(super) fn new(sources: &'a ListSources, request: &Request, now: Timestamp) -> Self {
        let mut effects = Self::default();
        let category = request.filter.category_id.as_ref();
        for (id, rule) in sources.rules().rules() {
            if !applies(rule, now, request.context, category) {
                continue;
            }
            let numbers = rule.product_ids.iter().filter_map(|product| sources.number(product));
            match rule.effect {
                RuleEffect::Ban => effects.banned.extend(numbers),
                RuleEffect::Boost { factor } => {
                    for number in numbers {
                        *effects.boosts.entry(number).or_insert(1.0) *= factor;
                    }
                }
                RuleEffect::Pin { slot } => effects.pin(id, slot as usize, numbers),
            }
        }
        effects
    }

    /// Pins products from a place on. A place that an earlier rule took is skipped.
    fn pin(&mut self, rule: &'a RuleId, slot: usize, numbers: impl Iterator<Item = u32>) {
        let mut slot = slot.max(1);
        for number in numbers {
            if self.pins.values().any(|(pinned, _)| *pinned == number) {
                continue;
            }
            while self.pins.contains_key(&slot) {
                slot += 1;
            }
            self.pins.insert(slot, (number, rule));
        }
    }
}

impl<'a> Admission<'a> {
    pub(super) fn new(sources: &'a ListSources, request: &'a Request, banned: &[u32]) -> Self {
        let mut reasons = HashMap::new();
        // A later reason replaces an earlier one.
        if !request.include_bought {
            let bought = request.subject.into_iter().flat_map(|subject| sources.signals.bought(subject));
            let bought = bought.filter_map(|number| sources.in_catalogue(number));
            reasons.extend(bought.map(|number| (number, LeftOut::Bought)));
        }
        let excluded = request.exclude.iter().filter_map(|id| sources.number(id));
        reasons.extend(excluded.map(|number| (number, LeftOut::Excluded)));
        let about = sources.about(request);
        reasons.extend(about.map(|number| (number, LeftOut::Itself)));
        reasons.extend(banned.iter().map(|number| (*number, LeftOut::Banned)));
        let family = about.and_then(|number| sources.family(number));
        Self { sources, filter: &request.filter, reasons, family, left_out: HashMap::new() }
    }

    /// Whether the product can be in the list. One that cannot is counted.
    pub(super) fn admits(&mut self, number: u32) -> bool {
        let details = self.sources.products.details(number);
        let reason = if !details.is_active {
            Some(LeftOut::Inactive)
        } else if !self.filter.admits(details) {
            return false;
        } else if let Some(reason) = self.reasons.get(&number) {
            Some(*reason)
        } else {
            self.family
                .filter(|family| self.sources.family(number) == Some(*family))
                .map(|_| LeftOut::Variant)
        };
        if let Some(reason) = reason {
            self.left_out.insert(number, reason);
        }
        reason.is_none()
    }

    /// The first products of a ranking that can be in the list.
    pub(super) fn first(&mut self, ranked: Vec<u32>) -> Vec<u32> {
        ranked.into_iter().filter(|number| self.admits(*number)).take(RANKED_MAX).collect()
    }

    /// The number of products of a ranking that are needed, because some cannot be in the list.
    pub(super) fn needed(&self) -> usize {
        2 * RANKED_MAX + self.reasons.len()
    }

    /// Leaves the product out because another one of its family is in the list.
    pub(super) fn leave_out_variant(&mut self, number: u32) {
        self.left_out.insert(number, LeftOut::Variant);
    }

    pub(super) fn counts(&self) -> BTreeMap<LeftOut, usize> {
        let mut counts = BTreeMap::new();
        for reason in self.left_out.values() {
            *counts.entry(*reason).or_default() += 1;
        }
        counts
    }
}
