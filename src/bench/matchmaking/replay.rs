//! Measures the replay of a long history of queue entries and matches.

use std::time::{Duration, Instant};

use commands::{Commands, ExternalServices};
use event_log::clock::{Clock, Ids};
use event_log::{EventLog, Log};
use event_log_embedded::EmbeddedLog;
use event_schemas::envelope::Event;
use event_schemas::game_match::{
    GameMatchEvent, GameResult, MatchConfirmed, MatchPlayer, MatchProposed, MatchResultReported, Side,
};
use event_schemas::ids::{GameMatchId, Position};
use event_schemas::player::{PlayerReleased, QueueEntryMatched, ReleaseReason};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use projections::{Name, ReadModels, ReadStore};
use tempfile::TempDir;
use uuid::Uuid;
use vault::Vault;

use super::pass::{failed, fold};
use super::{Figures, crowd, metric, open};
use matchbook::failure::Failure;

/// The number of queue entries of each player.
const TURNS: u64 = 10;
/// A timeout longer than any rebuild of a read model.
const LONG: Duration = Duration::from_secs(3_600);

/// Fills a log with queue entries: players queue, are matched, play, and are released.
pub(super) async fn fill(folder: &TempDir, entries: u64) -> Result<(), Failure> {
    let log = open(folder).await?;
    let players = (entries / TURNS).next_multiple_of(2).max(2);
    for turn in 0..TURNS {
        let now = Clock::System.now();
        let of = |number| crowd::queued(number, turn, now);
        let appends = (0..players).map(|number| {
            crowd::append(&log, crowd::of_player(number), now, vec![Event::Player(of(number).into())])
        });
        crowd::all(appends).await?;
        play(&log, players, turn, now).await?;
        eprintln!("{} of {} entries", (turn + 1) * players, TURNS * players);
    }
    log.close().await;
    Ok(())
}

/// Matches neighbouring players, and records their results.
async fn play(log: &EmbeddedLog, players: u64, turn: u64, now: Timestamp) -> Result<(), Failure> {
    let matches = || (0..players / 2).map(|number| (number, match_id(number, turn)));
    let of_match = |id, events: Vec<GameMatchEvent>| {
        let events = events.into_iter().map(Event::GameMatch).collect();
        crowd::append(log, StreamId::game_match(id), now, events)
    };
    crowd::all(matches().map(|(number, id)| of_match(id, vec![proposed(number, turn, now).into()]))).await?;
    let matched = (0..players).map(|number| {
        let (id, opponent) = (match_id(number / 2, turn), crowd::player(number ^ 1));
        let matched = QueueEntryMatched {
            subject_id: crowd::player(number),
            entry_id: crowd::entry(number, turn),
            match_id: id,
            pool_key: crowd::pool(),
            opponent,
            side: if number % 2 == 0 { Side::First } else { Side::Second },
        };
        crowd::append(log, crowd::of_player(number), now, vec![Event::Player(matched.into())])
    });
    crowd::all(matched).await?;
    let result_due_at = now.after(LONG);
    let played = matches().map(|(_, id)| {
        let confirmed = MatchConfirmed { game_id: None, result_due_at };
        of_match(id, vec![confirmed.into(), MatchResultReported { result: GameResult::First }.into()])
    });
    crowd::all(played).await?;
    let released = (0..players).map(|number| {
        let (subject_id, match_id) = (crowd::player(number), match_id(number / 2, turn));
        let released = PlayerReleased { subject_id, match_id, reason: ReleaseReason::ResultReported };
        crowd::append(log, crowd::of_player(number), now, vec![Event::Player(released.into())])
    });
    crowd::all(released).await
}

fn match_id(number: u64, turn: u64) -> GameMatchId {
    GameMatchId(Uuid::from_u64_pair(0xa0_0000_0000 + turn, crowd::mixed(number)))
}

fn proposed(number: u64, turn: u64, now: Timestamp) -> MatchProposed {
    let player = |number| {
        let queued = crowd::queued(number, turn, now);
        let (rating, skill) = (crowd::rating(number), domain::rating::unproven(crowd::rating(number)));
        MatchPlayer {
            subject_id: queued.subject_id,
            entry_id: Some(queued.entry_id),
            queued_at: Some(now),
            release_count: 0,
            rating,
            skill,
        }
    };
    MatchProposed {
        match_id: match_id(number, turn),
        pool_key: crowd::pool(),
        challenge_id: None,
        first: player(number * 2),
        second: player(number * 2 + 1),
    }
}

pub(super) async fn measure(folder: &TempDir) -> Result<Figures, Failure> {
    let log = open(folder).await?;
    let events = log.head().borrow().0;
    let since = Instant::now();
    let queues = fold(&log).await?;
    let folded = since.elapsed();
    drop(queues);
    let started = started(&log).await?;
    let rebuilt = rebuild(&log).await?;
    log.close().await;
    Ok(vec![
        (metric("events", "events in the log"), events as f64),
        (metric("folded_s", "read and folded sequentially, s"), folded.as_secs_f64()),
        (metric("started_s", "start of the write side until it pairs, s"), started.as_secs_f64()),
        (
            metric("rebuilt_s", "rebuild of the queue read model, together with all others, s"),
            rebuilt.as_secs_f64(),
        ),
        (metric("events_per_second", "rebuild, events/s"), events as f64 / rebuilt.as_secs_f64()),
    ])
}

/// The time from the start of the write side until it is ready to pair.
async fn started(log: &EmbeddedLog) -> Result<Duration, Failure> {
    let vault = Vault::in_memory().await.map_err(|error| failed(&error))?;
    let since = Instant::now();
    let shared = Log::new(log.clone());
    let settings = commands::Settings::default();
    let commands =
        Commands::open(settings, shared, Clock::System, Ids::Random, vault, ExternalServices::default());
    commands.start();
    while !commands.matchmaking().is_ready {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let started = since.elapsed();
    commands.shutdown().await;
    Ok(started)
}

/// The time to rebuild the queue read model.
async fn rebuild(log: &EmbeddedLog) -> Result<Duration, Failure> {
    let folder = tempfile::tempdir().map_err(|error| Failure::Disk(error.to_string()))?;
    let store = ReadStore::Folder(folder.path().join("read"));
    let settings = projections::Settings {
        store,
        read_only: false,
        answer_cache_bytes: 0,
        vectors: None,
        encoder: None,
        recommend: domain::recommend::settings::Settings::default(),
    };
    let head: Position = *log.head().borrow();
    let since = Instant::now();
    let models = ReadModels::open(settings, Log::new(log.clone()), Clock::System).await;
    let models = models.map_err(|error| Failure::Disk(error.to_string()))?;
    let rebuilt = models.wait_for(&[Name::Queues], head, LONG).await;
    let rebuilt = rebuilt.map(|()| since.elapsed()).map_err(|error| failed(&error));
    models.shutdown().await;
    rebuilt
}
