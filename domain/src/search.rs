//! Search over products: the pure parts that the search index, its rebuild and the API share.
//!
//! [`words`] turns texts into words, [`lexical`] finds products by words, [`encoder`] turns texts into vectors, which
//! [`compact_vectors`] compares; [`model_vectors`] has those of other models, and [`exact`] compares them. A search is first planned ([`plan`]), so that filters never cost results; [`ranking`] makes its two
//! rankings, [`fusion`] joins them, and [`page`] cuts them. Products have numbers here, in the order in
//! which they first came.

pub mod compact_vectors;
pub mod derived_vectors;
pub mod encoder;
pub mod exact;
pub mod filter;
pub mod fusion;
pub mod lexical;
pub mod model_vectors;
pub mod number_set;
pub mod page;
pub mod plan;
pub mod product_index;
pub mod question;
pub mod ranking;
pub mod words;

/// A text of a product, and how much a word in it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    pub text: &'a str,
    pub weight: u8,
}

/// A product that was found, and how well it fits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    pub number: u32,
    pub score: f32,
}
