//! The queues kept in pieces, and what is said of those who wait.

use std::collections::BTreeMap;

use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{MatchRecordId, Tenant};
use event_schemas::match_record::{MatchProposed, MatchRecordEvent};
use event_schemas::player::{
    PlayerBlocked, PlayerEvent, PlayerUnblocked, QueueEntryCancelled, QueueEntryExpired,
};
use event_schemas::pool::{PoolConfigured, PoolEvent};
use event_schemas::stream::StreamId;

use super::super::census::{SAMPLE_MAX, census};
use super::super::explanation::Explanation;
use super::super::queues::pieces::{Kept, KeptPool, Piece};
use super::super::queues::{Entry, PoolId, Queues};
use super::super::standing::{best, standings};
use super::folds::*;
use super::*;
use crate::scenario::id;

/// Keeps what is concerned by each event, and nothing else.
#[derive(Default)]
struct Keeper {
    queues: Queues,
    entries: BTreeMap<EntryId, Entry>,
    pools: BTreeMap<PoolId, KeptPool>,
    blocks: BTreeMap<(SubjectId, SubjectId), ()>,
    proposed: BTreeMap<MatchRecordId, (Tenant, MatchProposed)>,
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}

impl Keeper {
    fn apply(&mut self, envelope: &Envelope) {
        let concerned = self.queues.concerned(envelope);
        self.queues.apply(envelope);
        self.queues.take_changed();
        for piece in concerned {
            match piece {
                Piece::Entry(entry) => {
                    put(&mut self.entries, entry, self.queues.entry(entry).cloned());
                }
                Piece::Pool(pool) => {
                    let kept = self.queues.kept_pool(&pool);
                    put(&mut self.pools, pool, kept);
                }
                Piece::Block(by, other) => {
                    let blocks = self.queues.blocks().has(by, other).then_some(());
                    put(&mut self.blocks, (by, other), blocks);
                }
                Piece::Proposed(proposed) => {
                    put(&mut self.proposed, proposed, self.queues.proposed(proposed).cloned());
                }
            }
        }
    }

    fn restored(&self) -> Queues {
        Queues::restore(Kept {
            entries: self.entries.values().cloned().collect(),
            pools: self.pools.clone().into_iter().collect(),
            blocks: self.blocks.keys().copied().collect(),
            proposed: self.proposed.values().cloned().collect(),
        })
    }
}

/// Something about player `n`, of which nothing has to make sense but that an entry begins once.
fn event(what: u8, n: u128, second: f64) -> Envelope {
    let other = n % 5 + 1;
    let (subject_id, entry_id) = (player(n), entry_id(n));
    match what {
        0..=2 => queued(n, second, [&["blitz"][..], &["blitz", "rapid"], &["rapid"]][usize::from(what)]),
        3 => of_player(n, second, QueueEntryCancelled { subject_id, entry_id }),
        4 => of_player(n, second, QueueEntryExpired { subject_id, entry_id }),
        5 => matched(n, second, n),
        6 => released(n, second, n, second + 5.0),
        7 => freed(n, second, n),
        8 => proposed(n, second, [n, other]),
        9 => confirmed(n, second),
        10 => abandoned(n, second),
        11 => of_player(n, second, PlayerBlocked { subject_id, blocked: player(other) }),
        12 => of_player(n, second, PlayerUnblocked { subject_id, unblocked: player(other) }),
        _ => {
            let settings = PoolSettings { window: 50 + u16::from(what), ..DEFAULTS };
            let event: PoolEvent = PoolConfigured { pool_key: id("rapid"), settings }.into();
            envelope(StreamId::pool(&id("default"), &id("rapid")), second, event)
        }
    }
}

proptest! {
    #[test]
    fn queues_put_together_from_what_each_event_concerns_are_those_of_all_events(
        happenings in proptest::collection::vec((0..15_u8, 1..6_u128), 0..80),
    ) {
        let mut keeper = Keeper::default();
        let mut begun = std::collections::BTreeSet::new();
        for (second, (what, n)) in happenings.into_iter().enumerate() {
            if what < 3 && !begun.insert(n) {
                continue;
            }
            keeper.apply(&event(what, n, second as f64));
            prop_assert_eq!(&keeper.restored(), &keeper.queues);
            let text = serde_json::to_string(&keeper.pools.values().collect::<Vec<_>>()).unwrap();
            let read: Vec<KeptPool> = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(read.iter().collect::<Vec<_>>(), keeper.pools.values().collect::<Vec<_>>());
        }
    }
}

