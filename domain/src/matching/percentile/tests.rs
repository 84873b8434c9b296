use proptest::prelude::*;

use super::*;

fn of(scores: &[f64]) -> Scores {
    let mut all = Scores::default();
    for score in scores {
        all.insert(Score::new(*score).unwrap());
    }
    all
}

/// The same scores as a job beyond [`PLAIN_MAX`] would hold them.
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
        Percentile::Undecided(undecided) => {
            let range = undecided.from..=undecided.to;
            let in_range: Vec<f64> = all.iter().copied().filter(|score| range.contains(score)).collect();
            Some(undecided.settle(&in_range).unwrap())
        }
    }
}

#[test]
fn without_scores_there_is_neither_a_mean_nor_a_percentile() {
    assert_eq!(Scores::default().mean(), None);
    assert_eq!(Scores::default().p90(), Percentile::None);
}

#[test]
fn a_number_is_rounded_half_away_from_zero_after_15_digits() {
    // 0.285 and 0.145 lie below and above as floats, but both are meant by their 15 digits.
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
fn two_scores_on_both_sides_of_a_rounding_edge_leave_a_large_job_undecided_until_they_are_read() {
    // All in one bucket of 1/65536, across 0.835.
    let scores: Vec<f64> = (0..1000).map(|n| 0.834_996 + f64::from(n) * 1e-8).collect();
    let large = bucketed(&scores);
    let Percentile::Undecided(undecided) = large.p90() else { panic!("{:?}", large.p90()) };
    assert_eq!(undecided.within, 1000);
    assert_eq!(undecided.settle(&scores), by_sorting(&scores));
    assert_eq!(undecided.settle(&scores[1..]), None, "read at another position");
}

#[test]
fn a_job_moves_to_buckets_beyond_the_limit_and_stays_exact() {
    let scores: Vec<f64> = (0..=PLAIN_MAX as u32).map(|n| f64::from(n * 7919 % 20_011) / 20_011.0).collect();
    let all = of(&scores);
    assert!(matches!(all.spread, Spread::Bucketed(_)));
    assert_eq!(all.count(), scores.len() as u64);
    assert_eq!(settled(&all, &scores), by_sorting(&scores));
}

/// What a real PostgreSQL answered: `fixtures/percentile/vectors.sql` made the scores and the answers.
#[test]
fn mean_and_percentile_equal_those_of_postgresql() {
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
    fn the_percentile_equals_that_of_the_sorted_scores(scores in prop::collection::vec(score(), 0..400)) {
        prop_assert_eq!(settled(&of(&scores), &scores), by_sorting(&scores));
        if !scores.is_empty() {
            prop_assert_eq!(settled(&bucketed(&scores), &scores), by_sorting(&scores));
        }
    }

    #[test]
    fn the_order_of_the_scores_never_matters(
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
    fn stored_scores_come_back_and_go_on_alike(scores in prop::collection::vec(score(), 1..200), more in score()) {
        for mut kept in [of(&scores), bucketed(&scores)] {
            let mut back: Scores = serde_json::from_slice(&serde_json::to_vec(&kept).unwrap()).unwrap();
            prop_assert_eq!(&back, &kept);
            kept.insert(Score::new(more).unwrap());
            back.insert(Score::new(more).unwrap());
            prop_assert_eq!(back, kept);
        }
    }
}
