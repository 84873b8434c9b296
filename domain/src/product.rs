//! A product of a catalogue: its facts are replaced as a whole, and it is never removed, only deactivated.
//!
//! Invariants: an event is recorded only if a fact or a vector changes; addresses can be shown by a browser.

pub mod popularity;
pub mod view;

use std::collections::BTreeMap;

use event_schemas::ids::{ImageId, ModelId, ProductId};
use event_schemas::product::{
    ProductDeactivated, ProductDetails, ProductEmbedded, ProductEvent, ProductUpserted,
};
use event_schemas::time::Timestamp;
use event_schemas::vector::Vector;
use uuid::Uuid;

use crate::decider::{Decider, Occurred, RefusalKind, Refused};

/// A command to a product, and its time.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    pub product_id: ProductId,
    pub at: Timestamp,
    pub action: Action,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Replace all facts; a product that does not exist is created.
    Upsert(Box<ProductDetails>),
    Deactivate,
    /// Set vectors; of two for the same place, the last one counts. Their lengths were checked against their models.
    Embed(Vec<(Place, Vector)>),
}

/// What a vector is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub model_id: ModelId,
    /// The image; the product as a whole if absent.
    pub image_id: Option<ImageId>,
}

/// The state of a product; empty before it is created.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    details: Option<Box<ProductDetails>>,
    /// The hashes of the newest vectors: enough to recognise one that is sent again.
    vectors: BTreeMap<Place, Uuid>,
}

/// The approximate memory of a vector's place and hash.
const PLACE_BYTES: usize = 160;

pub(crate) fn hash(vector: &Vector) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, &vector.to_bytes())
}

impl State {
    /// The current facts; none before the product is created.
    pub fn details(&self) -> Option<&ProductDetails> {
        self.details.as_deref()
    }
}

/// The reason why a command is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("no such product")]
    Unknown,
    #[error("{0} must be an address that starts with https:// or http://, or a path that starts with one /")]
    Address(&'static str),
}

impl Refusal {
    /// The member of the request that it is about.
    pub fn field(&self) -> Option<&'static str> {
        match self {
            Self::Unknown => None,
            Self::Address(field) => Some(field),
        }
    }
}

impl Refused for Refusal {
    fn kind(&self) -> RefusalKind {
        match self {
            Self::Unknown => RefusalKind::NotFound,
            Self::Address(_) => RefusalKind::Invalid,
        }
    }
}

/// Checks what the type of the facts does not say.
///
/// # Errors
/// The first wrong fact.
pub fn check(details: &ProductDetails) -> Result<(), Refusal> {
    let addresses = [
        ("image_url", &details.image_url),
        ("merchant_image_url", &details.merchant_image_url),
        ("aw_image_url", &details.aw_image_url),
        ("large_image", &details.large_image),
        ("product_url", &details.product_url),
    ];
    let wrong =
        addresses.iter().find(|(_, address)| address.as_ref().is_some_and(|address| !is_address(address)));
    match wrong {
        Some((field, _)) => Err(Refusal::Address(field)),
        None if details.images.iter().all(|image| is_address(image)) => Ok(()),
        None => Err(Refusal::Address("images")),
    }
}

/// Whether a page may show the address: no other scheme, such as `javascript:`, and no text after a space.
pub(crate) fn is_address(text: &str) -> bool {
    let is_plain = !text.chars().any(|letter| letter.is_control() || letter.is_whitespace());
    let start = text.get(..8).unwrap_or(text).to_ascii_lowercase();
    let is_absolute =
        ["https://", "http://"].iter().any(|scheme| start.starts_with(scheme) && text.len() > scheme.len());
    is_plain && (is_absolute || (text.starts_with('/') && !text.starts_with("//")))
}

/// The events of those vectors that differ from the newest ones.
fn embed(
    command: &Command,
    vectors: &[(Place, Vector)],
    state: &State,
) -> Result<Vec<Occurred<ProductEvent>>, Refusal> {
    if state.details.is_none() {
        return Err(Refusal::Unknown);
    }
    let last: BTreeMap<&Place, &Vector> = vectors.iter().map(|(place, vector)| (place, vector)).collect();
    let changed = last.into_iter().filter(|(place, vector)| state.vectors.get(place) != Some(&hash(vector)));
    let event = |(place, vector): (&Place, &Vector)| {
        let embedded = ProductEmbedded {
            product_id: command.product_id.clone(),
            model_id: place.model_id.clone(),
            image_id: place.image_id.clone(),
            vector: vector.clone(),
        };
        Occurred { at: command.at, event: embedded.into() }
    };
    Ok(changed.map(event).collect())
}

/// Decides for the streams `product-<tenant>.<id>`.
#[derive(Debug)]
pub enum ProductDecider {}

impl Decider for ProductDecider {
    type State = State;
    type Command = Command;
    type Event = ProductEvent;
    type Refusal = Refusal;

    fn decide(command: &Command, state: &State) -> Result<Vec<Occurred<ProductEvent>>, Refusal> {
        let product_id = command.product_id.clone();
        let event: ProductEvent = match (&command.action, state.details()) {
            (Action::Upsert(details), known) => {
                check(details)?;
                if known == Some(details) {
                    return Ok(Vec::new());
                }
                ProductUpserted { product_id, details: details.clone() }.into()
            }
            (Action::Deactivate, None) => return Err(Refusal::Unknown),
            (Action::Deactivate, Some(known)) if !known.is_active => return Ok(Vec::new()),
            (Action::Deactivate, Some(_)) => ProductDeactivated { product_id }.into(),
            (Action::Embed(vectors), _) => return embed(command, vectors, state),
        };
        Ok(vec![Occurred { at: command.at, event }])
    }

    fn evolve(mut state: State, event: &ProductEvent, _occurred_at: Timestamp) -> State {
        match event {
            ProductEvent::ProductUpserted(upserted) => state.details = Some(upserted.details.clone()),
            ProductEvent::ProductDeactivated(_) => {
                if let Some(details) = &mut state.details {
                    details.is_active = false;
                }
            }
            ProductEvent::ProductEmbedded(embedded) => {
                let (model_id, image_id) = (embedded.model_id.clone(), embedded.image_id.clone());
                state.vectors.insert(Place { model_id, image_id }, hash(&embedded.vector));
            }
        }
        state
    }

    /// Only the latest facts are kept, of however many events.
    fn heap_bytes(state: &State, _event_bytes: usize) -> usize {
        state.details().map_or(0, view::heap_bytes) + state.vectors.len() * PLACE_BYTES
    }
}

#[cfg(test)]
mod tests;
