//! The signals of a tenant's users: what each did, which products are popular, and which are visited together.
//!
//! The order of a user's interactions is the order of the log, also of those that are reported late: it is the same at
//! every replay. All that is stored are interactions and sums of whole numbers, so that the share of a user can be removed
//! exactly when the user is erased.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use event_schemas::ids::{ProductId, SubjectId};
use event_schemas::time::Timestamp;
use event_schemas::user::{InteractionRecorded, InteractionType, UserEvent};

use super::co_visits::{Partner, Step, Steps, Visited, damping};
use super::settings::Settings;
use crate::product::popularity::{Popularity, day_of};
use crate::user::interactions::Interactions;
use crate::user::profile::{Activity, LONG_TERM_HALF_LIFE, UNIT, decayed};

/// The most interactions of a user, the last ones, that the interests are computed from.
const INTERACTIONS_MAX: usize = 500;

/// What a product counts at least when it was visited, as a share of a purchase.
const VISITED_MIN: f64 = 0.4;

/// How much a product that the user disliked pushes its partners away, as a share of what its weight would be.
const DISLIKED: f64 = 0.5;

/// An interaction, in the order of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Interaction {
    at: Timestamp,
    product: u32,
    /// In billionths of a purchase.
    weight: i32,
    kind: InteractionType,
}

/// What a user did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct User {
    interactions: Vec<Interaction>,
    bought: BTreeSet<u32>,
}

/// The popularity of a product.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Popular {
    sums: Popularity,
    /// The newest day, and the sum on it.
    newest: Option<(i64, i64)>,
}

/// The order of products by popularity, the most popular first, equal ones by id.
type Rank = (Reverse<u64>, ProductId, u32);

/// The fold of all users' events of a tenant. Products have numbers here, in the order in which they first came.
#[derive(Debug)]
pub struct Signals {
    settings: Settings,
    products: HashMap<ProductId, u32>,
    ids: Vec<ProductId>,
    popular: Vec<Popular>,
    by_popularity: BTreeSet<Rank>,
    users: HashMap<SubjectId, u32>,
    of_users: Vec<User>,
    /// The products of each user's steps.
    steps_of_users: Vec<Vec<u32>>,
    steps_of_products: Vec<Vec<Step>>,
    damping: Vec<f32>,
}

/// The weights of products, by number.
pub type ProductWeights = Vec<(u32, i64)>;

/// The interests of a user at an instant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Interests {
    /// The products that the user visited last, the last one first.
    pub visited: Vec<Visited>,
    /// The weights of products over all sessions. Negative ones push away.
    pub long_term: ProductWeights,
    /// The weights of products in the current session.
    pub session: ProductWeights,
}

