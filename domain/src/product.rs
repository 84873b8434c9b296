//! A product of a catalogue: its facts are replaced as a whole, and it is never removed, only deactivated.
//!
//! Invariants: an event is recorded only if a fact changes; addresses can be shown by a browser.

pub mod popularity;
pub mod view;

use event_schemas::ids::ProductId;
use event_schemas::product::{ProductDeactivated, ProductDetails, ProductEvent, ProductUpserted};
use event_schemas::time::Timestamp;

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
}

/// The state of a product; empty before it is created.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State(Option<Box<ProductDetails>>);

impl State {
    /// The current facts; none before the product is created.
    pub fn details(&self) -> Option<&ProductDetails> {
        self.0.as_deref()
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
fn is_address(text: &str) -> bool {
    let is_plain = !text.chars().any(|letter| letter.is_control() || letter.is_whitespace());
    let start = text.get(..8).unwrap_or(text).to_ascii_lowercase();
    let is_absolute =
        ["https://", "http://"].iter().any(|scheme| start.starts_with(scheme) && text.len() > scheme.len());
    is_plain && (is_absolute || (text.starts_with('/') && !text.starts_with("//")))
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
        };
        Ok(vec![Occurred { at: command.at, event }])
    }

    fn evolve(state: State, event: &ProductEvent, _occurred_at: Timestamp) -> State {
        match event {
            ProductEvent::ProductUpserted(upserted) => State(Some(upserted.details.clone())),
            ProductEvent::ProductDeactivated(_) => State(state.0.map(|mut details| {
                details.is_active = false;
                details
            })),
        }
    }

    /// Only the latest facts are kept, of however many events.
    fn heap_bytes(state: &State, _event_bytes: usize) -> usize {
        state.details().map_or(0, view::heap_bytes)
    }
}

#[cfg(test)]
mod tests;
