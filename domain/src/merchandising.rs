//! The merchandising rules of a tenant, which pin, boost or ban products in lists.
//!
//! Invariants: an event is recorded only if a rule changes; a rule names products, and its validity has a beginning
//! before its end; the number of rules is bounded, because every list looks at all of them.

use std::collections::BTreeMap;

use event_schemas::ids::{ProductCategoryId, RuleId};
use event_schemas::merchandising::{MerchandisingEvent, Rule, RuleEffect, RuleRemoved, RuleSet};
use event_schemas::time::Timestamp;
use event_schemas::user::ListContext;

use crate::decider::{Decider, Occurred, RefusalKind, Refused};

/// The most rules of a tenant.
pub const RULES_MAX: usize = 1_000;

/// The most products of a rule.
pub const PRODUCTS_MAX: usize = 100;

/// A command to the rules of a tenant, and its time.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    pub rule_id: RuleId,
    pub at: Timestamp,
    pub action: Action,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Create or replace the rule.
    Set(Rule),
    Remove,
}

/// The rules of a tenant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State(BTreeMap<RuleId, Rule>);

impl State {
    pub fn rules(&self) -> &BTreeMap<RuleId, Rule> {
        &self.0
    }

    /// The first instant after this one from which a rule applies or no longer applies.
    pub fn next_change(&self, after: Timestamp) -> Option<Timestamp> {
        let instants = self.0.values().flat_map(|rule| [rule.valid_from, rule.valid_until]).flatten();
        instants.filter(|instant| *instant > after).min()
    }
}

/// The reason why a command is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("no such rule")]
    Unknown,
    #[error("there are {RULES_MAX} rules already; remove one first")]
    TooMany,
    #[error("valid_until must be after valid_from")]
    EmptyValidity,
    #[error("a product is named twice")]
    Repeated,
}

impl Refused for Refusal {
    fn kind(&self) -> RefusalKind {
        match self {
            Self::Unknown => RefusalKind::NotFound,
            Self::TooMany => RefusalKind::Conflict,
            Self::EmptyValidity | Self::Repeated => RefusalKind::Invalid,
        }
    }
}

/// Whether the rule has an effect on a list of this kind, and of this category if it is of one, at an instant.
pub fn applies(
    rule: &Rule,
    at: Timestamp,
    context: ListContext,
    category: Option<&ProductCategoryId>,
) -> bool {
    rule.valid_from.is_none_or(|from| from <= at)
        && rule.valid_until.is_none_or(|until| at < until)
        && rule.context.is_none_or(|of| of == context)
        && rule.category_id.as_ref().is_none_or(|of| Some(of) == category)
}

fn check(rule: &Rule) -> Result<(), Refusal> {
    let mut products: Vec<_> = rule.product_ids.iter().collect();
    products.sort_unstable();
    if products.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Refusal::Repeated);
    }
    match (rule.valid_from, rule.valid_until) {
        (Some(from), Some(until)) if until <= from => Err(Refusal::EmptyValidity),
        _ => Ok(()),
    }
}

/// Decides for the streams `merchandising-<tenant>`.
#[derive(Debug)]
pub enum MerchandisingDecider {}

impl Decider for MerchandisingDecider {
    type State = State;
    type Command = Command;
    type Event = MerchandisingEvent;
    type Refusal = Refusal;

    fn decide(command: &Command, state: &State) -> Result<Vec<Occurred<MerchandisingEvent>>, Refusal> {
        let Command { rule_id, at, action } = command;
        let known = state.0.get(rule_id);
        let event: MerchandisingEvent = match action {
            Action::Set(rule) => {
                check(rule)?;
                if known == Some(rule) {
                    return Ok(Vec::new());
                }
                if known.is_none() && state.0.len() >= RULES_MAX {
                    return Err(Refusal::TooMany);
                }
                RuleSet { rule_id: rule_id.clone(), rule: rule.clone() }.into()
            }
            Action::Remove if known.is_none() => return Err(Refusal::Unknown),
            Action::Remove => RuleRemoved { rule_id: rule_id.clone() }.into(),
        };
        Ok(vec![Occurred { at: *at, event }])
    }

    fn evolve(mut state: State, event: &MerchandisingEvent, _occurred_at: Timestamp) -> State {
        match event {
            MerchandisingEvent::RuleSet(set) => {
                state.0.insert(set.rule_id.clone(), set.rule.clone());
            }
            MerchandisingEvent::RuleRemoved(removed) => {
                state.0.remove(&removed.rule_id);
            }
        }
        state
    }
}

