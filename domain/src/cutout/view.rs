//! A cutout as it is stored and answered: a fold of its events.

use event_schemas::cutout::{CutoutEvent, CutoutId};
use event_schemas::envelope::{Actor, Envelope};
use event_schemas::ids::{ModelId, Position, ProductId};
use event_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

/// All that is known of a cutout, except its vectors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cutout {
    pub cutout_id: CutoutId,
    pub image_url: String,
    pub predicted_upc: Option<String>,
    /// The model of its newest vector.
    pub model_id: Option<ModelId>,
    pub matched: Option<Match>,
    pub created_at: Timestamp,
    /// When its system last sent a change.
    pub synced_at: Timestamp,
    /// The position of its first event.
    pub created_position: Position,
    /// The position of the last event that changed it.
    pub position: Position,
}

/// The product that a cutout shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Match {
    pub product_id: ProductId,
    pub similarity: Option<f64>,
    /// The originator of the match.
    pub by: Actor,
    pub at: Timestamp,
}

impl Cutout {
    /// The cutout after an event; none if it never arrived.
    pub fn evolve(before: Option<Self>, envelope: &Envelope, event: &CutoutEvent) -> Option<Self> {
        let at = envelope.metadata.occurred_at;
        let position = envelope.position;
        let after = match (event, before) {
            (CutoutEvent::CutoutSynced(synced), before) => {
                let (image_url, predicted_upc) = (synced.image_url.clone(), synced.predicted_upc.clone());
                match before {
                    Some(before) => Self { image_url, predicted_upc, synced_at: at, ..before },
                    None => Self {
                        cutout_id: synced.cutout_id,
                        image_url,
                        predicted_upc,
                        model_id: None,
                        matched: None,
                        created_at: at,
                        synced_at: at,
                        created_position: position,
                        position,
                    },
                }
            }
            (CutoutEvent::CutoutEmbedded(embedded), before) => {
                Self { model_id: Some(embedded.model_id.clone()), ..before? }
            }
            (CutoutEvent::CutoutMatched(matched), before) => {
                let (product_id, similarity) = (matched.product_id.clone(), matched.similarity);
                let by = envelope.metadata.actor.clone();
                Self { matched: Some(Match { product_id, similarity, by, at }), ..before? }
            }
            (CutoutEvent::CutoutUnmatched(_), before) => Self { matched: None, ..before? },
        };
        Some(Self { position, ..after })
    }
}
