//! Pages of an answer that never repeat and never skip a product, although products change between two pages.
//!
//! A continuation contains the products of all earlier pages. They are left out of the next page, whose products are the best
//! of the others: so no change of scores or ranks can show a product twice, or hide one. Products that came after the first
//! page are left out as well: they have higher numbers.

use std::collections::HashSet;

use super::Scored;

/// Where the next page starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Continuation {
    /// The number of results when the first page was made: that of all pages.
    pub total: u32,
    /// The number of products, active or not, when the first page was made.
    pub products: u32,
    /// The products of the pages so far.
    pub served: HashSet<u32>,
}

impl Continuation {
    /// After the first page, or after a further one.
    pub fn after(previous: Option<&Self>, total: u32, products: u32, page: &[Scored]) -> Self {
        let mut next = previous.cloned().unwrap_or_else(|| Self { total, products, served: HashSet::new() });
        next.served.extend(page.iter().map(|product| product.number));
        next
    }

    /// Whether the product may be on the next page.
    pub fn admits(&self, number: u32) -> bool {
        number < self.products && !self.served.contains(&number)
    }

    /// The bytes from which [`Self::from_bytes`] restores it: about one per served product.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut served: Vec<u32> = self.served.iter().copied().collect();
        served.sort_unstable();
        let mut bytes = Vec::with_capacity(16 + served.len());
        write(self.total, &mut bytes);
        write(self.products, &mut bytes);
        let mut previous = 0;
        for number in served {
            write(number - previous, &mut bytes);
            previous = number;
        }
        bytes
    }

    /// None if the bytes are not from [`Self::to_bytes`].
    pub fn from_bytes(mut bytes: &[u8]) -> Option<Self> {
        let (total, products) = (read(&mut bytes)?, read(&mut bytes)?);
        let mut served = HashSet::new();
        let mut number = 0_u32;
        while !bytes.is_empty() {
            number = number.checked_add(read(&mut bytes)?)?;
            served.insert(number);
        }
        Some(Self { total, products, served })
    }
}

/// One page of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    pub products: Vec<Scored>,
    /// The number of results on all pages.
    pub total: usize,
    /// None on the last page.
    pub next: Option<Continuation>,
}

impl Page {
    /// The page of `limit` results that follows `skipped` ones, or the earlier pages. The results are in order as far as the
    /// page needs them, and one further; `total` is their number, or that of all if they are only the first ones. There are
    /// `products`, active or not.
    pub fn new(
        results: &[Scored],
        total: usize,
        limit: usize,
        skipped: usize,
        earlier: Option<&Continuation>,
        products: usize,
    ) -> Self {
        let remaining: Vec<Scored> = match earlier {
            None => results.iter().skip(skipped).take(limit.saturating_add(1)).copied().collect(),
            Some(continuation) => {
                let remaining = results.iter().filter(|product| continuation.admits(product.number));
                remaining.take(limit.saturating_add(1)).copied().collect()
            }
        };
        let page = &remaining[..remaining.len().min(limit)];
        let total = earlier.map_or(total, |continuation| continuation.total as usize);
        let next = (remaining.len() > limit).then(|| {
            // The earlier pages of an offset are served as well.
            let served = if earlier.is_none() { &results[..skipped + page.len()] } else { page };
            Continuation::after(earlier, total as u32, products as u32, served)
        });
        Self { products: page.to_vec(), total, next }
    }
}

/// Writes seven bits per byte, the lowest first; the highest bit says that more follow.
fn write(mut value: u32, bytes: &mut Vec<u8>) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn read(bytes: &mut &[u8]) -> Option<u32> {
    let mut value = 0;
    for shift in (0..u32::BITS).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u32::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn continuation_survives_its_bytes(
            total in any::<u32>(),
            products in any::<u32>(),
            served in proptest::collection::hash_set(any::<u32>(), 0..50),
        ) {
            let continuation = Continuation { total, products, served };
            prop_assert_eq!(Continuation::from_bytes(&continuation.to_bytes()), Some(continuation));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = Continuation::from_bytes(&bytes);
        }
    }

    #[test]
    fn thousand_served_products_take_about_a_byte_each() {
        let served = (0..1_000).map(|n| n * 100).collect();
        assert!(Continuation { total: 100_000, products: 100_000, served }.to_bytes().len() < 1_010);
    }

    #[test]
    fn served_and_later_products_are_left_out() {
        let page = [Scored { number: 3, score: 1.0 }];
        let first = Continuation::after(None, 9, 10, &page);
        assert_eq!([3, 4, 9, 10].map(|number| first.admits(number)), [false, true, true, false]);
        let second = Continuation::after(Some(&first), 12, 13, &[Scored { number: 4, score: 0.5 }]);
        assert_eq!((second.total, second.products), (9, 10));
        assert!(!second.admits(3) && !second.admits(4));
    }
}
