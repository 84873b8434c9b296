use std::time::Duration;

use event_schemas::pool::{PoolSettings, WindowPolicy};
use proptest::prelude::*;
use uuid::Uuid;

use super::explanation::explain;
use super::meeting::{Bar, Behind, may_meet, meeting};
use super::pass::Pass;
use super::timer::next_meeting;
use super::*;
use crate::pool::DEFAULTS;
use crate::rating::unproven;
use crate::scenario::at;

mod folds;
mod line;
mod pieces;
mod reaching;
mod timers;

fn player(n: u128) -> SubjectId {
    SubjectId(Uuid::from_u128(n))
}

/// Entry `n` of player `n`, who came at this second.
fn waiting(n: u128, second: f64, rating: u16) -> Waiting {
    let rating = Rating::new(rating).unwrap();
    Waiting {
        entry_id: EntryId(Uuid::from_u128(n)),
        player: player(n),
        queued_at: at(second),
        eligible_at: at(second),
        expires_at: at(second + 600.0),
        rating,
        skill: unproven(rating),
        max_rating_gap: None,
        last_opponent: None,
        side_balance: 0,
        round: 0,
        turn: EventId(Uuid::from_u128(0xf000 + n)),
    }
}

fn in_line(mut line: Vec<Waiting>) -> Vec<Waiting> {
    line.sort_by_key(Waiting::place);
    line
}

/// Who meets whom, by the numbers of their entries; the one who picked first.
fn pairs(line: &[Waiting], settings: &PoolSettings, blocks: &Blocks, second: f64) -> Vec<(u128, u128)> {
    let pairs = Pass::new(line, settings, blocks, at(second)).finish();
    let number = |waiting: &Waiting| waiting.entry_id.0.as_u128();
    pairs.iter().map(|pair| (number(pair.seed), number(pair.partner))).collect()
}

fn default_pairs(line: Vec<Waiting>, second: f64) -> Vec<(u128, u128)> {
    pairs(&in_line(line), &DEFAULTS, &Blocks::default(), second)
}

fn meet(a: &Waiting, b: &Waiting) -> Result<f64, Bar> {
    meeting(a, b, &DEFAULTS, &Blocks::default()).map(|meeting| meeting.at.seconds_since(Timestamp::EPOCH))
}

#[test]
fn two_within_100_points_meet_at_once_and_farther_ones_when_the_window_of_the_longer_waiting_reaches_them() {
    let first = waiting(1, 0.0, 1500);
    for (rating, second) in
        [(1600, 5.0), (1601, 10.0), (1400, 5.0), (1399, 10.0), (1650, 20.0), (2500, 360.0)]
    {
        assert_eq!(meet(&first, &waiting(2, 5.0, rating)), Ok(second), "{rating}");
    }
    assert_eq!(meet(&first, &waiting(2, 5.0, 2501)), Err(Bar::Window));
}

#[test]
fn nobody_meets_before_the_later_of_them_is_there() {
    assert_eq!(meet(&waiting(1, 0.0, 1500), &waiting(2, 90.0, 1700)), Ok(90.0));
}

#[test]
fn with_both_windows_the_later_ones_must_have_widened_too() {
    let (first, second) = (waiting(1, 0.0, 1500), waiting(2, 5.0, 1650));
    let both = PoolSettings { window_policy: WindowPolicy::Both, ..DEFAULTS };
    let blocks = Blocks::default();
    assert_eq!(meeting(&first, &second, &both, &blocks).unwrap().at, at(25.0));
    assert_eq!(meeting(&first, &second, &DEFAULTS, &blocks).unwrap().at, at(20.0));
}

#[test]
fn the_same_player_a_blocked_one_and_one_beyond_eithers_own_gap_never_meet() {
    let (a, b) = (waiting(1, 0.0, 1500), waiting(2, 0.0, 1550));
    assert_eq!(meet(&a, &Waiting { player: a.player, ..b.clone() }), Err(Bar::SamePlayer));
    let mut blocks = Blocks::default();
    blocks.add(a.player, b.player);
    assert_eq!(meeting(&a, &b, &DEFAULTS, &blocks), Err(Bar::Blocked));
    assert_eq!(meeting(&b, &a, &DEFAULTS, &blocks), Err(Bar::Blocked));
    blocks.remove(a.player, b.player);
    assert!(meeting(&a, &b, &DEFAULTS, &blocks).is_ok());
    let shy = Waiting { max_rating_gap: Some(49), ..a.clone() };
    assert_eq!((meet(&shy, &b), meet(&b, &shy)), (Err(Bar::Gap), Err(Bar::Gap)));
    assert_eq!(meet(&Waiting { max_rating_gap: Some(50), ..a }, &b), Ok(0.0));
}

#[test]
fn those_who_met_last_meet_again_after_60_seconds() {
    let a = Waiting { last_opponent: Some(player(2)), ..waiting(1, 0.0, 1500) };
    let b = waiting(2, 7.0, 1500);
    let found = meeting(&a, &b, &DEFAULTS, &Blocks::default()).unwrap();
    assert_eq!((found.at, found.behind), (at(60.0), Behind::Rematch));
    assert_eq!(meet(&b, &a), Ok(60.0), "whoever remembers");
    assert_eq!(default_pairs(vec![a.clone(), b.clone()], 59.9), []);
    assert_eq!(default_pairs(vec![a, b], 60.0), [(1, 2)]);
}

