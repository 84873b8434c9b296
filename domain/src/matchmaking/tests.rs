use std::time::Duration;

use event_schemas::pool::{PoolSettings, WindowPolicy};
use proptest::prelude::*;
use uuid::Uuid;

use super::compatibility::{DelayedBy, Incompatible, can_pair, earliest_pairing};
use super::explanation::explain;
use super::pass::PairingPass;
use super::timer::next_pairing;
use super::*;
use crate::pool::DEFAULTS;
use crate::rating::unproven;
use crate::scenario::at;

mod folds;
mod reaching;
mod snapshot;
mod timers;
mod waiting_queue;

fn player(n: u128) -> SubjectId {
    SubjectId(Uuid::from_u128(n))
}

/// Entry `n` of player `n`, queued at this second.
fn waiting(n: u128, second: f64, rating: u16) -> WaitingEntry {
    let rating = Rating::new(rating).unwrap();
    WaitingEntry {
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
        release_count: 0,
        searching_since_event: EventId(Uuid::from_u128(0xf000 + n)),
    }
}

fn in_queue_order(mut queue: Vec<WaitingEntry>) -> Vec<WaitingEntry> {
    queue.sort_by_key(WaitingEntry::key);
    queue
}

/// The pairings, by the numbers of their entries; the entry that picked is first.
fn pairs(queue: &[WaitingEntry], settings: &PoolSettings, blocks: &Blocks, second: f64) -> Vec<(u128, u128)> {
    let pairs = PairingPass::new(queue, settings, blocks, at(second)).finish();
    let number = |waiting: &WaitingEntry| waiting.entry_id.0.as_u128();
    pairs.iter().map(|pair| (number(pair.first), number(pair.second))).collect()
}

fn default_pairs(queue: Vec<WaitingEntry>, second: f64) -> Vec<(u128, u128)> {
    pairs(&in_queue_order(queue), &DEFAULTS, &Blocks::default(), second)
}

fn earliest(a: &WaitingEntry, b: &WaitingEntry) -> Result<f64, Incompatible> {
    earliest_pairing(a, b, &DEFAULTS, &Blocks::default())
        .map(|earliest| earliest.at.seconds_since(Timestamp::EPOCH))
}

#[test]
fn window_of_the_longer_waiting_player_decides() {
    let first = waiting(1, 0.0, 1500);
    for (rating, second) in
        [(1600, 5.0), (1601, 10.0), (1400, 5.0), (1399, 10.0), (1650, 20.0), (2500, 360.0)]
    {
        assert_eq!(earliest(&first, &waiting(2, 5.0, rating)), Ok(second), "{rating}");
    }
    assert_eq!(earliest(&first, &waiting(2, 5.0, 2501)), Err(Incompatible::Window));
}

#[test]
fn pairing_is_not_before_both_are_queued() {
    assert_eq!(earliest(&waiting(1, 0.0, 1500), &waiting(2, 90.0, 1700)), Ok(90.0));
}

#[test]
fn policy_both_requires_both_windows() {
    let (first, second) = (waiting(1, 0.0, 1500), waiting(2, 5.0, 1650));
    let both = PoolSettings { window_policy: WindowPolicy::Both, ..DEFAULTS };
    let blocks = Blocks::default();
    assert_eq!(earliest_pairing(&first, &second, &both, &blocks).unwrap().at, at(25.0));
    assert_eq!(earliest_pairing(&first, &second, &DEFAULTS, &blocks).unwrap().at, at(20.0));
}

#[test]
fn same_blocked_or_too_distant_players_are_incompatible() {
    let (a, b) = (waiting(1, 0.0, 1500), waiting(2, 0.0, 1550));
    assert_eq!(earliest(&a, &WaitingEntry { player: a.player, ..b.clone() }), Err(Incompatible::SamePlayer));
    let mut blocks = Blocks::default();
    blocks.add(a.player, b.player);
    assert_eq!(earliest_pairing(&a, &b, &DEFAULTS, &blocks), Err(Incompatible::Blocked));
    assert_eq!(earliest_pairing(&b, &a, &DEFAULTS, &blocks), Err(Incompatible::Blocked));
    blocks.remove(a.player, b.player);
    assert!(earliest_pairing(&a, &b, &DEFAULTS, &blocks).is_ok());
    let strict = WaitingEntry { max_rating_gap: Some(49), ..a.clone() };
    assert_eq!(
        (earliest(&strict, &b), earliest(&b, &strict)),
        (Err(Incompatible::Gap), Err(Incompatible::Gap))
    );
    assert_eq!(earliest(&WaitingEntry { max_rating_gap: Some(50), ..a }, &b), Ok(0.0));
}

