//! `experiments`: the lists that were served for experiments, and what the users did with their products, summed for each slot of
//! each variant. Feedback belongs to a list by its `request_id`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use domain::user::interactions::Interactions;
use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{ExperimentName, ListId, ProductId, SubjectId, Tenant, VariantName};
use event_schemas::stream::Category;
use event_schemas::user::{InteractionRecorded, InteractionType, ListServed, UserEvent};
use serde::{Deserialize, Serialize};

use crate::generation::{QueryError, Slot};
use crate::projection::Name;
use crate::row::{parse_json, to_json};
use crate::rows::{RowModel, Rows, Table};
use crate::sql::{Batch, Db, Ddl, SqlError, Statement, Value, ddl};

pub(crate) const UPSERT_LIST: &str = "INSERT INTO experiment_lists (tenant, list_id, view) VALUES ($1, $2, $3) \
     ON CONFLICT (tenant, list_id) DO UPDATE SET view = excluded.view";
pub(crate) const ONE_LIST: &str = "SELECT view FROM experiment_lists WHERE tenant = $1 AND list_id = $2";
pub(crate) const DELETE_LIST: &str = "DELETE FROM experiment_lists WHERE tenant = $1 AND list_id = $2";
pub(crate) const UPSERT_SLOT: &str = "INSERT INTO experiment_slots (tenant, experiment, variant, slot, view) \
     VALUES ($1, $2, $3, $4, $5) \
     ON CONFLICT (tenant, experiment, variant, slot) DO UPDATE SET view = excluded.view";
pub(crate) const ONE_SLOT: &str = "SELECT view FROM experiment_slots \
     WHERE tenant = $1 AND experiment = $2 AND variant = $3 AND slot = $4";
pub(crate) const DELETE_SLOT: &str = "DELETE FROM experiment_slots \
     WHERE tenant = $1 AND experiment = $2 AND variant = $3 AND slot = $4";
pub(crate) const SLOTS: &str = "SELECT variant, slot, view FROM experiment_slots \
     WHERE tenant = $1 AND experiment = $2 ORDER BY variant, slot";
pub(crate) const NAMES: &str = "SELECT DISTINCT experiment FROM experiment_slots WHERE tenant = $1";

#[cfg(test)]
pub(crate) fn sql_texts() -> Vec<String> {
    [UPSERT_LIST, DELETE_LIST, ONE_LIST, UPSERT_SLOT, DELETE_SLOT, ONE_SLOT, SLOTS, NAMES]
        .map(str::to_owned)
        .into()
}

/// The slot of the sums over whole lists.
const WHOLE_LISTS: i64 = -1;

/// What users did with the products of a slot, or with whole lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcomes {
    /// The number of products, or of lists, that were shown.
    pub impressions: u64,
    /// The number of products that were clicked.
    pub clicked: u64,
    /// The number of products that were bought.
    pub purchased: u64,
    /// The weights of the interactions with the products, in billionths.
    pub reward: i64,
    /// The sum of the squares of the reward of each product, in purchases.
    pub reward_squares: f64,
    /// The number of interleaved lists.
    pub interleaved: u64,
    /// The number of interleaved lists in which more products of the variant were clicked than of the other.
    pub wins: u64,
}

/// A product of a served list.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Shown {
    product_id: ProductId,
    variant: Option<VariantName>,
    clicked: bool,
    purchased: bool,
    reward: i64,
}

/// A list that was served for an experiment.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct ShownList {
    experiment: ExperimentName,
    subject_id: SubjectId,
    is_interleaved: bool,
    items: Vec<Shown>,
}

impl ShownList {
    fn new(list: &ListServed) -> Option<Self> {
        let experiment = list.experiment.as_ref()?;
        let shown = list.items.iter().map(|item| Shown {
            product_id: item.product_id.clone(),
            variant: item.variant.clone(),
            clicked: false,
            purchased: false,
            reward: 0,
        });
        Some(Self {
            experiment: experiment.name.clone(),
            subject_id: list.subject_id,
            is_interleaved: experiment.seed.is_some(),
            items: shown.collect(),
        })
    }

