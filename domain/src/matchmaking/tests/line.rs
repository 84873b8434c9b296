//! What those who wait see of each other, however the line came to be.

use std::collections::BTreeMap;

use super::super::explanation::Explanation;
use super::super::line::Line;
use super::*;

/// Everyone is looked at as a whole, in the simplest words.
fn naive(
    of: &Waiting,
    line: &[Waiting],
    settings: &PoolSettings,
    blocks: &Blocks,
    now: Timestamp,
) -> Explanation {
    let window = crate::pool::window_after(settings, now.since(of.queued_at));
    let widens_at = (window < settings.window_max && settings.widen_by > 0)
        .then(|| of.queued_at.after(crate::pool::wait_for(settings, window + 1).unwrap()));
    let place_in_line = 1 + line.iter().filter(|other| other.place() < of.place()).count();
    let others: Vec<&Waiting> = line.iter().filter(|other| other.entry_id != of.entry_id).collect();
    let mut found = Explanation { window, widens_at, place_in_line, ..Explanation::default() };
    found.others = others.len();
    found.in_window = others.iter().filter(|other| of.rating.distance(other.rating) <= window).count();
    let meetings: Vec<_> = others.iter().map(|other| meeting(of, other, settings, blocks)).collect();
    found.next_meeting_at = meetings.iter().flatten().map(|meeting| meeting.at).min();
    for meeting in meetings {
        let counter = match meeting {
            Ok(meeting) if meeting.at <= now => &mut found.ready,
            Ok(meeting) => match meeting.behind {
                Behind::Arrival | Behind::Window => &mut found.out_of_window,
                Behind::Rematch => &mut found.rematch,
                Behind::Eligibility => &mut found.held_back,
            },
            Err(Bar::Blocked) => &mut found.blocked,
            Err(Bar::Gap) => &mut found.gap,
            Err(Bar::SamePlayer | Bar::Window | Bar::Expiry) => &mut found.never,
        };
        *counter += 1;
    }
    found
}

/// The same players, of whom many look alike at a glance.
fn alike(mut line: Vec<Waiting>) -> Vec<Waiting> {
    for waiting in &mut line {
        waiting.player = lookalike(waiting.player);
        waiting.last_opponent = waiting.last_opponent.map(lookalike);
    }
    line
}

fn lookalike(player: SubjectId) -> SubjectId {
    let n = player.0.as_u128();
    SubjectId(Uuid::from_u128((n << 64) | (n % 3)))
}

/// Players come in any order, some leave, and some of those come again or change in their place.
fn after_some_coming_and_going(line: &[Waiting], happenings: &[(u8, usize)]) -> (Line, Vec<Waiting>) {
    let mut made: Line = line.iter().rev().cloned().collect();
    let mut there: BTreeMap<Place, Waiting> = line.iter().map(|one| (one.place(), one.clone())).collect();
    for (what, which) in happenings {
        let Some(one) = line.get(which % line.len().max(1)) else { break };
        if *what == 0 {
            let again = Waiting { max_rating_gap: Some(70), ..one.clone() };
            made.insert(again.clone());
            there.insert(again.place(), again);
        } else {
            made.remove(&one.place());
            there.remove(&one.place());
        }
    }
    (made, there.into_values().collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

    #[test]
    fn a_look_at_briefs_finds_what_a_look_at_whole_entries_finds(
        (entries, settings, pairs) in pool_of(),
        is_alike in any::<bool>(),
        happenings in proptest::collection::vec((0_u8..3, 0_usize..40), 0..30),
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
        let (line, there) = after_some_coming_and_going(&entries, &happenings);
        prop_assert!(line.iter().eq(&there), "in line order");
        prop_assert_eq!(&line, &there.iter().cloned().collect::<Line>());
        let now = at(f64::from(second));
        for of in &there {
            prop_assert_eq!(line.get(&of.place()), Some(of));
            prop_assert_eq!(
                explain(of, &line, &settings, &blocks, now),
                naive(of, &there, &settings, &blocks, now)
            );
        }
    }

    #[test]
    fn who_blocks_whom_is_known_from_both_sides(
        happenings in proptest::collection::vec((any::<bool>(), 0_u128..5, 0_u128..5), 0..40),
    ) {
        let mut blocks = Blocks::default();
        let mut there = BTreeSet::new();
        for (is_added, by, other) in happenings {
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
