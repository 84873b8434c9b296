//! How well vectors find pairs: the images of two folders with the same name show the same thing.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::descriptor::describe;
use crate::picture::{PictureError, decode};

#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}: {source}")]
    Picture { path: PathBuf, source: PictureError },
    #[error("{0}: the image is of one colour")]
    OneColour(PathBuf),
    #[error("there are no pairs; name the files of both folders")]
    Empty,
}

/// The pairs whose ranks count. The others are among the candidates, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    All,
    /// The first, the third and so on: on these the settings of the descriptor were chosen.
    Tuning,
    /// The second, the fourth and so on.
    Test,
}

impl Half {
    fn contains(self, index: usize) -> bool {
        match self {
            Self::All => true,
            Self::Tuning => index.is_multiple_of(2),
            Self::Test => !index.is_multiple_of(2),
        }
    }
}

/// The result of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Recall {
    /// The number of candidates of each image.
    pub candidates: usize,
    /// The number of images of the first folder that were searched for.
    pub queries: usize,
    /// The share of them whose pair is the most similar candidate.
    pub recall_at_1: f64,
    /// The share of them whose pair is among the ten most similar ones.
    pub recall_at_10: f64,
}

fn vectors(folder: &Path, names: &[String]) -> Result<Vec<Vec<f32>>, CompareError> {
    let vector = |name: &String| {
        let path = folder.join(name);
        let bytes =
            std::fs::read(&path).map_err(|source| CompareError::Read { path: path.clone(), source })?;
        let image = decode(&bytes).map_err(|source| CompareError::Picture { path: path.clone(), source })?;
        describe(&image).ok_or(CompareError::OneColour(path))
    };
    names.iter().map(vector).collect()
}

/// Searches the images of one folder among those of the other.
///
/// # Errors
/// [`CompareError`] for a file that has no vector.
pub fn compare(first: &Path, second: &Path, names: &[String], half: Half) -> Result<Recall, CompareError> {
    let (first, second) = (vectors(first, names)?, vectors(second, names)?);
    recall(&first, &second, half).ok_or(CompareError::Empty)
}

/// The recall of vectors, of which those with the same index are pairs; none without a pair.
fn recall(first: &[Vec<f32>], second: &[Vec<f32>], half: Half) -> Option<Recall> {
    let similarity =
        |one: &[f32], other: &[f32]| one.iter().zip(other).map(|(one, other)| one * other).sum::<f32>();
    let queries: Vec<usize> = (0..first.len()).filter(|index| half.contains(*index)).collect();
    let rank = |query: &usize| {
        let own = similarity(&first[*query], &second[*query]);
        second.iter().filter(|other| similarity(&first[*query], other) > own).count()
    };
    let ranks: Vec<usize> = queries.iter().map(rank).collect();
    let share =
        |within: usize| ranks.iter().filter(|rank| **rank < within).count() as f64 / ranks.len() as f64;
    (!ranks.is_empty()).then(|| Recall {
        candidates: second.len(),
        queries: ranks.len(),
        recall_at_1: share(1),
        recall_at_10: share(10),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recall_is_the_share_of_pairs_that_come_first() {
        let first = [vec![1.0, 0.0], vec![0.0, 1.0], vec![0.6, 0.8]];
        let second = [vec![1.0, 0.0], vec![0.8, 0.6], vec![0.6, 0.8]];
        let of = |half| recall(&first, &second, half).map(|recall| (recall.queries, recall.recall_at_1));
        assert_eq!(of(Half::All), Some((3, 2.0 / 3.0)));
        assert_eq!(of(Half::Tuning), Some((2, 1.0)));
        assert_eq!(of(Half::Test), Some((1, 0.0)));
        assert_eq!(recall(&[], &[], Half::All), None);
    }
}
