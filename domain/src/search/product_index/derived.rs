//! The vectors of the server's own model, which an encoder outside of the core computes.

use event_schemas::ids::{ModelId, ProductId};

use super::super::derived_vectors::{DerivedVectors, PendingText, text};
use super::super::model_vectors::ModelVectors;
use super::ProductIndex;

impl ProductIndex {
    /// An empty index whose products get vectors of the server's model.
    pub fn with_model(model: ModelId, dimension: usize) -> Self {
        Self { derived: Some(DerivedVectors::new(model, dimension)), ..Self::default() }
    }

    pub fn derived(&self) -> Option<&DerivedVectors> {
        self.derived.as_ref()
    }

    /// The vectors of a model. Those that callers sent for the server's own model are not compared: nothing says that they
    /// were made from the same texts.
    pub fn model_vectors(&self, model: &ModelId) -> Option<&ModelVectors> {
        match &self.derived {
            Some(derived) if derived.model() == model => Some(derived.vectors()),
            _ => self.models.get(model),
        }
    }

    /// The models of which there can be vectors, with these.
    pub fn models(&self) -> impl Iterator<Item = (&ModelId, &ModelVectors)> {
        let derived = self.derived.as_ref();
        let sent =
            self.models.iter().filter(move |(model, _)| derived.is_none_or(|one| one.model() != *model));
        sent.chain(derived.map(|derived| (derived.model(), derived.vectors())))
    }

    /// Removes the vectors that callers sent for a model.
    pub fn delete_model(&mut self, model: &ModelId) {
        self.models.remove(model);
    }

    /// The text of a product for an encoder.
    pub fn text_to_encode(&self, id: &ProductId) -> Option<String> {
        self.number(id).map(|number| text(self.details(number)))
    }

    /// The first `count` products whose vectors have to be computed.
    pub fn pending_texts(&self, count: usize) -> Vec<PendingText> {
        let pending = self.derived.iter().flat_map(|derived| derived.first_pending(count));
        pending.map(|number| PendingText { number, text: text(self.details(number)) }).collect()
    }

    /// Sets the vector of a text; none if it has none. It is ignored if the product has another text by now.
    pub fn set_derived(&mut self, of: &PendingText, vector: Option<&[f32]>) {
        let is_current = self.active.contains(of.number) && text(self.details(of.number)) == of.text;
        if let (true, Some(derived)) = (is_current, &mut self.derived) {
            derived.set(of.number, vector);
        }
    }
}

#[cfg(test)]
mod tests;
