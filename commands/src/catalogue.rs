//! The commands of the catalogue: products, cutouts and their vectors, embedding models, the feedback of users on products, the
//! lists that users get, and the merchandising rules of lists.
//!
//! Each product, each cutout and each user is a stream of its own, so a batch is one command for each of its streams: [`batches`]
//! executes them. Start reading at the [`routes`].

mod batches;
pub(crate) mod cutouts;
mod lists;
pub(crate) mod models;
pub mod routes;

use std::sync::Arc;

use domain::cutout::CutoutDecider;
use domain::merchandising::MerchandisingDecider;
use domain::model::ModelDecider;
use domain::product::ProductDecider;
use domain::user::UserDecider;

use crate::engine::Engine;
use crate::engine::execute::Streams;

/// The write side of the catalogue.
#[derive(Debug)]
pub struct Catalogue {
    engine: Arc<Engine>,
    products: Streams<ProductDecider>,
    cutouts: Streams<CutoutDecider>,
    pub(crate) models: Streams<ModelDecider>,
    users: Streams<UserDecider>,
    rules: Streams<MerchandisingDecider>,
}

impl Catalogue {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self {
            products: engine.streams(),
            cutouts: engine.streams(),
            models: engine.streams(),
            users: engine.streams(),
            rules: engine.streams(),
            engine,
        }
    }
}