    /// The variant of an interleaved list with the most clicked products, unless both have as many.
    fn winner(&self) -> Option<VariantName> {
        if !self.is_interleaved {
            return None;
        }
        let mut clicks: BTreeMap<&VariantName, usize> = BTreeMap::new();
        for variant in self.items.iter().filter(|item| item.clicked).filter_map(|item| item.variant.as_ref())
        {
            *clicks.entry(variant).or_default() += 1;
        }
        let most = clicks.values().max()?;
        let mut best = clicks.iter().filter(|(_, count)| *count == most);
        best.next().filter(|_| best.next().is_none()).map(|(variant, _)| (*variant).clone())
    }
}

type ListKey = (Tenant, ListId);

/// The rows by list.
#[derive(Debug)]
struct Lists;

impl Table for Lists {
    type Key = ListKey;
    type Value = ShownList;
    const ONE: &'static str = ONE_LIST;

    fn key((tenant, list): &ListKey) -> Vec<Value> {
        vec![tenant.as_str().into(), list.0.into()]
    }

    /// Large enough to count.
    fn text_bytes(list: &ShownList) -> usize {
        100 * list.items.len()
    }

    fn write((tenant, list): &ListKey, value: Option<&ShownList>) -> Option<Statement> {
        let key = |sql| Statement::new(sql).bind(tenant.as_str()).bind(list.0);
        Some(match value {
            Some(value) => key(UPSERT_LIST).bind(to_json(value)),
            None => key(DELETE_LIST),
        })
    }
}

type SlotKey = (Tenant, ExperimentName, Option<VariantName>, i64);

/// The rows by slot.
#[derive(Debug)]
struct Slots;

fn text(variant: Option<&VariantName>) -> &str {
    variant.map_or("", VariantName::as_str)
}

impl Table for Slots {
    type Key = SlotKey;
    type Value = Outcomes;
    const ONE: &'static str = ONE_SLOT;

    fn key((tenant, experiment, variant, slot): &SlotKey) -> Vec<Value> {
        vec![
            tenant.as_str().into(),
            experiment.as_str().into(),
            text(variant.as_ref()).into(),
            (*slot).into(),
        ]
    }

    fn write(
        (tenant, experiment, variant, slot): &SlotKey,
        outcomes: Option<&Outcomes>,
    ) -> Option<Statement> {
        let key = |sql| {
            let statement = Statement::new(sql).bind(tenant.as_str()).bind(experiment.as_str());
            statement.bind(text(variant.as_ref())).bind(*slot)
        };
        Some(match outcomes {
            Some(outcomes) => key(UPSERT_SLOT).bind(to_json(outcomes)),
            None => key(DELETE_SLOT),
        })
    }
}

/// The lists of experiments, and the sums over them.
#[derive(Debug, Default)]
pub(crate) struct ExperimentRows {
    lists: Rows<Lists>,
    slots: Rows<Slots>,
    settings: Interactions,
}

/// What an event says about a list.
enum Fact<'a> {
    Served(ShownList),
    Interaction(&'a InteractionRecorded),
}

fn fact(envelope: &Envelope) -> Option<(ListKey, Fact<'_>)> {
    let Event::User(event) = &envelope.event else { return None };
    let (list, fact) = match event {
        UserEvent::ListServed(list) => (list.list_id, Fact::Served(ShownList::new(list)?)),
        UserEvent::InteractionRecorded(interaction) => (interaction.list_id?, Fact::Interaction(interaction)),
        UserEvent::SubjectKeyDestroyed(_) => return None,
    };
    Some(((envelope.metadata.tenant.clone(), list), fact))
}

/// All rows that change with a list.
fn slots_of(tenant: &Tenant, list: &ShownList) -> Vec<SlotKey> {
    let mut keys = Vec::with_capacity(list.items.len() + 2);
    for (slot, item) in (0..).zip(&list.items) {
        keys.push((tenant.clone(), list.experiment.clone(), item.variant.clone(), slot));
        let whole = (tenant.clone(), list.experiment.clone(), item.variant.clone(), WHOLE_LISTS);
        if !keys.contains(&whole) {
            keys.push(whole);
        }
    }
    keys
}

impl ExperimentRows {
    fn slot(&mut self, key: &SlotKey) -> Option<&mut Outcomes> {
        if self.slots.get(key).is_none() {
            self.slots.set(key.clone(), Some(Outcomes::default()));
        }
        self.slots.change(key)
    }