#[test]
fn rematch_is_possible_after_60_seconds() {
    let a = WaitingEntry { last_opponent: Some(player(2)), ..waiting(1, 0.0, 1500) };
    let b = waiting(2, 7.0, 1500);
    let found = earliest_pairing(&a, &b, &DEFAULTS, &Blocks::default()).unwrap();
    assert_eq!((found.at, found.delayed_by), (at(60.0), DelayedBy::Rematch));
    assert_eq!(earliest(&b, &a), Ok(60.0), "symmetric");
    assert_eq!(default_pairs(vec![a.clone(), b.clone()], 59.9), []);
    assert_eq!(default_pairs(vec![a, b], 60.0), [(1, 2)]);
}

#[test]
fn entry_in_cooldown_or_expired_is_not_paired() {
    let a = WaitingEntry { eligible_at: at(9.0), ..waiting(1, 0.0, 1500) };
    let b = waiting(2, 0.0, 1500);
    assert_eq!(earliest(&a, &b), Ok(9.0));
    assert_eq!(default_pairs(vec![a, b.clone()], 8.9), []);
    let ends = WaitingEntry { expires_at: at(5.0), ..waiting(1, 0.0, 1500) };
    assert_eq!(default_pairs(vec![ends.clone(), b.clone()], 5.0), []);
    assert_eq!(default_pairs(vec![ends.clone(), b], 4.9), [(1, 2)]);
    assert_eq!(earliest(&ends, &waiting(3, 0.0, 1601)), Err(Incompatible::Expiry));
}

#[test]
fn longest_waiting_entry_picks_the_nearest() {
    let queue =
        vec![waiting(1, 0.0, 1500), waiting(2, 1.0, 1560), waiting(3, 2.0, 1540), waiting(4, 3.0, 1600)];
    assert_eq!(default_pairs(queue, 3.0), [(1, 3), (2, 4)]);
}

#[test]
fn equal_distances_are_ordered_by_waiting_time_then_id() {
    let queue = vec![waiting(1, 0.0, 1500), waiting(2, 2.0, 1510), waiting(3, 1.0, 1490)];
    assert_eq!(default_pairs(queue, 3.0), [(1, 3)]);
    let queue = vec![waiting(1, 0.0, 1500), waiting(5, 1.0, 1510), waiting(4, 1.0, 1490)];
    assert_eq!(default_pairs(queue, 3.0), [(1, 4)]);
    let queue = vec![waiting(2, 0.0, 1500), waiting(1, 0.0, 1500), waiting(3, 0.0, 1500)];
    assert_eq!(default_pairs(queue, 0.0), [(1, 2)], "equal waiting times are ordered by id");
}

#[test]
fn pass_in_steps_equals_pass_at_once() {
    let queue: Vec<WaitingEntry> =
        (0..50).map(|n| waiting(n, n as f64, 1000 + (n * 37 % 500) as u16)).collect();
    let blocks = Blocks::default();
    let mut pass = PairingPass::new(&queue, &DEFAULTS, &blocks, at(60.0));
    let mut stepped = Vec::new();
    while !pass.is_done() {
        stepped.extend(pass.step(3));
    }
    assert_eq!(stepped, PairingPass::new(&queue, &DEFAULTS, &blocks, at(60.0)).finish());
}

#[test]
fn explanation_counts_each_entry_once() {
    let mut blocks = Blocks::default();
    blocks.add(player(4), player(1));
    let of = WaitingEntry { last_opponent: Some(player(5)), ..waiting(1, 5.0, 1500) };
    let queue = vec![
        of.clone(),
        waiting(2, 0.0, 1640),
        WaitingEntry { max_rating_gap: Some(10), ..waiting(3, 6.0, 1520) },
        waiting(4, 6.0, 1500),
        waiting(5, 6.0, 1500),
        waiting(6, 6.0, 4000),
    ];
    let explanation = explain(&of, &queue.into_iter().collect(), &DEFAULTS, &blocks, at(10.0));
    let (out_of_window, rating_gap, blocked, rematch, unreachable) = (1, 1, 1, 1, 1);
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
            cooldown: 0,
            blocked,
            rating_gap,
            unreachable,
            next_pairing_at: Some(at(20.0)),
        }
    );
}

fn entry(n: u128) -> impl Strategy<Value = WaitingEntry> {
    let gap = prop_oneof![3 => Just(None), 1 => (0_u16..200).prop_map(Some)];
    let last = prop_oneof![2 => Just(None), 1 => (0_u128..12).prop_map(Some)];
    // Few players, ratings and times, so that ties and repeats are frequent.
    (0_u128..12, 0_u32..60, 1400_u16..1900, gap, last, 0_u32..20, 1_u32..120).prop_map(
        move |(who, second, rating, max_rating_gap, last, cooldown, lives)| {
            let rating = if who % 3 == 0 { rating / 50 * 50 } else { rating };
            let base = waiting(n, f64::from(second), rating);
            WaitingEntry {
                player: player(who),
                eligible_at: base
                    .queued_at
                    .after(Duration::from_secs(u64::from(cooldown.saturating_sub(15)))),
                expires_at: base.queued_at.after(Duration::from_secs(u64::from(lives))),
                max_rating_gap,
                last_opponent: last.map(player),
                ..base
            }
        },
    )
}

