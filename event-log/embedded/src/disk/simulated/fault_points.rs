//! Fault points: a kind of call on a kind of file, and the faults that can be injected there.

use std::ops::BitOrAssign;

use super::FaultKind;

/// The number of kinds of disk faults. A panic is not a disk fault.
const FAULT_KINDS: usize = 4;

const ACTIONS: [&str; 11] = [
    "list",
    "open",
    "create",
    "rename",
    "remove",
    "sync",
    "get the free space of",
    "get the length of",
    "read",
    "write",
    "allocate space for",
];

/// The number of kinds of files, which are distinguished by name.
const FILES: usize = 11;

/// The points that were reached, and the faults that were injected at them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultPoints {
    reached: u128,
    injected: [u128; FAULT_KINDS],
}

impl FaultPoints {
    pub(super) fn reach(&mut self, action: &str, file: &str) {
        self.reached |= bit(action, file);
    }

    pub(super) fn inject(&mut self, action: &str, file: &str, kind: FaultKind) {
        let kind = match kind {
            FaultKind::PowerCut => 0,
            FaultKind::Error => 1,
            FaultKind::Full => 2,
            FaultKind::NoSpace => 3,
            FaultKind::Panic => return,
        };
        self.injected[kind] |= bit(action, file);
    }

    /// The number of points: each kind of call that was made, with each kind of fault.
    pub fn total(self) -> u32 {
        self.reached.count_ones() * FAULT_KINDS as u32
    }

    /// The number of points at which a fault was injected.
    pub fn hit(self) -> u32 {
        self.injected.iter().map(|injected| (injected & self.reached).count_ones()).sum()
    }
}

impl BitOrAssign for FaultPoints {
    fn bitor_assign(&mut self, other: Self) {
        self.reached |= other.reached;
        for (injected, other) in self.injected.iter_mut().zip(other.injected) {
            *injected |= other;
        }
    }
}

fn bit(action: &str, file: &str) -> u128 {
    let action = ACTIONS.iter().position(|known| *known == action).unwrap_or(0);
    1 << (action * FILES + kind(file))
}

fn kind(file: &str) -> usize {
    let is_quarantined = file.contains('/');
    match file {
        "the folder" => 0,
        _ if file.ends_with(".segment") => {
            if is_quarantined {
                1
            } else {
                2
            }
        }
        _ if file.ends_with(".index") => 3,
        _ if file.ends_with(".index.tmp") => 4,
        "log.json" | "log.json.tmp" => 5,
        "next.tmp" => 6,
        "repair.json" | "repair.json.tmp" => 7,
        "log.head" | "log.head.tmp" => 10,
        _ if is_quarantined => 8,
        // The bytes of a truncated write.
        _ => 9,
    }
}