    fn serve(&mut self, key: ListKey, list: ShownList) {
        // Ids are unique, so a second event with one is not of this program, and does not count.
        if self.lists.get(&key).is_some() {
            return;
        }
        for slot in slots_of(&key.0, &list) {
            if let Some(outcomes) = self.slot(&slot) {
                outcomes.impressions += 1;
                outcomes.interleaved += u64::from(list.is_interleaved);
            }
        }
        self.lists.set(key, Some(list));
    }

    /// Subtracts a list of an erased user, and what the user did with it.
    fn forget_list(&mut self, key: ListKey) {
        let Some(list) = self.lists.get(&key).cloned() else { return };
        let of = |variant, slot| (key.0.clone(), list.experiment.clone(), variant, slot);
        for slot in slots_of(&key.0, &list) {
            if let Some(outcomes) = self.slots.change(&slot) {
                outcomes.impressions -= 1;
                outcomes.interleaved -= u64::from(list.is_interleaved);
            }
        }
        for (slot, item) in (0..).zip(&list.items) {
            if let Some(outcomes) = self.slots.change(&of(item.variant.clone(), slot)) {
                outcomes.clicked -= u64::from(item.clicked);
                outcomes.purchased -= u64::from(item.purchased);
                outcomes.reward -= item.reward;
                outcomes.reward_squares -= purchases(item.reward).powi(2);
            }
        }
        if let Some(winner) = list.winner()
            && let Some(outcomes) = self.slots.change(&of(Some(winner), WHOLE_LISTS))
        {
            outcomes.wins -= 1;
        }
        for slot in slots_of(&key.0, &list) {
            if self.slots.get(&slot).is_some_and(|outcomes| outcomes.impressions == 0) {
                self.slots.set(slot, None);
            }
        }
        self.lists.set(key, None);
    }

    fn interact(&mut self, key: &ListKey, interaction: &InteractionRecorded) {
        let is_of_list = |list: &&mut ShownList| list.subject_id == interaction.subject_id;
        let Some(list) = self.lists.change(key).filter(is_of_list) else { return };
        let winner = list.winner();
        let shown = list.items.iter_mut().enumerate();
        let mut shown = shown.filter(|(_, item)| item.product_id == interaction.product_id);
        let Some((slot, item)) = shown.next() else { return };
        let before = item.clone();
        item.clicked |= interaction.interaction_type == InteractionType::Click;
        item.purchased |= interaction.interaction_type == InteractionType::Purchase;
        item.reward += self.settings.weight(interaction.interaction_type, interaction.value);
        let (after, winner_now) = (item.clone(), list.winner());
        let experiment = list.experiment.clone();
        let of = |variant, slot| (key.0.clone(), experiment.clone(), variant, slot);
        let of_slot = of(after.variant.clone(), i64::try_from(slot).unwrap_or(i64::MAX));
        if let Some(outcomes) = self.slot(&of_slot) {
            outcomes.clicked += u64::from(after.clicked) - u64::from(before.clicked);
            outcomes.purchased += u64::from(after.purchased) - u64::from(before.purchased);
            outcomes.reward += after.reward - before.reward;
            outcomes.reward_squares += purchases(after.reward).powi(2) - purchases(before.reward).powi(2);
        }
        if winner != winner_now {
            if let Some(outcomes) = winner.and_then(|winner| self.slot(&of(Some(winner), WHOLE_LISTS))) {
                outcomes.wins -= 1;
            }
            if let Some(outcomes) = winner_now.and_then(|winner| self.slot(&of(Some(winner), WHOLE_LISTS))) {
                outcomes.wins += 1;
            }
        }
    }
}

/// Billionths as purchases.
fn purchases(reward: i64) -> f64 {
    reward as f64 / 1e9
}

impl RowModel for ExperimentRows {
    const NAME: Name = Name::Experiments;
    const REVISION: u32 = 1;
    const DDL: Ddl = ddl!("experiments");
    const CATEGORIES: &'static [Category] = &[Category::User];
    const COUNTS_INTERACTIONS: bool = true;

    fn configure(&mut self, settings: &Interactions) {
        self.settings = *settings;
    }

