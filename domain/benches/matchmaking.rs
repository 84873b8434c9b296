//! Measures a pairing pass over many waiting players, the timer after it, and the queries of readers: `cargo
//! bench -p domain`.
#![expect(clippy::disallowed_methods, clippy::disallowed_macros, reason = "a bench measures time")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::matchmaking::pass::PairingPass;
use domain::matchmaking::pool_stats::pool_stats;
use domain::matchmaking::queues::snapshot::Snapshot;
use domain::matchmaking::queues::{Entry, PoolId, Queues};
use domain::matchmaking::timer::next_pairing;
use domain::matchmaking::{Blocks, WaitingEntry};
use domain::pool::DEFAULTS;
use domain::rating::unproven;
use event_schemas::ids::{CorrelationId, EntryId, EventId, Revision, SubjectId};
use event_schemas::player::{PlayerQueued, QueuedPool};
use event_schemas::pool::{PoolSettings, WindowPolicy};
use event_schemas::rating::{Rating, RatingSource};
use event_schemas::time::Timestamp;
use uuid::Uuid;

const ROUNDS: usize = 21;
/// The number of entries per step, after which other tasks get their turn.
const STEP: usize = 4_096;

fn entries(count: usize, max_rating_gap: Option<u16>) -> Vec<WaitingEntry> {
    let mut numbers = fastrand::Rng::with_seed(7);
    let mut entries: Vec<WaitingEntry> = (0..count as u128)
        .map(|n| {
            // The sum of six uniform numbers is nearly normal: mean 1500, deviation about 300.
            let points: u64 = (0..6).map(|_| numbers.u64(..425)).sum::<u64>() + 225;
            let rating = Rating::nearest(points as f64);
            let queued_at = Timestamp::EPOCH.after(Duration::from_micros(numbers.u64(..300_000_000)));
            WaitingEntry {
                entry_id: EntryId(Uuid::from_u128(u128::from(numbers.u64(..)) << 64 | n)),
                player: SubjectId(Uuid::from_u128(n)),
                queued_at,
                eligible_at: queued_at,
                expires_at: queued_at.after(Duration::from_secs(600)),
                rating,
                skill: unproven(rating),
                max_rating_gap,
                last_opponent: None,
                side_balance: 0,
                release_count: 0,
                searching_since_event: EventId(Uuid::from_u128(n)),
            }
        })
        .collect();
    entries.sort_by_key(WaitingEntry::key);
    entries
}

fn measure(name: &str, entries: &[WaitingEntry], settings: &PoolSettings) {
    let now = Timestamp::EPOCH.after(Duration::from_secs(300));
    let blocks = Blocks::default();
    let mut took = Vec::new();
    let (mut pairs, mut longest_step) = (0, Duration::ZERO);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let mut pass = PairingPass::new(entries, settings, &blocks, now);
        pairs = 0;
        while !pass.is_done() {
            let step = Instant::now();
            pairs += pass.step(STEP).len();
            longest_step = longest_step.max(step.elapsed());
        }
        took.push(start.elapsed());
    }
    took.sort();
    let start = Instant::now();
    let next = next_pairing(entries, settings, &blocks, now);
    println!(
        "{name}: {} waiting, {pairs} pairs; median {:.1?}, worst {:.1?}, longest step {longest_step:.1?}; timer over all of them {:.1?} ({})",
        entries.len(),
        took[ROUNDS / 2],
        took[ROUNDS - 1],
        start.elapsed(),
        next.map_or_else(|| "never".to_owned(), |next| next.to_string()),
    );
}

/// The same players as a fold.
fn queues(entries: &[WaitingEntry]) -> (Queues, PoolId) {
    let pool: PoolId = ("bench".parse().expect("a word"), "blitz".parse().expect("a word"));
    let entry = |waiting: &WaitingEntry| Entry {
        tenant: pool.0.clone(),
        queued: Arc::new(PlayerQueued {
            subject_id: waiting.player,
            entry_id: waiting.entry_id,
            pools: vec![QueuedPool {
                pool_key: pool.1.clone(),
                rating: waiting.rating,
                rating_source: RatingSource::Default,
                skill: waiting.skill,
                side_balance: 0,
                rating_call: None,
            }],
            max_rating_gap: None,
            last_opponent: None,
            expires_at: waiting.expires_at,
            metadata: None,
        }),
        first_revision: Revision(0),
        queued_at: waiting.queued_at,
        eligible_at: waiting.eligible_at,
        release_count: 0,
        searching_since_event: waiting.searching_since_event,
        correlation_id: CorrelationId(Uuid::nil()),
        reserved_for: None,
    };
    let entries = entries.iter().map(entry).collect();
    (Queues::restore(Snapshot { entries, ..Snapshot::default() }), pool)
}

fn median(mut ask: impl FnMut(usize)) -> (Duration, Duration) {
    let mut took: Vec<Duration> = (0..ROUNDS)
        .map(|round| {
            let start = Instant::now();
            ask(round);
            start.elapsed()
        })
        .collect();
    took.sort();
    (took[ROUNDS / 2], took[ROUNDS - 1])
}

/// The query of a player for their own search, and of an operator for the whole pool.
fn measure_questions(entries: &[WaitingEntry]) {
    let now = Timestamp::EPOCH.after(Duration::from_secs(300));
    let start = Instant::now();
    let (queues, id) = queues(entries);
    let restored = start.elapsed();
    let Some(pool) = queues.pool(&id) else { return };
    let explained = median(|round| {
        let of = &entries[entries.len() / ROUNDS * round];
        black_box(pool.explain(of, queues.blocks(), now));
    });
    let counted = median(|_| drop(black_box(pool_stats(pool, now))));
    println!(
        "questions: {} waiting; one entry explained: median {:.1?}, worst {:.1?}; all counted: median {:.1?}, worst {:.1?}; restored in {restored:.1?}",
        entries.len(),
        explained.0,
        explained.1,
        counted.0,
        counted.1,
    );
}

fn main() {
    let both = PoolSettings { window_policy: WindowPolicy::Both, ..DEFAULTS };
    for count in [1_000, 10_000, 100_000] {
        measure("longest waiting", &entries(count, None), &DEFAULTS);
        measure("both windows", &entries(count, None), &both);
    }
    for count in [1_000, 100_000] {
        measure_questions(&entries(count, None));
    }
    // Almost no pairings: each entry accepts only its own rating, and every second one of those remains.
    measure("equals only", &entries(100_000, Some(0)), &DEFAULTS);
}