#[test]
fn an_entry_for_which_a_game_could_not_be_made_is_held_back_and_one_whose_time_is_over_is_not_matched() {
    let a = Waiting { eligible_at: at(9.0), ..waiting(1, 0.0, 1500) };
    let b = waiting(2, 0.0, 1500);
    assert_eq!(meet(&a, &b), Ok(9.0));
    assert_eq!(default_pairs(vec![a, b.clone()], 8.9), []);
    let ends = Waiting { expires_at: at(5.0), ..waiting(1, 0.0, 1500) };
    assert_eq!(default_pairs(vec![ends.clone(), b.clone()], 5.0), []);
    assert_eq!(default_pairs(vec![ends.clone(), b], 4.9), [(1, 2)]);
    assert_eq!(meet(&ends, &waiting(3, 0.0, 1601)), Err(Bar::Expiry));
}

#[test]
fn the_longest_waiting_picks_first_and_takes_the_nearest() {
    let line =
        vec![waiting(1, 0.0, 1500), waiting(2, 1.0, 1560), waiting(3, 2.0, 1540), waiting(4, 3.0, 1600)];
    assert_eq!(default_pairs(line, 3.0), [(1, 3), (2, 4)]);
}

#[test]
fn between_equals_in_distance_the_longest_waiting_is_taken_and_then_the_lower_id() {
    let line = vec![waiting(1, 0.0, 1500), waiting(2, 2.0, 1510), waiting(3, 1.0, 1490)];
    assert_eq!(default_pairs(line, 3.0), [(1, 3)]);
    let line = vec![waiting(1, 0.0, 1500), waiting(5, 1.0, 1510), waiting(4, 1.0, 1490)];
    assert_eq!(default_pairs(line, 3.0), [(1, 4)]);
    let line = vec![waiting(2, 0.0, 1500), waiting(1, 0.0, 1500), waiting(3, 0.0, 1500)];
    assert_eq!(default_pairs(line, 0.0), [(1, 2)], "who came at once picks by id");
}

#[test]
fn a_pass_in_steps_decides_as_one_at_once() {
    let line: Vec<Waiting> = (0..50).map(|n| waiting(n, n as f64, 1000 + (n * 37 % 500) as u16)).collect();
    let blocks = Blocks::default();
    let mut pass = Pass::new(&line, &DEFAULTS, &blocks, at(60.0));
    let mut stepped = Vec::new();
    while !pass.is_done() {
        stepped.extend(pass.step(3));
    }
    assert_eq!(stepped, Pass::new(&line, &DEFAULTS, &blocks, at(60.0)).finish());
}

#[test]
fn an_explanation_counts_everyone_once_and_says_when_to_hope() {
    let mut blocks = Blocks::default();
    blocks.add(player(4), player(1));
    let of = Waiting { last_opponent: Some(player(5)), ..waiting(1, 5.0, 1500) };
    let line = vec![
        of.clone(),
        waiting(2, 0.0, 1640),
        Waiting { max_rating_gap: Some(10), ..waiting(3, 6.0, 1520) },
        waiting(4, 6.0, 1500),
        waiting(5, 6.0, 1500),
        waiting(6, 6.0, 4000),
    ];
    let explanation = explain(&of, &line.into_iter().collect(), &DEFAULTS, &blocks, at(10.0));
    let (out_of_window, gap, blocked, rematch, never) = (1, 1, 1, 1, 1);
    assert_eq!(
        explanation,
        super::explanation::Explanation {
            window: 100,
            widens_at: Some(at(15.0)),
            place_in_line: 2,
            others: 5,
            in_window: 3,
            ready: 0,
            out_of_window,
            rematch,
            held_back: 0,
            blocked,
            gap,
            never,
            next_meeting_at: Some(at(20.0)),
        }
    );
}

fn entry(n: u128) -> impl Strategy<Value = Waiting> {
    let gap = prop_oneof![3 => Just(None), 1 => (0_u16..200).prop_map(Some)];
    let last = prop_oneof![2 => Just(None), 1 => (0_u128..12).prop_map(Some)];
    // Few players, ratings and instants, so that ties and repeats happen all the time.
    (0_u128..12, 0_u32..60, 1400_u16..1900, gap, last, 0_u32..20, 1_u32..120).prop_map(
        move |(who, second, rating, max_rating_gap, last, held, lives)| {
            let rating = if who % 3 == 0 { rating / 50 * 50 } else { rating };
            let base = waiting(n, f64::from(second), rating);
            Waiting {
                player: player(who),
                eligible_at: base.queued_at.after(Duration::from_secs(u64::from(held.saturating_sub(15)))),
                expires_at: base.queued_at.after(Duration::from_secs(u64::from(lives))),
                max_rating_gap,
                last_opponent: last.map(player),
                ..base
            }
        },
    )
}

