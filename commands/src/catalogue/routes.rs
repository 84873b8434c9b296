//! The write routes of the catalogue. Each reads the caller and the body, executes one command or a batch of them, and
//! returns the resource, or an outcome for each item, with the position.

mod cutout;
mod embedding;
mod feedback;
mod merchandising;
mod model;
mod product;
mod product_match;

use std::sync::Arc;

use web::routes::RouteLimits;

use super::Catalogue;

pub use cutout::CutoutCommands;
pub use embedding::EmbeddingCommands;
pub use feedback::FeedbackCommands;
pub use merchandising::RuleCommands;
pub use model::ModelCommands;
pub(super) use model::NewModel;
pub use product::ProductCommands;
pub use product_match::ProductMatchCommands;

/// All write routes of the catalogue.
pub type Routes = (
    ProductCommands,
    EmbeddingCommands,
    ModelCommands,
    CutoutCommands,
    ProductMatchCommands,
    FeedbackCommands,
    RuleCommands,
);

/// The paths with limits of their own, because they accept batches.
pub(crate) const LIMITS: [(&str, RouteLimits); 5] = [
    ("/api/v1/cutouts", RouteLimits::Bulk),
    ("/api/v1/cutouts/embeddings/batch", RouteLimits::Bulk),
    ("/api/v1/products/batch", RouteLimits::Bulk),
    ("/api/v1/products/embeddings/batch", RouteLimits::Bulk),
    ("/api/v1/feedback/batch", RouteLimits::Bulk),
];

pub(crate) fn routes(catalogue: &Arc<Catalogue>) -> Routes {
    (
        ProductCommands(catalogue.clone()),
        EmbeddingCommands(catalogue.clone()),
        ModelCommands(catalogue.clone()),
        CutoutCommands(catalogue.clone()),
        ProductMatchCommands(catalogue.clone()),
        FeedbackCommands(catalogue.clone()),
        RuleCommands(catalogue.clone()),
    )
}
