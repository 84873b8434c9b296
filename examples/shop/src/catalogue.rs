//! The products of the shop. The same seed makes the same products.

use std::collections::HashMap;

use fastrand::Rng;
use serde_json::{Value, json};

use crate::kind::{KINDS, Kind};

/// The series that names of products have, which repeat with a number.
const SERIES: &[&str] = &[
    "Ridge", "Harbour", "Lynx", "Ember", "Solstice", "Meridian", "Wren", "Copse", "Basalt", "Juniper",
    "Fjord", "Piper", "Quarry", "Rowan", "Sable", "Tundra", "Umber", "Vesper", "Willow", "Zephyr", "Anvil",
    "Birch", "Cairn", "Delta", "Echo", "Flint", "Grove", "Heron", "Isle", "Jasper", "Kite", "Loam", "Mesa",
    "Nimbus", "Orchard", "Pebble", "Quill", "Reef",
];

/// The colours, each of which the pictures have.
const COLOURS: &[&str] =
    &["black", "grey", "white", "red", "orange", "yellow", "green", "blue", "purple", "brown"];

const MERCHANTS: &[&str] = &["Bergland", "Kontor", "Morgenrot", "Papaya Market", "Zum Anker"];

/// The most variants of a product.
const VARIANTS_MAX: usize = 4;

/// A product, as far as customers choose by it.
#[derive(Clone, Debug)]
pub struct Product {
    pub id: u64,
    /// The number of its kind.
    pub kind: usize,
    pub brand: &'static str,
    /// From 0, the cheapest of its kind, to 1.
    pub price_level: f64,
    pub in_stock: bool,
    /// The product as the API takes it.
    pub facts: Value,
}

/// Makes so many products: the same number of each kind, in families of variants in different colours.
pub fn products(seed: u64, number: usize) -> Vec<Product> {
    let mut random = Rng::with_seed(seed);
    let mut products = Vec::with_capacity(number);
    let mut names: HashMap<(&str, &str, &str), u32> = HashMap::new();
    let mut family = 0;
    while products.len() < number {
        // Kinds take turns, so that each first part of the catalogue has all of them.
        let kind = family % KINDS.len();
        let variants = random.usize(1..=VARIANTS_MAX).min(number - products.len());
        let template = Family::new(&mut random, kind, &mut names);
        let mut colours = COLOURS.to_vec();
        random.shuffle(&mut colours);
        for colour in colours.iter().take(variants) {
            let id = products.len() as u64 + 1;
            products.push(template.variant(&mut random, id, family, colour, variants > 1));
        }
        family += 1;
    }
    products
}

/// What the variants of a product share.
struct Family {
    kind: usize,
    brand: &'static str,
    name: String,
    description: String,
    quality: &'static str,
    material: &'static str,
    purpose: &'static str,
    price: f64,
    price_level: f64,
    rating: f64,
    merchant: usize,
}

fn one<T: Copy>(random: &mut Rng, values: &[T]) -> T {
    values[random.usize(..values.len())]
}

impl Family {
    fn new<'a>(random: &mut Rng, kind: usize, names: &mut HashMap<(&'a str, &'a str, &'a str), u32>) -> Self {
        let of: &Kind = &KINDS[kind];
        let (brand, series) = (one(random, of.brands), one(random, SERIES));
        let (quality, material) = (one(random, of.qualities), one(random, of.materials));
        let purpose = one(random, of.uses);
        let mut features = of.features.to_vec();
        random.shuffle(&mut features);
        // Later models of a series have a number.
        let model = names.entry((brand, series, of.id)).or_default();
        *model += 1;
        let model = if *model > 1 { format!(" {model}") } else { String::new() };
        let price_level = (random.f64() + random.f64()) / 2.0;
        let (low, high) = of.prices;
        // Most products are in the lower part of the range.
        let price = (low * (high / low).powf(price_level)).round() - 0.05;
        Self {
            kind,
            brand,
            name: format!("{brand} {series}{model} {quality} {}", of.noun),
            description: format!(
                "Made for {purpose}, of {material}. With {} and {}.",
                features[0], features[1]
            ),
            quality,
            material,
            purpose,
            price,
            price_level,
            rating: (3.1 + 1.8 * random.f64().sqrt()).min(4.9),
            merchant: random.usize(..MERCHANTS.len()),
        }
    }

    fn variant(&self, random: &mut Rng, id: u64, family: usize, colour: &str, has_others: bool) -> Product {
        let kind = &KINDS[self.kind];
        let in_stock = random.f64() < 0.92;
        let stock = if in_stock { random.u32(1..120) } else { 0 };
        let reviews = (2_000.0 * random.f64().powi(6)) as u64;
        let mut facts = json!({
            "id": id,
            "name": format!("{}, {colour}", self.name),
            "description": self.description,
            "price": self.price,
            "currency": "EUR",
            "image_url": format!("/console/products.svg#{}-{colour}", kind.id),
            "merchant_id": self.merchant + 1,
            "merchant_name": MERCHANTS[self.merchant],
            "brand_id": slug(self.brand),
            "brand_name": self.brand,
            "category_id": kind.id,
            "category_name": kind.category,
            "stock_quantity": stock,
            "colour": colour,
            "upc": format!("40{id:011}"),
            "attributes": {
                "material": self.material, "type": self.quality, "made_for": self.purpose, "weight_g": random.u32(40..2_400),
            },
        });
        if reviews > 0 {
            facts["average_rating"] = ((self.rating * 10.0).round() / 10.0).into();
            facts["reviews"] = reviews.into();
        }
        if random.f64() < 0.25 {
            facts["rrp_price"] = ((self.price * (1.1 + 0.3 * random.f64())).round() - 0.05).into();
        }
        if has_others {
            facts["family_id"] = format!("family-{family}").into();
        }
        if !kind.sizes.is_empty() {
            facts["fashion_category"] = kind.category.into();
            let first = random.usize(..kind.sizes.len() - 2);
            facts["attributes"]["sizes"] = json!(kind.sizes[first..]);
        }
        Product { id, kind: self.kind, brand: self.brand, price_level: self.price_level, in_stock, facts }
    }
}

/// The lower-case letters and digits of a name, joined by hyphens.
fn slug(name: &str) -> String {
    let words = name.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn same_seed_makes_the_same_products() {
        let facts = |seed| products(seed, 500).into_iter().map(|product| product.facts).collect::<Vec<_>>();
        assert_eq!(facts(7), facts(7));
        assert_ne!(facts(7), facts(8));
    }

    #[test]
    fn names_are_unique_and_every_category_has_products() {
        let products = products(1, 10_000);
        let names: HashSet<&str> =
            products.iter().filter_map(|product| product.facts["name"].as_str()).collect();
        assert_eq!((products.len(), names.len()), (10_000, 10_000));
        for (number, kind) in KINDS.iter().enumerate() {
            let of_kind = products.iter().filter(|product| product.kind == number).count();
            assert!((400..600).contains(&of_kind), "{}: {of_kind}", kind.id);
        }
    }

    #[test]
    fn variants_of_a_family_differ_in_colour_only() {
        let products = products(1, 1_000);
        let first = products.iter().find(|product| product.facts["family_id"].is_string()).unwrap();
        let family: Vec<_> = products
            .iter()
            .filter(|product| product.facts["family_id"] == first.facts["family_id"])
            .collect();
        assert!(family.len() > 1);
        assert!(family.iter().all(|product| product.facts["price"] == first.facts["price"]));
        let colours: HashSet<_> = family.iter().map(|product| product.facts["colour"].to_string()).collect();
        assert_eq!(colours.len(), family.len());
    }
}