/// The word for an effect, by which rules are listed.
pub fn kind(effect: &RuleEffect) -> &'static str {
    match effect {
        RuleEffect::Pin { .. } => "pin",
        RuleEffect::Boost { .. } => "boost",
        RuleEffect::Ban => "ban",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{at, decided, id};

    fn ban(product: &str) -> Rule {
        Rule {
            effect: RuleEffect::Ban,
            product_ids: vec![id(product)],
            context: None,
            category_id: None,
            valid_from: None,
            valid_until: None,
        }
    }

    fn set(rule_id: &str, rule: Rule) -> Command {
        Command { rule_id: id(rule_id), at: at(0.0), action: Action::Set(rule) }
    }

    fn was_set(rule_id: &str, rule: Rule) -> MerchandisingEvent {
        RuleSet { rule_id: id(rule_id), rule }.into()
    }

    #[test]
    fn rule_is_set_once_replaced_and_removed() {
        let given = [was_set("a", ban("1"))];
        assert_eq!(decided::<MerchandisingDecider>(&[], &set("a", ban("1"))), Ok(given.to_vec()));
        assert_eq!(decided::<MerchandisingDecider>(&given, &set("a", ban("1"))), Ok(vec![]));
        let replaced = decided::<MerchandisingDecider>(&given, &set("a", ban("2")));
        assert_eq!(replaced, Ok(vec![was_set("a", ban("2"))]));
        let remove = |rule_id| Command { rule_id: id(rule_id), at: at(0.0), action: Action::Remove };
        let removed: MerchandisingEvent = RuleRemoved { rule_id: id("a") }.into();
        assert_eq!(decided::<MerchandisingDecider>(&given, &remove("a")), Ok(vec![removed.clone()]));
        assert_eq!(decided::<MerchandisingDecider>(&given, &remove("b")), Err(Refusal::Unknown));
        let given = [given[0].clone(), removed];
        assert_eq!(decided::<MerchandisingDecider>(&given, &remove("a")), Err(Refusal::Unknown));
    }

    #[test]
    fn number_of_rules_is_bounded() {
        let given: Vec<_> = (0..RULES_MAX).map(|n| was_set(&n.to_string(), ban("1"))).collect();
        assert_eq!(decided::<MerchandisingDecider>(&given, &set("new", ban("1"))), Err(Refusal::TooMany));
        assert!(decided::<MerchandisingDecider>(&given, &set("7", ban("2"))).is_ok());
    }

    #[test]
    fn next_change_is_the_next_bound_of_a_rule() {
        let of = |from, until| Rule { valid_from: from, valid_until: until, ..ban("1") };
        let rules = [of(None, None), of(Some(at(5.0)), Some(at(9.0))), of(None, Some(at(7.0)))];
        let rules = rules.into_iter().enumerate().map(|(n, rule)| (id(&n.to_string()), rule));
        let rules = State(rules.collect());
        let next = [4.0, 5.0, 7.0, 9.0].map(|after| rules.next_change(at(after)));
        assert_eq!(next, [Some(at(5.0)), Some(at(7.0)), Some(at(9.0)), None]);
    }

    #[test]
    fn contradictory_rules_are_refused() {
        let never = Rule { valid_from: Some(at(2.0)), valid_until: Some(at(2.0)), ..ban("1") };
        assert_eq!(decided::<MerchandisingDecider>(&[], &set("a", never)), Err(Refusal::EmptyValidity));
        let twice = Rule { product_ids: vec![id("1"), id("2"), id("1")], ..ban("1") };
        assert_eq!(decided::<MerchandisingDecider>(&[], &set("a", twice)), Err(Refusal::Repeated));
    }

    #[test]
    fn rule_applies_in_its_scope_and_validity_only() {
        let shoes: ProductCategoryId = id("shoes");
        let rule = Rule {
            context: Some(ListContext::Category),
            category_id: Some(shoes.clone()),
            valid_from: Some(at(1.0)),
            valid_until: Some(at(2.0)),
            ..ban("1")
        };
        assert!(applies(&rule, at(1.0), ListContext::Category, Some(&shoes)));
        for (seconds, context, category) in [
            (0.9, ListContext::Category, Some(&shoes)),
            (2.0, ListContext::Category, Some(&shoes)),
            (1.5, ListContext::Feed, Some(&shoes)),
            (1.5, ListContext::Category, Some(&id("hats"))),
            (1.5, ListContext::Category, None),
        ] {
            assert!(!applies(&rule, at(seconds), context, category), "{seconds} {context:?} {category:?}");
        }
        assert!(applies(&ban("1"), at(9.0), ListContext::Search, None));
    }
}
