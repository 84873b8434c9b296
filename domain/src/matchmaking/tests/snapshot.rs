//! Tests of incremental snapshots, statuses and statistics.

use std::collections::BTreeMap;

use event_schemas::envelope::{Envelope, Event};
use event_schemas::game_match::{GameMatchEvent, MatchProposed};
use event_schemas::ids::{GameMatchId, Tenant};
use event_schemas::player::{
    PlayerBlocked, PlayerEvent, PlayerUnblocked, QueueEntryCancelled, QueueEntryExpired,
};
use event_schemas::pool::{PoolConfigured, PoolEvent};
use event_schemas::stream::StreamId;

use super::super::explanation::Explanation;
use super::super::pool_stats::{SAMPLE_MAX, pool_stats};
use super::super::pool_status::{best, pool_statuses};
use super::super::queues::snapshot::{DirtyKey, PoolSnapshot, Snapshot};
use super::super::queues::{Entry, PoolId, Queues};
use super::folds::*;
use super::*;
use crate::scenario::id;

/// Stores the parts that each event affects, and nothing else.
#[derive(Default)]
struct SnapshotStore {
    queues: Queues,
    entries: BTreeMap<EntryId, Entry>,
    pools: BTreeMap<PoolId, PoolSnapshot>,
    blocks: BTreeMap<(SubjectId, SubjectId), ()>,
    proposed: BTreeMap<GameMatchId, (Tenant, MatchProposed)>,
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}

impl SnapshotStore {
    fn apply(&mut self, envelope: &Envelope) {
        let affected = self.queues.affected_keys(envelope);
        self.queues.apply(envelope);
        self.queues.take_changed();
        for key in affected {
            match key {
                DirtyKey::Entry(entry) => {
                    put(&mut self.entries, entry, self.queues.entry(entry).cloned());
                }
                DirtyKey::Pool(pool) => {
                    let snapshot = self.queues.pool_snapshot(&pool);
                    put(&mut self.pools, pool, snapshot);
                }
                DirtyKey::Block(by, other) => {
                    let blocks = self.queues.blocks().has(by, other).then_some(());
                    put(&mut self.blocks, (by, other), blocks);
                }
                DirtyKey::Proposed(proposed) => {
                    put(&mut self.proposed, proposed, self.queues.proposed(proposed).cloned());
                }
            }
        }
    }

    fn restored(&self) -> Queues {
        Queues::restore(Snapshot {
            entries: self.entries.values().cloned().collect(),
            pools: self.pools.clone().into_iter().collect(),
            blocks: self.blocks.keys().copied().collect(),
            proposed: self.proposed.values().cloned().collect(),
        })
    }
}

/// An event of player `n`. The sequence may be inconsistent, except that an entry is queued only once.
fn event(what: u8, n: u128, second: f64) -> Envelope {
    let other = n % 5 + 1;
    let (subject_id, entry_id) = (player(n), entry_id(n));
    match what {
        0..=2 => queued(n, second, [&["blitz"][..], &["blitz", "rapid"], &["rapid"]][usize::from(what)]),
        3 => of_player(n, second, QueueEntryCancelled { subject_id, entry_id }),
        4 => of_player(n, second, QueueEntryExpired { subject_id, entry_id }),
        5 => matched(n, second, n),
        6 => released(n, second, n, second + 5.0),
        7 => player_released(n, second, n),
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
    fn restored_snapshot_equals_the_fold_of_all_events(
        steps in proptest::collection::vec((0..15_u8, 1..6_u128), 0..80),
    ) {
        let mut store = SnapshotStore::default();
        let mut queued_players = std::collections::BTreeSet::new();
        for (second, (what, n)) in steps.into_iter().enumerate() {
            if what < 3 && !queued_players.insert(n) {
                continue;
            }
            store.apply(&event(what, n, second as f64));
            prop_assert_eq!(&store.restored(), &store.queues);
            let text = serde_json::to_string(&store.pools.values().collect::<Vec<_>>()).unwrap();
            let read: Vec<PoolSnapshot> = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(read.iter().collect::<Vec<_>>(), store.pools.values().collect::<Vec<_>>());
        }
    }
}

/// Two pools with one match each: one after a short wait, the other after a long one.
fn two_pools() -> Queues {
    let mut events = Vec::new();
    for (n, second) in [(11, 5.0), (21, 300.0)] {
        let key = if n == 11 { "rapid" } else { "blitz" };
        events.extend([queued(n, 0.0, &[key]), queued(n + 1, 0.0, &[key])]);
        let mut proposal = proposed(n, second, [n, n + 1]);
        if let Event::GameMatch(GameMatchEvent::MatchProposed(proposed)) = &mut proposal.event {
            proposed.pool_key = id(key);
        }
        events.extend([proposal, matched(n, second, n), matched(n + 1, second, n), confirmed(n, second)]);
    }
    events.extend([queued(1, 310.0, &["blitz", "rapid"]), queued(2, 320.0, &["blitz"])]);
    let mut queues = Queues::default();
    events.iter().for_each(|event| queues.apply(event));
    queues
}

#[test]
fn best_pool_has_the_shortest_estimated_wait() {
    let queues = two_pools();
    let statuses = pool_statuses(&queues, queues.entry(entry_id(1)).unwrap(), at(325.0));
    let (found, search) = best(&statuses).unwrap();
    assert_eq!((found.pool_key.as_str(), search.estimate.unwrap().p50_seconds as u32), ("rapid", 5));
    assert_eq!(search.explanation.sentence(), "no other player is waiting in this pool");
    let blitz = statuses[0].search.as_ref().unwrap();
    assert_eq!((blitz.explanation.window, blitz.explanation.place_in_line), (125, 1));
    assert_eq!(blitz.explanation.sentence(), "1 player can be paired now, and a match is being made");
}

#[test]
fn reserved_entry_has_no_search_status() {
    let mut queues = two_pools();
    queues.apply(&matched(1, 326.0, 1));
    let statuses = pool_statuses(&queues, queues.entry(entry_id(1)).unwrap(), at(327.0));
    assert!(statuses.iter().all(|status| status.search.is_none()));
    assert_eq!(best(&statuses), None);
}

#[test]
fn sentence_names_whether_waiting_helps_and_why() {
    let waits = Explanation { others: 3, out_of_window: 2, blocked: 1, ..Explanation::default() };
    assert_eq!(
        waits.sentence(),
        "no player can be paired yet, but 2 players later: 2 outside the rating window for now, 1 blocked"
    );
    let never = Explanation { others: 1, rating_gap: 1, ..Explanation::default() };
    assert_eq!(
        never.sentence(),
        "none of the waiting players can be paired with this entry, so another player has to join: \
         1 beyond the maximum rating distance"
    );
}

#[test]
fn pool_stats_count_all_entries_and_sample_evenly() {
    let mut queues = Queues::default();
    for n in 0..1200 {
        let mut event = queued(n + 1, n as f64, &["blitz"]);
        if let Event::Player(PlayerEvent::PlayerQueued(queued)) = &mut event.event {
            queued.pools[0].rating = Rating::new(u16::try_from(n).unwrap()).unwrap();
        }
        queues.apply(&event);
    }
    let pool: PoolId = (id("default"), id("blitz"));
    let counted = pool_stats(queues.pool(&pool).unwrap(), at(1200.0));
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
