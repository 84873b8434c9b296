//! Everything that the lists of a tenant are made from.

use event_schemas::cutout::CutoutEvent;
use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::ProductId;
use event_schemas::merchandising::MerchandisingEvent;
use event_schemas::model::ModelEvent;
use event_schemas::product::ProductEvent;
use event_schemas::time::Timestamp;
use event_schemas::user::UserEvent;

use super::settings::Settings;
use super::signals::Signals;
use crate::cutout::index::CutoutIndex;
use crate::decider::Decider;
use crate::merchandising::{self, MerchandisingDecider};
use crate::model::{self, ModelDecider};
use crate::search::product_index::ProductIndex;

/// The fold of a tenant's products, rules and users, and of its models and cutouts. Live lists, those as of an earlier position and
/// the explanation of a served one use the same fold.
#[derive(Debug)]
pub struct ListSources {
    pub products: ProductIndex,
    pub signals: Signals,
    /// The candidates of products.
    pub cutouts: CutoutIndex,
    rules: merchandising::State,
    models: model::State,
    /// The number in `products` of each product of `signals`, if the catalogue has it.
    catalogue: Vec<Option<u32>>,
    /// The number in `signals` of each product of `products`.
    of_signals: Vec<u32>,
    product_changes: u64,
    changes: u64,
}

impl Default for ListSources {
    fn default() -> Self {
        Self::new(Settings::default())
    }
}

impl ListSources {
    pub fn new(settings: Settings) -> Self {
        Self {
            products: ProductIndex::default(),
            signals: Signals::new(settings),
            cutouts: CutoutIndex::default(),
            rules: merchandising::State::default(),
            models: model::State::default(),
            catalogue: Vec::new(),
            of_signals: Vec::new(),
            product_changes: 0,
            changes: 0,
        }
    }

    /// The number of changes that the answer to a search is made from: while it is the same, so is the answer.
    pub fn product_changes(&self) -> u64 {
        self.product_changes
    }

    /// The number of all changes: while it is the same, so is the list of a request for an instant.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Applies the next event of any stream of the tenant; ignores other categories.
    pub fn apply(&mut self, envelope: &Envelope) {
        let at = envelope.metadata.occurred_at;
        match &envelope.event {
            Event::Product(event) => self.apply_product(event),
            Event::User(event) => self.apply_user(event, at),
            Event::Merchandising(event) => self.apply_rules(event, at),
            Event::Model(event) => self.apply_model(event, at),
            Event::Cutout(event) => self.apply_cutout(event),
            _ => {}
        }
    }

    pub fn apply_product(&mut self, event: &ProductEvent) {
        // The vector was on its way when its model was deleted.
        if let ProductEvent::ProductEmbedded(embedded) = event
            && self.models.is_deleted(&embedded.model_id)
        {
            return;
        }
        self.products.apply(event);
        self.product_changes += 1;
        self.changes += 1;
        let id = event.product_id();
        let Some(number) = self.products.number(id) else { return };
        let of_signals = self.signals.number_or_new(id);
        if self.catalogue.len() <= of_signals as usize {
            self.catalogue.resize(of_signals as usize + 1, None);
        }
        self.catalogue[of_signals as usize] = Some(number);
        if self.of_signals.len() <= number as usize {
            self.of_signals.push(of_signals);
        }
    }

    /// Applies an event of a user. After the one that erases the user, every list is that of a fold that never saw them.
    pub fn apply_user(&mut self, event: &UserEvent, occurred_at: Timestamp) {
        self.signals.apply(event, occurred_at);
        self.changes += 1;
    }

    pub fn apply_rules(&mut self, event: &MerchandisingEvent, occurred_at: Timestamp) {
        let rules = std::mem::take(&mut self.rules);
        self.rules = MerchandisingDecider::evolve(rules, event, occurred_at);
        self.changes += 1;
    }

    pub fn apply_model(&mut self, event: &ModelEvent, occurred_at: Timestamp) {
        let models = std::mem::take(&mut self.models);
        self.models = ModelDecider::evolve(models, event, occurred_at);
        if let ModelEvent::EmbeddingModelDeleted(deleted) = event {
            self.products.delete_model(&deleted.model_id);
            self.cutouts.delete_model(&deleted.model_id);
            self.product_changes += 1;
            self.changes += 1;
        }
    }

    pub fn apply_cutout(&mut self, event: &CutoutEvent) {
        match event {
            CutoutEvent::CutoutEmbedded(embedded) if self.models.is_deleted(&embedded.model_id) => {}
            _ => self.cutouts.apply(event),
        }
    }

    pub fn models(&self) -> &model::State {
        &self.models
    }

    pub fn rules(&self) -> &merchandising::State {
        &self.rules
    }

    /// The number in the catalogue of a product of the signals.
    pub(super) fn in_catalogue(&self, of_signals: u32) -> Option<u32> {
        self.catalogue.get(of_signals as usize).copied().flatten()
    }

    /// The number in the signals of a product of the catalogue.
    pub(super) fn in_signals(&self, number: u32) -> u32 {
        self.of_signals[number as usize]
    }

    /// The number in the catalogue of a product, if it was ever there.
    pub(super) fn number(&self, id: &ProductId) -> Option<u32> {
        self.products.number(id)
    }
}
