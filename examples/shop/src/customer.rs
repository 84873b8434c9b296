//! What customers like. The same seed makes the same customers.

use fastrand::Rng;

use crate::catalogue::{Product, products};
use crate::kind::{Interest, KINDS};

/// A prime number, so that the draws of neighbouring customers have nothing in common.
const STRIDE: u64 = 0x9E37_79B9_7F4A_7C15;
/// The interests of customers, from the most common one.
const INTERESTS: &[Interest] =
    &[Interest::City, Interest::Kitchen, Interest::Running, Interest::Office, Interest::Hiking];
/// The number of products among which a customer chooses one.
const CHOICE: usize = 5;

/// The products, and who buys them.
#[derive(Debug)]
pub struct Shop {
    seed: u64,
    products: Vec<Product>,
    /// The places of the products of each kind, the most popular first.
    by_kind: Vec<Vec<usize>>,
}

impl Shop {
    pub fn new(seed: u64, number: usize) -> Self {
        let products = products(seed, number);
        let mut by_kind = vec![Vec::new(); KINDS.len()];
        for (place, product) in products.iter().enumerate() {
            by_kind[product.kind].push(place);
        }
        Self { seed, products, by_kind }
    }

    pub fn seed(&self) -> u64 {
        self.seed
    }

    pub fn products(&self) -> &[Product] {
        &self.products
    }

    pub fn product(&self, id: u64) -> Option<&Product> {
        self.products.get(usize::try_from(id.checked_sub(1)?).ok()?)
    }

    /// The customer with a number, from 1.
    pub fn customer(&self, number: usize) -> Customer {
        let mut random = Rng::with_seed(self.seed ^ (number as u64).wrapping_mul(STRIDE));
        let first = random.usize(..INTERESTS.len()).min(random.usize(..INTERESTS.len()));
        let second = if random.f64() < 0.4 { random.usize(..INTERESTS.len()) } else { first };
        let interests = [INTERESTS[first], INTERESTS[second]];
        let is_liked = |kind: &usize| KINDS[*kind].interests.iter().any(|of| interests.contains(of));
        let mut kinds: Vec<usize> = (0..KINDS.len()).filter(is_liked).collect();
        random.shuffle(&mut kinds);
        kinds.truncate(random.usize(2..=4));
        let brands = KINDS[kinds[0]].brands;
        Customer {
            id: user_id(number),
            kinds,
            brand: brands[random.usize(..brands.len())],
            price_level: (random.f64() + random.f64()) / 2.0,
            random,
        }
    }
}

/// The user id of the customer with a number.
pub fn user_id(number: usize) -> String {
    format!("customer-{number:04}")
}

/// A customer, with the draws of what they do.
#[derive(Debug)]
pub struct Customer {
    pub id: String,
    /// The kinds that they look for.
    pub kinds: Vec<usize>,
    brand: &'static str,
    price_level: f64,
    pub random: Rng,
}

impl Customer {
    /// How much they like a product, from 0 to 1.
    pub fn liking(&self, product: &Product) -> f64 {
        let kind = if self.kinds.contains(&product.kind) { 0.7 } else { 0.08 };
        let brand = if product.brand == self.brand { 1.4 } else { 1.0 };
        let stock = if product.in_stock { 1.0 } else { 0.3 };
        kind * brand * stock * (1.0 - (product.price_level - self.price_level).abs())
    }

    /// The product that they look at next.
    pub fn choose<'a>(&mut self, shop: &'a Shop) -> &'a Product {
        let is_usual = self.random.f64() < 0.9;
        let kind = if is_usual {
            self.kinds[self.random.usize(..self.kinds.len())]
        } else {
            self.random.usize(..KINDS.len())
        };
        let of_kind = &shop.by_kind[kind];
        let mut best = None;
        for _ in 0..CHOICE {
            // Few products are seen by most customers.
            let place = (of_kind.len() as f64 * self.random.f64().powi(3)) as usize;
            // A small catalogue may have no product of the kind.
            let product = of_kind.get(place).map_or(&shop.products[0], |place| &shop.products[*place]);
            let liking = self.liking(product);
            if best.is_none_or(|(other, _)| liking > other) {
                best = Some((liking, product));
            }
        }
        best.map_or(&shop.products[0], |(_, product)| product)
    }
}
