//! Streams that are cut anywhere and resumed.

use event_schemas::ids::Position;
use event_schemas::match_record::AbandonReason;
use event_schemas::player::{PlayerBlocked, QueueEntryCancelled, QueueEntryExpired};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::super::queues::entry_id;
use super::super::reader::{Reader, Told};
use super::super::stage::{Stage, player};
use super::{match_of, path, with_ids};

/// Something that happens to an entry or around it.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Taken from the queue, and no game comes of it.
    Fails,
    /// Taken out of the queue by a challenge so many times over, and no game comes of it.
    ChallengeFails(u32),
    /// Something of the player that says nothing about the entry.
    Else,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Matched,
    MatchedByChallenge,
    Cancelled,
    Expired,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![Just(Step::Fails), (1..3_u32).prop_map(Step::ChallengeFails), Just(Step::Else)]
}

fn end() -> impl Strategy<Value = End> {
    proptest::sample::select(vec![End::Matched, End::MatchedByChallenge, End::Cancelled, End::Expired])
}

#[derive(Clone, Copy, Debug)]
enum Cut {
    None,
    Before,
    During,
}

fn cut() -> impl Strategy<Value = Cut> {
    proptest::sample::select(vec![Cut::None, Cut::Before, Cut::During])
}

/// Someone who reads on with every change, and someone whose connection breaks off now and then.
struct Readers<'a> {
    stage: &'a Stage,
    uncut: (Reader, Vec<Told>),
    cut: (Reader, Vec<Told>),
    cuts: std::vec::IntoIter<Cut>,
    expected: Vec<(&'static str, u64)>,
}

impl Readers<'_> {
    /// The change at the position is told to both.
    async fn expect(&mut self, event: &'static str, position: Position) {
        self.expected.push((event, position.0));
        for (reader, told) in [&mut self.uncut, &mut self.cut] {
            loop {
                let next = reader.next().await.expect("the stream ended before");
                told.push(next);
                if told.last().is_some_and(|told| told.id == Some(position.0)) {
                    break;
                }
            }
        }
    }

    /// The second reader's connection may break off here: and be there again before something happens, or only after it.
    async fn maybe_cut(&mut self, happen: impl AsyncFnOnce(&Stage)) {
        let last = self.cut.1.iter().rev().find_map(|told| told.id);
        let back = || async { Reader::open_at(self.stage, &path(1), last).await.unwrap() };
        match self.cuts.next().unwrap_or(Cut::None) {
            Cut::None => happen(self.stage).await,
            Cut::Before => {
                self.cut.0 = back().await;
                happen(self.stage).await;
            }
            Cut::During => {
                happen(self.stage).await;
                self.cut.0 = back().await;
            }
        }
    }
}

async fn survive(steps: &[Step], end: End, cuts: Vec<Cut>) -> Result<(), TestCaseError> {
    let stage = Stage::open().await;
    let joined = stage.joined(1).await;
    stage.get("/v1/matchmaking/active").await;
    let open = || async { Reader::open_at(&stage, &path(1), Some(0)).await.unwrap() };
    let mut readers = Readers {
        stage: &stage,
        uncut: (open().await, Vec::new()),
        cut: (open().await, Vec::new()),
        cuts: cuts.into_iter(),
        expected: Vec::new(),
    };
    readers.expect("searching", joined).await;
    let mut matches = 100..;
    for step in steps {
        match *step {
            Step::Fails => {
                let id = match_of(matches.next().unwrap());
                readers
                    .maybe_cut(async |stage| {
                        stage.taken(1, id).await;
                    })
                    .await;
                readers.expect("placing", stage.head()).await;
                readers
                    .maybe_cut(async |stage| {
                        stage.failed(1, id).await;
                    })
                    .await;
                readers.expect("searching", stage.head()).await;
            }
            Step::ChallengeFails(times) => {
                readers
                    .maybe_cut(async |stage| {
                        stage.engaged(1, 1).await;
                    })
                    .await;
                readers.expect("placing", stage.head()).await;
                for attempt in 1..times {
                    stage.engaged(1, attempt + 1).await;
                }
                let reason = AbandonReason::GameServiceParked;
                readers
                    .maybe_cut(async |stage| {
                        stage.let_go(1, reason).await;
                    })
                    .await;
                readers.expect("searching", stage.head()).await;
            }
            Step::Else => {
                let blocked = player(stage.head().0.into());
                stage.of_player(1, PlayerBlocked { subject_id: player(1), blocked }).await;
            }
        }
    }
    let (subject_id, entry_id, id) = (player(1), entry_id(1), match_of(99));
    match end {
        End::Cancelled => {
            let cancelled = QueueEntryCancelled { subject_id, entry_id };
            readers
                .maybe_cut(async |stage| {
                    stage.of_player(1, cancelled).await;
                })
                .await;
            readers.expect("cancelled", stage.head()).await;
        }
        End::Expired => {
            let expired = QueueEntryExpired { subject_id, entry_id };
            readers
                .maybe_cut(async |stage| {
                    stage.of_player(1, expired).await;
                })
                .await;
            readers.expect("expired", stage.head()).await;
        }
        End::Matched => {
            readers
                .maybe_cut(async |stage| {
                    stage.taken(1, id).await;
                })
                .await;
            readers.expect("placing", stage.head()).await;
            readers
                .maybe_cut(async |stage| {
                    stage.met(id).await;
                })
                .await;
            readers.expect("matched", stage.head()).await;
        }
        End::MatchedByChallenge => {
            readers
                .maybe_cut(async |stage| {
                    stage.engaged(1, 9).await;
                })
                .await;
            readers.expect("placing", stage.head()).await;
            readers
                .maybe_cut(async |stage| {
                    stage.met_by_challenge(1).await;
                })
                .await;
            readers.expect("matched", stage.head()).await;
        }
    }
    let (reader, mut uncut) = readers.uncut;
    uncut.extend(reader.rest().await);
    let (reader, mut cut) = readers.cut;
    cut.extend(reader.rest().await);
    let names: Vec<(String, u64)> =
        uncut.iter().filter_map(|told| Some((told.event.clone(), told.id?))).collect();
    let expected: Vec<(String, u64)> =
        readers.expected.iter().map(|(event, id)| ((*event).to_owned(), *id)).collect();
    prop_assert_eq!(&names, &expected);
    prop_assert_eq!(with_ids(&cut), with_ids(&uncut));
    // And so says the log afterwards, from wherever one comes back.
    let all = with_ids(&uncut);
    for (index, (_, id, _)) in all.iter().enumerate().take(all.len() - 1) {
        prop_assert_eq!(with_ids(&stage.told(1, *id).await), &all[index + 1..]);
    }
    prop_assert_eq!(Reader::open_at(&stage, &path(1), all.last().unwrap().1).await.err(), Some(204));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_stream_that_was_cut_anywhere_and_resumed_tells_exactly_what_an_uncut_one_does(
        steps in proptest::collection::vec(step(), 0..8),
        end in end(),
        cuts in proptest::collection::vec(cut(), 0..20),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(survive(&steps, end, cuts))?;
    }
}