fn pool_of() -> impl Strategy<Value = (Vec<Waiting>, PoolSettings, Blocks)> {
    let line = (0_usize..40).prop_flat_map(|count| (0..count as u128).map(entry).collect::<Vec<_>>());
    let settings = (0_u16..150, 0_u16..60, 1_u32..20, 0_u16..400, any::<bool>(), 0_u32..40).prop_map(
        |(window, widen_by, widen_every_seconds, more, both, rematch_after_seconds)| PoolSettings {
            window,
            widen_by,
            widen_every_seconds,
            window_max: window + more,
            window_policy: if both { WindowPolicy::Both } else { WindowPolicy::LongestWaiting },
            rematch_after_seconds,
            ..DEFAULTS
        },
    );
    let blocks = proptest::collection::vec((0_u128..12, 0_u128..12), 0..6);
    (line, settings, blocks).prop_map(|(line, settings, pairs)| {
        let mut blocks = Blocks::default();
        pairs.into_iter().for_each(|(by, other)| blocks.add(player(by), player(other)));
        (in_line(line), settings, blocks)
    })
}

/// The rule as it is written, in the simplest words.
fn naive(line: &[Waiting], settings: &PoolSettings, blocks: &Blocks, now: Timestamp) -> Vec<(u128, u128)> {
    let mut left: Vec<&Waiting> = line.iter().collect();
    let mut pairs = Vec::new();
    let mut index = 0;
    while let Some(seed) = left.get(index).copied() {
        let candidates = left.iter().filter(|other| other.entry_id != seed.entry_id);
        let feasible = candidates.filter(|other| may_meet(seed, other, settings, blocks, now));
        let partner =
            feasible.min_by_key(|other| (seed.rating.distance(other.rating), other.place())).copied();
        match partner {
            Some(partner) => {
                pairs.push((seed.entry_id.0.as_u128(), partner.entry_id.0.as_u128()));
                left.retain(|other| ![seed.entry_id, partner.entry_id].contains(&other.entry_id));
            }
            None => index += 1,
        }
    }
    pairs
}

fn everyone(line: &[Waiting]) -> impl Iterator<Item = (&Waiting, &Waiting)> {
    line.iter().enumerate().flat_map(|(index, a)| line[index + 1..].iter().map(move |b| (a, b)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

    #[test]
    fn a_pass_decides_as_the_rule_is_written((line, settings, blocks) in pool_of(), second in 60_u32..240) {
        let second = f64::from(second);
        let found = pairs(&line, &settings, &blocks, second);
        prop_assert_eq!(&found, &naive(&line, &settings, &blocks, at(second)));
        let mut entries: Vec<u128> = found.iter().flat_map(|(a, b)| [*a, *b]).collect();
        entries.sort_unstable();
        let count = entries.len();
        entries.dedup();
        prop_assert_eq!(entries.len(), count, "nobody twice");
    }

    #[test]
    fn meeting_is_symmetric_and_holds_from_its_instant_until_somebodys_time_is_over(
        a in entry(1), b in entry(2), (_, settings, blocks) in pool_of(), probe in 0_u32..300,
    ) {
        let found = meeting(&a, &b, &settings, &blocks);
        prop_assert_eq!(found, meeting(&b, &a, &settings, &blocks));
        let probe = at(f64::from(probe));
        let expected = found.is_ok_and(|found| found.at <= probe && probe < a.expires_at.min(b.expires_at));
        prop_assert_eq!(may_meet(&a, &b, &settings, &blocks, probe), expected);
    }

    /// Nobody may meet before the timer, and somebody does when it comes.
    #[test]
    fn the_timer_is_exact((line, settings, blocks) in pool_of()) {
        let instants = everyone(&line).filter_map(|(a, b)| meeting(a, b, &settings, &blocks).ok());
        let timer = next_meeting(&line, &settings, &blocks, at(0.0));
        prop_assert_eq!(timer, instants.map(|meeting| meeting.at).min());
        if let Some(timer) = timer {
            let pass = |now| Pass::new(&line, &settings, &blocks, now).finish().len();
            prop_assert_eq!(pass(timer.before(Duration::from_micros(1))), 0);
            prop_assert!(pass(timer) > 0);
        }
    }

    /// A pass leaves nobody behind who may meet, so that the timer after it lies ahead, even of those whose time is over and
    /// whom nobody has told yet.
    #[test]
    fn after_a_pass_the_next_meeting_lies_ahead((line, settings, blocks) in pool_of(), second in 60_u32..240) {
        let now = at(f64::from(second));
        let gone: Vec<EntryId> = Pass::new(&line, &settings, &blocks, now)
            .finish()
            .iter()
            .flat_map(|pair| [pair.seed.entry_id, pair.partner.entry_id])
            .collect();
        let left: Vec<Waiting> = line
            .into_iter()
            .filter(|waiting| !gone.contains(&waiting.entry_id))
            .collect();
        prop_assert!(next_meeting(&left, &settings, &blocks, now).is_none_or(|next| next > now));
    }
}
