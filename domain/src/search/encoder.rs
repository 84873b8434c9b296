//! The built-in encoder of texts: a vector from the words of a text and their parts, which needs no trained model.
//!
//! Texts with common words, or with common parts of words, have similar vectors; it knows no synonyms. The vectors of a
//! product and of a query are comparable only while both are made by the same function, so a change of it needs a new name
//! in [`MODEL`].

use super::Field;
use super::words::words;

/// The model that such vectors belong to.
pub const MODEL: &str = "lexical";
/// The length of a vector.
pub const DIMENSION: usize = 384;

/// The lengths of the parts of a word.
const PARTS: std::ops::RangeInclusive<usize> = 3..=5;
/// How much the parts of a word count together, beside the word itself.
const PARTS_WEIGHT: f32 = 1.0;
/// How much two neighbouring words count.
const PAIR_WEIGHT: f32 = 0.5;

/// The vector of a text, of length 1, or None if it contains no word.
pub fn encode(fields: &[Field<'_>]) -> Option<Vec<f32>> {
    let mut sum = vec![0.0; DIMENSION];
    for field in fields {
        // Each field counts by its weight, however long it is.
        if let Some(vector) = normalised(field_vector(field.text)) {
            for (sum, value) in sum.iter_mut().zip(vector) {
                *sum += f32::from(field.weight) * value;
            }
        }
    }
    normalised(sum)
}

fn field_vector(text: &str) -> Vec<f32> {
    let words = words(text);
    // A feature is its hash, so that no text is copied.
    let mut features: Vec<(u64, f32)> = Vec::new();
    for word in &words {
        features.push((hash(b'w', [word.as_str()]), 1.0));
        let marked = format!("<{word}>");
        let starts: Vec<usize> = marked.char_indices().map(|(at, _)| at).chain([marked.len()]).collect();
        let parts = || PARTS.flat_map(|length| starts.windows(length + 1));
        let weight = PARTS_WEIGHT / (parts().count() as f32).sqrt();
        features.extend(parts().map(|part| (hash(b'p', [&marked[part[0]..part[part.len() - 1]]]), weight)));
    }
    features
        .extend(words.windows(2).map(|pair| (hash(b'b', [pair[0].as_str(), " ", &pair[1]]), PAIR_WEIGHT)));
    // In one order, so that equal texts have equal sums.
    features.sort_unstable_by(|one, other| one.0.cmp(&other.0).then(one.1.total_cmp(&other.1)));
    let mut vector = vec![0.0; DIMENSION];
    for feature in features.chunk_by(|one, other| one.0 == other.0) {
        let (hash, weight) = (feature[0].0, feature.iter().map(|(_, weight)| weight).sum::<f32>());
        // The square root keeps a word that is repeated from hiding the others. Two places, so that two features that
        // share one still differ.
        for half in [hash as u32, (hash >> 32) as u32] {
            let sign = if half >> 31 == 0 { 1.0 } else { -1.0 };
            vector[half as usize % DIMENSION] += sign * weight.sqrt();
        }
    }
    vector
}

/// FNV-1a, with the bits mixed at the end: the same on every machine and in every version.
fn hash<const N: usize>(kind: u8, texts: [&str; N]) -> u64 {
    let bytes = std::iter::once(kind).chain(texts.into_iter().flat_map(str::bytes));
    let mut hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// The vector with length 1; None for one without a direction.
pub fn normalised(mut vector: Vec<f32>) -> Option<Vec<f32>> {
    // In f64, so that the squares of large values are finite.
    let length = vector.iter().map(|value| f64::from(*value) * f64::from(*value)).sum::<f64>().sqrt();
    if !length.is_finite() || length == 0.0 {
        return None;
    }
    for value in &mut vector {
        *value = (f64::from(*value) / length) as f32;
    }
    Some(vector)
}

#[cfg(test)]
mod tests {
    use super::super::exact::dot;
    use super::*;

    fn text(text: &str) -> Vec<f32> {
        encode(&[Field { text, weight: 1 }]).unwrap()
    }

    #[test]
    fn similar_texts_have_similar_vectors() {
        let query = text("red running shoes");
        let similarity = |other: &str| dot(&query, &text(other));
        assert!(similarity("Red Running Shoes") > 0.999);
        let ordered =
            ["red running shoes for women", "runing shoe red", "trail runner", "wireless headphones"];
        let similarities = ordered.map(similarity);
        assert!(similarities.is_sorted_by(|one, other| one > other), "{similarities:?}");
        assert!(similarities[3].abs() < 0.2, "{similarities:?}");
    }

    #[test]
    fn field_of_a_higher_weight_counts_more() {
        let product =
            |name, text| encode(&[Field { text: name, weight: 3 }, Field { text, weight: 1 }]).unwrap();
        let query = text("kettle");
        let (named, described) = (product("kettle", "blender"), product("blender", "kettle"));
        assert!(dot(&query, &named) > dot(&query, &described) + 0.2);
    }

    #[test]
    fn text_without_words_has_no_vector() {
        assert_eq!(encode(&[Field { text: "?! \u{1F600}", weight: 1 }]), None);
        assert_eq!(encode(&[]), None);
    }

    /// Stored vectors must stay comparable with those of later versions.
    #[test]
    fn vector_of_a_text_never_changes() {
        let bits: Vec<String> =
            text("Sony WH-1000XM4").iter().map(|value| format!("{:x}", value.to_bits())).collect();
        assert_eq!(hash(0, [bits.concat().as_str()]), 10_200_543_156_741_257_586);
    }

    #[test]
    fn zero_and_infinite_vectors_have_no_direction() {
        assert_eq!(normalised(vec![0.0; 3]), None);
        assert_eq!(normalised(vec![f32::NAN, 1.0]), None);
        assert_eq!(normalised(vec![f32::INFINITY, 1.0]), None);
        assert_eq!(normalised(vec![3e38, 0.0]), Some(vec![1.0, 0.0]));
    }
}