/// Everyone is matched twice: one pool is quick, the other slow.
fn two_pools() -> Queues {
    let mut events = Vec::new();
    for (n, second) in [(11, 5.0), (21, 300.0)] {
        let key = if n == 11 { "rapid" } else { "blitz" };
        events.extend([queued(n, 0.0, &[key]), queued(n + 1, 0.0, &[key])]);
        let mut meeting = proposed(n, second, [n, n + 1]);
        if let Event::MatchRecord(MatchRecordEvent::MatchProposed(proposed)) = &mut meeting.event {
            proposed.pool_key = id(key);
        }
        events.extend([meeting, matched(n, second, n), matched(n + 1, second, n), confirmed(n, second)]);
    }
    events.extend([queued(1, 310.0, &["blitz", "rapid"]), queued(2, 320.0, &["blitz"])]);
    let mut queues = Queues::default();
    events.iter().for_each(|event| queues.apply(event));
    queues
}

#[test]
fn an_entry_stands_in_each_of_its_pools_and_best_where_the_wait_is_short() {
    let queues = two_pools();
    let standings = standings(&queues, queues.entry(entry_id(1)).unwrap(), at(325.0));
    let (found, search) = best(&standings).unwrap();
    assert_eq!((found.pool_key.as_str(), search.estimate.unwrap().p50_seconds as u32), ("rapid", 5));
    assert_eq!(search.explanation.sentence(), "nobody else waits in this pool");
    let blitz = standings[0].search.as_ref().unwrap();
    assert_eq!((blitz.explanation.window, blitz.explanation.place_in_line), (125, 1));
    assert_eq!(blitz.explanation.sentence(), "1 player can be met now, and a match is being made");
}

#[test]
fn an_entry_that_does_not_search_stands_nowhere() {
    let mut queues = two_pools();
    queues.apply(&matched(1, 326.0, 1));
    let standings = standings(&queues, queues.entry(entry_id(1)).unwrap(), at(327.0));
    assert!(standings.iter().all(|standing| standing.search.is_none()));
    assert_eq!(best(&standings), None);
}

#[test]
fn a_sentence_says_whether_waiting_helps_and_what_stands_in_the_way() {
    let waits = Explanation { others: 3, out_of_window: 2, blocked: 1, ..Explanation::default() };
    assert_eq!(
        waits.sentence(),
        "nobody can be met yet, but 2 players later on: 2 still out of the window, 1 blocked"
    );
    let never = Explanation { others: 1, gap: 1, ..Explanation::default() };
    assert_eq!(
        never.sentence(),
        "none of those who wait now can ever be met, so somebody else has to come: \
         1 farther away than one of the two wants"
    );
}

#[test]
fn a_census_counts_everyone_and_shows_a_few_evenly() {
    let mut queues = Queues::default();
    for n in 0..1200 {
        let mut event = queued(n + 1, n as f64, &["blitz"]);
        if let Event::Player(PlayerEvent::PlayerQueued(queued)) = &mut event.event {
            queued.pools[0].rating = Rating::new(u16::try_from(n).unwrap()).unwrap();
        }
        queues.apply(&event);
    }
    let pool: PoolId = (id("default"), id("blitz"));
    let counted = census(queues.pool(&pool).unwrap(), at(1200.0));
    assert_eq!((counted.waiting, counted.oldest), (1200, Some(Duration::from_secs(1200))));
    assert_eq!(counted.histogram, (0..12).map(|bar| (bar * 100, 100)).collect::<Vec<_>>());
    let waits = counted.waits.unwrap();
    assert!((waits.p50 - 600.5).abs() < 1e-9 && (waits.p95 - 1140.05).abs() < 1e-9, "{waits:?}");
    assert_eq!(counted.sample.len(), SAMPLE_MAX);
    for (place, (rating, waited)) in counted.sample.iter().enumerate() {
        let n = place * 1200 / SAMPLE_MAX;
        assert_eq!((usize::from(rating.points()), waited.as_secs() as usize), (n, 1200 - n));
    }
}
