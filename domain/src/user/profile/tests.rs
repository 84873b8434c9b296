use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::scenario::{at, id};
use event_schemas::ids::SubjectId;

fn interaction(kind: InteractionType, value: Option<f64>) -> InteractionRecorded {
    InteractionRecorded {
        subject_id: SubjectId(Uuid::from_u128(1)),
        product_id: id("1"),
        interaction_type: kind,
        value,
        context: None,
        list_id: None,
        slot: None,
        session_id: None,
    }
}

fn affinity(interactions: &[(InteractionType, f64)]) -> Affinity {
    let mut affinity = Affinity::none(id("1"), at(interactions[0].1));
    for (kind, seconds) in interactions {
        affinity.add(&interaction(*kind, None), at(*seconds), Some(1), &Interactions::default());
    }
    affinity
}

#[test]
fn weights_are_the_documented_ones() {
    use InteractionType as Kind;
    for (kind, value, expected) in [
        (Kind::View, None, 0.1),
        (Kind::Click, None, 0.3),
        (Kind::AddToCart, None, 0.6),
        (Kind::Purchase, Some(89.95), 1.0),
        (Kind::Like, None, 0.5),
        (Kind::Share, None, 0.7),
        (Kind::Rating, Some(1.0), -0.8),
        (Kind::Rating, Some(2.0), -0.4),
        (Kind::Rating, Some(3.0), 0.0),
        (Kind::Rating, Some(4.0), 0.4),
        (Kind::Rating, Some(5.0), 0.8),
    ] {
        assert_eq!(
            Interactions::default().weight(kind, value),
            (expected * UNIT as f64).round() as i64,
            "{kind:?} {value:?}"
        );
    }
}

#[test]
fn session_weight_halves_in_the_time_of_its_type() {
    use InteractionType as Kind;
    let kinds = [
        (Kind::View, 5),
        (Kind::Click, 10),
        (Kind::Like, 20),
        (Kind::AddToCart, 30),
        (Kind::Share, 30),
        (Kind::Purchase, 60),
    ];
    for (kind, minutes) in kinds {
        let affinity = affinity(&[(kind, 0.0)]);
        let whole = affinity.in_session(at(0.0), &Interactions::default());
        assert_eq!(whole, Interactions::default().weight(kind, None));
        assert_eq!(
            affinity.in_session(at(f64::from(minutes) * 60.0), &Interactions::default()),
            whole / 2,
            "{kind:?}"
        );
    }
    let both = affinity(&[(Kind::View, 0.0), (Kind::Purchase, 0.0)]);
    assert_eq!(both.in_session(at(3600.0), &Interactions::default()), UNIT / 2 + UNIT / 10 / 4096);
}

#[test]
fn session_ends_after_an_hour_without_interactions() {
    let kind = InteractionType::View;
    let mut activity = Activity::new(kind, at(0.0));
    assert!(activity.add(kind, at(3600.0)));
    assert_eq!((activity.session.number, activity.session.interactions), (1, 2));
    assert!(activity.session.is_active(at(7200.0)) && !activity.session.is_active(at(7200.1)));
    assert!(activity.add(kind, at(7200.1)));
    assert_eq!(
        activity.session,
        Session { number: 2, started_at: at(7200.1), last_at: at(7200.1), interactions: 1 }
    );
    assert!(!activity.add(kind, at(1.0)), "a late report of an earlier session");
    assert_eq!((activity.session.number, activity.total()), (2, 4));
}

#[test]
fn new_session_forgets_the_weights_of_the_last() {
    let mut affinity = affinity(&[(InteractionType::Purchase, 0.0)]);
    affinity.add(&interaction(InteractionType::View, None), at(9000.0), Some(2), &Interactions::default());
    assert_eq!(affinity.in_session(at(9000.0), &Interactions::default()), UNIT / 10);
    assert!(affinity.long_term(at(9000.0)) > UNIT);
    assert_eq!((affinity.interactions, affinity.purchases), (2, 1));
}

proptest! {
    #[test]
    fn decay_is_that_of_the_formula(amount in -100 * UNIT..100 * UNIT, seconds in 0.0..500_000.0_f64) {
        let passed = Duration::from_secs_f64(seconds);
        let half_life = Duration::from_secs(7_000);
        let expected = amount as f64 * (-seconds / 7_000.0).exp2();
        let actual = decayed(amount, passed, half_life) as f64;
        // Sixteen bits of the fraction of a half-life are used.
        prop_assert!((actual - expected).abs() <= expected.abs() * 3e-5 + 2.0, "{actual} {expected}");
    }

    #[test]
    fn rank_orders_sums_as_at_any_instant(
        a in (1..100 * UNIT, 0.0..1e6_f64), b in (1..100 * UNIT, 0.0..1e6_f64), later in 0.0..1e6_f64,
    ) {
        let half_life = Duration::from_secs(100_000);
        let [first, second] = [a, b].map(|(amount, seconds)| DecayingSum::new(amount, at(seconds)));
        let now = at(1e6 + later);
        let (one, two) = (first.at(now, half_life), second.at(now, half_life));
        // Equal but for what the rounding of the decay may change.
        if (one - two).abs() as f64 > one.max(two) as f64 * 1e-4 + 4.0 {
            prop_assert_eq!(one > two, first.rank(half_life) > second.rank(half_life));
        }
    }

    #[test]
    fn stored_profile_continues_with_the_same_bits(
        kinds in proptest::collection::vec((0_usize..7, 0.0..20_000.0_f64, 1_u8..=5), 1..40), cut in 0_usize..40,
    ) {
        use InteractionType as Kind;
        const KINDS: [Kind; 7] =
            [Kind::View, Kind::Click, Kind::AddToCart, Kind::Purchase, Kind::Like, Kind::Share, Kind::Rating];
        let fold = |restart: Option<usize>| {
            let (_, first, _) = kinds[0];
            let mut activity: Option<Activity> = None;
            let mut affinity = Affinity::none(id("1"), at(first));
            for (index, (kind, seconds, stars)) in kinds.iter().enumerate() {
                let (kind, at) = (KINDS[*kind], at(*seconds));
                if restart == Some(index) {
                    let text = serde_json::to_string(&(&activity, &affinity)).unwrap();
                    (activity, affinity) = serde_json::from_str(&text).unwrap();
                }
                let belongs = match &mut activity {
                    Some(activity) => activity.add(kind, at),
                    None => {
                        activity = Some(Activity::new(kind, at));
                        true
                    }
                };
                let session = activity.as_ref().map(|activity| activity.session.number).filter(|_| belongs);
                let value = (kind == Kind::Rating).then_some(f64::from(*stars));
                affinity.add(&interaction(kind, value), at, session, &Interactions::default());
            }
            (activity, affinity)
        };
        prop_assert_eq!(fold(None), fold(Some(cut)));
    }
}
