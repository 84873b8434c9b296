use event_schemas::envelope::Envelope;
use serde_json::Value;

use super::*;

/// The points at which the history is cut.
const CUTS: usize = 16;

fn board() -> WorkBoard {
    WorkBoard::new(Clock::manual(Timestamp::EPOCH.after(Duration::from_secs(600))), Duration::from_secs(45))
}

/// A value whose lists are sorted, because the order of a hash map differs between two of them.
fn sorted(value: Value) -> Value {
    match value {
        Value::Array(items) => {
            let mut items: Vec<Value> = items.into_iter().map(sorted).collect();
            items.sort_by_cached_key(Value::to_string);
            Value::Array(items)
        }
        Value::Object(fields) => fields.into_iter().map(|(key, value)| (key, sorted(value))).collect(),
        other => other,
    }
}

/// What a board stores, and what follows from it.
fn content(board: &WorkBoard) -> (Value, WorkBoardStatus, Option<Timestamp>) {
    let stored = serde_json::from_slice(&board.snapshot().unwrap()).unwrap();
    (sorted(stored), board.status(), board.next_deadline())
}

fn restored(from: &WorkBoard) -> WorkBoard {
    let board = board();
    let state = serde_json::from_slice(&from.snapshot().unwrap()).unwrap();
    board.restore(state, from.status().position);
    board
}

#[test]
fn restored_board_equals_the_fold_of_all_events() {
    let history = crate::soak::history();
    let (whole, mut boards): (_, Vec<WorkBoard>) = (board(), Vec::new());
    let mut busy = 0;
    for events in history.chunks(history.len() / CUTS) {
        let apply = |board: &WorkBoard| {
            let last: &Envelope = events.last().unwrap();
            board.apply(events, last.position);
        };
        apply(&whole);
        boards.iter().for_each(apply);
        let expected = content(&whole);
        busy += expected.1.leases;
        for restored in &boards {
            assert_eq!(content(restored), expected);
        }
        boards.push(restored(&whole));
        assert_eq!(content(boards.last().unwrap()), expected);
    }
    assert!(busy > 0, "the history has no lease at any of the cuts");
}
