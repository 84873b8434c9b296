//! The items that an extraction has still to do: a function of the products, cutouts and vectors that exist.

use std::collections::BTreeSet;

use event_schemas::cutout::CutoutId;
use event_schemas::ids::{ImageId, ModelId, ProductId};
use event_schemas::product::ProductDetails;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::TargetType;
use crate::product::view::image_url;
use crate::recommend::sources::ListSources;

/// The namespace of the ids of images.
const IMAGES: Uuid = Uuid::from_u128(0x0d5c_6a1b_9be4_4d0e_8f27_3a90_c1e7_52b6);

/// The most products or cutouts that one page looks at.
const LOOKED_AT_MAX: usize = 100_000;

/// An image of which a vector is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    Cutout(CutoutId),
    ProductImage { product_id: ProductId, image_id: ImageId, image_url: String },
}

/// The place behind an item, in the order in which products and cutouts came: what comes later is behind every earlier place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// The number of the cutout or product.
    number: u32,
    /// The number of images of it that are before this place.
    images: u32,
}

/// The items that are asked for.
#[derive(Clone, Debug)]
pub struct ItemsQuery {
    pub target: TargetType,
    pub model_id: ModelId,
    /// Only these products; all active ones if it is empty.
    pub product_ids: Vec<ProductId>,
    /// Whether images that have a vector of the model are left out.
    pub only_missing: bool,
    pub after: Place,
    pub limit: usize,
}

/// A page of items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Items {
    /// In order, each with the place behind it.
    pub items: Vec<(Item, Place)>,
    /// The place at which the next page starts; none on the last page.
    pub next: Option<Place>,
}

/// The id of the image at an address: another image has another id, so a product whose image changes has one to embed.
pub fn image_id(url: &str) -> ImageId {
    let id = Uuid::new_v5(&IMAGES, url.as_bytes()).simple().to_string();
    id.parse().expect("32 hexadecimal digits are a text id")
}

/// The addresses of a product's images, each once, the main one first.
fn image_urls(details: &ProductDetails) -> Vec<&str> {
    let mut urls: Vec<&str> = Vec::new();
    for url in image_url(details).into_iter().chain(details.images.iter().map(String::as_str)) {
        if !urls.contains(&url) {
            urls.push(url);
        }
    }
    urls
}

/// The items after a place, at most `limit`. A page can have fewer items than that, and not be the last one.
pub fn items(sources: &ListSources, query: &ItemsQuery) -> Items {
    let until = match query.target {
        TargetType::Cutouts => sources.cutouts.len(),
        TargetType::Products => sources.products.known(),
    };
    let until = u32::try_from(until).unwrap_or(u32::MAX);
    let named: BTreeSet<u32> =
        query.product_ids.iter().filter_map(|id| sources.products.number(id)).collect();
    let mut found = Items { items: Vec::new(), next: None };
    let first = query.after.number;
    let looked_at: Box<[u32]> = match (query.target, query.product_ids.is_empty()) {
        (TargetType::Products, false) => named.range(first..).copied().take(LOOKED_AT_MAX).collect(),
        _ => (first..until).take(LOOKED_AT_MAX).collect(),
    };
    for number in looked_at.iter().copied() {
        let start = Place { number, images: 0 }.max(query.after);
        match query.target {
            TargetType::Cutouts => push_cutout(sources, query, number, &mut found.items),
            TargetType::Products => push_images(sources, query, start, &mut found.items),
        }
        if found.items.len() > query.limit {
            found.items.truncate(query.limit);
            found.next = found.items.last().map(|(_, place)| *place);
            return found;
        }
    }
    let behind = looked_at.last().map(|last| Place { number: last + 1, images: 0 });
    found.next = behind.filter(|_| looked_at.len() == LOOKED_AT_MAX);
    found
}

fn push_cutout(sources: &ListSources, query: &ItemsQuery, number: u32, items: &mut Vec<(Item, Place)>) {
    let vectors = sources.cutouts.model_vectors(&query.model_id);
    let is_done = query.only_missing && vectors.is_some_and(|vectors| vectors.contains(number));
    if let Some(id) = sources.cutouts.id(number).filter(|_| !is_done) {
        items.push((Item::Cutout(id), Place { number: number + 1, images: 0 }));
    }
}

fn push_images(sources: &ListSources, query: &ItemsQuery, start: Place, items: &mut Vec<(Item, Place)>) {
    let (id, details) = (sources.products.id(start.number), sources.products.details(start.number));
    if !details.is_active {
        return;
    }
    let vectors = sources.products.model_vectors(&query.model_id);
    for (index, url) in (0_u32..).zip(image_urls(details)).skip(start.images as usize) {
        let image_id = image_id(url);
        let is_done = vectors.is_some_and(|vectors| vectors.contains_image(start.number, &image_id));
        if !(query.only_missing && is_done) {
            let (product_id, image_url) = (id.clone(), url.to_owned());
            let place = Place { number: start.number, images: index + 1 };
            items.push((Item::ProductImage { product_id, image_id, image_url }, place));
        }
    }
}

/// The number of items after a place. It looks at every product or cutout, in about 100 ns each.
pub fn count(sources: &ListSources, query: &ItemsQuery) -> u64 {
    let mut query = ItemsQuery { limit: LOOKED_AT_MAX, ..query.clone() };
    let mut count = 0;
    loop {
        let page = items(sources, &query);
        count += page.items.len() as u64;
        match page.next {
            Some(next) => query.after = next,
            None => return count,
        }
    }
}
