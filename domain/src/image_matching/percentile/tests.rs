use proptest::prelude::*;

use super::*;

fn of(scores: &[f64]) -> Scores {
    let mut all = Scores::default();
    for score in scores {
        all.insert(Score::new(*score).unwrap());
    }
    all
}

/// The same scores in the form used beyond [`PLAIN_MAX`].
fn bucketed(scores: &[f64]) -> Scores {
    let mut all = of(scores);
    all.spread = Spread::Bucketed(Box::new(Buckets::of(scores)));
    all
}

fn by_sorting(scores: &[f64]) -> Option<f64> {
    let mut sorted = scores.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = 0.9 * (sorted.len().checked_sub(1)?) as f64;
    let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    Some(round_to_hundredths(low + (place - place.floor()) * (high - low)))
}

fn settled(scores: &Scores, all: &[f64]) -> Option<f64> {
    match scores.p90() {
        Percentile::None => None,
        Percentile::Known(p90) => Some(p90),
        Percentile::Ambiguous(ambiguous) => {
            let range = ambiguous.from..=ambiguous.to;
            let in_range: Vec<f64> = all.iter().copied().filter(|score| range.contains(score)).collect();
            Some(ambiguous.resolve(&in_range).unwrap())
        }
    }
}

#[test]
fn no_mean_or_percentile_without_scores() {
    assert_eq!(Scores::default().mean(), None);
    assert_eq!(Scores::default().p90(), Percentile::None);
}

#[test]
fn number_is_rounded_half_away_from_zero_after_15_digits() {
    // 0.285 and 0.145 are slightly off as floats, but are rounded by their 15 digits.
    for (x, rounded) in [
        (0.285, 0.29),
        (0.145, 0.15),
        (0.125, 0.13),
        (0.005, 0.01),
        (0.0049999, 0.0),
        (0.994, 0.99),
        (0.995, 1.0),
    ] {
        assert_eq!(round_to_hundredths(x), rounded, "{x}");
    }
    assert_eq!(round_to_hundredths(0.124_999_999_999_999_99), 0.13);
    assert_eq!(round_to_hundredths(0.0), 0.0);
    assert_eq!(round_to_hundredths(1e-300), 0.0);
}

#[test]
fn rounding_edge_is_ambiguous_until_the_scores_are_read() {
    // All in one bucket of 1/65536, around 0.835.
    let scores: Vec<f64> = (0..1000).map(|n| 0.834_996 + f64::from(n) * 1e-8).collect();
    let large = bucketed(&scores);
    let Percentile::Ambiguous(ambiguous) = large.p90() else { panic!("{:?}", large.p90()) };
    assert_eq!(ambiguous.within, 1000);
    assert_eq!(ambiguous.resolve(&scores), by_sorting(&scores));
    assert_eq!(ambiguous.resolve(&scores[1..]), None, "scores of another position");
}

#[test]
fn buckets_beyond_the_limit_stay_exact() {
    let scores: Vec<f64> = (0..=PLAIN_MAX as u32).map(|n| f64::from(n * 7919 % 20_011) / 20_011.0).collect();
    let all = of(&scores);
    assert!(matches!(all.spread, Spread::Bucketed(_)));
    assert_eq!(all.count(), scores.len() as u64);
    assert_eq!(settled(&all, &scores), by_sorting(&scores));
}

/// Results of a real PostgreSQL: `fixtures/percentile/vectors.sql` generated the scores and the results.
#[test]
fn mean_and_percentile_equal_postgresql() {
    #[derive(serde::Deserialize)]
    struct Vector {
        name: String,
        scores: Vec<f64>,
        mean: f64,
        p90: f64,
    }
    let lines = include_str!("../../../fixtures/percentile/vectors.ndjson").lines();
    let vectors: Vec<Vector> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(vectors.len() >= 100, "{}", vectors.len());
    for vector in vectors {
        for scores in [of(&vector.scores), bucketed(&vector.scores)] {
            assert_eq!(settled(&scores, &vector.scores), Some(vector.p90), "{}", vector.name);
            assert_eq!(scores.mean(), Some(vector.mean), "{}", vector.name);
        }
    }
}

fn score() -> impl Strategy<Value = f64> {
    prop_oneof![
        0.0..=1.0,
        (0_u32..=100).prop_map(|n| f64::from(n) / 100.0),
        (0_u32..=1000).prop_map(|n| f64::from(n) / 1000.0),
        (0.0_f32..=1.0).prop_map(f64::from),
        Just(0.0),
        Just(1.0),
        0.8349..0.8351,
    ]
}

proptest! {
    #[test]
    fn percentile_equals_that_of_the_sorted_scores(scores in prop::collection::vec(score(), 0..400)) {
        prop_assert_eq!(settled(&of(&scores), &scores), by_sorting(&scores));
        if !scores.is_empty() {
            prop_assert_eq!(settled(&bucketed(&scores), &scores), by_sorting(&scores));
        }
    }

    #[test]
    fn order_of_the_scores_does_not_matter(
        (scores, shuffled) in prop::collection::vec(score(), 0..200)
            .prop_flat_map(|scores| (Just(scores.clone()), Just(scores).prop_shuffle())),
    ) {
        prop_assert_eq!(
            serde_json::to_vec(&of(&scores)).unwrap(),
            serde_json::to_vec(&of(&shuffled)).unwrap()
        );
        prop_assert_eq!(of(&scores).mean(), of(&shuffled).mean());
    }

    #[test]
    fn stored_scores_round_trip_and_stay_equal(scores in prop::collection::vec(score(), 1..200), more in score()) {
        for mut original in [of(&scores), bucketed(&scores)] {
            let mut back: Scores = serde_json::from_slice(&serde_json::to_vec(&original).unwrap()).unwrap();
            prop_assert_eq!(&back, &original);
            original.insert(Score::new(more).unwrap());
            back.insert(Score::new(more).unwrap());
            prop_assert_eq!(back, original);
        }
    }
}
