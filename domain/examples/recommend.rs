//! Recommends products from events that it reads from its input, one JSON object per line. `tests/recommend.sh` measures its
//! lists on real ratings.
//!
//! - `{"name": "Heat", "category": "Crime", "product": "7"}` adds a product;
//! - `{"user": 3, "product": "7", "type": "purchase", "at": 1000000}` adds an interaction, with its time in microseconds, and a
//!   `value` if it is a rating;
//! - `{"recommend": {"user": 3, "at": 2000000, "limit": 10}}` prints the products of a list, as `["7"]`; with `blend`,
//!   `collaborative`, `context`, `about` (a product) or `category` if it is not the feed with default weights;
//! - `{"settings": {"window": 50}}` before everything else sets how co-visits count.
#![expect(clippy::disallowed_macros, reason = "it prints its answers")]

use std::error::Error;

use domain::recommend::co_visits::Settings;
use domain::recommend::settings;
use domain::recommend::sources::ListSources;
use domain::recommend::{Blend, Request, Weights};
use domain::search::filter::Filter;
use event_schemas::ids::{ProductCategoryId, ProductId, SubjectId};
use event_schemas::product::ProductUpserted;
use event_schemas::time::Timestamp;
use event_schemas::user::{InteractionRecorded, InteractionType, ListContext};
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

#[derive(Deserialize)]
#[serde(default)]
struct SettingsLine {
    window: usize,
    half_life: u32,
    backward: f64,
    steps_max: usize,
    visited_max: usize,
    visited_half_life: u32,
}

impl Default for SettingsLine {
    fn default() -> Self {
        let Settings { window, half_life, backward, steps_max, visited_max, visited_half_life } =
            Settings::default();
        Self { window, half_life, backward, steps_max, visited_max, visited_half_life }
    }
}

impl From<SettingsLine> for Settings {
    fn from(line: SettingsLine) -> Self {
        let SettingsLine { window, half_life, backward, steps_max, visited_max, visited_half_life } = line;
        Self { window, half_life, backward, steps_max, visited_max, visited_half_life }
    }
}

#[derive(Deserialize)]
struct ListLine {
    user: Option<u64>,
    at: i64,
    limit: usize,
    #[serde(default)]
    blend: Blend,
    collaborative: Option<f32>,
    context: Option<ListContext>,
    about: Option<ProductId>,
    category: Option<ProductCategoryId>,
}

impl From<ListLine> for Request {
    fn from(line: ListLine) -> Self {
        let context = line.context.unwrap_or(ListContext::Feed);
        let weights = Weights::of(context);
        let collaborative = line.collaborative.unwrap_or(weights.collaborative);
        Self {
            subject: line.user.map(|user| SubjectId(Uuid::from_u128(u128::from(user)))),
            product_id: line.about,
            filter: Filter { category_id: line.category, ..Filter::default() },
            blend: line.blend,
            weights: Some(Weights { collaborative, ..weights }),
            ..Self::new(context, line.limit)
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Settings {
        settings: SettingsLine,
    },
    Recommend {
        recommend: ListLine,
    },
    Interaction {
        user: u64,
        product: ProductId,
        #[serde(rename = "type")]
        kind: InteractionType,
        value: Option<f64>,
        at: i64,
    },
    Product {
        product: ProductId,
        name: String,
        category: Option<String>,
    },
}

fn of_co_visits(co_visits: Settings) -> settings::Settings {
    settings::Settings { co_visits, ..settings::Settings::default() }
}

fn product(product_id: ProductId, name: &str, category: Option<&str>) -> serde_json::Result<ProductUpserted> {
    let details = json!({"name": name, "category_id": category, "category_name": category, "in_stock": true,
        "is_active": true});
    Ok(ProductUpserted { product_id, details: serde_json::from_value(details)? })
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut sources = ListSources::default();
    for line in std::io::stdin().lines() {
        match serde_json::from_str(&line?)? {
            Line::Settings { settings } => sources = ListSources::new(of_co_visits(settings.into())),
            Line::Product { product: id, name, category } => {
                sources.apply_product(&product(id, &name, category.as_deref())?.into());
            }
            Line::Interaction { user, product, kind, value, at } => {
                let event = InteractionRecorded {
                    subject_id: SubjectId(Uuid::from_u128(u128::from(user))),
                    product_id: product,
                    interaction_type: kind,
                    value,
                    context: None,
                    list_id: None,
                    slot: None,
                    session_id: None,
                };
                sources.apply_user(&event.into(), Timestamp::from_micros(at));
            }
            Line::Recommend { recommend } => {
                let now = Timestamp::from_micros(recommend.at);
                let list = sources.recommend(&recommend.into(), now)?;
                let ids: Vec<ProductId> = list.items.into_iter().map(|item| item.product_id).collect();
                println!("{}", serde_json::to_string(&ids)?);
            }
        }
    }
    Ok(())
}