    async fn fold(&mut self, db: &Db, events: &[&Envelope]) -> Result<(), SqlError> {
        let facts: Vec<_> = events.iter().filter_map(|envelope| fact(envelope)).collect();
        self.lists.load(db, facts.iter().map(|(key, _)| key.clone())).await?;
        let served = facts.iter().filter_map(|((tenant, _), fact)| match fact {
            Fact::Served(list) => Some((tenant, list)),
            Fact::Interaction(_) => None,
        });
        let stored = facts.iter().filter_map(|(key, _)| Some((&key.0, self.lists.get(key)?)));
        let slots: Vec<_> = served.chain(stored).flat_map(|(tenant, list)| slots_of(tenant, list)).collect();
        self.slots.load(db, slots).await?;
        for (key, fact) in facts {
            match fact {
                Fact::Served(list) => self.serve(key, list),
                Fact::Interaction(interaction) => self.interact(&key, interaction),
            }
        }
        Ok(())
    }

    async fn forget(&mut self, db: &Db, _: &Envelope, earlier: &[Envelope]) -> Result<(), SqlError> {
        let lists: Vec<ListKey> = earlier
            .iter()
            .filter_map(|envelope| match fact(envelope)? {
                (key, Fact::Served(_)) => Some(key),
                (_, Fact::Interaction(_)) => None,
            })
            .collect();
        self.lists.load(db, lists.iter().cloned()).await?;
        let stored = lists.iter().filter_map(|key| Some((&key.0, self.lists.get(key)?)));
        let slots: Vec<_> = stored.flat_map(|(tenant, list)| slots_of(tenant, list)).collect();
        self.slots.load(db, slots).await?;
        lists.into_iter().for_each(|list| self.forget_list(list));
        Ok(())
    }

    fn store(&self, batch: &mut Batch) {
        self.lists.store(batch);
        self.slots.store(batch);
    }

    fn has_changes(&self) -> bool {
        self.lists.has_changes() || self.slots.has_changes()
    }

    fn on_stored(&mut self) {
        self.lists.on_stored();
        self.slots.on_stored();
    }

    fn on_published(&mut self) {
        self.lists.on_published();
        self.slots.on_published();
    }
}

/// The results of a variant of an experiment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VariantOutcomes {
    /// None for products on which all variants agreed.
    pub variant: Option<VariantName>,
    /// Over whole lists: each list is one impression.
    pub lists: Outcomes,
    /// By slot.
    pub slots: BTreeMap<u64, Outcomes>,
}

/// The queries of `experiments`.
#[derive(Clone, Debug)]
pub struct Experiments {
    pub(crate) slot: Arc<Slot<()>>,
}

impl Experiments {
    /// The names of the experiments that lists of the tenant were served for.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn names(&self, tenant: &Tenant) -> Result<BTreeSet<ExperimentName>, QueryError> {
        let generation = self.slot.live()?;
        let rows: Result<Vec<(String,)>, _> =
            generation.db.all(Statement::new(NAMES).bind(tenant.as_str())).await;
        let rows = rows.map_err(|error| generation.query_error(Name::Experiments, error))?;
        Ok(rows.into_iter().filter_map(|(name,)| name.parse().ok()).collect())
    }

    /// The outcomes of an experiment of the tenant, by variant; none before its first list.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn outcomes(
        &self,
        tenant: &Tenant,
        experiment: &ExperimentName,
    ) -> Result<Vec<VariantOutcomes>, QueryError> {
        let generation = self.slot.live()?;
        let statement = Statement::new(SLOTS).bind(tenant.as_str()).bind(experiment.as_str());
        let rows: Result<Vec<(String, i64, String)>, _> = generation.db.all(statement).await;
        let rows = rows.map_err(|error| generation.query_error(Name::Experiments, error))?;
        let mut variants: BTreeMap<String, VariantOutcomes> = BTreeMap::new();
        for (text, slot, json) in rows {
            let outcomes: Outcomes = generation.parsed(parse_json(Name::Experiments, &json))?;
            let variant = text.parse().ok();
            let of =
                variants.entry(text).or_insert_with(|| VariantOutcomes { variant, ..Default::default() });
            match u64::try_from(slot) {
                Ok(slot) => drop(of.slots.insert(slot, outcomes)),
                Err(_) => of.lists = outcomes,
            }
        }
        Ok(variants.into_values().collect())
    }
}
