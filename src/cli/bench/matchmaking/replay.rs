//! A long history of people who waited, met and played, read again by whoever starts.

use std::time::{Duration, Instant};

use commands::vault::Vault;
use commands::{Commands, Outside};
use event_log::clock::{Clock, Ids};
use event_log::{EmbeddedLog, EventLog, Log};
use event_schemas::envelope::Event;
use event_schemas::ids::{MatchRecordId, Position};
use event_schemas::match_record::{
    GameResult, MatchConfirmed, MatchPlayer, MatchProposed, MatchRecordEvent, MatchResultReported, Side,
};
use event_schemas::player::{FreedReason, PlayerFreed, QueueEntryMatched};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use projections::{Name, ReadModels};
use tempfile::TempDir;
use uuid::Uuid;

use super::pass::{failed, fold};
use super::{Figures, crowd, open, what};
use crate::cli::Failure;

/// How often each player has waited.
const TURNS: u64 = 10;
/// Longer than any making of a read model.
const LONG: Duration = Duration::from_secs(3_600);

/// Fills a log with so many entries: players wait, meet, play, and are free for the next time.
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

/// Whoever waits meets their neighbour, and plays.
async fn play(log: &EmbeddedLog, players: u64, turn: u64, now: Timestamp) -> Result<(), Failure> {
    let matches = || (0..players / 2).map(|number| (number, match_id(number, turn)));
    let of_match = |id, events: Vec<MatchRecordEvent>| {
        let events = events.into_iter().map(Event::MatchRecord).collect();
        crowd::append(log, StreamId::match_record(id), now, events)
    };
    crowd::all(matches().map(|(number, id)| of_match(id, vec![proposed(number, turn, now).into()]))).await?;
    let taken = (0..players).map(|number| {
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
    crowd::all(taken).await?;
    let result_due_at = now.after(LONG);
    let played = matches().map(|(_, id)| {
        let confirmed = MatchConfirmed { game_id: None, result_due_at };
        of_match(id, vec![confirmed.into(), MatchResultReported { result: GameResult::First }.into()])
    });
    crowd::all(played).await?;
    let freed = (0..players).map(|number| {
        let (subject_id, match_id) = (crowd::player(number), match_id(number / 2, turn));
        let freed = PlayerFreed { subject_id, match_id, reason: FreedReason::ResultReported };
        crowd::append(log, crowd::of_player(number), now, vec![Event::Player(freed.into())])
    });
    crowd::all(freed).await
}

fn match_id(number: u64, turn: u64) -> MatchRecordId {
    MatchRecordId(Uuid::from_u64_pair(0xa0_0000_0000 + turn, crowd::mixed(number)))
}

fn proposed(number: u64, turn: u64, now: Timestamp) -> MatchProposed {
    let player = |number| {
        let queued = crowd::queued(number, turn, now);
        let (rating, skill) = (crowd::rating(number), domain::rating::unproven(crowd::rating(number)));
        MatchPlayer {
            subject_id: queued.subject_id,
            entry_id: Some(queued.entry_id),
            queued_at: Some(now),
            round: 0,
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
    let made = made(&log).await?;
    log.close().await;
    Ok(vec![
        (what("events", "events in the log"), events as f64),
        (what("folded_s", "read and folded by one reader, s"), folded.as_secs_f64()),
        (what("started_s", "the write side started on it acts after, s"), started.as_secs_f64()),
        (what("made_s", "the read model of the queues made anew, beside all others, s"), made.as_secs_f64()),
        (what("events_per_second", "of it, events/s"), events as f64 / made.as_secs_f64()),
    ])
}

/// How long the write side takes until it puts players together.
async fn started(log: &EmbeddedLog) -> Result<Duration, Failure> {
    let vault = Vault::in_memory(Clock::System, Ids::Random).await.map_err(|error| failed(&error))?;
    let since = Instant::now();
    let shared = Log::Embedded(log.clone());
    let settings = commands::Settings::default();
    let commands = Commands::open(settings, shared, Clock::System, Ids::Random, vault, Outside::default());
    commands.start();
    while !commands.matchmaking().is_ready {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let started = since.elapsed();
    commands.shutdown().await;
    Ok(started)
}

/// How long the read model of the queues takes to be there.
async fn made(log: &EmbeddedLog) -> Result<Duration, Failure> {
    let folder = tempfile::tempdir().map_err(|error| Failure::Disk(error.to_string()))?;
    let settings = projections::Settings { folder: folder.path().join("read") };
    let head: Position = *log.head().borrow();
    let since = Instant::now();
    let models = ReadModels::open(settings, Log::Embedded(log.clone()), Clock::System).await;
    let models = models.map_err(|error| Failure::Disk(error.to_string()))?;
    let made = models.wait_for(&[Name::Queues], head, LONG).await;
    let made = made.map(|()| since.elapsed()).map_err(|error| failed(&error));
    models.shutdown().await;
    made
}
