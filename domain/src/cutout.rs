//! A cutout: what its system says of it, its vectors, and the product that it shows.
//!
//! Invariants: an event is recorded only if something changes; a cutout shows at most one product, and is moved to another one
//! only if that is asked for.

pub mod index;
pub mod view;

use std::collections::BTreeMap;

use event_schemas::cutout::{
    CutoutEmbedded, CutoutEvent, CutoutId, CutoutMatched, CutoutSynced, CutoutUnmatched,
};
use event_schemas::ids::{ModelId, ProductId};
use event_schemas::time::Timestamp;
use event_schemas::vector::Vector;
use uuid::Uuid;

use crate::decider::{Decider, Occurred, RefusalKind, Refused};
use crate::product::{hash, is_address};

/// A command to a cutout, and its time.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    pub cutout_id: CutoutId,
    pub at: Timestamp,
    pub action: Action,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Take over what its system says of it.
    Sync(Facts),
    /// Set vectors; of two of a model, the last one counts. Their lengths were checked against their models.
    Embed(Vec<(ModelId, Vector)>),
    /// Record that it shows the product, which exists.
    Match {
        product_id: ProductId,
        similarity: Option<f64>,
        /// Whether it may be taken from another product.
        reassign: bool,
    },
    /// Record that it does not show the product.
    Unmatch { product_id: ProductId },
}

/// What the system of a cutout says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub image_url: String,
    pub predicted_upc: Option<String>,
}

impl Facts {
    /// Checks what the type of the facts does not say.
    ///
    /// # Errors
    /// The first wrong fact.
    pub fn check(&self) -> Result<(), Refusal> {
        if is_address(&self.image_url) { Ok(()) } else { Err(Refusal::Address) }
    }
}

/// The state of a cutout; without facts before it arrives.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    facts: Option<Facts>,
    product: Option<ProductId>,
    /// The hashes of the newest vectors: enough to recognise one that is sent again.
    vectors: BTreeMap<ModelId, Uuid>,
}

impl State {
    /// The current facts; none before it arrives.
    pub fn facts(&self) -> Option<&Facts> {
        self.facts.as_ref()
    }

    /// The product that it shows.
    pub fn product(&self) -> Option<&ProductId> {
        self.product.as_ref()
    }
}

/// The reason why a command is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("no such cutout")]
    Unknown,
    #[error("must be an address that starts with https:// or http://, or a path that starts with one /")]
    Address,
    #[error("the cutout {cutout_id} shows the product `{product_id}`; send `reassign` to move it")]
    OfAnother { cutout_id: CutoutId, product_id: ProductId },
    #[error("the cutout {0} does not show this product")]
    NotMatched(CutoutId),
}

impl Refused for Refusal {
    fn kind(&self) -> RefusalKind {
        match self {
            Self::Unknown => RefusalKind::NotFound,
            Self::Address => RefusalKind::Invalid,
            Self::OfAnother { .. } | Self::NotMatched(_) => RefusalKind::Conflict,
        }
    }
}

/// The approximate memory of a vector's model and hash.
const VECTOR_BYTES: usize = 120;

/// The events of those vectors that differ from the newest ones.
fn embed(command: &Command, vectors: &[(ModelId, Vector)], state: &State) -> Vec<Occurred<CutoutEvent>> {
    let last: BTreeMap<&ModelId, &Vector> = vectors.iter().map(|(model, vector)| (model, vector)).collect();
    let changed = last.into_iter().filter(|(model, vector)| state.vectors.get(model) != Some(&hash(vector)));
    let event = |(model, vector): (&ModelId, &Vector)| {
        let (cutout_id, model_id, vector) = (command.cutout_id, model.clone(), vector.clone());
        Occurred { at: command.at, event: CutoutEmbedded { cutout_id, model_id, vector }.into() }
    };
    changed.map(event).collect()
}

/// Decides for the streams `cutout-<tenant>.<id>`.
#[derive(Debug)]
pub enum CutoutDecider {}

impl Decider for CutoutDecider {
    type State = State;
    type Command = Command;
    type Event = CutoutEvent;
    type Refusal = Refusal;

    fn decide(command: &Command, state: &State) -> Result<Vec<Occurred<CutoutEvent>>, Refusal> {
        let cutout_id = command.cutout_id;
        if state.facts.is_none() && !matches!(command.action, Action::Sync(_)) {
            return Err(Refusal::Unknown);
        }
        let event: CutoutEvent = match &command.action {
            Action::Sync(facts) => {
                facts.check()?;
                if state.facts.as_ref() == Some(facts) {
                    return Ok(Vec::new());
                }
                let Facts { image_url, predicted_upc } = facts.clone();
                CutoutSynced { cutout_id, image_url, predicted_upc }.into()
            }
            Action::Embed(vectors) => return Ok(embed(command, vectors, state)),
            Action::Match { product_id, similarity, reassign } => {
                match &state.product {
                    Some(shown) if shown == product_id => return Ok(Vec::new()),
                    Some(shown) if !reassign => {
                        return Err(Refusal::OfAnother { cutout_id, product_id: shown.clone() });
                    }
                    _ => {}
                }
                CutoutMatched { cutout_id, product_id: product_id.clone(), similarity: *similarity }.into()
            }
            Action::Unmatch { product_id } => {
                if state.product.as_ref() != Some(product_id) {
                    return Err(Refusal::NotMatched(cutout_id));
                }
                CutoutUnmatched { cutout_id, product_id: product_id.clone() }.into()
            }
        };
        Ok(vec![Occurred { at: command.at, event }])
    }

    fn evolve(mut state: State, event: &CutoutEvent, _occurred_at: Timestamp) -> State {
        match event {
            CutoutEvent::CutoutSynced(synced) => {
                let (image_url, predicted_upc) = (synced.image_url.clone(), synced.predicted_upc.clone());
                state.facts = Some(Facts { image_url, predicted_upc });
            }
            CutoutEvent::CutoutEmbedded(embedded) => {
                state.vectors.insert(embedded.model_id.clone(), hash(&embedded.vector));
            }
            CutoutEvent::CutoutMatched(matched) => state.product = Some(matched.product_id.clone()),
            CutoutEvent::CutoutUnmatched(_) => state.product = None,
        }
        state
    }

    fn heap_bytes(state: &State, _event_bytes: usize) -> usize {
        let upc = |facts: &Facts| facts.predicted_upc.as_ref().map_or(0, String::len);
        state.facts().map_or(0, |facts| facts.image_url.len() + upc(facts))
            + state.vectors.len() * VECTOR_BYTES
    }
}

#[cfg(test)]
mod tests;
