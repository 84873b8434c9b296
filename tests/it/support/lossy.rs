//! A file system in memory that forgets what was not synced when its power fails, as a mounted folder.
//!
//! Every file has a live image and the writes since its last sync, every folder live names and the changes since its last
//! sync. A power cut keeps of each sector the state after any of those writes, and of the names any of those changes, drawn by
//! lot. It is harsher than most real file systems, which keep the order of names and write a new file's name with its content.

mod mount;

use std::collections::BTreeMap;

pub(crate) use mount::Mount;

use super::load::Dice;

/// What a disk writes whole or not at all.
const SECTOR_BYTES: u64 = 512;
/// What the file system says is free.
const CAPACITY_BYTES: u64 = 8 << 30;

const ROOT: u64 = 1;

/// Which calls can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Write,
    Sync,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Of a sync: what it should have kept is forgotten, and the next sync knows nothing of it. That is what Linux does.
    Io,
    NoSpace,
    /// From this call on, whatever changes something fails.
    ReadOnly,
}

/// A failure that is to come at the nth call to files of a name.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub(crate) call: Call,
    pub(crate) suffix: &'static str,
    pub(crate) nth: u64,
    pub(crate) failure: Failure,
}

#[derive(Debug)]
struct Files {
    nodes: BTreeMap<u64, Node>,
    next: u64,
    /// Names by folder and name: what is there, and what is durable.
    names: BTreeMap<(u64, String), u64>,
    durable_names: BTreeMap<(u64, String), u64>,
    unsynced: Vec<NameChange>,
    powered: bool,
    read_only: bool,
    planned: Option<Planned>,
    met: u64,
    dice: Dice,
}

#[derive(Debug, Default)]
struct Node {
    is_folder: bool,
    mode: u16,
    live: Vec<u8>,
    durable: Vec<u8>,
    /// Since the last sync, in their order.
    changes: Vec<Change>,
}

#[derive(Debug)]
enum Change {
    Written { offset: u64, bytes: Vec<u8> },
    Resized(u64),
}

#[derive(Clone, Debug)]
enum NameChange {
    Made { at: (u64, String), node: u64 },
    Moved { from: (u64, String), to: (u64, String), node: u64 },
    Removed { at: (u64, String) },
}

impl NameChange {
    fn touches(&self, folder: u64) -> bool {
        match self {
            Self::Made { at, .. } | Self::Removed { at } => at.0 == folder,
            Self::Moved { from, to, .. } => from.0 == folder || to.0 == folder,
        }
    }

    fn apply(self, names: &mut BTreeMap<(u64, String), u64>) {
        match self {
            Self::Made { at, node } => {
                names.insert(at, node);
            }
            Self::Moved { from, to, node } => {
                if names.get(&from) == Some(&node) {
                    names.remove(&from);
                    names.insert(to, node);
                }
            }
            Self::Removed { at } => {
                names.remove(&at);
            }
        }
    }
}

impl Node {
    fn write(&mut self, offset: u64, bytes: &[u8]) {
        put(&mut self.live, offset, bytes);
        self.changes.push(Change::Written { offset, bytes: bytes.to_vec() });
    }

    fn resize(&mut self, len: u64) {
        self.live.resize(len as usize, 0);
        self.changes.push(Change::Resized(len));
    }

    fn sync(&mut self) {
        for change in std::mem::take(&mut self.changes) {
            match change {
                // Not all that is live: what an earlier sync failed to keep stays lost.
                Change::Written { offset, bytes } => put(&mut self.durable, offset, &bytes),
                Change::Resized(len) => self.durable.resize(len as usize, 0),
            }
        }
    }

    /// What is left if the power fails: of each sector the state after any of the changes, and likewise the length.
    fn torn(&mut self, dice: &mut Dice) -> Vec<u8> {
        let mut lengths = vec![self.durable.len() as u64];
        for change in &self.changes {
            let before = *lengths.last().unwrap();
            lengths.push(match change {
                Change::Written { offset, bytes } => before.max(offset + bytes.len() as u64),
                Change::Resized(len) => *len,
            });
        }
        let mut torn = self.durable.clone();
        let mut sectors: BTreeMap<u64, u64> = BTreeMap::new();
        let touched = |change: &Change| match change {
            Change::Written { offset, bytes } if !bytes.is_empty() => {
                offset / SECTOR_BYTES..(offset + bytes.len() as u64).div_ceil(SECTOR_BYTES)
            }
            _ => 0..0,
        };
        for sector in self.changes.iter().flat_map(touched) {
            *sectors.entry(sector).or_insert(0) += 1;
        }
        for (sector, count) in sectors {
            let kept = dice.below(count + 1);
            let here = self.changes.iter().filter(|change| touched(change).contains(&sector));
            for change in here.take(kept as usize) {
                let Change::Written { offset, bytes } = change else { continue };
                let start = (sector * SECTOR_BYTES).max(*offset);
                let end = ((sector + 1) * SECTOR_BYTES).min(offset + bytes.len() as u64);
                put(&mut torn, start, &bytes[(start - offset) as usize..(end - offset) as usize]);
            }
        }
        torn.resize(lengths[dice.below(lengths.len() as u64) as usize] as usize, 0);
        torn
    }
}