fn pool_of() -> impl Strategy<Value = (Vec<WaitingEntry>, PoolSettings, Blocks)> {
    let queue = (0_usize..40).prop_flat_map(|count| (0..count as u128).map(entry).collect::<Vec<_>>());
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
    (queue, settings, blocks).prop_map(|(queue, settings, pairs)| {
        let mut blocks = Blocks::default();
        pairs.into_iter().for_each(|(by, other)| blocks.add(player(by), player(other)));
        (in_queue_order(queue), settings, blocks)
    })
}

/// The rule in its simplest form.
fn naive(
    queue: &[WaitingEntry],
    settings: &PoolSettings,
    blocks: &Blocks,
    now: Timestamp,
) -> Vec<(u128, u128)> {
    let mut left: Vec<&WaitingEntry> = queue.iter().collect();
    let mut pairs = Vec::new();
    let mut index = 0;
    while let Some(seed) = left.get(index).copied() {
        let candidates = left.iter().filter(|other| other.entry_id != seed.entry_id);
        let feasible = candidates.filter(|other| can_pair(seed, other, settings, blocks, now));
        let partner = feasible.min_by_key(|other| (seed.rating.distance(other.rating), other.key())).copied();
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

fn all_pairs(queue: &[WaitingEntry]) -> impl Iterator<Item = (&WaitingEntry, &WaitingEntry)> {
    queue.iter().enumerate().flat_map(|(index, a)| queue[index + 1..].iter().map(move |b| (a, b)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

    #[test]
    fn pass_equals_naive_rule((queue, settings, blocks) in pool_of(), second in 60_u32..240) {
        let second = f64::from(second);
        let found = pairs(&queue, &settings, &blocks, second);
        prop_assert_eq!(&found, &naive(&queue, &settings, &blocks, at(second)));
        let mut entries: Vec<u128> = found.iter().flat_map(|(a, b)| [*a, *b]).collect();
        entries.sort_unstable();
        let count = entries.len();
        entries.dedup();
        prop_assert_eq!(entries.len(), count, "no entry twice");
    }

    #[test]
    fn compatibility_is_symmetric_and_lasts_until_expiry(
        a in entry(1), b in entry(2), (_, settings, blocks) in pool_of(), probe in 0_u32..300,
    ) {
        let found = earliest_pairing(&a, &b, &settings, &blocks);
        prop_assert_eq!(found, earliest_pairing(&b, &a, &settings, &blocks));
        let probe = at(f64::from(probe));
        let expected = found.is_ok_and(|found| found.at <= probe && probe < a.expires_at.min(b.expires_at));
        prop_assert_eq!(can_pair(&a, &b, &settings, &blocks, probe), expected);
    }

    /// No pairing is possible before the timer, and one is possible when it fires.
    #[test]
    fn timer_is_exact((queue, settings, blocks) in pool_of()) {
        let instants = all_pairs(&queue).filter_map(|(a, b)| earliest_pairing(a, b, &settings, &blocks).ok());
        let timer = next_pairing(&queue, &settings, &blocks, at(0.0));
        prop_assert_eq!(timer, instants.map(|earliest| earliest.at).min());
        if let Some(timer) = timer {
            let pass = |now| PairingPass::new(&queue, &settings, &blocks, now).finish().len();
            prop_assert_eq!(pass(timer.before(Duration::from_micros(1))), 0);
            prop_assert!(pass(timer) > 0);
        }
    }

    /// A pass leaves no compatible entries behind, so the next timer is in the future, even with expired
    /// entries whose expiry is not recorded yet.
    #[test]
    fn timer_after_a_pass_is_in_the_future((queue, settings, blocks) in pool_of(), second in 60_u32..240) {
        let now = at(f64::from(second));
        let gone: Vec<EntryId> = PairingPass::new(&queue, &settings, &blocks, now)
            .finish()
            .iter()
            .flat_map(|pair| [pair.first.entry_id, pair.second.entry_id])
            .collect();
        let left: Vec<WaitingEntry> = queue
            .into_iter()
            .filter(|waiting| !gone.contains(&waiting.entry_id))
            .collect();
        prop_assert!(next_pairing(&left, &settings, &blocks, now).is_none_or(|next| next > now));
    }
}
