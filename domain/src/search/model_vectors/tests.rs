use std::cell::RefCell;

use super::*;
use crate::scenario::id;

/// A graph that knows the vectors up to a change, and finds the slots in any order, outdated ones too.
#[derive(Debug, Default)]
struct LaggingGraph {
    contained: u64,
    slots: Vec<u32>,
    asked: RefCell<Vec<usize>>,
}

impl VectorGraph for LaggingGraph {
    fn contained_changes(&self) -> u64 {
        self.contained
    }

    fn nearest(&self, _: &[f32], count: usize, admits: impl Fn(u32) -> bool) -> Vec<u32> {
        self.asked.borrow_mut().push(count);
        self.slots.iter().copied().filter(|slot| admits(*slot)).take(count).collect()
    }
}

fn set(products: &[u32]) -> NumberSet {
    products.iter().copied().collect()
}

fn scores(mut found: Vec<Scored>) -> Vec<(u32, f32)> {
    found.sort_by(|one, other| other.score.total_cmp(&one.score));
    found.into_iter().map(|product| (product.number, product.score)).collect()
}

#[test]
fn product_is_as_similar_as_its_best_vector() {
    let mut vectors = ModelVectors::new(2);
    vectors.set(3, None, &[5.0, 0.0]);
    vectors.set(3, Some(&id("front")), &[0.0, 0.5]);
    vectors.set(1, Some(&id("front")), &[0.6, 0.8]);
    assert_eq!(scores(vectors.compare(&[0.0, 1.0], &[0, 1, 2, 3, 9])), [(3, 1.0), (1, 0.8)]);
    vectors.set(3, Some(&id("front")), &[1.0, 0.0]);
    assert_eq!(scores(vectors.compare(&[0.0, 1.0], &[1, 3])), [(1, 0.8), (3, 0.0)]);
    assert_eq!((vectors.len(), vectors.count(&set(&[0, 1, 2, 3, 9]))), (3, 2));
}

#[test]
fn own_vector_represents_a_product_before_its_images() {
    let mut vectors = ModelVectors::new(2);
    assert_eq!(vectors.representative(0), None);
    vectors.set(0, Some(&id("b")), &[1.0, 0.0]);
    vectors.set(0, Some(&id("a")), &[0.0, 1.0]);
    let mean = vectors.representative(0).unwrap().into_owned();
    assert!((mean[0] - mean[1]).abs() < 1e-6 && (dot(&mean, &mean) - 1.0).abs() < 1e-6);
    vectors.set(0, None, &[3.0, 0.0]);
    assert_eq!(vectors.representative(0).unwrap().into_owned(), [1.0, 0.0]);
}

#[test]
fn vectors_that_no_command_records_are_ignored() {
    let mut vectors = ModelVectors::new(2);
    for wrong in [&[0.0, 0.0][..], &[f32::NAN, 1.0], &[1.0], &[f32::INFINITY, 0.0]] {
        vectors.set(0, None, wrong);
    }
    assert_eq!((vectors.len(), vectors.changes()), (0, 0));
}

#[test]
fn changes_are_listed_by_their_last_vector() {
    let mut vectors = ModelVectors::new(1);
    for product in [0, 1, 2, 0] {
        vectors.set(product, None, &[1.0]);
    }
    let after = |change, count| vectors.changed_after(change, count).collect::<Vec<_>>();
    assert_eq!(after(0, 9), [(2, 1), (3, 2), (4, 0)]);
    assert_eq!(after(0, 1), [(2, 1)]);
    assert_eq!(after(3, 9), [(4, 0)]);
    assert!(vectors.has_at_most_after(2, 2) && !vectors.has_at_most_after(2, 1));
    assert_eq!((vectors.count_after(2), vectors.present()), (2, 3));
}

#[test]
fn newer_vectors_than_those_of_the_graph_are_found() {
    let mut vectors = ModelVectors::new(2);
    for product in 0..4 {
        vectors.set(product, None, &[1.0, product as f32]);
    }
    // The graph contains three of the vectors; then one of them changes.
    let graph = LaggingGraph { contained: 3, slots: vec![0, 1, 2, 77], ..LaggingGraph::default() };
    vectors.set(0, None, &[0.0, 1.0]);
    let found = scores(vectors.nearest(&graph, &[0.0, 1.0], &set(&[0, 1, 2, 3]), 2).unwrap());
    assert_eq!(found.iter().filter(|(product, _)| *product == 0).collect::<Vec<_>>(), [&(0, 1.0)]);
    assert_eq!(found[1].0, 3);
    let without = scores(vectors.nearest(&graph, &[0.0, 1.0], &set(&[1, 2]), 2).unwrap());
    assert_eq!(without.into_iter().map(|(product, _)| product).collect::<Vec<_>>(), [2, 1]);
}

#[test]
fn graph_that_finds_too_few_is_not_believed() {
    let mut vectors = ModelVectors::new(1);
    for product in 0..4 {
        vectors.set(product, None, &[1.0]);
    }
    let graph = LaggingGraph { contained: 4, slots: vec![0, 1], ..LaggingGraph::default() };
    assert_eq!(vectors.nearest(&graph, &[1.0], &set(&[0, 1, 2, 3]), 3), None);
    assert_eq!(vectors.nearest(&graph, &[1.0], &set(&[0, 1, 9]), 3).unwrap().len(), 2);
}
