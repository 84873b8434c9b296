//! The contract: every event that Matchbook has ever stored or will store, as one Rust type each.
//!
//! The types, the variant names and the field names here *are* the stored form. They are extended and never
//! changed: a committed fixture of every version (`fixtures/`) and a committed JSON Schema (`schemas/`) protect
//! them. Start reading at the table of categories below, then at [`envelope`] and one category such as [`job`].
//!
//! This crate has no I/O, no clock and no rules: it does not know how events are stored, decided, folded or
//! served.

pub mod catalogue;
pub mod challenge;
pub mod currency;
pub mod cutout;
pub mod decimal;
pub mod envelope;
pub mod export;
pub mod failure;
pub mod game_match;
pub mod idempotency_key;
pub mod ids;
pub mod image_match;
pub mod job;
pub mod json_text;
pub mod loose_id;
pub mod merchandising;
pub mod model;
pub mod player;
pub mod pool;
pub mod product;
pub mod rating;
mod registry;
pub mod sealed;
pub mod stream;
pub mod time;
pub mod user;
pub mod vector;
pub mod worker;

catalogue::categories! {
    // Names of planned categories, and names that other parts of the program use.
    reserved: "projection";
    // Category    stored name       events
    Job         = "job":             job::JobEvent,
    ImageMatch  = "matching":        image_match::ImageMatchEvent,
    Worker      = "worker":          worker::WorkerEvent,
    Player      = "player":          player::PlayerEvent,
    Pool        = "pool":            pool::PoolEvent,
    GameMatch   = "match_record":    game_match::GameMatchEvent,
    Challenge   = "challenge":       challenge::ChallengeEvent,
    Product     = "product":         product::ProductEvent,
    User        = "user":            user::UserEvent,
    Merchandising = "merchandising": merchandising::MerchandisingEvent,
    Model       = "model":           model::ModelEvent,
    Cutout      = "cutout":          cutout::CutoutEvent,
    IdempotencyKey = "idempotency_key": idempotency_key::IdempotencyKeyEvent,
}
