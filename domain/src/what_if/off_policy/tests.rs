use proptest::prelude::*;

use super::*;

/// A world in which the truth is known: users who differ, two products for each slot, and a served ranking that draws one.
struct World {
    slots: Vec<LoggedSlot>,
    /// The mean reward of a slot under the other ranking.
    truth: f64,
}

fn world(seed: u64, users: u32, slots_of_user: u32, base: f64) -> World {
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut slots, mut truth) = (Vec::new(), 0.0);
    for user in 0..users {
        // What a user likes is the same in all slots of the user.
        let liking = base * (0.5 + random.f64());
        for slot in 0..slots_of_user {
            let rates = [liking, liking * 2.0 / f64::from(slot + 1)];
            let propensities = [0.3 + 0.4 * random.f64(), 0.0];
            let propensities = [propensities[0], 1.0 - propensities[0]];
            let probabilities = [0.8, 0.2];
            let shown = usize::from(random.f64() >= propensities[0]);
            let reward = f64::from(u8::from(random.f64() < rates[shown]));
            // A model that errs.
            let expected = [base * 0.8, base * 1.5];
            truth += probabilities[0] * rates[0] + probabilities[1] * rates[1];
            slots.push(LoggedSlot {
                user,
                reward,
                propensity: propensities[shown],
                probability: probabilities[shown],
                expected: expected[shown],
                expected_of_other: probabilities[0] * expected[0] + probabilities[1] * expected[1],
            });
        }
    }
    World { truth: truth / slots.len() as f64, slots }
}

#[test]
fn intervals_hold_the_truth_in_90_of_100_worlds() {
    // From frequent rewards to rare ones, and few users to many.
    for (users, slots_of_user, base) in [(300, 5, 0.2), (60, 20, 0.1), (1000, 4, 0.01)] {
        let mut held = [0; 3];
        for seed in 0..100 {
            let World { slots, truth } = world(seed, users, slots_of_user, base);
            let evaluation = evaluate(&slots);
            let found = evaluation.estimates.unwrap_or_else(|| panic!("{evaluation:?}"));
            for (held, found) in held.iter_mut().zip([found.ips, found.snips, found.doubly_robust]) {
                *held += u32::from(found.low <= truth && truth <= found.high);
            }
        }
        assert!(held.iter().all(|held| *held >= 90), "{held:?} for {users} users with a rate of {base}");
    }
}

fn slot(user: u32, reward: f64, propensity: f64, probability: f64) -> LoggedSlot {
    LoggedSlot { user, reward, propensity, probability, expected: 0.0, expected_of_other: 0.0 }
}

#[test]
fn estimates_are_those_of_the_definitions() {
    let slots = [
        LoggedSlot { expected: 0.5, expected_of_other: 0.4, ..slot(1, 1.0, 0.5, 1.0) },
        LoggedSlot { expected: 0.2, expected_of_other: 0.3, ..slot(2, 0.0, 0.8, 0.4) },
    ];
    let found = estimates(&slots).unwrap();
    assert_eq!(found.ips.value, 1.0);
    assert_eq!(found.snips.value, 2.0 / 2.5);
    // (0.4 + 2 · 0.5 + 0.3 − 0.5 · 0.2) / 2
    assert!((found.doubly_robust.value - 0.8).abs() < 1e-12);
    assert_eq!(effective_sample_size(&slots), (2.5 * 2.5 / 4.25, 4.0 / 4.25));
}

#[test]
fn same_ranking_is_estimated_as_it_was_served() {
    let slots: Vec<_> =
        (0..400).map(|user| slot(user, f64::from(u8::from(user.is_multiple_of(8))), 1.0, 1.0)).collect();
    let evaluation = evaluate(&slots);
    let found = evaluation.estimates.unwrap();
    assert_eq!((evaluation.coverage, evaluation.effective_sample_size), (1.0, 400.0));
    assert_eq!(evaluation.served, Some(found.ips));
    assert_eq!(found.ips, found.snips);
}

#[test]
fn what_was_never_shown_cannot_be_told() {
    let shown = |user: u32| if user.is_multiple_of(10) { 0.0 } else { 1.0 };
    let slots: Vec<_> = (0..1000).map(|user| slot(user, f64::from(user % 2), 1.0, shown(user))).collect();
    let evaluation = evaluate(&slots);
    assert_eq!(evaluation.cannot_tell, Some(CannotTell::Coverage));
    assert_eq!((evaluation.coverage, evaluation.estimates), (0.9, None));
    assert!(evaluation.served.is_some());
}

#[test]
fn rare_choices_of_the_served_ranking_say_nothing() {
    let propensity = |user: u32| if user == 0 { 0.05 } else { 1.0 };
    let slots: Vec<_> =
        (0..1000).map(|user| slot(user, f64::from(user % 2), propensity(user), 1.0)).collect();
    assert_eq!(evaluate(&slots).cannot_tell, Some(CannotTell::Weights));
}

#[test]
fn few_users_few_weights_and_few_rewards_say_nothing() {
    let cases: [(Vec<LoggedSlot>, CannotTell); 4] = [
        (Vec::new(), CannotTell::SampleSize),
        ((0..1000).map(|number| slot(number % 29, 1.0, 1.0, 1.0)).collect(), CannotTell::SampleSize),
        ((0..99).map(|number| slot(number, 1.0, 1.0, 1.0)).collect(), CannotTell::SampleSize),
        (
            (0..1000).map(|number| slot(number, f64::from(u8::from(number < 4)), 1.0, 1.0)).collect(),
            CannotTell::Rewards,
        ),
    ];
    let unrewarded = evaluate(&(0..1000).map(|number| slot(number, 0.0, 1.0, 1.0)).collect::<Vec<_>>());
    let served = unrewarded.served.unwrap();
    assert!(served.low == 0.0 && served.high > 0.003, "{served:?}");
    for (slots, reason) in cases {
        assert_eq!(evaluate(&slots).cannot_tell, Some(reason), "{} slots", slots.len());
    }
}

proptest! {
    #[test]
    fn the_order_of_users_changes_only_the_last_bits(seed in 0_u64..1000) {
        let World { slots, .. } = world(seed, 40, 4, 0.2);
        let mut others = slots.clone();
        for slot in &mut others {
            slot.user = 39 - slot.user;
        }
        let (one, other) = (estimates(&slots).unwrap(), estimates(&others).unwrap());
        for (one, other) in [(one.ips, other.ips), (one.snips, other.snips), (one.doubly_robust, other.doubly_robust)] {
            prop_assert!((one.value - other.value).abs() < 1e-12 && (one.low - other.low).abs() < 1e-9);
        }
    }
}