impl Signals {
    /// The number of users with at least this many interactions.
    pub fn active_users(&self, interactions_min: usize) -> usize {
        self.of_users.iter().filter(|user| user.interactions.len() >= interactions_min).count()
    }

    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            products: HashMap::new(),
            ids: Vec::new(),
            popular: Vec::new(),
            by_popularity: BTreeSet::new(),
            users: HashMap::new(),
            of_users: Vec::new(),
            steps_of_users: Vec::new(),
            steps_of_products: Vec::new(),
            damping: Vec::new(),
        }
    }

    /// The number of a product, which it gets if it has none.
    pub fn number_or_new(&mut self, id: &ProductId) -> u32 {
        if let Some(number) = self.products.get(id) {
            return *number;
        }
        let number = u32::try_from(self.ids.len()).expect("memory holds fewer products");
        self.products.insert(id.clone(), number);
        self.ids.push(id.clone());
        self.popular.push(Popular::default());
        self.by_popularity.insert(Popular::default().rank(id, number));
        self.steps_of_products.push(Vec::new());
        self.damping.push(damping(0));
        number
    }

    /// The number of a product that came.
    pub fn number(&self, id: &ProductId) -> Option<u32> {
        self.products.get(id).copied()
    }

    pub fn id(&self, number: u32) -> &ProductId {
        &self.ids[number as usize]
    }

    /// Applies the next event of a user.
    pub fn apply(&mut self, event: &UserEvent, occurred_at: Timestamp) {
        match event {
            UserEvent::InteractionRecorded(interaction) => self.interact(interaction, occurred_at),
            UserEvent::ListServed(_) => {}
            UserEvent::SubjectKeyDestroyed(erased) => self.forget(erased.subject_id),
        }
    }

    fn interact(&mut self, recorded: &InteractionRecorded, at: Timestamp) {
        let product = self.number_or_new(&recorded.product_id);
        let user = self.user_or_new(recorded.subject_id);
        let kind = recorded.interaction_type;
        let weight = self.settings.interactions.weight(kind, recorded.value);
        let interaction =
            Interaction { at, product, weight: i32::try_from(weight).unwrap_or(i32::MAX), kind };
        let of_user = &mut self.of_users[user as usize];
        of_user.interactions.push(interaction);
        if kind == InteractionType::Purchase {
            of_user.bought.insert(product);
        }
        self.change_popularity(product, weight, at);
        let steps = &mut self.steps_of_users[user as usize];
        let recent = &steps[steps.len().saturating_sub(self.settings.co_visits.window)..];
        if !recent.contains(&product) {
            let index = u32::try_from(steps.len()).expect("memory holds fewer steps");
            steps.push(product);
            self.steps_of_products[product as usize].push(Step { user, index });
            self.damping[product as usize] = damping(self.steps_of_products[product as usize].len());
        }
    }

    fn user_or_new(&mut self, subject: SubjectId) -> u32 {
        if let Some(user) = self.users.get(&subject) {
            return *user;
        }
        let user = u32::try_from(self.of_users.len()).expect("memory holds fewer users");
        self.users.insert(subject, user);
        self.of_users.push(User::default());
        self.steps_of_users.push(Vec::new());
        user
    }

    fn change_popularity(&mut self, product: u32, weight: i64, at: Timestamp) {
        let id = self.ids[product as usize].clone();
        let popular = &mut self.popular[product as usize];
        let before = popular.rank(&id, product);
        popular.change(weight, at);
        let after = popular.rank(&id, product);
        if after != before {
            self.by_popularity.remove(&before);
            self.by_popularity.insert(after);
        }
    }

    /// Removes all that a user did: afterwards every answer is that of a fold that never saw the user.
    fn forget(&mut self, subject: SubjectId) {
        let Some(user) = self.users.remove(&subject) else { return };
        let forgotten = std::mem::take(&mut self.of_users[user as usize]);
        for product in std::mem::take(&mut self.steps_of_users[user as usize]) {
            self.steps_of_products[product as usize].retain(|step| step.user != user);
            self.damping[product as usize] = damping(self.steps_of_products[product as usize].len());
        }
        for Interaction { at, product, weight, .. } in forgotten.interactions {
            self.change_popularity(product, -i64::from(weight), at);
        }
    }

    /// The interests of a user at an instant; None if the user did nothing.
    pub fn interests(&self, subject: SubjectId, now: Timestamp) -> Option<Interests> {
        let user = &self.of_users[*self.users.get(&subject)? as usize];
        let skipped = user.interactions.len().saturating_sub(INTERACTIONS_MAX);
        let interactions = &user.interactions[skipped..];
        let (long_term, session) = profile(interactions, now, &self.settings.interactions);
        Some(Interests { visited: self.visited(interactions), long_term, session })
    }

    /// The products that a user interacted with last, each once.
    fn visited(&self, interactions: &[Interaction]) -> Vec<Visited> {
        let mut weights: HashMap<u32, i64> = HashMap::new();
        for interaction in interactions {
            *weights.entry(interaction.product).or_default() += i64::from(interaction.weight);
        }
        let mut visited = Vec::with_capacity(self.settings.co_visits.visited_max);
        let mut numbers = HashSet::new();
        for product in interactions.iter().rev().map(|interaction| interaction.product) {
            if visited.len() == self.settings.co_visits.visited_max {
                break;
            }
            if numbers.insert(product) {
                let share = (weights[&product] as f64 / UNIT as f64).clamp(-1.0, 1.0);
                let liking =
                    if share < 0.0 { share * DISLIKED } else { VISITED_MIN + (1.0 - VISITED_MIN) * share };
                let weight = liking * self.settings.co_visits.visited_weight(visited.len());
                visited.push(Visited { number: product, weight });
            }
        }
        visited
    }

    /// The products that the user bought.
    pub fn bought(&self, subject: SubjectId) -> impl Iterator<Item = u32> {
        let user = self.users.get(&subject).map(|user| &self.of_users[*user as usize]);
        user.into_iter().flat_map(|user| user.bought.iter().copied())
    }

    /// The products that are visited together with others, in no order.
    pub fn partners(&self, visited: &[Visited]) -> Vec<Partner> {
        let steps = Steps {
            of_users: &self.steps_of_users,
            of_products: &self.steps_of_products,
            damping: &self.damping,
        };
        steps.partners(visited, &self.settings.co_visits)
    }

    /// All products, the most popular first, and equal ones by id.
    pub fn most_popular(&self) -> impl Iterator<Item = u32> {
        self.by_popularity.iter().map(|(_, _, number)| *number)
    }

    /// A number by which products have the order of their popularity, the most popular first.
    pub fn popularity_order(&self, number: u32) -> Reverse<u64> {
        self.popular[number as usize].order()
    }

    /// The popularity of a product at an instant, in billionths of a purchase.
    pub fn popularity(&self, number: u32, now: Timestamp) -> i64 {
        self.popular[number as usize].sums.at(now)
    }

    /// The number of interactions.
    pub fn len(&self) -> usize {
        self.of_users.iter().map(|user| user.interactions.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The weights of products over all sessions, and in the latest session if it is active.
fn profile(
    interactions: &[Interaction],
    now: Timestamp,
    settings: &Interactions,
) -> (ProductWeights, ProductWeights) {
    let mut activity: Option<Activity> = None;
    let mut long_term: BTreeMap<u32, i64> = BTreeMap::new();
    // With the number of the session.
    let mut in_session: (u64, BTreeMap<u32, i64>) = (0, BTreeMap::new());
    for Interaction { at, product, weight, kind } in interactions {
        let amount = |half_life: Duration| decayed(i64::from(*weight), now.since(*at), half_life);
        let belongs = match &mut activity {
            Some(activity) => activity.add(*kind, *at),
            None => activity.insert(Activity::new(*kind, *at)).total() > 0,
        };
        *long_term.entry(*product).or_default() += amount(LONG_TERM_HALF_LIFE);
        let session = activity.as_ref().map_or(0, |activity| activity.session.number);
        if belongs {
            if in_session.0 != session {
                in_session = (session, BTreeMap::new());
            }
            *in_session.1.entry(*product).or_default() += amount(settings.half_life(*kind));
        }
    }
    let is_active = activity.is_some_and(|activity| activity.session.is_active(now));
    let session = if is_active { in_session.1 } else { BTreeMap::new() };
    (long_term.into_iter().collect(), session.into_iter().collect())
}

impl Popular {
    fn change(&mut self, weight: i64, at: Timestamp) {
        let day = day_of(at);
        self.sums.change(weight, at);
        self.newest = match self.newest {
            // Nothing has decayed, so that most changes are one addition.
            Some((newest, sum)) if newest == day && self.sums.newest_day() == Some(day) => {
                Some((day, sum.saturating_add(weight)))
            }
            _ => self.sums.on_newest_day(),
        };
    }

    fn rank_number(&self) -> f64 {
        self.newest.map_or(f64::MIN, |(day, sum)| Popularity::rank_of(day, sum))
    }

    fn order(&self) -> Reverse<u64> {
        // The bits of numbers have their order, if those of negative ones are inverted.
        let bits = self.rank_number().to_bits();
        Reverse(if bits >> 63 == 1 { !bits } else { bits | 1 << 63 })
    }

    fn rank(&self, id: &ProductId, number: u32) -> Rank {
        (self.order(), id.clone(), number)
    }
}

#[cfg(test)]
mod tests;