fn put(image: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let (start, end) = (offset as usize, offset as usize + bytes.len());
    if image.len() < end {
        image.resize(end, 0);
    }
    image[start..end].copy_from_slice(bytes);
}

impl Files {
    fn new(seed: u64) -> Self {
        let root = Node { is_folder: true, mode: 0o755, ..Node::default() };
        Self {
            nodes: BTreeMap::from([(ROOT, root)]),
            next: ROOT + 1,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            unsynced: Vec::new(),
            powered: true,
            read_only: false,
            planned: None,
            met: 0,
            dice: Dice(seed),
        }
    }

    /// The planned failure, if this is the call for it.
    fn fails(&mut self, call: Call, node: u64) -> Option<Failure> {
        if self.read_only {
            return Some(Failure::ReadOnly);
        }
        let planned = self.planned.as_mut().filter(|planned| planned.call == call)?;
        let named = self.names.iter().any(|((_, name), of)| *of == node && name.ends_with(planned.suffix));
        planned.nth -= u64::from(named);
        if planned.nth > 0 || !named {
            return None;
        }
        let failure = planned.failure;
        self.planned = None;
        self.met += 1;
        self.read_only = failure == Failure::ReadOnly;
        if call == Call::Sync && failure == Failure::Io {
            // Some sectors may have reached the disk; none will be tried again.
            let node = self.nodes.get_mut(&node)?;
            node.durable = node.torn(&mut self.dice);
            node.changes.clear();
        }
        Some(failure)
    }

    fn make(&mut self, folder: u64, name: &str, is_folder: bool, mode: u16) -> u64 {
        let number = self.next;
        self.next += 1;
        self.nodes.insert(number, Node { is_folder, mode, ..Node::default() });
        self.names.insert((folder, name.to_owned()), number);
        self.unsynced.push(NameChange::Made { at: (folder, name.to_owned()), node: number });
        number
    }

    fn rename(&mut self, from: (u64, String), to: (u64, String)) -> bool {
        let Some(node) = self.names.remove(&from) else { return false };
        self.names.insert(to.clone(), node);
        self.unsynced.push(NameChange::Moved { from, to, node });
        true
    }

    fn remove(&mut self, at: (u64, String)) -> bool {
        let was = self.names.remove(&at).is_some();
        self.unsynced.push(NameChange::Removed { at });
        was
    }

    fn sync_names(&mut self, folder: u64) {
        let (synced, unsynced): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.unsynced).into_iter().partition(|change| change.touches(folder));
        self.unsynced = unsynced;
        for change in synced {
            change.apply(&mut self.durable_names);
        }
        self.durable_names.retain(|(within, _), _| *within != folder);
        let live = self.names.iter().filter(|((within, _), _)| *within == folder);
        self.durable_names.extend(live.map(|(at, node)| (at.clone(), *node)));
    }

    /// Leaves what is durable, and some of the rest by lot.
    fn lose_power(&mut self) {
        let mut names = std::mem::take(&mut self.durable_names);
        for change in std::mem::take(&mut self.unsynced) {
            if self.dice.below(2) == 0 {
                change.apply(&mut names);
            }
        }
        // Without its folder nothing can be found.
        loop {
            let reachable: Vec<u64> = names.values().copied().chain([ROOT]).collect();
            let before = names.len();
            names.retain(|(folder, _), _| reachable.contains(folder));
            if names.len() == before {
                break;
            }
        }
        self.nodes.retain(|number, _| *number == ROOT || names.values().any(|named| named == number));
        for node in self.nodes.values_mut() {
            let left = node.torn(&mut self.dice);
            *node = Node { live: left.clone(), durable: left, changes: Vec::new(), ..*node };
        }
        self.names.clone_from(&names);
        self.durable_names = names;
        (self.powered, self.read_only, self.planned) = (true, false, None);
    }
}
