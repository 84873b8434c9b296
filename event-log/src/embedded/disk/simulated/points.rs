//! Fault points: a kind of call on a kind of file, and what can come at it.

use std::ops::BitOrAssign;

use super::Trouble;

/// What can come at a call, but for a panic, which is no fault of a disk.
const TROUBLES: usize = 4;

const ACTIONS: [&str; 11] = [
    "list",
    "open",
    "create",
    "rename",
    "remove",
    "sync",
    "ask for the free space of",
    "ask for the length of",
    "read",
    "write",
    "allocate room for",
];

/// Kinds of files, told by their names: of segments, of their index files, what is on its way to be one or the other, and so on.
const FILES: usize = 10;

/// Which points were passed, and which of them were met by which trouble.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Points {
    passed: u128,
    met: [u128; TROUBLES],
}

impl Points {
    pub(super) fn call(&mut self, action: &str, file: &str) {
        self.passed |= bit(action, file);
    }

    pub(super) fn meet(&mut self, action: &str, file: &str, trouble: Trouble) {
        let kind = match trouble {
            Trouble::PowerCut => 0,
            Trouble::Error => 1,
            Trouble::Full => 2,
            Trouble::NoRoom => 3,
            Trouble::Panic => return,
        };
        self.met[kind] |= bit(action, file);
    }

    /// How many points there are: each kind of call that was made, by each trouble.
    pub fn all(self) -> u32 {
        self.passed.count_ones() * TROUBLES as u32
    }

    /// How many of them were met.
    pub fn hit(self) -> u32 {
        self.met.iter().map(|met| (met & self.passed).count_ones()).sum()
    }
}

impl BitOrAssign for Points {
    fn bitor_assign(&mut self, other: Self) {
        self.passed |= other.passed;
        for (met, other) in self.met.iter_mut().zip(other.met) {
            *met |= other;
        }
    }
}

fn bit(action: &str, file: &str) -> u128 {
    let action = ACTIONS.iter().position(|known| *known == action).unwrap_or(0);
    1 << (action * FILES + kind(file))
}

fn kind(file: &str) -> usize {
    let is_aside = file.contains('/');
    match file {
        "the folder" => 0,
        _ if file.ends_with(".segment") => {
            if is_aside {
                1
            } else {
                2
            }
        }
        _ if file.ends_with(".index") => 3,
        _ if file.ends_with(".index.tmp") => 4,
        "log.json" | "log.json.tmp" => 5,
        "room.tmp" => 6,
        "repair.json" | "repair.json.tmp" => 7,
        _ if is_aside => 8,
        // What a start cuts off.
        _ => 9,
    }
}
