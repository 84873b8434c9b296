//! Tests of the views between queued entries, after any sequence of changes.

use std::collections::BTreeMap;

use super::super::explanation::Explanation;
use super::super::waiting_queue::WaitingQueue;
use super::*;

/// Evaluates every entry in full, in the simplest form.
fn naive(
    of: &WaitingEntry,
    queue: &[WaitingEntry],
    settings: &PoolSettings,
    blocks: &Blocks,
    now: Timestamp,
) -> Explanation {
    let window = crate::pool::window_after(settings, now.since(of.queued_at));
    let widens_at = (window < settings.window_max && settings.widen_by > 0)
        .then(|| of.queued_at.after(crate::pool::wait_for(settings, window + 1).unwrap()));
    let place_in_line = 1 + queue.iter().filter(|other| other.key() < of.key()).count();
    let others: Vec<&WaitingEntry> = queue.iter().filter(|other| other.entry_id != of.entry_id).collect();
    let mut found = Explanation { window, widens_at, place_in_line, ..Explanation::default() };
    found.others = others.len();
    found.in_window = others.iter().filter(|other| of.rating.distance(other.rating) <= window).count();
    let pairings: Vec<_> = others.iter().map(|other| earliest_pairing(of, other, settings, blocks)).collect();
    found.next_pairing_at = pairings.iter().flatten().map(|earliest| earliest.at).min();
    for pairing in pairings {
        let counter = match pairing {
            Ok(earliest) if earliest.at <= now => &mut found.ready,
            Ok(earliest) => match earliest.delayed_by {
                DelayedBy::Arrival | DelayedBy::Window => &mut found.out_of_window,
                DelayedBy::Rematch => &mut found.rematch,
                DelayedBy::Eligibility => &mut found.cooldown,
            },
            Err(Incompatible::Blocked) => &mut found.blocked,
            Err(Incompatible::Gap) => &mut found.rating_gap,
            Err(Incompatible::SamePlayer | Incompatible::Window | Incompatible::Expiry) => {
                &mut found.unreachable
            }
        };
        *counter += 1;
    }
    found
}

/// The same players with colliding digests.
fn alike(mut queue: Vec<WaitingEntry>) -> Vec<WaitingEntry> {
    for waiting in &mut queue {
        waiting.player = lookalike(waiting.player);
        waiting.last_opponent = waiting.last_opponent.map(lookalike);
    }
    queue
}

fn lookalike(player: SubjectId) -> SubjectId {
    let n = player.0.as_u128();
    SubjectId(Uuid::from_u128((n << 64) | (n % 3)))
}

/// Inserts and removes entries in any order; some are inserted again or changed in place.
fn after_changes(queue: &[WaitingEntry], steps: &[(u8, usize)]) -> (WaitingQueue, Vec<WaitingEntry>) {
    let mut made: WaitingQueue = queue.iter().rev().cloned().collect();
    let mut there: BTreeMap<QueueKey, WaitingEntry> =
        queue.iter().map(|one| (one.key(), one.clone())).collect();
    for (what, which) in steps {
        let Some(one) = queue.get(which % queue.len().max(1)) else { break };
        if *what == 0 {
            let again = WaitingEntry { max_rating_gap: Some(70), ..one.clone() };
            made.insert(again.clone());
            there.insert(again.key(), again);
        } else {
            made.remove(&one.key());
            there.remove(&one.key());
        }
    }
    (made, there.into_values().collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

    #[test]
    fn explanation_from_compact_entries_equals_full_evaluation(
        (entries, settings, pairs) in pool_of(),
        is_alike in any::<bool>(),
        steps in proptest::collection::vec((0_u8..3, 0_usize..40), 0..30),
        second in 0_u32..300,
    ) {
        let entries = if is_alike { alike(entries) } else { entries };
        let mut blocks = Blocks::default();
        for (by, other) in (0..12).flat_map(|a| (0..12).map(move |b| (player(a), player(b)))) {
            if pairs.has(by, other) {
                let of = |player| if is_alike { lookalike(player) } else { player };
                blocks.add(of(by), of(other));
            }
        }
        let (queue, there) = after_changes(&entries, &steps);
        prop_assert!(queue.iter().eq(&there), "in queue order");
        prop_assert_eq!(&queue, &there.iter().cloned().collect::<WaitingQueue>());
        let now = at(f64::from(second));
        for of in &there {
            prop_assert_eq!(queue.get(&of.key()), Some(of));
            prop_assert_eq!(
                explain(of, &queue, &settings, &blocks, now),
                naive(of, &there, &settings, &blocks, now)
            );
        }
    }

    #[test]
    fn blocks_are_known_in_both_directions(
        steps in proptest::collection::vec((any::<bool>(), 0_u128..5, 0_u128..5), 0..40),
    ) {
        let mut blocks = Blocks::default();
        let mut there = BTreeSet::new();
        for (is_added, by, other) in steps {
            if is_added {
                blocks.add(player(by), player(other));
                there.insert((by, other));
            } else {
                blocks.remove(player(by), player(other));
                there.remove(&(by, other));
            }
        }
        for n in 0..5 {
            let around: BTreeSet<SubjectId> = blocks.around(player(n)).collect();
            let all = (0..5).filter(|other| there.contains(&(n, *other)) || there.contains(&(*other, n)));
            prop_assert_eq!(around, all.map(player).collect::<BTreeSet<_>>());
        }
        prop_assert_eq!(blocks == Blocks::default(), there.is_empty());
    }
}
